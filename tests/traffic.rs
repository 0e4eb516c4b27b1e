//! `modelyard traffic` from outside: what is asked, what it tells, how it ends, and that nothing of it stays.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use support::{World, examples, until};

fn path(of: &str) -> String {
    examples().join(of).display().to_string()
}

#[test]
fn a_package_is_measured_before_anybody_deploys_it() {
    let world = World::default();
    let (package, rows) = (path("wine/v1"), path("wine/traffic.json"));
    let ask = ["traffic", &package, "--rate", "100", "--requests", "40", "--rows", &rows, "--output", "json"];
    let held = world.run(&[&ask[..], &["--objective", "p99=10s", "--objective", "right=80%"]].concat()).ended(0).json();
    assert_eq!((held["answered"].as_u64(), held["failed"].as_u64()), (Some(40), Some(0)), "{held}");
    assert!(held["holds"] == true && held["target"] == "wine:1.0.0", "{held}");
    let seen = &held["revisions"][0];
    assert!(seen["labelled"] == 40 && seen["latency_micros"]["p99"].as_f64().unwrap() > 0.0, "{held}");
    assert!(held["ready_after_seconds"].as_f64().unwrap() > 0.0, "{held}");

    let missed = world.run(&[&ask[..], &["--objective", "p50=1us"]].concat()).ended(1).json();
    let limits: Vec<_> = missed["objectives"].as_array().unwrap().iter().map(|one| one["holds"].clone()).collect();
    assert_eq!(limits, [false, true], "too slow, but nothing failed: {missed}");
    until("the model server is gone", 10, || match support::process::census(world.home()).as_slice() {
        [] => Ok(()),
        left => Err(format!("{left:?} are left")),
    });
}

#[test]
fn a_service_without_callers_gets_traffic_and_labels_and_its_own_objective_counts() {
    let world = World::up();
    let metric = "metrics=[{ name = \"accuracy\", kind = \"accuracy\", from = \"feedback\" }]";
    world.deploy("wine/v1", &["--set", "analysis.max-latency-ms=0.001", "--set", metric]).ended(0);
    let ran = world.run(&["traffic", "wine", "--rate", "100", "--for", "200ms", "--output", "json"]);
    let told = ran.ended(1).json();
    assert_eq!(told["answered"], 20, "the package's samples are asked: {told}");
    let objective = &told["objectives"][0];
    assert!(objective["objective"] == "p95" && objective["holds"] == false, "the service's own: {told}");

    let rows = path("wine/traffic.json");
    let ask = ["traffic", "wine", "--rate", "0", "--callers", "2", "--requests", "60", "--rows", &rows, "--feedback"];
    let told = world.run(&[&ask[..], &["--objective", "p99=10s", "--output", "json"]].concat()).ended(0).json();
    assert_eq!((&told["answered"], &told["labels"]), (&60.into(), &60.into()), "every label is posted: {told}");
    world.down();
}

#[test]
fn a_service_that_fails_is_told_with_what_was_seen() {
    let world = World::up();
    let ran = world.run(&["traffic", "wine", "--requests", "2"]).ended(1);
    assert!(ran.err.contains("wine"), "an unknown service is named: {}", ran.err);
    let rows = path("wine/traffic.json");
    world.deploy("breast-cancer/v1", &[]).ended(0);
    // Rows of another model do not fit.
    let ask = ["traffic", "breast-cancer", "--requests", "3", "--rows", &rows];
    let told = world.run(&[&ask[..], &["--objective", "failed=50%", "--output", "json"]].concat()).ended(1).json();
    assert_eq!((&told["answered"], &told["failed"]), (&0.into(), &3.into()));
    assert!(told["failures"][0].as_str().unwrap().contains("status 400"), "{told}");
    let text = world.run(&ask).ended(1);
    assert!(
        text.out.contains("100 %") && text.out.contains("missed") && text.out.contains("status 400"),
        "{}",
        text.out
    );
    world.down();
}

#[test]
fn what_cannot_be_played_is_refused() {
    let world = World::default();
    let package = path("wine/v1");
    for (arguments, code, word) in [
        (vec!["traffic", &package, "--rate=-1"], 2, "rate"),
        (vec!["traffic", &package, "--objective", "p99=fast"], 2, "p99=50ms"),
        (vec!["traffic", &package, "--callers", "0"], 2, "1..=1024"),
        (vec!["traffic", &package, "--feedback"], 2, "--rows"),
        (vec!["traffic", &package, "--rows", "/no/such/file"], 1, "/no/such/file"),
        (vec!["traffic", "wine"], 1, "modelyard up --detach"),
        (vec!["traffic", "wine:9.9.9"], 1, "wine"),
    ] {
        let ran = world.run(&arguments).ended(code);
        assert!(ran.err.contains(word) && ran.out.is_empty(), "{arguments:?}: {}", ran.err);
    }
}
