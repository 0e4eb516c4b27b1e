//! `modelyard flags SERVICE [NAME]`: the flags of a service, and why one has its value for somebody.
//!
//! Promises: what is printed is what OpenFeature clients are answered; a definition that makes no sense changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use modelyard_core::flags::Values;
use modelyard_core::package::{Flag, Package};
use modelyard_core::url::encoded;
use modelyard_core::{ServiceName, Timestamp, Weight};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::Connect;
use crate::client::Client;
use crate::context::{Context, person};
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Paint, say, table};

/// Arguments of `flags`.
#[derive(Debug, Args)]
pub struct Flags {
    /// The service.
    service: ServiceName,
    /// One flag: its value for somebody, and why. Default: a list of all.
    name: Option<String>,
    /// Key of the session that asks, as the service's affinity takes it from a request (OpenFeature's targeting key).
    #[arg(long, value_name = "KEY", requires = "name")]
    session: Option<String>,
    /// What else is known of whoever asks: `KEY=VALUE`, or one JSON object. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", requires = "name")]
    context: Vec<String>,
    /// Set the service's flag definition: a JSON file in flagd's format.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "remove"])]
    set: Option<PathBuf>,
    /// Take the flag definition away.
    #[arg(long, conflicts_with = "name")]
    remove: bool,
    #[command(flatten)]
    connect: Connect,
}

/// The list, as the control plane answers it.
#[derive(Debug, Deserialize)]
struct Listing {
    arms: Vec<ArmRow>,
    flags: Vec<FlagRow>,
    definition: Option<DefinitionRow>,
}

#[derive(Debug, Deserialize)]
struct ArmRow {
    revision: u32,
    arm: String,
    weight: Weight,
}

#[derive(Debug, Deserialize)]
struct FlagRow {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    default: Value,
    #[serde(default)]
    limits: String,
    input: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// By revision.
    values: BTreeMap<String, ValueRow>,
}

#[derive(Debug, Deserialize)]
struct ValueRow {
    value: Value,
    from: String,
}

#[derive(Debug, Deserialize)]
struct DefinitionRow {
    at: Timestamp,
    by: Value,
    flags: Vec<DefinedRow>,
}

#[derive(Debug, Deserialize)]
struct DefinedRow {
    key: String,
    state: Value,
    #[serde(default)]
    variants: Map<String, Value>,
    default: Value,
    targeted: bool,
}

impl Flags {
    /// Prints or changes them.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let path = format!("/api/services/{}/flags", self.service);
        let by = format!("{path}?by={}", encoded(&person()));
        if let Some(file) = &self.set {
            let document = read(file)?;
            let answer: Value = client.put(&by, &document)?;
            let flags = document["flags"].as_object().map_or(0, Map::len);
            context.print(&answer, || format!("{} has a definition of {flags} flags now", self.service))?;
        } else if self.remove {
            let answer: Value = client.delete(&by)?;
            context.print(&answer, || format!("{} has no flag definition any more", self.service))?;
        } else if let Some(name) = &self.name {
            let answer = self.explain(&client, name)?;
            context.print(&answer, || explained(name, &answer, Paint::stdout()))?;
        } else {
            let document: Value = client.get(&path)?;
            let listing: Listing = client.get(&path)?;
            context.print(&document, || listed(&listing, Paint::stdout()))?;
        }
        Ok(Exit::Done)
    }

    fn explain(&self, client: &Client, name: &str) -> miette::Result<Value> {
        let mut given = Map::new();
        for text in &self.context {
            given.extend(known(text)?);
        }
        given.extend(self.session.as_ref().map(|key| ("targetingKey".to_owned(), json!(key))));
        let path = format!("/api/services/{}/ofrep/v1/evaluate/flags/{}", self.service, encoded(name));
        Ok(client.post(&path, &json!({ "context": given }))?)
    }
}

/// What `--context` says: an object, or one key with a value (JSON, else a text).
fn known(text: &str) -> Result<Map<String, Value>, Usage> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| {
            Usage::new(
                format!("`--context {text}` is no JSON object: {error}"),
                "write {\"plan\": \"pro\"}, or plan=pro",
            )
        });
    }
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Usage::new(
            format!("`--context {text}` has no `=`"),
            "write a key and a value such as plan=pro, or a JSON object",
        )
    })?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok(Map::from_iter([(key.to_owned(), value)]))
}

fn read(file: &std::path::Path) -> Result<Value, Failed> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failed::from(error, format!("could not read {shown}"), "name a JSON file in flagd's format")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failed::from(error, format!("{shown} is no JSON"), "write {\"flags\": {…}}, as flagd's definitions are written")
    })
}

fn listed(listing: &Listing, paint: Paint) -> String {
    let mut parts = Vec::new();
    if listing.flags.is_empty() {
        parts.push(paint.dim("no package that carries it declares flags"));
    } else {
        let arm =
            |arm: &ArmRow| format!("{} r{} {} %", arm.arm, arm.revision, f64::from(arm.weight.basis_points()) / 100.0);
        let arms: Vec<String> = listing.arms.iter().map(arm).collect();
        let heading: Vec<&str> = ["flag", "type"]
            .into_iter()
            .chain(arms.iter().map(String::as_str))
            .chain(["default", "limits", "reaches"])
            .collect();
        let rows = listing.flags.iter().map(|flag| {
            let values = listing
                .arms
                .iter()
                .map(|arm| flag.values.get(&arm.revision.to_string()).map_or_else(|| "–".to_owned(), value));
            [flag.name.clone(), flag.kind.clone()]
                .into_iter()
                .chain(values)
                .chain([text(&flag.default), or_none(&flag.limits), reaches(flag)])
                .collect()
        });
        parts.push(table(&heading, rows.collect(), paint));
    }
    if let Some(definition) = &listing.definition {
        let rows = definition.flags.iter().map(|flag| {
            let variants: Vec<String> =
                flag.variants.iter().map(|(name, value)| format!("{name} = {}", text(value))).collect();
            let rules = if flag.targeted { "yes" } else { "–" };
            vec![
                flag.key.clone(),
                text(&flag.state).to_lowercase(),
                variants.join(", "),
                text(&flag.default),
                rules.to_owned(),
            ]
        });
        parts.push(table(&["defined", "state", "variants", "default", "rules"], rows.collect(), paint));
        let by = definition.by.get("person").map_or_else(|| text(&definition.by), text);
        parts.push(paint.dim(&format!("set by {by} on {}", when(definition.at))));
    }
    parts.join("\n\n")
}

/// A value, and whether somebody said it.
fn value(row: &ValueRow) -> String {
    let said = if row.from == "revision" { " (set)" } else { "" };
    format!("{}{said}", text(&row.value))
}

fn reaches(flag: &FlagRow) -> String {
    match &flag.input {
        Some(input) => format!("input {input}"),
        None if !flag.files.is_empty() => "model file".to_owned(),
        None => "environment".to_owned(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { text.to_owned() }
}

fn when(at: Timestamp) -> String {
    let instant = jiff::Timestamp::from_millisecond(i64::try_from(at.0).unwrap_or(i64::MAX));
    instant.map_or_else(|_| "–".to_owned(), |instant| instant.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn explained(name: &str, answer: &Value, paint: Paint) -> String {
    let metadata = |key: &str| answer["metadata"].get(key).map(text);
    let value = answer.get("value").map_or_else(|| "the caller's own default".to_owned(), text);
    let reason = answer["reason"].as_str().unwrap_or_default();
    let arm = metadata("arm").zip(metadata("revision")).map(|(arm, revision)| match arm.starts_with('r') {
        true => format!("revision {revision}"),
        false => format!("{arm}, revision {revision}"),
    });
    let arm = arm.unwrap_or_default();
    let why = match reason {
        "STATIC" if arm.is_empty() => "the flag has no rules".to_owned(),
        "STATIC" => format!("everybody gets it ({arm})"),
        "SPLIT" => {
            let point = metadata("point").unwrap_or_default();
            format!("the session's point is {point} of 10000, which belongs to {arm}")
        }
        "TARGETING_MATCH" => "a rule of the definition chose it".to_owned(),
        "DISABLED" => "the flag is turned off".to_owned(),
        "DEFAULT" if arm.is_empty() => "no rule said anything".to_owned(),
        "DEFAULT" => format!("it is not known whose request it is, so this is what {arm} has"),
        other => other.to_owned(),
    };
    let variant = answer["variant"].as_str().map(|variant| format!("  variant {variant}")).unwrap_or_default();
    format!("{} = {value}\n{}", paint.bold(name), paint.dim(&format!("{reason}: {why}{variant}")))
}

/// What `--flag NAME=VALUE` says, by the types that the package declares.
pub fn given(package: &Package, texts: &[String]) -> Result<Values, Usage> {
    let mut values = Values::new();
    for text in texts {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Usage::new(
                format!("`--flag {text}` has no `=`"),
                "write a flag and its value such as `--flag threshold=0.7`",
            )
        })?;
        let (name, value) = (name.trim(), value.trim());
        let read = package.flags.get(name).map_or_else(|| Value::from(value), |flag| flag.read(value));
        values.insert(name.to_owned(), read);
    }
    match package.flag_values(&values) {
        Ok(_) => Ok(values),
        Err(mistakes) => {
            let help = format!("`modelyard inspect {}:{}` shows its flags", package.name, package.version);
            Err(Usage::new(mistakes.join("; "), help))
        }
    }
}

/// Values that a service keeps when something else is deployed to it: what its stable revision runs with and does not have from its
/// package, as far as the new package declares it. A rollback thereby also takes back what the next deployment starts from.
pub fn kept(
    client: &Client,
    service: &str,
    asked: &Values,
    declared: &BTreeMap<String, Flag>,
) -> miette::Result<Values> {
    if asked.is_empty() {
        return Ok(Values::new());
    }
    let listing: Listing = client.get(&format!("/api/services/{service}/flags"))?;
    let stable = listing.arms.iter().find(|arm| arm.arm == "stable").map(|arm| arm.revision.to_string());
    let running = |stable: String| -> Values {
        let set = listing.flags.iter().filter_map(|flag| {
            let row = flag.values.get(&stable).filter(|row| row.from == "revision")?;
            Some((flag.name.clone(), row.value.clone()))
        });
        set.collect()
    };
    let mut values = stable.map_or_else(|| asked.clone(), running);
    values.retain(|name, value| {
        let keeps = declared.get(name).is_some_and(|flag| flag.misfit(name, value).is_none());
        if !keeps {
            say(&Paint::stderr()
                .warn(&format!("the new package cannot take the flag `{name}` = {}; it is left out", text(value))));
        }
        keeps
    });
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_the_asker_may_be_written_either_way() {
        assert_eq!(Value::Object(known("plan=pro").unwrap()), json!({"plan": "pro"}));
        assert_eq!(Value::Object(known("age=41").unwrap()), json!({"age": 41}));
        assert_eq!(Value::Object(known("{\"a\": [1]}").unwrap()), json!({"a": [1]}));
        assert!(known("plan").is_err() && known("{\"a\"").is_err());
    }

    #[test]
    fn the_list_says_where_values_come_from() {
        let listing: Listing = serde_json::from_value(json!({
            "service": "wine", "arms": [
                {"revision": 1, "arm": "stable", "version": "1.0.0", "weight": 9000},
                {"revision": 2, "arm": "candidate", "version": "1.0.0", "weight": 1000},
            ],
            "flags": [{
                "name": "threshold", "type": "number", "default": 0.5, "limits": "at least 0", "input": "t",
                "values": {"1": {"value": 0.5, "from": "package"}, "2": {"value": 0.7, "from": "revision"}},
            }],
            "definition": {"at": 0, "by": {"person": "ada"}, "flags": [
                {"key": "banner", "state": "ENABLED", "variants": {"on": true}, "default": "on", "targeted": true},
            ]},
        }))
        .unwrap();
        let shown = listed(&listing, Paint::stdout());
        for part in
            ["stable r1 90 %", "candidate r2 10 %", "0.7 (set)", "at least 0", "input t", "on = true", "set by ada"]
        {
            assert!(shown.contains(part), "{part}:\n{shown}");
        }
    }

    #[test]
    fn an_answer_says_why() {
        let answer = json!({"value": 0.7, "variant": "r2", "reason": "SPLIT", "metadata": {"arm": "candidate", "revision": 2, "point": 412}});
        let shown = explained("threshold", &answer, Paint::stdout());
        assert!(
            shown.contains("= 0.7") && shown.contains("point is 412 of 10000, which belongs to candidate, revision 2"),
            "{shown}"
        );
        let off = explained("x", &json!({"reason": "DISABLED", "metadata": {}}), Paint::stdout());
        assert!(off.contains("the caller's own default") && off.contains("turned off"), "{off}");
    }
}
