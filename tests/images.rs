//! Container images from outside: made by the command line, taken by Docker, skopeo and the registry.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "images/bases.rs"]
mod bases;
#[path = "images/functions.rs"]
mod functions;
#[path = "images/runtime.rs"]
mod runtime;
mod support;

use std::io::BufRead as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::docker::{Docker, run};
use support::{World, examples, until};

/// The wine example as an image: what `package` told.
fn packaged(world: &World, arguments: &[&str]) -> Value {
    let (folder, out) = (examples().join("wine/v1"), world.scratch("out"));
    let mut all = vec!["package", folder.to_str().unwrap(), "--format", "image", "--out", out.to_str().unwrap()];
    all.extend(arguments);
    world.json(&all)
}

fn path_of(built: &Value) -> PathBuf {
    built["formats"][0]["path"].as_str().unwrap().into()
}

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The first request of the example's traffic, asked there; its label, and what was answered.
fn ask(address: &str) -> (Value, Value) {
    let traffic: Value = serde_json::from_slice(&std::fs::read(examples().join("wine/traffic.json")).unwrap()).unwrap();
    until("it is ready", 60, || ureq::get(format!("http://{address}/v2/health/ready")).call());
    let url = format!("http://{address}/v2/models/wine/infer");
    let mut answer = ureq::post(url).send_json(&traffic[0]["request"]).unwrap();
    let answer: Value = answer.body_mut().read_json().unwrap();
    (traffic[0]["label"].clone(), answer["outputs"][0]["data"][0].clone())
}

/// The registry of a world, served alone.
struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    fn of(world: &World) -> Self {
        let mut command = world.command(&["registry", "--listen", "127.0.0.1:0", "--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut stdout, mut told) = (std::io::BufReader::new(child.stdout.take().unwrap()), String::new());
        while !told.trim_end().ends_with('}') {
            assert!(stdout.read_line(&mut told).unwrap() > 0, "it ended after {told:?}");
        }
        let told: Value = serde_json::from_str(&told).unwrap();
        Self { address: told["address"].as_str().unwrap().parse().unwrap(), child }
    }

    fn manifest(&self, reference: &str) -> Result<Value, ureq::Error> {
        let url = format!("http://{}/v2/wine/manifests/{reference}", self.address);
        ureq::get(url).call()?.body_mut().read_json()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What stands in a layout or archive under a path.
fn member(archive: &Path, name: &str) -> Vec<u8> {
    let output = Command::new("tar").arg("xOf").arg(archive).arg(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn an_image_is_the_same_twice_and_stays_as_long_as_its_package() {
    let world = World::default();
    let built = packaged(&world, &[]);
    let format = &built["formats"][0];
    assert_eq!(format["format"], "image", "{built}");
    assert_eq!(format["tag"], "1.0.0-image", "{built}");
    let path = path_of(&built);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), format["size_bytes"].as_u64().unwrap());
    let again = packaged(&world, &[]);
    for key in ["digest", "file_digest", "size_bytes"] {
        assert_eq!(again["formats"][0][key], format[key], "{key}");
    }
    let layers = again["formats"][0]["layers"].as_array().unwrap();
    assert!(layers.iter().all(|layer| layer["reused"] == true), "{layers:?}");
    let other = packaged(&World::default(), &[]);
    assert_eq!(other["formats"][0]["file_digest"], format["file_digest"], "another home makes the same bytes");

    let index: Value = serde_json::from_slice(&member(&path, "index.json")).unwrap();
    assert_eq!(index["manifests"][0]["digest"], format["digest"]);
    let docker: Value = serde_json::from_slice(&member(&path, "manifest.json")).unwrap();
    assert_eq!(docker[0]["RepoTags"][0], "wine:1.0.0");

    // The registry gives it under its tag and digest, lists it with its package, and a sweep leaves it.
    let swept = world.json(&["gc", "--older-than", "0s"]);
    assert_eq!(swept["blobs"], serde_json::json!([]), "{swept}");
    let registry = Registry::of(&world);
    let by_tag = registry.manifest("1.0.0-image").unwrap();
    assert_eq!(by_tag, registry.manifest(format["digest"].as_str().unwrap()).unwrap());
    assert_eq!(by_tag["subject"]["digest"], built["digest"]);
    let url = format!("http://{}/v2/wine/referrers/{}", registry.address, built["digest"].as_str().unwrap());
    let referrers: Value = ureq::get(url).call().unwrap().body_mut().read_json().unwrap();
    assert_eq!(referrers["manifests"][0]["digest"], format["digest"], "{referrers}");
    for layer in by_tag["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        let url = format!("http://{}/v2/wine/blobs/{digest}", registry.address);
        let size = ureq::head(url).call().unwrap().headers()["content-length"].to_str().unwrap().to_owned();
        assert_eq!(size, layer["size"].to_string());
    }
}

#[test]
fn an_image_goes_with_its_package_and_stays_home_when_that_is_pushed() {
    let (world, theirs) = (World::default(), World::default());
    let image = packaged(&world, &[])["formats"][0].clone();
    let registry = Registry::of(&theirs);
    let pushed = world.json(&["push", "wine:1.0.0", &format!("{}/wine", registry.address)]);
    assert_eq!(pushed["referrers"], 0, "a push moves the package: {pushed}");
    assert!(registry.manifest("1.0.0").is_ok() && registry.manifest(image["digest"].as_str().unwrap()).is_err());

    let newer = examples().join("wine/v2");
    world.json(&["package", newer.to_str().unwrap()]);
    let gc = |more: &[&str]| {
        let mut all = vec!["gc", "--keep-last", "1", "--older-than", "0s"];
        all.extend(more);
        world.json(&all)
    };
    let digests = |swept: &Value| swept["blobs"].as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>();
    let would = gc(&["--dry-run"]);
    assert!(!digests(&would).contains(&image["digest"].to_string()), "its version is still there: {would}");
    let swept = gc(&[]);
    let gone = digests(&swept);
    assert!(gone.contains(&image["digest"].to_string()), "{swept}");
    for layer in image["layers"].as_array().unwrap() {
        assert!(gone.contains(&layer["digest"].to_string()), "{layer}: {swept}");
    }
}

#[test]
fn a_server_in_a_container_is_told_by_variables() {
    let world = World::default();
    let (model, out) = (examples().join("wine/v1"), world.scratch("out"));
    // Exporting lays the package out.
    let export = ["package", model.to_str().unwrap(), "--format", "wheel", "--out", out.to_str().unwrap()];
    let package = world.json(&export);
    let hex = package["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let folder = world.home().join("unpacked").join(hex);
    let refused = world.command(&["serve"]).env("MODELYARD_HTTP", "0.0.0.0:0").output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("--reachable"), "{told}");
    let lost = world.run(&["serve"]).ended(2).err;
    assert!(lost.contains("not said what to serve"), "{lost}");
    let mut server = world.command(&["serve", "--output", "json"]);
    server.env("MODELYARD_HTTP", "0.0.0.0:0").env("MODELYARD_REACHABLE", "true").env("MODELYARD_PACKAGE_DIR", folder);
    let mut child = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let listening: Value = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first}"));
    let port = listening["address"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    assert!(listening["address"].as_str().unwrap().starts_with("0.0.0.0:"), "{listening}");
    let (label, answer) = ask(&format!("127.0.0.1:{port}"));
    assert_eq!(answer, label);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_both_forms_of_the_archive_and_the_registry() {
    let world = World::default();
    let built = packaged(&world, &[]);
    let (digest, path) = (built["formats"][0]["digest"].as_str().unwrap(), path_of(&built));
    let skopeo = |arguments: &[&str]| run(Command::new("skopeo").args(["--insecure-policy"]).args(arguments));
    let archive = format!("oci-archive:{}", path.display());
    let told: Value = serde_json::from_str(&skopeo(&["inspect", &archive])).unwrap();
    assert_eq!((&told["Digest"], &told["Os"]), (&Value::from(digest), &Value::from("linux")), "{told}");
    assert_eq!(told["Labels"]["org.opencontainers.image.version"], "1.0.0");
    let docker: Value =
        serde_json::from_str(&skopeo(&["inspect", &format!("docker-archive:{}", path.display())])).unwrap();
    assert_eq!(docker["Labels"], told["Labels"]);
    // Every layer is read and held against the configuration.
    skopeo(&["copy", &archive, &format!("dir:{}", world.scratch("dir").display())]);
    skopeo(&[
        "copy",
        &format!("docker-archive:{}", path.display()),
        &format!("dir:{}", world.scratch("other").display()),
    ]);
    let registry = Registry::of(&world);
    let ours = format!("docker://{}/wine:1.0.0-image", registry.address);
    let served: Value = serde_json::from_str(&skopeo(&["inspect", "--tls-verify=false", &ours])).unwrap();
    assert_eq!(served["Digest"], digest, "{served}");
    let theirs = format!("docker://{}/team/wine:1.0.0", registry.address);
    skopeo(&["copy", "--dest-tls-verify=false", &archive, &theirs]);
    let pushed: Value = serde_json::from_str(&skopeo(&["inspect", "--tls-verify=false", &theirs])).unwrap();
    assert_eq!(pushed["Digest"], digest, "{pushed}");
}

#[test]
#[ignore = "needs dockerd and root"]
fn docker_loads_runs_and_pulls_the_image() {
    let world = World::default();
    let built = packaged(&world, &[]);
    let docker = Docker::start();
    let told = run(&mut docker.command(&["load", "--input", path_of(&built).to_str().unwrap()]));
    assert!(told.contains("wine:1.0.0"), "{told}");
    let id = run(&mut docker.command(&["image", "inspect", "--format", "{{.Id}}", "wine:1.0.0"]));

    // As Docker starts it by default, and with the word that SageMaker adds; nothing in it can be written to, and nobody in it is root.
    for words in [&[][..], &["serve"]] {
        let http = format!("MODELYARD_HTTP=127.0.0.1:{}", port());
        let mut arguments =
            vec!["run", "--detach", "--read-only", "--cap-drop", "ALL", "--network", "host", "--env", &http];
        arguments.push("wine:1.0.0");
        arguments.extend(words);
        let container = run(&mut docker.command(&arguments)).trim().to_owned();
        let (label, answer) = ask(http.split_once('=').unwrap().1);
        assert_eq!(answer, label);
        let user = run(&mut docker.command(&["top", &container, "-o", "pid,uid"]));
        assert!(user.lines().nth(1).is_some_and(|line| line.trim().ends_with(" 65532")), "{user}");
        let began = Instant::now();
        run(&mut docker.command(&["stop", "--time", "30", &container]));
        assert!(began.elapsed() < Duration::from_secs(10), "SIGTERM ends it, not the end of patience");
        let ended = run(&mut docker.command(&["inspect", "--format", "{{.State.ExitCode}}", &container]));
        assert_eq!(ended.trim(), "0");
        run(&mut docker.command(&["rm", &container]));
    }

    // It is started, asked and removed by `package --measure` as well.
    run(&mut docker.command(&["image", "rm", "wine:1.0.0"]));
    let mut measure = world.command(&["package", examples().join("wine/v1").to_str().unwrap(), "--format", "image"]);
    measure.args(["--measure", "--output", "json", "--out", world.scratch("measured").to_str().unwrap()]);
    let measured: Value = serde_json::from_str(&run(measure.env("DOCKER_HOST", docker.host()))).unwrap();
    assert!(measured["formats"][0]["start_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{measured}");
    let left =
        run(&mut docker.command(&["ps", "--all", "--quiet"])) + &run(&mut docker.command(&["images", "--quiet"]));
    assert_eq!(left, "");

    // The registry gives Docker the very image.
    let registry = Registry::of(&world);
    for reference in [":1.0.0-image".to_owned(), format!("@{}", built["formats"][0]["digest"].as_str().unwrap())] {
        let image = format!("{}/wine{reference}", registry.address);
        run(&mut docker.command(&["pull", &image]));
        assert_eq!(run(&mut docker.command(&["image", "inspect", "--format", "{{.Id}}", &image])), id);
    }
}

/// The example as a package and in every form, and where the files are.
fn exported(world: &World) -> Vec<(String, PathBuf)> {
    let (folder, out) = (examples().join("wine/v1"), world.scratch("all"));
    let mut all = vec!["package", folder.to_str().unwrap(), "--out", out.to_str().unwrap()];
    ["image", "wheel", "standalone"].iter().for_each(|format| all.extend(["--format", format]));
    let built = world.json(&all);
    let formats = built["formats"].as_array().unwrap().iter();
    let told = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    formats.map(|one| (told(one, "format"), told(one, "path").into())).collect()
}

#[test]
fn a_file_that_was_exported_is_built_anew_and_compared() {
    let mut world = World::default();
    // Another time than the usual one: the file says which.
    world.environment.push(("SOURCE_DATE_EPOCH", "1700000000".to_owned()));
    let files = exported(&world);
    let model = std::fs::read(examples().join("wine/v1/model.onnx")).unwrap();
    world.environment.clear();
    for (format, path) in files.iter().filter(|(format, _)| format != "sdist") {
        let file = path.to_str().unwrap();
        let right = world.json(&["verify", "--rebuild", file]);
        assert_eq!(
            (&right["verified"], &right["name"]),
            (&Value::from(true), &Value::from("wine")),
            "{format}: {right}"
        );
        // The model's own bytes are found within, and one of them is turned.
        let mut bytes = std::fs::read(path).unwrap();
        let part = match format.as_str() {
            // What the package layer holds is compressed: the middle of the last blob is as good as any.
            "image" => bytes.windows(9).rposition(|window| window.starts_with(b"\x1f\x8b\x08")).unwrap() + 600,
            _ => bytes.windows(model.len()).position(|window| window == model).unwrap() + 10,
        };
        bytes[part] ^= 1;
        let changed = world.scratch("changed").join(path.file_name().unwrap());
        std::fs::write(&changed, bytes).unwrap();
        let wrong = world.run(&["verify", "--rebuild", changed.to_str().unwrap(), "--output", "json"]).ended(1).json();
        let told = wrong["differences"][0].as_str().unwrap();
        let where_it_is = if format == "image" { "is damaged" } else { "model.onnx` has other bytes" };
        assert!(wrong["verified"] == false && told.contains(where_it_is), "{format}: {wrong}");
    }
    for (file, told) in [("Cargo.toml", "cannot be compared"), ("nowhere.tar", "cannot be compared")] {
        let refused = world.run(&["verify", "--rebuild", file]).ended(1).err;
        assert!(refused.contains(told), "{refused}");
    }
}

#[test]
fn formats_are_started_and_what_cannot_be_is_told() {
    let world = World::default();
    let (folder, out) = (examples().join("wine/v1"), world.scratch("out"));
    let mut package = world.command(&["package", folder.to_str().unwrap(), "--measure", "--output", "json"]);
    package.args(["--format", "standalone", "--format", "image", "--out", out.to_str().unwrap()]);
    // Nothing answers there.
    let output = package.env("DOCKER_HOST", "unix:///nowhere/docker.sock").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let built: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seconds = built["formats"][0]["start_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 120.0, "{built}");
    assert_eq!(built["formats"][1]["start_seconds"], Value::Null, "{built}");
    assert!(told.contains("image: not measured"), "{told}");
    until("nothing is left", 10, || match support::process::census(world.home()) {
        pids if pids.is_empty() => Ok(()),
        pids => Err(format!("{pids:?}")),
    });
}
