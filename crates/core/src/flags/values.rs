//! Values of a package's flags: held against their declarations, and what they choose.
//!
//! Promises: what passes fits the flag's type and limits, the input that it fills, and an environment variable.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Values;
use crate::package::{Flag, Package, Runtime};
use crate::sample::Sample;
use crate::signature::{Datatype, TensorSpec};

/// Longest text in bytes: it is handed on in an environment variable, twice.
const MOST_BYTES: usize = 4_096;

impl Package {
    /// The value of every declared flag: the given one, or its default.
    ///
    /// # Errors
    /// Every mistake: undeclared flags, values of another type, out of range or not listed.
    pub fn flag_values(&self, given: &Values) -> Result<Values, Vec<String>> {
        let undeclared = given.keys().filter(|name| !self.flags.contains_key(*name));
        let mut mistakes: Vec<String> = undeclared.map(|name| unknown(name, &self.flags)).collect();
        mistakes.extend(given.iter().filter_map(|(name, value)| {
            let flag = self.flags.get(name)?;
            flag.misfit(name, value).or_else(|| self.misfit_of_input(name, flag, value))
        }));
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let value = |(name, flag): (&String, &Flag)| {
            (name.clone(), given.get(name).cloned().unwrap_or_else(|| flag.default_value()))
        };
        Ok(self.flags.iter().map(value).collect())
    }

    fn misfit_of_input(&self, name: &str, flag: &Flag, value: &Value) -> Option<String> {
        let spec = self.signature.input(flag.input()?)?;
        let number = value.as_f64()?;
        let (least, most) = range(spec.datatype)?;
        let fits = (least..=most).contains(&number);
        (!fits).then(|| format!("`{name}` fills the input `{}`, which takes {least} to {most}", spec.name))
    }

    /// The model file that the values choose; `None` for a package without one.
    pub fn model_file(&self, values: &Values) -> Option<&str> {
        let Runtime::Onnx { model } = &self.runtime else { return None };
        let chosen = self.flags.iter().find_map(|(name, flag)| flag.files().get(values.get(name)?.as_str()?));
        Some(chosen.map_or(model.as_str(), String::as_str))
    }

    /// The samples whose answers are right under these values.
    pub fn samples_under(&self, values: &Values) -> impl Iterator<Item = &Sample> {
        let holds = |sample: &&Sample| {
            sample.flags.iter().all(|(name, wanted)| values.get(name).is_some_and(|value| equal(value, wanted)))
        };
        self.samples.iter().filter(holds)
    }
}

/// Whether two values are the same, however a number was written.
pub fn equal(one: &Value, other: &Value) -> bool {
    one == other || (one.as_f64().is_some() && one.as_f64() == other.as_f64())
}

fn unknown(name: &str, declared: &BTreeMap<String, Flag>) -> String {
    let names: Vec<&str> = declared.keys().map(String::as_str).collect();
    let known =
        if names.is_empty() { "it declares none".to_owned() } else { format!("it declares {}", names.join(", ")) };
    let name: String = name.escape_debug().take(80).collect();
    format!("the package declares no flag `{name}`; {known}")
}

/// Numbers that a datatype can hold.
fn range(datatype: Datatype) -> Option<(f64, f64)> {
    // 64-bit whole numbers reach the server as floats do: exact up to 2^53.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    Some(match datatype {
        Datatype::Bool | Datatype::Bytes => return None,
        Datatype::Uint8 => (0.0, u8::MAX.into()),
        Datatype::Uint16 => (0.0, u16::MAX.into()),
        Datatype::Uint32 => (0.0, u32::MAX.into()),
        Datatype::Uint64 => (0.0, EXACT),
        Datatype::Int8 => (i8::MIN.into(), i8::MAX.into()),
        Datatype::Int16 => (i16::MIN.into(), i16::MAX.into()),
        Datatype::Int32 => (i32::MIN.into(), i32::MAX.into()),
        Datatype::Int64 => (-EXACT, EXACT),
        Datatype::Fp16 => (-65_504.0, 65_504.0),
        Datatype::Bf16 | Datatype::Fp32 => (f64::from(f32::MIN), f64::from(f32::MAX)),
        Datatype::Fp64 => (f64::MIN, f64::MAX),
    })
}

impl Flag {
    /// Its type, as `modelyard.toml` has it.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean { .. } => "boolean",
            Self::Number { .. } => "number",
            Self::String { .. } => "string",
        }
    }

    /// Its value unless a revision says otherwise.
    pub fn default_value(&self) -> Value {
        match self {
            Self::Boolean { default, .. } => Value::from(*default),
            Self::Number { default, whole: true, .. } => Value::from(*default as i64),
            Self::Number { default, .. } => Value::from(*default),
            Self::String { default, .. } => Value::from(default.clone()),
        }
    }

    /// A value as it is written on a command line. What is none of this type stays a text, which [`Flag::misfit`] refuses.
    pub fn read(&self, text: &str) -> Value {
        let read = match self {
            Self::Boolean { .. } => text.parse::<bool>().ok().map(Value::from),
            Self::Number { .. } => {
                let whole = text.parse::<i64>().ok().map(Value::from);
                whole.or_else(|| text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from))
            }
            Self::String { .. } => None,
        };
        read.unwrap_or_else(|| Value::from(text))
    }

    /// The input of the model that it fills.
    pub fn input(&self) -> Option<&str> {
        let (Self::Boolean { input, .. } | Self::Number { input, .. } | Self::String { input, .. }) = self;
        input.as_deref()
    }

    /// The model files that it chooses between, by value.
    pub const fn files(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match self {
            Self::String { files, .. } => files,
            Self::Boolean { .. } | Self::Number { .. } => &NONE,
        }
    }

    /// Its limits, for people; empty when it has none.
    pub fn limits(&self) -> String {
        match self {
            Self::Boolean { .. } => String::new(),
            Self::Number { minimum, maximum, whole, .. } => {
                let whole = whole.then(|| "whole".to_owned());
                let least = minimum.map(|least| format!("at least {least}"));
                let most = maximum.map(|most| format!("at most {most}"));
                [whole, least, most].into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
            Self::String { .. } => match self.choices().as_slice() {
                [] => String::new(),
                choices => format!("one of {}", choices.join(", ")),
            },
        }
    }

    /// Texts that it may be; none when it may be any.
    fn choices(&self) -> Vec<&str> {
        match self {
            Self::String { one_of, files, .. } if one_of.is_empty() => files.keys().map(String::as_str).collect(),
            Self::String { one_of, .. } => one_of.iter().map(String::as_str).collect(),
            Self::Boolean { .. } | Self::Number { .. } => Vec::new(),
        }
    }

    /// Why a value is not one of the flag `name`.
    pub fn misfit(&self, name: &str, value: &Value) -> Option<String> {
        match self {
            Self::Boolean { .. } => (!value.is_boolean()).then(|| format!("`{name}` is true or false")),
            Self::Number { minimum, maximum, whole, .. } => {
                let Some(number) = value.as_f64() else { return Some(format!("`{name}` is a number")) };
                let fraction = *whole && !(number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0);
                let fraction = fraction.then(|| format!("`{name}` is a whole number"));
                let low =
                    minimum.filter(|&minimum| number < minimum).map(|least| format!("`{name}` is at least {least}"));
                let high =
                    maximum.filter(|&maximum| number > maximum).map(|most| format!("`{name}` is at most {most}"));
                fraction.or(low).or(high)
            }
            Self::String { .. } => {
                let Some(text) = value.as_str() else { return Some(format!("`{name}` is a text")) };
                if text.contains('\0') || text.len() > MOST_BYTES {
                    return Some(format!("`{name}` is longer than {MOST_BYTES} bytes, or holds a NUL character"));
                }
                let choices = self.choices();
                let listed = choices.is_empty() || choices.contains(&text);
                (!listed).then(|| format!("`{name}` is one of {}", choices.join(", ")))
            }
        }
    }

    /// Why it cannot fill an input.
    pub fn misfit_with(&self, spec: &TensorSpec) -> Option<String> {
        let (name, datatype) = (&spec.name, spec.datatype);
        let floats = matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64);
        let holds = match self {
            Self::Boolean { .. } => datatype != Datatype::Bytes,
            Self::Number { whole, .. } => floats || (*whole && range(datatype).is_some()),
            Self::String { .. } => datatype == Datatype::Bytes,
        };
        if !holds {
            let hint = match self {
                Self::Number { whole: false, .. } if range(datatype).is_some() => ": add `whole = true`",
                _ => "",
            };
            return Some(format!("the input `{name}` takes {datatype}, which is no {}{hint}", self.type_name()));
        }
        // One element, or one for each row.
        let single = spec.shape.iter().skip(1).all(|&axis| axis == 1 || axis < 0)
            && spec.shape.first().is_none_or(|&axis| axis == 1 || axis < 0);
        let (shape, what) = (&spec.shape, "a flag fills one element, or one for each row");
        (!single).then(|| format!("the input `{name}` has the shape {shape:?}: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package() -> Package {
        serde_json::from_value(json!({
            "format_version": 1, "name": "m", "version": "1", "runtime": {"kind": "onnx", "model": "small.onnx"},
            "signature": {"inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "depth", "datatype": "INT8", "shape": [], "optional": true},
            ], "outputs": []},
            "flags": {
                "depth": {"type": "number", "default": 3.0, "minimum": 1.0, "whole": true, "input": "depth"},
                "mode": {"type": "string", "default": "fast", "one_of": ["fast", "exact"]},
                "size": {"type": "string", "default": "small", "files": {"small": "small.onnx", "large": "l.onnx"}},
                "strict": {"type": "boolean", "default": false},
            },
            "samples": [
                {"name": "a", "request": {}, "response": {}},
                {"name": "b", "request": {}, "response": {}, "flags": {"depth": 3, "size": "large"}},
            ],
            "files": {},
        }))
        .unwrap()
    }

    fn given(values: Value) -> Values {
        values.as_object().unwrap().clone().into_iter().collect()
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        let values = package().flag_values(&given(json!({"depth": 5}))).unwrap();
        assert_eq!(values, given(json!({"depth": 5, "mode": "fast", "size": "small", "strict": false})));
        assert_eq!(package().flag_values(&Values::new()).unwrap()["depth"], json!(3), "whole numbers are written so");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = json!({"depth": 0.5, "mode": "slow", "strict": 1, "other": 1, "size": "huge"});
        let mistakes = package().flag_values(&given(wrong)).unwrap_err().join("; ");
        let parts = [
            "no flag `other`",
            "`depth` is a whole number",
            "one of fast, exact",
            "one of large, small",
            "`strict` is true or false",
        ];
        for part in parts {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
        for (value, part) in [(json!(0), "at least 1"), (json!(128), "takes -128 to 127"), (json!("3"), "a number")] {
            let mistakes = package().flag_values(&given(json!({"depth": value}))).unwrap_err().join("; ");
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
        assert!(package().flag_values(&given(json!({"mode": "fa\0st"}))).unwrap_err()[0].contains("NUL"));
    }

    #[test]
    fn values_are_read_by_their_type() {
        let package = package();
        for (name, text, value) in [
            ("depth", "5", json!(5)),
            ("depth", "0.5", json!(0.5)),
            ("depth", "inf", json!("inf")),
            ("strict", "true", json!(true)),
            ("strict", "yes", json!("yes")),
            ("mode", "7", json!("7")),
        ] {
            assert_eq!(package.flags[name].read(text), value, "{name} {text}");
        }
    }

    #[test]
    fn values_choose_the_file_and_the_samples() {
        let package = package();
        let chosen = |values: Value| {
            let values = package.flag_values(&given(values)).unwrap();
            let samples: Vec<&str> = package.samples_under(&values).map(|sample| sample.name.as_str()).collect();
            (package.model_file(&values).unwrap().to_owned(), samples)
        };
        assert_eq!(chosen(json!({})), ("small.onnx".to_owned(), vec!["a"]));
        assert_eq!(chosen(json!({"size": "large", "depth": 3.0})), ("l.onnx".to_owned(), vec!["a", "b"]));
    }

    #[test]
    fn only_fitting_inputs_can_be_filled() {
        let spec =
            |datatype, shape: &[i64]| TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), optional: false };
        let number = |whole| Flag::Number { default: 1.0, minimum: None, maximum: None, whole, input: None };
        for shape in [&[][..], &[1], &[-1], &[-1, 1], &[1, 1]] {
            assert_eq!(number(false).misfit_with(&spec(Datatype::Fp32, shape)), None, "{shape:?}");
        }
        for shape in [&[4][..], &[-1, 4], &[2, 1]] {
            assert!(number(false).misfit_with(&spec(Datatype::Fp32, shape)).unwrap().contains("shape"), "{shape:?}");
        }
        assert!(number(false).misfit_with(&spec(Datatype::Int64, &[])).unwrap().contains("whole = true"));
        assert_eq!(number(true).misfit_with(&spec(Datatype::Int64, &[])), None);
        assert!(number(true).misfit_with(&spec(Datatype::Bytes, &[])).unwrap().contains("BYTES"));
        let boolean = Flag::Boolean { default: true, input: None };
        assert_eq!(boolean.misfit_with(&spec(Datatype::Fp32, &[])), None);
    }
}
