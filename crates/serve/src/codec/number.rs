//! Numbers in JSON text, exactly rounded.
//!
//! Source of the fast path: W. D. Clinger, "How to read floating point numbers accurately" (1990): a mantissa below 2^53
//! times or divided by an exact power of ten rounds once, so it is exact. Everything else goes to the standard library.

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The value of a JSON number; `None` if `token` is none.
pub(crate) fn float(token: &[u8]) -> Option<f64> {
    let (negative, digits) = match token.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, token),
    };
    let mut mantissa: u64 = 0;
    let mut exponent: i32 = 0;
    let mut at = 0;
    let mut fraction = false;
    while let Some(&byte) = digits.get(at) {
        match byte {
            // 18 digits cannot overflow; longer mantissas are rare and may take the slow path.
            b'0'..=b'9' if at < 19 => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                exponent -= i32::from(fraction);
            }
            b'.' if !fraction => fraction = true,
            b'e' | b'E' if at > 0 => break,
            _ => return slow(token),
        }
        at += 1;
    }
    if at < digits.len() {
        exponent += small_exponent(&digits[at + 1..]).unwrap_or(1_000);
    }
    let whole = digits.last().is_some_and(u8::is_ascii_digit);
    if mantissa >= 1 << 53 || exponent.unsigned_abs() > 22 || !whole {
        return slow(token);
    }
    let power = POWERS[exponent.unsigned_abs() as usize];
    let value = if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
    Some(if negative { -value } else { value })
}

fn small_exponent(text: &[u8]) -> Option<i32> {
    if text.len() > 4 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cold]
fn slow(token: &[u8]) -> Option<f64> {
    // The standard library also takes `inf`, `nan` and `+1`, which JSON does not have.
    let last_is_digit = token.last().is_some_and(u8::is_ascii_digit);
    let plausible = token.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    if !plausible || !last_is_digit || token[0] == b'+' {
        return None;
    }
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// The value of a JSON number without fraction and exponent; `None` if it is none or does not fit.
pub(crate) fn integer<T: TryFrom<i128>>(token: &[u8]) -> Option<T> {
    let (negative, digits) = match token.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, token),
    };
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    let mut value: i128 = 0;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i128::from(byte - b'0');
    }
    T::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_are_exact() {
        for text in
            ["0", "-0", "0.1", "1e22", "1e23", "-1.5E-3", "5e-324", "1.7976931348623157e308", "123456789012345678901"]
        {
            assert_eq!(float(text.as_bytes()).unwrap().to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
        for text in ["", "-", "nan", "inf", "+1", "1e", ".", "true", "1.2.3", "e5"] {
            assert_eq!(float(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn integers_keep_their_range() {
        assert_eq!(integer::<u64>(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(integer::<i8>(b"-128"), Some(-128));
        assert_eq!(integer::<i8>(b"128"), None);
        assert_eq!(integer::<u8>(b"-1"), None);
        assert_eq!(integer::<i64>(b"1.0"), None);
    }

    proptest! {
        #[test]
        fn every_double_reads_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            for text in [format!("{value:e}"), format!("{value}")] {
                prop_assert_eq!(float(text.as_bytes()).unwrap().to_bits(), value.to_bits(), "{}", text);
            }
        }

        #[test]
        fn short_decimals_agree_with_the_standard_library(text in "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,12})?([eE][-+]?[0-9]{1,3})?") {
            prop_assert_eq!(float(text.as_bytes()).unwrap().to_bits(), text.parse::<f64>().unwrap().to_bits());
        }
    }
}
