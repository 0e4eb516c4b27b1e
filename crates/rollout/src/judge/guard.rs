//! The guard of quality: whether a candidate that is on its way is worse than stable, by all metrics together.

use modelyard_core::evidence::ArmEvidence;
use modelyard_core::metric::{Better, Judge, JudgeKind, Metric};

use super::classical::{Class, classify};
use super::compare;
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
}

/// Judges a candidate by every metric.
///
/// By the sequential judge a metric fails once it is certainly worse than stable by more than its margin; the error is shared among the
/// metrics (Bonferroni). A metric that is required and has no data leaves the verdict open; one that never decides (`dry-run`) only tells.
pub fn guard(metrics: &[Metric], judge: &Judge, stable: &ArmEvidence, candidate: &ArmEvidence) -> Guarded {
    let deciding = metrics.iter().filter(|metric| !metric.dry_run).count();
    if deciding == 0 && metrics.is_empty() {
        return Guarded { verdict: Verdict::Pass, why: "no metric is watched".into(), evidence: Vec::new() };
    }
    match judge.kind {
        JudgeKind::Sequential => sequential(metrics, judge, stable, candidate),
        JudgeKind::Classical => classical(metrics, judge, stable, candidate),
        JudgeKind::Threshold => threshold(metrics, candidate),
    }
}

/// What one metric says, and whether it may decide.
struct One<'a> {
    metric: &'a Metric,
    verdict: Verdict,
    has_data: bool,
    line: String,
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
    let (verdict, why) = match (failed.is_empty(), silent.is_empty()) {
        (false, _) => (Verdict::Fail, failed.join("; ")),
        (true, false) => {
            (Verdict::Inconclusive, format!("no data yet of `{}`, which is required", silent.join("`, `")))
        }
        (true, true) => (Verdict::Pass, "no metric is worse than stable's".to_owned()),
    };
    Guarded { verdict, why, evidence }
}

fn sequential(metrics: &[Metric], judge: &Judge, stable: &ArmEvidence, candidate: &ArmEvidence) -> Guarded {
    let deciding = metrics.iter().filter(|metric| !metric.dry_run).count().max(1);
    let error = judge.error / deciding as f64;
    let one = |metric| {
        let (Some(s), Some(c)) =
            (stable.metrics.get(&metric_name(metric)), candidate.metrics.get(&metric_name(metric)))
        else {
            let line = format!("`{}`: no value of both revisions yet", metric_name(metric));
            return One { metric, verdict: Verdict::Inconclusive, has_data: false, line };
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
        One { metric, verdict, has_data: compared.estimate.is_finite(), line }
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

fn threshold(metrics: &[Metric], candidate: &ArmEvidence) -> Guarded {
    let one = |metric: &'_ Metric| -> (Verdict, bool, String) {
        let value = candidate
            .metrics
            .get(&metric.name)
            .and_then(|statistic| statistic.estimate(metric.quantile.unwrap_or(0.95)));
        let Some(value) = value else {
            return (Verdict::Inconclusive, false, format!("`{}`: no value yet", metric.name));
        };
        let limits = [
            metric.minimum.map(|least| format!("at least {least}")),
            metric.maximum.map(|most| format!("at most {most}")),
        ];
        let allowed = limits.into_iter().flatten().collect::<Vec<_>>().join(" and ");
        let outside =
            metric.minimum.is_some_and(|least| value < least) || metric.maximum.is_some_and(|most| value > most);
        let verdict = if outside { Verdict::Fail } else { Verdict::Pass };
        (
            verdict,
            true,
            format!(
                "`{}` is {value:.4}{}",
                metric.name,
                if allowed.is_empty() { String::new() } else { format!(" ({allowed})") }
            ),
        )
    };
    let ones: Vec<One<'_>> = metrics
        .iter()
        .map(|metric| {
            let (verdict, has_data, line) = one(metric);
            One { metric, verdict, has_data, line }
        })
        .collect();
    conclude(&ones)
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
        return Guarded { verdict: Verdict::Pass, why: "no metric decides, all are dry runs".into(), evidence };
    }
    let is_bad = |class: &Class| matches!(class, Class::High | Class::Low);
    let past = |effect: f64| {
        judge.critical_ratio.is_some_and(|ratio| effect.is_finite() && (effect >= ratio || effect <= 1.0 / ratio))
    };
    let critical = deciding.iter().find(|(metric, class, effect)| is_bad(class) && (metric.critical || past(*effect)));
    if let Some(failed) = critical {
        return Guarded {
            verdict: Verdict::Fail,
            why: format!("a critical metric failed: {}", line(failed)),
            evidence,
        };
    }
    let silent = deciding.iter().filter(|(_, class, _)| *class == Class::Nodata).count();
    if let Some((metric, ..)) = deciding.iter().find(|(metric, class, _)| metric.required && *class == Class::Nodata) {
        let why = format!("`{}` has no data, and it is required", metric.name);
        return Guarded { verdict: Verdict::Inconclusive, why, evidence };
    }
    if silent * 2 >= deciding.len().max(1) {
        let why = format!("{silent} of {} metrics have no data", deciding.len());
        return Guarded { verdict: Verdict::Inconclusive, why, evidence };
    }
    let score = score(&deciding, judge);
    let told = format!("score {score:.1} of 100 (passes from {}, fails below {})", judge.pass, judge.marginal);
    let verdict = match score {
        score if score >= judge.pass => Verdict::Pass,
        score if score < judge.marginal => Verdict::Fail,
        _ => Verdict::Inconclusive,
    };
    Guarded { verdict, why: told, evidence }
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
    };
    format!("`{}` {said}{ratio}", metric.name)
}
