//! Session keys in a request: cookies, what another gateway carried, the caller's address.
//!
//! Promises: nothing is copied. `X-Forwarded-For` is believed only from this machine, and only as far as this machine wrote it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};

use super::COOKIE;
use crate::baggage;
use crate::headers;

/// Values of the cookies of this name, in order; empty ones are left out. HTTP/2 callers may send several fields.
pub fn cookies<'a>(map: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let pairs = map.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let value = pair[equals + 1..].trim_ascii();
        (pair[..equals].trim_ascii() == name && !value.is_empty()).then_some(value)
    })
}

/// Whether a cookie of the default name looks like one that a gateway issued.
pub fn has_ours(map: &HeaderMap) -> bool {
    cookies(map, COOKIE.as_bytes()).any(|value| value.starts_with(b"v1."))
}

/// The session that a gateway told an instance, and that instance passed on: in the header, else in its baggage.
pub fn carried(map: &HeaderMap) -> Option<&[u8]> {
    let named = map.get(headers::SESSION).map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
    named.or_else(|| baggage::session(map))
}

/// A caller's address as a key: IPv4 whole; of IPv6 the network (64 bits), since hosts change the rest by themselves (RFC 8981).
pub struct AddressKey([u8; 8], usize);

impl AddressKey {
    /// The address of whoever asked, seen through proxies on this machine.
    ///
    /// A proxy writes the address that it saw at the end of `X-Forwarded-For`. So, from the end: while what wrote it is loopback,
    /// the next one is who asked. What stands before the first other address may be anybody's invention.
    pub fn of(peer: IpAddr, map: &HeaderMap) -> Self {
        let mut address = peer.to_canonical();
        let fields = map.get_all(headers::FORWARDED_FOR);
        let mut written = fields.iter().rev().flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
        while address.is_loopback() {
            let next = written.next().and_then(|text| std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok());
            let Some(next) = next else { break };
            address = IpAddr::to_canonical(&next);
        }
        let mut key = [0; 8];
        let length = match address {
            IpAddr::V4(address) => {
                key[..4].copy_from_slice(&address.octets());
                4
            }
            IpAddr::V6(address) => {
                key.copy_from_slice(&address.octets()[..8]);
                8
            }
        };
        Self(key, length)
    }

    /// The key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields =
            fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        fields.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let map = map(&[("cookie", "xid=1; id=; id = a=b ;Id=c"), ("cookie", "id=d")]);
        assert_eq!(cookies(&map, b"id").collect::<Vec<_>>(), [b"a=b".as_slice(), b"d"]);
        assert!(!has_ours(&map) && has_ours(&super::tests::map(&[("cookie", "modelyard-session=v1.x")])));
        assert!(!has_ours(&super::tests::map(&[("cookie", "modelyard-session=mine")])));
    }

    #[test]
    fn what_was_carried_is_in_the_header_or_the_baggage() {
        assert_eq!(
            carried(&map(&[("modelyard-session", "a"), ("baggage", "modelyard.session=b")])),
            Some(b"a".as_slice())
        );
        assert_eq!(carried(&map(&[("baggage", "x=1, modelyard.session = b;p=1")])), Some(b"b".as_slice()));
        assert_eq!(carried(&map(&[("baggage", "xmodelyard.session=b")])), None);
    }

    #[test]
    fn only_this_machine_is_believed() {
        let key = |peer: &str, told: &'static str| {
            AddressKey::of(peer.parse().unwrap(), &map(&[("x-forwarded-for", told)])).0
        };
        let plain = |address: &str| AddressKey::of(address.parse().unwrap(), &HeaderMap::new()).0;
        assert_eq!(
            key("127.0.0.1", "10.9.9.9, 203.0.113.7"),
            plain("203.0.113.7"),
            "the last one is what the proxy saw"
        );
        assert_eq!(key("127.0.0.1", "203.0.113.7, 127.0.0.1"), plain("203.0.113.7"), "two hops on this machine");
        assert_eq!(key("::1", "::ffff:203.0.113.7"), plain("203.0.113.7"));
        assert_eq!(key("198.51.100.1", "203.0.113.7"), plain("198.51.100.1"));
        assert_eq!(key("127.0.0.1", "203.0.113.7, unknown"), plain("127.0.0.1"), "what is no address ends the search");
        assert_eq!(plain("2001:db8::1"), plain("2001:db8::ffff:2"));
        assert_ne!(plain("2001:db8::1"), plain("2001:db8:0:1::1"));
        let several = map(&[("x-forwarded-for", "203.0.113.1"), ("x-forwarded-for", "203.0.113.2")]);
        assert_eq!(AddressKey::of("127.0.0.1".parse().unwrap(), &several).0, plain("203.0.113.2"));
    }
}
