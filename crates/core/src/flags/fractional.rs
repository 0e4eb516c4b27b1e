//! flagd's `fractional`: a stable split of keys over weighted variants.
//!
//! Promises: the bucket of a key depends on its bytes, the weights and their order alone; weights may be any whole numbers up to 2^31 - 1.
//! Sources: flagd's custom operations, "high-precision fractional bucketing" and "harden hashing consistency"; MurmurHash3 (A. Appleby).

use serde_json::{Value, json};

use super::cbor;
use super::definition::Bucketing;

/// Largest sum of weights.
const MOST: u64 = i32::MAX as u64;

/// The variant of a key; `Null` where the rule makes no sense or there is no key, which falls back to the default variant.
///
/// `arguments` are evaluated already: a bucketing value, unless the first is a list, then `[variant, weight]` lists.
pub(super) fn choose(arguments: &[Value], data: &Value, flag: &str, bucketing: Bucketing) -> Value {
    split(arguments, data, flag, bucketing).unwrap_or(Value::Null)
}

fn split(arguments: &[Value], data: &Value, flag: &str, bucketing: Bucketing) -> Option<Value> {
    let (hash, distributions) = match bucketing {
        Bucketing::Cbor => by_value(arguments, data, flag)?,
        Bucketing::Text => by_text(arguments, data, flag)?,
    };
    let weighted: Vec<(&Value, u64)> = distributions.iter().map(distribution).collect::<Option<_>>()?;
    let total: u64 = weighted.iter().map(|(_, weight)| weight).sum();
    if total == 0 || total > MOST {
        return None;
    }
    let bucket = (u64::from(hash) * total) >> 32;
    let mut end = 0;
    let found = weighted.into_iter().find(|(_, weight)| {
        end += weight;
        bucket < end
    });
    found.map(|(variant, _)| variant.clone())
}

/// Any value can be the key; without one, flag and targeting key together are.
fn by_value<'a>(arguments: &'a [Value], data: &Value, flag: &str) -> Option<(u32, &'a [Value])> {
    match arguments.first()? {
        Value::Null => None,
        Value::Array(_) => Some((murmur3(&cbor::encode(&json!([flag, targeting_key(data)?]))), arguments)),
        value => Some((murmur3(&cbor::encode(value)), &arguments[1..])),
    }
}

/// A text is the key; without one, flag and targeting key written one after the other are.
fn by_text<'a>(arguments: &'a [Value], data: &Value, flag: &str) -> Option<(u32, &'a [Value])> {
    let joined = || Some(murmur3(format!("{flag}{}", targeting_key(data)?).as_bytes()));
    match arguments.first()? {
        Value::String(text) => Some((murmur3(text.as_bytes()), &arguments[1..])),
        Value::Null => Some((joined()?, &arguments[1..])),
        _ => Some((joined()?, arguments)),
    }
}

fn targeting_key(data: &Value) -> Option<&str> {
    data.get("targetingKey")?.as_str().filter(|key| !key.is_empty())
}

/// A variant and its weight. A negative weight is what a sinking share is computed to: none.
fn distribution(argument: &Value) -> Option<(&Value, u64)> {
    let (variant, weight) = match argument.as_array()?.as_slice() {
        [variant] => return Some((variant, 1)),
        [variant, weight] => (variant, weight),
        _ => return None,
    };
    let weight = weight.as_f64().filter(|weight| weight.fract() == 0.0 && *weight <= MOST as f64)?;
    Some((variant, weight.max(0.0) as u64))
}

/// MurmurHash3, 32 bits, seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = blocks.iter().fold(0u32, |hash, block| {
        (hash ^ mix(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash ^= mix(u32::from_le_bytes(last));
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_murmur3() {
        // Values of the reference implementation, seed 0.
        for (text, hash) in [
            ("", 0),
            ("a", 0x3c25_69b2),
            ("abc", 0xb3dd_93fa),
            ("hello", 0x248b_fa47),
            ("hello, world", 0x149b_bb7f),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }

    fn keyed(arguments: Value, bucketing: Bucketing) -> Value {
        let data = json!({"targetingKey": "ada"});
        choose(arguments.as_array().unwrap(), &data, "colour", bucketing)
    }

    #[test]
    fn what_makes_no_sense_chooses_nothing() {
        for bucketing in [Bucketing::Cbor, Bucketing::Text] {
            for wrong in [
                json!([]),
                json!([["a", 0], ["b", -3]]),
                json!([["a", 0.5], ["b", 1]]),
                json!([["a", "1"]]),
                json!([["a", true]]),
                json!([["a", 1, 2]]),
                json!([[]]),
                json!(["key", "a"]),
                json!([["a", 2_147_483_647], ["b", 1]]),
                json!([["a", 1e300]]),
            ] {
                assert_eq!(keyed(wrong.clone(), bucketing), Value::Null, "{wrong} {bucketing:?}");
            }
            let nobody = choose(&[json!(["a"])], &json!({"targetingKey": ""}), "colour", bucketing);
            assert_eq!(nobody, Value::Null);
            assert_eq!(keyed(json!([["a", -1], ["b", 1]]), bucketing), json!("b"));
            assert_eq!(keyed(json!([[null, 1]]), bucketing), Value::Null);
        }
        assert_eq!(keyed(json!([null, ["a"]]), Bucketing::Cbor), Value::Null, "a key that is missing is no key");
        assert_eq!(
            keyed(json!([null, ["a"]]), Bucketing::Text),
            json!("a"),
            "a key that is missing is the default one"
        );
    }

    proptest! {
        #[test]
        fn whoever_is_within_a_share_stays_there_while_it_grows(key in ".{1,20}", low in 0u32..100, more in 0u32..100) {
            let high = (low + more).min(100);
            let at = |share: u32| {
                let rule = [json!(["in", share]), json!(["out", 100 - share])];
                choose(&rule, &json!({"targetingKey": key}), "f", Bucketing::Cbor)
            };
            prop_assert!(at(low) != json!("in") || at(high) == json!("in"));
        }
    }
}
