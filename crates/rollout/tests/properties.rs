//! Whatever is observed, a step does not panic and keeps its promises, those to the callers' sessions among them.

use std::collections::BTreeMap;

use modelyard_core::affinity::{hash, owner, point, stretches};
use modelyard_core::beside::{BesideKind, ShadowArm};
use modelyard_core::event::Order;
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::measure::{Counters, Histogram};
use modelyard_core::service::{Routing, ServiceSpec};
use modelyard_core::strategy::{
    Ab, Analysis, Arm, BlueGreen, Canary, NoTraffic, Recreate, RollbackPolicy, Rolling, Strategy as Kind,
};
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp, Weight};
use modelyard_rollout::{Action, GatewaySeen, Observation, Plan, PoolSeen, Rollout, step};
use proptest::prelude::*;

const OLD: RevisionNumber = RevisionNumber(1);
const NEW: RevisionNumber = RevisionNumber(2);

fn weight() -> impl Strategy<Value = Weight> {
    (0u16..=10_000).prop_map(|points| Weight::new(points).unwrap_or_default())
}

fn kind() -> impl Strategy<Value = Kind> {
    let steps = prop::collection::btree_set(1u16..2_000, 1..4).prop_map(|steps| {
        steps.into_iter().chain([10_000]).filter_map(|points| Weight::new(points).ok()).collect::<Vec<_>>()
    });
    let span = || (0u64..3_000).prop_map(Millis);
    prop_oneof![
        (any::<bool>(), prop_oneof![Just(Millis(0)), span()])
            .prop_map(|(park, watch)| Kind::Recreate(Recreate { park, watch })),
        (1u32..4, 1u32..4, 0u32..1, span()).prop_map(|(batch, max_surge, max_unavailable, pause)| Kind::Rolling(
            Rolling { batch, max_surge, max_unavailable, pause }
        )),
        (steps.clone(), any::<bool>(), span(), span(), any::<bool>(), span()).prop_map(
            |(steps, at_once, bake, preview, manual, rollback_window)| {
                let steps = if at_once { Vec::new() } else { steps };
                Kind::BlueGreen(BlueGreen { steps, bake, preview, manual, rollback_window })
            }
        ),
        (steps, span(), any::<bool>()).prop_map(|(steps, bake, manual)| Kind::Canary(Canary {
            steps,
            bake,
            manual,
            ..Canary::default()
        })),
    ]
}

prop_compose! {
    fn rollout()(kind in kind(), instances in 1u32..5, automatic: bool, stepped: bool, stable: bool, hold: bool, tolerance in 0u32..2) -> Rollout {
        let analysis = Analysis {
            min_requests: 5,
            max_latency_ratio: Some(2.0),
            max_latency_ms: Some(100.0),
            crash_tolerance: tolerance,
            no_traffic: if hold { NoTraffic::Hold } else { NoTraffic::Promote },
            startup_timeout: Millis::seconds(8),
            ..Analysis::default()
        };
        let spec = ServiceSpec {
            instances,
            strategy: kind,
            analysis,
            rollback: RollbackPolicy { automatic, stepped },
            routing: Routing { drain: Millis::seconds(1), ..Routing::default() },
..ServiceSpec::named(ServiceName::new("wine").unwrap_or_else(|_| unreachable!("`wine` is a service name")))
        };
        let plan = Plan::new(&spec).expect("drawn plans make sense");
        Rollout::start(spec.name, stable.then_some(OLD), NEW, &[], plan, Timestamp(10_000))
    }
}

prop_compose! {
    /// An A/B test of up to four arms besides stable.
    fn experiment()(share in 1u16..2_500, further in prop::collection::vec(1u16..2_500, 0..3), instances in 1u32..5, automatic: bool) -> Rollout {
        let points = |share: u16| Weight::new(share).unwrap_or_default();
        let arm = |share: &u16| Arm { package: "wine:3".into(), share: points(*share), flags: BTreeMap::new() };
        let arms = further.iter().map(arm).collect();
        let metric = serde_json::json!({ "name": "accuracy", "kind": "accuracy", "from": "feedback" });
        let spec = ServiceSpec {
            instances,
            strategy: Kind::Ab(Ab { metric: "accuracy".into(), effect: 0.05, share: points(share), arms, ..Ab::default() }),
            metrics: vec![serde_json::from_value(metric).expect("a metric as people write it")],
            analysis: Analysis { min_requests: 5, startup_timeout: Millis::seconds(8), ..Analysis::default() },
            rollback: RollbackPolicy { automatic, ..RollbackPolicy::default() },
            ..ServiceSpec::named(ServiceName::new("wine").unwrap_or_else(|_| unreachable!("`wine` is a service name")))
        };
        let plan = Plan::new(&spec).expect("drawn plans make sense");
        let further: Vec<_> = (3..).map(RevisionNumber).take(further.len()).collect();
        Rollout::start(spec.name, Some(OLD), NEW, &further, plan, Timestamp(10_000))
    }
}

/// No revision of these worlds is higher.
const FIRST_SHADOW: RevisionNumber = RevisionNumber(8);

/// A rollout with two shadows beside it, if it may have some, and the same without.
fn twins(start: impl Strategy<Value = Rollout>) -> impl Strategy<Value = (Rollout, Rollout)> {
    start.prop_map(|without| {
        let share = Weight::new(3_000).unwrap_or_default();
        let shadow = || ShadowArm::from(Arm { package: "wine:9".into(), share, flags: BTreeMap::new() });
        let mut plan = without.plan.clone();
        match &mut plan.strategy {
            Kind::Canary(canary) => canary.shadows = vec![shadow(), shadow()],
            Kind::Ab(ab) => ab.shadows = vec![shadow(), shadow()],
            _ => {}
        }
        let shadows = (FIRST_SHADOW.0..).map(RevisionNumber).take(plan.strategy.shadows().len());
        let further: Vec<RevisionNumber> = without.arms().skip(1).chain(shadows).collect();
        let (service, at) = (without.service.clone(), Timestamp(10_000));
        (Rollout::start(service, without.stable, NEW, &further, plan, at), without)
    })
}

/// A rollout but for what runs beside it.
fn bare(rollout: &Rollout) -> serde_json::Value {
    let mut state = serde_json::to_value(rollout).expect("states are values");
    let shadows: Vec<String> = rollout.beside().keys().map(ToString::to_string).collect();
    for key in ["/beside", "/plan/strategy/shadows", "/desired/mirrors", "/desired/instances", "/bounds"] {
        let (parent, name) = key.rsplit_once('/').expect("a path");
        if let Some(object) = state.pointer_mut(parent).and_then(serde_json::Value::as_object_mut) {
            match object
                .get_mut(name)
                .and_then(serde_json::Value::as_object_mut)
                .filter(|_| ["instances", "bounds"].contains(&name))
            {
                Some(by_revision) => shadows.iter().for_each(|one| drop(by_revision.remove(one))),
                None => drop(object.remove(name)),
            }
        }
    }
    state
}

fn counters() -> impl Strategy<Value = Counters> {
    (0u64..5_000, 0u64..50, prop::collection::vec(0u64..300_000, 0..8)).prop_map(|(requests, errors, latencies)| {
        let mut latency = Histogram::default();
        latencies.into_iter().for_each(|micros| latency.record(micros));
        Counters { requests, errors: errors.min(requests), latency, ..Counters::default() }
    })
}

prop_compose! {
    fn gateway()(split in weight(), served: bool, old in counters(), new in counters(), busy in 0u64..2) -> GatewaySeen {
        let weights = if served { [(OLD, split.rest()), (NEW, split)].into() } else { Default::default() };
        GatewaySeen { weights, in_flight: [(OLD, busy), (NEW, busy)].into(), counters: [(OLD, old), (NEW, new)].into() }
    }
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        any::<bool>().prop_map(|all| Order::Promote { all }),
        Just(Order::Pause),
        Just(Order::Resume),
        Just(Order::Abort),
        (3u32..6, 0u16..20, any::<bool>()).prop_map(|(revision, share, shadow)| Order::Try {
            revision: RevisionNumber(revision),
            share: Weight::new(share * 100).unwrap_or_default(),
            kind: if shadow { BesideKind::Shadow } else { BesideKind::Canary },
        }),
    ]
}

/// What is seen: usually what was asked for, so that rollouts get somewhere; otherwise anything.
#[derive(Clone, Debug)]
struct Glimpse {
    seen: Observation,
    obedient_pools: bool,
    obedient_gateway: bool,
}

prop_compose! {
    fn glimpse()(
        at in 0u64..60_000,
        gateway in prop::option::weighted(0.8, gateway()),
        pools in prop::array::uniform6(0u32..5),
        causes in prop::collection::vec((0usize..10, 1u32..3), 0..2),
        fails in 0u8..10,
        orders in prop::collection::vec(order(), 0..2),
        asks in 0u8..6,
        obedient_pools in prop::bool::weighted(0.8),
        obedient_gateway in prop::bool::weighted(0.8),
    ) -> Glimpse {
        let pool = |at: usize| PoolSeen { running: pools[at], live: pools[at + 1], leaving: pools[at + 2], lost: 0 };
        let failure = |(cause, revision): (usize, u32)| Failure {
            cause: Cause::ALL[cause],
            revision: RevisionNumber(revision),
            instance: None,
            at: Timestamp(at),
            detail: "seen".into(),
            evidence: vec![],
        };
        let failures = if fails == 0 { causes.into_iter().map(failure).collect() } else { vec![] };
        let orders = if asks == 0 { orders } else { vec![] };
        let seen = Observation { at: Timestamp(at), gateway, pools: [(OLD, pool(0)), (NEW, pool(3))].into(), failures, orders, ..Observation::default() };
        Glimpse { seen, obedient_pools, obedient_gateway }
    }
}

/// Lets the glimpse show what was asked for, where it is obedient.
fn look(glimpse: Glimpse, rollout: &Rollout, tick: usize) -> Observation {
    let (mut seen, desired) = (glimpse.seen, rollout.desired());
    if glimpse.obedient_pools {
        seen.at = Timestamp(10_000 + 250 * tick as u64);
        let pool = |count: u32| PoolSeen { running: count, live: count, leaving: 0, lost: 0 };
        seen.pools = desired.instances.iter().map(|(&revision, &count)| (revision, pool(count))).collect();
    }
    if let (true, Some(gateway)) = (glimpse.obedient_gateway, &mut seen.gateway) {
        gateway.weights = desired.weights;
        gateway.in_flight.clear();
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_observation_breaks_a_promise(start in rollout(), glimpses in prop::collection::vec(glimpse(), 1..60)) {
        let mut rollout = start;
        for (tick, glimpse) in glimpses.into_iter().enumerate() {
            let seen = look(glimpse, &rollout, tick);
            let before = rollout.desired();
            let (after, actions) = step(rollout.clone(), &seen);

            let text = serde_json::to_string(&rollout).expect("states are values");
            let read: Rollout = serde_json::from_str(&text).expect("states can be read back");
            prop_assert_eq!(&read, &rollout);
            prop_assert_eq!(step(read, &seen), (after.clone(), actions.clone()), "same inputs, same outputs");

            let desired = after.desired();
            let sum: u32 = desired.weights.values().map(|weight| u32::from(weight.basis_points())).sum();
            prop_assert!(desired.weights.is_empty() || sum == 10_000, "{:?}", desired.weights);
            for (revision, &share) in &desired.weights {
                let live = seen.pools.get(revision).map_or(0, |pool| pool.live);
                let raised = share > before.weights.get(revision).copied().unwrap_or_default();
                prop_assert!(!raised || live > 0, "revision {} raised without a live instance", revision);
                prop_assert!(desired.instances.contains_key(revision));
            }
            let wakes = actions.iter().any(|action| matches!(action, Action::WakeAt { at } if *at > seen.at));
            prop_assert!(wakes != after.is_closed());
            prop_assert!(!after.is_closed() || after.outcome().is_some());
            prop_assert_eq!(desired != before, actions.iter().any(|action| matches!(action, Action::Desire { .. })));
            prop_assert!(!after.describe().is_empty());
            rollout = after;
        }
    }

    /// R11: whatever becomes of shadows beside the arms, the rollout goes the way that it goes without them.
    #[test]
    fn what_runs_beside_decides_nothing(
        (with, without) in prop_oneof![twins(rollout()), twins(experiment())],
        glimpses in prop::collection::vec((glimpse(), prop::array::uniform2(0u32..4), 0u8..4, 0usize..10), 1..60),
    ) {
        let (mut with, mut without) = (with, without);
        for (tick, (glimpse, live, fails, cause)) in glimpses.into_iter().enumerate() {
            let mut glimpse = glimpse;
            glimpse.seen.orders.retain(|order| !matches!(order, Order::Try { .. }));
            let plain = look(glimpse.clone(), &without, tick);
            let mut seen = plain.clone();
            for (revision, live) in [FIRST_SHADOW, RevisionNumber(FIRST_SHADOW.0 + 1)].into_iter().zip(live) {
                seen.pools.insert(revision, PoolSeen { running: live, live, leaving: 0, lost: 0 });
                if fails == 0 {
                    let (at, detail) = (seen.at, "it broke".to_owned());
                    seen.failures.push(Failure { cause: Cause::ALL[cause], revision, instance: None, at, detail, evidence: vec![] });
                }
            }
            with = step(with, &seen).0;
            without = step(without, &plain).0;
            prop_assert_eq!(bare(&with), bare(&without));
            let desired = with.desired();
            prop_assert!(with.beside().keys().all(|one| !desired.weights.contains_key(one)));
            prop_assert!(!with.is_closed() || with.beside().keys().all(|one| !desired.instances.contains_key(one)));
        }
    }

    #[test]
    fn a_repeated_observation_soon_changes_nothing(start in rollout(), glimpses in prop::collection::vec(glimpse(), 1..30)) {
        let mut rollout = start;
        let mut last = Observation::default();
        for (tick, glimpse) in glimpses.into_iter().enumerate() {
            last = look(glimpse, &rollout, tick);
            rollout = step(rollout, &last).0;
        }
        last.orders.clear();
        last.failures.clear();
        for _ in 0..16 {
            rollout = step(rollout, &last).0;
        }
        let (after, actions) = step(rollout.clone(), &last);
        prop_assert_eq!(after.phase, rollout.phase);
        prop_assert_eq!(after.desired(), rollout.desired());
        prop_assert!(actions.iter().all(|action| matches!(action, Action::WakeAt { .. })), "{:?}", actions);
        prop_assert!(!after.advanced_from(&rollout));
    }

    #[test]
    fn who_is_not_asked_to_leave_an_arm_stays(
        start in prop_oneof![rollout(), experiment()],
        glimpses in prop::collection::vec(glimpse(), 1..60),
        salt in "[a-z]{1,12}-[1-9]{1,3}",
    ) {
        let mut rollout = start;
        let arms: Vec<RevisionNumber> = rollout.starts().keys().copied().collect();
        let points: Vec<u16> = (0u32..2_000).map(|unit| point(hash(&salt, &unit.to_le_bytes()))).collect();
        for (tick, glimpse) in glimpses.into_iter().enumerate() {
            let seen = look(glimpse, &rollout, tick);
            let before = rollout.desired().weights;
            rollout = step(rollout, &seen).0;
            let after = rollout.desired().weights;
            let share = |split: &BTreeMap<_, Weight>, arm| split.get(&arm).map_or(0, |share| share.basis_points());
            let (was, is) = (stretches(&before, rollout.starts()), stretches(&after, rollout.starts()));
            let lent = |split: &BTreeMap<RevisionNumber, Weight>| -> u16 {
                split.iter().filter(|(arm, _)| !arms.contains(arm)).map(|(_, share)| share.basis_points()).sum()
            };
            // What an alternative gives back was its lender's all along: a candidate may begin in the same step, from the lender's own.
            let returned = lent(&before).saturating_sub(lent(&after));
            let mut met: BTreeMap<RevisionNumber, u32> = BTreeMap::new();
            for &point in &points {
                let (old, new) = (owner(&was, point), owner(&is, point));
                new.iter().for_each(|&new| *met.entry(new).or_default() += 1);
                let (Some(old), Some(new)) = (old, new) else {
                    prop_assert!(before.is_empty() || after.is_empty(), "point {} of {:?}, {:?} is nobody's", point, before, after);
                    continue;
                };
                let shrank = share(&after, old) < share(&before, old) + returned;
                // Alternatives are only passed through: whoever is at one may be at another once one comes or goes.
                let stays = old == new || shrank || !arms.contains(&old);
                prop_assert!(stays, "{} left {:?} for {:?}: {:?} to {:?}", point, old, new, before, after);
                let grew = share(&after, new) > share(&before, new);
                prop_assert!(old == new || grew || !arms.contains(&new), "{} came to {:?}: {:?} to {:?}", point, new, before, after);
            }
            // Six standard deviations of the binomial distribution, and one for the rounding to whole points.
            for (&arm, share) in &after {
                let (units, share) = (points.len() as f64, f64::from(share.basis_points()) / 1e4);
                let (met, wanted) = (f64::from(met.get(&arm).copied().unwrap_or_default()), units * share);
                let room = 6.0 * (wanted * (1.0 - share)).sqrt() + 1.0;
                prop_assert!((met - wanted).abs() <= room, "{:?} has {} of {} units, {} were due", arm, met, units, wanted);
            }
        }
    }
}
