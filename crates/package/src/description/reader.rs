//! Reading TOML value by value: each has its place in the text, and a wrong one does not keep the next from being read.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use modelyard_core::nearest;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Mistake, Placed};

type Toml<'v> = Spanned<DeValue<'v>>;

/// A table whose keys are read one by one.
pub(super) struct Table<'v> {
    /// As people write it: `model`, `flags.threshold`; empty for the whole file.
    pub(super) name: String,
    pub(super) at: Range<usize>,
    pub(super) entries: &'v DeTable<'v>,
    /// The keys that it may have; empty for one that may have any.
    pub(super) known: &'v [&'v str],
}

/// Collects mistakes.
pub(super) struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, mistakes: Vec::new() }
    }

    pub(super) fn mistake(&mut self, at: Range<usize>, what: impl Into<String>) {
        self.mistakes.push(Mistake::new(self.text, at, what.into()));
    }

    /// All mistakes, in the order of the text.
    pub(super) fn into_mistakes(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| mistake.at.start);
        self.mistakes
    }

    fn wrong_kind(&mut self, name: &str, value: &Toml<'_>, wanted: &str) {
        let kind = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.mistake(value.span(), format!("`{}` is {kind}: write {wanted}", name.escape_debug()));
    }

    /// The table under `key`, with its unknown keys reported.
    pub(super) fn table<'v>(&mut self, within: &Table<'v>, key: &str, known: &'v [&'v str]) -> Option<Table<'v>> {
        let table = Table { known, ..self.free_table(within, key)? };
        self.refuse_unknown(&table, known);
        Some(table)
    }

    /// A table that may have any keys.
    pub(super) fn free_table<'v>(&mut self, within: &Table<'v>, key: &str) -> Option<Table<'v>> {
        let value = within.entries.get(key)?;
        let name = if within.name.is_empty() { key.to_owned() } else { format!("{}.{key}", within.name) };
        match value.get_ref() {
            DeValue::Table(entries) => Some(Table { name, at: value.span(), entries, known: &[] }),
            _ => {
                self.wrong_kind(&name, value, &format!("a table, `[{name}]`"));
                None
            }
        }
    }

    pub(super) fn refuse_unknown(&mut self, table: &Table<'_>, known: &[&str]) {
        for key in table.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let place = if table.name.is_empty() { "here".to_owned() } else { format!("in `[{}]`", table.name) };
            let hint = match nearest(name, known.iter().copied()) {
                _ if !table.name.is_empty() && super::ALONE.contains(&name) => {
                    format!("`{name}` belongs above the first table")
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            self.mistake(key.span(), format!("there is no key `{}` {place}; {hint}", name.escape_debug()));
        }
    }

    /// Reports a missing key, unless an unknown one in the same table was probably meant to be it, which is told already.
    fn missing(&mut self, table: &Table<'_>, key: &str, example: &str) {
        let unknown = table.entries.keys().map(|other| other.get_ref().as_ref());
        if nearest(key, unknown).is_some_and(|near| nearest(near, table.known.iter().copied()) == Some(key)) {
            return;
        }
        self.mistake(table.at.clone(), format!("`{key}` is missing in `[{}]`: write {key} = {example}", table.name));
    }

    /// The text under `key`.
    pub(super) fn text(&mut self, table: &Table<'_>, key: &str) -> Option<Placed<String>> {
        let value = table.entries.get(key)?;
        self.as_text(key, value)
    }

    fn as_text(&mut self, name: &str, value: &Toml<'_>) -> Option<Placed<String>> {
        match value.get_ref() {
            DeValue::String(text) if text.contains('\0') => {
                self.mistake(value.span(), format!("`{name}` holds a NUL character"));
                None
            }
            DeValue::String(text) => Some(Placed { value: text.to_string(), at: value.span() }),
            _ => {
                self.wrong_kind(name, value, "a text in quotes");
                None
            }
        }
    }

    /// The text under `key`, which must be there.
    pub(super) fn required(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<Placed<String>> {
        if !table.entries.contains_key(key) {
            self.missing(table, key, example);
        }
        self.text(table, key)
    }

    /// The text under `key`, which must be there and of the form of `T`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        example: &str,
    ) -> Option<T> {
        let text = self.required(table, key, example)?;
        text.value.parse().map_err(|why| self.mistake(text.at, format!("`{key}`: {why}"))).ok()
    }

    /// The list of texts under `key`.
    pub(super) fn texts(&mut self, table: &Table<'_>, key: &str) -> Option<Vec<Placed<String>>> {
        let value = table.entries.get(key)?;
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong_kind(key, value, "a list, such as [\"one\", \"two\"]");
            return None;
        };
        Some(list.iter().filter_map(|value| self.as_text(key, value)).collect())
    }

    /// The number under `key`.
    pub(super) fn number(&mut self, table: &Table<'_>, key: &str) -> Option<Placed<f64>> {
        let value = table.entries.get(key)?;
        self.as_number(key, value).map(|number| Placed { value: number, at: value.span() })
    }

    fn as_number(&mut self, name: &str, value: &Toml<'_>) -> Option<f64> {
        if !matches!(value.get_ref(), DeValue::Integer(_) | DeValue::Float(_)) {
            self.wrong_kind(name, value, "a number");
            return None;
        }
        self.json(name, value)?.as_f64()
    }

    /// The texts of a free table.
    pub(super) fn named_texts(&mut self, within: &Table<'_>, key: &str) -> BTreeMap<String, String> {
        self.each(within, key, |reader, name, value| reader.as_text(name, value).map(|text| text.value))
    }

    /// The texts of a free table, with their places.
    pub(super) fn named_placed(&mut self, within: &Table<'_>, key: &str) -> BTreeMap<String, Placed<String>> {
        self.each(within, key, Self::as_text)
    }

    /// The numbers of a free table.
    pub(super) fn named_numbers(&mut self, within: &Table<'_>, key: &str) -> BTreeMap<String, f64> {
        self.each(within, key, Self::as_number)
    }

    /// The values of a free table, whatever they are.
    pub(super) fn named_values(&mut self, within: &Table<'_>, key: &str) -> BTreeMap<String, Value> {
        self.each(within, key, Self::json)
    }

    fn each<T>(
        &mut self,
        within: &Table<'_>,
        key: &str,
        mut read: impl FnMut(&mut Self, &str, &Toml<'_>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(table) = self.free_table(within, key) else { return BTreeMap::new() };
        let entries = table.entries.iter();
        entries
            .filter_map(|(name, value)| Some((name.get_ref().to_string(), read(self, name.get_ref(), value)?)))
            .collect()
    }

    /// A value as JSON.
    pub(super) fn json(&mut self, name: &str, value: &Toml<'_>) -> Option<Value> {
        json(value).map_err(|(at, why)| self.mistake(at, format!("`{name}`: {why}"))).ok()
    }
}

/// A TOML value as JSON, or where and why it has no such form.
fn json(value: &Toml<'_>) -> Result<Value, (Range<usize>, String)> {
    let refuse = |why: &str| Err((value.span(), why.to_owned()));
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(number) => match i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => return refuse("the number does not fit 64 bits"),
        },
        DeValue::Float(number) => {
            let parsed = number.as_str().replace('_', "").parse().ok().and_then(serde_json::Number::from_f64);
            match parsed {
                Some(number) => Value::Number(number),
                None => return refuse("infinities and nan have no JSON form"),
            }
        }
        DeValue::Datetime(_) => return refuse("dates are not known here; write a text in quotes"),
        DeValue::Array(list) => Value::Array(list.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<toml::de::DeString<'_>>, &Toml<'_>)| {
                Ok((key.get_ref().to_string(), json(value)?))
            };
            Value::Object(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}
