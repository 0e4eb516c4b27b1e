//! Python on a base: functions with their dependencies, and programs as the first process of their container.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use modelyard_package::lock::heading;
use serde_json::{Value, json};

use crate::support::base_image::python;
use crate::support::docker::{Docker, run};
use crate::support::{World, until};
use crate::{Registry, port};

const FUNCTION: &str = "import greet\n\ndef predict(inputs):\n    return {'y': [greet.half(x) for x in inputs['x']]}\n";

/// Listens, and does nothing about signals.
const PROGRAM: &str = "
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'here')
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// A wheel, and a lock that pins it.
fn locked(folder: &Path, links: &Path) {
    let script = "
import sys, zipfile, hashlib
path = sys.argv[1] + '/greet-1-py3-none-any.whl'
info = 'greet-1.dist-info/'
files = {
    'greet.py': 'def half(x):\\n    return x / 2\\n',
    info + 'METADATA': 'Metadata-Version: 2.1\\nName: greet\\nVersion: 1\\n',
    info + 'WHEEL': 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
    info + 'entry_points.txt': '[console_scripts]\\ngreet = greet:half\\n',
}
files[info + 'RECORD'] = ''.join(name + ',,\\n' for name in [*files, info + 'RECORD'])
with zipfile.ZipFile(path, 'w') as archive:
    for name, text in files.items():
        archive.writestr(name, text)
print(hashlib.sha256(open(path, 'rb').read()).hexdigest())
";
    let digest = run(Command::new("/usr/bin/python3").args(["-I", "-c", script]).arg(links));
    let needs = b"greet==1\n";
    std::fs::write(folder.join("needs.txt"), needs).unwrap();
    let lock = format!("{}greet==1 --hash=sha256:{}\n", heading(needs, ">=3.9"), digest.trim());
    std::fs::write(folder.join("modelyard.lock"), lock).unwrap();
}

/// A home that finds uv and the wheels in `links`, and no index.
fn builder(links: &Path) -> World {
    let mut world = World::default();
    let python = PathBuf::from(std::env::var("MODELYARD_TEST_PYTHON").expect("the peers' interpreter"));
    world.environment.push(("MODELYARD_UV", python.with_file_name("uv").display().to_string()));
    world.environment.push(("UV_FIND_LINKS", links.display().to_string()));
    world.environment.push(("UV_NO_INDEX", "1".to_owned()));
    world
}

/// Starts a container without a network of its own, where nothing can be written; its id and address.
fn started(docker: &Docker, image: &str) -> (String, String) {
    let address = format!("127.0.0.1:{}", port());
    let http = format!("MODELYARD_HTTP={address}");
    let arguments = ["run", "--detach", "--read-only", "--network", "host", "--env", &http, image];
    (run(&mut docker.command(&arguments)).trim().to_owned(), address)
}

/// Stops it; its exit code.
fn stopped(docker: &Docker, container: &str) -> String {
    let began = Instant::now();
    run(&mut docker.command(&["stop", "--time", "30", container]));
    assert!(began.elapsed() < Duration::from_secs(10), "SIGTERM ends it, not the end of patience");
    run(&mut docker.command(&["inspect", "--format", "{{.State.ExitCode}}", container])).trim().to_owned()
}

#[test]
#[ignore = "needs the Python peers, dockerd and root"]
fn a_python_function_runs_in_an_image_with_what_its_lock_names() {
    let (theirs, links) = (World::default(), tempfile::tempdir().unwrap());
    let minor = python(&theirs);
    let registry = Registry::of(&theirs);
    let from = format!("{}/debian:13", registry.address);
    let world = builder(links.path());
    let (folder, out) = (world.scratch("half"), world.scratch("out"));
    let tensor = |name: &str| format!("[{{name = \"{name}\", datatype = \"FP32\", shape = [-1]}}]");
    let text = format!(
        "[model]\nname = \"half\"\nversion = \"1\"\n[runtime]\nkind = \"python\"\nentry = \"predict:predict\"\n\
         requirements = \"needs.txt\"\n[signature]\ninputs = {}\noutputs = {}\n",
        tensor("x"),
        tensor("y")
    );
    std::fs::write(folder.join("modelyard.toml"), text).unwrap();
    std::fs::write(folder.join("predict.py"), FUNCTION).unwrap();
    locked(&folder, links.path());
    let package = |more: &[&str]| {
        let out = out.to_str().unwrap();
        let mut all = vec!["package", folder.to_str().unwrap(), "--format", "image", "--out", out, "--output", "json"];
        all.extend(more);
        world.run(&all)
    };
    let alone = package(&[]).ended(1).err;
    let alone = alone.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(alone.contains("has to be put on one that has Python"), "{alone}");
    let built = package(&["--base", &from]).ended(0).json();
    let image = &built["formats"][0];
    let what: Vec<&str> = image["layers"].as_array().unwrap().iter().filter_map(|one| one["what"].as_str()).collect();
    assert_eq!(what, ["base", "runtime", "dependencies", "package"]);
    let path = image["path"].as_str().unwrap();
    let rebuilt = world.json(&["verify", "--rebuild", path]);
    assert_eq!(rebuilt["verified"], true, "installed anew, the same bytes: {rebuilt}");

    let docker = Docker::start();
    run(&mut docker.command(&["load", "--input", path]));
    let (container, address) = started(&docker, "half:1");
    let url = format!("http://{address}/v2/models/half/infer");
    let request = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [2], "data": [4.0, 1.0] }] });
    let logs = || run(&mut docker.command(&["logs", &container]));
    let answer: Value = until("the function answers", 60, || {
        ureq::post(&url).send_json(&request).and_then(|mut answer| answer.body_mut().read_json()).map_err(|error| {
            let state = run(&mut docker.command(&["inspect", "--format", "{{.State.Status}}", &container]));
            format!("{error}; {state}{}", logs())
        })
    });
    assert_eq!(answer["outputs"][0]["data"], json!([2.0, 0.5]), "{answer}");
    assert_eq!(stopped(&docker, &container), "0");

    // Another Python than the base has.
    let text = std::fs::read_to_string(folder.join("modelyard.toml")).unwrap();
    let text = text.replace("version = \"1\"", "version = \"2\"") + "[python]\nrequires = \">=3.99\"\n";
    std::fs::write(folder.join("modelyard.toml"), text).unwrap();
    let lock = std::fs::read_to_string(folder.join("modelyard.lock")).unwrap().replace(">=3.9", ">=3.99");
    std::fs::write(folder.join("modelyard.lock"), lock).unwrap();
    let other = package(&["--base", &from]).ended(1).err;
    let other = other.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(other.contains(&format!("has Python 3.{minor}")) && other.contains(">=3.99"), "{other}");
}

#[test]
#[ignore = "needs dockerd and root"]
fn a_program_that_ignores_signals_is_ended_by_them_all_the_same() {
    let theirs = World::default();
    let minor = python(&theirs);
    let registry = Registry::of(&theirs);
    let world = World::default();
    let (folder, out) = (world.scratch("program"), world.scratch("out"));
    let text = format!(
        "[model]\nname = \"program\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\ncommand = [\"python3.{minor}\", \"main.py\"]\n\
         health = \"/\"\n[image]\nbase = \"{}/debian:13\"\n",
        registry.address
    );
    std::fs::write(folder.join("modelyard.toml"), text).unwrap();
    std::fs::write(folder.join("main.py"), PROGRAM).unwrap();
    let (folder, out) = (folder.to_str().unwrap(), out.to_str().unwrap());
    let built = world.json(&["package", folder, "--format", "image", "--out", out]);
    let docker = Docker::start();
    run(&mut docker.command(&["load", "--input", built["formats"][0]["path"].as_str().unwrap()]));
    let (container, address) = started(&docker, "program:1");
    let body = until("the program answers", 30, || {
        ureq::get(format!("http://{address}/")).call().and_then(|mut answer| answer.body_mut().read_to_string())
    });
    assert_eq!(body, "here");
    // As shells tell it: 128 and the number of SIGTERM.
    assert_eq!(stopped(&docker, &container), "143");
}
