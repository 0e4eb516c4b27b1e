//! Which arm a request belongs to: its session's key, hashed to a point; without a key, a draw of its own.
//!
//! Promises: no lock and, unless a cookie is issued, no allocation. The same key has the same point on every thread and every gateway
//! that has the same table. A request that names its revision has no session: a tester is nobody's unit.
//! Absent on purpose: who owns a point (`policy::split`, cut by `core::affinity::stretches`).

pub(crate) mod issued;
mod key;

use http::{HeaderName, HeaderValue, header};
use modelyard_core::affinity::{self, Affinity, AffinityRoute, KeySource};

use crate::forward::Call;
use crate::headers;
use crate::policy::split::DRAWS;
use issued::{Issuer, Read};
use key::AddressKey;

/// Name of the cookie that the gateway issues unless the service says another one.
pub const COOKIE: &str = "modelyard-session";

/// A session as it is told to instances and in evidence: the hash of its key, never the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session(pub u64);

impl Session {
    /// 16 hexadecimal digits.
    pub fn digits(self) -> [u8; 16] {
        let nibble = |index: usize| b"0123456789abcdef"[(self.0 >> (60 - 4 * index)) as usize & 15];
        std::array::from_fn(nibble)
    }

    /// Reads what [`Session::digits`] wrote.
    pub fn from_digits(digits: &[u8]) -> Option<Self> {
        let plain = digits.len() == 16 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let text = std::str::from_utf8(digits).ok().filter(|_| plain)?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

/// How one service's sessions are known.
#[derive(Default)]
pub struct Sessions {
    source: Option<Source>,
    salt: String,
    /// The gateway's default cookie is of no use to any service: callers who still send it are told to forget it.
    forget_cookie: bool,
}

/// Where the key is.
enum Source {
    Header(HeaderName),
    /// What another service's gateway told its instances: the point itself, so that a request stays on one line of revisions.
    Carried,
    Cookie(Box<[u8]>),
    Address,
    Issued(Box<Issuer>),
}

/// Where a request belongs.
#[derive(Debug)]
pub struct Place {
    /// Its point, 0 to 9 999.
    pub point: u16,
    /// Its session, if it has one.
    pub session: Option<Session>,
    /// What the caller is to keep.
    pub cookie: Option<HeaderValue>,
}

impl Place {
    fn drawn() -> Self {
        Self { point: fastrand::u16(..DRAWS), session: None, cookie: None }
    }

    fn of(session: Session, cookie: Option<HeaderValue>) -> Self {
        Self { point: affinity::point(session.0), session: Some(session), cookie }
    }
}

impl Sessions {
    /// Compiles a service's rule. `cookie_in_use` tells whether any service of the table uses the default cookie's name.
    pub fn new(service: &str, route: Option<&AffinityRoute>, cookie_in_use: bool) -> Self {
        let forget_cookie = !cookie_in_use;
        let Some(route) = route else { return Self { forget_cookie, ..Self::default() } };
        let source = Source::new(route).map_err(|why| {
            // Requests are answered all the same: a wrong rule must not stop a service.
            tracing::warn!(service, why, "affinity has no effect: each request is spread by itself");
        });
        Self { source: source.ok(), salt: route.salt.clone(), forget_cookie }
    }

    /// Where a request belongs; `pinned` says that it names its revision.
    pub fn place(&self, call: &Call<'_>, pinned: bool) -> Place {
        let mut place = match &self.source {
            Some(source) if !pinned => self.find(source, call),
            _ => Place::drawn(),
        };
        if self.forget_cookie && call.parts.headers.contains_key(header::COOKIE) && key::has_ours(&call.parts.headers) {
            place.cookie = Some(issued::forget(COOKIE));
        }
        place
    }

    fn find(&self, source: &Source, call: &Call<'_>) -> Place {
        let map = &call.parts.headers;
        let hashed = |key: &[u8]| Session(affinity::hash(&self.salt, key));
        let session = match source {
            Source::Header(name) => {
                let value = map.get(name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
                value.map(hashed)
            }
            Source::Carried => {
                key::carried(map).map(|value| Session::from_digits(value).unwrap_or_else(|| hashed(value)))
            }
            Source::Cookie(name) => key::cookies(map, name).next().map(hashed),
            Source::Address => Some(hashed(AddressKey::of(call.caller.ip, map).as_bytes())),
            Source::Issued(issuer) => return self.issued(issuer, call),
        };
        session.map_or_else(Place::drawn, |session| Place::of(session, None))
    }

    fn issued(&self, issuer: &Issuer, call: &Call<'_>) -> Place {
        let map = &call.parts.headers;
        let now = issued::now();
        let ours = key::cookies(map, issuer.name()).find_map(|value| match issuer.read(value, now) {
            Read::Ours { id, stale } => Some((id, stale)),
            Read::Not => None,
        });
        let secure = || map.get(headers::FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes() == b"https");
        match ours {
            Some((id, stale)) => {
                let cookie = stale.then(|| issuer.issue(id, now, secure()));
                Place::of(Session(affinity::hash(&self.salt, id)), cookie)
            }
            None => {
                let id = issued::fresh_id();
                Place::of(Session(affinity::hash(&self.salt, &id)), Some(issuer.issue(&id, now, secure())))
            }
        }
    }
}

impl Source {
    fn new(route: &AffinityRoute) -> Result<Self, &'static str> {
        if let Some(problem) = route.rule.problem() {
            return Err(problem);
        }
        let name = route.rule.name.as_deref().unwrap_or(COOKIE);
        match route.rule.by {
            KeySource::Header if name.eq_ignore_ascii_case(headers::SESSION.as_str()) => Ok(Self::Carried),
            KeySource::Header => {
                HeaderName::from_bytes(name.as_bytes()).map(Self::Header).map_err(|_| "the header's name is too long")
            }
            KeySource::Cookie => Ok(Self::Cookie(name.as_bytes().into())),
            KeySource::Address => Ok(Self::Address),
            KeySource::Issued => {
                let issuer = Issuer::new(name, &route.secret, route.rule.lifetime);
                issuer
                    .map(|issuer| Self::Issued(Box::new(issuer)))
                    .ok_or("the table has no valid secret for its cookies")
            }
        }
    }
}

/// Whether a rule uses the default cookie's name.
pub fn uses_default_cookie(rule: &Affinity) -> bool {
    let name = rule.name.as_deref();
    match rule.by {
        KeySource::Issued => name.is_none_or(|name| name == COOKIE),
        KeySource::Cookie => name == Some(COOKIE),
        KeySource::Header | KeySource::Address => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digits_come_back(hash: u64) {
            let digits = Session(hash).digits();
            prop_assert_eq!(digits.to_vec(), format!("{hash:016x}").into_bytes());
            prop_assert_eq!(Session::from_digits(&digits), Some(Session(hash)));
        }
    }

    #[test]
    fn what_is_no_session_is_none() {
        for bad in [b"".as_slice(), b"0123456789abcde", b"0123456789abcdef0", b"0123456789ABCDEF", b"+123456789abcdef"]
        {
            assert_eq!(Session::from_digits(bad), None, "{bad:?}");
        }
    }

    fn route(by: KeySource, name: Option<&str>, secret: &str) -> AffinityRoute {
        let rule = Affinity { by, name: name.map(str::to_owned), lifetime: None };
        AffinityRoute { rule, salt: "r".to_owned(), secret: secret.to_owned(), starts: Default::default() }
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_told() {
        let secret = "ab".repeat(32);
        for (by, name, secret) in [
            (KeySource::Header, None, ""),
            (KeySource::Header, Some("a b"), ""),
            (KeySource::Cookie, None, ""),
            (KeySource::Cookie, Some("a=b"), ""),
            (KeySource::Issued, Some("a;b"), secret.as_str()),
            (KeySource::Issued, None, ""),
            (KeySource::Issued, None, "abcd"),
        ] {
            assert!(Source::new(&route(by, name, secret)).is_err(), "{by:?} {name:?} {secret}");
        }
        assert!(matches!(Source::new(&route(KeySource::Issued, None, &secret)), Ok(Source::Issued(_))));
        let carried = route(KeySource::Header, Some("Modelyard-Session"), "");
        assert!(matches!(Source::new(&carried), Ok(Source::Carried)));
    }

    #[test]
    fn the_default_cookie_is_known() {
        let rule = |by, name| uses_default_cookie(&route(by, name, "").rule);
        assert!(
            rule(KeySource::Issued, None)
                && rule(KeySource::Issued, Some(COOKIE))
                && rule(KeySource::Cookie, Some(COOKIE))
        );
        assert!(
            !rule(KeySource::Issued, Some("own"))
                && !rule(KeySource::Cookie, Some("own"))
                && !rule(KeySource::Address, None)
        );
    }
}
