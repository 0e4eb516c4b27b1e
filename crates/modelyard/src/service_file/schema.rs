//! The JSON Schema of `service.toml` and its page of the reference, both from the keys.

use serde_json::{Map, Value, json};

use super::keys::{Key, Kind, SERVICE, STRATEGIES};

/// The JSON Schema (draft 2020-12).
pub fn json_schema() -> Value {
    schema_of("service.toml", "A service: what runs under a name, and by which rules it is changed.", SERVICE)
}

/// The JSON Schema (draft 2020-12) of a file with these keys.
pub fn schema_of(title: &str, words: &str, keys: &[Key]) -> Value {
    let mut schema = table(keys);
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!(title)),
        ("description", json!(words)),
    ];
    if let Value::Object(object) = &mut schema {
        object.extend(head.map(|(key, value)| (key.to_owned(), value)));
    }
    schema
}

fn table(keys: &[Key]) -> Value {
    let required: Vec<&str> = keys.iter().filter(|key| key.default.is_empty()).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties(keys) });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn properties(keys: &[Key]) -> Map<String, Value> {
    keys.iter().map(|key| (key.name.to_owned(), described(key))).collect()
}

fn described(key: &Key) -> Value {
    let mut schema = value(key.kind);
    schema["description"] = json!(key.words);
    schema
}

fn value(kind: Kind) -> Value {
    match kind {
        Kind::Package => json!({ "type": "string" }),
        Kind::Name => json!({ "type": "string", "pattern": "^[a-z]([a-z0-9]|[._-][a-z0-9])*$", "maxLength": 63 }),
        Kind::Names => json!({ "type": "array", "items": value(Kind::Name) }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Whole(least) => json!({ "type": "integer", "minimum": least }),
        Kind::Number(low, high) => json!({ "type": "number", "minimum": low, "maximum": high }),
        Kind::Span => json!({ "type": "string", "pattern": r"^\s*[0-9.]+\s*(ms|s|m|min|h|d)$" }),
        Kind::Day => json!({ "type": "string", "format": "date" }),
        Kind::Size => json!({ "anyOf": [
            { "type": "string", "pattern": r"^\s*[0-9.]+\s*([kKmMgG]i?)?[bB]?$" }, { "type": "integer", "minimum": 1 },
        ] }),
        Kind::Cores => json!({ "type": "number", "minimum": 0.001, "maximum": 4_096 }),
        Kind::Steps => json!({ "type": "array", "items": { "anyOf": [
            { "type": "string", "pattern": r"^\s*[0-9.]+\s*%?\s*$" },
            { "type": "integer", "minimum": 1, "maximum": 10_000 },
        ] } }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Texts => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Values => json!({ "type": "object" }),
        Kind::Share => json!({ "anyOf": [
            { "type": "string", "pattern": r"^\s*[0-9.]+\s*%?\s*$" },
            { "type": "integer", "minimum": 1, "maximum": 10_000 },
        ] }),
        Kind::Any => json!({}),
        Kind::Text => json!({ "type": "string" }),
        Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Choices(words) => json!({ "type": "array", "items": { "enum": words }, "minItems": 1 }),
        Kind::Limits => json!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 }),
        Kind::Numbers => json!({ "type": "object", "additionalProperties": { "type": "number" } }),
        Kind::Table(keys) => table(keys),
        Kind::Named(keys) => json!({ "type": "object", "additionalProperties": table(keys) }),
        Kind::Tables(keys) => json!({ "type": "array", "items": table(keys) }),
        Kind::Strategy => strategy(),
    }
}

fn strategy() -> Value {
    let named = json!({ "enum": STRATEGIES.iter().map(|(name, _, _)| *name).collect::<Vec<_>>() });
    let forms = STRATEGIES.iter().map(|(name, words, keys)| {
        let mut properties = properties(keys);
        properties.insert("kind".to_owned(), json!({ "const": name }));
        json!({
            "type": "object", "description": words, "additionalProperties": false,
            "required": ["kind"], "properties": properties,
        })
    });
    json!({ "anyOf": std::iter::once(named).chain(forms).collect::<Vec<_>>() })
}

/// The page of the reference.
pub fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    section(&mut page, "The file", "", SERVICE);
    page.push_str("\n## `[strategy]`\n\nOnly its name (`strategy = \"canary\"`), or a table with `kind` and the keys of that kind.\n");
    for (name, words, keys) in STRATEGIES {
        section(&mut page, &format!("`kind = \"{name}\"`"), words, keys);
    }
    sections(&mut page, "strategy.", STRATEGIES[STRATEGIES.len() - 1].2);
    sections(&mut page, "", SERVICE);
    page
}

/// A section for each key that holds further keys, and for theirs.
fn sections(page: &mut String, within: &str, keys: &[Key]) {
    for key in keys {
        let name = format!("{within}{}", key.name);
        match key.kind {
            Kind::Table(keys) => {
                section(page, &format!("`[{name}]`"), key.words, keys);
                sections(page, &format!("{name}."), keys);
            }
            Kind::Named(keys) => section(page, &format!("`[{name}.NAME]`"), key.words, keys),
            Kind::Tables(keys) => section(page, &format!("`[[{name}]]`"), key.words, keys),
            _ => {}
        }
    }
}

const INTRODUCTION: &str = "\
# `service.toml`

A service: what runs under a name, and by which rules it is changed. `modelyard deploy service.toml` starts a rollout towards it.
Unknown keys are refused, all mistakes are reported at once. This page is written by `modelyard reference service-page`; the JSON
Schema is in [schema/service.toml.json](schema/service.toml.json).

```toml
name = \"wine\"
package = \"wine:2.0.0\"
instances = 2

[strategy]
kind = \"canary\"
steps = [\"10%\", \"50%\", \"100%\"]
bake = \"30s\"

[analysis]
min-requests = 100
max-error-rate = 0.01
max-latency-ms = 50
```

Each key can also be given to `deploy` as `--set KEY=VALUE`, for example `--set strategy.bake=5s`. The weakest first: defaults, what the
service already is, the file, flags, `--set`.
";

fn section(page: &mut String, title: &str, words: &str, keys: &[Key]) {
    page.push_str(&format!("\n## {title}\n\n"));
    if !words.is_empty() {
        page.push_str(&format!("{words}\n\n"));
    }
    page.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in keys {
        let default = if key.default.is_empty() { "required" } else { key.default };
        page.push_str(&format!("| `{}` | {} | {default} | {} |\n", key.name, kind_words(key.kind), key.words));
    }
}

fn kind_words(kind: Kind) -> String {
    match kind {
        Kind::Package => "reference or folder".to_owned(),
        Kind::Name => "name".to_owned(),
        Kind::Names => "list of names".to_owned(),
        Kind::Switch => "true or false".to_owned(),
        Kind::Whole(least) => format!("whole number from {least}"),
        Kind::Number(low, high) => format!("number from {low} to {high}"),
        Kind::Span => "span of time".to_owned(),
        Kind::Day => "day, such as `\"2027-03-01\"`".to_owned(),
        Kind::Size => "size (`\"96MiB\"`) or bytes".to_owned(),
        Kind::Cores => "number of cores".to_owned(),
        Kind::Steps => "list of shares".to_owned(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Texts => "table of texts".to_owned(),
        Kind::Values => "table".to_owned(),
        Kind::Share => "share (`\"50%\"`) or basis points".to_owned(),
        Kind::Any => "value".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::List => "list of texts".to_owned(),
        Kind::Choices(words) => {
            format!("list of {}", words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "))
        }
        Kind::Limits => "two numbers".to_owned(),
        Kind::Numbers => "table of numbers".to_owned(),
        Kind::Named(_) => "tables by name, below".to_owned(),
        Kind::Tables(_) => "list of tables, below".to_owned(),
        Kind::Table(_) | Kind::Strategy => "table, below".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_every_section() {
        let schema = json_schema();
        assert_eq!(schema["required"], json!(["package"]));
        assert_eq!(schema["properties"]["analysis"]["properties"]["min-errors"]["minimum"], 1);
        assert_eq!(schema["properties"]["strategy"]["anyOf"].as_array().map(Vec::len), Some(1 + STRATEGIES.len()));
        assert!(page().contains("| `max-surge` |"));
    }
}
