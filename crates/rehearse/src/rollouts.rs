//! Plans to play: each strategy with short times, so that a rollout takes some virtual seconds.

use modelyard_core::service::{Routing, ServiceSpec};
use modelyard_core::strategy::{Analysis, BlueGreen, Canary, Recreate, RollbackPolicy, Rolling, Strategy};
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

fn steps(random: &mut fastrand::Rng) -> Vec<Weight> {
    let choices: [&[u16]; 4] =
        [&[1_000, 2_500, 5_000, 10_000], &[500, 10_000], &[2_000, 10_000], &[100, 1_000, 9_999, 10_000]];
    choices[random.usize(..choices.len())].iter().filter_map(|&points| Weight::new(points).ok()).collect()
}

/// A plan of a strategy, its details drawn at random.
///
/// # Errors
/// None for the names of [`Strategy::NAMES`]; the drawn details make sense.
pub fn drawn(strategy: &str, random: &mut fastrand::Rng) -> Result<Plan, PlanError> {
    let instances = random.u32(1..5);
    let strategy = match strategy {
        "recreate" => Strategy::Recreate(Recreate { park: random.bool() }),
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
        _ => Strategy::Canary(Canary {
            steps: steps(random),
            bake: Millis(random.u64(..2_500)),
            manual: random.u8(..6) == 0,
        }),
    };
    let mut spec = spec(strategy, instances);
    spec.rollback = RollbackPolicy { automatic: random.u8(..8) > 0, stepped: random.u8(..4) == 0 };
    spec.analysis.crash_tolerance = random.u32(..2);
    spec.analysis.max_latency_ratio = random.bool().then_some(3.0);
    Plan::new(&spec)
}
