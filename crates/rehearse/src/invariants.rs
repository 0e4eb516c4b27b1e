//! The named invariants, as checks of a world after an event. The names are those of ARCHITECTURE.md and of `modelyard-rollout`.

use std::collections::BTreeMap;
use std::fmt;

use modelyard_core::beside::BesideKind;
use modelyard_core::event::Outcome;
use modelyard_core::service::Desired;
use modelyard_core::strategy::Strategy;
use modelyard_core::{RevisionNumber, Weight};
use modelyard_rollout::{Action, Phase, Rollout};

use crate::World;
use crate::controller::Move;

/// One named promise.
#[derive(Clone, Copy)]
pub struct Invariant {
    /// Its name, such as `R3`.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// What is wrong, if it is broken.
    pub check: fn(&World) -> Result<(), String>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub name: &'static str,
    /// What it promises, and what happened instead.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

/// Every invariant that can be checked after each event. R4 (every rollout settles) is the runner's: it needs the end.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        name: "R1",
        promise: "no weight is given to a revision without live instances",
        check: live_before_weight,
    },
    Invariant { name: "R2", promise: "weights sum to the whole, or nothing can be served", check: weights_are_whole },
    Invariant {
        name: "R3",
        promise: "stable is not retired before the candidate carries everything",
        check: looks_before_retiring,
    },
    Invariant { name: "R5", promise: "aborted and failed rollouts end at stable alone", check: ends_where_it_must },
    Invariant { name: "R6", promise: "going forward, capacity is kept", check: keeps_capacity },
    Invariant { name: "R7", promise: "no canary above 20 % before a pass", check: starts_small },
    Invariant { name: "R8", promise: "an open rollout asks to be woken", check: asks_to_be_woken },
    Invariant { name: "R9", promise: "a shadow answers nobody", check: shadows_answer_nobody },
    Invariant {
        name: "R10",
        promise: "a test promotes on evidence or on a person's word",
        check: tests_promote_on_evidence,
    },
    Invariant { name: "R11", promise: "what runs beside the arms decides nothing", check: beside_decides_nothing },
];

impl World {
    /// Checks all of `invariants` against what just happened.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn check_all(&self, invariants: &[Invariant]) -> Result<(), Violation> {
        invariants.iter().try_for_each(|invariant| {
            (invariant.check)(self)
                .map_err(|what| Violation { name: invariant.name, what: format!("{}: {what}", invariant.promise) })
        })
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn weight(desired: &Desired, revision: RevisionNumber) -> Weight {
    desired.weights.get(&revision).copied().unwrap_or_default()
}

fn count(desired: &Desired, revision: Option<RevisionNumber>) -> u32 {
    revision.and_then(|revision| desired.instances.get(&revision)).copied().unwrap_or(0)
}

/// The last move, with what was desired before and after it.
fn moved(world: &World) -> Option<(&Move, Desired, Desired)> {
    world.last_move().map(|made| (made, made.before.desired(), made.after.desired()))
}

fn live_before_weight(world: &World) -> Result<(), String> {
    let table = &world.gateway.table;
    let empty = table.weights.keys().find(|revision| table.pools.get(revision).is_none_or(Vec::is_empty));
    ensure(empty.is_none(), || format!("the gateway routes to {empty:?}, which has no instance"))?;
    ensure(world.gateway.sent_to_leaving == 0, || "a request went to an instance that had been asked to end".into())?;
    let Some((made, before, after)) = moved(world) else { return Ok(()) };
    for (&revision, &share) in &after.weights {
        let live = made.seen.pools.get(&revision).map_or(0, |pool| pool.live);
        ensure(share <= weight(&before, revision) || live > 0, || {
            format!("revision {revision} was raised to {share} without a live instance")
        })?;
        ensure(after.instances.contains_key(&revision), || {
            format!("revision {revision} has weight but no instance is wanted")
        })?;
    }
    Ok(())
}

fn weights_are_whole(world: &World) -> Result<(), String> {
    let sum = |weights: &BTreeMap<RevisionNumber, Weight>| -> u32 {
        weights.values().map(|weight| u32::from(weight.basis_points())).sum()
    };
    // Only `recreate` stops what serves before something else does, and before a first deployment nothing does.
    let has_gap =
        |rollout: &Rollout| matches!(rollout.plan.strategy, Strategy::Recreate(_)) || rollout.stable.is_none();
    let may_be_empty = world.rollout().is_none_or(|rollout| {
        let serves_at_last = rollout.stable.is_some() || rollout.outcome() == Some(Outcome::Promoted);
        has_gap(rollout) && !(rollout.is_closed() && serves_at_last)
    });
    let comes_late = || world.rollout().is_some_and(has_gap) && world.lags();
    let table = &world.gateway.table;
    let whole = match table.weights.is_empty() {
        true => may_be_empty || table.pools.values().all(Vec::is_empty) || comes_late(),
        false => sum(&table.weights) == 10_000,
    };
    ensure(whole, || format!("applied: {:?} among {:?}", table.weights, table.pools))?;
    let Some((_, _, after)) = moved(world) else { return Ok(()) };
    let whole = if after.weights.is_empty() { may_be_empty } else { sum(&after.weights) == 10_000 };
    ensure(whole, || format!("desired: {:?}", after.weights))
}

fn looks_before_retiring(world: &World) -> Result<(), String> {
    let Some((made, before, after)) = moved(world) else { return Ok(()) };
    let (stable, candidate) = (made.after.stable, made.after.candidate);
    if count(&before, stable) == 0 || count(&after, stable) > 0 {
        return Ok(());
    }
    let applied = |revision: Option<RevisionNumber>| {
        revision.and_then(|revision| made.applied.get(&revision)).copied().unwrap_or_default()
    };
    ensure(applied(stable) == Weight::NONE, || format!("stable still carries {}", applied(stable)))?;
    let recreates = matches!(made.after.plan.strategy, Strategy::Recreate(_));
    ensure(recreates || applied(Some(candidate)) == Weight::ALL, || {
        format!("the candidate carries only {}", applied(Some(candidate)))
    })
}

fn ends_where_it_must(world: &World) -> Result<(), String> {
    let Some(rollout) = world.rollout().filter(|rollout| rollout.is_closed()) else { return Ok(()) };
    let went_back = matches!(rollout.outcome(), Some(Outcome::Aborted | Outcome::RolledBack));
    ensure(!world.was_aborted || went_back, || format!("an abort was taken, and it ended {:?}", rollout.outcome()))?;
    let winner = match rollout.outcome() {
        Some(Outcome::Promoted) => Some(rollout.candidate),
        Some(Outcome::RolledBack | Outcome::Aborted | Outcome::Compared) => rollout.stable,
        None => return Err("it is closed without an outcome".into()),
    };
    let desired = rollout.desired();
    let alone = |len: usize, has: bool| len == usize::from(winner.is_some()) && (has || winner.is_none());
    let instances = alone(desired.instances.len(), count(&desired, winner) == rollout.plan.instances);
    let weights = alone(desired.weights.len(), winner.is_some_and(|winner| weight(&desired, winner) == Weight::ALL));
    ensure(instances && weights, || format!("it ended {:?} with {desired:?}", rollout.outcome()))
}

fn keeps_capacity(world: &World) -> Result<(), String> {
    let Some((made, before, after)) = moved(world) else { return Ok(()) };
    if !made.after.phase.is_forward() || made.after.stable.is_none() {
        return Ok(());
    }
    let instances = made.after.plan.instances;
    let (stable, candidate) = (count(&after, made.after.stable), count(&after, Some(made.after.candidate)));
    let rolling = match &made.after.plan.strategy {
        Strategy::Recreate(_) => return Ok(()),
        Strategy::Rolling(rolling) => rolling,
        Strategy::BlueGreen(_) | Strategy::Canary(_) | Strategy::Ab(_) | Strategy::Shadow(_) => {
            let others: u32 = made.after.arms().skip(1).map(|arm| count(&after, Some(arm))).sum();
            let all = stable + candidate + others;
            return ensure(all >= instances, || format!("{all} of {instances} instances are wanted"));
        }
    };
    let (least, most) = (instances - rolling.max_unavailable, instances + rolling.max_surge);
    ensure(stable + candidate <= most, || format!("{stable} + {candidate} instances are wanted, {most} are allowed"))?;
    // Dead instances are no capacity: giving one up costs nothing. Of the live ones, enough must be left.
    let live = |revision| made.seen.pools.get(&revision).map_or(0, |pool| pool.live);
    let live_stable = made.after.stable.map_or(0, live).min(count(&before, made.after.stable));
    let left = live_stable.min(stable) + live(made.after.candidate);
    ensure(live_stable <= stable || left >= least, || format!("{left} live instances are left, {least} are needed"))
}

fn starts_small(world: &World) -> Result<(), String> {
    let Some((made, _, after)) = moved(world) else { return Ok(()) };
    let is_canary = matches!(made.after.plan.strategy, Strategy::Canary(_)) && made.after.stable.is_some();
    let share = weight(&after, made.after.candidate);
    let allowed = !is_canary || share.basis_points() <= 2_000 || world.has_passed || world.was_promoted_by_hand;
    ensure(allowed, || format!("the candidate is to carry {share} and nothing has passed"))
}

fn shadows_answer_nobody(world: &World) -> Result<(), String> {
    let Some((made, _, after)) = moved(world) else { return Ok(()) };
    let is_shadow = matches!(made.after.phase, Phase::Starting | Phase::Shadowing)
        && matches!(made.after.plan.strategy, Strategy::Shadow(_));
    let carried = made.after.arms().map(|arm| weight(&after, arm)).find(|&carried| carried > Weight::NONE);
    let mirrored = after.mirrors.keys().find(|&&revision| weight(&after, revision) > Weight::NONE);
    ensure(!is_shadow || carried.is_none(), || format!("a shadow is to carry {}", carried.unwrap_or_default()))?;
    ensure(mirrored.is_none(), || format!("revision {mirrored:?} gets copies and requests"))
}

fn tests_promote_on_evidence(world: &World) -> Result<(), String> {
    let Some((made, _, after)) = moved(world) else { return Ok(()) };
    let is_test = matches!(made.after.plan.strategy, Strategy::Ab(_)) && made.after.stable.is_some();
    let whole = weight(&after, made.after.candidate) == Weight::ALL;
    let allowed = !is_test || !whole || world.has_passed || world.was_promoted_by_hand;
    ensure(allowed, || "an arm is to carry everything and nothing has passed".to_owned())
}

fn beside_decides_nothing(world: &World) -> Result<(), String> {
    let Some((made, before, after)) = moved(world) else { return Ok(()) };
    let beside = made.after.beside();
    let arm = made.after.arms().chain(made.after.stable).find(|arm| beside.contains_key(arm));
    ensure(arm.is_none(), || format!("revision {arm:?} is an arm and runs beside"))?;
    let carried = |desired: &Desired| -> u32 {
        beside.keys().map(|&revision| u32::from(weight(desired, revision).basis_points())).sum()
    };
    ensure(carried(&after) <= 2_000, || format!("{} points are carried beside the arms", carried(&after)))?;
    let waits = made.after.is_held() || made.after.is_paused();
    ensure(waits || carried(&after) <= carried(&before), || "an alternative got more while nobody looked".into())?;
    let shadow = beside.iter().find(|&(&revision, one)| {
        one.kind == BesideKind::Shadow && weight(&after, revision) > weight(&before, revision)
    });
    ensure(shadow.is_none(), || format!("a shadow is to answer callers: {shadow:?}"))
}

fn asks_to_be_woken(world: &World) -> Result<(), String> {
    let Some(made) = world.last_move() else { return Ok(()) };
    let wakes = made.actions.iter().any(|action| matches!(action, Action::WakeAt { at } if *at > made.seen.at));
    ensure(wakes || made.after.phase == Phase::Closed, || format!("{} asks for nothing", made.after.describe()))
}
