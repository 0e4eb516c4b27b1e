//! Judges on whatever comes: no panic, no NaN that decides, symmetric, and surer with more of the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use modelyard_core::evidence::{ArmEvidence, Moments, RatioMoments, Statistic};
use modelyard_core::metric::{Judge, JudgeKind, Metric};
use modelyard_rollout::Verdict;
use modelyard_rollout::judge::{compare, guard, proportion, sample_ratio};
use proptest::prelude::*;

fn metric(kind: &str, better: &str) -> Metric {
    let text = format!(r#"{{"name": "m", "kind": "{kind}", "from": "reward", "better": "{better}"}}"#);
    serde_json::from_str(&text).unwrap()
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), -1e3..1e3_f64, Just(0.0), Just(f64::NAN), Just(f64::INFINITY)]
}

fn any_statistic() -> impl Strategy<Value = Statistic> {
    let moments = || {
        (0..10_000_u64, any_number(), any_number()).prop_map(|(count, mean, squares)| Moments { count, mean, squares })
    };
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(units, hits)| Statistic::Proportion { units, hits }),
        (0..10_000_u64, 0..10_000_u64).prop_map(|(units, hits)| Statistic::Proportion { units, hits }),
        moments().prop_map(Statistic::Mean),
        (any::<u64>(), prop::array::uniform5(any_number())).prop_map(|(units, sums)| {
            let [numerator, denominator, numerator_squares, denominator_squares, products] = sums;
            Statistic::Ratio(RatioMoments {
                units,
                numerator,
                denominator,
                numerator_squares,
                denominator_squares,
                products,
            })
        }),
        prop::array::uniform4(0..u64::MAX / 8).prop_map(|[tp, fp, tn, r#fn]| Statistic::Confusion { tp, fp, tn, r#fn }),
        (any::<u64>(), prop::collection::vec(any_number(), 0..200)).prop_map(|(seen, mut values)| {
            values.sort_by(f64::total_cmp);
            Statistic::Sample { seen, values }
        }),
        (any::<u64>(), any_number()).prop_map(|(events, exposure)| Statistic::Count { events, exposure }),
        (any_number(), moments()).prop_map(|(last, all)| Statistic::Value { last, all }),
    ]
}

fn any_metric() -> impl Strategy<Value = Metric> {
    const KINDS: [&str; 8] = ["accuracy", "f1", "log-loss", "rmse", "mean", "rate", "quantile", "count"];
    (prop::sample::select(&KINDS[..]), prop::sample::select(&["higher", "lower", "same"][..]))
        .prop_map(|(kind, better)| metric(kind, better))
}

fn shares(units: u64, hits: u64) -> Statistic {
    Statistic::Proportion { units, hits }
}

proptest! {
    #[test]
    fn nothing_panics_and_what_is_not_a_number_decides_nothing(
        metric in any_metric(),
        stable in any_statistic(),
        candidate in any_statistic(),
        (margin, effect, error) in (any_number(), any_number(), 0.0..0.5_f64),
    ) {
        let found = compare(&metric, &stable, &candidate, margin, effect, error);
        prop_assert!(!found.low.is_nan() && !found.high.is_nan(), "{found:?}");
        if !found.estimate.is_finite() || margin.is_nan() {
            prop_assert_eq!(found.verdict, Verdict::Inconclusive);
        }
    }

    #[test]
    fn guards_take_whatever_comes(
        metric in any_metric(),
        stable in any_statistic(),
        candidate in any_statistic(),
        series in prop::collection::vec(prop::option::of(any_number()), 0..60),
        kind in prop::sample::select(&[JudgeKind::Sequential, JudgeKind::Classical, JudgeKind::Threshold][..]),
    ) {
        let arm = |statistic: &Statistic, series: &[Option<f64>]| ArmEvidence {
            metrics: [("m".to_owned(), statistic.clone())].into(),
            series: [("m".to_owned(), series.to_vec())].into(),
            ..ArmEvidence::default()
        };
        let judge = Judge { kind, ..Judge::default() };
        let (stable, candidate) = (arm(&stable, &series), arm(&candidate, &series[..series.len() / 2]));
        let dry = Metric { dry_run: true, ..metric.clone() };
        let found = guard(&[metric, dry.clone()], &judge, &stable, &candidate);
        prop_assert_eq!(found.evidence.len(), 2);
        let alone = guard(&[dry], &judge, &stable, &candidate);
        prop_assert_ne!(alone.verdict, Verdict::Fail, "a dry run fails nothing: {}", alone.why);
    }

    #[test]
    fn arms_swapped_turn_the_interval_around(units in 50..5_000_u64, a in 0.0..1.0_f64, b in 0.0..1.0_f64) {
        let of = |share: f64| shares(units, (units as f64 * share) as u64);
        let metric = metric("rate", "higher");
        let found = compare(&metric, &of(a), &of(b), 0.0, 0.05, 0.05);
        let swapped = compare(&metric, &of(b), &of(a), 0.0, 0.05, 0.05);
        prop_assert!((found.low + swapped.high).abs() < 1e-9 && (found.high + swapped.low).abs() < 1e-9);
    }

    #[test]
    fn more_of_the_same_makes_surer(units in 50..2_000_u64, a in 0.0..1.0_f64, b in 0.0..1.0_f64, times in 2..50_u64) {
        let of = |share: f64, times: u64| shares(times * units, times * (units as f64 * share) as u64);
        let metric = metric("rate", "higher");
        let few = compare(&metric, &of(a, 1), &of(b, 1), 0.0, 0.05, 0.05);
        let many = compare(&metric, &of(a, times), &of(b, times), 0.0, 0.05, 0.05);
        prop_assert!(many.high - many.low <= few.high - few.low);
        if few.verdict != Verdict::Inconclusive {
            prop_assert_eq!(many.verdict, few.verdict);
        }
    }

    #[test]
    fn more_hits_never_count_against_a_candidate(units in 50..2_000_u64, a in 0.0..1.0_f64, hits in 0..1_999_u64) {
        let metric = metric("rate", "higher");
        let stable = shares(units, (units as f64 * a) as u64);
        let hits = hits % units;
        let less = compare(&metric, &stable, &shares(units, hits), 0.0, 0.05, 0.05);
        let more = compare(&metric, &stable, &shares(units, hits + 1), 0.0, 0.05, 0.05);
        prop_assert!(!(less.verdict == Verdict::Pass && more.verdict == Verdict::Fail));
        prop_assert!(more.estimate > less.estimate);
    }

    #[test]
    fn limits_and_splits_take_any_counts(hits in any::<u64>(), trials in any::<u64>(), limit in any_number(), share in any_number()) {
        let found = proportion(hits, trials, limit, 0.05);
        prop_assert!((0.0..=1.0).contains(&found.low) && found.low <= found.high && found.high <= 1.0);
        let p = sample_ratio(&[(hits / 2, share), (trials / 2, 0.5)]);
        prop_assert!((0.0..=1.0).contains(&p), "{p}");
    }
}

#[test]
fn ordinary_emptiness_is_inconclusive() {
    let metric = metric("rate", "higher");
    for (stable, candidate) in [
        (shares(0, 0), shares(0, 0)),
        (shares(1_000, 900), shares(0, 0)),
        (shares(3, 0), shares(3, 3)),
        (shares(500, 500), shares(500, 500)),
        (shares(500, 0), shares(500, 0)),
    ] {
        let found = compare(&metric, &stable, &candidate, 0.0, 0.05, 0.05);
        assert_eq!(found.verdict, Verdict::Inconclusive, "{}", found.why);
    }
}

#[test]
fn too_little_is_told_with_a_forecast() {
    let metric = metric("rate", "higher");
    let found = compare(&metric, &shares(300, 270), &shares(300, 279), 0.0, 0.05, 0.05);
    assert_eq!(found.verdict, Verdict::Inconclusive);
    let needed = found.units_needed.unwrap();
    assert!(found.why.contains(&needed.to_string()) && found.why.starts_with("not enough evidence"), "{}", found.why);
    // With about as many more, at the same shares, it is decided.
    let times = 1 + needed.div_ceil(300);
    let later = compare(&metric, &shares(300 * times, 270 * times), &shares(300 * times, 279 * times), 0.0, 0.05, 0.05);
    assert_eq!(later.verdict, Verdict::Pass, "{}", later.why);
}

fn arm(statistic: &Statistic, series: &[f64]) -> ArmEvidence {
    ArmEvidence {
        metrics: [("m".to_owned(), statistic.clone())].into(),
        series: [("m".to_owned(), series.iter().copied().map(Some).collect())].into(),
        ..ArmEvidence::default()
    }
}

#[test]
fn dry_run_metrics_never_fail_a_release() {
    let (stable, candidate) = (arm(&shares(5_000, 4_500), &[0.9; 40]), arm(&shares(5_000, 500), &[0.1; 40]));
    for kind in [JudgeKind::Sequential, JudgeKind::Classical, JudgeKind::Threshold] {
        let judge = Judge { kind, ..Judge::default() };
        let counts = Metric { minimum: Some(0.5), ..metric("rate", "higher") };
        let dry = Metric { dry_run: true, critical: true, ..counts.clone() };
        assert_eq!(guard(&[counts], &judge, &stable, &candidate).verdict, Verdict::Fail, "{kind:?}: it is that bad");
        let found = guard(&[dry], &judge, &stable, &candidate);
        assert_eq!(found.verdict, Verdict::Pass, "{kind:?}: {}", found.why);
        assert_eq!(found.evidence.len(), 1, "and it is told all the same");
    }
}

/// Of a rare event most intervals hold none, so ranks tie and Mann-Whitney sees nothing; shares do.
#[test]
fn a_clear_change_among_ties_is_found() {
    let calm: Vec<f64> = (0..60).map(|n| f64::from(u8::from(n % 20 == 0)) / 100.0).collect();
    let worse: Vec<f64> = (0..60).map(|n| f64::from(u8::from(n % 3 == 0)) / 10.0).collect();
    let (stable, candidate) = (arm(&shares(6_000, 3), &calm), arm(&shares(6_000, 200), &worse));
    let metrics = [metric("rate", "lower")];
    let classical = Judge { kind: JudgeKind::Classical, ..Judge::default() };
    assert_eq!(guard(&metrics, &classical, &stable, &candidate).verdict, Verdict::Pass, "the ranks tie");
    let found = guard(&metrics, &Judge::default(), &stable, &candidate);
    assert_eq!(found.verdict, Verdict::Fail, "{}", found.why);
}

#[test]
fn required_metrics_without_data_leave_it_open() {
    let required = Metric { required: true, ..metric("rate", "higher") };
    for kind in [JudgeKind::Sequential, JudgeKind::Classical, JudgeKind::Threshold] {
        let judge = Judge { kind, ..Judge::default() };
        let found = guard(std::slice::from_ref(&required), &judge, &ArmEvidence::default(), &ArmEvidence::default());
        assert_eq!(found.verdict, Verdict::Inconclusive, "{kind:?}: {}", found.why);
        assert!(found.why.contains("required"), "{}", found.why);
    }
}
