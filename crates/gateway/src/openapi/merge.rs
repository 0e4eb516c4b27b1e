//! Several OpenAPI documents as one. Pure.
//!
//! Promises: paths lie below their version's base path; what two versions define under one name stays two things; operations of a deprecated version
//! say so. Absent on purpose: servers and tags of the parts, which speak of where each came from.
//! Source: OpenAPI 3.1, "Components Object" (names are `[a-zA-Z0-9._-]+`) and "Operation Object" (`operationId` is unique).

use serde_json::{Map, Value, json};

/// One API version.
pub struct Part {
    /// Its number.
    pub api: u16,
    /// Who serves it.
    pub service: String,
    /// What its callers are told, if it is deprecated.
    pub deprecated: Option<String>,
    /// What it says of itself.
    pub document: Option<Value>,
}

const OPERATIONS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
const COMPONENTS: &str = "#/components/";
/// Components that operations name without a reference.
const BY_NAME: &str = "securitySchemes";

/// One document for a name, whose address is `/{name}/openapi.json`.
pub fn merge(name: &str, parts: Vec<Part>) -> Value {
    let newest = parts.iter().map(|part| part.api).max().unwrap_or_default();
    let lines: Vec<String> = parts.iter().map(|part| line(name, part)).collect();
    let (mut paths, mut components) = (Map::new(), Map::new());
    for part in parts {
        if let Some(document) = part.document {
            add(part.api, part.deprecated.is_some(), document, &mut paths, &mut components);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": name, "version": format!("v{newest}"), "description": lines.join("\n\n")},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": components,
    })
}

fn line(name: &str, part: &Part) -> String {
    let info = part.document.as_ref().map(|document| &document["info"]);
    let text = |key: &str| info.and_then(|info| info[key].as_str()).filter(|text| !text.is_empty());
    let what = match (text("description"), text("version")) {
        (Some(words), Some(version)) => format!("{words} ({version})"),
        (Some(words), None) => words.to_owned(),
        (None, Some(version)) => version.to_owned(),
        (None, None) => "says nothing of itself".to_owned(),
    };
    let deprecated = part.deprecated.as_ref().map(|words| format!(". {words}")).unwrap_or_default();
    format!("`/{name}/v{}` (`{}`): {what}{deprecated}", part.api, part.service)
}

fn add(
    api: u16,
    deprecated: bool,
    mut document: Value,
    paths: &mut Map<String, Value>,
    components: &mut Map<String, Value>,
) {
    rename(api, &mut document);
    let security = document.get("security").cloned();
    for (path, mut item) in object(document["paths"].take()) {
        for operation in OPERATIONS {
            let Some(Value::Object(operation)) = item.get_mut(operation) else { continue };
            if deprecated {
                operation.insert("deprecated".to_owned(), json!(true));
            }
            if let Some(security) = &security {
                operation.entry("security").or_insert_with(|| security.clone());
            }
        }
        paths.insert(format!("/v{api}{path}"), item);
    }
    for (kind, known) in object(document["components"].take()) {
        let by_name = kind == BY_NAME;
        let Value::Object(all) = components.entry(kind).or_insert_with(|| json!({})) else { continue };
        for (name, component) in object(known) {
            all.entry(if by_name { name } else { own(api, &name) }).or_insert(component);
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A component's name among those of all versions.
fn own(api: u16, name: &str) -> String {
    format!("v{api}.{name}")
}

/// Lets references and ids of operations point at what they meant. As deep as the parser allowed: 128 levels.
fn rename(api: u16, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match (key.as_str(), &mut *inner) {
                    ("$ref", Value::String(reference)) => point(api, reference),
                    ("operationId", Value::String(id)) => *id = format!("v{api}_{id}"),
                    ("mapping", Value::Object(meant)) => meant.values_mut().for_each(|meant| match meant {
                        Value::String(reference) => point(api, reference),
                        other => rename(api, other),
                    }),
                    _ => rename(api, inner),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| rename(api, inner)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn point(api: u16, reference: &mut String) {
    let Some((kind, name)) = reference.strip_prefix(COMPONENTS).and_then(|rest| rest.split_once('/')) else { return };
    if kind != BY_NAME {
        *reference = format!("{COMPONENTS}{kind}/{}", own(api, name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(api: u16, deprecated: bool, field: &str) -> Part {
        let answer = json!({"200": {"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}}});
        let document = json!({
            "openapi": "3.1.0",
            "info": {"title": "wine", "version": format!("{api}.0.0"), "description": "How good it is"},
            "servers": [{"url": "."}],
            "security": [{"key": []}],
            "paths": {"/predict": {"post": {"operationId": "predict", "responses": answer}, "summary": "x"}},
            "components": {
                "schemas": {
                    "Answer": {"properties": {"operationId": {"type": "string"}, field: {"$ref": "#/components/schemas/Part/properties/a"}}},
                    "Part": {"discriminator": {"propertyName": "kind", "mapping": {"a": "#/components/schemas/Answer", "b": "Part"}}},
                },
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        });
        let deprecated = deprecated.then(|| "Deprecated".to_owned());
        Part { api, service: format!("wine-v{api}"), deprecated, document: Some(document) }
    }

    #[test]
    fn two_versions_stand_side_by_side() {
        let merged = merge("wine", vec![part(1, true, "grade"), part(2, false, "score")]);
        assert_eq!(merged["servers"], json!([{"url": "."}]));
        let operation = |api: u16| &merged["paths"][format!("/v{api}/predict")]["post"];
        assert_eq!((&operation(1)["deprecated"], operation(2).get("deprecated")), (&json!(true), None));
        assert_eq!(
            (&operation(1)["operationId"], &operation(2)["operationId"]),
            (&json!("v1_predict"), &json!("v2_predict"))
        );
        assert_eq!(operation(2)["security"], json!([{"key": []}]));
        let schema = &operation(2)["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/v2.Answer");
        let schemas = &merged["components"]["schemas"];
        assert_eq!(schemas["v1.Answer"]["properties"]["grade"]["$ref"], "#/components/schemas/v1.Part/properties/a");
        assert_eq!(schemas["v2.Answer"]["properties"]["operationId"], json!({"type": "string"}));
        assert_eq!(
            schemas["v2.Part"]["discriminator"]["mapping"],
            json!({"a": "#/components/schemas/v2.Answer", "b": "Part"})
        );
        assert_eq!(merged["components"]["securitySchemes"].as_object().unwrap().len(), 1);
        let told = merged["info"]["description"].as_str().unwrap();
        assert!(told.contains("`/wine/v1` (`wine-v1`): How good it is (1.0.0). Deprecated"), "{told}");
    }

    #[test]
    fn what_says_nothing_or_nonsense_is_named_and_harms_nobody() {
        let nonsense = Some(json!({"openapi": "3.1.0", "info": 3, "paths": [1], "components": {"schemas": 4}}));
        let silent = Part { api: 1, service: "wine".into(), deprecated: None, document: None };
        let odd = Part { api: 2, service: "odd".into(), deprecated: None, document: nonsense };
        let merged = merge("wine", vec![silent, odd, part(3, false, "score")]);
        assert_eq!(merged["paths"].as_object().unwrap().len(), 1);
        assert!(
            merged["info"]["description"].as_str().unwrap().contains("`/wine/v1` (`wine`): says nothing of itself")
        );
        assert_eq!(merged["info"]["version"], "v3");
    }
}
