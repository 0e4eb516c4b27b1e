//! A document in flagd's format, read and checked.
//!
//! Promises: every mistake at once, each with its place; what passes has only variants that exist, operators that are known, and rules of
//! bounded size. `$ref`s are replaced by their `$evaluators`.
//! Absent on purpose: lists of flags (flagd's newer form for flag sets), which carry no more than the map does.
//! Source: flagd's flag definitions, schema v0.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::RESERVED;
use super::logic::is_operator;

/// Most flags of a document.
const MOST_FLAGS: usize = 1_000;
/// Deepest nesting of a rule, `$ref`s replaced.
const MOST_DEPTH: usize = 64;
/// Most values of a rule, `$ref`s replaced: a document may name an evaluator that names another twice, and so on.
const MOST_VALUES: usize = 20_000;

const WHOLE: [&str; 4] = ["$schema", "flags", "$evaluators", "metadata"];
const FLAG: [&str; 7] = ["state", "variants", "defaultVariant", "targeting", "metadata", "source", "selector"];

/// Metadata of the document that says how `fractional` makes bytes of a key.
const BUCKETING: &str = "modelyard.bucketing";

/// How `fractional` makes bytes of a key. Both are flagd's; another one puts every key into another bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bucketing {
    /// As deterministic CBOR: what flagd decided on, and what its clients do since their core 2.0.
    #[default]
    Cbor,
    /// As plain text, flag and targeting key written one after the other: before that.
    Text,
}

/// Flags with variants and rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub(super) flags: BTreeMap<String, Defined>,
    pub(super) metadata: Map<String, Value>,
    pub(super) bucketing: Bucketing,
}

/// One flag.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Defined {
    pub(super) enabled: bool,
    pub(super) variants: BTreeMap<String, Value>,
    pub(super) default: Option<String>,
    pub(super) targeting: Option<Value>,
    pub(super) metadata: Map<String, Value>,
}

impl Definition {
    /// Reads a document.
    ///
    /// # Errors
    /// Every mistake, for whoever wrote it.
    pub fn parse(document: &Value) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let Value::Object(whole) = document else {
            return Err(vec!["the document is no object; write {\"flags\": {…}}".to_owned()]);
        };
        unknown(whole, &WHOLE, "the document", &mut mistakes);
        let metadata = metadata(whole.get("metadata"), "the document", &mut mistakes);
        let bucketing = match metadata.get(BUCKETING).map(|value| value.as_str()) {
            None | Some(Some("cbor")) => Bucketing::Cbor,
            Some(Some("text")) => Bucketing::Text,
            Some(_) => {
                mistakes.push(format!("`metadata.{BUCKETING}` is \"cbor\" or \"text\""));
                Bucketing::Cbor
            }
        };
        let none = Map::new();
        let evaluators = match whole.get("$evaluators") {
            None => &none,
            Some(Value::Object(evaluators)) => evaluators,
            Some(_) => {
                mistakes.push("`$evaluators` is no object of rules by name".to_owned());
                &none
            }
        };
        let mut flags = BTreeMap::new();
        match whole.get("flags") {
            Some(Value::Object(map)) if map.len() > MOST_FLAGS => {
                mistakes.push(format!("it has {} flags, of at most {MOST_FLAGS}", map.len()));
            }
            Some(Value::Object(map)) => {
                for (key, value) in map {
                    flags.extend(flag(key, value, evaluators, &mut mistakes).map(|flag| (key.clone(), flag)));
                }
            }
            Some(_) => mistakes.push("`flags` is no object of flags by key".to_owned()),
            None => mistakes.push("`flags` is missing".to_owned()),
        }
        if mistakes.is_empty() { Ok(Self { flags, metadata, bucketing }) } else { Err(mistakes) }
    }

    /// The keys of its flags, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.flags.keys().map(String::as_str)
    }

    /// What is said of all its flags.
    pub const fn metadata(&self) -> &Map<String, Value> {
        &self.metadata
    }
}

fn unknown(map: &Map<String, Value>, known: &[&str], what: &str, mistakes: &mut Vec<String>) {
    for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
        mistakes.push(format!("{what} has no key `{}`; known are {}", shown(key), known.join(", ")));
    }
}

/// A caller's text, cut and without anything that a terminal would obey.
fn shown(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

fn metadata(value: Option<&Value>, what: &str, mistakes: &mut Vec<String>) -> Map<String, Value> {
    match value {
        None => Map::new(),
        Some(Value::Object(map)) => {
            let wrong = map.iter().filter(|(key, value)| {
                key.is_empty() || matches!(value, Value::Null | Value::Array(_) | Value::Object(_))
            });
            mistakes.extend(
                wrong.map(|(key, _)| {
                    format!("the metadata `{}` of {what} is no text, number, true or false", shown(key))
                }),
            );
            map.clone()
        }
        Some(_) => {
            mistakes.push(format!("the metadata of {what} is no object"));
            Map::new()
        }
    }
}

fn flag(key: &str, value: &Value, evaluators: &Map<String, Value>, mistakes: &mut Vec<String>) -> Option<Defined> {
    let what = format!("the flag `{}`", shown(key));
    if key.is_empty() || key.len() > 256 || key.chars().any(char::is_control) {
        mistakes.push(format!("{what} has no usable key: write 1 to 256 bytes without control characters"));
    }
    if key.starts_with(RESERVED) {
        mistakes.push(format!("{what}: keys that begin with `{RESERVED}` are Modelyard's own"));
    }
    let Value::Object(map) = value else {
        mistakes.push(format!("{what} is no object"));
        return None;
    };
    unknown(map, &FLAG, &what, mistakes);
    let enabled = match map.get("state").and_then(Value::as_str) {
        Some("ENABLED") => true,
        Some("DISABLED") => false,
        _ => {
            mistakes.push(format!("the state of {what} is \"ENABLED\" or \"DISABLED\""));
            return None;
        }
    };
    let variants = variants(map.get("variants"), &what, mistakes)?;
    let default = match map.get("defaultVariant") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name.is_empty() => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(Value::Bool(name)) => Some(name.to_string()),
        Some(_) => {
            mistakes.push(format!("the defaultVariant of {what} is the name of a variant"));
            None
        }
    };
    if let Some(name) = default.as_ref().filter(|name| !variants.contains_key(*name)) {
        let names: Vec<String> = variants.keys().map(|name| shown(name)).collect();
        mistakes.push(format!("the defaultVariant `{}` of {what} is not among {}", shown(name), names.join(", ")));
    }
    let targeting = match map.get("targeting") {
        None | Some(Value::Null) => None,
        Some(Value::Object(rule)) if rule.is_empty() => None,
        Some(rule @ Value::Object(_)) => expand(rule, evaluators, &what, mistakes),
        Some(_) => {
            mistakes.push(format!("the targeting of {what} is no rule: write an object such as {{\"if\": […]}}"));
            None
        }
    };
    let metadata = metadata(map.get("metadata"), &what, mistakes);
    Some(Defined { enabled, variants, default, targeting, metadata })
}

fn variants(value: Option<&Value>, what: &str, mistakes: &mut Vec<String>) -> Option<BTreeMap<String, Value>> {
    let map = match value {
        Some(Value::Object(map)) if !map.is_empty() => map,
        _ => {
            mistakes.push(format!("{what} has no variants: write an object of values by name"));
            return None;
        }
    };
    let kind = |value: &Value| match value {
        Value::Bool(_) => Some("true or false"),
        Value::Number(_) => Some("numbers"),
        Value::String(_) => Some("texts"),
        Value::Array(_) | Value::Object(_) => Some("objects"),
        Value::Null => None,
    };
    let mut kinds: Vec<Option<&str>> = map.values().map(kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() != 1 || kinds[0].is_none() {
        mistakes.push(format!("the variants of {what} are not all of one type, or one is null"));
    }
    Some(map.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The rule with every `$ref` replaced, when nothing is wrong with it.
fn expand(rule: &Value, evaluators: &Map<String, Value>, what: &str, mistakes: &mut Vec<String>) -> Option<Value> {
    let mut expansion = Expansion { evaluators, open: Vec::new(), values: 0 };
    match expansion.run(rule, 0) {
        Ok(rule) => Some(rule),
        Err(why) => {
            mistakes.push(format!("the targeting of {what}: {why}"));
            None
        }
    }
}

struct Expansion<'a> {
    evaluators: &'a Map<String, Value>,
    /// Names that are being replaced: one within itself would never end.
    open: Vec<&'a str>,
    values: usize,
}

impl<'a> Expansion<'a> {
    fn run(&mut self, rule: &'a Value, depth: usize) -> Result<Value, String> {
        self.values += 1;
        if depth > MOST_DEPTH || self.values > MOST_VALUES {
            return Err(format!("it is larger than {MOST_VALUES} values, or deeper than {MOST_DEPTH}"));
        }
        match rule {
            Value::Array(list) => list.iter().map(|item| self.run(item, depth + 1)).collect(),
            Value::Object(map) => match map.iter().next() {
                Some((key, Value::String(name))) if map.len() == 1 && key == "$ref" => self.reference(name, depth),
                Some((operator, _)) if map.len() == 1 && !is_operator(operator) => {
                    Err(format!("there is no operator `{}`", shown(operator)))
                }
                _ => {
                    let entry = |(key, value): (&String, &'a Value)| Ok((key.clone(), self.run(value, depth + 1)?));
                    map.iter().map(entry).collect::<Result<Map<_, _>, _>>().map(Value::Object)
                }
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(rule.clone()),
        }
    }

    fn reference(&mut self, name: &'a str, depth: usize) -> Result<Value, String> {
        let rule = self.evaluators.get(name).ok_or_else(|| format!("`$evaluators` has no `{}`", shown(name)))?;
        if self.open.contains(&name) {
            return Err(format!("the evaluator `{}` refers to itself", shown(name)));
        }
        self.open.push(name);
        let expanded = self.run(rule, depth + 1);
        self.open.pop();
        expanded
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistakes(document: Value) -> String {
        Definition::parse(&document).unwrap_err().join("; ")
    }

    fn with(change: Value) -> Value {
        let mut flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off"});
        flag.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"flags": {"banner": flag}})
    }

    #[test]
    fn what_flagd_takes_is_taken() {
        let document = json!({
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": {"banner": {
                "state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
                "targeting": {"if": [{"$ref": "staff"}, "on", null]}, "metadata": {"version": "17"},
            }},
            "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
            "metadata": {"team": "shop"},
        });
        let read = Definition::parse(&document).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["banner"]);
        let rule = json!({"if": [{"ends_with": [{"var": "email"}, "@example.com"]}, "on", null]});
        assert_eq!(read.flags["banner"].targeting, Some(rule));
        assert_eq!(read.bucketing, Bucketing::Cbor);
        for plain in
            [json!({}), json!({"targeting": {}}), json!({"defaultVariant": null}), json!({"defaultVariant": ""})]
        {
            assert!(Definition::parse(&with(plain.clone())).is_ok(), "{plain}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let said = mistakes(json!({
            "flag": {}, "metadata": {"a": []},
            "flags": {
                "a": {"state": "on", "variants": {"x": 1}},
                "b": {"state": "ENABLED", "variants": {"x": 1, "y": "1"}, "defaultVariant": "z", "target": {}},
                "modelyard.arm": {"state": "ENABLED", "variants": {"x": 1}},
            },
        }));
        for part in [
            "no key `flag`",
            "metadata `a` of the document",
            "the state of the flag `a`",
            "variants of the flag `b` are not all of one type",
            "defaultVariant `z` of the flag `b` is not among x, y",
            "the flag `b` has no key `target`",
            "are Modelyard's own",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn rules_that_cannot_be_evaluated_are_refused() {
        for (change, part) in [
            (json!({"targeting": {"iff": [true, "on"]}}), "no operator `iff`"),
            (json!({"targeting": {"if": [{"$ref": "nobody"}, "on"]}}), "has no `nobody`"),
            (json!({"targeting": ["on"]}), "is no rule"),
        ] {
            assert!(mistakes(with(change.clone())).contains(part), "{change}");
        }
        let deep = (0..70).fold(json!("on"), |rule, _| json!({"!": [rule]}));
        assert!(mistakes(with(json!({"targeting": {"if": [deep, "on"]}}))).contains("deeper than 64"));
    }

    #[test]
    fn references_cannot_run_away() {
        let mut document = with(json!({"targeting": {"$ref": "a"}}));
        document["$evaluators"] = json!({"a": {"!": [{"$ref": "b"}]}, "b": {"!": [{"$ref": "a"}]}});
        assert!(mistakes(document.clone()).contains("refers to itself"));
        let twice = |name: String| json!({"and": [{"$ref": name}, {"$ref": name}]});
        let mut evaluators: Map<String, Value> =
            (0..24).map(|n| (format!("e{n}"), twice(format!("e{}", n + 1)))).collect();
        evaluators.insert("e24".into(), json!(true));
        document["$evaluators"] = Value::Object(evaluators);
        document["flags"]["banner"]["targeting"] = json!({"$ref": "e0"});
        assert!(mistakes(document).contains("larger than 20000"));
    }

    #[test]
    fn the_document_says_how_keys_become_bytes() {
        let mut document = with(json!({}));
        document["metadata"] = json!({"modelyard.bucketing": "text"});
        assert_eq!(Definition::parse(&document).unwrap().bucketing, Bucketing::Text);
        document["metadata"] = json!({"modelyard.bucketing": "md5"});
        assert!(mistakes(document).contains("\"cbor\" or \"text\""));
    }
}
