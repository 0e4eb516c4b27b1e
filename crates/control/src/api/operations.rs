//! Every operation of the API, as the OpenAPI document tells of it.

use serde_json::{Value, json};

/// The usual media type.
pub const JSON: &str = "application/json";

/// One method of one address.
pub struct Operation {
    /// In lower case.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: String,
    /// One line.
    pub summary: &'static str,
    /// Name, whether it must be there, schema.
    pub query: Vec<(&'static str, bool, Value)>,
    /// Media type and schema.
    pub bodies: Vec<(&'static str, Value)>,
    /// Status, media type (empty: no body), schema. Refusals go without saying.
    pub answers: Vec<(u16, &'static str, Value)>,
}

impl Operation {
    /// What it is about: the first word of its address.
    pub fn tag(&self) -> &str {
        match self.path.strip_prefix("/api/").map(|rest| rest.split('/').next().unwrap_or(rest)) {
            Some("2.0") => "mlflow",
            Some(word @ ("services" | "rollouts" | "models" | "events" | "tokens" | "environments")) => word,
            Some("diff" | "retention") => "models",
            _ => "control plane",
        }
    }

    fn new(method: &'static str, path: &str, summary: &'static str) -> Self {
        let answers = vec![(200, JSON, object(&[]))];
        Self { method, path: path.to_owned(), summary, query: Vec::new(), bodies: Vec::new(), answers }
    }

    fn takes(mut self, schema: Value) -> Self {
        self.bodies.push((JSON, schema));
        self
    }

    fn asked(mut self, name: &'static str, schema: Value) -> Self {
        self.query.push((name, false, schema));
        self
    }

    fn needs(mut self, name: &'static str, schema: Value) -> Self {
        self.query.push((name, true, schema));
        self
    }

    fn gives(mut self, status: u16, kind: &'static str, schema: Value) -> Self {
        self.answers = vec![(status, kind, schema)];
        self
    }
}

/// An object that has at least these keys.
fn object(required: &[&str]) -> Value {
    json!({ "type": "object", "required": required })
}

fn list() -> Value {
    json!({ "type": "array", "items": { "type": "object" } })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn text_or_null() -> Value {
    json!({ "type": ["string", "null"] })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// A body with these properties and no others.
fn body(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

/// Every operation there is.
pub fn all() -> Vec<Operation> {
    [system(), services(), flags(), models(), mlflow()].into_iter().flatten().collect()
}

fn system() -> Vec<Operation> {
    let new = Operation::new;
    vec![
        new("get", "/", "A page that lists the services.").gives(200, "text/html", text()),
        new("get", "/metrics", "Figures for Prometheus.").gives(200, "text/plain", text()),
        new("get", "/api/openapi.json", "This document.").gives(200, JSON, object(&["openapi", "paths"])),
        new("get", "/api/health", "Who runs.").gives(200, JSON, object(&["pid", "version"])),
        new("get", "/api/events", "The log from a position on; with wait_ms the first event is waited for.")
            .asked("service", text())
            .asked("rollout", text())
            .asked("after", number())
            .asked("limit", number())
            .asked("wait_ms", json!({ "type": "integer", "minimum": 0, "maximum": 60_000 }))
            .gives(200, JSON, list()),
        new("get", "/api/history/verify", "Whether the log is as it was written.")
            .asked("seq", number())
            .asked("hash", text())
            .gives(200, JSON, object(&["events"])),
        new("get", "/api/rollouts/{rollout}", "Where a rollout stands.").gives(
            200,
            JSON,
            object(&["rollout", "service", "outcome", "phase"]),
        ),
        new("get", "/api/rollouts/{rollout}/evidence", "What is or was known of its arms.").gives(
            200,
            JSON,
            object(&["service", "evidence"]),
        ),
        Operation {
            answers: vec![(200, "text/markdown", text()), (200, "text/html", text())],
            ..new("get", "/api/rollouts/{rollout}/report", "The activity report.")
                .asked("format", json!({ "enum": ["markdown", "html"] }))
        },
        new("get", "/api/tokens", "Every token, without its secret.").gives(200, JSON, list()),
        new("post", "/api/tokens", "Make a token; its secret is told once.").takes(object(&["name", "role"])).gives(
            201,
            JSON,
            object(&["id", "name", "role", "token"]),
        ),
        new("get", "/api/tokens/history", "What became of tokens: made, revoked, refused.").gives(200, JSON, list()),
        new("get", "/api/environments/{environment}/passed", "The rollout that brought a package to everybody there.")
            .needs("package", text())
            .gives(200, JSON, object(&["environment", "package", "passed"])),
        new(
            "post",
            "/api/environments/{environment}/promotions",
            "Take the signed record of a promotion into the log.",
        )
        .takes(body(
            &["package", "from", "record"],
            json!({ "package": text(), "from": text(), "record": text(), "by": text_or_null() }),
        ))
        .gives(201, JSON, object(&["seq", "at", "new", "event"])),
        new("delete", "/api/tokens/{id}", "Revoke a token.").gives(200, JSON, object(&["id", "revoked"])),
        new("post", "/api/gateway/upgrade", "Replace the gateway without failing a request.").gives(
            200,
            JSON,
            object(&["pid", "address"]),
        ),
        new("post", "/api/down", "End instances, gateway and control plane.").gives(
            202,
            JSON,
            object(&["pid", "state"]),
        ),
    ]
}

fn services() -> Vec<Operation> {
    let new = Operation::new;
    let deploy = || {
        body(
            &["spec", "package"],
            json!({ "spec": { "type": "object" }, "package": text(), "arms": { "type": "array", "items": { "type": "object" } },
                "yanked": { "type": "boolean" }, "new_meanings": { "type": "boolean" }, "by": text_or_null() }),
        )
    };
    let taken = || object(&["rollout", "service"]);
    vec![
        new("get", "/api/services", "Every service.").gives(200, JSON, list()),
        new("get", "/api/services/{service}", "One service.").gives(200, JSON, object(&["service", "environment", "weights"])),
        new("delete", "/api/services/{service}", "Remove a service; its history stays.")
            .asked("by", text())
            .gives(202, JSON, object(&["service"])),
        new("post", "/api/services/{service}/rollouts", "Start a rollout.").takes(deploy()).gives(202, JSON, taken()),
        new("post", "/api/services/{service}/plan", "What a deploy would do; nothing starts.")
            .takes(deploy())
            .gives(200, JSON, object(&["service", "strategy", "arms", "room"])),
        new("post", "/api/services/{service}/orders", "Steer the open rollout.")
            .takes(json!({ "type": "object", "required": ["order"], "properties": {
                "order": { "enum": ["promote", "pause", "resume", "abort", "try"] }, "all": { "type": "boolean" },
                "revision": { "type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32 },
                "share": { "type": "integer", "minimum": 0, "maximum": 10_000 }, "kind": { "enum": ["shadow", "canary"] },
                "by": text_or_null() } }))
            .gives(202, JSON, taken()),
        new("post", "/api/services/{service}/alternatives", "Try a revision beside a candidate that is held; at no share, take it away.")
            .takes(body(&["share"], json!({ "package": text(), "flags": { "type": "object" },
                "revision": { "type": ["integer", "null"], "minimum": 1, "maximum": 4_294_967_295_u32 },
                "share": { "type": "integer", "minimum": 0, "maximum": 10_000 }, "kind": { "enum": ["shadow", "canary"] },
                "yanked": { "type": "boolean" }, "new_meanings": { "type": "boolean" }, "by": text_or_null() })))
            .gives(202, JSON, taken()),
        new("post", "/api/services/{service}/rollback", "Return to an earlier revision.")
            .takes(body(&[], json!({ "to": { "type": ["integer", "null"], "minimum": 1, "maximum": 4_294_967_295_u32 }, "by": text_or_null() })))
            .gives(202, JSON, taken()),
        new("post", "/api/services/{service}/freeze", "Bar deploys; without a reason, let them in again.")
            .takes(body(&[], json!({ "why": text_or_null(), "by": text_or_null() })))
            .gives(200, JSON, object(&["service", "frozen", "changed"])),
        new("get", "/api/services/{service}/history", "Its revisions and rollouts.")
            .gives(200, JSON, object(&["service", "revisions", "rollouts"])),
        new("get", "/api/services/{service}/at", "What served at a moment, and who decided it.")
            .asked("time", text())
            .gives(200, JSON, object(&["service", "at", "serving"])),
        new("get", "/api/services/{service}/logs", "What its instances wrote.")
            .asked("instance", text())
            .asked("lines", number())
            .gives(200, JSON, object(&["service", "instances"])),
        new("get", "/api/services/{service}/drift", "How far inputs and outputs have moved."),
        new("get", "/api/services/{service}/figures", "What the gateway counted."),
        new("get", "/api/services/{service}/evidence", "What is measured now.")
            .gives(200, JSON, object(&["service", "evidence"])),
        Operation {
            bodies: vec![(JSON, json!({})), ("application/x-ndjson", text()), ("text/csv", text())],
            ..new("post", "/api/services/{service}/feedback", "True labels and rewards in bulk.")
                .gives(202, JSON, object(&["accepted", "joined", "orphaned"]))
        },
    ]
}

fn flags() -> Vec<Operation> {
    let new = Operation::new;
    let of = "/api/services/{service}/flags";
    let evaluate = "/api/services/{service}/ofrep/v1/evaluate/flags";
    let context = || json!({ "type": "object", "properties": { "context": { "type": "object" } } });
    vec![
        new("get", of, "Its flags by revision, and the definition."),
        new("put", of, "Set the definition, in flagd's format.").asked("by", text()).takes(object(&[])),
        new("delete", of, "Take the definition away.").asked("by", text()),
        new("get", &format!("{of}/definition"), "The definition as flagd reads it."),
        Operation {
            answers: vec![
                (200, JSON, object(&["flags"])),
                (304, "", Value::Null),
                (400, JSON, object(&[])),
                (404, JSON, object(&[])),
            ],
            ..new("post", evaluate, "Every flag for a context (OFREP).").takes(context())
        },
        Operation {
            answers: [200, 400, 404].map(|status| (status, JSON, object(&[]))).to_vec(),
            ..new("post", &format!("{evaluate}/{{key}}"), "One flag for a context (OFREP).").takes(context())
        },
    ]
}

fn models() -> Vec<Operation> {
    let new = Operation::new;
    let of = "/api/models/{model}";
    let names = || json!({ "type": "array", "items": text() });
    vec![
        new("get", "/api/models", "Every model; with search, the versions that fulfil the filter.").asked("search", text()),
        new("get", of, "Its versions, aliases, tags and changes.").gives(200, JSON, object(&["name", "versions", "changes"])),
        new("get", &format!("{of}/versions/{{version}}"), "A version with its package's document.")
            .gives(200, JSON, version()),
        new("get", &format!("{of}/versions/{{version}}/card"), "Its model card as a page.").gives(200, "text/html", text()),
        new("get", &format!("{of}/aliases"), "Every alias with every move.").gives(200, JSON, object(&["aliases"])),
        new("post", &format!("{of}/aliases"), "Move an alias; without a version, take it away.")
            .takes(body(&["alias"], json!({ "alias": text(), "version": text_or_null(), "by": text_or_null() })))
            .gives(200, JSON, object(&["name", "alias"])),
        new("post", &format!("{of}/tags"), "Set a tag; without a value, take it away.")
            .takes(body(&["key"], json!({ "version": text_or_null(), "key": text(), "value": text_or_null(), "by": text_or_null() })))
            .gives(200, JSON, object(&["name", "key", "changed"])),
        new("post", &format!("{of}/yank"), "Withdraw a version; without a reason, let it be deployed again.")
            .takes(body(&["version"], json!({ "version": text(), "why": text_or_null(), "by": text_or_null() })))
            .gives(200, JSON, object(&["name", "version", "yanked"])),
        new("get", "/api/diff", "What differs between two packages.")
            .needs("from", text())
            .needs("to", text())
            .gives(200, JSON, object(&["from", "to", "changes", "breaks"])),
        new("post", "/api/retention", "Remove versions that the rules do not keep and nobody needs, then sweep; by default only say which.")
            .takes(body(
                &["keep_last"],
                json!({ "keep_last": { "type": "integer", "minimum": 1, "maximum": 1_000_000 }, "keep_tags": names(), "older_than_ms": number(),
                    "grace_ms": number(), "models": names(), "dry_run": { "type": "boolean" }, "by": text_or_null() }),
            ))
            .gives(200, JSON, object(&["versions", "swept", "dry_run"])),
    ]
}

/// A version, with the ways on which it came.
fn version() -> Value {
    let arrival = json!({
        "type": "object", "required": ["at", "digest", "how"],
        "properties": {
            "at": { "type": "integer", "description": "Milliseconds since 1970." },
            "digest": text(),
            "how": { "type": "string", "enum": ["built", "pulled", "imported", "bundle", "pushed"] },
            "from": { "type": "string", "description": "Where it was pulled or imported from." },
            "file": { "type": "string", "description": "Name of the bundle." },
            "by": { "type": "string", "description": "Name of the token that it was pushed with." },
        },
    });
    let mut version = object(&["model", "version", "digest", "package"]);
    version["properties"] = json!({ "arrivals": { "type": "array", "items": arrival } });
    version
}

fn mlflow() -> Vec<Operation> {
    let named = |schema: Operation, query: bool| match query {
        true => schema.needs("name", text()),
        false => schema.takes(object(&["name"])),
    };
    let files = crate::mlflow::FILES;
    let artefacts =
        [
            Operation::new("get", files, "What is in a folder of a model version, as MLflow's own server lists it.")
                .needs("path", text())
                .gives(200, JSON, object(&["files"])),
            Operation::new("get", &format!("{files}/{{path}}"), "A file of a model version: MODEL/VERSION/FILE.")
                .gives(200, "application/octet-stream", text()),
        ];
    let calls = crate::mlflow::CALLS.iter().map(|&(method, family, call)| {
        let lower = match method {
            "GET" => "get",
            "POST" => "post",
            "PATCH" => "patch",
            _ => "delete",
        };
        let operation =
            Operation::new(lower, &format!("/api/2.0/mlflow/{family}/{call}"), "As MLflow's model registry has it.");
        match (call, lower) {
            ("search", "get") => {
                operation.asked("filter", text()).asked("max_results", number()).asked("page_token", text())
            }
            ("search", _) => operation.takes(object(&[])),
            (_, "get") => {
                let operation = named(operation, true);
                match (family, call) {
                    (_, "alias") => operation.needs("alias", text()),
                    ("model-versions", _) => operation.needs("version", text()),
                    _ => operation,
                }
            }
            _ => named(operation, false),
        }
    });
    calls.chain(artefacts).collect()
}
