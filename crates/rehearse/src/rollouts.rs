//! Plans to play: each strategy with short times, so that a rollout takes some virtual seconds.

use std::collections::BTreeMap;

use modelyard_core::beside::ShadowArm;
use modelyard_core::metric::Metric;
use modelyard_core::service::{Routing, ServiceSpec};
use modelyard_core::strategy::{
    Ab, Analysis, Arm, BlueGreen, Canary, QualityAction, Recreate, RollbackPolicy, Rolling, Shadow, Strategy, Then,
};
use modelyard_core::{Millis, ServiceName, Weight};
use modelyard_rollout::{Plan, PlanError};

/// A service's rules with short times.
pub fn spec(strategy: Strategy, instances: u32) -> ServiceSpec {
    ServiceSpec {
        instances,
        strategy,
        analysis: Analysis {
            min_requests: 10,
            window: Millis::seconds(5),
            startup_timeout: Millis::seconds(10),
            ..Analysis::default()
        },
        rollback: RollbackPolicy::default(),
        routing: Routing { drain: Millis::seconds(2), ..Routing::default() },
        ..ServiceSpec::named(ServiceName::new("wine").unwrap_or_else(|_| unreachable!("`wine` is a service name")))
    }
}

/// The share of right answers, as labels tell it.
pub fn accuracy() -> Metric {
    let words = serde_json::json!({ "name": "accuracy", "kind": "accuracy", "from": "feedback" });
    serde_json::from_value(words).unwrap_or_else(|error| unreachable!("these are a metric's words: {error}"))
}

fn steps(random: &mut fastrand::Rng) -> Vec<Weight> {
    let choices: [&[u16]; 4] =
        [&[1_000, 2_500, 5_000, 10_000], &[500, 10_000], &[2_000, 10_000], &[100, 1_000, 9_999, 10_000]];
    choices[random.usize(..choices.len())].iter().filter_map(|&points| Weight::new(points).ok()).collect()
}

/// None, one or two shadows beside the arms.
fn shadows(random: &mut fastrand::Rng) -> Vec<ShadowArm> {
    let count = random.usize(..6).saturating_sub(3);
    let arm = |share: u16| Arm {
        package: "wine:3".to_owned(),
        share: Weight::new(share * 1_000).unwrap_or_default(),
        flags: BTreeMap::new(),
    };
    (0..count).map(|_| arm(random.u16(1..=10)).into()).collect()
}

/// A plan of a strategy, its details drawn at random.
///
/// # Errors
/// None for the names of [`Strategy::NAMES`]; the drawn details make sense.
pub fn drawn(strategy: &str, random: &mut fastrand::Rng) -> Result<Plan, PlanError> {
    let instances = random.u32(1..5);
    let strategy = match strategy {
        "recreate" => Strategy::Recreate(Recreate {
            park: random.bool(),
            watch: Millis(if random.bool() { 0 } else { random.u64(..5_000) }),
        }),
        "rolling" => {
            let max_unavailable = random.u32(..instances);
            let max_surge = random.u32(u32::from(max_unavailable == 0)..4);
            Strategy::Rolling(Rolling {
                batch: random.u32(1..4),
                max_surge,
                max_unavailable,
                pause: Millis(random.u64(..2_000)),
            })
        }
        "blue-green" => Strategy::BlueGreen(BlueGreen {
            steps: if random.bool() { steps(random) } else { Vec::new() },
            bake: Millis(random.u64(..2_000)),
            preview: Millis(random.u64(..2_000)),
            manual: random.u8(..4) == 0,
            rollback_window: Millis(random.u64(..5_000)),
        }),
        "ab" => Strategy::Ab(Ab {
            share: Weight::new(random.u16(1..9) * 1_000).unwrap_or_default(),
            metric: "accuracy".to_owned(),
            effect: 0.1,
            least_units: 20,
            shadows: shadows(random),
            longest: Some(Millis(random.u64(2_000..20_000))),
            ..Ab::default()
        }),
        "shadow" => Strategy::Shadow(Shadow {
            share: Weight::new(random.u16(1..=10) * 1_000).unwrap_or_default(),
            least_pairs: 20,
            max_disagreement: 0.2,
            bake: Millis(random.u64(..2_000)),
            then: [Then::Ask, Then::Canary, Then::End][random.usize(..3)],
            steps: steps(random),
            ..Shadow::default()
        }),
        _ => Strategy::Canary(Canary {
            steps: steps(random),
            bake: Millis(random.u64(..2_500)),
            manual: random.u8(..6) == 0,
            shadows: shadows(random),
        }),
    };
    let mut spec = spec(strategy, instances);
    spec.rollback = RollbackPolicy { automatic: random.u8(..8) > 0, stepped: random.u8(..4) == 0 };
    if matches!(spec.strategy, Strategy::Ab(_)) {
        spec.metrics.push(accuracy());
    }
    let actions = [QualityAction::Ask, QualityAction::StepBack, QualityAction::RollBack];
    spec.quality.action = actions[random.usize(..actions.len())];
    spec.analysis.crash_tolerance = random.u32(..2);
    spec.analysis.max_latency_ratio = random.bool().then_some(3.0);
    Plan::new(&spec)
}
