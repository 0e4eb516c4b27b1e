//! Versions that fail on purpose are taken back by themselves, with the right cause, and no caller sees it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use serde_json::Value;
use support::process::kill_9;
use support::{Load, Mix, World, until};

const SERVICE: &str = "breast-cancer";

const QUICK: &[&str] = &[
    "--strategy",
    "canary",
    "--steps",
    "20,50,100",
    "--bake",
    "2s",
    "--set",
    "analysis.min-requests=30",
    "--set",
    "analysis.window=5s",
    "--set",
    "routing.drain=5s",
    "--set",
    "analysis.startup-timeout=30s",
];

/// Deploys a version that fails, under load; what `deploy --wait` said.
fn taken_back(version: &str, causes: &[&str], further: &[&str]) -> (World, Value) {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(50);
    let end = world.deploy(&format!("breast-cancer/{version}"), &[QUICK, further].concat()).ended(3).json();
    assert_eq!(end["outcome"], "rolled-back", "{end}");
    assert!(causes.contains(&end["cause"].as_str().unwrap_or_default()), "{end}");
    assert!(!end["evidence"].is_null(), "a cause comes with its evidence: {end}");
    load.flow(50);
    load.finish().nothing_failed();
    let status = world.status(SERVICE);
    assert_eq!((&status["weights"]["1"], &status["stable"]["version"]), (&10_000.into(), &"1.0.0".into()), "{status}");
    let report = world.run(&["report", end["rollout"].as_str().unwrap()]).ended(0).out;
    assert!(report.contains(end["cause"].as_str().unwrap()), "the report tells the cause:\n{report}");
    (world, end)
}

#[test]
fn wrong_answers_never_reach_a_caller() {
    let (world, _) = taken_back("v3-wrong", &["wrong-answers"], &[]);
    let applied = world.events(SERVICE).into_iter().filter(|event| event["event"] == "route-applied");
    let weights: Vec<Value> = applied.map(|event| event["weights"]["2"].clone()).collect();
    assert!(weights.iter().all(|weight| weight.is_null() || *weight == 0), "it never had a share: {weights:?}");
    world.down();
}

#[test]
fn a_slow_version_misses_its_objective() {
    taken_back("v3-slow", &["latency"], &["--set", "analysis.max-latency-ms=15"]).0.down();
}

#[test]
fn a_crashing_version_is_taken_back_and_its_requests_are_answered() {
    taken_back("v3-crash", &["crash", "crash-loop"], &[]).0.down();
}

#[test]
fn a_leaking_version_runs_into_its_own_limit() {
    taken_back("v3-leak", &["out-of-memory", "crash-loop"], &[]).0.down();
}

#[test]
fn a_version_with_errors_is_taken_back_and_its_requests_are_answered() {
    taken_back("v3-errors", &["error-rate"], &[]).0.down();
}

#[test]
fn an_instance_killed_under_load_costs_no_request_and_is_replaced() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(100);
    for _ in 0..3 {
        let instances = live(&world);
        let victim = &instances[0];
        kill_9(u32::try_from(victim["pid"].as_u64().expect("a pid")).unwrap());
        until("it is replaced", 30, || match live(&world) {
            now if now.len() == 2 && now.iter().all(|instance| instance["id"] != victim["id"]) => Ok(()),
            now => Err(format!("{now:?}")),
        });
        load.flow(50);
    }
    load.finish().nothing_failed();
    let crashed = world
        .events(SERVICE)
        .into_iter()
        .any(|event| event["event"] == "failed" && event["failure"]["cause"] == "crash");
    assert!(crashed, "a crash is told in the log");
    world.down();
}

fn live(world: &World) -> Vec<Value> {
    let status = world.status(SERVICE);
    let instances = status["stable"]["instances"].as_array().cloned().unwrap_or_default();
    instances.into_iter().filter(|instance| instance["state"] == "live").collect()
}
