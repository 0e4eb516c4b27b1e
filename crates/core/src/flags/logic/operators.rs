//! Operators whose arguments are evaluated first.

use serde_json::Value;

use super::values::{alike, at_most, less, number, of_number, same, text, truthy};
use super::{Fault, Machine};
use crate::flags::{fractional, semver};

/// Their names.
pub(super) const NAMES: [&str; 29] = [
    "var",
    "missing",
    "missing_some",
    "==",
    "===",
    "!=",
    "!==",
    "!",
    "!!",
    ">",
    ">=",
    "<",
    "<=",
    "max",
    "min",
    "+",
    "-",
    "*",
    "/",
    "%",
    "merge",
    "in",
    "cat",
    "substr",
    "log",
    "fractional",
    "sem_ver",
    "starts_with",
    "ends_with",
];

impl Machine<'_> {
    pub(super) fn eager(&mut self, operator: &str, arguments: Vec<Value>, data: &Value) -> Result<Value, Fault> {
        let none = Value::Null;
        let at = |index: usize| arguments.get(index).unwrap_or(&none);
        let (one, two) = (at(0), at(1));
        Ok(match operator {
            "var" => return self.var(one, two, data),
            "missing" => {
                let keys = match one {
                    Value::Array(keys) => keys,
                    _ => &arguments,
                };
                Value::Array(self.missing(keys, data)?)
            }
            "missing_some" => {
                let Value::Array(keys) = two else { return Ok(Value::Array(Vec::new())) };
                let missing = self.missing(keys, data)?;
                let enough = (keys.len() - missing.len()) as f64 >= number(one);
                Value::Array(if enough { Vec::new() } else { missing })
            }
            "==" => alike(one, two).into(),
            "!=" => (!alike(one, two)).into(),
            "===" => same(one, two).into(),
            "!==" => (!same(one, two)).into(),
            "!" => (!truthy(one)).into(),
            "!!" => truthy(one).into(),
            // A third argument asks whether the second is between the others.
            "<" => (less(one, two) && arguments.get(2).is_none_or(|three| less(two, three))).into(),
            "<=" => (at_most(one, two) && arguments.get(2).is_none_or(|three| at_most(two, three))).into(),
            ">" => (less(two, one) && arguments.get(2).is_none_or(|three| less(three, two))).into(),
            ">=" => (at_most(two, one) && arguments.get(2).is_none_or(|three| at_most(three, two))).into(),
            "max" => extreme(&arguments, f64::NEG_INFINITY, |best, next| next > best),
            "min" => extreme(&arguments, f64::INFINITY, |best, next| next < best),
            "+" => of_number(arguments.iter().map(number).sum()),
            "*" => of_number(arguments.iter().map(number).product()),
            "-" if arguments.len() < 2 => of_number(-number(one)),
            "-" => of_number(number(one) - number(two)),
            "/" => of_number(number(one) / number(two)),
            "%" => of_number(number(one) % number(two)),
            "merge" => {
                let mut merged = Vec::new();
                for argument in arguments {
                    match argument {
                        Value::Array(list) => merged.extend(list),
                        single => merged.push(single),
                    }
                }
                self.pay(merged.len())?;
                Value::Array(merged)
            }
            "in" => match two {
                Value::Array(list) => list.iter().any(|item| same(item, one)).into(),
                Value::String(whole) => whole.contains(&text(one)).into(),
                _ => false.into(),
            },
            "cat" => {
                let joined: String = arguments.iter().map(text).collect();
                self.pay(joined.len() / 16)?;
                joined.into()
            }
            "substr" => part(&text(one), number(two), arguments.get(2).map(number)).into(),
            "log" => arguments.into_iter().next().unwrap_or(Value::Null),
            "fractional" => fractional::choose(&arguments, data, self.flag, self.bucketing),
            "sem_ver" => match (two.as_str(), arguments.len()) {
                (Some(operator), 3) => semver::compare(one, operator, at(2)).map_or(Value::Null, Value::Bool),
                _ => Value::Null,
            },
            "starts_with" => both(&arguments, |whole, part| whole.starts_with(part)),
            "ends_with" => both(&arguments, |whole, part| whole.ends_with(part)),
            unknown => return Err(Fault::Unknown(unknown.escape_debug().take(80).collect())),
        })
    }

    fn var(&mut self, path: &Value, otherwise: &Value, data: &Value) -> Result<Value, Fault> {
        match lookup(data, path) {
            Found::There(Value::Null) | Found::Nowhere => self.copy(otherwise),
            Found::There(value) => self.copy(value),
            Found::Made(value) => Ok(value),
        }
    }

    fn missing(&mut self, keys: &[Value], data: &Value) -> Result<Vec<Value>, Fault> {
        self.pay(keys.len())?;
        let is_missing = |key: &&Value| match lookup(data, key) {
            Found::There(Value::Null) | Found::Nowhere => true,
            Found::There(Value::String(text)) => text.is_empty(),
            Found::There(_) | Found::Made(_) => false,
        };
        Ok(keys.iter().filter(is_missing).cloned().collect())
    }
}

enum Found<'d> {
    There(&'d Value),
    Made(Value),
    Nowhere,
}

/// What a path such as `user.roles.0` leads to; everything for an empty one.
fn lookup<'d>(data: &'d Value, path: &Value) -> Found<'d> {
    let path = match path {
        Value::Null => return Found::There(data),
        path => text(path),
    };
    if path.is_empty() {
        return Found::There(data);
    }
    let mut at = data;
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let found = match at {
            Value::Object(map) => map.get(step),
            Value::Array(list) if step == "length" => return last(steps.peek(), Value::from(list.len())),
            Value::Array(list) => index(step).and_then(|index| list.get(index)),
            Value::String(text) if step == "length" => return last(steps.peek(), Value::from(text.chars().count())),
            Value::String(text) => {
                let letter = index(step).and_then(|index| text.chars().nth(index));
                return letter.map_or(Found::Nowhere, |letter| last(steps.peek(), Value::from(letter.to_string())));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        };
        match found {
            Some(found) => at = found,
            None => return Found::Nowhere,
        }
    }
    Found::There(at)
}

/// What was made of a list or text has nothing within.
fn last<'d>(further: Option<&&str>, value: Value) -> Found<'d> {
    if further.is_some() { Found::Nowhere } else { Found::Made(value) }
}

/// An index as JavaScript knows it: digits without a leading zero.
fn index(step: &str) -> Option<usize> {
    let index: usize = step.parse().ok()?;
    (index.to_string() == step).then_some(index)
}

fn extreme(arguments: &[Value], from: f64, better: impl Fn(f64, f64) -> bool) -> Value {
    let pick = |best: f64, next: f64| if next.is_nan() || better(best, next) { next } else { best };
    of_number(arguments.iter().map(number).fold(from, |best, next| if best.is_nan() { best } else { pick(best, next) }))
}

/// Letters from `start` (from the end, if negative), `length` of them, or all but `-length`.
fn part(whole: &str, start: f64, length: Option<f64>) -> String {
    let letters: Vec<char> = whole.chars().collect();
    let count = letters.len() as f64;
    // `NaN as usize` is 0, which is what JavaScript takes it for.
    let from = if start < 0.0 { (count + start.trunc()).max(0.0) } else { start.trunc().min(count) } as usize;
    let until = match length.map(f64::trunc) {
        None => count,
        Some(length) if length < 0.0 => count + length,
        Some(length) if length.is_nan() => 0.0,
        Some(length) => from as f64 + length,
    };
    let until = (until.clamp(0.0, count) as usize).max(from);
    letters[from..until].iter().collect()
}

fn both(arguments: &[Value], compare: impl Fn(&str, &str) -> bool) -> Value {
    match arguments {
        [Value::String(whole), Value::String(part)] => Value::Bool(compare(whole, part)),
        _ => Value::Null,
    }
}
