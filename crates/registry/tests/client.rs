//! The client against a registry of our own, and against one that breaks off, lies, or wants to know who asks.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[allow(dead_code, reason = "each test uses a part of the support")]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use modelyard_core::package::{FileEntry, Package, Runtime};
use modelyard_core::{Digest, ModelName, Version};
use modelyard_registry::Store;
use modelyard_registry::client::{ClientError, Remote, fetch_image, pull, push};
use modelyard_registry::manifest::{
    Descriptor, FILEPATH, MANIFEST, MODEL, MODEL_CONFIG, Manifest, WEIGHT, WEIGHT_CONFIG,
};
use support::Served;

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

/// A package of one file of `bytes`.
fn package(store: &Store, version: &str, bytes: &[u8]) -> Digest {
    let (model, version) = (ModelName::new("wine").unwrap(), Version::new(version).unwrap());
    let weights = store.blobs().put(bytes).unwrap().blob;
    let files =
        BTreeMap::from([("run.sh".to_owned(), FileEntry { digest: weights.digest, size_bytes: weights.size_bytes })]);
    let runtime = Runtime::Command { command: vec!["sh".into()], health: "/".into(), environment: BTreeMap::new() };
    let document = serde_json::json!({
        "format_version": 1, "name": model, "version": version, "runtime": runtime, "files": files,
        "signature": { "inputs": [], "outputs": [] },
    });
    let document: Package = serde_json::from_value(document).unwrap();
    let part = |bytes: &[u8], kind: &str, path: &str| {
        let blob = store.blobs().put(bytes).unwrap().blob;
        Descriptor::new(kind, blob.digest, blob.size_bytes).noted(FILEPATH, path)
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST.into(),
        artifact_type: Some(MODEL.into()),
        config: part(b"{}", MODEL_CONFIG, "config.json"),
        layers: vec![
            part(&serde_json::to_vec(&document).unwrap(), WEIGHT_CONFIG, "modelyard.json"),
            part(bytes, WEIGHT, "run.sh"),
        ],
        annotations: BTreeMap::new(),
    };
    store.add(&model, &version, &manifest).unwrap()
}

fn remote(address: SocketAddr, path: &str) -> Remote {
    format!("{address}/{path}").parse().unwrap()
}

fn quiet(_: u64, _: u64) {}

#[test]
fn a_package_goes_there_and_comes_back_and_only_what_is_missing_moves() {
    let (here, there, third) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = Served::open(there.path());
    let store_here = store(here.path());
    let weights: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    let digest = package(&store_here, "1.0.0", &weights);
    let first = push(&store_here, &digest, &remote(registry.address, "wine:1.0.0"), &quiet).unwrap();
    assert_eq!((first.digest, first.blobs, first.reused), (digest, 3, 0));
    let again = push(&store_here, &digest, &remote(registry.address, "wine:1.0.0"), &quiet).unwrap();
    assert_eq!((again.blobs, again.bytes, again.reused), (0, 0, 3));
    // What was pushed under its own name and version is that version there.
    assert_eq!(store(there.path()).resolve(&"wine:1.0.0".parse().unwrap()).unwrap(), digest);

    let store_third = store(third.path());
    let told = std::sync::Mutex::new((0, 0));
    let (moved, model, version) =
        pull(&store_third, &remote(registry.address, "wine:1.0.0"), &|done, all| *told.lock().unwrap() = (done, all))
            .unwrap();
    assert_eq!((moved.digest, model.as_str(), version.as_str()), (digest, "wine", "1.0.0"));
    let (done, all) = *told.lock().unwrap();
    assert!(done == all && all > 3_000_000, "{done} of {all}");
    assert_eq!(store_third.resolve(&"wine:1.0.0".parse().unwrap()).unwrap(), digest);
    store_third.unpack(&digest).unwrap();
    // Another package under the same version is refused, there as here.
    let other = tempfile::tempdir().unwrap();
    let store_other = store(other.path());
    let digest = package(&store_other, "1.0.0", b"other");
    let refused = push(&store_other, &digest, &remote(registry.address, "wine:1.0.0"), &quiet).unwrap_err();
    assert!(refused.to_string().contains("for ever"), "{refused}");
    let taken = pull(&store_other, &remote(registry.address, "wine:1.0.0"), &quiet).unwrap_err();
    assert!(matches!(taken, ClientError::Local(modelyard_registry::Error::VersionTaken { .. })), "{taken}");
}

/// Passes bytes to `target`; `cut` says after how many bytes of its answers each connection is cut, by its number.
fn passing(target: SocketAddr, cut: impl Fn(usize) -> Option<usize> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, count) = (Arc::new(cut), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            let most = cut(count.fetch_add(1, Ordering::SeqCst));
            let there = TcpStream::connect(target).unwrap();
            let (mut from, mut to) = (caller.try_clone().unwrap(), there.try_clone().unwrap());
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            std::thread::spawn(move || {
                let (mut caller, there) = (caller, there);
                let mut limited = there.try_clone().unwrap().take(most.map_or(u64::MAX, |most| most as u64));
                let _ = std::io::copy(&mut limited, &mut caller);
                let _ = caller.shutdown(std::net::Shutdown::Both);
                let _ = there.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stood() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = Served::open(there.path());
    let weights: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = package(&store(there.path()), "1.0.0", &weights);
    // Every other connection is cut in the middle of an answer.
    let cutting = passing(registry.address, |number| (number % 2 == 0).then_some(700_000));
    let store_here = store(here.path());
    let (moved, ..) = pull(&store_here, &remote(cutting, "wine:1.0.0"), &quiet).unwrap();
    assert_eq!(moved.digest, digest);
    store_here.unpack(&digest).unwrap();
    // One that always breaks is given up, with what to do.
    let never = passing(registry.address, |_| Some(100));
    let empty = tempfile::tempdir().unwrap();
    let error = pull(&store(empty.path()), &remote(never, "wine:1.0.0"), &quiet).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

/// Answers every request by `answer`: its head and body.
fn answering(answer: impl Fn(&str, &str) -> (String, Vec<u8>) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut stream = stream;
                loop {
                    let (mut line, mut headers) = (String::new(), String::new());
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut header = String::new();
                        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
                            break;
                        }
                        headers.push_str(&header.to_lowercase());
                    }
                    let (head, body) = answer(&line, &headers);
                    let text = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
                    if stream.write_all(&[text.as_bytes(), &body].concat()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn other_bytes_than_asked_for_are_refused_and_named() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = store(there.path());
    let digest = package(&source, "1.0.0", b"the right bytes");
    let manifest = source.blobs().read(&digest, 1 << 20).unwrap();
    let blobs = source.blobs().clone();
    let lying = answering(move |line, _| {
        let path = line.split(' ').nth(1).unwrap_or_default();
        if path.contains("/manifests/") {
            return (format!("200 OK\r\ncontent-type: {MANIFEST}"), manifest.clone());
        }
        let digest: Digest = path.rsplit('/').next().unwrap_or_default().parse().unwrap();
        let mut bytes = blobs.read(&digest, 1 << 20).unwrap();
        if bytes == b"the right bytes" {
            bytes[4] ^= 1;
        }
        ("200 OK".to_owned(), bytes)
    });
    let store_here = store(here.path());
    let error = pull(&store_here, &remote(lying, "wine:1.0.0"), &quiet).unwrap_err();
    assert!(matches!(&error, ClientError::WrongBytes { .. }), "{error}");
    assert!(store_here.models().unwrap().is_empty(), "nothing was given a name");
    let asked = format!("wine@{}", modelyard_registry::blob::digest_of(b"another manifest"));
    let error = pull(&store_here, &remote(lying, &asked), &quiet).unwrap_err();
    assert!(matches!(&error, ClientError::WrongBytes { .. }), "{error}");
}

#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let token = answering(move |line, _| {
        assert!(line.contains("scope=repository%3Awine%3Apull") && line.contains("service=here"), "{line}");
        count.fetch_add(1, Ordering::SeqCst);
        ("200 OK".to_owned(), b"{\"token\":\"abc\"}".to_vec())
    });
    let registry = answering(move |_, headers| match headers.contains("authorization: bearer abc") {
        true => (
            "404 Not Found".to_owned(),
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}"#.to_vec(),
        ),
        false => {
            let challenge =
                format!("Bearer realm=\"http://{token}/token\",service=\"here\",scope=\"repository:wine:pull\"");
            (format!("401 Unauthorized\r\nwww-authenticate: {challenge}"), Vec::new())
        }
    });
    let home = tempfile::tempdir().unwrap();
    let error = pull(&store(home.path()), &remote(registry, "wine:1"), &quiet).unwrap_err();
    assert!(matches!(&error, ClientError::NotFound { why, .. } if why.contains("no such thing")), "{error}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let closed = answering(|_, _| ("401 Unauthorized\r\nwww-authenticate: Basic realm=x".to_owned(), Vec::new()));
    let error = pull(&store(home.path()), &remote(closed, "wine:1"), &quiet).unwrap_err();
    assert!(matches!(&error, ClientError::Denied { .. }), "{error}");
}

#[test]
fn an_image_to_build_on_is_fetched_for_one_platform_and_kept_with_what_was_asked_for() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (registry, mine) = (Served::open(there.path()), Served::open(here.path()));
    let (one, other) = (
        registry.image("debian", "one", b"for amd64", &serde_json::json!({})),
        registry.image("debian", "other", b"for arm64", &serde_json::json!({})),
    );
    let entry = |digest: &str, architecture: &str| {
        let platform = serde_json::json!({ "os": "linux", "architecture": architecture });
        serde_json::json!({ "mediaType": MANIFEST, "digest": digest, "size": 1, "platform": platform })
    };
    let listed = [entry(&other, "arm64"), entry(&one, "amd64")];
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": support::INDEX, "manifests": listed });
    let index = serde_json::to_vec(&index).unwrap();
    registry.call("PUT", "/v2/debian/manifests/13", &[("content-type", support::INDEX)], &index).expect(201);

    let (from, name) = (remote(registry.address, "debian:13"), ModelName::new("base-debian").unwrap());
    let found = fetch_image(&mine.distribution, &from, "amd64", &name, &quiet).unwrap();
    assert_eq!((found.digest.to_string(), found.asked.to_string()), (one.clone(), support::digest(&index)));
    for reference in ["13", &found.asked.to_string()] {
        assert_eq!(mine.distribution.base(&name, reference).unwrap(), Some(found.digest), "{reference}");
    }
    assert_eq!(mine.distribution.base_asked(&name, &found.digest).unwrap(), found.asked);
    assert_eq!(mine.distribution.base(&name, "14").unwrap(), None);
    // Only the one platform came, and a sweep leaves it.
    let blobs = mine.distribution.store().blobs();
    assert_eq!(blobs.size(&other.parse().unwrap()).unwrap(), None);
    let swept = mine.distribution.sweep_blocking(std::time::Duration::ZERO, false).unwrap();
    assert!(swept.blobs.is_empty() && swept.damaged.is_empty() && swept.kept == 3, "{swept:?}");
    let foreign = fetch_image(&mine.distribution, &from, "s390x", &name, &quiet).unwrap_err();
    assert!(matches!(&foreign, ClientError::NoImage { why, .. } if why.contains("linux/arm64")), "{foreign}");
}

#[test]
fn a_version_that_is_called_like_the_tag_of_an_image_keeps_its_name() {
    let home = tempfile::tempdir().unwrap();
    let registry = Served::open(home.path());
    let (store, wine) = (registry.distribution.store(), ModelName::new("wine").unwrap());
    let package_digest = package(store, "1", b"weights");
    let config = store.blobs().put(b"{}").unwrap().blob;
    let parts = [Descriptor::new(modelyard_registry::manifest::IMAGE_CONFIG, config.digest, config.size_bytes)];
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": [],
        "subject": Descriptor::new(MANIFEST, package_digest, 1),
    });
    let manifest = manifest.to_string();
    let one = Version::new("1").unwrap();
    let keep = || registry.distribution.keep_image(&wine, &one, &package_digest, manifest.as_bytes(), &parts).unwrap();
    assert_eq!(keep().as_deref(), Some("1-image"));
    let tagged = |tag: &str| registry.get(&format!("/v2/wine/manifests/{tag}")).expect(200);
    assert_eq!(tagged("1-image").body, manifest.as_bytes());
    let version = package(store, "1-image", b"others");
    assert_eq!(tagged("1-image").header("docker-content-digest"), version.to_string());
    assert_eq!(keep(), None, "the name is taken");
    assert_eq!(tagged(&support::digest(manifest.as_bytes())).body, manifest.as_bytes());
}
