//! Captured requests as Parquet files: what is in them, what is not, and that nothing is lost or doubled.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_core::feedback::Feedback;
use modelyard_core::mirror::{Told, ToldAnswer};
use modelyard_core::profile::Side;
use modelyard_core::service::Capture;
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp};
use modelyard_monitor::capture::{Arms, Captures, Rule, SPAN, load};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Value, json};

/// 2026-11-23, 23:59 UTC.
const NOW: Timestamp = Timestamp(1_795_478_340_000);

fn wine() -> ServiceName {
    ServiceName::new("wine").unwrap()
}

fn rule(change: impl FnOnce(&mut Capture)) -> Rule {
    let mut capture = Capture::default();
    change(&mut capture);
    let versions = BTreeMap::from([(RevisionNumber(2), "2.1.0".to_owned())]);
    Rule { capture, keep: 1.0, versions, rollout: None }
}

/// JSON is its own form; everything else has one that says so.
fn form(_: &ToldAnswer, _: Side, body: &[u8]) -> Option<Value> {
    match body.first() {
        Some(0xff) => None,
        Some(0xfe) => Some(json!({"inputs": [{"name": "x", "data": [0.5]}]})),
        _ => serde_json::from_slice(body).ok(),
    }
}

fn answer(id: &str, request: &[u8], response: &[u8]) -> Told {
    let told = json!({
        "line": "answer", "id": id, "at_ms": NOW.0 + 7, "revision": 2, "unit": "00ff00ff00ff00ff", "status": 200, "micros": 1_500,
        "path": "/v2/models/wine/infer?token=secret", "content_type": "application/json",
        "request": STANDARD.encode(request), "response": STANDARD.encode(response),
    });
    serde_json::from_value(told).unwrap()
}

fn plain(id: &str) -> Told {
    answer(id, br#"{"inputs":[{"name":"x","data":[1]}]}"#, br#"{"outputs":[{"name":"y","data":[0]}]}"#)
}

fn feedback(id: &str) -> Told {
    serde_json::from_value(json!({"line": "feedback", "id": id, "at_ms": NOW.0, "body": {"id": id, "label": 1}}))
        .unwrap()
}

/// Every file below, in the order of their names.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn parquet(root: &Path) -> Vec<PathBuf> {
    files(root).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "parquet")).collect()
}

type Row = BTreeMap<String, Field>;

fn rows(path: &Path) -> Vec<Row> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().into_columns().into_iter().collect()).collect()
}

fn ids(root: &Path) -> Vec<String> {
    let answers = parquet(root).into_iter().filter(|path| !path.to_str().unwrap().contains("feedback-"));
    answers.flat_map(|path| rows(&path)).map(|row| text(&row, "id")).collect()
}

fn text(row: &Row, column: &str) -> String {
    match &row[column] {
        Field::Str(text) => text.clone(),
        other => panic!("{column} is {other:?}"),
    }
}

/// Takes segments in and completes everything.
fn captured(root: &Path, rule: Rule, segments: &[(&str, Vec<Told>)]) {
    let mut captures = Captures::open(root.to_owned(), SPAN).unwrap();
    captures.follow(&wine(), Some(rule), NOW);
    for (name, told) in segments {
        captures.take(&wine(), name, told, &form, NOW);
    }
}

#[test]
fn a_row_has_what_was_asked_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    captured(folder.path(), rule(|_| ()), &[("1", vec![plain("a"), feedback("a"), answer("b", &[0xff, 0xfe], b"")])]);
    let found = parquet(folder.path());
    let names: Vec<String> =
        found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string()).collect();
    assert_eq!(names, ["wine/2026-11-23/1795478340000.parquet", "wine/2026-11-23/feedback-1795478340000.parquet"]);
    let answers = rows(&found[0]);
    let first = &answers[0];
    assert_eq!(text(first, "request"), r#"{"inputs":[{"name":"x","data":[1]}]}"#, "as it came");
    assert_eq!(text(first, "path"), "/v2/models/wine/infer", "a query may hold anything");
    assert_eq!((text(first, "version"), text(first, "unit")), ("2.1.0".into(), "00ff00ff00ff00ff".into()));
    assert_eq!(first["at"], Field::TimestampMillis(NOW.0 as i64 + 7));
    assert_eq!(
        (&first["revision"], &first["status"], &first["latency_us"]),
        (&Field::Int(2), &Field::Int(200), &Field::Long(1_500))
    );
    assert_eq!(
        (&first["shadow"], &first["request_bytes"], &first["request_raw"]),
        (&Field::Bool(false), &Field::Long(36), &Field::Null)
    );
    let second = &answers[1];
    assert_eq!((&second["request"], &second["response_bytes"]), (&Field::Null, &Field::Long(0)));
    assert!(matches!(&second["request_raw"], Field::Bytes(bytes) if bytes.data() == [0xff, 0xfe]), "{second:?}");
    let posted = rows(&found[1]);
    assert_eq!((posted.len(), text(&posted[0], "feedback").as_str()), (1, r#"{"id":"a","label":1}"#));
    for path in found {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "only for its owner");
    }
}

#[test]
fn masked_values_are_nowhere_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let rule = rule(|capture| capture.mask = vec!["/inputs/ssn".into(), "/label".into()]);
    let ssn =
        |name: &str| format!(r#"{{"inputs":[{{"name":"age","data":[41]}},{{"name":"{name}","data":["SECRET-1"]}}]}}"#);
    let label = json!({"line": "feedback", "id": "a", "at_ms": NOW.0, "body": {"id": "a", "label": "SECRET-2"}});
    let told = vec![
        answer("a", ssn("ssn").as_bytes(), b"{}"),
        answer("b", br#"{"inputs":{"ssn":[["SECRET-3"]]}}"#, b"{}"),
        answer("c", b"no JSON: SECRET-4", b"{}"),
        serde_json::from_value(label).unwrap(),
    ];
    let mut captures = Captures::open(folder.path().to_owned(), SPAN).unwrap();
    captures.follow(&wine(), Some(rule), NOW);
    captures.take(&wine(), "1", &told, &form, NOW);
    let secret = |path: &PathBuf| {
        let (bytes, encoded) = (fs::read(path).unwrap(), STANDARD.encode("SECRET"));
        bytes.windows(7).any(|window| window == b"SECRET-")
            || bytes.windows(8).any(|window| window == encoded.as_bytes())
    };
    assert!(!files(folder.path()).is_empty() && !files(folder.path()).iter().any(secret), "in the stage");
    drop(captures);
    let found = parquet(folder.path());
    assert!(found.len() == 2 && !found.iter().any(secret), "in the files");
    let answers = rows(&found[0]);
    let request: Value = serde_json::from_str(&text(&answers[0], "request")).unwrap();
    assert_eq!(request["inputs"], json!([{"name": "age", "data": [41]}, {"name": "ssn", "data": "masked"}]));
    assert_eq!(
        (&answers[2]["request"], &answers[2]["request_raw"], &answers[2]["request_bytes"]),
        (&Field::Null, &Field::Null, &Field::Long(17))
    );
}

#[test]
fn tensors_become_json_and_long_bodies_a_length() {
    let folder = tempfile::tempdir().unwrap();
    let long = vec![b' '; 100];
    captured(folder.path(), rule(|capture| capture.body_bytes = 64), &[("1", vec![answer("a", &[0xfe, 0xff], &long)])]);
    let row = &rows(&parquet(folder.path())[0])[0];
    assert_eq!(text(row, "request"), r#"{"inputs":[{"data":[0.5],"name":"x"}]}"#);
    assert_eq!(
        (&row["response"], &row["response_raw"], &row["response_bytes"]),
        (&Field::Null, &Field::Null, &Field::Long(100))
    );
}

#[test]
fn a_segment_counts_once_through_kills_at_any_point() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let life = |segments: &[(&str, Vec<Told>)]| {
        let mut captures = Captures::open(root.to_owned(), SPAN).unwrap();
        captures.follow(&wine(), Some(rule(|_| ())), NOW);
        for (name, told) in segments {
            captures.take(&wine(), name, told, &form, NOW);
        }
        captures
    };
    // A life that is killed does nothing at its end.
    std::mem::forget(life(&[("1", vec![plain("a")]), ("2", vec![plain("b")])]));
    assert_eq!(parquet(root), Vec::<PathBuf>::new(), "nothing is visible before it is complete");
    let stage = files(root).pop().unwrap();
    let whole = fs::read(&stage).unwrap();
    // Killed while it wrote segment 2, at each byte: that segment comes again.
    let first = whole.windows(8).position(|window| window == br#"{"end":""#).unwrap() + b"{\"end\":\"1\"}\n".len();
    for length in first..whole.len() {
        fs::write(&stage, &whole[..length]).unwrap();
        std::mem::forget(life(&[("2", vec![plain("b")])]));
        assert_eq!(fs::read(&stage).unwrap(), whole, "cut at {length}");
    }
    // Killed after it: the segment is known, and one after it is not.
    drop(life(&[("2", vec![plain("b")]), ("3", vec![plain("c")])]));
    assert_eq!(ids(root), ["a", "b", "c"]);
    // The segment that was last is known also when its file is complete.
    drop(life(&[("3", vec![plain("c")]), ("4", vec![plain("d")])]));
    assert_eq!(ids(root), ["a", "b", "c", "d"]);
}

#[test]
fn a_stage_that_was_sealed_before_a_kill_is_sealed_again_without_harm() {
    let folder = tempfile::tempdir().unwrap();
    captured(folder.path(), rule(|_| ()), &[("1", vec![plain("a")])]);
    let [file] = parquet(folder.path()).try_into().unwrap();
    let number = file.file_stem().unwrap().to_str().unwrap().to_owned();
    // The stage is still there, and half of another file: the kill came between two of the steps.
    let open = folder.path().join("wine/.open");
    let next = files(&open).pop().unwrap();
    assert!(next.file_stem().unwrap().to_str().unwrap() > number.as_str());
    let line = json!({"answer": serde_json::to_value(row("a")).unwrap()});
    fs::write(open.join(format!("{number}.jsonl")), format!("{line}\n{{\"end\":\"1\"}}\n")).unwrap();
    fs::write(file.with_file_name(format!(".{number}.parquet.new")), "half").unwrap();
    captured(folder.path(), rule(|_| ()), &[("1", vec![plain("a")])]);
    assert_eq!((parquet(folder.path()).len(), ids(folder.path())), (1, vec!["a".to_owned()]));
    assert!(!files(folder.path()).iter().any(|path| path.to_str().unwrap().ends_with(".new")));
}

/// A line of a stage as it is written.
fn row(id: &str) -> Value {
    json!({"id": id, "at_ms": 1, "service": "wine", "revision": 2, "shadow": false, "status": 200, "latency_us": 5, "path": "/",
        "request": {}, "response": {}})
}

#[test]
fn files_are_complete_after_a_while_and_each_day() {
    let folder = tempfile::tempdir().unwrap();
    let span = Duration::from_secs(60);
    let mut captures = Captures::open(folder.path().to_owned(), span).unwrap();
    captures.follow(&wine(), Some(rule(|_| ())), NOW);
    let after = |seconds: u64| Timestamp(NOW.0 + seconds * 1_000);
    captures.take(&wine(), "1", &[plain("a")], &form, NOW);
    captures.turn(after(59));
    captures.take(&wine(), "2", &[plain("b")], &form, after(59));
    captures.turn(after(61));
    captures.take(&wine(), "3", &[plain("c")], &form, after(62));
    captures.turn(after(63));
    captures.turn(after(1_000));
    captures.turn(after(2_000));
    drop(captures);
    let days: Vec<String> = parquet(folder.path())
        .iter()
        .map(|path| path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        (ids(folder.path()), days),
        (vec!["a".into(), "b".into(), "c".into()], vec!["2026-11-23".into(), "2026-11-24".into()])
    );
}

#[test]
fn the_oldest_files_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let day = |n: u64| Timestamp(NOW.0 + n * 86_400_000);
    let one = |rule: Rule, name: &str, now: Timestamp| {
        let mut captures = Captures::open(folder.path().to_owned(), Duration::ZERO).unwrap();
        captures.follow(&wine(), Some(rule), now);
        captures.take(&wine(), name, &[plain(name), feedback(name)], &form, now);
        captures.turn(now);
        drop(captures);
    };
    for n in 0..4 {
        one(rule(|_| ()), &n.to_string(), day(n));
    }
    assert_eq!(ids(folder.path()), ["0", "1", "2", "3"]);
    one(rule(|capture| capture.retention = Millis(2 * 86_400_000 + 1_000)), "4", day(4));
    assert_eq!(ids(folder.path()), ["2", "3", "4"], "older than two days");
    assert!(!folder.path().join("wine/2026-11-23").exists(), "empty days go too");
    let size: u64 = parquet(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    one(rule(|capture| capture.limit_bytes = size * 5 / 6), "5", day(5));
    assert_eq!(ids(folder.path()), ["4", "5"], "no more than it may have");
    one(rule(|capture| capture.limit_bytes = 0), "6", day(6));
    assert_eq!(ids(folder.path()), Vec::<String>::new());
}

#[test]
fn a_share_keeps_a_request_and_its_shadows_together() {
    let folder = tempfile::tempdir().unwrap();
    let told: Vec<Told> = (0..2_000).flat_map(|n| [plain(&format!("r{n}")), plain(&format!("r{n}"))]).collect();
    captured(folder.path(), Rule { keep: 0.25, ..rule(|_| ()) }, &[("1", told)]);
    let ids = ids(folder.path());
    let different: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), 2 * different.len());
    assert!((400..600).contains(&different.len()), "about a quarter: {}", different.len());
}

#[test]
fn many_rows_make_several_groups() {
    let folder = tempfile::tempdir().unwrap();
    let told: Vec<Told> = (0..10_000).map(|n| plain(&format!("r{n}"))).collect();
    captured(folder.path(), rule(|_| ()), &[("1", told)]);
    let file = parquet(folder.path()).pop().unwrap();
    let reader = SerializedFileReader::new(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!((reader.metadata().num_row_groups(), reader.metadata().file_metadata().num_rows()), (2, 10_000));
    assert!(fs::metadata(file).unwrap().len() < 400_000, "equal bodies take no room");
    assert_eq!(ids(folder.path()).len(), 10_000);
}

#[test]
fn what_cannot_be_written_is_counted_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("capture");
    fs::write(&root, "in the way").unwrap();
    let mut captures = Captures::open(root.clone(), SPAN).unwrap();
    captures.follow(&wine(), Some(rule(|_| ())), NOW);
    captures.take(&wine(), "1", &[plain("a"), plain("b")], &form, NOW);
    captures.turn(NOW);
    assert_eq!(
        (captures.counts().lost.load(Ordering::Relaxed), captures.counts().kept.load(Ordering::Relaxed)),
        (2, 0)
    );
    fs::remove_file(&root).unwrap();
    captures.take(&wine(), "2", &[plain("c")], &form, NOW);
    captures.take(&ServiceName::new("other").unwrap(), "1", &[plain("x")], &form, NOW);
    drop(captures);
    assert_eq!(ids(&root), ["c"], "and goes on once it can");
}

#[test]
fn feedback_that_comes_by_another_way_is_kept_and_leaves_segments_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let item = |id: &str| Feedback { id: id.into(), body: json!({"id": id, "label": 1}) };
    let life = || {
        let mut captures = Captures::open(folder.path().to_owned(), SPAN).unwrap();
        captures.follow(&wine(), Some(rule(|_| ())), NOW);
        captures
    };
    let mut captures = life();
    captures.feedback(&wine(), &[item("early")], NOW);
    captures.take(&wine(), "1", &[plain("a")], &form, NOW);
    captures.feedback(&wine(), &[item("a")], NOW);
    std::mem::forget(captures);
    let mut captures = life();
    captures.take(&wine(), "1", &[plain("a")], &form, NOW);
    drop(captures);
    let files = parquet(folder.path());
    let posted: Vec<String> = rows(&files[1]).iter().map(|row| text(row, "id")).collect();
    assert_eq!((ids(folder.path()), posted), (vec!["a".to_owned()], vec!["early".to_owned(), "a".to_owned()]));
}

#[test]
fn what_a_removed_service_left_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut captures = Captures::open(folder.path().to_owned(), SPAN).unwrap();
    captures.follow(&wine(), Some(rule(|_| ())), NOW);
    captures.take(&wine(), "1", &[plain("a")], &form, NOW);
    std::mem::forget(captures);
    let mut next = Captures::open(folder.path().to_owned(), SPAN).unwrap();
    next.turn(Timestamp(NOW.0 + 1));
    next.turn(Timestamp(NOW.0 + 400_000));
    drop(next);
    assert_eq!(ids(folder.path()), ["a"]);
}

#[test]
fn a_row_within_a_rollout_says_which_and_what_the_revision_was_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let of = |id: &str, revision: u32, shadow: bool, after_ms: u64| -> Told {
        let told = json!({"line": "answer", "id": id, "at_ms": NOW.0 + after_ms, "revision": revision, "shadow": shadow, "status": 200,
            "micros": 900, "path": "/v2/models/wine/infer"});
        serde_json::from_value(told).unwrap()
    };
    let arms = Arms {
        rollout: "wine-2".into(),
        started: Timestamp(NOW.0 + 10),
        ended: Some(Timestamp(NOW.0 + 100)),
        roles: BTreeMap::from([
            (RevisionNumber(1), "stable"),
            (RevisionNumber(2), "candidate"),
            (RevisionNumber(3), "arm"),
        ]),
    };
    let told = vec![
        of("before", 1, false, 9),
        of("stable", 1, false, 10),
        of("candidate", 2, false, 50),
        of("arm", 3, false, 50),
        of("shadow", 2, true, 50),
        of("unknown", 7, false, 50),
        of("after", 2, false, 101),
    ];
    captured(folder.path(), Rule { rollout: Some(arms), ..rule(|_| ()) }, &[("1", told)]);
    for row in rows(&parquet(folder.path())[0]) {
        let id = text(&row, "id");
        match id.as_str() {
            "before" | "after" | "unknown" => {
                assert_eq!((&row["rollout"], &row["arm"]), (&Field::Null, &Field::Null), "{id}");
            }
            role => assert_eq!((text(&row, "rollout"), text(&row, "arm")), ("wine-2".into(), role.to_owned())),
        }
    }
}

#[test]
fn captured_answers_are_read_back_without_copies_and_feedback() {
    let folder = tempfile::tempdir().unwrap();
    let of = |n: u64| -> Told {
        let told = json!({"line": "answer", "id": format!("r{n}"), "at_ms": NOW.0 + n * 1_000, "revision": 1, "shadow": n % 3 == 2,
            "status": if n.is_multiple_of(10) { 503 } else { 200 }, "micros": 1_000 + n, "path": "/v2/models/wine/infer"});
        serde_json::from_value(told).unwrap()
    };
    captured(folder.path(), rule(|_| ()), &[("1", (0..60).map(of).chain([feedback("r1")]).collect())]);
    let mut found = load::answers(folder.path()).unwrap();
    found.sort_by_key(|answer| answer.at_ms);
    assert_eq!(found.len(), 40);
    let fourth = load::Answered { at_ms: NOW.0 + 4_000, status: 200, micros: 1_004 };
    assert_eq!((found[0].status, found[3]), (503, fourth));
    let one = parquet(folder.path()).into_iter().next().unwrap();
    assert_eq!(load::answers(&one).unwrap().len(), 40, "a file alone");
    let posted = parquet(folder.path()).into_iter().find(|path| path.to_string_lossy().contains("feedback-")).unwrap();
    let refused = load::answers(&posted).unwrap_err();
    assert!(refused.to_string().contains("no file of captured answers"), "{refused}");
    assert!(load::answers(Path::new("/nowhere/at/all")).is_err());
}
