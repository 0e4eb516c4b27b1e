//! The guard of quality: whether a candidate that is on its way is worse than stable, by all metrics together.

use modelyard_core::Millis;
use modelyard_core::evidence::ArmEvidence;
use modelyard_core::metric::{Better, Judge, JudgeKind, Metric};

use super::classical::{Class, LEAST_INTERVALS, classify};
use super::compare;
use super::threshold::check;
use crate::Verdict;

/// What the guard says.
#[derive(Clone, Debug, PartialEq)]
pub struct Guarded {
    /// `fail`: quality has dropped; `pass`: no sign of it; `inconclusive`: not enough data where data are required, or a marginal score.
    pub verdict: Verdict,
    /// Why, for people.
    pub why: String,
    /// A line for each metric, those that never decide included.
    pub evidence: Vec<String>,
    /// How much longer it takes at least while it is inconclusive, when that is a matter of time alone.
    pub more: Option<Millis>,
}

impl Guarded {
    fn of(verdict: Verdict, why: impl Into<String>, evidence: Vec<String>) -> Self {
        Self { verdict, why: why.into(), evidence, more: None }
    }
}

/// Judges a candidate by every metric.
///
/// By the sequential judge a metric fails once it is certainly worse than stable by more than its margin; the error is shared among the
/// metrics (Bonferroni). A metric that is required and has no data leaves the verdict open; one that never decides (`dry-run`) only tells.
pub fn guard(metrics: &[Metric], judge: &Judge, stable: &ArmEvidence, candidate: &ArmEvidence) -> Guarded {
    let deciding = metrics.iter().filter(|metric| !metric.dry_run).count();
    if deciding == 0 && metrics.is_empty() {
        return Guarded::of(Verdict::Pass, "no metric is watched", Vec::new());
    }
    match judge.kind {
        JudgeKind::Sequential => sequential(metrics, judge, stable, candidate),
        JudgeKind::Classical => classical(metrics, judge, stable, candidate),
        JudgeKind::Threshold => {
            conclude(&metrics.iter().map(|metric| check(metric, judge, candidate)).collect::<Vec<_>>())
        }
    }
}

/// What one metric says, and whether it may decide.
pub(super) struct One<'a> {
    pub(super) metric: &'a Metric,
    pub(super) verdict: Verdict,
    pub(super) has_data: bool,
    pub(super) line: String,
    /// What is missing before the whole may pass, if it holds the whole up.
    pub(super) open: Option<String>,
    /// How long that takes, when it is a matter of time.
    pub(super) more: Option<Millis>,
}

fn conclude(ones: &[One<'_>]) -> Guarded {
    let deciding = || ones.iter().filter(|one| !one.metric.dry_run);
    let evidence = ones
        .iter()
        .map(|one| format!("{}{}", one.line, if one.metric.dry_run { " (dry run: never decides)" } else { "" }))
        .collect();
    let failed: Vec<&str> =
        deciding().filter(|one| one.verdict == Verdict::Fail).map(|one| one.line.as_str()).collect();
    let silent: Vec<&str> =
        deciding().filter(|one| one.metric.required && !one.has_data).map(|one| one.metric.name.as_str()).collect();
    let open: Vec<&str> = deciding().filter_map(|one| one.open.as_deref()).collect();
    let (verdict, why) = match (failed.is_empty(), silent.is_empty(), open.is_empty()) {
        (false, ..) => (Verdict::Fail, failed.join("; ")),
        (true, false, _) => {
            (Verdict::Inconclusive, format!("no data yet of `{}`, which is required", silent.join("`, `")))
        }
        (true, true, false) => (Verdict::Inconclusive, open.join("; ")),
        (true, true, true) => (Verdict::Pass, "no metric speaks against it".to_owned()),
    };
    let more = deciding().filter_map(|one| one.more).max().filter(|_| silent.is_empty());
    Guarded { verdict, why, evidence, more }
}

fn sequential(metrics: &[Metric], judge: &Judge, stable: &ArmEvidence, candidate: &ArmEvidence) -> Guarded {
    let deciding = metrics.iter().filter(|metric| !metric.dry_run).count().max(1);
    let error = judge.error / deciding as f64;
    let one = |metric| {
        let (Some(s), Some(c)) =
            (stable.metrics.get(&metric_name(metric)), candidate.metrics.get(&metric_name(metric)))
        else {
            let line = format!("`{}`: no value of both revisions yet", metric_name(metric));
            return One { metric, verdict: Verdict::Inconclusive, has_data: false, line, open: None, more: None };
        };
        // Not worse by more than the margin: better by more than minus the margin.
        let margin = if metric.better() == Better::Same { metric.margin } else { -metric.margin };
        let effect = if metric.margin > 0.0 { metric.margin } else { guess(metric, s) };
        let compared = compare(metric, s, c, margin, effect, error);
        let verdict = if compared.verdict == Verdict::Fail { Verdict::Fail } else { Verdict::Pass };
        let range = format!("{:+.4} ({:+.4} to {:+.4})", compared.estimate, compared.low, compared.high);
        let line = match verdict {
            Verdict::Fail => format!("`{}` is worse than stable's: {range}", metric.name),
            _ => format!("`{}` is not worse than stable's as far as is known: {range}", metric.name),
        };
        One { metric, verdict, has_data: compared.estimate.is_finite(), line, open: None, more: None }
    };
    conclude(&metrics.iter().map(one).collect::<Vec<_>>())
}

fn metric_name(metric: &Metric) -> String {
    metric.name.clone()
}

/// The drop that is watched for when nobody said: a twentieth of stable's value, a fiftieth of a share.
fn guess(metric: &Metric, stable: &modelyard_core::evidence::Statistic) -> f64 {
    let value = stable.estimate(metric.quantile.unwrap_or(0.95)).unwrap_or(1.0).abs();
    if matches!(stable, modelyard_core::evidence::Statistic::Proportion { .. }) {
        0.02
    } else {
        (value / 20.0).max(1e-9)
    }
}

/// Group weights, scores and critical metrics as Kayenta has them.
fn classical(metrics: &[Metric], judge: &Judge, stable: &ArmEvidence, candidate: &ArmEvidence) -> Guarded {
    let series = |arm: &ArmEvidence, metric: &Metric| arm.series.get(&metric.name).cloned().unwrap_or_default();
    let classified: Vec<(&Metric, Class, f64)> = metrics
        .iter()
        .map(|metric| {
            let (class, effect) = classify(metric, judge, &series(stable, metric), &series(candidate, metric));
            (metric, class, effect)
        })
        .collect();
    let deciding: Vec<&(&Metric, Class, f64)> = classified.iter().filter(|(metric, ..)| !metric.dry_run).collect();
    let evidence: Vec<String> = classified.iter().map(line).collect();
    if deciding.is_empty() {
        return Guarded::of(Verdict::Pass, "no metric decides, all are dry runs", evidence);
    }
    let is_bad = |class: &Class| matches!(class, Class::High | Class::Low);
    let past = |effect: f64| {
        judge.critical_ratio.is_some_and(|ratio| effect.is_finite() && (effect >= ratio || effect <= 1.0 / ratio))
    };
    let critical = deciding.iter().find(|(metric, class, effect)| is_bad(class) && (metric.critical || past(*effect)));
    if let Some(failed) = critical {
        return Guarded::of(Verdict::Fail, format!("a critical metric failed: {}", line(failed)), evidence);
    }
    let silent = deciding.iter().filter(|(_, class, _)| *class == Class::Nodata).count();
    if let Some((metric, ..)) = deciding.iter().find(|(metric, class, _)| metric.required && *class == Class::Nodata) {
        let why = format!("`{}` has no data, and it is required", metric.name);
        return Guarded::of(Verdict::Inconclusive, why, evidence);
    }
    if silent * 2 >= deciding.len().max(1) {
        let why = format!("{silent} of {} metrics have no data", deciding.len());
        return Guarded::of(Verdict::Inconclusive, why, evidence);
    }
    let shortest = |(metric, ..): &&&(&Metric, Class, f64)| {
        series(stable, metric).iter().flatten().count().min(series(candidate, metric).iter().flatten().count())
    };
    if let Some(few) = deciding.iter().filter(|(_, class, _)| *class == Class::Few).min_by_key(shortest) {
        let have = shortest(&few);
        let why = format!("`{}` has {have} of {LEAST_INTERVALS} intervals that a verdict needs", few.0.name);
        let more = Millis(candidate.step.0.saturating_mul(LEAST_INTERVALS.saturating_sub(have) as u64));
        let more = (more > Millis(0)).then_some(more);
        return Guarded { more, ..Guarded::of(Verdict::Inconclusive, why, evidence) };
    }
    let score = score(&deciding, judge);
    let told = format!("score {score:.1} of 100 (passes from {}, fails below {})", judge.pass, judge.marginal);
    let verdict = match score {
        score if score >= judge.pass => Verdict::Pass,
        score if score < judge.marginal => Verdict::Fail,
        _ => Verdict::Inconclusive,
    };
    Guarded::of(verdict, told, evidence)
}

/// Each group's share of passes, weighted; groups without a weight share what the others leave.
fn score(deciding: &[&(&Metric, Class, f64)], judge: &Judge) -> f64 {
    let mut groups: std::collections::BTreeMap<&str, (f64, f64)> = std::collections::BTreeMap::new();
    for (metric, class, _) in deciding.iter().filter(|(_, class, _)| *class != Class::Nodata) {
        let group = groups.entry(metric.group.as_deref().unwrap_or("")).or_default();
        group.0 += f64::from(u8::from(*class == Class::Pass));
        group.1 += 1.0;
    }
    let named: f64 = groups.keys().filter_map(|name| judge.groups.get(*name)).sum();
    let unnamed = groups.keys().filter(|name| !judge.groups.contains_key(**name)).count();
    let rest = (100.0 - named).max(0.0) / unnamed.max(1) as f64;
    let weight = |name: &str| judge.groups.get(name).copied().unwrap_or(rest);
    let whole: f64 = groups.keys().map(|name| weight(name)).sum();
    let got: f64 = groups.iter().map(|(name, (passed, all))| weight(name) * passed / all).sum();
    if whole > 0.0 { 100.0 * got / whole } else { 0.0 }
}

fn line((metric, class, effect): &(&Metric, Class, f64)) -> String {
    let ratio = if effect.is_finite() { format!(", {effect:.2} times stable's mean") } else { String::new() };
    let said = match class {
        Class::Pass => "is as stable's",
        Class::High => "is higher than stable's",
        Class::Low => "is lower than stable's",
        Class::Nodata => "has no data",
        Class::Few => "has too few intervals",
    };
    format!("`{}` {said}{ratio}", metric.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use modelyard_core::evidence::{Moments, Statistic};

    use super::*;

    fn metric(name: &str, change: impl FnOnce(&mut Metric)) -> Metric {
        let text = format!(r#"{{"name": "{name}", "kind": "mean", "from": "reward", "better": "lower"}}"#);
        let mut metric = serde_json::from_str(&text).unwrap();
        change(&mut metric);
        metric
    }

    fn grouped(name: &str, group: &str) -> Metric {
        metric(name, |metric| metric.group = Some(group.to_owned()))
    }

    /// Twenty intervals of each metric around a middle.
    fn arm(middles: &[(&str, f64)]) -> ArmEvidence {
        let series = |middle: f64| (0..20).map(|n| Some(middle + f64::from(n * 7 % 20) / 100.0)).collect();
        ArmEvidence {
            series: middles.iter().map(|&(name, middle)| (name.to_owned(), series(middle))).collect(),
            step: Millis::seconds(1),
            ..ArmEvidence::default()
        }
    }

    fn kayenta() -> Judge {
        Judge { kind: JudgeKind::Classical, ..Judge::default() }
    }

    const STABLE: [(&str, f64); 4] = [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)];

    /// As Kayenta's `WeightedSumScorer`: the share of passes of each group, weighted; groups without a weight share what the others leave of 100.
    #[test]
    fn groups_are_weighted_as_kayenta_does() {
        let metrics = [grouped("a", "speed"), grouped("b", "speed"), grouped("c", "truth"), grouped("d", "cost")];
        let worse = arm(&[("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)]);
        let found = |groups: &[(&str, f64)]| {
            let groups: BTreeMap<String, f64> =
                groups.iter().map(|&(name, weight)| (name.to_owned(), weight)).collect();
            guard(&metrics, &Judge { groups, ..kayenta() }, &arm(&STABLE), &worse)
        };
        // Each group a third: 100 · (½ + 1 + 1) / 3.
        let even = found(&[]);
        assert_eq!(even.verdict, Verdict::Inconclusive);
        assert!(even.why.contains("score 83.3"), "{}", even.why);
        // Speed 60, the others 20 each: 60 · ½ + 40 = 70, below 75.
        let fast = found(&[("speed", 60.0)]);
        assert!(fast.verdict == Verdict::Fail && fast.why.contains("score 70.0"), "{}", fast.why);
        // Speed 10: 5 + 90 = 95 passes.
        let slow = found(&[("speed", 10.0)]);
        assert!(slow.verdict == Verdict::Pass && slow.why.contains("score 95.0"), "{}", slow.why);
        assert!(slow.evidence[0].contains("`a` is higher than stable's, 1.91 times"), "{:?}", slow.evidence);
    }

    #[test]
    fn critical_metrics_and_critical_ratios_fail_at_once() {
        let mut metrics: Vec<Metric> = STABLE.iter().map(|(name, _)| metric(name, |_| ())).collect();
        let worse = arm(&[("a", 1.3), ("b", 1.0), ("c", 1.0), ("d", 1.0)]);
        let score = guard(&metrics, &kayenta(), &arm(&STABLE), &worse);
        assert!(score.verdict == Verdict::Inconclusive && score.why.contains("75.0"), "{}", score.why);
        let past = Judge { critical_ratio: Some(1.2), ..kayenta() };
        assert_eq!(guard(&metrics, &past, &arm(&STABLE), &worse).verdict, Verdict::Fail);
        let within = Judge { critical_ratio: Some(1.5), ..kayenta() };
        assert_eq!(guard(&metrics, &within, &arm(&STABLE), &worse).verdict, Verdict::Inconclusive);
        metrics[0].critical = true;
        let failed = guard(&metrics, &kayenta(), &arm(&STABLE), &worse);
        assert!(
            failed.verdict == Verdict::Fail && failed.why.starts_with("a critical metric failed: `a`"),
            "{}",
            failed.why
        );
        let better = arm(&[("a", 0.5), ("b", 1.0), ("c", 1.0), ("d", 1.0)]);
        assert_eq!(guard(&metrics, &kayenta(), &arm(&STABLE), &better).verdict, Verdict::Pass, "lower is better");
    }

    #[test]
    fn too_much_missing_data_leaves_it_open() {
        let metrics: Vec<Metric> = STABLE.iter().map(|(name, _)| metric(name, |_| ())).collect();
        let one = guard(&metrics, &kayenta(), &arm(&STABLE), &arm(&STABLE[..3]));
        assert_eq!(one.verdict, Verdict::Pass, "a quarter is missing: {}", one.why);
        let half = guard(&metrics, &kayenta(), &arm(&STABLE), &arm(&STABLE[..2]));
        assert!(half.verdict == Verdict::Inconclusive && half.why == "2 of 4 metrics have no data", "{}", half.why);
    }

    #[test]
    fn the_first_seconds_decide_nothing() {
        let metrics = [metric("a", |_| ())];
        let few = |count: usize, middle: f64| {
            let mut arm = arm(&[("a", middle)]);
            arm.series.get_mut("a").unwrap().truncate(count);
            arm
        };
        for count in 1..LEAST_INTERVALS {
            let found = guard(&metrics, &kayenta(), &few(count, 1.0), &few(count, 9.0));
            assert_eq!(found.verdict, Verdict::Inconclusive, "{count}: {}", found.why);
            assert_eq!(found.more, Some(Millis::seconds((LEAST_INTERVALS - count) as u64)));
        }
        assert_eq!(guard(&metrics, &kayenta(), &few(10, 1.0), &few(10, 9.0)).verdict, Verdict::Fail);
    }

    #[test]
    fn the_sequential_guard_shares_its_error_among_the_metrics() {
        let of = |mean: f64| {
            let moments = Moments { count: 400, mean, squares: 400.0 };
            let named = |name: &str| (name.to_owned(), Statistic::Mean(moments));
            ArmEvidence { metrics: [named("a"), named("b"), named("c")].into(), ..ArmEvidence::default() }
        };
        let metrics = |count: usize| -> Vec<Metric> {
            ["a", "b", "c"][..count].iter().map(|name| metric(name, |metric| metric.margin = 0.05)).collect()
        };
        let verdict =
            |count: usize, worse: f64| guard(&metrics(count), &Judge::default(), &of(1.0), &of(1.0 + worse)).verdict;
        assert_eq!(verdict(1, 0.0), Verdict::Pass);
        assert_eq!(verdict(1, 2.0), Verdict::Fail);
        let edge =
            (1..200).map(|step| f64::from(step) / 100.0).find(|&worse| verdict(1, worse) == Verdict::Fail).unwrap();
        assert_eq!(verdict(3, edge), Verdict::Pass, "three metrics need more than one does: {edge}");
        let dry: Vec<Metric> = metrics(3).into_iter().map(|m| Metric { dry_run: m.name != "a", ..m }).collect();
        assert_eq!(
            guard(&dry, &Judge::default(), &of(1.0), &of(1.0 + edge)).verdict,
            Verdict::Fail,
            "dry runs take no share"
        );
    }
}
