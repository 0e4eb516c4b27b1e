//! How many units a test will need, and how long that takes: said before it starts.

use modelyard_core::Millis;
use modelyard_core::evidence::Statistic;
use modelyard_core::metric::{Better, Metric, MetricKind};
use modelyard_core::strategy::{Ab, Unit};

use super::difference::{estimate, quantile_of};
use crate::forecast::rounded;
use crate::statistics::{normal, sequence};

/// How much more a test needs that may be looked at at any time, at most, when the effect is the planned one.
// 1.3: what simulation shows (`cargo xtask bench judges`); with a larger effect it ends sooner than the fixed test would.
const INFLATION: f64 = 1.3;

/// Values of stable before it may say how much a metric varies.
const LEAST_VALUES: u64 = 20;

/// The planned size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// Units in the smallest arm, for a test that is looked at once.
    pub fixed_units: u64,
    /// The same for this one, which may be looked at at any time.
    pub units: u64,
    /// Units over all arms until the smallest has that many.
    pub all_units: u64,
}

impl Planned {
    /// How long that takes at so many units per second over all arms; none without traffic.
    pub fn time(&self, units_per_second: f64) -> Option<Millis> {
        let seconds = self.all_units as f64 / units_per_second;
        (units_per_second > 0.0 && seconds.is_finite()).then(|| rounded(seconds))
    }
}

/// What is to be expected of a test before it starts, for people: the planned size and the time that it takes at today's traffic, or what is missing to tell.
///
/// `stable`: what is known of the deciding metric of stable so far. `units_per_second`: requests (or sessions, where those are the unit) that the service
/// gets at present over all arms; none where nobody knows.
pub fn expect(ab: &Ab, metric: &Metric, stable: Option<&Statistic>, units_per_second: Option<f64>) -> String {
    let Some(planned) = plan_size(ab, metric, stable) else {
        return format!(
            "how large the test of `{}` will be cannot be told yet: write what is `expected` of stable, or wait for {LEAST_VALUES} values of it",
            metric.name
        );
    };
    let units = if ab.unit == Unit::Session { "sessions" } else { "units" };
    let time = match units_per_second.map(|pace| planned.time(pace)) {
        Some(Some(time)) => format!(", in about {time} at today's traffic"),
        Some(None) => "; there is no traffic, so nobody can tell when".to_owned(),
        None => String::new(),
    };
    format!(
        "planned: an improvement of `{}` by {} is found within about {} {units} in each arm ({} over all; {} if looked at once){time}",
        metric.name, ab.effect, planned.units, planned.all_units, planned.fixed_units
    )
}

/// Plans a test. `stable` is what is known of stable so far; none when neither that nor `expected` says how much the metric varies.
///
/// The error is shared among the arms, as it is when they are judged.
///
/// Source: the two-sample z-test: σ₁²/n + σ₂²/m = (effect / (z₁₋α + z_power))². For what is no mean, σ² is that of the delta method.
pub fn plan_size(ab: &Ab, metric: &Metric, stable: Option<&Statistic>) -> Option<Planned> {
    let share = |weight: modelyard_core::Weight| f64::from(weight.basis_points()) / 1e4;
    let arms: Vec<f64> = std::iter::once(ab.share).chain(ab.arms.iter().map(|arm| arm.share)).map(share).collect();
    let control = 1.0 - arms.iter().sum::<f64>();
    let smallest = arms.iter().copied().fold(f64::INFINITY, f64::min);
    if smallest <= 0.0 || control <= 1e-9 || ab.effect <= 0.0 {
        return None;
    }
    let error = ab.error / arms.len() as f64;
    let (of_stable, of_candidate) = variances(ab, metric, stable)?;
    let z = normal::quantile(1.0 - error) + normal::quantile(ab.power);
    // Units over all arms: each arm gets its share of them, and the smallest decides last.
    let all = (z / ab.effect).powi(2) * (of_candidate / smallest + of_stable / control);
    let any_time = match quantile_of(metric) {
        Some(quantile) => all_for_quantile(ab, quantile, error, (of_stable, of_candidate), (control, smallest))?,
        None => all * INFLATION,
    };
    let least = smallest.min(control);
    let whole = |value: f64| if value.is_finite() { value.ceil().min(1e15) as u64 } else { u64::MAX };
    let at_least = |units: u64| units.max(ab.least_units);
    Some(Planned {
        fixed_units: at_least(whole(all * least)),
        units: at_least(whole(any_time * least)),
        all_units: whole(any_time).max(whole(ab.least_units as f64 / least)),
    })
}

/// A quantile is judged by the ranks of each arm alone, each at half the error: the two intervals must come apart, which takes more than the z-test does.
fn all_for_quantile(ab: &Ab, q: f64, error: f64, variances: (f64, f64), shares: (f64, f64)) -> Option<f64> {
    // How far the value moves for each part of the rank: the root of the variance over that of the share.
    let slope = |variance: f64| (variance / (q * (1.0 - q))).sqrt();
    let width = |units: f64, variance: f64| {
        let trials = units.min(1e15) as u64;
        let found = sequence::share((trials as f64 * q).round() as u64, trials, error / 2.0);
        (found.high - found.low) / 2.0 * slope(variance)
    };
    let is_enough = |all: f64| {
        let (stable, candidate) = (all * shares.0, all * shares.1);
        let noise = (variances.0 / stable + variances.1 / candidate).sqrt() * normal::quantile(ab.power);
        width(stable, variances.0) + width(candidate, variances.1) + noise <= ab.effect
    };
    let (mut few, mut enough) = (1.0, 1e13);
    if !is_enough(enough) {
        return None;
    }
    for _ in 0..60 {
        let middle = f64::sqrt(few * enough);
        if is_enough(middle) { enough = middle } else { few = middle }
    }
    Some(enough)
}

/// Variances of one unit in stable and, were it better by margin and effect, in the candidate: that of a share moves with the share.
fn variances(ab: &Ab, metric: &Metric, stable: Option<&Statistic>) -> Option<(f64, f64)> {
    let change = match metric.better() {
        Better::Higher => ab.margin + ab.effect,
        Better::Lower => -ab.margin - ab.effect,
        Better::Same => 0.0,
    };
    let found = match (ab.expected, stable) {
        (Some(expected), _) => expected_variances(metric, expected, change),
        (None, Some(Statistic::Proportion { units, hits })) if *units >= LEAST_VALUES => {
            let share = (*hits as f64 + 1.0) / (*units as f64 + 2.0);
            (of_share(share), of_share(share + change))
        }
        (None, Some(statistic)) => learnt(metric, statistic).map(|variance| (variance, variance))?,
        (None, None) => return None,
    };
    let is_known = found.0 + found.1 > 0.0 && (found.0 + found.1).is_finite();
    is_known.then_some(found)
}

fn of_share(share: f64) -> f64 {
    share.clamp(0.0, 1.0) * (1.0 - share.clamp(0.0, 1.0))
}

/// What `expected` means for each kind: a rate, F1, an RMSE, events per answer, or else the deviation of one value.
fn expected_variances(metric: &Metric, expected: f64, change: f64) -> (f64, f64) {
    // Of balanced classes, with as many false positives as false negatives: 2·tp/(2·tp + fp + fn) is the recall, and its denominator 1 per answer.
    let of_f1 = |f1: f64| of_share(f1) * (2.0 - f1.clamp(0.0, 1.0));
    let both = |variance: f64| (variance, variance);
    match metric.kind {
        MetricKind::Accuracy | MetricKind::Rate => (of_share(expected), of_share(expected + change)),
        MetricKind::F1 => (of_f1(expected), of_f1(expected + change)),
        // Of normal errors with deviation σ the squares vary by 2·σ⁴, and the root by σ²/2.
        MetricKind::Rmse => (expected.powi(2) / 2.0, (expected + change).powi(2) / 2.0),
        MetricKind::Count => (expected.abs(), (expected + change).abs()),
        // Of normal values with that deviation.
        MetricKind::Quantile => {
            let q = quantile_of(metric).unwrap_or(0.95);
            let density = (-normal::quantile(q).powi(2) / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            both(q * (1.0 - q) * (expected / density).powi(2))
        }
        _ => both(expected * expected),
    }
}

/// The variance of one unit, by what stable did so far.
fn learnt(metric: &Metric, statistic: &Statistic) -> Option<f64> {
    if let Some(quantile) = quantile_of(metric).filter(|_| !matches!(statistic, Statistic::Value { .. })) {
        return around_quantile(statistic, quantile);
    }
    let found = estimate(metric, statistic)?;
    (found.units >= LEAST_VALUES).then_some(found.variance * found.units as f64)
}

/// q·(1−q) over the squared density, which is read from the values a little to either side.
///
/// Source: P. Hall and S. Sheather, "On the distribution of a studentized quantile", J. R. Statist. Soc. B 50 (1988), for the difference quotient; its bandwidth n^(−1/3).
fn around_quantile(statistic: &Statistic, quantile: f64) -> Option<f64> {
    let units = match statistic {
        Statistic::Histogram(histogram) => histogram.count(),
        Statistic::Sample { values, .. } => values.len() as u64,
        _ => return None,
    };
    let reach = (units as f64).powf(-1.0 / 3.0).min(quantile).min(1.0 - quantile) * 0.9;
    let (low, high) = (statistic.estimate(quantile - reach)?, statistic.estimate(quantile + reach)?);
    let slope = (high - low) / (2.0 * reach);
    (units >= LEAST_VALUES && reach > 0.0).then_some(quantile * (1.0 - quantile) * slope * slope)
}

#[cfg(test)]
mod tests {
    use modelyard_core::Weight;
    use modelyard_core::evidence::{Moments, RatioMoments};

    use super::*;

    fn metric(kind: &str) -> Metric {
        let text = format!(r#"{{"name": "m", "kind": "{kind}", "from": "feedback", "quantile": 0.95}}"#);
        serde_json::from_str(&text).unwrap()
    }

    /// Reference: (z₀.₉₅ + z₀.₈)² = 6.182557 (SciPy 1.17, `scipy.stats.norm.ppf`), times the variances of both arms, over the squared effect.
    #[test]
    fn the_size_is_that_of_the_two_sample_test() {
        // (1.6449 + 0.8416)² · (0.9 · 0.1 + 0.95 · 0.05) / 0.05² = 340.04
        let ab = Ab { expected: Some(0.9), effect: 0.05, ..Ab::default() };
        let planned = plan_size(&ab, &metric("accuracy"), None).unwrap();
        assert_eq!(planned.fixed_units, 341);
        assert_eq!((planned.units, planned.all_units), (443, 885));
        let uneven = Ab { share: Weight::new(1_000).unwrap(), ..ab.clone() };
        assert!(plan_size(&uneven, &metric("accuracy"), None).unwrap().all_units > 2 * planned.all_units);
        assert_eq!(
            plan_size(&Ab { expected: None, ..ab }, &metric("accuracy"), None),
            None,
            "nobody knows how much it varies"
        );
        for (kind, expected, effect, fixed) in [
            ("mean", 2.0, 0.5, 198),  // 6.182557 · 2 · 4 / 0.25 = 197.84
            ("f1", 0.8, 0.05, 810),   // 6.182557 · (0.16 · 1.2 + 0.1275 · 1.15 − …): see below
            ("rmse", 2.0, 0.2, 560),  // 6.182557 · (4 / 2 + 1.8² / 2) / 0.04 = 559.52
            ("count", 3.0, 0.3, 434), // 6.182557 · (3 + 3.3) / 0.09 = 432.78
        ] {
            let ab = Ab { expected: Some(expected), effect, ..Ab::default() };
            let found = plan_size(&ab, &metric(kind), None).unwrap().fixed_units;
            let reference = match kind {
                "f1" => 6.182_557 * (0.8 * 0.2 * 1.2 + 0.85 * 0.15 * 1.15) / 0.0025,
                "count" => 6.182_557 * 6.3 / 0.09,
                _ => f64::from(fixed),
            };
            assert_eq!(found, reference.ceil() as u64, "{kind}");
        }
    }

    #[test]
    fn arms_share_the_error_and_the_smallest_decides_last() {
        let arm = |points| modelyard_core::strategy::Arm {
            package: "m:3".into(),
            share: Weight::new(points).unwrap(),
            flags: Default::default(),
        };
        let ab = Ab {
            expected: Some(1.0),
            effect: 0.1,
            share: Weight::new(2_500).unwrap(),
            arms: vec![arm(2_500)],
            ..Ab::default()
        };
        // (z₀.₉₇₅ + z₀.₈)² = 7.848880: over all 7.848880 · (1/0.25 + 1/0.5) / 0.01 = 4709.33, a quarter of it in the smallest.
        assert_eq!(plan_size(&ab, &metric("mean"), None).unwrap().fixed_units, 1_178);
        let uneven = Ab { share: Weight::new(4_000).unwrap(), arms: vec![arm(1_000)], ..ab };
        // 7.848880 · (1/0.1 + 1/0.5) / 0.01 = 9418.66, a tenth of it.
        assert_eq!(plan_size(&uneven, &metric("mean"), None).unwrap().fixed_units, 942);
    }

    #[test]
    fn every_statistic_says_how_much_it_varies() {
        let ab = Ab { effect: 0.1, ..Ab::default() };
        let fixed =
            |kind: &str, statistic: &Statistic| plan_size(&ab, &metric(kind), Some(statistic)).map(|p| p.fixed_units);
        // 6.182557 · 2 · σ² / 0.01 = 1236.51 · σ²
        let moments = Moments { count: 1_001, mean: 4.0, squares: 1_000.0 };
        assert_eq!(fixed("mean", &Statistic::Mean(moments)), Some(1_237));
        // The root of a mean of squares of 4 varies by 1 / (4 · 4).
        assert_eq!(fixed("rmse", &Statistic::Mean(moments)), Some(100), "77.3, but at least 100 units");
        let fine = Ab { effect: 0.01, ..ab.clone() };
        assert_eq!(plan_size(&fine, &metric("rmse"), Some(&Statistic::Mean(moments))).unwrap().fixed_units, 7_729);
        // Sessions of two values each that agree: half the sessions at 1, half at 0. A session's mean varies by a quarter.
        let sessions = RatioMoments {
            units: 1_000,
            numerator: 1_000.0,
            denominator: 2_000.0,
            numerator_squares: 2_000.0,
            denominator_squares: 4_000.0,
            products: 2_000.0,
        };
        let found = fixed("rate", &Statistic::Ratio(sessions)).unwrap();
        assert!((309..=311).contains(&found), "1236.51 / 4, not {found}");
        let confusion = Statistic::Confusion { tp: 400, fp: 100, tn: 400, r#fn: 100 };
        // (400 · 0.4² + 200 · 0.8²) / 1000² · 1000 = 0.192
        assert_eq!(fixed("f1", &confusion), Some(238));
        assert_eq!(fixed("count", &Statistic::Count { events: 999, exposure: 1_000.0 }), Some(1_237));
        // Values spread evenly over 0 … 1: the density is 1, and 0.95 varies by 0.95 · 0.05.
        let values: Vec<f64> = (0..4_000).map(|n| f64::from(n) / 4_000.0).collect();
        let even = Statistic::Sample { seen: 4_000, values };
        let finer = Ab { effect: 0.02, ..ab.clone() };
        let planned = plan_size(&finer, &metric("quantile"), Some(&even)).unwrap();
        // 6.182557 · 2 · 0.0475 / 0.0004 = 1468.4
        assert!((1_400..1_540).contains(&planned.fixed_units), "{planned:?}");
        assert!(
            (3 * planned.fixed_units..12 * planned.fixed_units).contains(&planned.units),
            "ranks need more: {planned:?}"
        );
        assert_eq!(
            fixed("mean", &Statistic::Mean(Moments { count: 19, mean: 1.0, squares: 9.0 })),
            None,
            "too few to tell"
        );
    }

    #[test]
    fn the_time_is_told_before_the_start_or_why_it_cannot_be() {
        let ab = Ab { expected: Some(0.9), effect: 0.05, ..Ab::default() };
        let metric = metric("accuracy");
        let told = expect(&ab, &metric, None, Some(2.0));
        assert!(
            told.contains("443 units in each arm (885 over all; 341")
                && told.ends_with("in about 7 min 30 s at today's traffic"),
            "{told}"
        );
        assert!(expect(&ab, &metric, None, Some(0.0)).ends_with("there is no traffic, so nobody can tell when"));
        assert!(expect(&ab, &metric, None, None).ends_with("if looked at once)"));
        assert!(expect(&Ab { expected: None, ..ab }, &metric, None, Some(2.0)).contains("cannot be told yet"));
    }
}
