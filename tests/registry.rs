//! The registry as a process of its own: killed in the middle of pushes, on a full disk, swept beside pushes, with large blobs, and with other
//! people's clients.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[allow(dead_code, reason = "the registry's own tests need the rest")]
#[path = "../crates/registry/tests/support/stores.rs"]
mod stores;
mod support;

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::docker::{Docker, run};
use support::process::kill_9;
use support::until;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry process over a home folder.
struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    fn start(home: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelyard"));
        command.args(["registry", "--listen", "127.0.0.1:0", "--output", "json"]);
        Self::of(command, home)
    }

    fn of(mut command: Command, home: &Path) -> Self {
        let mut child =
            command.env("MODELYARD_HOME", home).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut told = String::new();
        while !told.trim_end().ends_with('}') {
            assert!(stdout.read_line(&mut told).unwrap() > 0, "it ended after {told:?}");
        }
        let told: Value = serde_json::from_str(&told).unwrap();
        Self { address: told["address"].as_str().unwrap().parse().unwrap(), child }
    }

    fn kill(mut self) {
        kill_9(self.child.id());
        self.child.wait().unwrap();
    }

    fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true).build();
        let url = format!("http://{}{path}", self.address);
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match matches!(method, "POST" | "PUT" | "PATCH") {
            true => agent.new_agent().run(request.body(body).unwrap()),
            false => agent.new_agent().run(request.body(()).unwrap()),
        }
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &[u8], status: u16) -> ureq::http::Response<ureq::Body> {
        let headers: &[_] = if path.contains("/manifests/") { &[("content-type", MANIFEST)] } else { &[] };
        let mut answer = self.try_call(method, path, headers, body).unwrap();
        let told = if answer.status() == status { String::new() } else { answer.body_mut().read_to_string().unwrap() };
        assert_eq!(answer.status(), status, "{method} {path}: {told}");
        answer
    }

    #[track_caller]
    fn bytes(&self, path: &str) -> Vec<u8> {
        self.call("GET", path, b"", 200).body_mut().with_config().limit(1 << 30).read_to_vec().unwrap()
    }

    #[track_caller]
    fn push(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.call("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), bytes, 201);
        digest
    }

    /// Pushes an image of one layer under a tag.
    #[track_caller]
    fn image(&self, name: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
        self.push(name, b"{}");
        self.push(name, layer);
        let manifest = manifest(layer);
        self.call("PUT", &format!("/v2/{name}/manifests/{tag}"), &manifest, 201);
        manifest
    }

    /// A figure of `/proc/PID/status`, in bytes.
    fn status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        kill_9(self.child.id());
        let _ = self.child.wait();
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn manifest(layer: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": layer.len() }],
    }))
    .unwrap()
}

fn filler(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u64(..).to_le_bytes()).flatten().take(length).collect()
}

/// Every blob in the folder is what its name says, and nothing else lies there.
#[track_caller]
fn check_blobs(home: &Path) {
    for entry in std::fs::read_dir(home.join("registry/blobs/sha256")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with(".incoming-") {
            continue; // what the killed process was writing; swept a minute later
        }
        let bytes = std::fs::read(entry.path()).unwrap();
        assert_eq!(digest(&bytes), format!("sha256:{name}"), "a half blob under a whole one's name");
    }
}

#[test]
fn a_registry_that_is_killed_during_pushes_has_the_old_or_the_new_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (mut random, layers) = (fastrand::Rng::with_seed(7), [filler(3 << 20, 1), filler(3 << 20, 2)]);
    let mut registry = Registry::start(home.path());
    registry.image("wine", "tag", &layers[0]);
    let mut upload: Option<(String, Vec<u8>)> = None;
    for round in 0..8_u64 {
        let layer = filler(4 << 20, 100 + round);
        let begun = registry.call("POST", "/v2/wine/blobs/uploads/", b"", 202);
        let place = begun.headers()["location"].to_str().unwrap().to_owned();
        let delay = Duration::from_micros(random.u64(0..60_000));
        let pid = registry.child.id();
        std::thread::scope(|scope| {
            let (registry, place, layer) = (&registry, &place, &layer);
            // One writer moves the tag to and fro, one sends a blob in chunks; both until the connection dies.
            scope.spawn(|| {
                for layer in layers.iter().cycle() {
                    let (digest, manifest) = (digest(layer), manifest(layer));
                    let blob = format!("/v2/wine/blobs/uploads/?digest={digest}");
                    let sent = registry.try_call("POST", &blob, &[], layer).and_then(|_| {
                        registry.try_call("PUT", "/v2/wine/manifests/tag", &[("content-type", MANIFEST)], &manifest)
                    });
                    if sent.is_err() {
                        return;
                    }
                }
            });
            scope.spawn(move || {
                for piece in layer.chunks(200_000) {
                    if registry.try_call("PATCH", place, &[], piece).is_err() {
                        return;
                    }
                }
            });
            std::thread::sleep(delay); // the moment of death is meant to be random
            kill_9(pid);
        });
        registry.kill();
        check_blobs(home.path());
        registry = Registry::start(home.path());
        // The tag names one of both, whole.
        let seen = registry.bytes("/v2/wine/manifests/tag");
        let layer_there = layers.iter().find(|layer| manifest(layer) == seen).expect("old or new");
        assert!(registry.bytes(&format!("/v2/wine/blobs/{}", digest(layer_there))) == *layer_there);
        // The upload goes on where it stands, also one of an earlier life.
        for (place, bytes) in upload.take().into_iter().chain([(place, layer)]) {
            let standing = registry.call("GET", &place, b"", 204);
            let range = standing.headers()["range"].to_str().unwrap().rsplit_once('-').unwrap().1;
            let at = range.parse::<usize>().unwrap();
            let at = if at == 0 { 0 } else { at + 1 };
            if random.bool() && at < bytes.len() / 2 {
                upload = Some((place, bytes)); // left for the next life
                continue;
            }
            let digest = digest(&bytes);
            registry.call("PUT", &format!("{place}?digest={digest}"), &bytes[at..], 201);
            assert!(registry.bytes(&format!("/v2/wine/blobs/{digest}")) == bytes);
        }
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    // 24 MiB of disk that only this process sees: no rights are needed for a mount of one's own.
    let script = r#"mount -t tmpfs -o size=24m tmpfs "$MODELYARD_HOME" && exec "$0" "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_modelyard")]);
    command.args(["registry", "--listen", "127.0.0.1:0", "--output", "json"]);
    let registry = Registry::of(command, &home);
    let kept = registry.image("wine", "1", &filler(5 << 20, 1));
    let large = filler(40 << 20, 2);
    let refused = |answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>| {
        let mut answer = answer.unwrap();
        assert_eq!(answer.status(), 507);
        let told: Value = answer.body_mut().read_json().unwrap();
        assert!(told["errors"][0]["message"].as_str().unwrap().contains("disk is full"), "{told}");
    };
    for _ in 0..3 {
        let path = format!("/v2/wine/blobs/uploads/?digest={}", digest(&large));
        refused(registry.try_call("POST", &path, &[], &large));
        registry.call("HEAD", &format!("/v2/wine/blobs/{}", digest(&large)), b"", 404);
    }
    // An upload in chunks keeps what was acknowledged, and is cancelled to free the disk.
    let begun = registry.call("POST", "/v2/wine/blobs/uploads/", b"", 202);
    let place = begun.headers()["location"].to_str().unwrap().to_owned();
    refused(registry.try_call("PATCH", &place, &[], &large));
    registry.call("GET", &place, b"", 204);
    assert_eq!(registry.bytes("/v2/wine/manifests/1"), kept, "reading goes on");
    registry.call("DELETE", &place, b"", 204);
    let fits = filler(8 << 20, 3);
    registry.image("wine", "2", &fits);
    assert!(registry.bytes(&format!("/v2/wine/blobs/{}", digest(&fits))) == fits);
    assert_eq!(registry.bytes("/v2/wine/manifests/1"), kept);
}

#[test]
fn sweeps_beside_pushes_take_nothing_that_is_named() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path());
    let (over, swept) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut gc = Command::new(env!("CARGO_BIN_EXE_modelyard"));
                // Two seconds: far longer than from a blob to its manifest here, far shorter than the test.
                gc.args(["gc", "--older-than", "2s", "--output", "json"]).env("MODELYARD_HOME", home.path());
                let output = gc.output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let told: Value = serde_json::from_slice(&output.stdout).unwrap();
                swept.fetch_add(told["blobs"].as_array().unwrap().len(), Ordering::Relaxed);
            }
        });
        let began = Instant::now();
        let pushers = [0_u64, 1].map(|lane| {
            let registry = &registry;
            scope.spawn(move || {
                let mut images = Vec::new();
                for round in 0.. {
                    if began.elapsed() > Duration::from_secs(6) {
                        break;
                    }
                    let (seed, name) = (lane << 32 | round, format!("lane{lane}"));
                    registry.push(&name, &filler(1_000, seed ^ 0xdead)); // an orphan
                    let layer = filler(20_000, seed);
                    registry.image(&name, &format!("t{round}"), &layer);
                    images.push((name, format!("t{round}"), layer));
                }
                images
            })
        });
        let images: Vec<_> = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
        until("a sweep took orphans", 30, || match swept.load(Ordering::Relaxed) {
            0 => Err("none yet"),
            _ => Ok(()),
        });
        over.store(true, Ordering::Relaxed);
        sweeper.join().unwrap();
        assert!(images.len() > 4, "{}", images.len());
        for (name, tag, layer) in images {
            assert_eq!(registry.bytes(&format!("/v2/{name}/manifests/{tag}")), manifest(&layer));
            assert!(registry.bytes(&format!("/v2/{name}/blobs/{}", digest(&layer))) == layer);
        }
    });
}

#[test]
fn memory_stays_flat_while_a_large_blob_goes_in_and_out() {
    const PIECES: usize = 512;
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path());
    let piece = filler(1 << 20, 9);
    let mut hash = Sha256::new();
    (0..PIECES).for_each(|_| hash.update(&piece));
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let length = PIECES * piece.len();
    let mut stream = TcpStream::connect(registry.address).unwrap();
    let path = format!("/v2/wine/blobs/uploads/?digest=sha256:{hex}");
    write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n").unwrap();
    (0..PIECES).for_each(|_| stream.write_all(&piece).unwrap());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let mut body = registry.call("GET", &format!("/v2/wine/blobs/sha256:{hex}"), b"", 200).into_body().into_reader();
    let (mut buffer, mut hash, mut came) = (vec![0; 1 << 20], Sha256::new(), 0);
    loop {
        match body.read(&mut buffer).unwrap() {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                came += read;
            }
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((came, found), (length, hex));
    let peak = registry.status("VmHWM");
    assert!(peak < 64 << 20, "{} MiB at its peak", peak >> 20);
}

#[test]
fn memory_stays_flat_beside_thirty_two_clients_at_once() {
    const CLIENTS: usize = 32;
    const LENGTH: usize = 6 << 20;
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path());
    let (before, program) = (registry.status("VmRSS"), registry.status("RssFile"));
    let (registry, together) = (&registry, &std::sync::Barrier::new(CLIENTS));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let content = filler(LENGTH, client as u64 + 100);
                let digest = digest(&content);
                together.wait();
                registry.call("POST", &format!("/v2/wine/blobs/uploads/?digest={digest}"), &content, 201);
                let mut body =
                    registry.call("GET", &format!("/v2/wine/blobs/{digest}"), b"", 200).into_body().into_reader();
                let (mut first, mut rest) = (vec![0; 1000], Vec::new());
                body.read_exact(&mut first).unwrap();
                // Every answer has begun and none goes on: what the registry has read ahead is all there at once.
                together.wait();
                body.read_to_end(&mut rest).unwrap();
                assert!([first, rest].concat() == content, "other bytes came back");
            });
        }
    });
    // 64 MiB, less the 16 that it has as a release build before anybody comes; as a debug build, its own pages are many more, before and meanwhile.
    let program = registry.status("RssFile").saturating_sub(program);
    let grown = registry.status("VmHWM").saturating_sub(before + program);
    assert!(grown < 48 << 20, "{} MiB more at its peak", grown >> 20);
}

#[test]
#[ignore = "needs dockerd and root"]
fn docker_pushes_and_pulls_an_image_from_scratch() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path());
    let docker = Docker::start();
    let content = filler(300_000, 5);
    let folder = home.path().join("content");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("model.bin"), &content).unwrap();
    let archive = home.path().join("content.tar");
    run(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).arg("model.bin"));
    let image = format!("{}/team/wine:1", registry.address);
    run(&mut docker.command(&["import", archive.to_str().unwrap(), &image]));
    run(&mut docker.command(&["push", &image]));
    let tags: Value = serde_json::from_slice(&registry.bytes("/v2/team/wine/tags/list")).unwrap();
    assert_eq!(tags, json!({ "name": "team/wine", "tags": ["1"] }));
    let id = run(&mut docker.command(&["image", "inspect", "--format", "{{.Id}}", &image]));
    run(&mut docker.command(&["image", "rm", &image]));
    let pulled = run(&mut docker.command(&["pull", &image]));
    assert!(pulled.contains("Digest: sha256:"), "{pulled}");
    assert_eq!(run(&mut docker.command(&["image", "inspect", "--format", "{{.Id}}", &image])), id);
    let back = home.path().join("back.tar");
    let made = run(&mut docker.command(&["create", &image, "none"]));
    run(&mut docker.command(&["export", "--output", back.to_str().unwrap(), made.trim()]));
    let told = run(Command::new("tar").arg("-C").arg(home.path()).arg("-xf").arg(&back).arg("model.bin"));
    assert_eq!(told, "");
    assert!(std::fs::read(home.path().join("model.bin")).unwrap() == content);
    // What Docker pushed is read as a plain image that carries files.
    let (elsewhere, out) = (home.path().join("elsewhere"), home.path().join("imported"));
    let mut import = Command::new(env!("CARGO_BIN_EXE_modelyard"));
    import
        .arg("--home")
        .arg(elsewhere)
        .args(["import", "oci", &image, "--path", "/", "--as", "wine:1", "--out"])
        .arg(&out);
    run(&mut import);
    assert!(std::fs::read(out.join("model.bin")).unwrap() == content);
}

#[test]
#[ignore = "needs the Python peers"]
fn oras_attaches_and_pulls() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path());
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names the peers' interpreter");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/oras_client.py");
    let told = run(Command::new(python).arg(script).arg(registry.address.to_string()).current_dir(home.path()));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["pulled"], "the weights");
    assert_eq!(told["tags"], json!(["1", "report"]));
    let referrers = format!("/v2/team/wine/referrers/{}", told["digest"].as_str().unwrap());
    let referrers: Value = serde_json::from_slice(&registry.bytes(&referrers)).unwrap();
    assert_eq!(referrers["manifests"][0]["artifactType"], "application/vnd.example.report", "{referrers}");
}

/// `modelyard`, with the keys of the bucket.
fn with_keys(stores: &stores::Stores, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelyard"));
    command.args(arguments).env("AWS_ENDPOINT_URL", &stores.endpoint).env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "tests").env("AWS_SECRET_ACCESS_KEY", "hunter2");
    command
}

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn registries_of_several_homes_serve_the_same_images() {
    let (stores, name) = (stores::Stores::here(), stores::fresh_name());
    let (blobs, metadata) = (format!("s3://{}/{name}", stores::BUCKET), stores.database(&name));
    let homes = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let start = |home: &Path| {
        let told =
            ["registry", "--listen", "127.0.0.1:0", "--output", "json", "--blobs", &blobs, "--metadata", &metadata];
        Registry::of(with_keys(stores, &told), home)
    };
    let (first, second) = (start(homes[0].path()), start(homes[1].path()));
    let image = first.image("team/wine", "1", b"weights");
    assert_eq!(second.bytes("/v2/team/wine/manifests/1"), image);
    first.kill();
    assert_eq!(second.bytes(&format!("/v2/team/wine/blobs/{}", digest(b"weights"))), b"weights");

    // A command of a third home, told by the environment, then by the file.
    let sweep = |command: &mut Command| -> Value {
        let output = command.env("MODELYARD_HOME", homes[2].path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let gc = ["gc", "--older-than", "1s", "--output", "json"];
    let swept = sweep(with_keys(stores, &gc).env("MODELYARD_BLOBS", &blobs).env("MODELYARD_METADATA", &metadata));
    assert_eq!((&swept["kept"], &swept["blobs"]), (&json!(3), &json!([])));
    second.call("DELETE", &format!("/v2/team/wine/manifests/{}", digest(&image)), b"", 202);
    let file = homes[2].path().join("registry/storage.toml");
    std::fs::write(file, format!("blobs = {blobs:?}\nmetadata = {metadata:?}\n")).unwrap();
    let mut removed = 0;
    until("everything is swept", 60, || {
        removed += sweep(&mut with_keys(stores, &gc))["blobs"].as_array().unwrap().len();
        if removed == 3 { Ok(()) } else { Err(format!("{removed} blobs are gone")) }
    });

    let wrong = with_keys(stores, &["registry", "--blobs", "s3://no-such-bucket"])
        .env("MODELYARD_HOME", homes[0].path())
        .output();
    let (wrong, told) =
        wrong.map(|output| (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())).unwrap();
    assert_eq!(wrong, Some(1), "{told}");
    assert!(
        told.contains("no-such-bucket") && told.contains("AWS_ACCESS_KEY_ID") && !told.contains("hunter2"),
        "{told}"
    );
}
