//! Real peers against a running Modelyard: each script of `tests/peers` with the Python that `MODELYARD_TEST_PYTHON` names.
//!
//! The scripts get the addresses in the environment: `MODELYARD_GATEWAY`, `MODELYARD_CONTROL`, `MODELYARD_EXAMPLES`, `MODELYARD_BINARY`.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{World, examples, until};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers");
    let mut scripts: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    scripts.retain(|path| {
        path.extension().is_some_and(|ending| ending == "py")
            && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("test_"))
    });
    scripts.sort();
    scripts
}

#[test]
#[ignore = "needs the Python peers"]
fn every_peer_gets_the_answers_it_expects() {
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let scripts = scripts();
    assert!(!scripts.is_empty(), "there are scripts in tests/peers");
    let world = World::up();
    for example in ["wine/v1", "breast-cancer/v1", "digits/v1", "diabetes/v1", "iris/v1"] {
        world.deploy(example, &[]).ended(0);
    }
    let failed: Vec<String> = scripts.iter().filter_map(|script| run(&world, &python, script).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    world.down();
}

#[test]
#[ignore = "needs the Python peers"]
fn every_client_is_served_by_a_model_server_alone() {
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/serve_clients.py");
    let world = World::default();
    for model in ["wine", "iris", "digits"] {
        let folder = examples().join(model).join("v1");
        let mut server = world
            .command(&["serve", "--http", "127.0.0.1:0", "--output", "json"])
            .arg(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let listening: serde_json::Value = serde_json::from_str(&first).unwrap();
        let address = listening["address"].as_str().unwrap();
        until("it is ready", 60, || ureq::get(format!("http://{address}/v2/health/ready")).call());
        let output =
            Command::new(&python).arg(&script).args([address, model]).arg(folder.join("model.onnx")).output().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&told));
    }
}

fn run(world: &World, python: &str, script: &Path) -> Result<(), String> {
    let output = Command::new(python)
        .arg(script)
        .env("MODELYARD_GATEWAY", world.gateway.to_string())
        .env("MODELYARD_CONTROL", world.control.to_string())
        .env("MODELYARD_EXAMPLES", examples())
        .env("MODELYARD_BINARY", env!("CARGO_BIN_EXE_modelyard"))
        .env("MODELYARD_HOME", world.home())
        .output()
        .map_err(|error| format!("{python}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}:\n{}{}", script.display(), text(&output.stdout), text(&output.stderr))),
    }
}
