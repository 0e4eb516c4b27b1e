//! Reading a `service.toml` against its keys: every mistake at once, each with its place and what to write instead.

use modelyard_core::{Millis, ServiceName, Weight, nearest};
use toml::de::{DeArray, DeTable, DeValue};
use toml::{Spanned, Value};

use super::keys::{self, Key, Kind};

/// One mistake, with its place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong and what to write instead.
    pub what: String,
    /// Bytes of the text that are meant.
    pub at: std::ops::Range<usize>,
}

/// Reads `text` against `keys`: what is right, in the form that serde wants, and every mistake.
pub fn read(text: &str, keys: &'static [Key]) -> (toml::Table, Vec<Mistake>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut checker = Checker::default();
    for error in errors {
        checker.mistake(error.span().unwrap_or(0..0), error.message().to_owned());
    }
    let table = if checker.mistakes.is_empty() {
        checker.table(document.get_ref(), keys, "")
    } else {
        toml::Table::new() // A text that is no TOML would only bring mistakes that are none.
    };
    checker.mistakes.sort_by_key(|mistake| mistake.at.start);
    (table, checker.mistakes)
}

#[derive(Default)]
struct Checker {
    mistakes: Vec<Mistake>,
}

impl Checker {
    fn mistake(&mut self, at: std::ops::Range<usize>, what: String) {
        self.mistakes.push(Mistake { what, at });
    }

    fn table(&mut self, table: &DeTable<'_>, keys: &'static [Key], within: &str) -> toml::Table {
        let mut read = toml::Table::new();
        for (name, value) in table {
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref().as_ref()) else {
                let known = keys.iter().map(|key| key.name);
                self.mistake(name.span(), unknown_key(name.get_ref(), known, within));
                continue;
            };
            if let Some(value) = self.value(value, key) {
                read.insert(key.field().to_owned(), value);
            }
        }
        read
    }

    /// The value in the form that serde wants; `None` after a mistake.
    fn value(&mut self, value: &Spanned<DeValue<'_>>, key: &Key) -> Option<Value> {
        let (given, at) = (value.get_ref(), value.span());
        let read = match (key.kind, given) {
            (Kind::Table(keys), DeValue::Table(table)) => Ok(Value::Table(self.table(table, keys, key.name))),
            (Kind::Tables(keys), DeValue::Array(list)) => return self.tables(list, keys, key.name),
            (Kind::Named(keys), DeValue::Table(table)) => return self.named(table, keys, key.name),
            (Kind::Strategy, DeValue::Table(table)) => return self.strategy(table, at),
            // A strategy with its defaults may be named only.
            (Kind::Strategy, DeValue::String(kind)) => strategy_named(kind),
            (Kind::Texts, DeValue::Table(table)) => Ok(Value::Table(self.texts(table))),
            (Kind::Values, DeValue::Table(_)) | (Kind::Any, _) => plain(given),
            (Kind::Numbers, DeValue::Table(_)) => plain(given).and_then(numbers),
            (Kind::List, DeValue::Array(_)) => plain(given).and_then(texts),
            (Kind::Names, DeValue::Array(_)) => plain(given).and_then(texts).and_then(all_names),
            (Kind::Choices(words), DeValue::Array(_)) => {
                plain(given).and_then(texts).and_then(|list| among(list, words))
            }
            (Kind::Day, DeValue::Datetime(day)) => scalar(Kind::Day, Value::String(day.to_string())),
            (Kind::Limits, DeValue::Array(_)) => plain(given).and_then(limits),
            (Kind::Share, DeValue::Integer(_) | DeValue::String(_)) => plain(given).and_then(|value| share(&value)),
            (Kind::Steps, DeValue::Array(_)) => plain(given).and_then(|value| steps(&value)),
            (kind, _) => plain(given).and_then(|value| scalar(kind, value)),
        };
        read.map_err(|why| self.mistake(at, format!("`{}` {why}", key.name))).ok()
    }

    fn strategy(&mut self, table: &DeTable<'_>, at: std::ops::Range<usize>) -> Option<Value> {
        let Some((_, kind)) = table.iter().find(|(name, _)| name.get_ref().as_ref() == "kind") else {
            let what = format!("`strategy` needs `kind`: one of {}", names().join(", "));
            self.mistake(at, what);
            return None;
        };
        let named = kind.get_ref().as_str().ok_or_else(|| "must be a text".to_owned()).and_then(strategy_named);
        let base = named.map_err(|why| self.mistake(kind.span(), format!("`kind` {why}"))).ok()?;
        let name = kind.get_ref().as_str().unwrap_or_default();
        let known = keys::strategy(name)?;
        let mut read = base.try_into::<toml::Table>().unwrap_or_default();
        let rest: DeTable<'_> = table
            .iter()
            .filter(|(key, _)| key.get_ref().as_ref() != "kind")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        read.extend(self.table(&rest, known, &format!("the strategy {name}")));
        Some(Value::Table(read))
    }

    /// Tables in a list, each with all of its keys.
    fn tables(&mut self, list: &DeArray<'_>, keys: &'static [Key], within: &str) -> Option<Value> {
        let mut read = Vec::new();
        for item in list {
            let DeValue::Table(table) = item.get_ref() else {
                self.mistake(item.span(), format!("`{within}` is a list of tables: write `[[{within}]]`"));
                continue;
            };
            for key in keys.iter().filter(|key| key.default.is_empty()) {
                if !table.iter().any(|(name, _)| name.get_ref().as_ref() == key.name) {
                    self.mistake(item.span(), format!("`{}` is missing in {within}: {}", key.name, key.words));
                }
            }
            read.push(Value::Table(self.table(table, keys, within)));
        }
        Some(Value::Array(read))
    }

    /// Tables by name, each with all of its keys.
    fn named(&mut self, table: &DeTable<'_>, keys: &'static [Key], within: &str) -> Option<Value> {
        let mut read = toml::Table::new();
        for (name, value) in table {
            let place = format!("{within}.{}", name.get_ref());
            let DeValue::Table(one) = value.get_ref() else {
                self.mistake(value.span(), format!("`{place}` is a table: write `[{place}]`"));
                continue;
            };
            for key in keys.iter().filter(|key| key.default.is_empty()) {
                if !one.iter().any(|(name, _)| name.get_ref().as_ref() == key.name) {
                    self.mistake(name.span(), format!("`{}` is missing in `{place}`: {}", key.name, key.words));
                }
            }
            read.insert(name.get_ref().to_string(), Value::Table(self.table(one, keys, &place)));
        }
        Some(Value::Table(read))
    }

    fn texts(&mut self, table: &DeTable<'_>) -> toml::Table {
        let mut read = toml::Table::new();
        for (name, value) in table {
            match value.get_ref().as_str() {
                Some(text) => {
                    read.insert(name.get_ref().to_string(), Value::String(text.to_owned()));
                }
                None => self.mistake(value.span(), format!("`{}` must be a text: write it in quotes", name.get_ref())),
            }
        }
        read
    }
}

fn names() -> Vec<&'static str> {
    keys::STRATEGIES.iter().map(|(name, _, _)| *name).collect()
}

fn strategy_named(name: &str) -> Result<Value, String> {
    if keys::strategy(name).is_none() {
        return Err(not_one_of(name, &names()));
    }
    Ok(Value::Table(toml::Table::from_iter([("kind".to_owned(), Value::String(name.to_owned()))])))
}

/// What to say of a key that is not known.
fn unknown_key(given: &str, known: impl Iterator<Item = &'static str> + Clone, within: &str) -> String {
    let place = if within.is_empty() { String::new() } else { format!(" in {within}") };
    match nearest(given, known.clone()) {
        Some(meant) => format!("`{given}` is no key{place}; did you mean `{meant}`?"),
        None => format!("`{given}` is no key{place}; known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

fn not_one_of(given: &str, known: &[&'static str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(meant) => format!("is not `{given}`; did you mean `{meant}`? (one of {})", known.join(", ")),
        None => format!("is not `{given}` but one of {}", known.join(", ")),
    }
}

/// A value of the parser as a plain one.
fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map(Value::Integer)
            .map_err(|_| "is too large a number".to_owned())?,
        DeValue::Float(number) => {
            number.as_str().replace('_', "").parse().map(Value::Float).map_err(|_| "is no number".to_owned())?
        }
        DeValue::Boolean(switch) => Value::Boolean(*switch),
        DeValue::Datetime(_) => return Err("cannot be a date".to_owned()),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|item| plain(item.get_ref())).collect::<Result<_, String>>()?)
        }
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, value)| Ok((name.get_ref().to_string(), plain(value.get_ref())?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

fn scalar(kind: Kind, value: Value) -> Result<Value, String> {
    let wrong = |wanted: &str, value: &Value| Err(format!("must be {wanted}, not a {}", value.type_str()));
    match (kind, &value) {
        (Kind::Package | Kind::Text, Value::String(_)) | (Kind::Switch, Value::Boolean(_)) => Ok(value),
        (Kind::Name, Value::String(text)) => ServiceName::new(text).map(|_| value.clone()).map_err(|e| e.to_string()),
        (Kind::Whole(least), Value::Integer(number)) => match u64::try_from(*number) {
            Ok(number) if number >= least => Ok(value),
            _ => Err(format!("must be at least {least}, not {number}")),
        },
        (Kind::Number(low, high), Value::Integer(_) | Value::Float(_)) => {
            let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)).unwrap_or(f64::NAN);
            if (low..=high).contains(&number) {
                Ok(Value::Float(number))
            } else {
                Err(format!("must be between {low} and {high}, not {number}"))
            }
        }
        (Kind::Span, Value::String(text)) => {
            text.parse::<Millis>().map(|_| value.clone()).map_err(|_| span_words(&format!("`{text}`")))
        }
        (Kind::Span, other) => Err(span_words(&other.to_string())),
        (Kind::Day, other) => {
            day(other).map(Value::Integer).ok_or_else(|| format!("must be a day such as \"2027-03-01\", not {other}"))
        }
        (Kind::Size, Value::Integer(bytes)) if *bytes > 0 => Ok(value),
        (Kind::Size, other) => other
            .as_str()
            .and_then(bytes)
            .map(Value::Integer)
            .ok_or_else(|| format!("must be a size such as \"96MiB\", not {other}")),
        (Kind::Cores, Value::Integer(_) | Value::Float(_)) => {
            let cores = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)).unwrap_or(f64::NAN);
            // 4096 cores: more than any machine has. The cast is exact after rounding.
            if (0.001..=4_096.0).contains(&cores) {
                Ok(Value::Integer((cores * 1_000.0).round() as i64))
            } else {
                Err(format!("must be a number of cores such as 0.5 or 2, not {cores}"))
            }
        }
        (Kind::Choice(words), Value::String(text)) => {
            if words.contains(&text.as_str()) {
                Ok(value)
            } else {
                Err(not_one_of(text, words))
            }
        }
        (Kind::Name | Kind::Choice(_) | Kind::Text, other) => wrong("a text", other),
        (Kind::Package, other) => wrong("a text such as \"wine:2.1.0\" or \"./wine\"", other),
        (Kind::Switch, other) => wrong("true or false", other),
        (Kind::Whole(_), other) => wrong("a whole number", other),
        (Kind::Number(..) | Kind::Cores, other) => wrong("a number", other),
        (Kind::Steps, other) => wrong("a list such as [\"10%\", \"50%\", \"100%\"]", other),
        (Kind::Strategy, other) => wrong("a strategy's name or a table with `kind`", other),
        (Kind::Share, other) => wrong("a share such as \"50%\", or basis points", other),
        (Kind::List | Kind::Names | Kind::Choices(_), other) => wrong("a list of texts", other),
        (Kind::Limits, other) => wrong("a list of two numbers such as [0, 1]", other),
        (Kind::Any, _) => Ok(value),
        (Kind::Tables(_), other) => wrong("a list of tables", other),
        (Kind::Texts | Kind::Values | Kind::Numbers | Kind::Table(_) | Kind::Named(_), other) => {
            wrong("a table", other)
        }
    }
}

/// The beginning of a day in UTC, in milliseconds since 1970.
fn day(value: &Value) -> Option<i64> {
    let date: jiff::civil::Date = value.as_str()?.parse().ok()?;
    let begins = jiff::tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
    Some(begins.as_millisecond()).filter(|&at| at >= 0)
}

fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)).filter(|number| number.is_finite())
}

/// Numbers by name.
fn numbers(table: Value) -> Result<Value, String> {
    let entries = table.as_table().into_iter().flatten();
    let read = entries.map(|(name, value)| {
        number(value)
            .map(|number| (name.clone(), Value::Float(number)))
            .ok_or_else(|| format!("has no number at `{name}`"))
    });
    Ok(Value::Table(read.collect::<Result<_, String>>()?))
}

fn texts(list: Value) -> Result<Value, String> {
    let all = list.as_array().is_some_and(|items| items.iter().all(Value::is_str));
    if all { Ok(list) } else { Err("must be a list of texts".to_owned()) }
}

fn all_names(list: Value) -> Result<Value, String> {
    let wrong = list.as_array().into_iter().flatten().filter_map(Value::as_str).find_map(|n| ServiceName::new(n).err());
    wrong.map_or(Ok(list), |error| Err(error.to_string()))
}

fn among(list: Value, words: &[&'static str]) -> Result<Value, String> {
    let strange = list.as_array().into_iter().flatten().filter_map(Value::as_str).find(|word| !words.contains(word));
    match strange {
        Some(word) => Err(not_one_of(word, words)),
        None => Ok(list),
    }
}

fn limits(list: Value) -> Result<Value, String> {
    let read: Option<Vec<f64>> = list.as_array().and_then(|items| items.iter().map(number).collect());
    match read.as_deref() {
        Some(&[low, high]) if low < high => Ok(Value::Array(vec![Value::Float(low), Value::Float(high)])),
        _ => Err("must be two numbers, the smaller first, such as [0, 1]".to_owned()),
    }
}

/// One share as basis points.
fn share(value: &Value) -> Result<Value, String> {
    step(value)
        .map(|share| Value::Integer(share.basis_points().into()))
        .map_err(|_| format!("is {value}; write a share such as \"50%\", or basis points from 1 to 10000"))
}

/// Reads `96MiB`, `1.5GB`, `4096`.
fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "kib" | "k" => 1024.0,
        "mb" => 1e6,
        "mib" | "m" => 1024.0 * 1024.0,
        "gb" => 1e9,
        "gib" | "g" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.trim().parse::<f64>().ok()? * factor;
    // 1 PiB: beyond that it is a typing error. The cast is exact after rounding.
    (1.0..=1.126e15).contains(&bytes).then_some(bytes.round() as i64)
}

fn span_words(given: &str) -> String {
    format!("must be a span of time such as \"250ms\", \"1.5s\" or \"10m\", not {given}")
}

/// Shares of traffic as basis points, in growing order.
fn steps(list: &Value) -> Result<Value, String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let points: Vec<Weight> = items.iter().map(step).collect::<Result<_, String>>()?;
    // Nobody plans a rollout that ends at 1 %: whoever writes 10, 50, 100 means percent.
    let small = |item: &Value| item.as_integer().is_some_and(|number| number <= 100);
    if !items.is_empty() && items.iter().all(small) {
        return Err("counts in basis points (10000 is all); for percent write texts such as \"10%\"".to_owned());
    }
    Ok(Value::Array(points.into_iter().map(|w| Value::Integer(w.basis_points().into())).collect()))
}

fn step(item: &Value) -> Result<Weight, String> {
    let refuse = || format!("has a step {item}; write a share such as \"10%\", or basis points from 1 to 10000");
    let share = match item {
        Value::String(text) => percent(text).ok_or_else(refuse)?,
        Value::Integer(points) => u16::try_from(*points).ok().and_then(|p| Weight::new(p).ok()).ok_or_else(refuse)?,
        _ => return Err(refuse()),
    };
    if share == Weight::NONE { Err(refuse()) } else { Ok(share) }
}

/// Reads `10%`, `12.5 %` or `10`.
pub fn percent(text: &str) -> Option<Weight> {
    let number: f64 = text.trim().trim_end_matches('%').trim_end().parse().ok()?;
    let points = number * 100.0;
    // The cast is exact: the range was checked, and a share finer than a basis point is refused.
    ((0.0..=10_000.0).contains(&points) && (points - points.round()).abs() < 1e-6)
        .then(|| Weight::new(points.round() as u16).ok())
        .flatten()
}
