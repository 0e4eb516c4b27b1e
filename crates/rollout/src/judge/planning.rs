//! How many units a test will need: said before it starts.

use modelyard_core::evidence::Statistic;
use modelyard_core::metric::{Better, Metric, MetricKind};
use modelyard_core::strategy::Ab;

use crate::statistics::normal;

/// How much more a test needs that may be looked at at any time, at most, when the effect is the planned one.
// 1.3: what simulation shows (`cargo xtask bench judges`); with a larger effect it ends sooner than the fixed test would.
const INFLATION: f64 = 1.3;

/// The planned size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// Units in the smaller of the two arms, for a test that is looked at once.
    pub fixed_units: u64,
    /// The same for this one, which may be looked at at any time.
    pub units: u64,
    /// Units over all arms until the smaller has that many.
    pub all_units: u64,
}

/// Plans a test. `stable` is what is known of stable so far; none when neither that nor `expected` says how much the metric varies.
///
/// Source: the two-sample z-test: σ₁²/n + σ₂²/m = (effect / (z₁₋α + z_power))².
pub fn plan_size(ab: &Ab, metric: &Metric, stable: Option<&Statistic>) -> Option<Planned> {
    let share = f64::from(ab.share.basis_points()) / 1e4;
    let others: f64 = ab.arms.iter().map(|arm| f64::from(arm.share.basis_points()) / 1e4).sum();
    let control = 1.0 - share - others;
    if share <= 0.0 || control <= 0.0 || ab.effect <= 0.0 {
        return None;
    }
    let (of_stable, of_candidate) = variances(ab, metric, stable)?;
    let z = normal::quantile(1.0 - ab.error) + normal::quantile(ab.power);
    // Units over all arms: each arm gets its share of them.
    let all = (z / ab.effect).powi(2) * (of_candidate / share + of_stable / control);
    let smaller = all * share.min(control);
    let whole = |value: f64| if value.is_finite() { value.ceil().min(1e15) as u64 } else { u64::MAX };
    let least = |units: u64| units.max(ab.least_units);
    Some(Planned {
        fixed_units: least(whole(smaller)),
        units: least(whole(smaller * INFLATION)),
        all_units: whole(all * INFLATION).max(whole(ab.least_units as f64 / share.min(control))),
    })
}

/// Variances of one unit in stable and, were it better by margin and effect, in the candidate: that of a share moves with the share.
fn variances(ab: &Ab, metric: &Metric, stable: Option<&Statistic>) -> Option<(f64, f64)> {
    let is_share = matches!(metric.kind, MetricKind::Accuracy | MetricKind::F1 | MetricKind::Rate);
    let change = match metric.better() {
        Better::Higher => ab.margin + ab.effect,
        Better::Lower => -ab.margin - ab.effect,
        Better::Same => 0.0,
    };
    let of_share = |share: f64| {
        let variance = |share: f64| share.clamp(0.0, 1.0) * (1.0 - share.clamp(0.0, 1.0));
        (variance(share), variance(share + change))
    };
    let found = match (ab.expected, stable) {
        (Some(expected), _) if is_share => of_share(expected),
        (Some(expected), _) => (expected * expected, expected * expected),
        (None, Some(Statistic::Proportion { units, hits })) if *units >= 20 => {
            of_share((*hits as f64 + 1.0) / (*units as f64 + 2.0))
        }
        (None, Some(Statistic::Mean(moments))) if moments.count >= 20 => moments.variance().map(|v| (v, v))?,
        _ => return None,
    };
    (found.0 + found.1 > 0.0).then_some(found)
}

#[cfg(test)]
mod tests {
    use modelyard_core::Weight;

    use super::*;

    #[test]
    fn the_size_is_that_of_the_two_sample_test() {
        let metric: Metric =
            serde_json::from_value(serde_json::json!({ "name": "m", "kind": "accuracy", "from": "feedback" })).unwrap();
        // (1.6449 + 0.8416)² · (0.9 · 0.1 + 0.95 · 0.05) / 0.05² = 340.04
        let ab = Ab { expected: Some(0.9), effect: 0.05, ..Ab::default() };
        let planned = plan_size(&ab, &metric, None).unwrap();
        assert_eq!(planned.fixed_units, 341);
        assert_eq!((planned.units, planned.all_units), (443, 885));
        let uneven = Ab { share: Weight::new(1_000).unwrap(), ..ab.clone() };
        assert!(plan_size(&uneven, &metric, None).unwrap().all_units > 2 * planned.all_units);
        assert_eq!(plan_size(&Ab { expected: None, ..ab }, &metric, None), None, "nobody knows how much it varies");
    }
}
