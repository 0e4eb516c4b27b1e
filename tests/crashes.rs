//! Dying control planes and gateways: what runs goes on running, and every rollout still reaches its right end.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::process::{alive, census, command_line, kill_9};
use support::{Load, Mix, World, until};

const SERVICE: &str = "breast-cancer";

const STEPS: &[&str] = &[
    "--strategy",
    "canary",
    "--steps",
    "20,50,100",
    "--bake",
    "1s",
    "--set",
    "analysis.min-requests=5",
    "--set",
    "analysis.window=2s",
    "--set",
    "routing.drain=5s",
];

/// Processes of a home that serve instances.
fn instances(world: &World) -> BTreeSet<u32> {
    let serves =
        |pid: &u32| command_line(*pid).contains("serve --package-dir") || command_line(*pid).contains(" instance ");
    census(world.home()).into_iter().filter(serves).collect()
}

#[test]
fn a_control_plane_killed_at_every_step_still_comes_to_the_right_end() {
    let mut world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let rollout = world.begin("breast-cancer/v2", STEPS);
    let mut seen = BTreeSet::new();
    // Each phase that is new costs the control plane its life once.
    until("the rollout ends", 180, || {
        let stands = world.api(&format!("/api/rollouts/{rollout}"))?;
        if stands["outcome"] != "running" {
            return Ok(());
        }
        if seen.insert(stands["phase"].as_str().unwrap_or_default().to_owned()) {
            let gateway = world.gateway_pid();
            world.kill_control();
            load.flow(20);
            world.start();
            assert_eq!(world.gateway_pid(), gateway, "the gateway is adopted, not started again");
        }
        Err(stands.to_string())
    });
    assert_eq!(world.outcome(&rollout, 60), "promoted");
    assert!(seen.len() >= 3, "it was killed in too few phases: {seen:?}");
    load.flow(50);
    load.finish().nothing_failed();
    started_once(&world);
    sequence_without_gaps(&world);
    world.down();
}

/// Nothing is started twice: every instance was asked for once.
fn started_once(world: &World) {
    let mut asked = BTreeSet::new();
    for event in world.events(SERVICE).iter().filter(|event| event["event"] == "instance-starting") {
        assert!(asked.insert(event["instance"].to_string()), "asked for twice: {event}");
    }
}

/// The log has no gaps: nothing that happened is lost.
fn sequence_without_gaps(world: &World) {
    let all = world.api("/api/events?after=0&wait_ms=0").unwrap();
    for (index, event) in all.as_array().unwrap().iter().enumerate() {
        assert_eq!(event["seq"], index + 1, "a gap in the log at {event}");
    }
}

#[test]
fn what_runs_is_adopted_and_nothing_is_started_twice() {
    let mut world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let before = instances(&world);
    for _ in 0..3 {
        world.kill_control();
        world.start();
        until("the instances are adopted", 30, || match world.status(SERVICE) {
            status if count_live(&status) == 2 => Ok(()),
            status => Err(status.to_string()),
        });
    }
    assert_eq!(instances(&world), before, "the same processes as before");
    started_once(&world);
    world.down();
}

fn count_live(status: &Value) -> usize {
    let instances = status["stable"]["instances"].as_array();
    instances.map_or(0, |all| all.iter().filter(|instance| instance["state"] == "live").count())
}

#[test]
fn the_gateway_serves_while_the_control_plane_is_dead() {
    let mut world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    world.kill_control();
    load.flow(300);
    world.start();
    load.flow(50);
    load.finish().nothing_failed();
    world.down();
}

#[test]
fn a_rollback_goes_on_after_the_control_plane_was_killed() {
    let mut world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::rest());
    let rollout = world.begin("breast-cancer/v3-crash", STEPS);
    until("the candidate crashed", 60, || {
        let events = world.events(SERVICE);
        events.iter().any(|event| event["event"] == "failed").then_some(()).ok_or("no failure yet")
    });
    world.kill_control();
    load.flow(20);
    world.start();
    assert_eq!(world.outcome(&rollout, 90), "rolled-back");
    load.flow(50);
    load.finish().nothing_failed();
    world.down();
}

#[test]
fn a_killed_gateway_is_started_again_on_the_same_address() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &[]).ended(0);
    let before = world.gateway_pid();
    kill_9(before);
    until("another gateway answers", 30, || {
        let now = world.gateway_pid();
        if now == before || !alive(now) {
            return Err(format!("still process {now}"));
        }
        let url = format!("http://{}/v2/models/{SERVICE}/ready", world.gateway);
        ureq::get(&url).call().map(drop).map_err(|error| error.to_string())
    });
    world.down();
}

#[test]
fn gateways_are_replaced_under_load_without_a_failed_request() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    for _ in 0..3 {
        let before = world.gateway_pid();
        load.flow(50);
        world.run(&["upgrade-gateway"]).ended(0);
        assert_ne!(world.gateway_pid(), before, "another process serves");
        until("the old gateway ends", 60, || if alive(before) { Err("it still runs") } else { Ok(()) });
    }
    load.flow(50);
    load.finish().nothing_failed();
    world.down();
}

#[test]
fn down_leaves_nothing_even_in_the_middle_of_a_rollout() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    world.deploy("wine/v1", &[]).ended(0);
    world.begin("breast-cancer/v2", &["--bake", "1h"]);
    assert!(census(world.home()).len() >= 5, "control plane, gateway and instances are processes of their own");
    world.down();
}
