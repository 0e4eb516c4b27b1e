//! Whole rollouts in thousands of faulty worlds, the invariants checked after every event.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use modelyard_core::event::Outcome;
use modelyard_core::failure::Cause;
use modelyard_core::{Millis, RevisionNumber};
use modelyard_rehearse::{Faults, INVARIANTS, STABLE, Stepper, Temper, Violation, World, rollouts};
use modelyard_rollout::{Observation, Rollout};

const SEEDS: u64 = 5_000;
const CANDIDATE: RevisionNumber = RevisionNumber(2);
/// The world calms down after half a minute; what is left to do takes well under five.
const LIMIT: Millis = Millis::seconds(330);

/// Half of the candidates are bad in some way.
fn temper(random: &mut fastrand::Rng) -> Temper {
    let good = Temper::good();
    match random.u8(..10) {
        0 => Temper { error_rate: 0.5, ..good },
        1 => Temper { crashes_after: Some((Millis(random.u64(..3_000)), Cause::Crash)), ..good },
        2 => Temper { crashes_after: Some((Millis(random.u64(..3_000)), Cause::OutOfMemory)), ..good },
        3 => Temper { never_starts: true, ..good },
        4 => Temper { latency_ms: 80, ..good },
        5 => Temper { accuracy: 0.6, agreement: 0.5, ..good },
        6 | 7 => Temper { accuracy: 0.97, ..good },
        _ => good,
    }
}

fn play(strategy: &str, seed: u64, stable: bool, faults: Faults, stepper: Stepper) -> Result<World, Violation> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let plan = rollouts::drawn(strategy, &mut random).unwrap();
    let temper = temper(&mut random);
    let mut world = World::seeded(seed).with(faults).playing(stepper).where_revision(CANDIDATE, temper);
    // Shadows of the plan, and alternatives that somebody tries: as good and as bad as candidates are.
    for beside in [3, 4, 8, 9] {
        world = world.where_revision(RevisionNumber(beside), self::temper(&mut random));
    }
    world.submit(plan, stable);
    world.run_until_settled(LIMIT, |world| world.check_all(INVARIANTS))?;
    if !world.is_settled() {
        return Err(Violation { name: "R4", what: format!("it never settles: {}", world.why_waiting()) });
    }
    Ok(world)
}

fn holds_in_every_world(strategy: &str, stable: bool) {
    let mut outcomes = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 0..SEEDS {
        match play(strategy, seed, stable, Faults::all(), modelyard_rollout::step) {
            Ok(world) => {
                *outcomes
                    .entry(world.rollout().and_then(Rollout::outcome).map_or("none", Outcome::name))
                    .or_default() += 1;
            }
            Err(violation) => panic!("{strategy}, seed {seed}: {violation}"),
        }
    }
    // The worlds differ: each outcome must have come up often, or the dice are loaded.
    let all: &[&str] = if strategy == "shadow" { &["compared"] } else { &[] };
    for outcome in ["promoted", "rolled-back", "aborted"].iter().chain(all) {
        let times = outcomes.get(*outcome).copied().unwrap_or(0);
        assert!(times > 100, "{strategy}: {outcome} only {times} times, {outcomes:?}");
    }
}

#[test]
fn recreate_holds_in_5000_worlds() {
    holds_in_every_world("recreate", true);
}

#[test]
fn rolling_holds_in_5000_worlds() {
    holds_in_every_world("rolling", true);
}

#[test]
fn blue_green_holds_in_5000_worlds() {
    holds_in_every_world("blue-green", true);
}

#[test]
fn canary_holds_in_5000_worlds() {
    holds_in_every_world("canary", true);
}

#[test]
fn ab_holds_in_5000_worlds() {
    holds_in_every_world("ab", true);
}

#[test]
fn shadow_holds_in_5000_worlds() {
    holds_in_every_world("shadow", true);
}

#[test]
fn first_deployment_holds_in_5000_worlds() {
    holds_in_every_world("canary", false);
}

/// Faults that no request should ever notice: everything but dying and hanging instances.
fn bloodless() -> Faults {
    Faults { kill: 0.0, hang: 0.0, order: 0.0, ..Faults::all() }
}

#[test]
fn good_candidates_are_promoted_and_no_request_waits() {
    for strategy in ["rolling", "blue-green", "canary"] {
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut world = World::seeded(seed).with(bloodless());
            let mut plan = rollouts::drawn(strategy, &mut random).unwrap();
            plan.analysis.startup_timeout = Millis::seconds(60); // starts get lost in this world
            world.submit(plan, true);
            world.run_until_settled(LIMIT, |world| world.check_all(INVARIANTS)).unwrap();
            let outcome = world.rollout().unwrap().outcome();
            assert_eq!(outcome, Some(Outcome::Promoted), "{strategy}, seed {seed}: {}", world.why_waiting());
            assert_eq!(world.requests().1, 0, "{strategy}, seed {seed}: requests found nobody who answers");
        }
    }
}

#[test]
fn a_bad_canary_is_never_promoted() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = rollouts::drawn("canary", &mut random).unwrap();
        let bad = Temper { error_rate: 0.5, ..Temper::good() };
        let mut world = World::seeded(seed).with(bloodless()).where_revision(CANDIDATE, bad);
        world.submit(plan, true);
        world.run_until_settled(LIMIT, |world| world.check_all(INVARIANTS)).unwrap();
        assert_ne!(world.rollout().unwrap().outcome(), Some(Outcome::Promoted), "seed {seed}");
    }
}

/// Retires stable as soon as everything was *asked* of the candidate, without looking whether the gateway does it.
fn retires_blindly(state: Rollout, seen: &Observation) -> (Rollout, Vec<modelyard_rollout::Action>) {
    let (after, actions) = modelyard_rollout::step(state, seen);
    let desired = after.desired();
    let all = desired.weights.get(&CANDIDATE) == Some(&modelyard_core::Weight::ALL);
    if !all || !desired.instances.contains_key(&STABLE) {
        return (after, actions);
    }
    let mut value = serde_json::to_value(&after).unwrap();
    value["desired"]["instances"].as_object_mut().unwrap().remove("1");
    (serde_json::from_value(value).unwrap(), actions)
}

#[test]
fn a_broken_strategy_is_caught() {
    let caught = (0..200).filter_map(|seed| play("canary", seed, true, Faults::all(), retires_blindly).err());
    let names: Vec<&str> = caught.map(|violation| violation.name).collect();
    assert!(names.contains(&"R3"), "the rig noticed nothing of a blind retirement: {names:?}");
}

/// Takes everybody's share away while a candidate is watched.
fn serves_nobody(state: Rollout, seen: &Observation) -> (Rollout, Vec<modelyard_rollout::Action>) {
    let (after, actions) = modelyard_rollout::step(state, seen);
    if !matches!(after.phase, modelyard_rollout::Phase::Baking { .. }) {
        return (after, actions);
    }
    let mut value = serde_json::to_value(&after).unwrap();
    value["desired"]["weights"] = serde_json::json!({});
    (serde_json::from_value(value).unwrap(), actions)
}

/// Says nothing against an abort, and goes on.
fn ignores_aborts(state: Rollout, seen: &Observation) -> (Rollout, Vec<modelyard_rollout::Action>) {
    let mut seen = seen.clone();
    seen.orders.retain(|order| *order != modelyard_core::event::Order::Abort);
    modelyard_rollout::step(state, &seen)
}

#[test]
fn empty_weights_and_forgotten_aborts_are_caught() {
    let names = |stepper: Stepper| -> std::collections::BTreeSet<&str> {
        let caught = (0..400).filter_map(|seed| play("blue-green", seed, true, Faults::all(), stepper).err());
        caught.map(|violation| violation.name).collect()
    };
    assert!(names(serves_nobody).contains("R2"), "nobody noticed that nothing was served");
    assert!(names(ignores_aborts).contains("R5"), "nobody noticed that an abort came to nothing");
}

/// Gives an alternative that answers callers a third of the traffic on top, which is what it must never have.
fn lends_too_much(state: Rollout, seen: &Observation) -> (Rollout, Vec<modelyard_rollout::Action>) {
    let (after, actions) = modelyard_rollout::step(state, seen);
    let desired = after.desired();
    let share = |revision: &RevisionNumber| desired.weights.get(revision).map_or(0, |share| share.basis_points());
    let lent = after.beside().keys().find(|&one| share(one) > 0 && share(&STABLE) >= 5_000);
    let Some(beside) = lent.filter(|one| seen.pools.get(one).is_some_and(|pool| pool.live > 0)) else {
        return (after, actions);
    };
    let mut value = serde_json::to_value(&after).unwrap();
    value["desired"]["weights"][STABLE.to_string()] = serde_json::json!(share(&STABLE) - 3_000);
    value["desired"]["weights"][beside.to_string()] = serde_json::json!(share(beside) + 3_000);
    (serde_json::from_value(value).unwrap(), actions)
}

#[test]
fn what_runs_beside_is_met_and_its_excess_is_caught() {
    let caught = (0..1_000).filter_map(|seed| play("canary", seed, true, Faults::all(), lends_too_much).err());
    let names: std::collections::BTreeSet<&str> = caught.map(|violation| violation.name).collect();
    assert!(names.contains("R11"), "nobody noticed what an alternative was given: {names:?}");

    // These worlds have them: shadows that get copies, and alternatives that answer callers.
    let (mut copied, mut lent) = (0, 0);
    for seed in 0..SEEDS / 5 {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let plan = rollouts::drawn("canary", &mut random).unwrap();
        let mut world = World::seeded(seed).with(Faults::all());
        world.submit(plan, true);
        let (mut copies, mut answers) = (false, false);
        while world.elapsed() < LIMIT && !world.is_settled() {
            world.tick();
            let Some(rollout) = world.rollout() else { continue };
            let desired = rollout.desired();
            copies |= !desired.mirrors.is_empty();
            answers |= rollout.beside().keys().any(|one| desired.weights.contains_key(one));
        }
        copied += u32::from(copies);
        lent += u32::from(answers);
    }
    assert!(copied > 100 && lent > 10, "copies in {copied} worlds, answers in {lent}");
}

#[test]
fn the_same_seed_plays_the_same_world() {
    let end = |seed| {
        let world = play("canary", seed, true, Faults::all(), modelyard_rollout::step).unwrap();
        (world.elapsed(), world.requests(), serde_json::to_string(world.rollout().unwrap()).unwrap())
    };
    assert_eq!(end(7), end(7));
}
