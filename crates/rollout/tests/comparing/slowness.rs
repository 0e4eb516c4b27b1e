//! A shadow's latency held against a limit: part of the verdict, and nobody's but its own.

use modelyard_core::measure::Histogram;

use super::*;

fn latency(count: u64, micros: u64) -> Histogram {
    let mut histogram = Histogram::default();
    (0..count).for_each(|n| histogram.record(micros + n * 37 % 1_000));
    histogram
}

fn world(then: Then, arms: &[RevisionNumber], count: u64, micros: u64) -> World {
    let rules = shadow(|shadow| {
        shadow.then = then;
        shadow.max_slowdown_ms = Some(5.0);
        shadow.arms = arms.iter().map(|_| arm().into()).collect();
    });
    let mut world = World::new(&rules, arms, &[]);
    let (stable_latency, latency) = (latency(count, 10_000), latency(count, micros));
    world.compared = Some(Comparison { latency, stable_latency, ..Comparison::default() });
    world
}

#[test]
fn a_slow_shadow_fails_although_its_answers_agree() {
    let mut slow = world(Then::Canary, &[], 2_000, 30_000);
    slow.ends(Outcome::RolledBack, OLD);
    assert_eq!(slow.rollout.cause(), Some(Cause::Latency), "{:?}", slow.said);
    let why = &slow.rollout.failure().unwrap().detail;
    assert!(why.contains("disagrees in 0 of") && why.contains("latency at quantile 0.95 is +"), "{why}");
    assert!(why.contains("5 ms is allowed"), "{why}");

    let mut told = world(Then::End, &[], 2_000, 30_000);
    told.ends(Outcome::Compared, OLD);
    assert!(told.said.iter().any(|said| (said.0, said.1) == (Verdict::Fail, Some(Cause::Latency))), "{:?}", told.said);

    // Of several, each is held against it; the last one's end is the rollout's.
    let mut both = world(Then::Canary, &[THIRD], 2_000, 30_000);
    both.ends(Outcome::RolledBack, OLD);
    assert_eq!(both.rollout.cause(), Some(Cause::Latency), "{:?}", both.said);
}

#[test]
fn within_the_limit_it_goes_on_and_of_few_pairs_nothing_is_said() {
    let mut fine = world(Then::Canary, &[], 2_000, 12_000);
    fine.until(|rollout| rollout.describe().contains("baking"));
    let (verdict, _, why) = fine.said.last().unwrap();
    assert!(*verdict == Verdict::Pass && why.contains("latency at quantile 0.95"), "{:?}", fine.said);

    let mut few = world(Then::Canary, &[], 60, 14_000);
    few.play(120);
    assert_eq!(few.rollout.outcome(), None);
    assert!(matches!(few.rollout.waiting(), Some(Waiting::Evidence { .. })), "{:?}", few.rollout.waiting());
    few.order(promote()).until(|rollout| rollout.describe().contains("baking"));
}
