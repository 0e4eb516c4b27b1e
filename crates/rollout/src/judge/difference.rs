//! Two arms compared on one metric: an interval for the difference that holds at all times together, and what it means.

use modelyard_core::evidence::{Moments, RatioMoments, Statistic};
use modelyard_core::measure::Histogram;
use modelyard_core::metric::{Better, Metric, MetricKind};

use super::{LEAST_UNITS, times_until};
use crate::Verdict;
use crate::statistics::sequence::{self, Interval};

/// What a comparison says.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// `pass`: the candidate is better by the margin; `fail`: it certainly is not; else `inconclusive`.
    pub verdict: Verdict,
    /// Estimated difference, candidate less stable, in the metric's own unit; not a number without data.
    pub estimate: f64,
    /// Smallest difference that the evidence does not speak against.
    pub low: f64,
    /// Largest difference.
    pub high: f64,
    /// Units with a value, in the arm that has fewer.
    pub units: u64,
    /// What is known, for people, with figures.
    pub why: String,
    /// How many more units each arm needs, about, if the difference is what it looks like; none when that cannot be said.
    pub units_needed: Option<u64>,
}

/// An estimate with its variance and what it stands on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) variance: f64,
    pub(super) units: u64,
}

/// Compares two arms. `margin` is by how much the candidate must be better; `effect` the improvement above it that the comparison is planned
/// for; `error` the chance of calling a candidate better that is not, however often it is looked at.
///
/// `pass` needs the whole interval on the better side of the margin, `fail` the whole interval on the other side.
pub fn compare(
    metric: &Metric,
    stable: &Statistic,
    candidate: &Statistic,
    margin: f64,
    effect: f64,
    error: f64,
) -> Compared {
    let found = difference(metric, stable, candidate, effect, error);
    let Some(Found { estimate, interval, units, variance }) = found else {
        return Compared {
            verdict: Verdict::Inconclusive,
            estimate: f64::NAN,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
            units: 0,
            why: format!("`{}`: no value of both arms yet", metric.name),
            units_needed: None,
        };
    };
    let verdict = verdict(metric.better(), interval, margin);
    let enough = units >= LEAST_UNITS;
    let distance = distance(metric.better(), estimate, margin);
    let verdict = if enough { verdict } else { Verdict::Inconclusive };
    let units_needed = match (verdict, enough) {
        (Verdict::Inconclusive, false) => Some(LEAST_UNITS - units),
        (Verdict::Inconclusive, true) => forecast(distance, units, |times| match variance {
            Some(variance) => sequence::half_width(variance / times, effect, error),
            None => (interval.high - interval.low) / 2.0 / times.sqrt(),
        }),
        _ => None,
    };
    let why = in_words(metric, verdict, estimate, interval, margin, units_needed);
    Compared { verdict, estimate, low: interval.low, high: interval.high, units, why, units_needed }
}

fn verdict(better: Better, interval: Interval, margin: f64) -> Verdict {
    // Differences in the direction that is better.
    let (low, high) = match better {
        Better::Higher => (interval.low, interval.high),
        Better::Lower => (-interval.high, -interval.low),
        Better::Same => {
            // Any difference past the margin is worse; within it, the arms are the same.
            return match (
                interval.low.abs().max(interval.high.abs()) <= margin,
                interval.low > margin || interval.high < -margin,
            ) {
                (true, _) => Verdict::Pass,
                (_, true) => Verdict::Fail,
                _ => Verdict::Inconclusive,
            };
        }
    };
    match (low > margin, high < margin) {
        (true, _) => Verdict::Pass,
        (_, true) => Verdict::Fail,
        _ => Verdict::Inconclusive,
    }
}

/// How far the estimate lies from where the verdict turns.
fn distance(better: Better, estimate: f64, margin: f64) -> f64 {
    match better {
        Better::Higher => (estimate - margin).abs(),
        Better::Lower => (-estimate - margin).abs(),
        Better::Same => (margin - estimate.abs()).abs(),
    }
}

/// Units until the interval is clear of the margin, if estimates stay what they are. `half_width` tells it for so many times what came so far.
pub(super) fn forecast(distance: f64, units: u64, half_width: impl Fn(f64) -> f64) -> Option<u64> {
    let times = times_until(|times| half_width(times) < distance)?;
    Some((units as f64 * (times - 1.0)).ceil().max(1.0) as u64)
}

fn in_words(
    metric: &Metric,
    verdict: Verdict,
    estimate: f64,
    interval: Interval,
    margin: f64,
    needed: Option<u64>,
) -> String {
    let percent = matches!(metric.kind, MetricKind::Accuracy | MetricKind::F1 | MetricKind::Rate);
    let show = |value: f64| match percent {
        true => format!("{:+.2} %", value * 100.0),
        false => format!("{value:+.4}"),
    };
    let range = format!("{} ({} to {})", show(estimate), show(interval.low), show(interval.high));
    let wanted = if margin == 0.0 { String::new() } else { format!(" by {}", show(margin).trim_start_matches('+')) };
    let name = &metric.name;
    match (verdict, needed) {
        (Verdict::Pass, _) if metric.better() == Better::Same => format!("`{name}` is the same: {range}"),
        (Verdict::Pass, _) => format!("`{name}` is better{wanted}: {range}"),
        (Verdict::Fail, _) => format!("`{name}` is not better{wanted}: {range}"),
        (Verdict::Inconclusive, Some(units)) => {
            format!("not enough evidence yet: `{name}` {range}; about {units} more units in each arm")
        }
        (Verdict::Inconclusive, None) => format!("not enough evidence yet: `{name}` {range}; the arms look the same"),
    }
}

/// A difference, its interval, the units of the smaller arm, and the variance where the interval is made of one.
struct Found {
    estimate: f64,
    interval: Interval,
    units: u64,
    variance: Option<f64>,
}

/// The difference; none without data in both arms, and none of numbers that are no numbers.
fn difference(metric: &Metric, stable: &Statistic, candidate: &Statistic, effect: f64, error: f64) -> Option<Found> {
    if let Some(quantile) = quantile_of(metric) {
        let half = error / 2.0;
        let (s, c) = (quantiles(stable, quantile, half), quantiles(candidate, quantile, half));
        if let (Some((s, s_interval, s_units)), Some((c, c_interval, c_units))) = (s, c) {
            let interval = Interval { low: c_interval.low - s_interval.high, high: c_interval.high - s_interval.low };
            let is_known = (c - s).is_finite() && !interval.low.is_nan() && !interval.high.is_nan();
            let units = s_units.min(c_units);
            return is_known.then_some(Found { estimate: c - s, interval, units, variance: None });
        }
    }
    let (s, c) = (estimate(metric, stable)?, estimate(metric, candidate)?);
    let (estimate, units) = (c.value - s.value, s.units.min(c.units));
    let scale = estimate.abs().max(if effect.is_finite() { effect.abs() } else { 0.0 });
    let variance = floored(s.variance, s.units, scale) + floored(c.variance, c.units, scale);
    if !estimate.is_finite() {
        return None;
    }
    let half = if units < 2 { f64::INFINITY } else { sequence::half_width(variance, effect, error) };
    let interval = Interval { low: estimate - half, high: estimate + half };
    Some(Found { estimate, interval, units, variance: Some(variance) })
}

/// The variance of an estimate, or, of a series that has not varied yet, what three values in all that came would make of it, were they so far off: so
/// many may still be others with a chance of 5 % (the rule of three; J. Hanley and A. Lippman-Hand, JAMA 249 (1983)).
pub(super) fn floored(variance: f64, units: u64, scale: f64) -> f64 {
    if variance == 0.0 { 3.0 * (scale / units.max(1) as f64).powi(2) } else { variance }
}

/// The quantile that is compared, when one is.
pub(super) fn quantile_of(metric: &Metric) -> Option<f64> {
    (metric.kind == MetricKind::Quantile).then(|| metric.quantile.unwrap_or(0.95).clamp(0.0, 1.0))
}

pub(super) fn estimate(metric: &Metric, statistic: &Statistic) -> Option<Estimate> {
    let found = match statistic {
        Statistic::Proportion { units, hits } => proportion(*hits, *units),
        Statistic::Mean(moments) | Statistic::Value { all: moments, .. } => mean(moments, metric.bounds)?,
        Statistic::Ratio(moments) => ratio(moments)?,
        Statistic::Confusion { tp, fp, tn, r#fn } => f1(*tp, *fp, *tn, *r#fn)?,
        Statistic::Histogram(histogram) => of_histogram(histogram)?,
        Statistic::Sample { seen, values } => of_sample(*seen, values)?,
        Statistic::Count { events, exposure } => count(*events, *exposure)?,
    };
    (found.units > 0).then(|| match metric.kind {
        // The mean of the squares is known; the root moves by half a part of it for each part.
        MetricKind::Rmse if found.value > 0.0 => {
            Estimate { value: found.value.sqrt(), variance: found.variance / (4.0 * found.value), ..found }
        }
        _ => found,
    })
}

/// One more success and one more failure than were seen: a share of none or all is not taken for certain.
///
/// Source: A. Agresti and B. Caffo, "Simple and effective confidence intervals for proportions and differences of proportions", The American Statistician 54 (2000).
fn proportion(hits: u64, units: u64) -> Estimate {
    let (n, k) = (units as f64, hits.min(units) as f64);
    let shrunk = (k + 1.0) / (n + 2.0);
    let value = if units == 0 { f64::NAN } else { k / n };
    Estimate { value, variance: shrunk * (1.0 - shrunk) / (n + 2.0), units }
}

fn mean(moments: &Moments, bounds: Option<(f64, f64)>) -> Option<Estimate> {
    let variance = moments.variance()?;
    let n = moments.count as f64;
    // A series that has not varied yet may do so: within its bounds by one value in all that came.
    let floor = bounds.map_or(0.0, |(low, high)| (high - low).powi(2) / n);
    let sum = variance.max(floor.min(bounds.map_or(0.0, |(low, high)| (high - low).powi(2) / 4.0)));
    Some(Estimate { value: moments.mean, variance: sum / n, units: moments.count })
}

/// Source: the delta method for a ratio of means.
fn ratio(moments: &RatioMoments) -> Option<Estimate> {
    if moments.denominator <= 0.0 || moments.units < 2 {
        return None;
    }
    let value = moments.numerator / moments.denominator;
    let residual =
        moments.numerator_squares - 2.0 * value * moments.products + value * value * moments.denominator_squares;
    let n = moments.units as f64;
    let variance = residual.max(0.0) / moments.denominator.powi(2) * n / (n - 1.0);
    Some(Estimate { value, variance, units: moments.units })
}

/// F1 as a ratio of sums over answers: 2·tp over 2·tp + fp + fn.
fn f1(tp: u64, fp: u64, tn: u64, r#fn: u64) -> Option<Estimate> {
    let (tp, wrong) = (tp as f64, fp as f64 + r#fn as f64);
    let denominator = 2.0 * tp + wrong;
    if denominator <= 0.0 {
        return None;
    }
    let value = 2.0 * tp / denominator;
    let residual = tp * (2.0 - 2.0 * value).powi(2) + wrong * value * value;
    let units = fp.saturating_add(tn).saturating_add(r#fn).saturating_add(tp as u64);
    Some(Estimate { value, variance: residual.max(1.0) / denominator.powi(2), units })
}

/// Mean latency in ms.
pub(super) fn of_histogram(histogram: &Histogram) -> Option<Estimate> {
    let count = histogram.count();
    let n = count as f64;
    if count < 2 {
        return None;
    }
    let mean = histogram.sum_micros() as f64 / n / 1e3;
    let squares: f64 =
        histogram.buckets().map(|(floor, count)| count as f64 * (floor as f64 / 1e3 - mean).powi(2)).sum();
    Some(Estimate { value: mean, variance: squares / (n - 1.0) / n, units: count })
}

fn of_sample(seen: u64, values: &[f64]) -> Option<Estimate> {
    let mut moments = Moments::default();
    values.iter().for_each(|&value| moments.add(value));
    let found = mean(&moments, None)?;
    Some(Estimate { units: seen.min(found.units), ..found })
}

/// Events per exposure; one more event than was seen, as for shares.
fn count(events: u64, exposure: f64) -> Option<Estimate> {
    (exposure > 0.0).then(|| {
        let variance = (events as f64 + 1.0) / (exposure * exposure);
        Estimate { value: events as f64 / exposure, variance, units: exposure.min(1e18) as u64 }
    })
}

/// A quantile with the interval in which it lies at all times together: the ranks that a share of exactly `quantile` does not speak against.
///
/// Source: S. Howard and A. Ramdas, "Sequential estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28 (2022): a
/// confidence sequence for a quantile is one for the share of values below it.
pub(super) fn quantiles(statistic: &Statistic, quantile: f64, error: f64) -> Option<(f64, Interval, u64)> {
    let units = match statistic {
        Statistic::Histogram(histogram) => histogram.count(),
        Statistic::Sample { values, .. } => values.len() as u64,
        _ => return None,
    };
    let at = |share: f64| statistic.estimate(share.clamp(0.0, 1.0));
    let (low, high) = ranks(units, quantile, error);
    let interval = Interval {
        low: low.and_then(at).unwrap_or(f64::NEG_INFINITY),
        high: high.and_then(at).unwrap_or(f64::INFINITY),
    };
    Some((at(quantile)?, interval, units))
}

/// Smallest and largest share of the values, by rank, whose interval still holds `quantile`; none where the sample has no such value.
fn ranks(units: u64, quantile: f64, error: f64) -> (Option<f64>, Option<f64>) {
    let holds = |hits: u64| {
        let interval = sequence::share(hits, units, error);
        interval.low <= quantile && quantile <= interval.high
    };
    let centre = ((units as f64 * quantile).round() as u64).min(units);
    if units == 0 || !holds(centre) {
        return (None, None);
    }
    // Of the hits on either side of the centre those near it are kept, and the others are not: halving finds where that changes.
    let edge = |mut kept: u64, mut refused: u64| {
        while kept.abs_diff(refused) > 1 {
            let middle = u64::midpoint(kept, refused);
            if holds(middle) { kept = middle } else { refused = middle }
        }
        kept as f64 / units as f64
    };
    let low = (!holds(0)).then(|| edge(centre, 0));
    let high = (!holds(units)).then(|| edge(centre, units) + 1.0 / units as f64);
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(kind: &str) -> Metric {
        serde_json::from_str(&format!(r#"{{"name": "m", "kind": "{kind}", "from": "feedback", "quantile": 0.9}}"#))
            .unwrap()
    }

    fn near(found: f64, reference: f64, what: &str) {
        assert!((found / reference - 1.0).abs() < 1e-9, "{what}: {found}, not {reference}");
    }

    /// References: NumPy 2 on the same data written out one answer at a time, 1/n² · Σ((aᵢ − r·bᵢ)/b̄)² for ratios.
    #[test]
    fn estimates_and_their_variances_are_those_of_the_delta_method() {
        let f1 = estimate(&metric("f1"), &Statistic::Confusion { tp: 40, fp: 10, tn: 130, r#fn: 20 }).unwrap();
        near(f1.value, F1.0, "F1");
        near(f1.variance, F1.1, "F1's variance");
        assert_eq!(f1.units, 200);
        let mut squares = Moments::default();
        (1..=100).for_each(|i| squares.add(f64::from(i * i % 17)));
        let rmse = estimate(&metric("rmse"), &Statistic::Mean(squares)).unwrap();
        near(rmse.value, RMSE.0, "RMSE");
        near(rmse.variance, RMSE.1, "RMSE's variance");
        let mut sessions = RatioMoments::default();
        for i in 1..=60_u32 {
            let (values, sum) = (f64::from(1 + i % 4), f64::from(i * 7 % 5));
            sessions.units += 1;
            sessions.numerator += sum;
            sessions.denominator += values;
            sessions.numerator_squares += sum * sum;
            sessions.denominator_squares += values * values;
            sessions.products += sum * values;
        }
        let ratio = estimate(&metric("rate"), &Statistic::Ratio(sessions)).unwrap();
        near(ratio.value, RATIO.0, "ratio");
        near(ratio.variance, RATIO.1, "ratio's variance");
        let count = estimate(&metric("count"), &Statistic::Count { events: 30, exposure: 200.0 }).unwrap();
        near(count.value, 0.15, "count");
        near(count.variance, 31.0 / 40_000.0, "count's variance: Poisson, one event added");
    }
    const F1: (f64, f64) = (0.7272727272727273, 0.0022949252100266373);
    const RMSE: (f64, f64) = (2.8548204847240397, 0.009756305385139738);
    const RATIO: (f64, f64) = (0.8, 0.00759322033898305);

    /// Reference: ranks k with the quantile inside the beta-binomial interval of k of n (SciPy 1.17, `scipy.special.betaln`).
    #[test]
    fn quantiles_lie_between_the_ranks_that_the_mixture_keeps() {
        let values: Vec<f64> = (1..=1_000).map(f64::from).collect();
        let statistic = Statistic::Sample { seen: 1_000, values };
        let (value, interval, units) = quantiles(&statistic, 0.9, 0.025).unwrap();
        assert_eq!((value, units), (900.0, 1_000));
        assert_eq!((interval.low, interval.high), (862.0, 935.0));
        let (_, few, _) =
            quantiles(&Statistic::Sample { seen: 5, values: vec![1.0, 2.0, 3.0, 4.0, 5.0] }, 0.9, 0.025).unwrap();
        assert_eq!(few.high, f64::INFINITY, "five values have no upper bound of their 90 %");
    }

    #[test]
    fn constants_that_differ_take_some_units() {
        let constant = |value: f64, count: u64| Statistic::Mean(Moments { count, mean: value, squares: 0.0 });
        let found = |n: u64, difference: f64| {
            compare(&metric("mean"), &constant(1.0, n), &constant(1.0 + difference, n), 0.0, 0.5, 0.05)
        };
        assert_eq!(found(49, 1.0).verdict, Verdict::Inconclusive);
        let decided = found(200, 1.0);
        assert!(decided.verdict == Verdict::Pass && decided.low > 0.5 && decided.high > 1.0, "{decided:?}");
        assert_eq!(
            found(60, 0.01).verdict,
            Verdict::Inconclusive,
            "a trifle against the effect that is looked for: {:?}",
            found(60, 0.01)
        );
        assert_eq!(found(500, 0.0).verdict, Verdict::Inconclusive, "equal constants stay open");
    }
}
