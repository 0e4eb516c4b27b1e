//! The distribution server against its specification, case by case.
//!
//! Source: OCI distribution specification 1.1: pull, push, content discovery, content management, error codes.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[allow(dead_code, reason = "each test uses a part of the support")]
mod support;

use std::time::Duration;

use modelyard_registry::Store;
use serde_json::json;
use support::{INDEX, MANIFEST, Served, digest, digest_512};

fn served() -> (tempfile::TempDir, Served) {
    let home = tempfile::tempdir().unwrap();
    let served = Served::open(home.path());
    (home, served)
}

#[test]
fn the_base_address_says_that_this_is_a_registry() {
    let (_home, registry) = served();
    assert_eq!(registry.get("/v2/").expect(200).header("docker-distribution-api-version"), "registry/2.0");
    registry.call("DELETE", "/v2/", &[], b"").refused(405, "UNSUPPORTED");
    registry.get("/v2/nothing/here").refused(404, "NAME_UNKNOWN");
}

#[test]
fn a_blob_is_pushed_in_one_piece_or_in_two_steps() {
    let (_home, registry) = served();
    let bytes = b"in one piece";
    let name = digest(bytes);
    let reply = registry.call("POST", &format!("/v2/a/b/blobs/uploads/?digest={name}"), &[], bytes).expect(201);
    assert_eq!(reply.header("location"), format!("/v2/a/b/blobs/{name}"));
    assert_eq!(registry.get(reply.header("location")).expect(200).body, bytes);

    let begun = registry.call("POST", "/v2/a/b/blobs/uploads/", &[], b"").expect(202);
    let two = digest(b"in two steps");
    let put = format!("{}?digest={two}", begun.header("location"));
    let reply =
        registry.call("PUT", &put, &[("content-type", "application/octet-stream")], b"in two steps").expect(201);
    assert_eq!(reply.header("docker-content-digest"), two);
    registry.get(begun.header("location")).refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn chunks_come_in_order_and_an_upload_outlives_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let registry = Served::open(home.path());
    let begun = registry.call("POST", "/v2/wine/blobs/uploads/", &[], b"").expect(202);
    let place = begun.header("location").to_owned();
    let first = registry.call("PATCH", &place, &[("content-range", "0-4")], b"first").expect(202);
    assert_eq!((first.header("range"), first.header("location")), ("0-4", place.as_str()));
    let early = registry.call("PATCH", &place, &[("content-range", "9-10")], b"xx").expect(416);
    assert_eq!(early.header("range"), "0-4");
    registry.call("PATCH", &place, &[("content-range", "5-x")], b"x").refused(400, "BLOB_UPLOAD_INVALID");
    drop(registry);

    let registry = Served::open(home.path());
    assert_eq!(registry.get(&place).expect(204).header("range"), "0-4");
    registry.call("PATCH", &place, &[("content-range", "5-11")], b" second").expect(202);
    let whole = digest(b"first second third");
    let done =
        registry.call("PUT", &format!("{place}?digest={whole}"), &[("content-range", "12-17")], b" third").expect(201);
    assert_eq!(registry.get(done.header("location")).expect(200).body, b"first second third");
    registry.get(&place.replace("wine", "other")).refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_stays() {
    let (home, registry) = served();
    let wrong = digest(b"something else");
    registry
        .call("POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], b"bytes")
        .refused(400, "DIGEST_INVALID");
    registry.get(&format!("/v2/a/blobs/{wrong}")).refused(404, "BLOB_UNKNOWN");
    let begun = registry.call("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
    for digest in ["", "?digest=md5:abc", "?digest=sha256:../../../etc/passwd"] {
        registry
            .call("PUT", &format!("{}{digest}", begun.header("location")), &[], b"x")
            .refused(400, "DIGEST_INVALID");
    }
    registry.call("DELETE", begun.header("location"), &[], b"").expect(204);
    let left = std::fs::read_dir(home.path().join("registry/uploads")).unwrap().count();
    assert_eq!(left, 0, "uploads that ended leave nothing");
}

#[test]
fn blobs_are_given_whole_and_in_ranges_and_never_to_other_repositories() {
    let (_home, registry) = served();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let path = format!("/v2/a/blobs/{}", registry.push("a", &bytes));
    let head = registry.call("HEAD", &path, &[], b"").expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("3000000", 0));
    assert!(registry.get(&path).expect(200).body == bytes);
    let part = registry.call("GET", &path, &[("range", "bytes=1000000-2000000")], b"").expect(206);
    assert_eq!(part.header("content-range"), "bytes 1000000-2000000/3000000");
    assert!(part.body == bytes[1_000_000..=2_000_000]);
    let beyond = registry.call("GET", &path, &[("range", "bytes=3000000-")], b"").refused(416, "SIZE_INVALID");
    assert_eq!(beyond.header("content-range"), "bytes */3000000");
    registry.get(&path.replace("/a/", "/other/")).refused(404, "BLOB_UNKNOWN");
    registry.call("HEAD", &path.replace("/a/", "/other/"), &[], b"").expect(404);
}

#[test]
fn a_blob_is_mounted_from_where_it_is() {
    let (_home, registry) = served();
    let name = registry.push("from/here", b"shared");
    let mount = |query: &str| registry.call("POST", &format!("/v2/to/there/blobs/uploads/?{query}"), &[], b"");
    mount(&format!("mount={name}&from=nobody")).expect(202);
    let made = mount(&format!("mount={name}&from=from/here")).expect(201);
    assert_eq!(registry.get(made.header("location")).expect(200).body, b"shared");
    mount(&format!("mount={}&from=from/here", digest(b"unknown"))).expect(202);
    mount(&format!("mount={name}")).expect(201);
}

#[test]
fn manifests_are_kept_to_the_byte_and_found_by_tag_and_digest() {
    let (_home, registry) = served();
    let name = registry.image("a", "1.0", b"layer", &json!({ "annotations": { "b": "2", "a": "1" } }));
    for reference in ["1.0", name.as_str()] {
        let reply = registry.get(&format!("/v2/a/manifests/{reference}")).expect(200);
        assert_eq!((digest(&reply.body), reply.header("docker-content-digest")), (name.clone(), name.as_str()));
        assert_eq!(reply.header("content-type"), MANIFEST);
        let head = registry.call("HEAD", &format!("/v2/a/manifests/{reference}"), &[], b"").expect(200);
        assert_eq!(head.header("content-length"), reply.body.len().to_string());
    }
    registry.get("/v2/a/manifests/2.0").refused(404, "MANIFEST_UNKNOWN");
    registry.get("/v2/b/manifests/1.0").refused(404, "MANIFEST_UNKNOWN");
    let other = registry.image("a", "1.0", b"another layer", &json!({}));
    assert_eq!(registry.get("/v2/a/manifests/1.0").header("docker-content-digest"), other, "a tag moves");
    registry.get(&format!("/v2/a/manifests/{name}")).expect(200);
}

#[test]
fn nonsense_is_refused_before_it_is_kept() {
    let (_home, registry) = served();
    let put = |tag: &str, kind: &str, bytes: &[u8]| {
        registry.call("PUT", &format!("/v2/a/manifests/{tag}"), &[("content-type", kind)], bytes)
    };
    let config = json!({ "mediaType": "application/json", "digest": digest(b"{}"), "size": 2 });
    let manifest = |value: serde_json::Value| serde_json::to_vec(&value).unwrap();
    put("x", MANIFEST, b"no json").refused(400, "MANIFEST_INVALID");
    put("x", MANIFEST, &manifest(json!({ "schemaVersion": 1, "config": config, "layers": [] })))
        .refused(400, "MANIFEST_INVALID");
    put("x", MANIFEST, &manifest(json!({ "schemaVersion": 2, "config": config, "layers": [] })))
        .refused(404, "MANIFEST_BLOB_UNKNOWN");
    registry.push("a", b"{}");
    let wrong_size = json!({ "mediaType": "application/json", "digest": digest(b"{}"), "size": 3 });
    put("x", MANIFEST, &manifest(json!({ "schemaVersion": 2, "config": wrong_size, "layers": [] })))
        .refused(400, "MANIFEST_INVALID");
    put("x", INDEX, &manifest(json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] })))
        .refused(400, "MANIFEST_INVALID");
    put("x", "text/plain", &manifest(json!({ "schemaVersion": 2 }))).refused(415, "MANIFEST_INVALID");
    put("x", MANIFEST, &manifest(json!({ "schemaVersion": 2, "manifests": [] }))).refused(400, "MANIFEST_INVALID");
    put("x", MANIFEST, &vec![b' '; (4 << 20) + 1]).refused(413, "MANIFEST_INVALID");
    put(".bad", MANIFEST, &manifest(json!({ "schemaVersion": 2, "config": config, "layers": [] })))
        .refused(400, "MANIFEST_INVALID");
    put(&digest(b"other"), MANIFEST, b"{}").refused(400, "DIGEST_INVALID");
    for name in ["Upper", "a//b", "a/../b", "%2e%2e/x", "a%00"] {
        registry
            .call("PUT", &format!("/v2/{name}/manifests/x"), &[("content-type", MANIFEST)], b"{}")
            .refused(400, "NAME_INVALID");
    }
    registry.get("/v2/a/tags/list").expect(200);
    assert_eq!(registry.get("/v2/a/tags/list").json()["tags"], json!([]));
}

#[test]
fn referrers_are_found_filtered_and_announced() {
    let (_home, registry) = served();
    let subject = registry.image("a", "1", b"model", &json!({}));
    let descriptor = json!({ "mediaType": MANIFEST, "digest": subject, "size": 1 });
    let signature =
        json!({ "subject": descriptor, "artifactType": "application/x.signature", "annotations": { "by": "ada" } });
    let signature = registry.image("a", "signature", b"signed", &signature);
    let list = json!({ "subject": descriptor });
    let list = registry.image("a", "list", b"bill of materials", &list);
    let found = registry.get(&format!("/v2/a/referrers/{subject}")).expect(200);
    assert_eq!(found.header("content-type"), INDEX);
    let names: Vec<String> = found.json()["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.len() == 2 && names.contains(&signature) && names.contains(&list), "{names:?}");
    let filtered =
        registry.get(&format!("/v2/a/referrers/{subject}?artifactType=application%2Fx.signature")).expect(200);
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(filtered.json()["manifests"][0]["annotations"]["by"], "ada");
    let unknown = registry.get(&format!("/v2/a/referrers/{}", digest(b"nobody"))).expect(200);
    assert_eq!(unknown.json()["manifests"], json!([]));
    registry.get("/v2/a/referrers/nonsense").refused(400, "DIGEST_INVALID");
    // A manifest may come before its subject, and the answer says that it was understood.
    let early = json!({ "mediaType": MANIFEST, "digest": digest(b"later"), "size": 5 });
    let bytes = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "subject": early, "layers": [],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2 },
    }))
    .unwrap();
    let reply = registry.call("PUT", "/v2/a/manifests/early", &[("content-type", MANIFEST)], &bytes).expect(201);
    assert_eq!(reply.header("oci-subject"), digest(b"later"));
}

#[test]
fn an_index_needs_its_manifests() {
    let (_home, registry) = served();
    let one = registry.image("a", "one", b"1", &json!({}));
    let index = |digest: &str| {
        let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": 1, "platform": { "os": "linux", "architecture": "amd64" } });
        serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] })).unwrap()
    };
    let put = |bytes: &[u8]| registry.call("PUT", "/v2/a/manifests/all", &[("content-type", INDEX)], bytes);
    put(&index(&digest(b"missing"))).refused(404, "MANIFEST_BLOB_UNKNOWN");
    put(&index(&one)).expect(201);
    assert_eq!(registry.get("/v2/a/manifests/all").expect(200).header("content-type"), INDEX);
}

#[test]
fn tags_are_listed_sorted_in_pages() {
    let (_home, registry) = served();
    registry.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
    for tag in ["c", "a", "b", "A"] {
        registry.image("a", tag, b"same", &json!({}));
    }
    let all = registry.get("/v2/a/tags/list").expect(200).json();
    assert_eq!((&all["name"], &all["tags"]), (&json!("a"), &json!(["A", "a", "b", "c"])));
    let page = registry.get("/v2/a/tags/list?n=3").expect(200);
    assert_eq!(page.json()["tags"], json!(["A", "a", "b"]));
    let next = page.header("link").split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned();
    let last = registry.get(&next).expect(200);
    assert_eq!((last.json()["tags"].clone(), last.header("link")), (json!(["c"]), ""));
    assert_eq!(registry.get("/v2/a/tags/list?n=0").expect(200).json()["tags"], json!([]));
    registry.get("/v2/a/tags/list?n=x").expect(400);
    assert_eq!(registry.get("/v2/_catalog").json()["repositories"], json!(["a"]));
}

#[test]
fn several_tags_come_with_one_manifest() {
    let (_home, registry) = served();
    registry.push("a", b"{}");
    let bytes = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2 },
    }))
    .unwrap();
    let path = format!("/v2/a/manifests/{}?tag=one&tag=two", digest(&bytes));
    registry.call("PUT", &path, &[("content-type", MANIFEST)], &bytes).expect(201);
    assert_eq!(registry.get("/v2/a/tags/list").json()["tags"], json!(["one", "two"]));
}

#[test]
fn tags_manifests_and_blobs_are_deleted_apart() {
    let (_home, registry) = served();
    let name = registry.image("a", "1", b"layer", &json!({}));
    registry.image("a", "2", b"layer", &json!({}));
    registry.call("DELETE", "/v2/a/manifests/1", &[], b"").expect(202);
    registry.get("/v2/a/manifests/1").refused(404, "MANIFEST_UNKNOWN");
    registry.get(&format!("/v2/a/manifests/{name}")).expect(200);
    registry.call("DELETE", &format!("/v2/a/manifests/{name}"), &[], b"").expect(202);
    registry.get("/v2/a/manifests/2").refused(404, "MANIFEST_UNKNOWN");
    registry.call("DELETE", &format!("/v2/a/manifests/{name}"), &[], b"").refused(404, "MANIFEST_UNKNOWN");
    let blob = format!("/v2/a/blobs/{}", digest(b"layer"));
    registry.call("DELETE", &blob, &[], b"").expect(202);
    registry.get(&blob).refused(404, "BLOB_UNKNOWN");
    registry.call("DELETE", &blob, &[], b"").refused(404, "BLOB_UNKNOWN");
}

#[test]
fn sha512_is_as_good_as_sha256() {
    let (_home, registry) = served();
    let (config, layer) = (digest_512(b"{}"), digest_512(b"layer"));
    for (name, bytes) in [(&config, &b"{}"[..]), (&layer, b"layer")] {
        registry.call("POST", &format!("/v2/a/blobs/uploads/?digest={name}"), &[], bytes).expect(201);
    }
    let bytes = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/octet-stream", "digest": layer, "size": 5 }],
    }))
    .unwrap();
    let path = format!("/v2/a/manifests/{}", digest_512(&bytes));
    registry.call("PUT", &path, &[("content-type", MANIFEST)], &bytes).expect(201);
    assert_eq!(registry.get(&path).expect(200).body, bytes);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{layer}")).expect(200).body, b"layer");
}

#[test]
fn the_same_blob_is_pushed_by_many_at_once() {
    let (home, registry) = served();
    let bytes = vec![7_u8; 2_000_000];
    let name = digest(&bytes);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (registry, bytes, name) = (&registry, &bytes, &name);
            scope.spawn(move || {
                let path = format!("/v2/r{}/blobs/uploads/?digest={name}", number % 4);
                registry.call("POST", &path, &[], bytes).expect(201);
            });
        }
    });
    for number in 0..4 {
        assert!(registry.get(&format!("/v2/r{number}/blobs/{name}")).expect(200).body == bytes);
    }
    assert_eq!(std::fs::read_dir(home.path().join("registry/uploads")).unwrap().count(), 0);
}

#[test]
fn a_sweep_takes_what_nobody_refers_to_and_nothing_that_is_young() {
    let (_home, registry) = served();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sweep = |grace, dry| runtime.block_on(registry.distribution.sweep(grace, dry)).unwrap();
    let image = registry.image("a", "1", b"kept", &json!({}));
    let orphan = registry.push("a", b"orphan");
    assert_eq!(sweep(Duration::from_secs(3_600), false).blobs, [], "it may be part of a push that goes on");
    let dry = sweep(Duration::ZERO, true);
    assert_eq!((dry.blobs.len(), dry.bytes, dry.kept), (1, 6, 3));
    registry.get(&format!("/v2/a/blobs/{orphan}")).expect(200);
    assert_eq!(sweep(Duration::ZERO, false), dry);
    registry.get(&format!("/v2/a/blobs/{orphan}")).refused(404, "BLOB_UNKNOWN");
    registry.get(&format!("/v2/a/manifests/{image}")).expect(200);
    registry.get(&format!("/v2/a/blobs/{}", digest(b"kept"))).expect(200);
    registry.call("DELETE", "/v2/a/manifests/1", &[], b"").expect(202);
    assert_eq!(sweep(Duration::ZERO, false).blobs, [], "a manifest without a tag still counts");
    registry.call("DELETE", &format!("/v2/a/manifests/{image}"), &[], b"").expect(202);
    assert_eq!(sweep(Duration::ZERO, false).blobs.len(), 3);
}

/// A blob that nobody refers to, and that nobody has looked at for two hours.
fn old_orphan(store: &Store, bytes: &[u8]) -> std::path::PathBuf {
    let path = store.blobs().path(&store.blobs().put(bytes).unwrap().blob.digest);
    let old = std::time::SystemTime::now() - Duration::from_secs(7_200);
    std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
    path
}

#[test]
fn an_old_blob_that_is_used_again_outlives_a_sweep_before_it_has_a_name() {
    let (home, registry) = served();
    let store = Store::open(home.path().join("registry"), home.path().join("unpacked")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sweep = || runtime.block_on(registry.distribution.sweep(Duration::from_secs(3_600), false)).unwrap();
    let source = home.path().join("source");
    std::fs::write(&source, b"three").unwrap();
    let paths = [old_orphan(&store, b"one"), old_orphan(&store, b"two"), old_orphan(&store, b"three")];
    let forgotten = old_orphan(&store, b"four");
    assert!(store.blobs().put(b"one").unwrap().reused && store.blobs().store(&mut &b"two"[..]).unwrap().reused);
    let likely = modelyard_registry::blob::digest_of(b"three");
    assert!(store.blobs().store_again(&mut std::fs::File::open(&source).unwrap(), &likely).unwrap().reused);
    assert_eq!(sweep().blobs.len(), 1);
    assert!(paths.iter().all(|path| path.exists()) && !forgotten.exists());
}

#[test]
fn nobody_sweeps_while_a_package_gets_its_name() {
    use modelyard_core::{ModelName, Version};
    let (home, _registry) = served();
    let store = Store::open(home.path().join("registry"), home.path().join("unpacked")).unwrap();
    let gate = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(home.path().join("registry/.naming"))
        .unwrap();
    gate.lock().unwrap();
    let blob = store.blobs().put(b"config").unwrap().blob;
    let manifest: modelyard_registry::manifest::Manifest = serde_json::from_value(json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": {"mediaType": "application/octet-stream", "digest": blob.digest, "size": blob.size_bytes},
    }))
    .unwrap();
    let (done, named) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (store, manifest) = (&store, &manifest);
        scope.spawn(move || {
            done.send(store.add(&ModelName::new("wine").unwrap(), &Version::new("1.0.0").unwrap(), manifest)).unwrap();
        });
        assert!(named.recv_timeout(Duration::from_millis(300)).is_err(), "it was named while a sweep went on");
        gate.unlock().unwrap();
        named.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    });
}

#[test]
fn a_damaged_manifest_is_named_and_does_not_stop_a_sweep() {
    let (home, registry) = served();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sweep = || runtime.block_on(registry.distribution.sweep(Duration::ZERO, false)).unwrap();
    let image = registry.image("a", "1", b"kept", &json!({}));
    registry.push("a", b"orphan");
    let path = home.path().join("registry/blobs/sha256").join(image.strip_prefix("sha256:").unwrap());
    let sound = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, sound.replacen('{', "[", 1)).unwrap();
    let swept = sweep();
    assert_eq!((swept.blobs.len(), swept.bytes), (1, 6), "{swept:?}");
    assert_eq!((swept.damaged.len(), swept.damaged[0].0.to_string()), (1, image.clone()));
    registry.get(&format!("/v2/a/blobs/{}", digest(b"kept"))).expect(200);
    std::fs::remove_file(&path).unwrap();
    assert!(sweep().damaged[0].1.contains("could not read"), "a manifest that is gone is named too");
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_copies_lists_inspects_and_deletes() {
    let (home, registry) = served();
    let name = registry.image("a/model", "1", b"weights", &json!({}));
    let skopeo = |arguments: &[&str]| {
        let output = std::process::Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let remote = |path: &str| format!("docker://{}/{path}", registry.address);
    let folder = home.path().join("copied");
    let layout = format!("oci:{}:1", folder.display());
    skopeo(&["copy", "--src-tls-verify=false", &remote("a/model:1"), &layout]);
    skopeo(&["copy", "--dest-tls-verify=false", "--preserve-digests", &layout, &remote("b/copy:2")]);
    let tags: serde_json::Value =
        serde_json::from_str(&skopeo(&["list-tags", "--tls-verify=false", &remote("b/copy")])).unwrap();
    assert_eq!(tags["Tags"], json!(["2"]));
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &remote("b/copy:2")]);
    assert_eq!(digest(raw.as_bytes()), name, "the same bytes come back");
    skopeo(&["delete", "--tls-verify=false", &remote("b/copy:2")]);
    registry.get("/v2/b/copy/manifests/2").refused(404, "MANIFEST_UNKNOWN");
}

/// Everything above once more, with the blobs in an S3-compatible store and the rest in PostgreSQL; but for two that change files in the folder,
/// which `storage` tests in its own way.
#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn all_of_it_over_the_bucket_and_postgresql() {
    let files = ["--skip", "an_old_blob_that_is_used_again", "--skip", "a_damaged_manifest_is_named"];
    support::stores::again(&files, Some(support::stores::Stores::here()));
}
