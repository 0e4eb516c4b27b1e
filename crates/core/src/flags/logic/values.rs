//! JSON values as JavaScript treats them: true or false, as numbers, as texts, equal.

use serde_json::{Number, Value};

/// Whether JsonLogic takes a value for true: as JavaScript, but an empty list is false.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(_) => true,
    }
}

/// The value as a number; `NaN` when it is none.
pub(super) fn number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::String(text) => parse(text.trim()),
        Value::Array(list) => match list.as_slice() {
            [] => 0.0,
            [single] => number(single),
            _ => f64::NAN,
        },
        Value::Object(_) => f64::NAN,
    }
}

fn parse(text: &str) -> f64 {
    // Rust would also read `inf` and `nan`.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match text {
        "" => 0.0,
        _ if plain => text.parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

/// A number as a value: without a fraction where it has none, `null` where JSON has no word for it.
pub(super) fn of_number(number: f64) -> Value {
    // 2^53: up to here every whole float is that very number.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// The value as a text within another.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_text(number),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(_) => "[object Object]".to_owned(),
    }
}

fn number_text(number: &Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let value = number.as_f64().unwrap_or(f64::NAN);
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if (1e-6..1e21).contains(&size) {
        format!("{value}")
    } else {
        let text = format!("{value:e}");
        if size < 1.0 { text } else { text.replacen('e', "e+", 1) }
    }
}

/// `===`: the same type and worth.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

/// `==`: the same worth once types are brought together.
pub(super) fn alike(one: &Value, other: &Value) -> bool {
    use Value::{Array, Bool, Null, Number, Object, String};
    match (one, other) {
        (Null, Null) => true,
        (Null, _) | (_, Null) => false,
        (String(one), String(other)) => one == other,
        (Number(_) | Bool(_) | String(_), Number(_) | Bool(_) | String(_)) => number(one) == number(other),
        (Array(_) | Object(_), Array(_) | Object(_)) => same(one, other),
        (String(plain), list @ (Array(_) | Object(_))) | (list @ (Array(_) | Object(_)), String(plain)) => {
            text(list) == *plain
        }
        (Array(_) | Object(_), Number(_) | Bool(_)) | (Number(_) | Bool(_), Array(_) | Object(_)) => {
            number(one) == number(other)
        }
    }
}

/// Whether one is less than the other: texts by their letters, everything else as numbers.
pub(super) fn less(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one < other,
        _ => number(one) < number(other),
    }
}

/// Whether one is less than or worth the other.
pub(super) fn at_most(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one <= other,
        _ => number(one) <= number(other),
    }
}
