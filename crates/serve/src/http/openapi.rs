//! The OpenAPI document of one model: its paths, with its own inputs and outputs as schemas.
//!
//! Source: OpenAPI 3.1; a relative URL of a server is resolved against the address of the document.

use std::collections::BTreeMap;

use modelyard_core::meaning::Meaning;
use modelyard_core::package::Package;
use modelyard_core::signature::{Datatype, TensorSpec};
use serde_json::{Map, Value, json};

use crate::contract::Contracts;
use crate::model::Model;

/// Writes the document.
pub(crate) fn document(model: &Model, package: &Package, contracts: &Contracts) -> String {
    let name = &model.name;
    let inputs = &model.signature.inputs;
    let outputs = &model.signature.outputs;
    let (takes, gives) = (&package.meanings.inputs, &package.meanings.outputs);
    let example = package.samples.first().map(|sample| &sample.request);
    let mut infer = json!({"schema": {"$ref": "#/components/schemas/InferenceRequest"}});
    if let Some(example) = example.filter(|request| request["inputs"].is_array()) {
        infer["example"] = example.clone();
    }
    let post = |summary: &str, body: Value, answer: &str| {
        let answer = json!({"description": "The answer", "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{answer}")}}}});
        let error = |text: &str| json!({"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}});
        json!({"post": {
            "summary": summary,
            "requestBody": {"required": true, "content": {"application/json": body}},
            "responses": {"200": answer, "400": error("The request does not fit"), "413": error("The body is too large"), "503": error("Too busy, or not ready")},
        }})
    };
    let get = |summary: &str| json!({"get": {"summary": summary, "responses": {"200": {"description": summary}}}});
    let predict = json!({"schema": {"$ref": "#/components/schemas/PlainRequest"}});
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {"title": name, "version": model.version, "description": package.description},
        // Where the document was fetched from: behind a gateway the paths lie below the service's own.
        "servers": [{"url": "."}],
        "paths": {
            format!("/v2/models/{name}/infer"): post("Open Inference Protocol v2", infer, "InferenceResponse"),
            "/predict": post("The plain form", predict, "PlainResponse"),
            format!("/v2/models/{name}"): get("What the model takes and gives"),
            format!("/v2/models/{name}/ready"): get("Whether the model accepts requests"),
            format!("/v2/models/{name}/stats"): get("Statistics since the start"),
            "/v2": get("What the server is and can do"),
            "/v2/health/ready": get("Whether the server accepts requests"),
            "/v2/health/live": get("Whether the samples are answered correctly"),
            "/metrics": get("Metrics for Prometheus"),
        },
        "components": {"schemas": {
            "InferenceRequest": object(&[("id", json!({"type": "string"})), ("inputs", listed(inputs, takes)), ("outputs", asked(outputs))], &["inputs"]),
            "InferenceResponse": object(&[
                ("model_name", json!({"type": "string"})),
                ("model_version", json!({"type": "string"})),
                ("id", json!({"type": "string"})),
                ("outputs", listed(outputs, gives)),
            ], &["model_name", "outputs"]),
            "PlainRequest": object(&[("inputs", named(inputs, takes))], &["inputs"]),
            "PlainResponse": object(&[("outputs", named(outputs, gives))], &["outputs"]),
            "Error": object(&[("error", json!({"type": "string"}))], &["error"]),
        }},
    });
    for (path, platform) in contracts.paths() {
        document["paths"][path] = scored(platform);
    }
    document.to_string()
}

/// A path of a contract. What its bodies hold is the platform's to say.
fn scored(platform: &str) -> Value {
    let object = json!({"schema": {"type": "object"}});
    let answer = |text: &str| json!({"description": text, "content": {"application/json": {"schema": {}}}});
    json!({"post": {
        "summary": format!("Predictions, as {platform} asks for them"),
        "requestBody": {"required": true, "content": {"application/json": object, "text/csv": {"schema": {"type": "string"}}}},
        "responses": {
            "200": answer("The predictions"), "400": answer("The request does not fit"), "413": answer("The body is too large"),
            "415": answer("The body is neither JSON nor CSV"), "503": answer("Too busy, or not ready"),
        },
    }})
}

fn object(properties: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// What inputs or outputs mean, by name.
type Said = BTreeMap<String, Meaning>;

/// A schema with the words of what it is of.
fn meant(mut schema: Value, meaning: Option<&Meaning>) -> Value {
    if let Some(meaning) = meaning {
        schema["description"] = json!(meaning.line());
    }
    schema
}

/// Tensors of the protocol, each with its own name, datatype and shape.
fn listed(specs: &[TensorSpec], said: &Said) -> Value {
    let tensor = |spec: &TensorSpec| {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"const": spec.name},
                "datatype": {"const": spec.datatype},
                "shape": {"type": "array", "items": {"type": "integer"}, "minItems": spec.shape.len(), "maxItems": spec.shape.len(), "description": format!("{:?}; -1 is free", spec.shape)},
                "data": {"type": "array", "description": "Row-major, flat or nested"},
            },
            "required": ["name", "datatype", "shape"],
        });
        meant(schema, said.get(&spec.name))
    };
    json!({"type": "array", "items": {"oneOf": specs.iter().map(tensor).collect::<Vec<_>>()}})
}

fn asked(specs: &[TensorSpec]) -> Value {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    json!({"type": "array", "items": object(&[("name", json!({"enum": names}))], &["name"])})
}

/// Nested lists by name.
fn named(specs: &[TensorSpec], said: &Said) -> Value {
    let nested = |spec: &TensorSpec| {
        spec.shape.iter().rev().fold(element(spec.datatype), |items, &axis| {
            let mut list = json!({"type": "array", "items": items});
            if axis >= 0 {
                list["minItems"] = json!(axis);
                list["maxItems"] = json!(axis);
            }
            list
        })
    };
    let properties: Vec<(&str, Value)> =
        specs.iter().map(|spec| (spec.name.as_str(), meant(nested(spec), said.get(&spec.name)))).collect();
    let required: Vec<&str> = specs.iter().filter(|spec| !spec.optional).map(|spec| spec.name.as_str()).collect();
    object(&properties, &required)
}

fn element(datatype: Datatype) -> Value {
    match datatype {
        Datatype::Bool => json!({"type": "boolean"}),
        Datatype::Bytes => json!({"type": "string"}),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => json!({"type": ["number", "null"]}),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => {
            json!({"type": "integer", "minimum": 0})
        }
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 | Datatype::Int64 => json!({"type": "integer"}),
    }
}
