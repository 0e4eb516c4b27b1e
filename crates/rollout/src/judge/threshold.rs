//! The threshold judge: each metric within its limits, check by check, as Flagger has it. No error rate is promised.
//!
//! Source: Flagger's analysis: a check every `interval`; `threshold` failed checks take the canary back.

use modelyard_core::Millis;
use modelyard_core::evidence::ArmEvidence;
use modelyard_core::metric::{Judge, Metric};

use super::guard::One;
use crate::Verdict;

/// Checks of one metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Checks {
    passed: u64,
    failed: u64,
    /// Value of the newest.
    newest: Option<f64>,
}

/// What the checks of one metric say.
pub(super) fn check<'a>(metric: &'a Metric, judge: &Judge, candidate: &ArmEvidence) -> One<'a> {
    let series = candidate.series.get(&metric.name).map_or(&[][..], Vec::as_slice);
    let span = Millis(candidate.step.0.max(1));
    let each = judge.interval.0.div_ceil(span.0).max(1).min(series.len().max(1) as u64 + 1) as usize;
    let checks = count(metric, series, if candidate.step == Millis(0) { 1 } else { each });
    let Checks { passed, failed, newest } = checks;
    let value = newest.map_or_else(|| "without a value".to_owned(), |value| format!("{value:.4}"));
    let line =
        format!("`{}` is {value}{}: {failed} of {} checks failed", metric.name, allowed(metric), passed + failed);
    let (most, least) = (u64::from(judge.max_failed), u64::from(judge.least_passed));
    let verdict = match (failed >= most, passed >= least) {
        (true, _) => Verdict::Fail,
        (_, true) => Verdict::Pass,
        _ => Verdict::Inconclusive,
    };
    let missing = least.saturating_sub(passed);
    let open = (verdict == Verdict::Inconclusive && newest.is_some())
        .then(|| format!("{line}; {missing} more must pass of the {least} that a verdict needs"));
    let more = Millis((each as u64).saturating_mul(candidate.step.0).saturating_mul(missing));
    One { metric, verdict, has_data: newest.is_some(), line, open, more: (more > Millis(0)).then_some(more) }
}

/// Each whole stretch of so many intervals is one check, by its mean; those without a value are none. What is still growing does not count yet.
fn count(metric: &Metric, series: &[Option<f64>], each: usize) -> Checks {
    let whole = if each > 1 { series.len().saturating_sub(1) / each * each } else { series.len() };
    let mut checks = Checks::default();
    for stretch in series[..whole].chunks(each) {
        let values: Vec<f64> = stretch.iter().flatten().copied().filter(|value| value.is_finite()).collect();
        if values.is_empty() {
            continue;
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let outside =
            metric.minimum.is_some_and(|least| mean < least) || metric.maximum.is_some_and(|most| mean > most);
        *(if outside { &mut checks.failed } else { &mut checks.passed }) += 1;
        checks.newest = Some(mean);
    }
    checks
}

fn allowed(metric: &Metric) -> String {
    let limits =
        [metric.minimum.map(|least| format!("at least {least}")), metric.maximum.map(|most| format!("at most {most}"))];
    let limits = limits.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    if limits.is_empty() { limits } else { format!(" ({limits})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric() -> Metric {
        serde_json::from_str(r#"{"name": "m", "kind": "mean", "from": "reward", "minimum": 0.5}"#).unwrap()
    }

    fn arm(step_ms: u64, series: &[f64]) -> ArmEvidence {
        let series = series.iter().copied().map(Some).collect();
        ArmEvidence { series: [("m".to_owned(), series)].into(), step: Millis(step_ms), ..ArmEvidence::default() }
    }

    #[test]
    fn failed_checks_are_counted_and_one_decides_nothing() {
        let (metric, judge) = (metric(), Judge { interval: Millis::seconds(1), ..Judge::default() });
        let verdict = |series: &[f64]| check(&metric, &judge, &arm(1_000, series)).verdict;
        assert_eq!(verdict(&[]), Verdict::Inconclusive);
        assert_eq!(verdict(&[0.1]), Verdict::Inconclusive, "a single bad value is no verdict");
        assert_eq!(verdict(&[0.1, 0.9, 0.1, 0.9, 0.1, 0.1]), Verdict::Inconclusive, "four of five");
        assert_eq!(verdict(&[0.1, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1]), Verdict::Fail, "the fifth failed check");
        assert_eq!(verdict(&[0.9; 9]), Verdict::Inconclusive);
        assert_eq!(verdict(&[0.9; 10]), Verdict::Pass);
        let open = check(&metric, &judge, &arm(1_000, &[0.9; 4]));
        assert!(open.open.as_ref().unwrap().contains("6 more must pass of the 10"), "{:?}", open.open);
        assert_eq!(open.more, Some(Millis::seconds(6)));
    }

    #[test]
    fn an_interval_is_one_check_by_its_mean() {
        let metric = metric();
        let judge = Judge { interval: Millis::seconds(5), max_failed: 1, least_passed: 2, ..Judge::default() };
        // Five seconds of 0.6 on average, of which one is bad.
        let steady = [0.9, 0.9, 0.1, 0.9, 0.2];
        let verdict = |series: &[f64]| check(&metric, &judge, &arm(1_000, series)).verdict;
        assert_eq!(verdict(&steady), Verdict::Inconclusive, "still growing");
        assert_eq!(verdict(&[&steady[..], &steady[..], &[0.1]].concat()), Verdict::Pass);
        assert_eq!(verdict(&[0.1, 0.9, 0.1, 0.9, 0.1, 0.9]), Verdict::Fail);
        // Intervals that have grown past five seconds are checks of their own.
        assert_eq!(check(&metric, &judge, &arm(8_000, &[0.1])).verdict, Verdict::Fail);
    }
}
