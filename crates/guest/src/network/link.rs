//! Interfaces, addresses and routes, as values and as requests to the kernel.
//!
//! Source: kernel, `include/uapi/linux/{if_link,if_addr,rtnetlink,fib_rules}.h`.

use std::net::Ipv4Addr;

use super::dhcp::Route;
use super::netlink::{CREATE, DUMP, Message, REPLACE, Request, attributes, u16_at, u32_at};

/// Group of events about interfaces (`RTMGRP_LINK`).
pub const EVENTS: u32 = 1;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;

/// `AF_INET`.
const INET: u8 = 2;
/// `IFF_UP`.
const UP: u32 = 1;
/// `IFF_LOWER_UP`: the cable is plugged in.
const LOWER_UP: u32 = 1 << 16;
/// `struct ifinfomsg`.
const LINK_HEAD: usize = 16;

/// `RTPROT_DHCP`.
const BY_DHCP: u8 = 16;
/// `RT_TABLE_MAIN`.
const MAIN: u8 = 254;
/// A table of our own; the port of those who ask for addresses is its number.
const OPEN: u8 = 68;
/// `RTNH_F_ONLINK`: the router is on this link, though no address says so.
const ON_LINK: u32 = 4;

/// What kind of interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine itself.
    Loopback,
    /// Anything with Ethernet addresses.
    Ethernet([u8; 6]),
    /// Something that nobody here configures.
    Other,
}

/// What the kernel tells of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What kind.
    pub kind: Kind,
    /// Whether it is switched on.
    pub on: bool,
    /// Whether frames can pass.
    pub carrier: bool,
    /// Whether it is gone.
    pub gone: bool,
}

impl Link {
    /// Reads an event.
    pub fn parse(message: &Message<'_>) -> Option<Self> {
        let gone = match message.kind {
            NEW_LINK => false,
            DELETE_LINK => true,
            _ => return None,
        };
        let kind = u16_at(message.body, 2)?;
        let (index, flags) = (u32_at(message.body, 4)?, u32_at(message.body, 8)?);
        let (mut name, mut hardware) = (None, None);
        for (kind, value) in attributes(message.body.get(LINK_HEAD..)?) {
            match kind {
                1 => hardware = <[u8; 6]>::try_from(value).ok(),
                3 => name = std::str::from_utf8(value).ok().map(|name| name.trim_end_matches('\0').to_owned()),
                _ => {}
            }
        }
        let kind = match (kind, hardware) {
            (772, _) => Kind::Loopback,
            (1, Some(hardware)) => Kind::Ethernet(hardware),
            _ => Kind::Other,
        };
        let on = flags & UP != 0;
        Some(Self { index, name: name?, kind, on, carrier: on && flags & LOWER_UP != 0, gone })
    }
}

/// Asks for events about all interfaces that there are.
pub fn tell_all() -> Request {
    Request::new(GET_LINK, DUMP, &[0; LINK_HEAD])
}

/// Switches an interface on.
pub fn switch_on(index: u32) -> Request {
    Request::new(NEW_LINK, 0, &link(index, UP))
}

/// Sets the longest packet of an interface.
pub fn set_mtu(index: u32, mtu: u16) -> Request {
    Request::new(NEW_LINK, 0, &link(index, 0)).with(4, &u32::from(mtu).to_ne_bytes())
}

fn link(index: u32, flags: u32) -> Vec<u8> {
    [0, index, flags, flags].map(u32::to_ne_bytes).concat()
}

/// Gives an interface an address.
pub fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    let request = one_address(NEW_ADDRESS, CREATE | REPLACE, index, address, prefix);
    match u32::MAX.checked_shr(prefix.into()) {
        // Nets of one or two machines have no broadcast address.
        Some(hosts) if prefix < 31 => request.with(4, &(address.to_bits() | hosts).to_be_bytes()),
        _ => request,
    }
}

/// Takes an address away, and with it the routes that leave from it.
pub fn remove_address(index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    one_address(DELETE_ADDRESS, 0, index, address, prefix)
}

fn one_address(kind: u16, flags: u16, index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    let mut head = vec![INET, prefix, 0, 0];
    head.extend(index.to_ne_bytes());
    Request::new(kind, flags, &head).with(2, &address.octets()).with(1, &address.octets())
}

/// Adds a route that leaves from `from`, an address of this interface whose net has `prefix` bits.
pub fn add_route(index: u32, route: &Route, from: Ipv4Addr, prefix: u8) -> Request {
    let near = route.via.is_none_or(|via| is_within(via, from, prefix));
    let scope = if route.via.is_none() { 253 } else { 0 };
    let mut head = vec![INET, route.prefix, 0, 0, MAIN, BY_DHCP, scope, 1];
    head.extend(if near { 0 } else { ON_LINK }.to_ne_bytes());
    let mut request = Request::new(NEW_ROUTE, CREATE | REPLACE, &head);
    if route.prefix > 0 {
        request = request.with(1, &route.to.octets());
    }
    if let Some(via) = route.via {
        request = request.with(5, &via.octets());
    }
    // Each interface has a rank of its own: two with a way to everywhere do not overwrite each other's.
    let rank = 1_024u32.saturating_add(index);
    request.with(4, &index.to_ne_bytes()).with(6, &rank.to_ne_bytes()).with(7, &from.octets())
}

fn is_within(one: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> bool {
    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    (one.to_bits() ^ other.to_bits()) & !host == 0
}

/// Lets an interface take packets for any address, as one without an address must: servers may send the offer to the address that they offer.
pub fn open_for_any(name: &str) -> [Request; 2] {
    let mut head = vec![INET, 0, 0, 0, OPEN, BY_DHCP, 254, 2]; // a local address, of this host only
    head.extend([0; 4]);
    let everything_is_here = Request::new(NEW_ROUTE, CREATE | REPLACE, &head).with(4, &1u32.to_ne_bytes());
    [everything_is_here, rule(NEW_RULE, CREATE, name)]
}

/// Ends what [`open_for_any`] began.
pub fn close_for_any(name: &str) -> Request {
    rule(DELETE_RULE, 0, name)
}

/// What comes in on this interface looks into the table of our own.
fn rule(kind: u16, flags: u16, name: &str) -> Request {
    let mut head = vec![INET, 0, 0, 0, OPEN, 0, 0, 1];
    head.extend([0; 4]);
    let name: Vec<u8> = name.bytes().chain([0]).collect();
    Request::new(kind, flags, &head).with(3, &name).with(6, &u32::from(OPEN).to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::netlink::Message;
    use super::{Kind, Link, is_within};

    fn event(kind: u16, hardware: u16, flags: u32) -> Vec<u8> {
        let mut body = vec![0, 0];
        body.extend(hardware.to_ne_bytes());
        body.extend([2u32, flags, 0].map(u32::to_ne_bytes).concat());
        body.extend([9, 0, 3, 0].iter().chain(b"eth0\0").chain(&[0; 3]));
        body.extend([10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0]);
        assert!(kind > 0);
        body
    }

    #[test]
    fn interfaces_are_read() {
        let parse =
            |kind, hardware, flags| Link::parse(&Message { kind, sequence: 0, body: &event(kind, hardware, flags) });
        let link = parse(16, 1, 0x1_0043).unwrap();
        let expected = Link {
            index: 2,
            name: "eth0".into(),
            kind: Kind::Ethernet([2, 0, 0, 0, 0, 1]),
            on: true,
            carrier: true,
            gone: false,
        };
        assert_eq!(link, expected);
        assert!(!parse(16, 1, 3).unwrap().carrier);
        assert!(parse(17, 1, 0).unwrap().gone);
        assert_eq!(parse(16, 772, 0).unwrap().kind, Kind::Loopback);
        assert_eq!(parse(16, 776, 0).unwrap().kind, Kind::Other);
        assert_eq!(parse(20, 1, 0), None);
    }

    #[test]
    fn nets_are_told_apart() {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        assert!(is_within(address(1), address(9), 24) && !is_within(address(1), address(9), 32));
        assert!(is_within(Ipv4Addr::new(1, 2, 3, 4), address(9), 0));
    }
}
