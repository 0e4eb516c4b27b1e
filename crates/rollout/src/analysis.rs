//! What is said of the candidate: pass, fail or inconclusive, with the figures.
//!
//! Promises: a verdict `fail` is beyond chance ([`crate::statistics`]); a handful of requests neither passes nor fails anything. Only
//! the candidate's own figures count against it; stable's serve as the yardstick of a latency ratio.
//! Absent on purpose: crashes and the like (they come as failures, seen by the target and the prober), and quality.

use modelyard_core::failure::Cause;
use modelyard_core::measure::Histogram;
use modelyard_core::strategy::{Analysis, NoTraffic};

use crate::Verdict;
use crate::readings::{Readings, Share};
use crate::statistics::exceeds;

/// Latencies needed, at least, before they may fail a candidate: connections and caches of a new instance are cold for its first requests.
const LEAST_LATENCIES: u64 = 20;

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) cause: Option<Cause>,
    pub(crate) why: String,
    /// The figures behind a failure.
    pub(crate) evidence: Vec<String>,
}

impl Judgement {
    fn of(verdict: Verdict, why: String) -> Self {
        Self { verdict, cause: None, why, evidence: Vec::new() }
    }
}

/// Judges the candidate by what was read. `needs_requests`: whether a pass takes `min_requests`.
pub(crate) fn judge(readings: &Readings, analysis: &Analysis, needs_requests: bool) -> Judgement {
    if let Some(failed) = judge_errors(readings, analysis).or_else(|| judge_latency(readings, analysis)) {
        return failed;
    }
    let (total, recent) = (readings.since_begin(), readings.recent(analysis.min_requests));
    if needs_requests && total.requests < analysis.min_requests {
        let counted = format!("{} of {} requests that a verdict needs", total.requests, analysis.min_requests);
        return match analysis.no_traffic {
            NoTraffic::Hold => Judgement::of(Verdict::Inconclusive, counted),
            NoTraffic::Promote => {
                Judgement::of(Verdict::Pass, format!("{counted}; passed on readiness and liveness alone"))
            }
        };
    }
    if recent.errors >= analysis.min_errors && recent.error_rate() > analysis.max_error_rate {
        let why = format!("{}: above what is allowed, but it may be chance", in_words(&recent, analysis));
        return Judgement::of(Verdict::Inconclusive, why);
    }
    if let Some(why) = doubtful_latency(readings, analysis) {
        return Judgement::of(Verdict::Inconclusive, why);
    }
    Judgement::of(Verdict::Pass, in_words(&recent, analysis))
}

fn judge_errors(readings: &Readings, analysis: &Analysis) -> Option<Judgement> {
    let past = |share: &Share| {
        share.errors >= analysis.min_errors.max(1) && exceeds(share.requests, share.errors, analysis.max_error_rate)
    };
    // The window that tells most plainly.
    let worst = readings.shares().filter(past).max_by(|a, b| a.error_rate().total_cmp(&b.error_rate()))?;
    let (total, longest) = (readings.since_begin(), readings.recent(0));
    Some(Judgement {
        verdict: Verdict::Fail,
        cause: Some(Cause::ErrorRate),
        why: in_words(&worst, analysis),
        evidence: vec![
            format!("since the step began: {} of {} requests failed in {}", total.errors, total.requests, total.span),
            format!("over the window: {} of {} requests failed in {}", longest.errors, longest.requests, longest.span),
            format!(
                "test: exact binomial, the limit as null hypothesis, significance {:e}",
                crate::statistics::SIGNIFICANCE
            ),
        ],
    })
}

fn in_words(share: &Share, analysis: &Analysis) -> String {
    let (rate, limit) = (share.error_rate() * 100.0, analysis.max_error_rate * 100.0);
    let Share { span, requests, errors } = share;
    format!("{errors} of {requests} requests failed in {span} ({rate:.2} %; {limit:.2} % is allowed)")
}

/// A latency limit in µs, and what it is made of.
struct Limit {
    micros: f64,
    text: String,
}

/// The limits that apply to a window: the absolute one, and the ratio to stable where stable answered enough to be a yardstick.
fn limits(analysis: &Analysis, stable: &Histogram) -> Vec<Limit> {
    let quantile = analysis.latency_quantile;
    let absolute =
        analysis.max_latency_ms.map(|ms| Limit { micros: ms * 1_000.0, text: format!("{ms} ms is allowed") });
    let ratio = analysis
        .max_latency_ratio
        .filter(|_| stable.count() >= LEAST_LATENCIES.max(analysis.min_requests))
        .and_then(|ratio| {
            // The upper end of what stable's quantile may truly be: two standard errors of the order statistic, by the normal approximation.
            let spread = 2.0 * (quantile * (1.0 - quantile) / stable.count() as f64).sqrt();
            let yardstick = stable.quantile((quantile + spread).min(1.0))?;
            let text = format!("{ratio} times stable's {} ms is allowed", milliseconds(stable.quantile(quantile)?));
            Some(Limit { micros: yardstick * ratio, text })
        });
    absolute.into_iter().chain(ratio).collect()
}

/// If the true quantile is within the limit, at most a share `1 - quantile` of the answers is slower than the limit: the same test again.
fn judge_latency(readings: &Readings, analysis: &Analysis) -> Option<Judgement> {
    readings.latencies().find_map(|(span, candidate, stable)| {
        let count = candidate.count();
        let past = |limit: &Limit| {
            let slower: u64 =
                candidate.buckets().filter(|&(floor, _)| floor as f64 >= limit.micros).map(|(_, count)| count).sum();
            count >= LEAST_LATENCIES && exceeds(count, slower, 1.0 - analysis.latency_quantile)
        };
        let limit = limits(analysis, &stable).into_iter().find(past)?;
        let evidence = [0.5, analysis.latency_quantile, 0.99].into_iter().filter_map(|quantile| {
            let of_candidate = milliseconds(candidate.quantile(quantile)?);
            let of_stable =
                stable.quantile(quantile).map_or("none".into(), |micros| format!("{} ms", milliseconds(micros)));
            Some(format!("quantile {quantile} over {span}: candidate {of_candidate} ms, stable {of_stable}"))
        });
        Some(Judgement {
            verdict: Verdict::Fail,
            cause: Some(Cause::Latency),
            why: latency_in_words(analysis, &candidate, &limit)?,
            evidence: evidence.collect(),
        })
    })
}

/// The quantile is past a limit, though not beyond chance: over the longest window that tells something, else since the step began.
fn doubtful_latency(readings: &Readings, analysis: &Analysis) -> Option<String> {
    let telling = readings.latencies().skip(1).find(|(_, candidate, _)| candidate.count() >= LEAST_LATENCIES);
    let (_, candidate, stable) = telling.or_else(|| readings.latencies().next())?;
    let measured = candidate.quantile(analysis.latency_quantile)?;
    let limit = limits(analysis, &stable).into_iter().find(|limit| measured > limit.micros)?;
    let said = latency_in_words(analysis, &candidate, &limit)?;
    Some(format!("{said}: too slow, but it may be chance"))
}

fn latency_in_words(analysis: &Analysis, candidate: &Histogram, limit: &Limit) -> Option<String> {
    let (quantile, count) = (analysis.latency_quantile, candidate.count());
    let measured = milliseconds(candidate.quantile(quantile)?);
    Some(format!("latency at quantile {quantile} is {measured} ms over {count} requests; {}", limit.text))
}

fn milliseconds(micros: f64) -> String {
    match micros / 1_000.0 {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms => format!("{ms:.0}"),
    }
}
