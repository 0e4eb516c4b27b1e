//! The catalogue's API and MLflow's, over real HTTP, above a registry of two small packages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use modelyard_core::event::EventBody;
use modelyard_core::home::Home;
use modelyard_core::{ModelName, ServiceName, Version};
use modelyard_registry::Store;
use modelyard_registry::manifest::{Descriptor, FILEPATH, MANIFEST, MODEL, MODEL_CONFIG, Manifest, WEIGHT_CONFIG};
use serde_json::{Value, json};

use super::models::routes;
use crate::catalogue::Catalogue;
use crate::http_client::{Ask, Peer, exchange};
use crate::ledger::Ledger;
use crate::testing::RealClock;

struct Served {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    _home: tempfile::TempDir,
}

const CARD: &str = "# Wine\n\n<script>alert(1)</script>Good wine.";

fn add(store: &Store, version: &str, accuracy: f64) {
    let said = json!({
        "runtime": {"kind": "onnx", "model": "model.onnx"}, "signature": {"inputs": [], "outputs": []},
        "metrics": {"accuracy": accuracy}, "model_card": "README.md",
    });
    add_files(store, version, said, &[("README.md", CARD)]);
}

/// Adds a version of wine of which this is said, with these files.
fn add_files(store: &Store, version: &str, mut document: Value, files: &[(&str, &str)]) {
    let part = |bytes: &[u8], kind: &str, path: &str| {
        let blob = store.blobs().put(bytes).unwrap().blob;
        Descriptor::new(kind, blob.digest, blob.size_bytes).noted(FILEPATH, path)
    };
    document["format_version"] = json!(1);
    document["name"] = json!("wine");
    document["version"] = json!(version);
    let mut layers = Vec::new();
    for (path, content) in files {
        let file = part(content.as_bytes(), WEIGHT_CONFIG, path);
        document["files"][path] = json!({"digest": file.digest, "size_bytes": file.size});
        layers.push(file);
    }
    layers.insert(0, part(document.to_string().as_bytes(), WEIGHT_CONFIG, "modelyard.json"));
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST.into(),
        artifact_type: Some(MODEL.into()),
        config: part(b"{}", MODEL_CONFIG, "config.json"),
        layers,
        annotations: BTreeMap::new(),
    };
    store.add(&ModelName::new("wine").unwrap(), &Version::new(version).unwrap(), &manifest).unwrap();
}

async fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path());
    let store = Store::open(home.registry(), home.unpacked()).unwrap();
    add(&store, "1.0.0", 0.8);
    add(&store, "2.0.0", 0.95);
    let log = crate::store::Store::open(&home.store()).unwrap();
    let ledger = Arc::new(Ledger::open(log, Arc::new(RealClock)).unwrap());
    let router = routes(Catalogue::open(&home, Arc::clone(&ledger)).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Served { address, ledger, _home: folder }
}

impl Served {
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let json = if body.is_null() { bytes::Bytes::new() } else { body.to_string().into() };
        let method = method.parse().unwrap();
        let ask = Ask { method, path, json, limit: std::time::Duration::from_secs(20), most: 1 << 20 };
        let answer = exchange(Peer::Tcp(self.address), ask).await.unwrap();
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        (answer.status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, Value::Null).await
    }

    /// Kinds of the log's events, with who did them.
    async fn told(&self) -> Vec<(String, Value)> {
        let events = self.ledger.read(crate::store::Query::default()).await.unwrap();
        events.iter().map(|event| (crate::store::kind_of(&event.body), json!(event.actor))).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_is_searched_marked_and_told_of() {
    let api = served().await;
    let (_, all) = api.get("/api/models").await;
    assert_eq!((&all["models"][0]["name"], &all["models"][0]["newest"]), (&json!("wine"), &json!("2.0.0")), "{all}");
    let tag = json!({"version": "2.0.0", "key": "team", "value": "x", "by": "ada"});
    assert_eq!(api.ask("POST", "/api/models/wine/tags", tag.clone()).await.1["changed"], true);
    assert_eq!(api.ask("POST", "/api/models/wine/tags", tag).await.1["changed"], false);
    let (_, found) = api.get("/api/models?search=accuracy%20%3E%200.9%20and%20tag.team%20%3D%20'x'").await;
    assert_eq!(
        (found["versions"].as_array().unwrap().len(), &found["versions"][0]["version"]),
        (1, &json!("2.0.0")),
        "{found}"
    );
    let alias = |version: Value| json!({"alias": "champion", "version": version, "by": "ada"});
    api.ask("POST", "/api/models/wine/aliases", alias(json!("1.0.0"))).await;
    let (_, moved) = api.ask("POST", "/api/models/wine/aliases", alias(json!("2.0.0"))).await;
    assert_eq!((&moved["from"], &moved["to"]), (&json!("1.0.0"), &json!("2.0.0")));
    api.ask("POST", "/api/models/wine/yank", json!({"version": "1.0.0", "why": "wrong labels", "by": "grace"})).await;
    let (_, model) = api.get("/api/models/wine").await;
    assert_eq!(
        (&model["aliases"]["champion"], &model["versions"][0]["yanked"]["by"]),
        (&json!("2.0.0"), &json!("grace")),
        "{model}"
    );
    assert_eq!(model["changes"].as_array().unwrap().len(), 4, "{model}");
    assert_eq!(api.get("/api/models/wine/aliases").await.1["aliases"]["champion"].as_array().unwrap().len(), 2);
    let told = api.told().await;
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["tagged", "alias-moved", "alias-moved", "yanked"]);
    assert_eq!(told[3].1, json!({"person": "grace"}));
    let (_, page) = api.get("/api/models/wine/versions/2.0.0/card").await;
    let page = page.as_str().unwrap();
    assert!(page.contains("<h1>Wine</h1>") && !page.contains("<script"), "{page}");
    let (_, differs) = api.get("/api/diff?from=wine:1.0.0&to=wine@champion").await;
    assert_eq!(differs["changes"]["metrics"]["accuracy"], json!({"before": 0.8, "after": 0.95}), "{differs}");
    assert_eq!(api.get("/api/models/wine/versions/2.0.0").await.1["package"]["metrics"]["accuracy"], 0.95);
    for (method, path, body, expected) in [
        ("GET", "/api/models/beer", Value::Null, 404),
        ("GET", "/api/models/wine/versions/9", Value::Null, 404),
        ("GET", "/api/models?search=accuracy", Value::Null, 400),
        ("GET", "/api/diff?from=wine&to=w%20", Value::Null, 400),
        ("POST", "/api/models/wine/tags", json!({"key": "", "value": "x"}), 422),
        ("POST", "/api/models/wine/tags", json!({"nonsense": 1}), 422),
        ("POST", "/api/models/wine/yank", json!({"version": "9", "why": "x"}), 404),
        ("POST", "/api/models/wine/aliases", json!({"alias": "none"}), 404),
    ] {
        let (status, body) = api.ask(method, path, body).await;
        assert!(status == expected && body["help"].is_string(), "{method} {path}: {status} {body}");
    }
    assert_eq!(api.told().await.len(), 4, "refusals are not told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mlflows_calls_are_answered_as_its_clients_want() {
    const BASE: &str = "/api/2.0/mlflow";
    let api = served().await;
    let call = async |method: &str, path: &str, body: Value| api.ask(method, &format!("{BASE}/{path}"), body).await;
    let named = |name: &str| json!({"name": name});
    let (status, made) = call(
        "POST",
        "registered-models/create",
        json!({"name": "port", "description": "sweet", "tags": [{"key": "a", "value": "b"}]}),
    )
    .await;
    assert_eq!((status, &made["registered_model"]["description"]), (200, &json!("sweet")), "{made}");
    assert_eq!(made["registered_model"]["tags"], json!([{"key": "a", "value": "b"}]));
    let (status, again) = call("POST", "registered-models/create", named("wine")).await;
    assert_eq!((status, &again["error_code"]), (400, &json!("RESOURCE_ALREADY_EXISTS")));
    let source = json!({"name": "wine", "source": "models:/wine/2", "run_id": "r1", "description": "new"});
    let (status, version) = call("POST", "model-versions/create", source).await;
    let version = &version["model_version"];
    assert_eq!(
        (status, &version["version"], &version["status"], &version["run_id"]),
        (200, &json!("2"), &json!("READY"), &json!("r1")),
        "{version}"
    );
    call("POST", "registered-models/alias", json!({"name": "wine", "alias": "champion", "version": "2.0.0"})).await;
    let (_, champion) = call("GET", "registered-models/alias?name=wine&alias=champion", Value::Null).await;
    assert_eq!(champion["model_version"]["aliases"], json!(["champion"]), "{champion}");
    call("POST", "model-versions/set-tag", json!({"name": "wine", "version": "2.0.0", "key": "team", "value": "x"}))
        .await;
    let (_, found) =
        call("GET", "model-versions/search?filter=name%3D'wine'%20and%20tags.team%3D'x'", Value::Null).await;
    assert_eq!((found["model_versions"].as_array().unwrap().len(), found.get("next_page_token")), (1, None), "{found}");
    let (_, first) = call("GET", "registered-models/search?max_results=1&order_by=name%20DESC", Value::Null).await;
    assert_eq!(
        (&first["registered_models"][0]["name"], &first["next_page_token"]),
        (&json!("wine"), &json!("1")),
        "{first}"
    );
    let (_, second) =
        call("GET", "registered-models/search?max_results=1&order_by=name%20DESC&page_token=1", Value::Null).await;
    assert_eq!((&second["registered_models"][0]["name"], second.get("next_page_token")), (&json!("port"), None));
    let (_, uri) = call("GET", "model-versions/get-download-uri?name=wine&version=2.0.0", Value::Null).await;
    assert_eq!(uri["artifact_uri"], "http://localhost/api/2.0/mlflow-artifacts/artifacts/wine/2.0.0");
    assert_eq!(call("DELETE", "registered-models/alias", json!({"name": "wine", "alias": "champion"})).await.0, 200);
    for (method, path, body, status, code) in [
        ("GET", "registered-models/get?name=beer", Value::Null, 404, "RESOURCE_DOES_NOT_EXIST"),
        ("GET", "registered-models/get", Value::Null, 400, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/alias?name=wine&alias=champion", Value::Null, 400, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/search?filter=name", Value::Null, 400, "INVALID_PARAMETER_VALUE"),
        ("GET", "registered-models/search?max_results=1001", Value::Null, 400, "INVALID_PARAMETER_VALUE"),
        ("POST", "registered-models/create", named("Not A Name"), 400, "INVALID_PARAMETER_VALUE"),
        (
            "POST",
            "model-versions/create",
            json!({"name": "wine", "source": "s3://b/m"}),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        ("POST", "model-versions/transition-stage", named("wine"), 404, "ENDPOINT_NOT_FOUND"),
    ] {
        let (got, answer) = call(method, path, body).await;
        assert_eq!((got, &answer["error_code"]), (status, &json!(code)), "{path}: {answer}");
    }
}

/// Where MLflow's clients ask for files.
const FILES: &str = "/api/2.0/mlflow-artifacts/artifacts";

impl Served {
    fn store(&self) -> Store {
        let home = Home::new(self._home.path());
        Store::open(home.registry(), home.unpacked()).unwrap()
    }

    /// What MLflow's clients see in a folder.
    async fn files(&self, folder: &str) -> Value {
        let (status, listed) = self.get(&format!("{FILES}?path={folder}")).await;
        assert_eq!(status, 200, "{folder}: {listed}");
        listed["files"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mlflows_clients_find_the_files_of_a_model_and_what_describes_it() {
    let api = served().await;
    let tensor = |name: &str, datatype: &str| json!({"name": name, "datatype": datatype, "shape": [-1, 13]});
    let signature = json!({"inputs": [tensor("x", "FP32")], "outputs": [tensor("y", "BYTES")]});
    let onnx = json!({"runtime": {"kind": "onnx", "model": "net/model.onnx"}, "signature": signature});
    let files = [("net/model.onnx", "graph"), ("net/parts/weights", "w"), ("README.md", "out of its folder")];
    add_files(&api.store(), "3.0.0", onnx, &files);
    let listed = api.files("wine/3.0.0").await;
    let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(names, ["MLmodel", "model.onnx", "parts"], "{listed}");
    assert_eq!(listed[1], json!({"path": "model.onnx", "is_dir": false, "file_size": 5}));
    assert_eq!(api.files("wine/3.0.0/parts").await, json!([{"path": "weights", "is_dir": false, "file_size": 1}]));
    assert_eq!(api.files("wine/3.0.0/model.onnx").await, json!([]), "a file is no folder");
    assert_eq!(api.get(&format!("{FILES}/wine/3.0.0/parts/weights")).await, (200, json!("w")));
    let (status, made) = api.get(&format!("{FILES}/wine/3.0.0/MLmodel")).await;
    assert_eq!((status, &made["flavors"]["python_function"]["data"]), (200, &json!("model.onnx")), "{made}");
    let size = listed[0]["file_size"].as_u64().unwrap() as usize;
    assert_eq!(format!("{made:#}\n").len(), size, "it is as long as it was said to be");
    let inputs: Value = serde_json::from_str(made["signature"]["inputs"].as_str().unwrap()).unwrap();
    let wanted = json!({"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 13]}});
    assert_eq!(inputs, json!([wanted]));
    // What MLflow described itself is left as it is, and stands at the top.
    let own = json!({"runtime": {"kind": "none"}, "signature": {"inputs": [], "outputs": []}});
    let files = [("model/MLmodel", "own"), ("model/data/MLmodel", "another's"), ("modelyard.lock", "outside")];
    add_files(&api.store(), "4.0.0", own.clone(), &files);
    assert_eq!(api.get(&format!("{FILES}/wine/4.0.0/MLmodel")).await, (200, json!("own")));
    assert_eq!(api.files("wine/4.0.0").await.as_array().unwrap().len(), 2);
    // For what MLflow has no flavour, nothing is made up.
    add_files(&api.store(), "5.0.0", own, &[("weights", "w")]);
    assert_eq!(api.files("wine/5.0.0").await.as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_of_a_version_is_not_given_to_mlflows_clients() {
    let api = served().await;
    let secret = api._home.path().join("registry/secret");
    std::fs::write(&secret, "secret").unwrap();
    for (path, status, code) in [
        ("/wine/1.0.0/nothing", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/wine/9.0.0/README.md", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/beer/1.0.0/README.md", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/wine/1.0.0/%2e%2e/secret", 400, "INVALID_PARAMETER_VALUE"),
        ("/wine/1.0.0/..%2f..%2fsecret", 400, "INVALID_PARAMETER_VALUE"),
        ("/wine/1.0.0/%2Fetc%2Fpasswd", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/..%2f..%2fwine/1.0.0", 400, "INVALID_PARAMETER_VALUE"),
        ("/wine", 400, "INVALID_PARAMETER_VALUE"),
        ("/wine/1.0.0/%ff", 400, "INVALID_PARAMETER_VALUE"),
        ("?path=wine/1.0.0/../..", 400, "INVALID_PARAMETER_VALUE"),
        ("?path=", 400, "INVALID_PARAMETER_VALUE"),
        ("", 400, "INVALID_PARAMETER_VALUE"),
    ] {
        let (got, answer) = api.get(&format!("{FILES}{path}")).await;
        assert_eq!((got, &answer["error_code"]), (status, &json!(code)), "{path}: {answer}");
    }
    assert_eq!(api.get(&format!("{FILES}/wine/1.0.0/README.md")).await, (200, json!(CARD)));
    // A blob that is damaged on the disk: the answer breaks off.
    let card = modelyard_registry::blob::digest_of(CARD.as_bytes());
    let blob = api.store().blobs().path(&card);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, CARD.replace("Good", "Evil")).unwrap();
    let ask = Ask {
        method: http::Method::GET,
        path: &format!("{FILES}/wine/1.0.0/README.md"),
        json: bytes::Bytes::new(),
        limit: std::time::Duration::from_secs(20),
        most: 1 << 20,
    };
    assert!(exchange(Peer::Tcp(api.address), ask).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_beside_pushes_takes_only_what_nobody_needs() {
    let api = served().await;
    let home = Home::new(api._home.path());
    let store = Store::open(home.registry(), home.unpacked()).unwrap();
    let listed = || -> Vec<String> { store.list().unwrap().iter().map(|one| one.version.to_string()).collect() };
    api.ask("POST", "/api/models/wine/aliases", json!({"alias": "champion", "version": "1.0.0"})).await;
    add(&store, "3.0.0", 0.7);
    let rules = json!({"keep_last": 1, "grace_ms": 60_000, "dry_run": true, "by": "ada"});
    let (status, told) = api.ask("POST", "/api/retention", rules).await;
    let kept: Vec<&Value> = told["versions"].as_array().unwrap().iter().map(|one| &one["kept"]).collect();
    assert_eq!((status, kept), (200, vec![&json!("aliased"), &Value::Null, &json!("newest")]), "{told}");
    assert_eq!(listed(), ["1.0.0", "2.0.0", "3.0.0"], "a dry run removes nothing");
    // Versions come while others go: what is pushed is whole or not there, and what stays can be read to the last byte.
    let pushing = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            (4..24).for_each(|n| add(&store, &format!("{n}.0.0"), f64::from(n) / 100.0))
        })
    };
    while !pushing.is_finished() {
        let rules = json!({"keep_last": 3, "grace_ms": 60_000, "dry_run": false, "by": "ada"});
        let (status, told) = api.ask("POST", "/api/retention", rules).await;
        assert_eq!((status, &told["swept"]["damaged"]), (200, &json!([])), "{told}");
    }
    pushing.await.unwrap();
    // Everything is old now: the sweep takes all that has no name.
    let blobs = home.registry().join("blobs/sha256");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
    let age = || {
        for blob in std::fs::read_dir(&blobs).unwrap() {
            std::fs::File::open(blob.unwrap().path()).unwrap().set_modified(old).unwrap();
        }
    };
    let rules = json!({"keep_last": 3, "dry_run": false, "by": "ada"});
    api.ask("POST", "/api/retention", rules.clone()).await;
    assert_eq!(listed(), ["1.0.0", "21.0.0", "22.0.0", "23.0.0"]);
    age();
    let (_, told) = api.ask("POST", "/api/retention", rules.clone()).await;
    assert!(!told["swept"]["blobs"].as_array().unwrap().is_empty(), "{told}");
    for one in store.list().unwrap() {
        store.unpack(&one.digest).unwrap();
    }
    let numbers: Vec<u64> = store.list().unwrap().iter().map(|one| one.number).collect();
    assert_eq!(numbers, [1, 21, 22, 23], "a number is never given twice");
    // What a service could go back to stays, in the list and on the disk.
    let served = store.list().unwrap()[1].clone();
    let revision = json!({"number": 1, "created": 1, "model": "wine", "version": served.version, "package": served.digest, "api_version": 1});
    let made = EventBody::RevisionCreated { revision: serde_json::from_value(revision).unwrap() };
    api.ledger.note(Some(&ServiceName::new("wine").unwrap()), vec![made]).await.unwrap();
    age();
    let rules = json!({"keep_last": 1, "dry_run": false, "by": "ada"});
    let (_, told) = api.ask("POST", "/api/retention", rules).await;
    assert_eq!(
        (listed(), &told["versions"][1]["kept"]),
        (vec!["1.0.0".into(), "21.0.0".into(), "23.0.0".into()], &json!("served"))
    );
    store.unpack(&served.digest).unwrap();
    let (_, model) = api.get("/api/models/wine").await;
    let removed =
        model["changes"].as_array().unwrap().iter().filter(|one| one["by"] == "ada" && one["change"] == "removed");
    assert_eq!(removed.count(), 20, "{model}");
}
