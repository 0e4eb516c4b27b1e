//! The tap: what is told of answers and feedback, on disk, in order, bounded, and across restarts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::caller::{Caller, Reply};
use common::instance::Instance;
use common::{Gateway, table, table_with, wait_for};
use modelyard_core::affinity::{Affinity, AffinityRoute, KeySource, hash};
use modelyard_core::measure::TapReport;
use modelyard_core::mirror::{Mirror, Tap, Told, ToldAnswer};
use modelyard_core::route::RouteTable;
use modelyard_core::sample::Tolerance;
use modelyard_core::{RevisionNumber, Weight};
use serde_json::json;

const INFER: &str = "/v2/models/wine/infer";
const FEEDBACK: &str = "/wine/feedback";

fn tap(body_bytes: u64, limit_bytes: u64) -> Tap {
    Tap { share: Weight::ALL, body_bytes, limit_bytes }
}

fn tapped(generation: u64, stable: SocketAddr, rule: Tap) -> RouteTable {
    table_with(generation, &[(1, 10_000, &[stable])], |route| route.tap = Some(rule))
}

fn spool(folder: &Path) -> PathBuf {
    folder.join("state/tap/wine")
}

/// Files of the spool, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(spool(folder)).into_iter().flatten().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort_unstable();
    files
}

/// All lines, those of open segments included.
fn lines(folder: &Path) -> Vec<Told> {
    // A segment may be completed, and so renamed, between the listing and the look: then the next look has it.
    let texts = segments(folder).into_iter().filter_map(|file| fs::read_to_string(file).ok());
    let texts: Vec<_> = texts.collect();
    let whole = texts.iter().flat_map(|text| text.split_inclusive('\n')).filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn answers(folder: &Path) -> Vec<ToldAnswer> {
    let told = lines(folder).into_iter();
    told.filter_map(|line| if let Told::Answer(answer) = line { Some(*answer) } else { None }).collect()
}

fn report(gateway: &Gateway) -> TapReport {
    gateway.report().services.values().next().unwrap().tap
}

fn decoded(body: &Option<String>) -> Option<Vec<u8>> {
    body.as_ref().map(|body| STANDARD.decode(body).unwrap())
}

#[test]
fn answers_are_told_with_their_session_and_shadows_by_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, shadow) = (Instance::answering("{\"y\":1}"), Instance::answering("{\"y\":2}"));
    let mirror = Mirror {
        revision: RevisionNumber(2),
        share: Weight::ALL,
        limit: 8,
        timeout_ms: 20_000,
        tolerance: Tolerance::default(),
        top_k: 1,
        against: None,
    };
    let rule = Affinity { by: KeySource::Header, name: Some("x-user".into()), lifetime: None };
    let affinity = AffinityRoute { rule, salt: "s".into(), secret: String::new(), starts: BTreeMap::new() };
    gateway.put(&table_with(1, &[(1, 10_000, &[stable.address]), (2, 0, &[shadow.address])], |route| {
        route.tap = Some(tap(0, 1 << 20));
        route.mirrors = vec![mirror];
        route.affinity = Some(affinity);
    }));
    let mut caller = Caller::connect(gateway.address);
    let headers = "x-request-id: r-1\r\nx-user: ann\r\n";
    assert_eq!(caller.send("POST", &format!("{INFER}?a=1"), headers, b"{}").unwrap().status, 200);
    let told = wait_for("both answers", || Some(answers(folder.path())).filter(|told| told.len() == 2));
    let (mine, copy) = if told[0].shadow { (&told[1], &told[0]) } else { (&told[0], &told[1]) };
    assert_eq!((mine.id.as_str(), mine.revision, mine.shadow), ("r-1", RevisionNumber(1), false));
    assert_eq!((copy.id.as_str(), copy.revision, copy.shadow), ("r-1", RevisionNumber(2), true));
    assert_eq!((mine.status, copy.status, mine.content_type.as_str()), (200, 200, "application/json"));
    assert_eq!((mine.path.as_str(), copy.path.as_str()), ("/v2/models/wine/infer?a=1", "/v2/models/wine/infer?a=1"));
    let unit = format!("{:016x}", hash("s", b"ann"));
    assert_eq!((mine.unit.as_deref(), copy.unit.as_deref()), (Some(unit.as_str()), Some(unit.as_str())));
    assert_eq!(
        (decoded(&mine.response), decoded(&copy.response)),
        (Some(b"{\"y\":1}".into()), Some(b"{\"y\":2}".into()))
    );
    assert!(mine.request.is_none() && mine.at_ms > 1_700_000_000_000 && mine.micros > 0);
    assert_eq!(wait_for("the counts", || Some(report(&gateway)).filter(|tap| tap.told == 2)).shed, 0);
    gateway.end();
}

#[test]
fn bodies_are_told_up_to_a_length_and_broken_connections_as_0() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering("0123456789");
    gateway.put(&tapped(1, stable.address, tap(10, 1 << 20)));
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"short");
    caller.post(INFER, b"eleven bytes and more");
    caller.get("/v2/models/wine"); // about the model, not of it
    stable.behave(|_, _| false);
    assert_eq!(caller.post(INFER, b"x").status, 502);
    let told = wait_for("the answers", || Some(answers(folder.path())).filter(|told| told.len() == 3));
    assert_eq!(
        (decoded(&told[0].request), decoded(&told[0].response)),
        (Some(b"short".into()), Some(b"0123456789".into()))
    );
    assert_eq!((decoded(&told[1].request), told[1].status), (None, 200));
    assert_eq!((told[2].status, decoded(&told[2].request), &told[2].response), (0, Some(b"x".into()), &None));
    gateway.put(&tapped(2, stable.address, tap(9, 1 << 20)));
    stable.behave(|stream, _| common::instance::answer(stream, 200, "0123456789"));
    caller.post(INFER, b"x");
    let told = wait_for("another answer", || Some(answers(folder.path())).filter(|told| told.len() == 4));
    assert_eq!(told[3].response, None, "ten bytes are more than nine");
    gateway.end();
}

#[test]
fn segments_are_completed_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering("ok");
    gateway.put(&tapped(1, stable.address, tap(0, 1 << 20)));
    Caller::connect(gateway.address).post(INFER, b"{}");
    let complete = wait_for("a complete segment", || {
        segments(folder.path()).into_iter().find(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
    });
    assert_eq!(complete.file_stem().unwrap().len(), 20);
    assert_eq!(fs::read_to_string(complete).unwrap().lines().count(), 1);
    gateway.end();
}

fn post(caller: &mut Caller, kind: &str, body: &str) -> Reply {
    caller.send("POST", FEEDBACK, &format!("content-type: {kind}\r\n"), body.as_bytes()).unwrap()
}

#[test]
fn feedback_is_on_disk_before_it_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering("ok");
    gateway.put(&tapped(1, stable.address, tap(0, 1 << 20)));
    let mut caller = Caller::connect(gateway.address);
    let mut expected = Vec::new();
    for (kind, body, ids) in [
        ("application/json", r#"{"id":"a","label":1}"#, vec!["a"]),
        ("application/json", r#"[{"id":"b","label":"red"},{"id":"c","reward":0.5}]"#, vec!["b", "c"]),
        ("application/x-ndjson", "{\"id\":\"d\",\"label\":1}\n{\"id\":\"e\",\"label\":2}\n", vec!["d", "e"]),
    ] {
        let reply = post(&mut caller, kind, body);
        assert_eq!((reply.status, reply.text()), (202, json!({"accepted": ids.len()}).to_string()));
        expected.extend(ids);
        let told: Vec<_> = wait_for("a listing of a still folder", || {
            let told: Vec<_> = lines(folder.path());
            (told.len() == expected.len()).then_some(told)
        });
        let ids = told.iter().map(|line| if let Told::Feedback(told) = line { told.id.as_str() } else { "" });
        assert!(ids.eq(expected.iter().copied()), "{told:?}");
    }
    let Told::Feedback(first) = &lines(folder.path())[0] else { panic!("an answer was told") };
    assert_eq!(first.body, json!({"id": "a", "label": 1}));
    let reply = caller.send("POST", "/wine/v1/feedback", "", br#"{"id":"f","label":1}"#).unwrap();
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!((report(&gateway).told, stable.count()), (6, 0));
    gateway.end();
}

#[test]
fn feedback_is_refused_whole_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering("ok");
    gateway.put(&table(1, &[(1, 10_000, &[stable.address])]));
    let mut caller = Caller::connect(gateway.address);
    let good = r#"{"id":"a","label":1}"#;
    let reply = post(&mut caller, "application/json", good);
    assert!(reply.status == 409 && reply.text().contains("no metric of `wine` asks for feedback"), "{reply:?}");
    gateway.put(&tapped(2, stable.address, tap(0, 1 << 20)));
    let second = format!("{good}\n{{\"id\":\"b\"}}\n");
    let many = format!("[{good},{good},7]");
    for (kind, body, status, why) in [
        ("application/x-ndjson", second.as_str(), 400, "line 2 says nothing but its id"),
        ("application/json", many.as_str(), 400, "item 3 is no object"),
        ("application/json", "{\"id\":", 400, "the body is no JSON"),
        ("application/json", "", 400, "no feedback"),
    ] {
        let reply = post(&mut caller, kind, body);
        assert!(reply.status == status && reply.text().contains(why), "{why}: {reply:?}");
    }
    let long = format!("{{\"id\":\"a\",\"label\":\"{}\"}}", "x".repeat(9 << 20));
    let reply = post(&mut Caller::connect(gateway.address), "application/json", &long);
    assert!(reply.status == 413 && reply.text().contains("8 MiB"), "{}", reply.text());
    let reply = caller.get(FEEDBACK);
    assert_eq!((reply.status, reply.header("allow")), (405, "POST"));
    for (path, why) in [("/beer/feedback", "no service is named `beer`"), ("/wine/v7/feedback", "no API version 7")] {
        let reply = caller.post(path, good.as_bytes());
        assert!(reply.status == 404 && reply.text().contains(why), "{reply:?}");
    }
    let zipped = caller.send("POST", FEEDBACK, "content-encoding: gzip\r\n", b"x").unwrap();
    assert_eq!(zipped.status, 415);
    assert!(lines(folder.path()).is_empty(), "nothing half");
    assert_eq!((report(&gateway), stable.count()), (TapReport::default(), 0));
    gateway.end();
}

#[test]
fn a_full_spool_sheds_until_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering("ok");
    gateway.put(&tapped(1, stable.address, tap(0, 2_000)));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..50 {
        assert_eq!(caller.post(INFER, b"{}").status, 200);
    }
    let full =
        wait_for("all lines to be told or shed", || Some(report(&gateway)).filter(|tap| tap.told + tap.shed == 50));
    assert!(full.told > 0 && full.shed > 0, "{full:?}");
    let length: u64 = segments(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(length <= 2_000, "{length}");
    let filler = format!(r#"{{"id":"a","label":"{}"}}"#, "x".repeat(2_000));
    let reply = post(&mut caller, "application/json", &filler);
    assert!(reply.status == 503 && reply.text().contains("the spool is full"), "{reply:?}");
    // The reader: complete segments go once they are read.
    wait_for("room", || {
        for path in segments(folder.path()) {
            if path.extension().is_some_and(|ending| ending == "jsonl") {
                fs::remove_file(path).unwrap();
            }
        }
        let reply = post(&mut caller, "application/json", r#"{"id":"a","label":1}"#);
        assert!(matches!(reply.status, 202 | 503), "{reply:?}");
        (reply.status == 202).then_some(())
    });
    gateway.end();
}

#[test]
fn a_restart_goes_on_and_finishes_what_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let stable = Instance::answering("ok");
    let gateway = Gateway::start(folder.path());
    gateway.put(&tapped(1, stable.address, tap(0, 1 << 20)));
    Caller::connect(gateway.address).post(INFER, b"{}");
    gateway.end();
    let first = segments(folder.path());
    assert!(
        first.len() == 1 && first[0].extension().is_some_and(|ending| ending == "jsonl"),
        "the end completes: {first:?}"
    );
    let line = fs::read_to_string(&first[0]).unwrap();
    // A gateway that was killed in the middle of a line.
    let left = spool(folder.path()).join(format!("{:020}.open", 7));
    fs::write(&left, format!("{line}{}", &line[..10])).unwrap();
    let gateway = Gateway::start(folder.path());
    wait_for("the leftover's completion", || (!left.exists()).then_some(()));
    assert_eq!(fs::read_to_string(left.with_extension("jsonl")).unwrap(), line);
    // Its table is the last good one: it tells before any control plane comes.
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"{}");
    assert_eq!(post(&mut caller, "application/json", r#"{"id":"a","label":1}"#).status, 202);
    gateway.end();
    let all = segments(folder.path());
    assert!(all.len() >= 3 && all[1] == first[0] && all[2] > first[0], "{all:?}");
    assert_eq!(lines(folder.path()).len(), 4);
}
