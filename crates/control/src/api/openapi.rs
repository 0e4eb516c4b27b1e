//! The OpenAPI document of this API, at `/api/openapi.json`.
//!
//! Promises: every address and method of the router is in it, and nothing else; a test holds the two against each other.
//! Absent on purpose: the registry's `/v2/` and the package index's `/simple/`, which have specifications of their own.
//!
//! Source of the form: OpenAPI Specification 3.1.1.

use std::sync::LazyLock;

use axum::Json;
use serde_json::{Map, Value, json};

use super::operations::{JSON, Operation, all};

/// `GET /api/openapi.json`
pub async fn document() -> Json<&'static Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    Json(&DOCUMENT)
}

fn make() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in all() {
        let described = described(&operation);
        paths.entry(operation.path).or_insert_with(|| json!({}))[operation.method] = described;
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Modelyard control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Services, rollouts, models and their history. Times are milliseconds since 1970, weights basis points.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas(), "responses": {
            "Refusal": { "description": "Why not, and what to do.", "content": { JSON: { "schema": { "$ref": "#/components/schemas/Refusal" } } } },
            "MlflowRefusal": { "description": "Why not, as MLflow says it.", "content": { JSON: { "schema": { "anyOf": [
                { "$ref": "#/components/schemas/MlflowRefusal" }, { "$ref": "#/components/schemas/Refusal" }] } } } },
        } },
    })
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "Refusal": { "type": "object", "required": ["error", "help"], "properties": { "error": text, "help": text } },
        "MlflowRefusal": { "type": "object", "required": ["error_code", "message"],
            "properties": { "error_code": text, "message": text } },
    })
}

fn described(operation: &Operation) -> Value {
    let mlflow = operation.path.starts_with("/api/2.0/");
    let mut shown = json!({
        "operationId": operation_id(operation),
        "summary": operation.summary,
        "tags": [operation.tag()],
        "responses": { "default": { "$ref": if mlflow { "#/components/responses/MlflowRefusal" } else { "#/components/responses/Refusal" } } },
    });
    for (status, kind, schema) in &operation.answers {
        // One status may come in several forms.
        let answer = &mut shown["responses"][status.to_string()];
        answer["description"] = json!(if *status == 202 { "Taken; it goes on." } else { "Done." });
        if !kind.is_empty() {
            answer["content"][*kind] = json!({ "schema": schema });
        }
    }
    let in_path = operation.path.split(['{', '}']).skip(1).step_by(2);
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    parameters.extend(operation.query.iter().map(
        |(name, required, schema)| json!({ "name": name, "in": "query", "required": required, "schema": schema }),
    ));
    if !parameters.is_empty() {
        shown["parameters"] = json!(parameters);
    }
    if !operation.bodies.is_empty() {
        let kinds: Map<String, Value> =
            operation.bodies.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({ "schema": schema }))).collect();
        shown["requestBody"] = json!({ "required": true, "content": kinds });
    }
    shown
}

/// `get-api-models-model`: one of a kind, because no two addresses differ in punctuation alone.
fn operation_id(operation: &Operation) -> String {
    let words = operation.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(operation.method).chain(words).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

    /// Every `.route("…", …)` of this crate's sources, as `GET /path`.
    fn routed(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                routed(&entry, found);
                continue;
            }
            let text = std::fs::read_to_string(&entry).unwrap();
            let text: String = text.lines().map(str::trim).collect();
            for part in text.split(".route(\"").skip(1) {
                let Some((path, rest)) = part.split_once('"').filter(|(path, _)| path.starts_with('/')) else {
                    continue;
                };
                let handlers = rest.split(".route(").next().unwrap().split(".merge(").next().unwrap();
                let called = |method: &&&str| {
                    [",", "."].iter().any(|before| handlers.replace(' ', "").contains(&format!("{before}{method}(")))
                };
                let methods: Vec<&&str> = METHODS.iter().filter(called).collect();
                assert!(!methods.is_empty(), "{path}: no method was found in {}", entry.display());
                found.extend(methods.iter().map(|method| format!("{method} {}", path.replace("{*", "{"))));
            }
        }
    }

    #[test]
    fn every_route_is_in_the_document_and_the_other_way_round() {
        let mut routes = BTreeSet::new();
        routed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut routes);
        let document = make();
        let of = |(path, methods): (&String, &Value)| {
            methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")).collect::<Vec<_>>()
        };
        let mut told: BTreeSet<String> = document["paths"].as_object().unwrap().iter().flat_map(of).collect();
        // MLflow's calls are one route for every family; the table of calls is what answers.
        let mlflow: BTreeSet<String> = told.iter().filter(|call| call.contains(" /api/2.0/mlflow/")).cloned().collect();
        let answered: BTreeSet<String> = crate::mlflow::CALLS
            .iter()
            .map(|(method, family, call)| format!("{} /api/2.0/mlflow/{family}/{call}", method.to_lowercase()))
            .collect();
        assert_eq!(mlflow, answered);
        told.retain(|call| !mlflow.contains(call));
        routes.retain(|route| !route.contains("/api/2.0/mlflow/"));
        assert!(routes.len() > 30, "{routes:?}");
        assert_eq!(routes, told);
    }

    #[test]
    fn every_operation_has_an_id_of_its_own() {
        let operations = all();
        let ids: BTreeSet<String> = operations.iter().map(operation_id).collect();
        assert_eq!(ids.len(), operations.len());
    }
}
