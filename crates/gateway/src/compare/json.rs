//! JSON that is no tensors, compared by its structure: each field of the answer is an output.
//!
//! Promises: a field that only the shadow has does not count, as in samples; one that it lacks counts as all its leaves. What names the answer
//! rather than the prediction (`id`, `request_id`, `model_name`, `model_version`) is left out.

use modelyard_core::sample::kind;
use serde_json::Value;

use super::Rules;
use super::read::nested;
use super::score::{Score, shown};

const LEFT_OUT: [&str; 4] = ["id", "request_id", "model_name", "model_version"];

/// Compares two answers.
pub fn compare(stable: &Value, shadow: &Value, rules: &Rules) -> Vec<(String, Score)> {
    match (stable, shadow) {
        (Value::Object(one), Value::Object(_)) => one
            .iter()
            .filter(|(name, _)| !LEFT_OUT.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), field(name, value, shadow.get(name), rules)))
            .collect(),
        _ => vec![("body".to_owned(), field("body", stable, Some(shadow), rules))],
    }
}

fn field(name: &str, stable: &Value, shadow: Option<&Value>, rules: &Rules) -> Score {
    let tensors = nested(name, stable).and_then(|one| Some((one, nested(name, shadow?)?)));
    if let Some(score) = tensors.and_then(|(one, other)| one.compare(&other, rules)) {
        return score;
    }
    let (mut score, mut at) = (Score::default(), format!("`{name}`"));
    walk(stable, shadow, rules, &mut at, &mut score);
    let agrees = score.agrees();
    score.row(agrees, agrees);
    score
}

fn walk(stable: &Value, shadow: Option<&Value>, rules: &Rules, at: &mut String, score: &mut Score) {
    match (stable, shadow) {
        (Value::Object(one), Some(Value::Object(other))) => {
            for (key, value) in one {
                let key_shown = shown(key.as_bytes());
                within(at, &format!("[{key_shown}]"), |at| walk(value, other.get(key), rules, at, score));
            }
        }
        (Value::Array(one), Some(Value::Array(other))) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                within(at, &format!("[{index}]"), |at| walk(one, Some(other), rules, at, score));
            }
        }
        (Value::Number(one), Some(Value::Number(other))) => {
            let (a, b) = (one.as_f64().unwrap_or(f64::NAN), other.as_f64().unwrap_or(f64::NAN));
            score.number(a, b, &rules.tolerance, || at.clone());
            score.exact &= one == other;
        }
        (stable, None) => score.missing(leaves(stable), || format!("{at}: not in the shadow's answer")),
        (Value::String(one), Some(Value::String(other))) => {
            score
                .label(one == other, || format!("{at}: {} against {}", shown(one.as_bytes()), shown(other.as_bytes())));
        }
        (Value::Bool(one), Some(Value::Bool(other))) => {
            score.label(one == other, || format!("{at}: {one} against {other}"))
        }
        (Value::Null, Some(Value::Null)) => score.label(true, String::new),
        (Value::Array(one), Some(Value::Array(other))) => {
            let what = || format!("{at}: {} elements against {}", one.len(), other.len());
            score.missing(leaves(stable), what);
        }
        (stable, Some(shadow)) => {
            score.missing(leaves(stable), || format!("{at}: a {} against a {}", kind(stable), kind(shadow)));
        }
    }
}

/// Looks one step deeper.
fn within(at: &mut String, step: &str, look: impl FnOnce(&mut String)) {
    let before = at.len();
    // Places are for people: a hostile answer's depth must not make them long.
    if before < 200 {
        at.push_str(step);
    }
    look(at);
    at.truncate(before);
}

fn leaves(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.iter().map(leaves).sum::<u64>().max(1),
        Value::Object(fields) => fields.values().map(leaves).sum::<u64>().max(1),
        _ => 1,
    }
}
