//! `modelyard.toml`: what a model folder says of itself.
//!
//! Promises: every mistake at once, each with its line and, for a misspelt key, what was probably meant.

use std::collections::BTreeMap;
use std::ops::Range;

use modelyard_core::package::{Flag, Resources, Runtime};
use modelyard_core::{ModelName, Version};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// What `modelyard.toml` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Name, version and words.
    pub model: Option<Model>,
    /// How it is run.
    pub runtime: Option<Runtime>,
    /// Files beside the model's own: paths, or patterns with `*` within one folder.
    pub files: Vec<String>,
    /// Samples: a file that holds a list of them, or the list itself.
    pub samples: Option<Samples>,
    /// Training parameters.
    pub parameters: BTreeMap<String, Value>,
    /// Evaluation metrics.
    pub metrics: BTreeMap<String, f64>,
    /// What it was trained with and needs.
    pub dependencies: BTreeMap<String, String>,
    /// Typed flags.
    pub flags: BTreeMap<String, Flag>,
    /// What an instance needs.
    pub resources: Resources,
    /// Free annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The table `[model]`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name of the model.
    #[schemars(with = "String")]
    pub name: ModelName,
    /// Version of the package.
    #[schemars(with = "String")]
    pub version: Version,
    /// One line for lists.
    #[serde(default)]
    pub description: String,
    /// Licence, as an SPDX expression.
    pub license: Option<String>,
    /// Authors.
    #[serde(default)]
    pub authors: Vec<String>,
    /// Path of the model card.
    pub card: Option<String>,
}

/// Where the samples are.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Samples {
    /// A JSON file with a list.
    File(String),
    /// The list itself.
    Inline(Vec<Value>),
}

/// The table `[resources]`, as people write it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenResources {
    /// Memory limit: `"96MiB"`, `"2GiB"`, or bytes.
    pub memory: Option<Quantity>,
    /// CPU share as a number of cores: `0.5`.
    pub cpu: Option<f64>,
}

/// A number, or a number with a unit.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Quantity {
    /// Bytes.
    Bytes(u64),
    /// With a unit.
    Text(String),
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong and what to write instead.
    pub what: String,
    /// Its line, from 1.
    pub line: usize,
    /// Bytes of the text that are meant.
    pub at: Range<usize>,
}

/// The keys of the file, and those of each table that has fixed ones.
const KEYS: [(&str, &[&str]); 10] = [
    ("model", &["name", "version", "description", "license", "authors", "card"]),
    ("runtime", &["kind", "model", "command", "health", "environment"]),
    ("files", &[]),
    ("samples", &[]),
    ("parameters", &[]),
    ("metrics", &[]),
    ("dependencies", &[]),
    ("flags", &[]),
    ("resources", &["memory", "cpu"]),
    ("annotations", &[]),
];

impl Description {
    /// Reads the text of a `modelyard.toml`.
    ///
    /// # Errors
    /// Every [`Mistake`], in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let (document, broken) = DeTable::parse_recoverable(text);
        let mut reader = Reader { text, mistakes: Vec::new() };
        for error in broken {
            reader.mistake(error.span().unwrap_or(0..0), error.message().to_owned());
        }
        if !reader.mistakes.is_empty() {
            return Err(reader.mistakes);
        }
        let description = reader.document(document.get_ref());
        reader.mistakes.sort_by_key(|mistake| mistake.at.start);
        if reader.mistakes.is_empty() { Ok(description) } else { Err(reader.mistakes) }
    }
}

struct Reader<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn mistake(&mut self, at: Range<usize>, what: String) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        self.mistakes.push(Mistake { what, line: before.matches('\n').count() + 1, at });
    }

    fn document(&mut self, table: &DeTable<'_>) -> Description {
        let mut read = Description::default();
        for (key, value) in table {
            let (name, at) = (key.get_ref().as_ref(), value.span());
            let Some((_, within)) = KEYS.iter().find(|(known, _)| *known == name) else {
                self.unknown(key.span(), name, "", KEYS.iter().map(|(known, _)| *known));
                continue;
            };
            if let (DeValue::Table(inner), false) = (value.get_ref(), within.is_empty()) {
                let odd: Vec<_> = inner.keys().filter(|key| !within.contains(&key.get_ref().as_ref())).collect();
                if !odd.is_empty() {
                    odd.iter().for_each(|key| self.unknown(key.span(), key.get_ref(), name, within.iter().copied()));
                    continue;
                }
            }
            match name {
                "model" => read.model = self.value(name, value.get_ref(), at),
                "runtime" => read.runtime = self.runtime(value.get_ref(), at),
                "files" => read.files = self.value(name, value.get_ref(), at).unwrap_or_default(),
                "samples" => read.samples = self.value(name, value.get_ref(), at),
                "parameters" => read.parameters = self.value(name, value.get_ref(), at).unwrap_or_default(),
                "metrics" => read.metrics = self.value(name, value.get_ref(), at).unwrap_or_default(),
                "dependencies" => read.dependencies = self.value(name, value.get_ref(), at).unwrap_or_default(),
                "flags" => read.flags = self.flags(value.get_ref(), at),
                "resources" => read.resources = self.resources(value.get_ref(), at),
                _ => read.annotations = self.value(name, value.get_ref(), at).unwrap_or_default(),
            }
        }
        for (missing, found) in [("model", table.contains_key("model")), ("runtime", table.contains_key("runtime"))] {
            if !found {
                self.mistake(0..0, format!("the table `[{missing}]` is missing"));
            }
        }
        read
    }

    fn unknown<'k>(
        &mut self,
        at: Range<usize>,
        name: &str,
        within: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let near = known.clone().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let near = near.filter(|near| strsim::jaro_winkler(near, name) > 0.75);
        let place = if within.is_empty() { "here".to_owned() } else { format!("in `[{within}]`") };
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known keys: {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.mistake(at, format!("there is no key `{name}` {place}; {hint}"));
    }

    /// The value in its type; `None` after a mistake.
    fn value<T: DeserializeOwned>(&mut self, name: &str, value: &DeValue<'_>, at: Range<usize>) -> Option<T> {
        let read = plain(value).and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()));
        read.map_err(|why| self.mistake(at, format!("`{name}`: {why}"))).ok()
    }

    fn runtime(&mut self, value: &DeValue<'_>, at: Range<usize>) -> Option<Runtime> {
        let runtime: Runtime = self.value("runtime", value, at.clone())?;
        if let Runtime::Command { command, health, .. } = &runtime {
            if command.first().is_none_or(String::is_empty) {
                self.mistake(at.clone(), "`command` is empty: write the program and its arguments".to_owned());
            }
            if !health.starts_with('/') {
                self.mistake(at, format!("`health` is `{health}`: write a path that starts with `/`"));
            }
        }
        Some(runtime)
    }

    fn flags(&mut self, value: &DeValue<'_>, at: Range<usize>) -> BTreeMap<String, Flag> {
        let flags: BTreeMap<String, Flag> = self.value("flags", value, at.clone()).unwrap_or_default();
        for (name, flag) in &flags {
            if let Some(why) = flag_fault(flag) {
                self.mistake(at.clone(), format!("flag `{name}`: {why}"));
            }
        }
        flags
    }

    fn resources(&mut self, value: &DeValue<'_>, at: Range<usize>) -> Resources {
        let written: WrittenResources = self.value("resources", value, at.clone()).unwrap_or_default();
        let mut read = Resources::default();
        match written.memory {
            None => {}
            Some(Quantity::Bytes(bytes)) => read.memory_bytes = Some(bytes),
            Some(Quantity::Text(text)) => match bytes_of(&text) {
                Some(bytes) => read.memory_bytes = Some(bytes),
                None => self
                    .mistake(at.clone(), format!("`memory` is `{text}`: write a size such as \"96MiB\" or \"2GiB\"")),
            },
        }
        match written.cpu {
            None => {}
            Some(cores) if (0.001..=1_024.0).contains(&cores) => {
                read.cpu_millis = Some((cores * 1_000.0).round() as u32)
            }
            Some(cores) => self.mistake(at, format!("`cpu` is {cores}: write a number of cores such as 0.5")),
        }
        read
    }
}

fn flag_fault(flag: &Flag) -> Option<String> {
    match flag {
        Flag::Boolean { .. } => None,
        Flag::Number { default, minimum, maximum } => {
            let inside = minimum.is_none_or(|low| low <= *default) && maximum.is_none_or(|high| *default <= high);
            (!inside).then(|| format!("the default {default} is outside its limits"))
        }
        Flag::String { default, one_of } => {
            let known = one_of.is_empty() || one_of.contains(default);
            (!known).then(|| format!("the default `{default}` is not among {}", one_of.join(", ")))
        }
    }
}

/// `96MiB`, `2 GiB`, `500kB`, `4096` as bytes.
fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let bytes = number.trim().parse::<f64>().ok()? * factor as f64;
    (1.0..1e18).contains(&bytes).then_some(bytes.round() as u64)
}

/// A TOML value as JSON; dates have no JSON form and are refused.
fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
            Value::from(parsed.map_err(|_| format!("{} does not fit 64 bits", number.as_str()))?)
        }
        DeValue::Float(number) => {
            let parsed: f64 = number.as_str().replace('_', "").parse().map_err(|_| "not a number".to_owned())?;
            serde_json::Number::from_f64(parsed).map(Value::Number).ok_or("infinities and nan have no JSON form")?
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => return Err("dates are not known here; write a text in quotes".to_owned()),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|value| plain(value.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Ok::<_, String>((key.to_string(), plain(value.get_ref())?))
            };
            Value::Object(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "samples = \"s.json\"\n[model]\nname = \"wine\"\nversion = \"1.0.0\"\n[runtime]\nkind = \"onnx\"\nmodel = \"m.onnx\"\n";

    #[test]
    fn a_right_file_is_read() {
        let text = format!("{RIGHT}[resources]\nmemory = \"96MiB\"\ncpu = 0.5\n[metrics]\naccuracy = 1\n");
        let read = Description::parse(&text).unwrap();
        assert_eq!(read.resources, Resources { memory_bytes: Some(96 << 20), cpu_millis: Some(500) });
        assert_eq!(read.metrics["accuracy"], 1.0);
        assert_eq!(read.runtime, Some(Runtime::Onnx { model: "m.onnx".into() }));
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_line() {
        let text =
            RIGHT.replace("name =", "nmae =").replace("kind = \"onnx\"", "kind = \"onxx\"") + "[metrcs]\na = 1\n";
        let mistakes = Description::parse(&text).unwrap_err();
        let shown: Vec<_> = mistakes.iter().map(|mistake| format!("{}: {}", mistake.line, mistake.what)).collect();
        assert_eq!(shown.len(), 3, "{shown:#?}");
        assert!(shown[0].contains("3: there is no key `nmae` in `[model]`; did you mean `name`?"), "{shown:#?}");
        assert!(shown[1].contains("unknown variant `onxx`"), "{shown:#?}");
        assert!(shown[2].contains("did you mean `metrics`?"), "{shown:#?}");
    }

    #[test]
    fn values_outside_their_limits_are_refused() {
        for (extra, what) in [
            ("[resources]\nmemory = \"lots\"\n", "96MiB"),
            ("[resources]\ncpu = -1.0\n", "number of cores"),
            ("[flags.x]\ntype = \"number\"\ndefault = 3.0\nmaximum = 1.0\n", "outside its limits"),
            ("[parameters]\nwhen = 2020-01-01\n", "dates"),
        ] {
            let mistakes = Description::parse(&format!("{RIGHT}{extra}")).unwrap_err();
            assert!(mistakes[0].what.contains(what), "{mistakes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}") {
            let _ = Description::parse(&text);
        }
    }
}
