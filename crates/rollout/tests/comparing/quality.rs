//! A drop of quality or drift in every strategy in which the candidate answers callers.

use modelyard_core::event::{Order, Outcome};
use modelyard_core::failure::Cause;
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::{BlueGreen, Canary, QualityAction, Recreate, Rolling, Strategy};
use modelyard_core::{Millis, Weight};
use modelyard_rollout::{Rollout, Waiting};

use super::{NEW, OLD, World, ab, spec};

impl World {
    /// Another world that is as this one, for a test that goes on in two ways.
    fn like(&self) -> Self {
        Self {
            rollout: self.rollout.clone(),
            seen: self.seen.clone(),
            accuracy: self.accuracy.clone(),
            lost: self.lost.clone(),
            compared: self.compared.clone(),
            said: self.said.clone(),
            ..*self
        }
    }
}

/// Each strategy in which the candidate answers callers, set so that quality has time to show.
fn answering() -> Vec<(&'static str, ServiceSpec)> {
    let second = Millis::seconds(1);
    let step = |points: u16| Weight::new(points).unwrap();
    let test = ab(|ab| {
        ab.metric = "speed".into();
        ab.longest = Some(Millis::seconds(600));
    });
    let rolling = Rolling { batch: 1, max_surge: 1, pause: Millis::seconds(30), ..Rolling::default() };
    let gradual =
        BlueGreen { steps: vec![step(2_000), step(10_000)], bake: Millis::seconds(30), ..BlueGreen::default() };
    let kept = BlueGreen { preview: second, rollback_window: Millis::seconds(600), ..BlueGreen::default() };
    let recreate = Recreate { watch: Millis::seconds(60), ..Recreate::default() };
    let mut all = vec![
        ("canary", spec(Strategy::Canary(Canary::default()))),
        ("ab", test),
        ("rolling", spec(Strategy::Rolling(rolling))),
        ("blue-green in steps", spec(Strategy::BlueGreen(gradual))),
        ("blue-green, blue kept", spec(Strategy::BlueGreen(kept))),
        ("recreate", spec(Strategy::Recreate(recreate))),
    ];
    for (name, spec) in &mut all {
        spec.instances = 4;
        if *name == "ab" {
            let speed = serde_json::json!({ "name": "speed", "kind": "mean", "from": "reward" });
            spec.metrics.push(serde_json::from_value(speed).unwrap());
        }
    }
    all
}

#[test]
fn a_drop_of_quality_holds_every_strategy_or_takes_it_back() {
    for (name, rules) in answering() {
        for action in [QualityAction::Ask, QualityAction::StepBack, QualityAction::RollBack] {
            for by_drift in [false, true] {
                let mut rules = rules.clone();
                rules.quality.action = action;
                rules.quality.max_psi = by_drift.then_some(0.2);
                let worse = if by_drift { 0.95 } else { 0.70 };
                let mut world = World::new(&rules, &[], &[(OLD, 0.95), (NEW, worse)]);
                world.psi = if by_drift { 0.9 } else { 0.0 };
                world.until(|rollout| rollout.failure().is_some());
                let cause = if by_drift { Cause::Drift } else { Cause::Quality };
                assert_eq!(world.rollout.cause(), Some(cause), "{name}");
                assert!(world.rollout.desired().weights.contains_key(&NEW) || action != QualityAction::Ask, "{name}");
                if action != QualityAction::Ask {
                    world.ends(Outcome::RolledBack, OLD);
                    continue;
                }
                let held = world.rollout.desired();
                for _ in 0..4_000 {
                    world.tick();
                    assert!(world.rollout.waiting().is_some_and(Waiting::is_person), "{name}: {}", world.waiting());
                    assert!(world.rollout.is_held(), "{name}");
                }
                assert_eq!(world.rollout.desired(), held, "{name}: nothing moves while a person is asked");
                let mut on = world.like();
                world.order(Order::Abort).ends(Outcome::Aborted, OLD);
                on.order(Order::Promote { all: true }).ends(Outcome::Promoted, NEW);
            }
        }
    }
}

#[test]
fn what_was_held_for_its_quality_in_the_window_keeps_the_old_pool() {
    let kept = BlueGreen { rollback_window: Millis::seconds(10), ..BlueGreen::default() };
    let mut world = World::new(&spec(Strategy::BlueGreen(kept)), &[], &[(OLD, 0.95), (NEW, 0.95)]);
    world.until(Rollout::is_in_rollback_window);
    world.accuracy.insert(NEW, 0.5);
    world.until(Rollout::is_held).play(60);
    assert!(world.rollout.desired().instances.contains_key(&OLD), "the window is over, and nobody has decided");
    world.order(Order::Abort).ends(Outcome::Aborted, OLD);
}
