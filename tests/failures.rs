//! Versions that fail on purpose are taken back by themselves, with the right cause, and no caller sees it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use serde_json::Value;
use support::process::kill_9;
use support::{Load, Mix, World, until};

const SERVICE: &str = "breast-cancer";

const CANARY: &[&str] = &["--strategy", "canary", "--steps", "20,50,100", "--bake", "2s"];

const QUICK: &[&str] = &[
    "--set",
    "analysis.min-requests=30",
    "--set",
    "analysis.window=5s",
    "--set",
    "routing.drain=5s",
    "--set",
    "analysis.startup-timeout=30s",
];

/// Deploys a version that fails, under load, by a strategy with its rules; what `deploy --wait` said.
fn taken_back(version: &str, causes: &[&str], strategy: &[&str]) -> (World, Value) {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(50);
    let end = world.deploy(&format!("breast-cancer/{version}"), &[strategy, QUICK].concat()).ended(3).json();
    assert_eq!(end["outcome"], "rolled-back", "{end}");
    assert!(causes.contains(&end["cause"].as_str().unwrap_or_default()), "{end}");
    assert_eq!(end["class"], "infrastructure", "{end}");
    assert!(!end["evidence"].is_null(), "a cause comes with its evidence: {end}");
    told_in_the_log(&world, &end);
    load.flow(50);
    load.finish().nothing_failed();
    let status = world.status(SERVICE);
    assert_eq!((&status["weights"]["1"], &status["stable"]["version"]), (&10_000.into(), &"1.0.0".into()), "{status}");
    let report = world.run(&["report", end["rollout"].as_str().unwrap()]).ended(0).out;
    let told = format!("{} (infrastructure)", end["cause"].as_str().unwrap());
    assert!(report.contains(&told), "the report tells the cause and its class:\n{report}");
    (world, end)
}

/// The log has the end with its cause, its class and its evidence.
fn told_in_the_log(world: &World, end: &Value) {
    let finished = world.events(SERVICE).into_iter().rev().find(|event| event["event"] == "rollout-finished").unwrap();
    let failure = &finished["failure"];
    assert_eq!((&failure["cause"], &failure["class"]), (&end["cause"], &end["class"]), "{finished}");
    assert!(failure["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{finished}");
}

/// Shares that the candidate (revision 2) was ever given.
fn shares(world: &World) -> Vec<u64> {
    let applied = world.events(SERVICE).into_iter().filter(|event| event["event"] == "route-applied");
    applied.filter_map(|event| event["weights"]["2"].as_u64()).filter(|&share| share > 0).collect()
}

#[test]
fn wrong_answers_never_reach_a_caller() {
    let (world, _) = taken_back("v3-wrong", &["wrong-answers"], CANARY);
    assert_eq!(shares(&world), Vec::<u64>::new(), "it never had a share");
    world.down();
}

#[test]
fn a_slow_version_misses_its_objective() {
    taken_back("v3-slow", &["latency"], &[CANARY, &["--set", "analysis.max-latency-ms=15"]].concat()).0.down();
}

#[test]
fn a_crashing_version_is_taken_back_and_its_requests_are_answered() {
    taken_back("v3-crash", &["crash", "crash-loop"], CANARY).0.down();
}

#[test]
fn a_leaking_version_runs_into_its_own_limit() {
    taken_back("v3-leak", &["out-of-memory"], CANARY).0.down();
}

#[test]
fn a_version_with_errors_is_taken_back_and_its_requests_are_answered() {
    taken_back("v3-errors", &["error-rate"], CANARY).0.down();
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

/// A copy of v3-crash in which something else is wrong.
fn broken(world: &World, change: impl Fn(&std::path::Path)) -> std::path::PathBuf {
    let folder = world.scratch("broken");
    for entry in std::fs::read_dir(support::examples().join("breast-cancer/v3-crash")).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    change(&folder);
    folder
}

/// Deploys a folder that never lives, under load; it is taken back for `cause` before anybody was sent to it.
fn never_lives(cause: &str, strategy: &[&str], change: impl Fn(&std::path::Path)) {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let folder = broken(&world, change);
    let arguments = ["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m", "--output", "json"];
    let end = world.run(&[&arguments, strategy].concat()).ended(3).json();
    assert_eq!((&end["outcome"], &end["cause"]), (&"rolled-back".into(), &cause.into()), "{end}");
    assert_eq!(end["class"], "infrastructure", "{end}");
    told_in_the_log(&world, &end);
    load.flow(50);
    load.finish().nothing_failed();
    assert_eq!(shares(&world), Vec::<u64>::new(), "it never had a share");
    assert_eq!(world.status(SERVICE)["weights"]["1"], 10_000);
    world.down();
}

#[test]
fn a_version_that_crashes_as_it_starts_loops_and_is_taken_back() {
    never_lives("crash-loop", CANARY, |folder| {
        std::fs::write(folder.join("serve.py"), "raise SystemExit(3)\n").unwrap()
    });
}

#[test]
fn a_version_that_cannot_be_started_is_taken_back_by_recreate_too() {
    never_lives("start-failed", &["--strategy", "recreate", "--set", "routing.drain=5s"], |folder| {
        let file = folder.join("modelyard.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let command = "command = [\"python3\", \"serve.py\"]";
        assert!(text.contains(command));
        std::fs::write(&file, text.replace(command, "command = [\"no-such-program-anywhere\"]")).unwrap();
    });
}

/// Begins v2 under load and waits until it is in the phase; the world, its load and the rollout.
fn under_way(arguments: &[&str], phase: &str) -> (World, Load, String) {
    let world = World::up();
    world.deploy("breast-cancer/v1", &["--instances", "2"]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let rollout = world.begin("breast-cancer/v2", arguments);
    world.rollout_until(&rollout, 90, |_| {
        world.status(SERVICE)["rollout"]["phase"].as_str().is_some_and(|now| now.starts_with(phase))
    });
    (world, load, rollout)
}

/// The rollout goes back for `cause`, and nobody notices.
fn goes_back(world: &World, load: Load, rollout: &str, cause: &str) {
    let gone = |stands: &Value| stands["outcome"] == "rolled-back" && stands["cause"] == cause;
    let stands = world.rollout_until(rollout, 90, |stands| stands["outcome"] == "rolled-back");
    assert!(gone(&stands), "{cause} was expected: {stands}");
    assert_eq!(stands["class"], "infrastructure", "{stands}");
    told_in_the_log(world, &stands);
    load.flow(50);
    load.finish().nothing_failed();
    until("stable carries everything", 60, || match world.status(SERVICE) {
        status if status["weights"]["1"] == 10_000 && live(world).len() == 2 => Ok(()),
        status => Err(status.to_string()),
    });
    world.down();
}

/// Process of a live instance of the candidate.
fn candidate(world: &World) -> u32 {
    let status = world.status(SERVICE);
    let pools = [&status["candidate"], &status["stable"]];
    let pool =
        pools.into_iter().find(|pool| pool["revision"] == 2).unwrap_or_else(|| panic!("no candidate in {status}"));
    let instances = pool["instances"].as_array().unwrap();
    let live = instances.iter().find(|instance| instance["state"] == "live").expect("a live instance");
    u32::try_from(live["pid"].as_u64().expect("a pid")).unwrap()
}

#[test]
fn a_version_that_hangs_is_taken_back_and_its_requests_are_answered() {
    let long = ["--strategy", "canary", "--steps", "20,100", "--bake", "10m", "--set", "routing.drain=3s"];
    let (world, load, rollout) = under_way(&long, "baking");
    let pid = rustix::process::Pid::from_raw(candidate(&world).cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    goes_back(&world, load, &rollout, "unresponsive");
}

#[test]
fn a_rolling_update_to_a_version_with_errors_is_taken_back() {
    let rolling = ["--strategy", "rolling", "--set", "strategy.pause=20s"];
    taken_back("v3-errors", &["error-rate"], &rolling).0.down();
}

#[test]
fn a_blue_green_switch_to_a_version_with_errors_is_taken_back() {
    let gradual =
        ["--strategy", "blue-green", "--set", "strategy.steps=[\"50%\", \"100%\"]", "--set", "strategy.bake=20s"];
    taken_back("v3-errors", &["error-rate"], &gradual).0.down();
}

#[test]
fn a_crash_within_the_rollback_window_goes_back_to_the_pool_that_was_kept() {
    let blue_green = ["--strategy", "blue-green", "--set", "strategy.rollback-window=10m", "--set", "routing.drain=5s"];
    let (world, load, rollout) = under_way(&blue_green, "promoted");
    load.flow(50);
    let starts = |world: &World| {
        let events = world.events(SERVICE).into_iter();
        events.filter(|event| event["event"] == "instance-starting" && event["revision"] == 1).count()
    };
    let before = starts(&world);
    kill_9(candidate(&world));
    world.rollout_until(&rollout, 90, |stands| stands["outcome"] == "rolled-back");
    assert_eq!(starts(&world), before, "blue was kept: nothing of it is started");
    goes_back(&world, load, &rollout, "crash");
}

fn live(world: &World) -> Vec<Value> {
    let status = world.status(SERVICE);
    let instances = status["stable"]["instances"].as_array().cloned().unwrap_or_default();
    instances.into_iter().filter(|instance| instance["state"] == "live").collect()
}
