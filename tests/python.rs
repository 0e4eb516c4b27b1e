//! Python functions from folder to traffic: deployed, replaced under load, taken back when they fail. The interpreter is the machine's own.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::path::Path;

use support::World;
use support::function::function;
use support::load::{Load, Mix};

fn deploy(world: &World, folder: &Path, further: &[&str]) -> support::Ran {
    let arguments = ["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m", "--output", "json"];
    world.run(&[&arguments, further].concat())
}

#[test]
fn a_function_is_replaced_under_traffic_and_nothing_fails() {
    let world = World::up();
    let first = function(&world, "1.0.0", str::to_owned);
    deploy(&world, &first, &[]).ended(0);
    let load = Load::start(world.gateway, "breast-cancer", "breast-cancer", Mix::default());
    load.flow(50);
    let second = function(&world, "2.0.0", |source| source.replace("0.5", "0.500001"));
    let promoted = deploy(&world, &second, &["--strategy", "rolling"]).ended(0).json();
    assert_eq!(promoted["outcome"], "promoted", "{promoted}");
    load.flow(50);
    let tally = load.finish();
    tally.nothing_failed();
    assert!(tally.answered.contains_key(&1) && tally.answered.contains_key(&2), "{tally:?}");
    // A third one answers its samples wrongly: it gets no traffic at all.
    let third = function(&world, "3.0.0", |source| source.replace("> 0.5", "< 0.5"));
    let back = deploy(&world, &third, &["--strategy", "rolling"]).ended(3).json();
    assert_eq!(back["outcome"], "rolled-back", "{back}");
    assert_eq!(world.status("breast-cancer")["stable"]["version"], "2.0.0");
    world.down();
}
