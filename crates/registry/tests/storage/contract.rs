//! What every pair of stores promises to clients.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use modelyard_registry::distribution::Swept;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::stores::{Stores, again, is_again};
use crate::support::{INDEX, MANIFEST, Served, digest, digest_512};
use crate::{Pair, Site, files_below, image, pull_whole, push_until_taken, put};

fn sweep(registry: &Served, grace: Duration, dry_run: bool) -> Swept {
    registry.distribution.sweep_blocking(grace, dry_run).unwrap()
}

pub fn a_blob_is_pushed_whole_in_chunks_and_after_a_restart(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    for bytes in [&b""[..], b"whole"] {
        let name = registry.push("a/b", bytes);
        assert_eq!(registry.get(&format!("/v2/a/b/blobs/{name}")).expect(200).body, bytes);
        assert_eq!(site.kept(&name).as_deref(), Some(bytes));
    }
    let long = digest_512(b"another algorithm");
    let place = format!("/v2/a/b/blobs/uploads/?digest={long}");
    registry.call("POST", &place, &[], b"another algorithm").expect(201);
    assert_eq!(registry.get(&format!("/v2/a/b/blobs/{long}")).expect(200).body, b"another algorithm");

    let place = registry.call("POST", "/v2/a/b/blobs/uploads/", &[], b"").expect(202).header("location").to_owned();
    registry.call("PATCH", &place, &[("content-range", "0-4")], b"first").expect(202);
    drop(registry);
    let registry = site.served(0);
    assert_eq!(registry.get(&place).expect(204).header("range"), "0-4");
    registry.call("PATCH", &place, &[("content-range", "5-11")], b" second").expect(202);
    let name = digest(b"first second");
    registry.call("PUT", &format!("{place}?digest={name}"), &[], b"").expect(201);
    drop(registry);
    let elsewhere = site.served(1);
    assert_eq!(elsewhere.get(&format!("/v2/a/b/blobs/{name}")).expect(200).body, b"first second");
    assert_eq!(files_below(&site.home(0).join("registry/uploads")), 0, "uploads that ended leave nothing");
}

pub fn many_push_one_blob_at_once(pair: Pair) {
    let site = Site::new(pair);
    let registries = [site.served(0), site.served(1)];
    let bytes: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    std::thread::scope(|scope| {
        for nth in 0..8 {
            let (registry, bytes) = (&registries[nth % 2], &bytes);
            scope.spawn(move || registry.push(&format!("r{nth}"), bytes));
        }
    });
    for nth in 0..8 {
        let got = registries[(nth + 1) % 2].get(&format!("/v2/r{nth}/blobs/{}", digest(&bytes))).expect(200);
        assert!(got.body == bytes, "r{nth}");
    }
    assert!(site.kept(&digest(&bytes)).is_some_and(|kept| kept == bytes));
}

pub fn ranges_are_given(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let path = format!("/v2/a/blobs/{}", registry.push("a", &bytes));
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-2000000", 1_000_000, 2_000_001),
        ("bytes=2999999-", 2_999_999, 3_000_000),
        ("bytes=-5", 2_999_995, 3_000_000),
    ] {
        let part = registry.call("GET", &path, &[("range", range)], b"").expect(206);
        assert!(part.body == bytes[from..to], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/3000000", to - 1));
    }
    let beyond = registry.call("GET", &path, &[("range", "bytes=3000000-")], b"").refused(416, "SIZE_INVALID");
    assert_eq!(beyond.header("content-range"), "bytes */3000000");
    assert_eq!(registry.call("HEAD", &path, &[], b"").expect(200).header("content-length"), "3000000");
}

pub fn what_is_deleted_is_gone_everywhere(pair: Pair) {
    let site = Site::new(pair);
    let (here, there) = (site.served(0), site.served(1));
    let image = here.image("a", "1", b"layer", &json!({}));
    there.call("DELETE", "/v2/a/manifests/1", &[], b"").expect(202);
    here.get("/v2/a/manifests/1").refused(404, "MANIFEST_UNKNOWN");
    here.call("DELETE", &format!("/v2/a/manifests/{image}"), &[], b"").expect(202);
    there.get(&format!("/v2/a/manifests/{image}")).refused(404, "MANIFEST_UNKNOWN");
    let layer = format!("/v2/a/blobs/{}", digest(b"layer"));
    here.call("DELETE", &layer, &[], b"").expect(202);
    there.get(&layer).refused(404, "BLOB_UNKNOWN");
    there.call("DELETE", &layer, &[], b"").refused(404, "BLOB_UNKNOWN");
    assert!(sweep(&there, Duration::from_secs(3_600), false).blobs.is_empty(), "they are young");
    assert_eq!(sweep(&there, Duration::ZERO, true).blobs.len(), 3);
    assert_eq!(sweep(&there, Duration::ZERO, false).blobs.len(), 3);
    assert_eq!((site.kept(&digest(b"layer")), site.kept(&image)), (None, None));
    assert_eq!(sweep(&here, Duration::ZERO, false).blobs.len(), 0);
    assert_eq!(files_below(&site.home(0).join("registry/blobs")), 0, "copies go too");
}

pub fn referrers_are_found_from_everywhere(pair: Pair) {
    let site = Site::new(pair);
    let (here, there) = (site.served(0), site.served(1));
    let subject = here.image("a", "1", b"model", &json!({}));
    let descriptor = json!({ "mediaType": MANIFEST, "digest": subject, "size": 1 });
    let more =
        json!({ "subject": descriptor, "artifactType": "application/x.signature", "annotations": { "by": "ada" } });
    let signature = here.image("a", "signature", b"signed", &more);
    there.image("a", "list", b"bill of materials", &json!({ "subject": descriptor }));
    let found = there.get(&format!("/v2/a/referrers/{subject}")).expect(200);
    assert_eq!((found.header("content-type"), found.json()["manifests"].as_array().unwrap().len()), (INDEX, 2));
    let filtered = here.get(&format!("/v2/a/referrers/{subject}?artifactType=application/x.signature")).json();
    let expected = json!([{
        "mediaType": MANIFEST, "digest": signature, "size": filtered["manifests"][0]["size"],
        "artifactType": "application/x.signature", "annotations": { "by": "ada" },
    }]);
    assert_eq!(filtered["manifests"], expected);
}

pub fn a_wrong_digest_leaves_nothing(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    let wrong = digest(b"something else");
    registry.call("POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], b"x").refused(400, "DIGEST_INVALID");
    registry.get(&format!("/v2/a/blobs/{wrong}")).refused(404, "BLOB_UNKNOWN");
    assert_eq!((site.kept(&wrong), site.kept(&digest(b"x"))), (None, None));
    assert_eq!(sweep(&registry, Duration::ZERO, true).kept, 0);
    put(&registry, "a", &wrong, b"{}").refused(400, "DIGEST_INVALID");
}

pub fn tags_come_page_by_page_by_their_bytes(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    let (config, layer) = (registry.push("a", b"{}"), registry.push("a", b"x"));
    let bytes = image(&config, &layer, 1);
    // What a language's order would put elsewhere: capitals, underscores, digits.
    let mut tags: Vec<String> =
        ["b", "B", "a", "A_", "_a", "a-1", "a.1", "a1", "Z", "z10", "z9"].map(String::from).into();
    tags.extend((0..40).map(|nth| format!("v{nth}")));
    for tags in tags.chunks(10) {
        let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        put(&registry, "a", &format!("{}?{}", digest(&bytes), query.join("&")), &bytes).expect(201);
    }
    tags.sort_unstable();
    let (mut found, mut next) = (Vec::new(), "/v2/a/tags/list?n=7".to_owned());
    loop {
        let page = registry.get(&next).expect(200);
        let names: Vec<String> = serde_json::from_value(page.json()["tags"].clone()).unwrap();
        assert!(names.len() <= 7);
        found.extend(names);
        let Some(link) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        next = link.0.to_owned();
    }
    assert_eq!(found, tags);
    let names = registry.get("/v2/_catalog").json()["repositories"].clone();
    assert_eq!(names, json!(["a"]));
}

pub fn two_writers_of_a_tag_leave_one_of_both(pair: Pair) {
    let site = Site::new(pair);
    let registries = [site.served(0), site.served(1)];
    let pushed: Vec<String> = std::thread::scope(|scope| {
        let writers = registries.iter().enumerate().map(|(writer, registry)| {
            scope.spawn(move || {
                let push = |nth| registry.image("a", "latest", format!("{writer} {nth}").as_bytes(), &json!({}));
                (0..10).map(push).collect::<Vec<String>>()
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let named = registries
        .each_ref()
        .map(|registry| registry.get("/v2/a/manifests/latest").expect(200).header("docker-content-digest").to_owned());
    assert_eq!(named[0], named[1]);
    assert!([&pushed[9], &pushed[19]].contains(&&named[0]), "the last of one of them: {named:?}");
    for digest in &pushed {
        pull_whole(&registries[0], "a", digest);
    }
}

pub fn a_sweep_beside_pushes_takes_nothing_that_has_a_name(pair: Pair) {
    let site = Site::new(pair);
    let (registries, sweeper) = ([site.served(0), site.served(1)], site.served(2));
    let (over, pushed) = (AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let pushers: Vec<_> = registries
            .iter()
            .enumerate()
            .map(|(pusher, registry)| {
                let pushed = &pushed;
                scope.spawn(move || {
                    for nth in 0..8 {
                        let (name, layer) = (format!("r{}", nth % 3), format!("layer {pusher} {nth}"));
                        let digest = push_until_taken(registry, &name, &format!("t{pusher}-{nth}"), layer.as_bytes());
                        pushed.lock().unwrap().push((name, digest));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            // At every point of a push; but what has no name yet may be taken each time, so now and then a push goes on in peace.
            for nth in 0_u64.. {
                let before = pushed.lock().unwrap().len();
                let pause = Duration::from_millis(nth % 5 * 40);
                while !over.load(Ordering::Relaxed) && nth % 2 == 0 && pushed.lock().unwrap().len() == before {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                std::thread::park_timeout(pause);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                sweep(&sweeper, Duration::ZERO, false);
            }
        });
        let ended: Vec<_> = pushers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.into_iter().all(|pusher| pusher.is_ok()));
    });
    for (name, digest) in pushed.into_inner().unwrap() {
        pull_whole(&registries[0], &name, &digest);
    }
    assert!(sweep(&sweeper, Duration::ZERO, true).damaged.is_empty());
}

pub fn what_somebody_cares_for_is_young_again(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    let blob = registry.push("a", b"old");
    let grace = Duration::from_secs(3);
    let deadline = Instant::now() + Duration::from_secs(60);
    while sweep(&registry, grace, true).blobs.is_empty() {
        assert!(Instant::now() < deadline, "it never grows old");
        std::thread::sleep(Duration::from_millis(100));
    }
    registry.call("POST", &format!("/v2/b/blobs/uploads/?mount={blob}&from=a"), &[], b"").expect(201);
    let swept = sweep(&registry, grace, false);
    assert_eq!((swept.blobs.len(), swept.kept), (0, 1), "it was mounted just now");
    assert_eq!(registry.get(&format!("/v2/b/blobs/{blob}")).expect(200).body, b"old");
}

pub fn a_damaged_blob_breaks_off_and_is_mended(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    let bytes = vec![7; 700_000];
    let (blob, mut damaged) = (registry.push("a", &bytes), bytes.clone());
    damaged[300_000] = 8;
    site.damage(&blob, &damaged);
    // Nobody has seen the whole of it: the answer ends before its last byte.
    let agent = ureq::Agent::config_builder().build().new_agent();
    let mut answer = agent.get(format!("http://{}/v2/a/blobs/{blob}", registry.address)).call().unwrap();
    let read = answer.body_mut().as_reader().read_to_end(&mut Vec::new());
    assert!(read.is_err(), "the damaged bytes came whole: {read:?}");
    let checked = modelyard_registry::trust::check_all(&registry.distribution).unwrap();
    assert_eq!((checked.blobs, checked.faults.len()), (1, 1), "{checked:?}");
    assert!(checked.faults[0].what.contains(&blob), "{checked:?}");
    registry.push("a", &bytes);
    assert!(registry.get(&format!("/v2/a/blobs/{blob}")).expect(200).body == bytes);
    assert!(modelyard_registry::trust::check_all(&registry.distribution).unwrap().faults.is_empty());
}

pub fn a_damaged_manifest_is_named_and_its_parts_stay(pair: Pair) {
    let site = Site::new(pair);
    let name = site.served(0).image("a", "1", b"layer", &json!({}));
    let mut damaged = site.kept(&name).unwrap();
    let last = damaged.len() - 1;
    damaged[last] = b' ';
    site.damage(&name, &damaged);
    // Elsewhere: where it was pushed a good copy may be left.
    let registry = site.served(1);
    let swept = sweep(&registry, Duration::ZERO, false);
    assert_eq!((swept.blobs.len(), swept.damaged.len()), (0, 1), "{swept:?}");
    assert_eq!(swept.damaged[0].0.to_string(), name);
    registry.get("/v2/a/manifests/1").expect(500);
    assert_eq!(registry.image("a", "1", b"layer", &json!({})), name, "pushing it again mends it");
    pull_whole(&registry, "a", "1");
}

/// Length of the large blob in bytes.
const LARGE: u64 = 160 << 20;

/// As many bytes, nowhere whole: each mebibyte of them has its own.
struct Counting(u64);

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = (LARGE - self.0).min((1 << 20) - self.0 % (1 << 20));
        let length = buffer.len().min(usize::try_from(left).unwrap());
        buffer[..length].fill((self.0 >> 20) as u8);
        self.0 += length as u64;
        Ok(length)
    }
}

fn memory_bytes(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Alone in a process of its own: the others' memory would be counted too.
pub fn a_large_blob_streams_through_little_memory(pair: Pair) {
    if !is_again() {
        let module = if pair == Pair::FolderAndSqlite { "folder_and_sqlite" } else { "bucket_and_postgresql" };
        let name = format!("{module}::a_large_blob_streams_through_little_memory");
        let stores = (pair == Pair::BucketAndPostgresql).then(Stores::here);
        return again(&[&name, "--exact", "--include-ignored"], stores);
    }
    let site = Site::new(pair);
    let registry = site.served(0);
    registry.image("a", "warm", b"up", &json!({}));
    let before = memory_bytes("VmRSS:");
    let mut hasher = Sha256::new();
    std::io::copy(&mut Counting(0), &mut HashInto(&mut hasher)).unwrap();
    let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let agent = ureq::Agent::config_builder().build().new_agent();
    let url = format!("http://{}/v2/a/blobs/uploads/?digest=sha256:{name}", registry.address);
    let request = ureq::http::Request::post(url).header("content-length", LARGE.to_string());
    let body = ureq::SendBody::from_owned_reader(Counting(0));
    assert_eq!(agent.run(request.body(body).unwrap()).unwrap().status(), 201);
    let url = format!("http://{}/v2/a/blobs/sha256:{name}", registry.address);
    let mut answer = agent.get(url).call().unwrap();
    let (mut came, mut hasher) = (0, Sha256::new());
    let mut reader = answer.body_mut().with_config().limit(LARGE).reader();
    came += std::io::copy(&mut reader, &mut HashInto(&mut hasher)).unwrap();
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((came, found), (LARGE, name));
    let grown = memory_bytes("VmHWM:").saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for a blob of {} MiB", grown >> 20, LARGE >> 20);
}

struct HashInto<'a>(&'a mut Sha256);

impl std::io::Write for HashInto<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
