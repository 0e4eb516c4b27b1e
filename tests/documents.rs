//! The JSON that scripts rely on, whole: `status` in the middle of a rollout, and what `deploy --wait`, `rollback` and `abort` print.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{World, until};

/// Panics unless the object has exactly these keys.
#[track_caller]
fn has_keys(object: &Value, keys: &[&str]) {
    let of = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    let there: BTreeSet<&str> = of.keys().map(String::as_str).collect();
    assert_eq!(there, keys.iter().copied().collect::<BTreeSet<_>>(), "{object}");
}

/// A pool as `status` shows it, each of its instances live.
#[track_caller]
fn is_pool(pool: &Value, revision: u64, version: &str, instances: usize) {
    has_keys(pool, &["revision", "version", "digest", "instances"]);
    assert_eq!((&pool["revision"], &pool["version"]), (&revision.into(), &version.into()), "{pool}");
    let digest = pool["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{pool}");
    let listed = pool["instances"].as_array().unwrap();
    assert_eq!(listed.len(), instances, "{pool}");
    for instance in listed {
        assert!(instance["id"].as_str().unwrap().starts_with(&format!("wine-r{revision}-")), "{instance}");
        assert_eq!(instance["state"], "live", "{instance}");
        let address: std::net::SocketAddr = instance["address"].as_str().unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() > 0, "{instance}");
        let pid = u32::try_from(instance["pid"].as_u64().unwrap()).unwrap();
        assert!(support::process::alive(pid), "{instance}");
    }
}

#[test]
fn status_and_abort_during_a_bake() {
    let world = World::up();
    world.deploy("wine/v1", &["--instances", "2"]).ended(0);
    let rollout = world.begin("wine/v2", &["--instances", "2", "--steps", "20,50,100", "--bake", "1h"]);
    let status = until("the candidate has its share", 60, || match world.status("wine") {
        status if status["weights"]["2"] == 2_000 && status["rollout"]["phase"].to_string().contains("baking") => {
            Ok(status)
        }
        status => Err(status.to_string()),
    });
    has_keys(&status, &["service", "environment", "weights", "desired", "stable", "candidate", "rollout", "spec"]);
    assert_eq!((&status["service"], &status["environment"]), (&"wine".into(), &"dev".into()));
    assert_eq!(status["weights"], json!({ "1": 8_000, "2": 2_000 }));
    assert_eq!(status["desired"]["weights"], status["weights"], "what was asked for is applied");
    assert_eq!(status["desired"]["instances"], json!({ "1": 2, "2": 1 }));
    is_pool(&status["stable"], 1, "1.0.0", 2);
    is_pool(&status["candidate"], 2, "2.0.0", 1);
    let open = &status["rollout"];
    assert_eq!(
        (&open["id"], &open["strategy"], &open["phase"], &open["step"], &open["steps"]),
        (&rollout.as_str().into(), &"canary".into(), &"baking at 20 %, step 1 of 3".into(), &1.into(), &3.into()),
        "{open}"
    );
    let people = world.run(&["status", "wine"]).ended(0).out;
    for words in ["r1 80 %, r2 20 %", "baking at 20 %, step 1 of 3", "stable", "candidate", "2.0.0"] {
        assert!(people.contains(words), "`{words}` is missing:\n{people}");
    }
    assert!(!people.contains("wanted"), "nothing differs from what is wanted:\n{people}");

    let aborted = world.json(&["abort", "wine"]);
    let told = ["rollout", "service", "strategy", "outcome"].map(|key| aborted[key].clone());
    assert_eq!(told, [rollout.as_str(), "wine", "canary", "aborted"], "{aborted}");
    assert!(aborted["cause"].is_null() && aborted["evidence"].is_null(), "nothing failed: {aborted}");
    world.down();
}

#[test]
fn what_is_wanted_is_shown_beside_what_is() {
    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let folder = world.scratch("never");
    let toml = "files = [\"serve.py\"]\n[model]\nname = \"wine\"\nversion = \"3.0.0\"\ndescription = \"never ready\"\n\
                [runtime]\nkind = \"command\"\ncommand = [\"python3\", \"serve.py\"]\nhealth = \"/health\"\n";
    std::fs::write(folder.join("modelyard.toml"), toml).unwrap();
    std::fs::write(folder.join("serve.py"), "import threading\nthreading.Event().wait()\n").unwrap();
    world.json(&["deploy", folder.to_str().unwrap(), "--service", "slow"]);
    let status = until("an instance is starting", 60, || match world.status("slow") {
        status if status["candidate"]["instances"][0]["state"] == "starting" => Ok(status),
        status => Err(status.to_string()),
    });
    // Whether the gateway has told of the revision by then is a matter of milliseconds; that it carries nothing is not.
    assert!(status["weights"].as_object().unwrap().values().all(|weight| weight == 0), "{status}");
    assert_eq!(status["desired"]["instances"], json!({ "1": 1 }), "{status}");
    let people = world.run(&["status", "slow"]).ended(0).out;
    assert!(people.contains("wanted   1 of r1 live (0 are)"), "{people}");
    world.json(&["abort", "slow"]);
    world.down();
}

#[test]
fn deploys_and_rollbacks_print_how_they_ended() {
    let world = World::up();
    let first = world.deploy("wine/v1", &[]).ended(0).json();
    let told = |document: &Value| ["rollout", "service", "strategy", "outcome"].map(|key| document[key].clone());
    assert_eq!(told(&first), ["wine-1", "wine", "canary", "promoted"], "{first}");
    let at_once = ["--strategy", "blue-green", "--set", "strategy.rollback-window=0s"];
    let second = world.deploy("wine/v2", &at_once).ended(0).json();
    assert_eq!(told(&second), ["wine-2", "wine", "blue-green", "promoted"], "{second}");
    for document in [&first, &second] {
        assert!(document["cause"].is_null() && document["evidence"].is_null() && document["class"].is_null());
    }
    // The old pool is gone: a rollout of its own.
    let back = world.json(&["rollback", "wine"]);
    assert_eq!(told(&back), ["wine-3", "wine", "blue-green", "promoted"], "{back}");
    assert_eq!((&back["from"], &back["to"]), (&2.into(), &1.into()), "{back}");
    // The old pool is kept: the rollout that is open is turned around.
    let kept = ["--strategy", "blue-green", "--set", "strategy.rollback-window=10m"];
    world.deploy("wine/v2", &kept).ended(0);
    let back = world.json(&["rollback", "wine"]);
    assert_eq!(told(&back), ["wine-4", "wine", "blue-green", "aborted"], "{back}");
    assert_eq!(world.status("wine")["weights"], json!({ "1": 10_000 }));
    world.down();
}

#[test]
fn a_rollback_of_what_waits_for_a_person_waits_for_the_end() {
    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let manual = ["--strategy", "blue-green", "--set", "strategy.manual=true"];
    world.deploy("wine/v2", &manual).ended(4);
    let back = world.json(&["rollback", "wine"]);
    assert_eq!((&back["rollout"], &back["outcome"]), (&"wine-2".into(), &"aborted".into()), "{back}");
    world.down();
}

/// A model that stops working on this machine once the file `gone` lies beside it.
const FRAIL: &str = r#"import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if os.path.exists(os.environ["FRAIL"]):
    sys.exit("a file that this model needs has changed")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

#[test]
fn a_rollback_that_is_itself_taken_back_is_a_failure() {
    let world = World::up();
    let (folder, file) = (world.scratch("frail"), world.scratch("service").join("service.toml"));
    let gone = world.scratch("gone").join("gone");
    std::fs::write(folder.join("serve.py"), FRAIL).unwrap();
    let deploy = |version: &str, frail: &std::path::Path| {
        let toml = format!(
            "files = [\"serve.py\"]\n[model]\nname = \"frail\"\nversion = \"{version}\"\ndescription = \"needs a file\"\n\
             [runtime]\nkind = \"command\"\ncommand = [\"python3\", \"serve.py\"]\nhealth = \"/health\"\n"
        );
        std::fs::write(folder.join("modelyard.toml"), toml).unwrap();
        let service = format!(
            "name = \"frail\"\npackage = \"{}\"\n[configuration]\nFRAIL = \"{}\"\n\
             [strategy]\nkind = \"blue-green\"\nrollback-window = \"0s\"\n",
            folder.display(),
            frail.display()
        );
        std::fs::write(&file, service).unwrap();
        world.run(&["deploy", file.to_str().unwrap(), "--wait", "--timeout", "2m"]).ended(0);
    };
    deploy("1.0.0", &gone);
    deploy("2.0.0", std::path::Path::new("/nowhere"));
    until("the first rollouts are over", 60, || match world.status("frail") {
        status if status["rollout"].is_null() => Ok(()),
        status => Err(status["rollout"].to_string()),
    });
    std::fs::write(&gone, "").unwrap();
    let ran = world.run(&["rollback", "frail", "--output", "json"]).ended(1);
    let end = ran.json();
    assert_eq!((&end["outcome"], &end["cause"]), (&"rolled-back".into(), &"crash-loop".into()), "{end}");
    assert!(ran.err.contains("`frail` was not rolled back"), "{}", ran.err);
    assert_eq!(world.status("frail")["stable"]["version"], "2.0.0", "it stays where it was");
    world.down();
}
