//! Cookies that the gateway issues: a random id, signed, so that nobody chooses their arm by choosing their cookie.
//!
//! Value: `v1.<id>.<mac>`, or with a lifetime `v1.<id>.<seconds since 1970>.<mac>`: the time of issue tells when to issue it anew. The id is 16 random
//! bytes, the mac the first 16 bytes of HMAC-SHA256 over everything before its point; both base64url without padding.
//! Promises: signatures are compared in constant time; forged, foreign and expired cookies count as none.
//! Source: RFC 2104 (HMAC), section 5 (truncation); RFC 6265 (cookies).

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use modelyard_core::Millis;
use sha2::Sha256;

/// Length of 16 bytes as base64url.
const TEXT: usize = 22;
const PREFIX: &[u8] = b"v1.";

/// An id as text.
pub type Id = [u8; TEXT];

/// Issues cookies, and knows its own.
pub struct Issuer {
    name: Box<str>,
    /// The key, already mixed in: a signature costs two blocks of SHA-256.
    key: Hmac<Sha256>,
    lifetime_seconds: Option<u64>,
}

/// What a cookie is.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// Ours.
    Ours {
        /// Its id, as text.
        id: &'a [u8],
        /// Whether half its life is over, or its form is not today's: it is issued anew, with the same id.
        stale: bool,
    },
    /// Forged, foreign or expired.
    Not,
}

impl Issuer {
    /// An issuer; `None` unless the secret is 64 hexadecimal digits.
    pub fn new(name: &str, secret: &str, lifetime: Option<Millis>) -> Option<Self> {
        let key = Hmac::new_from_slice(&bytes_of(secret)?).ok()?;
        // A browser takes zero as "forget it at once".
        let lifetime_seconds = lifetime.map(|lifetime| (lifetime.0 / 1_000).max(1));
        Some(Self { name: name.into(), key, lifetime_seconds })
    }

    /// The cookie's name.
    pub fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Reads a cookie's value at `now` (seconds since 1970).
    pub fn read<'a>(&self, value: &'a [u8], now: u64) -> Read<'a> {
        self.try_read(value, now).unwrap_or(Read::Not)
    }

    fn try_read<'a>(&self, value: &'a [u8], now: u64) -> Option<Read<'a>> {
        let (signed, mac) = value.split_at_checked(value.len().checked_sub(TEXT + 1)?)?;
        let mac = mac.strip_prefix(b".")?;
        let (id, after) = signed.strip_prefix(PREFIX)?.split_at_checked(TEXT)?;
        let issued = match after {
            b"" => None,
            after => Some(seconds(after.strip_prefix(b".")?)?),
        };
        let mut bytes = [0; 16];
        URL_SAFE_NO_PAD.decode_slice(mac, &mut bytes).ok()?;
        self.key.clone().chain_update(signed).verify_truncated_left(&bytes).ok()?;
        let stale = match (self.lifetime_seconds, issued) {
            (None, _) => false,
            (Some(_), None) => true, // from before there was a lifetime
            (Some(lifetime), Some(issued)) => {
                let age = now.saturating_sub(issued);
                if age >= lifetime {
                    return None;
                }
                age >= lifetime.div_ceil(2)
            }
        };
        Some(Read::Ours { id, stale })
    }

    /// The `Set-Cookie` that gives an id.
    pub fn issue(&self, id: &[u8], now: u64, secure: bool) -> HeaderValue {
        let mut text = Vec::with_capacity(192);
        text.extend_from_slice(self.name());
        text.push(b'=');
        let from = text.len();
        text.extend_from_slice(PREFIX);
        text.extend_from_slice(id);
        if self.lifetime_seconds.is_some() {
            text.extend_from_slice(format!(".{now}").as_bytes());
        }
        let mac = self.key.clone().chain_update(&text[from..]).finalize().into_bytes();
        text.push(b'.');
        text.extend_from_slice(&encode(&mac[..16]));
        text.extend_from_slice(b"; Path=/; HttpOnly; SameSite=Lax");
        if let Some(lifetime) = self.lifetime_seconds {
            text.extend_from_slice(format!("; Max-Age={lifetime}").as_bytes());
        }
        if secure {
            text.extend_from_slice(b"; Secure");
        }
        value(text)
    }
}

/// The `Set-Cookie` that makes a caller forget a cookie.
pub fn forget(name: &str) -> HeaderValue {
    value(format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0").into_bytes())
}

/// Everything that is put in is visible ASCII, so the fallback is never seen.
fn value(text: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A new id.
pub fn fresh_id() -> Id {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // An id need not be secret, only its own: nobody can sign another one's.
        fastrand::fill(&mut bytes);
    }
    encode(&bytes)
}

/// 16 bytes as text; shorter input is padded with `A`, which does not happen.
fn encode(bytes: &[u8]) -> Id {
    let mut text = [b'A'; TEXT];
    let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text); // 16 bytes fit exactly
    text
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A decimal number without sign or leading zero.
fn seconds(digits: &[u8]) -> Option<u64> {
    let plain = !digits.starts_with(b"0") && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// 32 bytes from 64 hexadecimal digits.
fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_795_000_000;

    fn issuer(lifetime: Option<u64>) -> Issuer {
        Issuer::new("modelyard-session", &"0123456789abcdef".repeat(4), lifetime.map(Millis::seconds)).unwrap()
    }

    /// The value within a `Set-Cookie`.
    fn value_of(cookie: &HeaderValue) -> Vec<u8> {
        let text = cookie.to_str().unwrap();
        text.split(['=', ';']).nth(1).unwrap().as_bytes().to_vec()
    }

    #[test]
    fn the_signature_is_hmac_sha256() {
        // RFC 4231 has no key of 32 bytes; this value was computed with Python's hmac module.
        let cookie = issuer(None).issue(b"AAECAwQFBgcICQoLDA0ODw", NOW, false);
        assert_eq!(
            cookie.to_str().unwrap(),
            "modelyard-session=v1.AAECAwQFBgcICQoLDA0ODw.pcQxQ4RDYnh8HUWUUsxL3A; Path=/; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn our_own_comes_back_and_ages() {
        let (id, hour) = (fresh_id(), issuer(Some(3_600)));
        let value = value_of(&hour.issue(&id, NOW, false));
        let read = |later| hour.read(&value, NOW + later);
        assert_eq!(read(0), Read::Ours { id: &id, stale: false });
        assert_eq!(read(1_799), Read::Ours { id: &id, stale: false });
        assert_eq!(read(1_800), Read::Ours { id: &id, stale: true });
        assert_eq!(read(3_599), Read::Ours { id: &id, stale: true });
        assert_eq!(read(3_600), Read::Not);
        assert_eq!(hour.read(&value, NOW - 100), Read::Ours { id: &id, stale: false }, "another clock was ahead");
        let cookie = hour.issue(&id, NOW, true);
        let text = cookie.to_str().unwrap();
        assert!(text.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure"), "{text}");
    }

    #[test]
    fn a_changed_lifetime_keeps_the_id() {
        let id = fresh_id();
        let endless = value_of(&issuer(None).issue(&id, NOW, false));
        assert_eq!(issuer(Some(60)).read(&endless, NOW), Read::Ours { id: &id, stale: true });
        let short = value_of(&issuer(Some(60)).issue(&id, NOW, false));
        assert_eq!(issuer(None).read(&short, NOW + 1_000), Read::Ours { id: &id, stale: false });
    }

    #[test]
    fn another_secret_is_foreign() {
        let other = Issuer::new("c", &"f".repeat(64), None).unwrap();
        let value = value_of(&other.issue(&fresh_id(), NOW, false));
        assert_eq!(issuer(None).read(&value, NOW), Read::Not);
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_forged(at in 0usize..60, byte in 0u8..128) {
            let issuer = issuer(Some(3_600));
            let value = value_of(&issuer.issue(&fresh_id(), NOW, false));
            let mut changed = value.clone();
            let at = at % changed.len();
            changed[at] = byte;
            prop_assert_eq!(issuer.read(&changed, NOW) == Read::Not, changed != value);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(issuer(None).read(&bytes, NOW), Read::Not);
            let dotted = [PREFIX, &bytes, b".", &bytes].concat();
            prop_assert_eq!(issuer(Some(1)).read(&dotted, NOW), Read::Not);
        }
    }

    #[test]
    fn ids_are_their_own() {
        assert_ne!(fresh_id(), fresh_id());
        assert_eq!(forget("a").to_str().unwrap(), "a=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    }
}
