//! What inputs and outputs mean: units, columns and codes that people agreed on, which no datatype tells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::signature::{Signature, TensorSpec};

/// What one input or output means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meaning {
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The unit of its numbers, such as `g/l`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What each of its codes stands for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// What stands in each place of its last axis, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// What inputs and outputs mean, by their name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meanings {
    /// Of inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Meaning>,
    /// Of outputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Meaning>,
}

/// Most codes or columns that are told on one line.
const SHOWN: usize = 12;

impl Meaning {
    /// On one line, for people; without control characters.
    pub fn line(&self) -> String {
        let few = |all: Vec<String>| {
            let more = if all.len() > SHOWN { ", …" } else { "" };
            format!("{}{more}", all.into_iter().take(SHOWN).collect::<Vec<_>>().join(", "))
        };
        let codes = self.values.iter().map(|(code, text)| format!("{code} = {text}")).collect();
        let unit = self.unit.as_ref().map(|unit| format!("in {unit}")).unwrap_or_default();
        let columns =
            if self.columns.is_empty() { String::new() } else { format!("columns {}", few(self.columns.clone())) };
        let parts = [self.description.clone(), unit, few(codes), columns];
        let told: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        told.join("; ").chars().filter(|c| !c.is_control()).collect()
    }
}

impl Meanings {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty()
    }

    /// The inputs and outputs of a signature of which it is not said what they are.
    pub fn unsaid(&self, signature: &Signature) -> Vec<String> {
        let side = |side: &str, specs: &[TensorSpec], said: &BTreeMap<String, Meaning>| -> Vec<String> {
            let is_said =
                |spec: &&TensorSpec| said.get(&spec.name).is_some_and(|meaning| !meaning.description.is_empty());
            specs.iter().filter(|spec| !is_said(spec)).map(|spec| format!("{side} `{}`", spec.name)).collect()
        };
        [side("input", &signature.inputs, &self.inputs), side("output", &signature.outputs, &self.outputs)].concat()
    }
}

/// What callers of `old` would misunderstand of `new`, although every datatype and shape still fits: units, columns and codes that were said and are others
/// now, or are not said any more; codes that an input no longer takes, or that an output gives anew.
///
/// What was never said cannot change. Other words in a description are no change: they are for people.
pub fn misread(old: &Meanings, new: &Meanings) -> Vec<String> {
    let none = Meaning::default();
    let side =
        |side: &str, old: &BTreeMap<String, Meaning>, new: &BTreeMap<String, Meaning>, gives: bool| -> Vec<String> {
            let of = |(name, before): (&String, &Meaning)| {
                let after = new.get(name).unwrap_or(&none);
                let told = changes(before, after, gives);
                told.into_iter().map(|what| format!("{side} `{name}`: {what}")).collect::<Vec<_>>()
            };
            old.iter().flat_map(of).collect()
        };
    [side("input", &old.inputs, &new.inputs, false), side("output", &old.outputs, &new.outputs, true)].concat()
}

fn changes(before: &Meaning, after: &Meaning, gives: bool) -> Vec<String> {
    let mut told = Vec::new();
    match (&before.unit, &after.unit) {
        (Some(unit), Some(other)) if unit != other => told.push(format!("in {other} instead of {unit}")),
        (Some(unit), None) => told.push(format!("it is no longer said to be in {unit}")),
        _ => {}
    }
    if !before.columns.is_empty() && after.columns.is_empty() {
        told.push("its columns are no longer said".to_owned());
    }
    for (place, (column, other)) in before.columns.iter().zip(&after.columns).enumerate() {
        if column != other {
            told.push(format!("column {} is {other} instead of {column}", place + 1));
        }
    }
    if !before.values.is_empty() && after.values.is_empty() {
        told.push("its codes are no longer said".to_owned());
        return told;
    }
    for (code, text) in &before.values {
        match after.values.get(code) {
            Some(other) if other != text => told.push(format!("{code} means {other} instead of {text}")),
            None if !gives => told.push(format!("{code} ({text}) is no code any more")),
            _ => {}
        }
    }
    if gives && !before.values.is_empty() {
        let new = after.values.iter().filter(|(code, _)| !before.values.contains_key(*code));
        told.extend(new.map(|(code, text)| format!("{code} ({text}) is a new code")));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(unit: Option<&str>, values: &[(&str, &str)], columns: &[&str]) -> Meaning {
        Meaning {
            description: "what".into(),
            unit: unit.map(str::to_owned),
            values: values.iter().map(|(code, text)| ((*code).to_owned(), (*text).to_owned())).collect(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
        }
    }

    fn of(input: Meaning, output: Meaning) -> Meanings {
        Meanings { inputs: [("x".to_owned(), input)].into(), outputs: [("y".to_owned(), output)].into() }
    }

    #[test]
    fn what_callers_would_misread_is_named() {
        let old =
            of(meaning(Some("g/l"), &[], &["acid", "sugar"]), meaning(None, &[("0", "red"), ("1", "white")], &[]));
        assert_eq!(misread(&old, &old), Vec::<String>::new());
        let swapped = of(
            meaning(Some("mg/l"), &[], &["sugar", "acid"]),
            meaning(None, &[("0", "white"), ("1", "red"), ("2", "rosé")], &[]),
        );
        assert_eq!(
            misread(&old, &swapped),
            [
                "input `x`: in mg/l instead of g/l",
                "input `x`: column 1 is sugar instead of acid",
                "input `x`: column 2 is acid instead of sugar",
                "output `y`: 0 means white instead of red",
                "output `y`: 1 means red instead of white",
                "output `y`: 2 (rosé) is a new code",
            ]
        );
        assert_eq!(misread(&old, &Meanings::default()).len(), 3, "what was said and is not any more");
        assert_eq!(misread(&Meanings::default(), &old), Vec::<String>::new(), "what was never said cannot change");
    }

    #[test]
    fn an_input_may_take_further_codes_and_an_output_may_give_fewer() {
        let few = of(meaning(None, &[("0", "red")], &[]), meaning(None, &[("0", "red"), ("1", "white")], &[]));
        let more = of(meaning(None, &[("0", "red"), ("1", "white")], &[]), meaning(None, &[("0", "red")], &[]));
        assert_eq!(misread(&few, &more), Vec::<String>::new());
        assert_eq!(
            misread(&more, &few),
            ["input `x`: 1 (white) is no code any more", "output `y`: 1 (white) is a new code"]
        );
    }

    #[test]
    fn one_line_says_all_of_it() {
        let line = meaning(Some("g/l"), &[("0", "red\u{1b}")], &["acid"]).line();
        assert_eq!(line, "what; in g/l; 0 = red; columns acid");
    }
}
