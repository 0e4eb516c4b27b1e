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

fn python() -> String {
    std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers")
}

/// A path below the checkout.
fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A world whose `python3` is the one with the peers: programs in packages need what it has.
fn world() -> World {
    let mut world = World::default();
    let bin = PathBuf::from(python()).parent().unwrap().to_owned();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(bin).chain(std::env::split_paths(&paths));
    world.environment.push(("PATH", std::env::join_paths(paths).unwrap().into_string().unwrap()));
    world.start();
    world
}

#[test]
#[ignore = "needs the Python peers"]
fn every_peer_gets_the_answers_it_expects() {
    let scripts = scripts();
    assert!(!scripts.is_empty(), "there are scripts in tests/peers");
    let world = world();
    for example in ["wine/v1", "breast-cancer/v1", "digits/v1", "diabetes/v1", "iris/v1", "fastapi/v1", "language/v1"] {
        world.deploy(example, &[]).ended(0);
    }
    let failed: Vec<String> = scripts.iter().filter_map(|script| run(&world, script, &[]).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    world.down();
}

/// Models for `serve_clients.py`: the name under which each is served, and its ONNX file. The last three are of every datatype that the
/// protocol has, and maps.
fn models() -> [(&'static str, PathBuf); 6] {
    let example = |name: &'static str| (name, examples().join(name).join("v1/model.onnx"));
    let fixture = |name: &'static str| (name, checkout("crates/serve/tests/fixtures").join(format!("{name}.onnx")));
    [example("wine"), example("iris"), example("digits"), fixture("portable"), fixture("datatypes"), fixture("maps")]
}

const CLIENTS: &str = "tests/peers/serve_clients.py";

#[test]
#[ignore = "needs the Python peers"]
fn every_client_is_served_by_a_model_server_alone() {
    let world = World::default();
    for (model, file) in models() {
        let arguments = ["serve", "--http", "127.0.0.1:0", "--output", "json", "--name", model];
        let mut server =
            world.command(&arguments).arg(&file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let listening: serde_json::Value = serde_json::from_str(&first).unwrap();
        let address = listening["address"].as_str().unwrap();
        until("it is ready", 60, || ureq::get(format!("http://{address}/v2/health/ready")).call());
        let told = run(&world, &checkout(CLIENTS), &[address, model, file.to_str().unwrap()]);
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(told.is_ok(), "{model}: {}", told.unwrap_err());
    }
}

#[test]
#[ignore = "needs the Python peers"]
fn every_client_is_served_below_a_path_of_the_gateway() {
    let world = World::up();
    let models = models().into_iter().filter(|(model, _)| ["wine", "portable", "maps"].contains(model));
    for (model, file) in models.clone() {
        let path = file.to_str().unwrap();
        let arguments =
            ["deploy", path, "--service", model, "--as", &format!("{model}:1"), "--wait", "--timeout", "3m"];
        world.run(&arguments).ended(0);
    }
    let gateway = world.gateway.to_string();
    for (model, file) in models {
        let told = run(&world, &checkout(CLIENTS), &[&gateway, model, file.to_str().unwrap(), &format!("{model}/v1")]);
        assert!(told.is_ok(), "{model}: {}", told.unwrap_err());
    }
    world.down();
}

#[test]
#[ignore = "needs the Python peers"]
fn the_examples_are_what_their_scripts_say() {
    let told = run(&World::default(), &checkout("examples/check.py"), &[]);
    assert!(told.is_ok(), "{}", told.unwrap_err());
}

fn run(world: &World, script: &Path, arguments: &[&str]) -> Result<(), String> {
    let python = python();
    let output = Command::new(&python)
        .arg(script)
        .args(arguments)
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
