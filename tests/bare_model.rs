//! A bare ONNX file from outside: packaged, inspected, deployed and replaced without a model folder.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Ran, World, examples, until};

/// A file with the model of an example, called as somebody would have exported it.
fn exported(world: &World, example: &str, file: &str) -> PathBuf {
    let path = world.scratch("exports").join(file);
    fs::copy(examples().join(example).join("model.onnx"), &path).unwrap();
    path
}

/// What was said on stderr, without the line breaks of its layout.
fn said(ran: &Ran) -> String {
    ran.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_bare_file_is_packaged_under_its_own_name() {
    let world = World::default();
    let file = exported(&world, "wine/v1", "My Wine.onnx");
    let built = world.json(&["package", text(&file)]);
    assert_eq!((&built["name"], &built["version"]), (&json!("my-wine"), &json!("1")));
    let again = world.json(&["package", text(&file)]);
    assert_eq!(again["digest"], built["digest"], "the same file gives the same digest");

    let inspected = world.json(&["inspect", "my-wine:1"]);
    let bare = world.json(&["inspect", text(&file)]);
    assert_eq!(inspected["signature"], bare["signature"]);
    assert_eq!(inspected["signature"]["inputs"][0]["name"], "features");
    assert_eq!(inspected["runtime"], json!({"kind": "onnx", "model": "My Wine.onnx"}));
    let size = fs::metadata(&file).unwrap().len();
    assert_eq!(inspected["files"]["My Wine.onnx"]["size_bytes"], size, "{inspected}");

    let named = world.json(&["package", text(&file), "--as", "cellar:2024.1"]);
    assert_eq!((&named["name"], &named["version"]), (&json!("cellar"), &json!("2024.1")));
}

#[test]
fn what_cannot_be_packaged_bare_is_refused_with_what_to_do() {
    let world = World::default();
    let first = exported(&world, "wine/v1", "wine.onnx");
    world.json(&["package", text(&first)]);
    let changed = exported(&world, "wine/v2", "wine.onnx");
    let taken = world.run(&["package", text(&changed)]).ended(1);
    assert!(
        said(&taken).contains("`wine:1` is sha256:") && said(&taken).contains("--as NAME:VERSION"),
        "{}",
        taken.err
    );

    let notes = world.scratch("exports").join("notes.txt");
    fs::write(&notes, b"no model").unwrap();
    let foreign = world.run(&["package", text(&notes)]).ended(2);
    assert!(said(&foreign).contains("no model file") && said(&foreign).contains("modelyard new"), "{}", foreign.err);
    let broken = world.scratch("exports").join("broken.onnx");
    fs::write(&broken, b"no model").unwrap();
    let broken = world.run(&["package", text(&broken)]).ended(1);
    assert!(said(&broken).contains("cannot be packaged"), "{}", broken.err);

    let folder = examples().join("wine/v1");
    for (arguments, says) in [
        (vec!["package", text(&folder), "--as", "wine:2"], "modelyard.toml says"),
        (vec!["package", text(&first), "--as", "wine"], "wine:2"),
        (vec!["package", text(&first), "--as", "Wine:2"], "not a"),
    ] {
        let ran = world.run(&arguments).ended(2);
        assert!(said(&ran).contains(says), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn models_of_other_kinds_are_kept_moved_compared_and_not_run() {
    let world = World::default();
    let kinds = examples().join("../tests/fixtures/kinds");
    let pickle = world.run(&["package", text(&kinds.join("bad.pkl")), "--output", "json"]).ended(0);
    let told = said(&pickle);
    assert!(told.contains("`bad.pkl` is a pickle") && told.contains("posix.system"), "{told}");
    assert!(told.contains("nothing runs this package"), "{told}");
    let inspected = world.run(&["inspect", "bad:1", "--output", "text"]).ended(0);
    assert!(inspected.out.contains("risk") && inspected.out.contains("posix.system"), "{}", inspected.out);

    let wine = world.json(&["package", text(&kinds.join("wine_tf"))]);
    assert_eq!((&wine["name"], &wine["version"]), (&json!("wine_tf"), &json!("1")));
    let inspected = world.json(&["inspect", "wine_tf:1"]);
    assert_eq!(inspected["signature"]["inputs"][0], json!({"name": "features", "datatype": "FP32", "shape": [-1, 4]}));
    assert_eq!(inspected["models"]["wine_tf"]["kind"], "saved-model");
    let bare = world.json(&["inspect", text(&kinds.join("wine_tf"))]);
    assert_eq!(bare["signature"], inspected["signature"]);
    let differs = world.json(&["diff", "wine_tf:1", text(&kinds.join("relu.mlpackage"))]);
    assert!(differs["breaks"][0].as_str().unwrap().contains("input `features` is gone"), "{differs}");
    assert_eq!(differs["changes"]["models"]["relu.mlpackage"]["after"]["kind"], "core-ml", "{differs}");

    for arguments in [vec!["serve", "wine_tf:1"], vec!["serve", text(&kinds.join("dense.mlmodel"))]] {
        let ran = world.run(&arguments).ended(2);
        assert!(
            said(&ran).contains("which nothing here runs") && said(&ran).contains("modelyard new DIR"),
            "{}",
            ran.err
        );
    }
    let cut = world.scratch("exports").join("cut.gguf");
    fs::write(&cut, &fs::read(kinds.join("tiny.gguf")).unwrap()[..500]).unwrap();
    let broken = world.run(&["package", text(&cut)]).ended(1);
    assert!(said(&broken).contains("cut short") && said(&broken).contains("download or export"), "{}", broken.err);
}

#[test]
fn a_bare_file_is_deployed_replaced_and_taken_back() {
    let world = World::up();
    let ask = || -> Value {
        let body = fs::read(examples().join("wine/traffic.json")).unwrap();
        let rows: Vec<Value> = serde_json::from_slice(&body).unwrap();
        let url = format!("http://{}/v2/models/wine/infer", world.gateway);
        ureq::post(url).send_json(&rows[0]["request"]).unwrap().body_mut().read_json().unwrap()
    };
    let wait = ["--wait", "--timeout", "3m"];
    let first = exported(&world, "wine/v1", "wine.onnx");
    world.json(&[&["deploy", text(&first)][..], &wait].concat());
    let (before, status) = (ask(), world.status("wine"));
    assert_eq!((&status["stable"]["version"], &before["model_version"]), (&json!("1"), &json!("1")), "{status}");
    assert_eq!(before["outputs"][0]["name"], "label", "{before}");

    let second = exported(&world, "wine/v2", "retrained.onnx");
    let strategy = ["--strategy", "blue-green", "--as", "wine:2", "--service", "wine"];
    world.json(&[&["deploy", text(&second)][..], &strategy, &wait].concat());
    let after = ask();
    assert_eq!(after["model_version"], "2", "{after}");
    assert_ne!(after["outputs"][1]["data"], before["outputs"][1]["data"], "another model answers");
    world.json(&["rollback", "wine"]);
    assert_eq!(ask(), before, "the first file answers again");
    let kept = world.run(&["deploy", text(&examples().join("../tests/fixtures/kinds/tiny.gguf"))]).ended(2);
    assert!(said(&kept).contains("is a bare GGUF model, which nothing here runs"), "{}", kept.err);
    let missing = world.run(&["deploy", "nowhere.onnx"]).ended(2);
    assert!(said(&missing).contains("no file or folder nowhere.onnx"), "{}", missing.err);
    world.down();
}

/// A program that reads safetensors with nothing but Python, and answers with the product of its weights and what it is asked.
const SERVER: &str = r#"
import http.server, json, os, struct

raw = open("linear.safetensors", "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
begin, end = json.loads(raw[8:8 + size])["weight"]["data_offsets"]
weight = struct.unpack("<2f", raw[8 + size + begin:8 + size + end])

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"ready": True})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["x"]
        self.answer({"y": sum(w * x for w, x in zip(weight, asked))})

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A model folder with a safetensors file of two weights, and the program that serves it.
fn linear(world: &World, version: &str, weights: [f32; 2]) -> PathBuf {
    let folder = world.scratch(&format!("linear-{version}"));
    let header = r#"{"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let data = weights.iter().flat_map(|weight| weight.to_le_bytes());
    let file: Vec<u8> = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(data).collect();
    fs::write(folder.join("linear.safetensors"), file).unwrap();
    fs::write(folder.join("serve.py"), SERVER).unwrap();
    let description = format!(
        "samples = [{{path = \"/score\", request = {{x = [1, 2]}}, response = {{y = {:?}}}}}]\n\
         [model]\nname = \"linear\"\nversion = \"{version}\"\n\
         [runtime]\nkind = \"command\"\ncommand = [\"python3\", \"serve.py\"]\nhealth = \"/\"\n",
        weights[0] + 2.0 * weights[1]
    );
    fs::write(folder.join("modelyard.toml"), description).unwrap();
    folder
}

#[test]
fn a_safetensors_model_is_served_by_a_program_replaced_and_taken_back() {
    let world = World::up();
    let ask = || -> Value {
        let url = format!("http://{}/linear/v1/score", world.gateway);
        ureq::post(url).send_json(json!({ "x": [1, 10] })).unwrap().body_mut().read_json().unwrap()
    };
    let wait = ["--wait", "--timeout", "3m"];
    let first = linear(&world, "1", [1.0, 2.0]);
    world.json(&[&["deploy", text(&first)][..], &wait].concat());
    assert_eq!(ask(), json!({ "y": 21.0 }));
    assert_eq!(world.json(&["inspect", "linear:1"])["models"]["linear.safetensors"]["facts"]["parameters"], 2);

    let second = linear(&world, "2", [3.0, 4.0]);
    world.json(&[&["deploy", text(&second), "--strategy", "rolling"][..], &wait].concat());
    assert_eq!(ask(), json!({ "y": 43.0 }));
    world.json(&["rollback", "linear"]);
    assert_eq!(ask(), json!({ "y": 21.0 }));
    world.down();
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn platforms_say_by_variables_where_to_listen_what_to_answer_and_which_model() {
    let world = World::default();
    let port = free_port();
    let model = world.scratch("models");
    fs::copy(examples().join("wine/v1/model.onnx"), model.join("wine.onnx")).unwrap();
    // Nothing on the command line: the platform's variables are all there is.
    let mut server = world
        .command(&["serve"])
        .env("AIP_HTTP_PORT", port.to_string())
        .env("AIP_HEALTH_ROUTE", "/alive")
        .env("AIP_PREDICT_ROUTE", "/v1/guess")
        .env("AZUREML_MODEL_DIR", &model)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    until("the model is loaded", 60, || ureq::get(at("/alive")).call());
    let ask = |path: &str, body: Value| -> Value {
        ureq::post(at(path)).send_json(body).unwrap().body_mut().read_json().unwrap()
    };
    let row = json!([13.2, 1.78, 2.14, 11.2, 100, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050]);
    let vertex = ask("/v1/guess", json!({"instances": [row, row]}));
    let predictions = vertex["predictions"].as_array().unwrap();
    assert_eq!((predictions.len(), &predictions[0]["label"]), (2, &json!(0)), "{vertex}");
    assert_eq!(ask("/score", json!({"input_data": {"features": [row]}}))["label"], json!([0]));
    assert!(ureq::get(at("/ping")).call().is_err(), "nobody asked for SageMaker's or MLflow's contract");
    server.kill().unwrap();
    server.wait().unwrap();

    let nothing = world.run(&["serve"]).ended(2);
    assert!(said(&nothing).contains("it is not said what to serve"), "{}", nothing.err);
    let unknown = world.run(&["serve", text(&model.join("wine.onnx")), "--contract", "sagemeker"]).ended(2);
    assert!(said(&unknown).contains("`sagemeker` is no contract"), "{}", unknown.err);
    let reachable = world.run(&["serve", text(&model.join("wine.onnx")), "--http", "0.0.0.0:0"]).ended(2);
    assert!(said(&reachable).contains("--reachable"), "{}", reachable.err);
}
