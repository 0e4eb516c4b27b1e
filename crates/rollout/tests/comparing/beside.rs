//! What runs beside the arms: shadows of a plan, and alternatives beside a candidate that is held. R11.

use modelyard_core::beside::{BesideKind, ShadowArm};

use super::*;

const FOURTH: RevisionNumber = RevisionNumber(4);

fn shadows() -> Vec<ShadowArm> {
    vec![arm().into()]
}

fn canary() -> ServiceSpec {
    spec(Strategy::Canary(Canary { bake: Millis::seconds(5), shadows: shadows(), ..Canary::default() }))
}

fn attempt(revision: RevisionNumber, share: u16, kind: BesideKind) -> Order {
    Order::Try { revision, share: Weight::new(share).unwrap(), kind }
}

fn shares(rollout: &Rollout) -> Vec<(u32, u16)> {
    rollout.desired().weights.iter().map(|(revision, share)| (revision.0, share.basis_points())).collect()
}

fn runs(rollout: &Rollout, revision: RevisionNumber) -> bool {
    rollout.desired().instances.contains_key(&revision)
}

#[test]
fn shadows_beside_canaries_and_tests_decide_nothing() {
    let test = || {
        ab(|ab| {
            ab.share = Weight::new(4_000).unwrap();
            ab.arms = vec![arm()];
            ab.shadows = shadows();
        })
    };
    // The shadow never agrees, and whoever is better is promoted; it agrees always, and whoever is not better is not.
    let cases =
        [(canary(), 0.9, Outcome::Promoted), (canary(), 0.5, Outcome::Aborted), (test(), 0.97, Outcome::Promoted)];
    for (rules, accuracy, outcome) in cases {
        let is_test = matches!(rules.strategy, Strategy::Ab(_));
        let (arms, shadow) = if is_test { (vec![THIRD, FOURTH], FOURTH) } else { (vec![THIRD], THIRD) };
        let agreement = if outcome == Outcome::Promoted { 0.0 } else { 1.0 };
        let mut world = World::new(&rules, &arms, &[(OLD, 0.9), (NEW, accuracy), (shadow, agreement)]);
        assert_eq!(world.rollout.plan.surge(true).len(), arms.len() + 1, "there must be room for it");
        world.until(|rollout| rollout.describe().contains(if is_test { "testing" } else { "baking" }));
        assert_eq!(world.rollout.desired().mirrors, BTreeMap::from([(shadow, Weight::new(2_000).unwrap())]));
        assert!(!shares(&world.rollout).iter().any(|(revision, _)| *revision == shadow.0));
        assert!(world.rollout.arms().all(|arm| arm != shadow));
        if outcome == Outcome::Aborted {
            world.until(Rollout::is_held);
            world.order(Order::Abort);
        }
        world.ends(outcome, if outcome == Outcome::Promoted { NEW } else { OLD });
        assert!(world.seen.evidence.as_ref().unwrap().shadows[&shadow].compared > 0, "it was compared meanwhile");
    }
}

#[test]
fn a_shadow_beside_that_crashes_again_and_again_is_taken_away() {
    let mut world = World::new(&canary(), &[THIRD], &[]);
    world.play(2);
    world.fail(THIRD, Cause::Crash).fail(THIRD, Cause::Crash);
    assert!(runs(&world.rollout, THIRD), "it is started again");
    world.fail(THIRD, Cause::Crash);
    assert!(!runs(&world.rollout, THIRD) && world.rollout.desired().mirrors.is_empty());
    assert!(
        world.said.iter().any(|(_, _, why)| why.contains("revision 3, which ran beside, was taken away")),
        "{:?}",
        world.said
    );
    world.ends(Outcome::Promoted, NEW);

    // One that wants more memory than it has goes at once; one that never starts goes when its time is over.
    let mut world = World::new(&canary(), &[THIRD], &[]);
    world.play(1).fail(THIRD, Cause::OutOfMemory);
    assert!(!runs(&world.rollout, THIRD));
    world.ends(Outcome::Promoted, NEW);
}

#[test]
fn shadows_have_bounds_of_their_own_and_nonsense_is_refused() {
    let own = |limit: u32| ShadowArm { limit: Some(limit), timeout: Some(Millis(50)), ..arm().into() };
    let with =
        |limit: u32| spec(Strategy::Canary(Canary { shadows: vec![own(limit), arm().into()], ..Canary::default() }));
    let world = World::new(&with(7), &[THIRD, FOURTH], &[]);
    let of = |revision| (world.rollout.bounds(revision).limit, world.rollout.bounds(revision).timeout);
    assert_eq!((of(THIRD), of(FOURTH)), ((7, Millis(50)), (64, Millis::seconds(10))));
    let beside = shadow(|shadow| {
        shadow.limit = 9;
        shadow.arms = vec![own(7), arm().into()];
    });
    let world = World::new(&beside, &[THIRD, FOURTH], &[]);
    let limits = [NEW, THIRD, FOURTH].map(|revision| world.rollout.bounds(revision).limit);
    assert_eq!(limits, [9, 7, 9], "the strategy's, where a shadow has none of its own");
    let refused = Plan::new(&with(0)).unwrap_err().to_string();
    assert!(refused.contains("strategy.shadows") && refused.contains("wine:3"), "{refused}");
}

#[test]
fn alternatives_are_tried_beside_a_candidate_that_is_held_and_go_when_it_is_decided() {
    let mut rules = canary();
    rules.strategy = Strategy::Canary(Canary { bake: Millis::seconds(600), ..Canary::default() });
    let mut world = World::new(&rules, &[], &[(OLD, 0.9), (NEW, 0.5)]);
    world.play(1).order(attempt(THIRD, 500, BesideKind::Canary));
    assert!(world.rollout.beside().is_empty(), "nothing is held yet");
    world.until(Rollout::is_held);
    assert_eq!(shares(&world.rollout), [(1, 9_000), (2, 1_000)]);
    for (order, part) in [
        (attempt(NEW, 500, BesideKind::Canary), "an arm of this rollout"),
        (attempt(THIRD, 2_500, BesideKind::Canary), "20 % together at most"),
        (attempt(THIRD, 0, BesideKind::Canary), "no such alternative"),
    ] {
        let Order::Try { revision, share, kind } = order else { panic!("{order:?}") };
        let why = world.rollout.may_try(revision, share, kind).unwrap_err();
        assert!(why.contains(part), "{why}");
        world.order(order);
        assert!(world.rollout.beside().is_empty());
    }
    world.order(attempt(THIRD, 500, BesideKind::Canary)).order(attempt(FOURTH, 3_000, BesideKind::Shadow)).play(1);
    assert_eq!(shares(&world.rollout), [(1, 8_500), (2, 1_000), (3, 500)]);
    assert_eq!(world.rollout.desired().mirrors, BTreeMap::from([(FOURTH, Weight::new(3_000).unwrap())]));
    assert!(world.rollout.is_held() && world.waiting().contains("`modelyard try`"), "{}", world.waiting());
    // A larger share, and none at all.
    world.order(attempt(THIRD, 1_500, BesideKind::Canary)).play(1);
    assert_eq!(shares(&world.rollout), [(1, 7_500), (2, 1_000), (3, 1_500)]);
    world.order(attempt(FOURTH, 0, BesideKind::Shadow)).play(1);
    assert!(!runs(&world.rollout, FOURTH));
    // A person decides: whoever was tried goes, and what was lent is stable's again.
    world.order(promote()).play(1);
    assert!(!world.rollout.is_held() && !runs(&world.rollout, THIRD));
    assert_eq!(shares(&world.rollout).iter().map(|(_, share)| u32::from(*share)).sum::<u32>(), 10_000);
    world.order(Order::Abort).ends(Outcome::Aborted, OLD);
}

#[test]
fn an_alternative_goes_with_the_rollout_and_a_test_keeps_its_split() {
    let mut world = World::new(&ab(|_| ()), &[], &[]);
    world.until(|rollout| rollout.describe().starts_with("testing"));
    world.order(Order::Pause).order(attempt(THIRD, 500, BesideKind::Canary));
    let half = Weight::new(500).unwrap();
    let why = world.rollout.may_try(THIRD, half, BesideKind::Canary).unwrap_err();
    assert!(why.contains("try it as shadow") && world.rollout.beside().is_empty(), "{why}");
    world.order(attempt(THIRD, 500, BesideKind::Shadow)).play(1);
    assert!(runs(&world.rollout, THIRD));
    world.order(Order::Abort).ends(Outcome::Aborted, OLD);

    // One whose answers fail is taken away, and the candidate is held as before.
    let rules = spec(Strategy::Canary(Canary { bake: Millis::seconds(600), ..Canary::default() }));
    let mut world = World::new(&rules, &[], &[(OLD, 0.9), (NEW, 0.5)]);
    world.until(Rollout::is_held);
    world.order(attempt(THIRD, 1_000, BesideKind::Canary)).play(1);
    assert_eq!(shares(&world.rollout), [(1, 8_000), (2, 1_000), (3, 1_000)]);
    world.fail(THIRD, Cause::WrongAnswers).play(1);
    assert_eq!(shares(&world.rollout), [(1, 9_000), (2, 1_000)]);
    assert!(world.rollout.is_held() && world.rollout.cause() == Some(Cause::Quality));
}
