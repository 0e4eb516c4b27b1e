//! Every strategy under load, there and back: nothing fails.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use support::{Load, Mix, World};

const SERVICE: &str = "breast-cancer";

/// Rules with short steps, so that a test takes seconds and every phase is still gone through.
const QUICK: &[&str] =
    &["--set", "analysis.min-requests=10", "--set", "analysis.window=2s", "--set", "routing.drain=5s"];

/// A strategy with its own rules.
fn rules(strategy: &str) -> Vec<&str> {
    let own: &[&str] = match strategy {
        "rolling" => &["--strategy", "rolling", "--set", "strategy.pause=200ms"],
        "blue-green" => {
            &["--strategy", "blue-green", "--set", "strategy.bake=500ms", "--set", "strategy.rollback-window=0s"]
        }
        "canary" => &["--strategy", "canary", "--steps", "20,50,100", "--bake", "500ms"],
        "recreate" => &["--strategy", "recreate"],
        other => panic!("no rules for {other}"),
    };
    [own, QUICK].concat()
}

/// Promotes v2 and goes back to v1, under load, with `instances` instances.
fn there_and_back(strategy: &str, instances: &str) {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", instances]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let promoted = world.deploy("breast-cancer/v2", &rules(strategy)).ended(0).json();
    assert_eq!((&promoted["outcome"], &promoted["strategy"]), (&"promoted".into(), &strategy.into()), "{promoted}");
    load.flow(50);
    assert_eq!(world.status(SERVICE)["weights"]["2"], 10_000);
    let back = world.json(&["rollback", SERVICE]);
    assert_ne!(back["outcome"], "running", "{back}");
    load.flow(50);
    let status = world.status(SERVICE);
    assert_eq!(status["stable"]["version"], "1.0.0", "{status}");
    let tally = load.finish();
    tally.nothing_failed();
    assert!(tally.answered.contains_key(&2), "version 2 never answered: {tally:?}");
    world.down();
}

#[test]
fn recreate_parks_requests_and_loses_none() {
    there_and_back("recreate", "1");
}

#[test]
fn rolling_replaces_instances_without_a_failed_request() {
    there_and_back("rolling", "3");
}

#[test]
fn blue_green_switches_and_goes_back_without_a_failed_request() {
    there_and_back("blue-green", "2");
}

#[test]
fn canary_grows_and_goes_back_without_a_failed_request() {
    there_and_back("canary", "2");
}

#[test]
fn a_kept_pool_takes_over_again_without_starting_anything() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &[]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    let kept = ["--strategy", "blue-green", "--set", "strategy.rollback-window=10m", "--set", "strategy.bake=300ms"];
    world.deploy("breast-cancer/v2", &[&kept, QUICK].concat()).ended(0);
    load.flow(50);
    let starts =
        |world: &World| world.events(SERVICE).iter().filter(|event| event["event"] == "instance-starting").count();
    let before = starts(&world);
    world.run(&["rollback", SERVICE]).ended(0);
    let status = world.status(SERVICE);
    assert_eq!(status["weights"]["1"], 10_000, "{status}");
    assert_eq!(starts(&world), before, "going back to a kept pool starts nothing");
    load.flow(50);
    load.finish().nothing_failed();
    world.down();
}

#[test]
fn many_in_a_row_lose_nothing() {
    let rounds: usize = std::env::var("MODELYARD_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    let strategies = ["canary", "rolling", "blue-green"];
    for round in 0..rounds {
        let strategy = strategies[round % strategies.len()];
        let version = if round % 2 == 0 { "breast-cancer/v2" } else { "breast-cancer/v1" };
        let ended = world.deploy(version, &rules(strategy)).ended(0).json();
        assert_eq!(ended["outcome"], "promoted", "round {round}, {strategy}: {ended}");
        let tally = load.tally();
        assert_eq!(tally.failed, 0, "round {round}, {strategy}: {:?}", tally.failures);
        if round % 5 == 4 {
            world.run(&["rollback", SERVICE]).ended(0);
        }
    }
    load.finish().nothing_failed();
    let events = world.events(SERVICE);
    let finished = events.iter().filter(|event| event["event"] == "rollout-finished").count();
    let started = events.iter().filter(|event| event["event"] == "rollout-started").count();
    assert!(finished >= rounds && finished == started, "{started} started, {finished} finished");
    world.down();
}
