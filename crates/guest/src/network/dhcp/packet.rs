//! The packets of DHCP for IPv4.
//!
//! Promises: whatever bytes arrive, reading ends, within memory of the packet's own size; what does not fit together is no reply. Numbers
//! that would harm (nets of everything, addresses that no host may have, spans of no length) are not passed on.
//! Source: RFC 2131, RFC 2132, RFC 3396 (long options), RFC 3442 (classless routes).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What may arrive: more than any Ethernet packet.
pub const MAX: usize = 2_048;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where options begin: after the fixed part and the cookie.
const OPTIONS: usize = 240;
/// Servers of old refuse less.
const LEAST: usize = 300;

const MAX_ROUTES: usize = 32;
const MAX_RESOLVERS: usize = 3;
/// A lease shorter than this would have the machine do nothing but renew it.
const SHORTEST: Duration = Duration::from_secs(20);

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To all servers: who has an address?
    Discover,
    /// May I have it, or keep it?
    Request,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Request => 3,
        }
    }
}

/// A way to other machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: Ipv4Addr,
    /// Bits of the net.
    pub prefix: u8,
    /// Over which router; without one, they are on the link.
    pub via: Option<Ipv4Addr>,
}

/// An address and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its net.
    pub prefix: u8,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// Ways to elsewhere.
    pub routes: Vec<Route>,
    /// Name servers.
    pub resolvers: Vec<Ipv4Addr>,
    /// Where short names are looked for.
    pub domain: Option<String>,
    /// What this machine is called.
    pub hostname: Option<String>,
    /// The longest packet.
    pub mtu: Option<u16>,
    /// How long it is ours; `None` for ever.
    pub span: Option<Duration>,
    /// When its server is asked again.
    pub renew: Duration,
    /// When any server is asked.
    pub rebind: Duration,
}

/// A message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An address that can be asked for.
    Offer {
        /// The address.
        address: Ipv4Addr,
        /// Whose offer.
        server: Ipv4Addr,
    },
    /// The address is ours.
    Acknowledge(Box<Lease>),
    /// It is not.
    Refuse {
        /// Who says so.
        server: Option<Ipv4Addr>,
    },
}

/// Reads a reply to the question of this number from this interface.
pub fn read(bytes: &[u8], number: u32, hardware: [u8; 6]) -> Option<Reply> {
    let fixed: &[u8; OPTIONS] = bytes.first_chunk()?;
    let for_us = fixed[..3] == [2, 1, 6] && fixed[4..8] == number.to_be_bytes() && fixed[28..34] == hardware;
    if bytes.len() > MAX || !for_us || fixed[236..] != COOKIE {
        return None;
    }
    let options = Options::read(bytes);
    let server = options.address(54);
    let address = address_at(&fixed[16..20])?;
    match options.first(53)? {
        2 => Some(Reply::Offer { address: host(address)?, server: server? }),
        5 => Some(Reply::Acknowledge(Box::new(lease(
            host(address)?,
            server.or(address_at(&fixed[20..24]).and_then(host))?,
            &options,
        )?))),
        6 => Some(Reply::Refuse { server }),
        _ => None,
    }
}

fn lease(address: Ipv4Addr, server: Ipv4Addr, options: &Options) -> Option<Lease> {
    let prefix = match options.number(1) {
        Some(mask) => prefix(mask)?,
        None => natural_prefix(address),
    };
    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let own = address.to_bits() & hosts;
    if prefix < 31 && (own == 0 || own == hosts) {
        return None; // the address of the net, or of everybody in it
    }
    let span = options.number(51).filter(|&seconds| seconds != u32::MAX).map(seconds).map(|span| span.max(SHORTEST));
    let (renew, rebind) = spans(span, options.number(58).map(seconds), options.number(59).map(seconds));
    Some(Lease {
        address,
        prefix,
        server,
        routes: routes(options),
        resolvers: options.addresses(6).filter_map(host).take(MAX_RESOLVERS).collect(),
        domain: options.name(15),
        hostname: options.name(12),
        // RFC 791: everybody takes as much.
        mtu: options.number16(26).filter(|mtu| *mtu >= 576),
        span,
        renew,
        rebind,
    })
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// When to renew and when to rebind: as the server says if that is in order, else at half and at seven eighths.
fn spans(span: Option<Duration>, renew: Option<Duration>, rebind: Option<Duration>) -> (Duration, Duration) {
    let Some(span) = span else { return (Duration::MAX, Duration::MAX) };
    let least = SHORTEST / 2;
    match (renew.unwrap_or(span / 2), rebind.unwrap_or(span / 8 * 7)) {
        (renew, rebind) if least <= renew && renew < rebind && rebind < span => (renew, rebind),
        _ => (span / 2, span / 8 * 7),
    }
}

/// Classless routes; only where there are none, the first router.
fn routes(options: &Options) -> Vec<Route> {
    match options.get(121).map(classless) {
        Some(Some(routes)) => routes,
        _ => {
            let router = options.addresses(3).find_map(host);
            router.map(|via| Route { to: Ipv4Addr::UNSPECIFIED, prefix: 0, via: Some(via) }).into_iter().collect()
        }
    }
}

fn classless(mut bytes: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = bytes.split_first() {
        let (net, rest) = rest.split_at_checked(usize::from(prefix.div_ceil(8)))?;
        let (via, rest) = rest.split_first_chunk::<4>()?;
        if prefix > 32 || routes.len() == MAX_ROUTES {
            return None;
        }
        let mut to = [0; 4];
        to[..net.len()].copy_from_slice(net);
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let via = Ipv4Addr::from(*via);
        let via = if via.is_unspecified() { None } else { Some(host(via)?) };
        routes.push(Route { to: Ipv4Addr::from_bits(u32::from_be_bytes(to) & !hosts), prefix, via });
        bytes = rest;
    }
    (!routes.is_empty()).then_some(routes)
}

fn prefix(mask: u32) -> Option<u8> {
    let ones = mask.leading_ones();
    let whole = mask.count_ones() == ones;
    u8::try_from(ones).ok().filter(|&prefix| whole && prefix > 0)
}

/// As it was before masks: by the first bits.
fn natural_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// The address if one host may have it.
fn host(address: Ipv4Addr) -> Option<Ipv4Addr> {
    let first = address.octets()[0];
    (!matches!(first, 0 | 127 | 224..)).then_some(address)
}

fn address_at(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?))
}

/// The options of a packet; those that stand several times are one.
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    fn read(bytes: &[u8]) -> Self {
        let mut options = Self(BTreeMap::new());
        options.collect(&bytes[OPTIONS..]);
        // They may go on in the fields for a file (1) and for a name (2), which nobody needs any more.
        let more = options.first(52).unwrap_or(0);
        for (bit, field) in [(1, 108..236), (2, 44..108)] {
            if more & bit != 0 {
                options.collect(&bytes[field]);
            }
        }
        options
    }

    fn collect(&mut self, mut bytes: &[u8]) {
        while let Some((&code, rest)) = bytes.split_first() {
            match code {
                0 => bytes = rest,
                255 => return,
                _ => {
                    let Some((&length, rest)) = rest.split_first() else { return };
                    let Some((value, rest)) = rest.split_at_checked(length.into()) else { return };
                    self.0.entry(code).or_default().extend(value);
                    bytes = rest;
                }
            }
        }
    }

    fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    fn first(&self, code: u8) -> Option<u8> {
        self.get(code)?.first().copied()
    }

    fn number(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(code)?.try_into().ok()?))
    }

    fn number16(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(code)?.try_into().ok()?))
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.addresses(code).next().and_then(host)
    }

    fn addresses(&self, code: u8) -> impl Iterator<Item = Ipv4Addr> {
        self.get(code).unwrap_or_default().chunks_exact(4).filter_map(address_at)
    }

    /// A name that can be shown and written into files: labels of letters, digits and dashes.
    fn name(&self, code: u8) -> Option<String> {
        let text = std::str::from_utf8(self.get(code)?).ok()?.trim_end_matches(['\0', '.']);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        (text.len() <= 253 && text.split('.').all(is_label)).then(|| text.to_owned())
    }
}

/// A question of a client.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What it asks.
    pub kind: Kind,
    /// Its number; replies repeat it.
    pub number: u32,
    /// How long it has been asking.
    pub since: Duration,
    /// The interface.
    pub hardware: [u8; 6],
    /// What the machine calls itself.
    pub hostname: &'a str,
    /// The address that it has.
    pub own: Option<Ipv4Addr>,
    /// The address that it wants, and from whom.
    pub wanted: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Question<'_> {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        let since = u16::try_from(self.since.as_secs()).unwrap_or(u16::MAX);
        bytes[8..10].copy_from_slice(&since.to_be_bytes());
        match self.own {
            Some(own) => bytes[12..16].copy_from_slice(&own.octets()),
            None => bytes[10] = 0x80, // answer to everybody: the address is not ours yet
        }
        bytes[28..34].copy_from_slice(&self.hardware);
        bytes[236..].copy_from_slice(&COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            bytes.push(code);
            bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            bytes.extend(value);
        };
        option(53, &[self.kind.number()]);
        option(61, &[&[1], &self.hardware[..]].concat());
        if let Some((address, server)) = self.wanted {
            option(50, &address.octets());
            option(54, &server.octets());
        }
        option(57, &1_500u16.to_be_bytes());
        if (1..=63).contains(&self.hostname.len()) {
            option(12, self.hostname.as_bytes());
        }
        option(55, &[1, 3, 6, 12, 15, 26, 51, 54, 58, 59, 121]);
        bytes.push(255);
        bytes.resize(bytes.len().max(LEAST), 0);
        bytes
    }
}

#[cfg(test)]
pub mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Kind, Lease, MAX, OPTIONS, Options, Question, Reply, Route, read, spans};

    pub const HARDWARE: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    /// A reply as a server writes it.
    pub fn reply(kind: u8, number: u32, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        bytes[16..20].copy_from_slice(&ADDRESS.octets());
        bytes[28..34].copy_from_slice(&HARDWARE);
        bytes[236..].copy_from_slice(&super::COOKIE);
        bytes.extend([53, 1, kind]);
        for (code, value) in options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(*value);
        }
        bytes.push(255);
        bytes
    }

    fn lease(options: &[(u8, &[u8])]) -> Option<Lease> {
        let server = SERVER.octets();
        let options = [&[(54, &server[..])], options].concat();
        match read(&reply(5, 7, &options), 7, HARDWARE)? {
            Reply::Acknowledge(lease) => Some(*lease),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_acknowledgement_is_read_whole() {
        let given = lease(&[
            (1, &[255, 255, 255, 0]),
            (3, &[10, 0, 2, 2]),
            (6, &[10, 0, 2, 3, 0, 0, 0, 0]),
            (12, b"wine\0"),
            (15, b"example.org"),
            (26, &1_460u16.to_be_bytes()),
            (51, &86_400u32.to_be_bytes()),
        ]);
        let expected = Lease {
            address: ADDRESS,
            prefix: 24,
            server: SERVER,
            routes: vec![Route { to: Ipv4Addr::UNSPECIFIED, prefix: 0, via: Some(SERVER) }],
            resolvers: vec![Ipv4Addr::new(10, 0, 2, 3)],
            domain: Some("example.org".into()),
            hostname: Some("wine".into()),
            mtu: Some(1_460),
            span: Some(Duration::from_secs(86_400)),
            renew: Duration::from_secs(43_200),
            rebind: Duration::from_secs(75_600),
        };
        assert_eq!(given, Some(expected));
    }

    #[test]
    fn classless_routes_stand_instead_of_routers() {
        // As a cloud gives them to an address in a net of its own.
        let routes = [32, 10, 0, 2, 1, 0, 0, 0, 0, 0, 10, 0, 2, 1];
        let given = lease(&[(1, &[255; 4]), (3, &[10, 0, 2, 2]), (121, &routes)]).unwrap();
        let router = Ipv4Addr::new(10, 0, 2, 1);
        let expected = [
            Route { to: router, prefix: 32, via: None },
            Route { to: Ipv4Addr::UNSPECIFIED, prefix: 0, via: Some(router) },
        ];
        assert_eq!((given.prefix, given.routes.as_slice()), (32, &expected[..]));
        for broken in [&[33, 1, 2, 3, 4, 5, 6, 7, 8, 9][..], &[24, 10, 0], &[8, 10, 1, 2, 3], &[0, 127, 0, 0, 1]] {
            assert_eq!(lease(&[(3, &[10, 0, 2, 2]), (121, broken)]).unwrap().routes[0].via, Some(SERVER));
        }
        let many = [32, 10, 0, 2, 1, 0, 0, 0, 0].repeat(25);
        assert_eq!(lease(&[(121, &many)]).unwrap().routes.len(), 25);
        assert!(lease(&[(121, &many), (121, &many)]).unwrap().routes.is_empty());
    }

    #[test]
    fn what_would_harm_is_refused() {
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = reply(5, 7, &[(54, &SERVER.octets()), (1, &[255, 255, 255, 0])]);
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            read(&packet, 7, HARDWARE)
        };
        assert!(with(16, &[10, 0, 2, 15]).is_some());
        for address in
            [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [10, 0, 2, 0], [10, 0, 2, 255]]
        {
            assert_eq!(with(16, &address), None, "{address:?}");
        }
        for (at, other) in [(0, 1), (1, 2), (2, 16), (4, 9), (28, 9), (236, 0)] {
            assert_eq!(with(at, &[other]), None, "byte {at}");
        }
        for mask in [[0, 0, 0, 0], [255, 0, 255, 0], [0, 0, 0, 255]] {
            assert_eq!(lease(&[(1, &mask)]), None);
        }
        for name in ["a b", "-a", "a-", "a..b", "", "ä", "a\nnameserver 6.6.6.6", &"a".repeat(64)] {
            assert_eq!(lease(&[(12, name.as_bytes())]).unwrap().hostname, None, "{name}");
        }
        assert_eq!(lease(&[(26, &[0, 68])]).unwrap().mtu, None);
        assert_eq!(read(&reply(2, 7, &[]), 7, HARDWARE), None, "an offer of nobody");
        assert_eq!(read(&[reply(5, 7, &[(54, &SERVER.octets())]), vec![0; MAX]].concat(), 7, HARDWARE), None);
    }

    #[test]
    fn spans_stay_in_order() {
        let spans = |span, renew, rebind| {
            let seconds = |value: Option<u64>| value.map(Duration::from_secs);
            let (renew, rebind) = spans(seconds(span), seconds(renew), seconds(rebind));
            (renew.as_secs(), rebind.as_secs())
        };
        assert_eq!(spans(Some(3_600), None, None), (1_800, 3_150));
        assert_eq!(spans(Some(3_600), Some(600), Some(1_200)), (600, 1_200));
        for (renew, rebind) in [(1_200, 600), (0, 600), (600, 3_600), (600, 9_000), (5, 600)] {
            assert_eq!(spans(Some(3_600), Some(renew), Some(rebind)), (1_800, 3_150));
        }
        assert_eq!(lease(&[(51, &[0; 4])]).unwrap().span, Some(Duration::from_secs(20)));
        assert_eq!(lease(&[(51, &[255; 4])]).unwrap().span, None);
    }

    #[test]
    fn options_go_on_in_other_fields_and_in_pieces() {
        let mut packet = reply(5, 7, &[(54, &SERVER.octets()), (52, &[3]), (12, b"wi")]);
        packet[108..113].copy_from_slice(&[12, 2, b'n', b'e', 255]);
        packet[44..51].copy_from_slice(&[1, 4, 255, 255, 0, 0, 255]);
        let Some(Reply::Acknowledge(lease)) = read(&packet, 7, HARDWARE) else { panic!() };
        assert_eq!((lease.hostname.as_deref(), lease.prefix), (Some("wine"), 16));
    }

    #[test]
    fn questions_say_who_asks_for_what() {
        let question = Question {
            kind: Kind::Request,
            number: 7,
            since: Duration::from_secs(3),
            hardware: HARDWARE,
            hostname: "wine",
            own: None,
            wanted: Some((ADDRESS, SERVER)),
        };
        let bytes = question.write();
        assert_eq!((bytes.len(), &bytes[..3], bytes[10]), (300, &[1, 1, 6][..], 0x80));
        let options = Options::read(&bytes);
        assert_eq!(
            (options.first(53), options.address(50), options.address(54)),
            (Some(3), Some(ADDRESS), Some(SERVER))
        );
        assert_eq!(
            (options.name(12).as_deref(), options.get(61)),
            (Some("wine"), Some(&[1, 0x52, 0x54, 0, 0x12, 0x34, 0x56][..]))
        );
        let bytes = Question { own: Some(ADDRESS), wanted: None, ..question }.write();
        assert_eq!((bytes[10], &bytes[12..16]), (0, &ADDRESS.octets()[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes, 7, HARDWARE);
        }

        #[test]
        fn any_options_give_a_lease_in_order(options in proptest::collection::vec(any::<u8>(), 0..400), overload in 0..4u8) {
            let mut packet = reply(5, 7, &[(54, &SERVER.octets()), (52, &[overload])]);
            packet.pop();
            packet.extend(options);
            if let Some(Reply::Acknowledge(lease)) = read(&packet, 7, HARDWARE) {
                prop_assert!((1..=32).contains(&lease.prefix));
                prop_assert!(lease.renew <= lease.rebind && lease.span.is_none_or(|span| lease.rebind < span));
                prop_assert!(lease.routes.len() <= super::MAX_ROUTES && lease.resolvers.len() <= super::MAX_RESOLVERS);
            }
        }
    }
}
