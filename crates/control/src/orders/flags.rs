//! Values of flags against a package's declarations. Pure.

use std::collections::BTreeMap;

use modelyard_core::package::Flag;
use serde_json::Value;

type Values = BTreeMap<String, Value>;

/// The value of every declared flag: the given one, or its default.
///
/// # Errors
/// Every mistake: undeclared flags, values of another type, out of range or not listed.
pub fn resolve(declared: &BTreeMap<String, Flag>, given: &Values) -> Result<Values, Vec<String>> {
    let undeclared = given.keys().filter(|name| !declared.contains_key(*name));
    let mut mistakes: Vec<String> = undeclared.map(|name| unknown(name, declared)).collect();
    mistakes.extend(given.iter().filter_map(|(name, value)| misfit(name, declared.get(name)?, value)));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let value =
        |(name, flag): (&String, &Flag)| (name.clone(), given.get(name).cloned().unwrap_or_else(|| default(flag)));
    Ok(declared.iter().map(value).collect())
}

fn unknown(name: &str, declared: &BTreeMap<String, Flag>) -> String {
    let names: Vec<&str> = declared.keys().map(String::as_str).collect();
    let known =
        if names.is_empty() { "it declares none".to_owned() } else { format!("it declares {}", names.join(", ")) };
    format!("the package declares no flag `{name}`; {known}")
}

fn default(flag: &Flag) -> Value {
    match flag {
        Flag::Boolean { default } => Value::from(*default),
        Flag::Number { default, .. } => Value::from(*default),
        Flag::String { default, .. } => Value::from(default.clone()),
    }
}

fn misfit(name: &str, flag: &Flag, value: &Value) -> Option<String> {
    match flag {
        Flag::Boolean { .. } => (!value.is_boolean()).then(|| format!("`{name}` is true or false")),
        Flag::Number { minimum, maximum, .. } => {
            let Some(number) = value.as_f64() else { return Some(format!("`{name}` is a number")) };
            let low = minimum.filter(|&minimum| number < minimum).map(|least| format!("`{name}` is at least {least}"));
            low.or_else(|| {
                maximum.filter(|&maximum| number > maximum).map(|most| format!("`{name}` is at most {most}"))
            })
        }
        Flag::String { one_of, .. } => {
            let Some(text) = value.as_str() else { return Some(format!("`{name}` is a text")) };
            let listed = one_of.is_empty() || one_of.iter().any(|allowed| allowed == text);
            (!listed).then(|| format!("`{name}` is one of {}", one_of.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn declared() -> BTreeMap<String, Flag> {
        let depth = Flag::Number { default: 3.0, minimum: Some(1.0), maximum: Some(9.0) };
        let mode = Flag::String { default: "fast".into(), one_of: vec!["fast".into(), "exact".into()] };
        [("depth".into(), depth), ("mode".into(), mode), ("strict".into(), Flag::Boolean { default: false })].into()
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        let values = resolve(&declared(), &[("depth".into(), json!(5))].into()).unwrap();
        assert_eq!(
            values,
            [("depth".into(), json!(5)), ("mode".into(), json!("fast")), ("strict".into(), json!(false))].into()
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let given = [("depth", json!(12)), ("mode", json!("slow")), ("strict", json!(1)), ("other", json!(1))];
        let given = given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mistakes = resolve(&declared(), &given).unwrap_err().join("; ");
        for part in ["no flag `other`", "at most 9", "one of fast, exact", "`strict` is true or false"] {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
    }
}
