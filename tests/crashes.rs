//! Dying control planes and gateways: what runs goes on running, and every rollout still reaches its right end.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::collections::BTreeSet;
use std::process::Stdio;

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

/// Kills the control plane once in each phase that is seen, and starts it again, until no rollout is open; the phases.
fn killed_in_each_phase(world: &mut World, load: &Load) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    until("the rollout is over", 180, || {
        let status = world.api(&format!("/api/services/{SERVICE}"))?;
        let Some(phase) = status["rollout"]["phase"].as_str() else { return Ok(()) };
        if seen.insert(phase.to_owned()) {
            let gateway = world.gateway_pid();
            world.kill_control();
            // A service that is being recreated may have nobody who answers until the control plane is back.
            if status["rollout"]["strategy"] != "recreate" {
                load.flow(5);
            }
            world.start();
            assert_eq!(world.gateway_pid(), gateway, "the gateway is adopted, not started again");
        }
        Err(status["rollout"].to_string())
    });
    seen
}

/// Nothing failed, nothing was started twice, what runs is what should, and `down` leaves nothing.
fn all_is_well(world: &World, load: Load, version: &str) {
    load.flow(50);
    load.finish().nothing_failed();
    started_once(world);
    sequence_without_gaps(world);
    let status = world.status(SERVICE);
    assert_eq!(status["stable"]["version"], version, "{status}");
    let wanted = status["desired"]["instances"].as_object().unwrap();
    assert_eq!(wanted.len(), 1, "only stable is left: {status}");
    until("every process is that of a live instance", 60, || {
        let status = world.status(SERVICE);
        let listed = status["stable"]["instances"].as_array().unwrap();
        let pids: BTreeSet<u64> = listed.iter().filter_map(|instance| instance["pid"].as_u64()).collect();
        let runs: BTreeSet<u64> = serving(world).into_iter().map(u64::from).collect();
        let whole = count_live(&status) == 2 && pids.len() == 2;
        if whole && runs == pids { Ok(()) } else { Err(format!("{runs:?} run: {status}")) }
    });
    world.down();
}

/// Processes of a home that answer requests: models, not those that stand over them.
fn serving(world: &World) -> BTreeSet<u32> {
    let serves =
        |pid: &u32| command_line(*pid).contains("serve --package-dir") || command_line(*pid).contains("serve.py");
    census(world.home()).into_iter().filter(serves).collect()
}

/// Rolls a version out under load while the control plane dies in each phase; the rollout ends as `outcome` says.
fn killed_at_every_step(version: &str, arguments: &[&str], mix: Mix, outcome: &str, phases: usize) {
    let mut world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, mix);
    load.flow(50);
    let quick = ["--set", "analysis.min-requests=5", "--set", "analysis.window=2s", "--set", "routing.drain=5s"];
    let rollout = world.begin(&format!("breast-cancer/{version}"), &[arguments, &quick].concat());
    let seen = killed_in_each_phase(&mut world, &load);
    assert_eq!(world.outcome(&rollout, 60), outcome, "{seen:?}");
    assert!(seen.len() >= phases, "it was killed in too few phases: {seen:?}");
    all_is_well(&world, load, if outcome == "promoted" { "2.0.0" } else { "1.0.0" });
}

#[test]
fn a_control_plane_killed_at_every_step_still_comes_to_the_right_end() {
    let canary = ["--strategy", "canary", "--steps", "20,50,100", "--bake", "1s"];
    killed_at_every_step("v2", &canary, Mix::default(), "promoted", 4);
}

#[test]
fn a_control_plane_killed_at_every_step_of_a_rolling_update() {
    let rolling = ["--strategy", "rolling", "--set", "strategy.pause=1s"];
    killed_at_every_step("v2", &rolling, Mix::default(), "promoted", 3);
}

#[test]
fn a_control_plane_killed_at_every_step_of_a_blue_green_switch_and_its_window() {
    let blue_green = [
        "--strategy",
        "blue-green",
        "--set",
        "strategy.preview=1s",
        "--set",
        "strategy.bake=1s",
        "--set",
        "strategy.rollback-window=2s",
    ];
    killed_at_every_step("v2", &blue_green, Mix::default(), "promoted", 3);
}

#[test]
fn a_control_plane_killed_at_every_step_of_a_recreate() {
    killed_at_every_step("v2", &["--strategy", "recreate"], Mix::default(), "promoted", 2);
}

#[test]
fn a_control_plane_killed_at_every_step_still_takes_a_crashing_version_back() {
    let canary = ["--strategy", "canary", "--steps", "20,50,100", "--bake", "30s"];
    killed_at_every_step("v3-crash", &canary, Mix::rest(), "rolled-back", 2);
}

#[test]
fn a_control_plane_killed_at_every_step_of_a_rollback() {
    let mut world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let at_once = ["--strategy", "blue-green", "--set", "strategy.rollback-window=0s"];
    world.deploy("breast-cancer/v2", &at_once).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    until("nothing is open any more", 60, || match world.status(SERVICE) {
        status if status["rollout"].is_null() => Ok(()),
        status => Err(status["rollout"].to_string()),
    });
    let mut rollback = world.command(&["rollback", SERVICE]);
    let mut rollback = rollback.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the rollback began", 60, || match world.status(SERVICE) {
        status if status["rollout"].is_object() || status["stable"]["version"] == "1.0.0" => Ok(()),
        status => Err(status.to_string()),
    });
    let seen = killed_in_each_phase(&mut world, &load);
    assert!(!seen.is_empty(), "the rollback was over before it could be seen");
    assert_eq!(rollback.wait().unwrap().code(), Some(0), "whoever waits goes on waiting: {seen:?}");
    all_is_well(&world, load, "1.0.0");
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
