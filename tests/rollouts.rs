//! Every strategy under load, there and back: nothing fails.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use modelyard_core::measure::Histogram;
use serde_json::Value;
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
fn blue_green_moves_bit_by_bit_from_a_preview_that_no_caller_sees() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &[]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let gradual = [
        "--strategy",
        "blue-green",
        "--set",
        "strategy.manual=true",
        "--set",
        "strategy.steps=[\"50%\", \"100%\"]",
        "--set",
        "strategy.bake=1s",
        "--set",
        "strategy.rollback-window=0s",
    ];
    let folder = support::examples().join("breast-cancer/v2");
    let all = [&["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m"], &gradual[..], QUICK].concat();
    let said = world.run(&all).ended(4).out;
    let preview = format!("http://{}/{SERVICE}/r2", world.gateway);
    assert!(said.contains(&preview), "whoever waits is told where to look:\n{said}");
    assert!(world.run(&["status", SERVICE]).ended(0).out.contains(&preview));
    let status = world.status(SERVICE);
    let share = |status: &Value| status["weights"]["2"].as_u64().unwrap_or(0);
    assert_eq!((&status["rollout"]["preview"], share(&status)), (&preview.as_str().into(), 0), "{status}");

    let traffic = std::fs::read(support::examples().join("breast-cancer/traffic.json")).unwrap();
    let row = &serde_json::from_slice::<Value>(&traffic).unwrap()[0];
    let url = format!("{preview}/v2/models/{SERVICE}/infer");
    let mut answer = ureq::post(&url).send_json(&row["request"]).unwrap();
    assert_eq!(answer.headers()["modelyard-revision"], "2");
    let answer: Value = answer.body_mut().read_json().unwrap();
    assert_eq!(answer["outputs"][0]["data"][0], row["label"], "{answer}");
    load.flow(50);
    assert!(!load.tally().answered.contains_key(&2), "no caller sees green before the switch: {:?}", load.tally());

    world.run(&["approve", SERVICE]).ended(0);
    let rollout = status["rollout"]["id"].as_str().unwrap();
    assert_eq!(world.outcome(rollout, 90), "promoted");
    load.flow(50);
    load.finish().nothing_failed();
    let applied = world.events(SERVICE).into_iter().filter(|event| event["event"] == "route-applied");
    let mut shares: Vec<u64> = applied.map(|event| share(&event)).collect();
    shares.dedup();
    assert_eq!(shares, [0, 5_000, 10_000], "bit by bit");
    world.down();
}

/// How many promotions and rollbacks in a row; `cargo xtask test --all` asks for many more.
fn rounds() -> usize {
    std::env::var("MODELYARD_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// The shortest steps that still are steps: what is tested is the moving of traffic, over and over, not the watching in between.
fn brief(strategy: &str) -> Vec<&str> {
    let own: &[&str] = match strategy {
        "rolling" => &["--strategy", "rolling", "--set", "strategy.pause=20ms"],
        "canary" => &["--strategy", "canary", "--steps", "20,100", "--bake", "50ms"],
        "recreate" => &["--strategy", "recreate"],
        // The old pool is kept: going back is a switch.
        "blue-green" => &["--strategy", "blue-green", "--set", "strategy.rollback-window=10m"],
        // The old pool is gone: going back is a rollout of its own.
        _ => &["--strategy", "blue-green", "--set", "strategy.rollback-window=0s"],
    };
    let quick = ["--set", "analysis.min-requests=5", "--set", "analysis.window=1s", "--set", "routing.drain=5s"];
    [own, &quick].concat()
}

#[test]
fn many_in_a_row_lose_nothing() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &[]).ended(0);
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default()).on_busy_cores();
    load.flow(1_000);
    let quiet = load.lap();
    let mut swaps = Histogram::default();
    let strategies = ["rolling", "blue-green", "canary", "recreate", "blue-green without a window"];
    for round in 0..rounds() {
        let strategy = strategies[round / 2 % strategies.len()];
        if round % 2 == 0 {
            let ended = world.deploy("breast-cancer/v2", &brief(strategy)).ended(0).json();
            assert_eq!(ended["outcome"], "promoted", "round {round}, {strategy}: {ended}");
        } else {
            world.run(&["rollback", SERVICE]).ended(0);
            assert_eq!(world.status(SERVICE)["stable"]["version"], "1.0.0", "round {round}, {strategy}");
        }
        load.flow(20);
        let tally = load.tally();
        assert_eq!(tally.failed, 0, "round {round}, {strategy}: {:?}", tally.failures);
        let lap = load.lap();
        if strategy != "recreate" {
            swaps.add(&lap); // of `recreate` it is known that requests wait
        }
    }
    let tally = load.finish();
    tally.nothing_failed();
    let revisions = u32::try_from(rounds().div_ceil(2)).unwrap();
    assert!((1..=1 + revisions).all(|revision| tally.answered.contains_key(&revision)), "{:?}", tally.answered);
    let history = world.json(&["history", SERVICE]);
    let open = history["rollouts"].as_array().unwrap().iter().find(|rollout| rollout["outcome"].is_null());
    assert!(open.is_none(), "every rollout ended: {open:?}");
    no_spikes(&quiet, &swaps);
    world.down();
}

/// While models are swapped, the slowest hundredth of the requests is slower: instances start on the same cores. Ten times and a quarter
/// of a second leave room for a small machine that does other things besides; a request that waits for a swap to end takes longer.
fn no_spikes(quiet: &Histogram, swaps: &Histogram) {
    let p99 = |histogram: &Histogram| histogram.quantile(0.99).unwrap_or_default() / 1e3;
    let (before, during) = (p99(quiet), p99(swaps));
    eprintln!("p99 {before:.1} ms before, {during:.1} ms during swaps, of {} requests", swaps.count());
    assert!(during <= 10.0 * before + 250.0, "p99 {before:.1} ms before, {during:.1} ms during swaps");
}

/// Whoever deploys is told who bars it, since when and why; what brings a service back is not barred.
#[test]
fn who_bars_deploys_is_named_to_whoever_deploys_and_going_back_still_works() {
    let world = World::up();
    let deploy = |version: &str| world.deploy(&format!("breast-cancer/{version}"), &["--strategy", "recreate"]);
    deploy("v1").ended(0);
    deploy("v2").ended(0);
    world.run(&["freeze", SERVICE]).ended(2);
    world.run(&["freeze", SERVICE, "--reason", "two\nlines"]).ended(1);
    assert_eq!(world.json(&["freeze", SERVICE, "--reason", "audit"])["changed"], true);
    assert_eq!(world.json(&["freeze", SERVICE, "--reason", "audit"])["changed"], false);
    let told = deploy("v1").ended(1).err;
    let since = world.json(&["status", SERVICE])["frozen"]["since"].as_u64().unwrap();
    let day =
        jiff::Timestamp::from_millisecond(i64::try_from(since).unwrap()).unwrap().strftime("%Y-%m-%d").to_string();
    for part in ["tester", "audit", &day] {
        assert!(told.contains(part), "`{part}` is missing: {told}");
    }
    // Nobody lifts it by another reason, nor by removing the service.
    world.run(&["freeze", SERVICE, "--reason", "other"]).ended(1);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let removed = agent.delete(format!("http://{}/api/services/{SERVICE}", world.control)).call().unwrap();
    assert_eq!(removed.status().as_u16(), 409);
    world.run(&["rollback", SERVICE]).ended(0);
    assert_eq!(world.json(&["status", SERVICE])["stable"]["version"], "1.0.0");
    assert_eq!(world.json(&["freeze", SERVICE, "--undo"])["changed"], true);
    deploy("v2").ended(0);
    let url = format!("http://{}/api/events?service={SERVICE}", world.control);
    let events = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(events.contains(r#""event":"frozen""#) && events.contains(r#""event":"unfrozen""#), "{events}");
    world.down();
}
