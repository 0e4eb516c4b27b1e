//! A JSON value as deterministic CBOR: the bytes that flagd hashes to choose a bucket.
//!
//! Promises: equal values have equal bytes, however they were written (`1` and `1.0`, keys in any order).
//! Sources: RFC 8949, section 4.2.1; flagd's decision "Harden hashing consistency" (number normalisation).

use half::f16;
use serde_json::{Number, Value};

/// The value's bytes.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    bytes
}

fn write(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Null => into.push(0xf6),
        Value::Bool(flag) => into.push(if *flag { 0xf5 } else { 0xf4 }),
        Value::Number(number) => write_number(number, into),
        Value::String(text) => write_text(text, into),
        Value::Array(list) => {
            head(4, list.len() as u64, into);
            list.iter().for_each(|item| write(item, into));
        }
        Value::Object(map) => {
            head(5, map.len() as u64, into);
            let mut entries: Vec<(Vec<u8>, &Value)> = map
                .iter()
                .map(|(key, value)| {
                    let mut bytes = Vec::new();
                    write_text(key, &mut bytes);
                    (bytes, value)
                })
                .collect();
            entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            for (key, value) in entries {
                into.extend_from_slice(&key);
                write(value, into);
            }
        }
    }
}

fn write_text(text: &str, into: &mut Vec<u8>) {
    head(3, text.len() as u64, into);
    into.extend_from_slice(text.as_bytes());
}

/// Major type and argument, in the fewest bytes.
fn head(major: u8, argument: u64, into: &mut Vec<u8>) {
    let kind = major << 5;
    match argument {
        0..24 => into.push(kind | argument as u8),
        24..0x100 => into.extend_from_slice(&[kind | 24, argument as u8]),
        0x100..0x1_0000 => {
            into.push(kind | 25);
            into.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            into.push(kind | 26);
            into.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            into.push(kind | 27);
            into.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

fn write_number(number: &Number, into: &mut Vec<u8>) {
    match whole(number) {
        Some(whole) if whole >= 0 => head(0, whole as u64, into),
        Some(whole) => head(1, (-1 - whole) as u64, into),
        None => write_float(number.as_f64().unwrap_or(f64::NAN), into),
    }
}

/// The number without a fraction, when it fits 64 bits with or without sign.
fn whole(number: &Number) -> Option<i128> {
    if let Some(whole) = number.as_i64() {
        return Some(whole.into());
    }
    if let Some(whole) = number.as_u64() {
        return Some(whole.into());
    }
    let value = number.as_f64()?;
    // 2^64 is the first float above the range, -2^63 the last within.
    let fits = value.fract() == 0.0 && (-9_223_372_036_854_775_808.0..18_446_744_073_709_551_616.0).contains(&value);
    fits.then_some(value as i128)
}

/// The shortest float that is the same number.
fn write_float(value: f64, into: &mut Vec<u8>) {
    let half = f16::from_f64(value);
    let single = value as f32;
    if half.to_f64() == value {
        into.push(0xf9);
        into.extend_from_slice(&half.to_be_bytes());
    } else if f64::from(single) == value {
        into.push(0xfa);
        into.extend_from_slice(&single.to_be_bytes());
    } else {
        into.push(0xfb);
        into.extend_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hex(value: &Value) -> String {
        encode(value).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn bytes_are_those_of_the_rfc() {
        // RFC 8949, appendix A.
        for (value, bytes) in [
            (json!(0), "00"),
            (json!(23), "17"),
            (json!(24), "1818"),
            (json!(1000), "1903e8"),
            (json!(1_000_000), "1a000f4240"),
            (json!(1_000_000_000_000_u64), "1b000000e8d4a51000"),
            (json!(18_446_744_073_709_551_615_u64), "1bffffffffffffffff"),
            (json!(-1), "20"),
            (json!(-1000), "3903e7"),
            (json!(1.5), "f93e00"),
            (json!(100_000.5), "fa47c35040"),
            (json!(1.1), "fb3ff199999999999a"),
            (json!(1.0e300), "fb7e37e43c8800759c"),
            (json!(true), "f5"),
            (json!(null), "f6"),
            (json!(""), "60"),
            (json!("IETF"), "6449455446"),
            (json!("\u{fc}"), "62c3bc"),
            (json!([1, [2, 3], [4, 5]]), "8301820203820405"),
            (json!({"a": 1, "b": [2, 3]}), "a26161016162820203"),
        ] {
            assert_eq!(hex(&value), bytes, "{value}");
        }
    }

    #[test]
    fn numbers_are_what_they_are_worth() {
        for (one, other) in
            [(json!(1), json!(1.0)), (json!(0), json!(-0.0)), (json!(-3), json!(-3.0)), (json!(1e3), json!(1000))]
        {
            assert_eq!(hex(&one), hex(&other));
        }
        assert_eq!(hex(&json!(9_223_372_036_854_775_808.0)), "1b8000000000000000");
        assert_eq!(hex(&json!(-9_223_372_036_854_775_808.0)), "3b7fffffffffffffff");
        assert!(hex(&json!(18_446_744_073_709_551_616.0)).starts_with("fa"), "past the range it stays a float");
    }

    #[test]
    fn keys_are_sorted_by_their_bytes() {
        assert_eq!(hex(&json!({"bb": 1, "a": 2, "c": 3})), hex(&json!({"c": 3, "bb": 1, "a": 2})));
        assert_eq!(hex(&json!({"aa": 1, "b": 2})), "a2616202626161 01".replace(' ', ""));
    }
}
