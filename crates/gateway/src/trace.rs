//! W3C trace context and request ids.
//!
//! Promises: a valid `traceparent` keeps its trace id and flags and gets a new parent id; anything else starts a new trace.
//! Source: W3C Trace Context, section 3.2 (`traceparent` header).

/// Length of a version-00 `traceparent`.
const LENGTH: usize = 55;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A `traceparent` ready to be sent: `00-{trace id}-{parent id}-{flags}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent([u8; LENGTH]);

impl TraceParent {
    /// Goes on with the caller's trace, or starts one (not sampled: nobody asked).
    pub fn next(given: Option<&[u8]>) -> Self {
        let mut bytes = *b"00-00000000000000000000000000000000-0000000000000000-00";
        match given.filter(|given| is_valid(given)) {
            Some(given) => {
                bytes[3..35].copy_from_slice(&given[3..35]);
                bytes[53..55].copy_from_slice(&given[53..55]);
            }
            None => {
                write_hex(&mut bytes[3..19], nonzero());
                write_hex(&mut bytes[19..35], nonzero());
            }
        }
        write_hex(&mut bytes[36..52], nonzero());
        Self(bytes)
    }

    /// The header's value.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The trace id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &[u8] {
        &self.0[3..35]
    }
}

/// Whether `given` is a `traceparent` of version 00, or of a later version that starts like one.
fn is_valid(given: &[u8]) -> bool {
    let later = given.len() > LENGTH && &given[..2] != b"00" && given[LENGTH] == b'-';
    if given.len() != LENGTH && !later {
        return false;
    }
    let hex = |range: std::ops::Range<usize>| given[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |range: std::ops::Range<usize>| given[range].iter().all(|&b| b == b'0');
    let dashes = given[2] == b'-' && given[35] == b'-' && given[52] == b'-';
    let digits = hex(0..2) && hex(3..35) && hex(36..52) && hex(53..55);
    dashes && digits && &given[..2] != b"ff" && !zero(3..35) && !zero(36..52)
}

/// A random number that is not zero: all-zero ids are invalid.
fn nonzero() -> u64 {
    fastrand::u64(1..)
}

fn write_hex(digits: &mut [u8], number: u64) {
    for (index, digit) in digits.iter_mut().rev().enumerate() {
        *digit = HEX[(number >> (4 * index)) as usize & 15];
    }
}

/// Whether a caller's request id may be used as it is: short and printable, so that it is safe in logs.
pub fn is_request_id(given: &[u8]) -> bool {
    (1..=128).contains(&given.len()) && given.iter().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_trace_goes_on_with_a_new_parent() {
        let next = TraceParent::next(Some(GIVEN));
        assert_eq!(&next.as_bytes()[..36], &GIVEN[..36]);
        assert_ne!(&next.as_bytes()[36..52], &GIVEN[36..52]);
        assert_eq!(&next.as_bytes()[52..], b"-01");
        assert!(is_valid(next.as_bytes()));
    }

    #[test]
    fn anything_else_starts_a_new_one() {
        let upper = GIVEN.to_ascii_uppercase();
        let zero = b"00-00000000000000000000000000000000-00f067aa0ba902b7-01".as_slice();
        let forbidden = [b"ff".as_slice(), &GIVEN[2..]].concat();
        let longer = [GIVEN, b"-extra"].concat();
        for bad in [b"".as_slice(), b"00", &upper, zero, &forbidden, &longer, &[0xff; 55]] {
            let next = TraceParent::next(Some(bad));
            assert!(is_valid(next.as_bytes()) && next.trace_id() != &GIVEN[3..35], "{bad:?}");
        }
        let later = [b"01".as_slice(), &GIVEN[2..], b"-more"].concat();
        assert_eq!(TraceParent::next(Some(&later)).trace_id(), &GIVEN[3..35]);
    }

    #[test]
    fn request_ids_are_printable_and_short() {
        assert!(is_request_id(b"a-1") && !is_request_id(b"") && !is_request_id(b"a b") && !is_request_id(&[b'a'; 129]));
    }
}
