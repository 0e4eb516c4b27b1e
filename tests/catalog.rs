//! The catalogue and the history from outside: what served when, who decided, whether anybody changed the log.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use serde_json::json;
use support::{World, examples};

#[test]
fn what_served_when_is_told_and_a_changed_log_is_noticed() {
    let world = World::up();
    let folder = examples().join("wine/v1");
    let first = world.run(&["deploy", folder.to_str().unwrap(), "--wait", "--output", "json"]).ended(0).json();
    assert_eq!(first["outcome"], "promoted", "{first}");
    let now = world.json(&["history", "wine", "--at", "2096-01-01T00:00:00Z"]);
    let serving = &now["serving"][0];
    assert_eq!((&serving["version"], &serving["weight"]), (&json!("1.0.0"), &json!(10_000)), "{now}");
    assert_eq!(serving["digest"], world.json(&["inspect", "wine:1.0.0"])["digest"]);
    assert!(now["decided"]["by"]["person"].is_string(), "{now}");
    let told = world.run(&["history", "wine", "--at", "2096-01-01T00:00:00Z"]).ended(0);
    assert!(told.out.contains("100 %") && told.out.contains("started by"), "{}", told.out);
    let before = world.run(&["history", "wine", "--at", "2001-01-01T00:00:00Z"]).ended(0);
    assert!(before.out.contains("nothing served wine"), "{}", before.out);
    world.run(&["history", "wine", "--at", "yesterday"]).ended(2);

    let walked = world.json(&["history", "--verify"]);
    let anchor = format!("{}@{}", walked["events"], walked["head"].as_str().unwrap());
    world.run(&["history", "--verify", "--anchor", &anchor]).ended(0);
    world.run(&["down"]).ended(0);
    world.run(&["history", "--verify", "--anchor", &anchor]).ended(0);

    let log = rusqlite::Connection::open(world.home().join("modelyard.sqlite")).unwrap();
    let changed = log.execute(
        "UPDATE events SET json = replace(json, 'promoted', 'rolled-back') WHERE kind = 'rollout-finished'",
        [],
    );
    assert_eq!(changed.unwrap(), 1);
    let seq: u64 =
        log.query_row("SELECT seq FROM events WHERE kind = 'rollout-finished'", [], |row| row.get(0)).unwrap();
    drop(log);
    let found = world.run(&["history", "--verify"]).ended(1);
    assert!(found.out.contains(&format!("event {seq} does not fit")), "{}", found.out);
}
