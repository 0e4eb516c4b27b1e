//! What is said of the candidate: pass, fail or inconclusive, with the figures.
//!
//! Promises: a verdict `fail` is beyond chance ([`crate::statistics`]); a handful of requests neither passes nor fails anything. Only
//! the candidate's own figures count against it; stable's serve as the yardstick of a latency ratio and of what is usual.
//! Absent on purpose: crashes and the like (they come as failures, seen by the target and the prober), and quality.

use modelyard_core::failure::Cause;
use modelyard_core::measure::Histogram;
use modelyard_core::strategy::{Analysis, NoTraffic};

use crate::Verdict;
use crate::judge::times_until;
use crate::readings::{Readings, Share, Usual};
use crate::statistics::{SIGNIFICANCE, exceeds};
use crate::usual::{SURPRISE, has_set_in, usual_share};

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
    /// Requests of the candidate until there is a verdict, about, if it goes on like this; none where that cannot be said.
    pub(crate) needed: Option<u64>,
}

impl Judgement {
    fn of(verdict: Verdict, why: String) -> Self {
        Self { verdict, cause: None, why, evidence: Vec::new(), needed: None }
    }

    /// Inconclusive, until about so many more requests were answered.
    fn open(why: String, needed: Option<u64>) -> Self {
        Self { needed, ..Self::of(Verdict::Inconclusive, why) }
    }
}

/// Requests until a share like this is beyond chance, if it stays what it is; none when even a thousand times as many would not tell.
fn until_certain(trials: u64, hits: u64, limit: f64) -> Option<u64> {
    let certain = |times: f64| exceeds((trials as f64 * times) as u64, (hits as f64 * times) as u64, limit);
    let times = times_until(certain).filter(|_| trials > 0)?;
    Some((trials as f64 * (times - 1.0)).ceil().max(1.0) as u64)
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
            NoTraffic::Hold => Judgement::open(counted, Some(analysis.min_requests - total.requests)),
            NoTraffic::Promote => {
                Judgement::of(Verdict::Pass, format!("{counted}; passed on readiness and liveness alone"))
            }
        };
    }
    if recent.errors >= analysis.min_errors && recent.error_rate() > analysis.max_error_rate {
        let why = format!("{}: above what is allowed, but it may be chance", in_words(&recent, analysis));
        return Judgement::open(why, until_certain(recent.requests, recent.errors, analysis.max_error_rate));
    }
    if let Some((why, needed)) = doubtful_latency(readings, analysis) {
        return Judgement::open(why, needed);
    }
    Judgement::of(Verdict::Pass, in_words(&recent, analysis))
}

fn judge_errors(readings: &Readings, analysis: &Analysis) -> Option<Judgement> {
    let limit = analysis.max_error_rate;
    let past = |(share, usual): &(Share, Usual)| {
        let is_past = exceeds(share.requests, share.errors, limit) || has_set_in(share, usual, limit);
        share.errors >= analysis.min_errors.max(1) && is_past
    };
    // The window that tells most plainly.
    let worst = readings.windows().filter(past).max_by(|(a, _), (b, _)| a.error_rate().total_cmp(&b.error_rate()))?;
    let (worst, usual) = worst;
    let test = match usual_share(&usual, limit) {
        Some(null) if !exceeds(worst.requests, worst.errors, limit) => format!(
            "test: exact binomial, 1.5 times the usual share ({:.2} %) as null hypothesis, significance {SURPRISE:e}",
            null * 100.0
        ),
        _ => format!("test: exact binomial, the limit as null hypothesis, significance {SIGNIFICANCE:e}"),
    };
    let (total, longest) = (readings.since_begin(), readings.recent(0));
    Some(Judgement {
        verdict: Verdict::Fail,
        cause: Some(Cause::ErrorRate),
        why: in_words(&worst, analysis),
        needed: None,
        evidence: vec![
            format!("since the step began: {} of {} requests failed in {}", total.errors, total.requests, total.span),
            format!("over the window: {} of {} requests failed in {}", longest.errors, longest.requests, longest.span),
            test,
        ],
    })
}

fn in_words(share: &Share, analysis: &Analysis) -> String {
    let (rate, limit) = (share.error_rate() * 100.0, analysis.max_error_rate * 100.0);
    let Share { span, requests, errors } = share;
    format!("{errors} of {requests} requests failed in {span} ({rate:.2} %; {limit:.2} % is allowed)")
}

/// A latency limit in µs, and what it is made of.
pub(crate) struct Limit {
    pub(crate) micros: f64,
    pub(crate) text: String,
}

/// The limits that apply to a window: the absolute one, and the ratio to stable where stable answered enough to be a yardstick.
pub(crate) fn limits(analysis: &Analysis, stable: &Histogram) -> Vec<Limit> {
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
            count >= LEAST_LATENCIES && exceeds(count, slower(&candidate, limit), 1.0 - analysis.latency_quantile)
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
            needed: None,
            evidence: evidence.collect(),
        })
    })
}

/// Answers that took longer than the limit.
pub(crate) fn slower(latencies: &Histogram, limit: &Limit) -> u64 {
    latencies.buckets().filter(|&(floor, _)| floor as f64 >= limit.micros).map(|(_, count)| count).sum()
}

/// The quantile is past a limit, though not beyond chance: over the longest window that tells something, else since the step began. With the
/// requests after which it would be.
fn doubtful_latency(readings: &Readings, analysis: &Analysis) -> Option<(String, Option<u64>)> {
    let telling = readings.latencies().skip(1).find(|(_, candidate, _)| candidate.count() >= LEAST_LATENCIES);
    let (_, candidate, stable) = telling.or_else(|| readings.latencies().next())?;
    let measured = candidate.quantile(analysis.latency_quantile)?;
    let limit = limits(analysis, &stable).into_iter().find(|limit| measured > limit.micros)?;
    let said = latency_in_words(analysis, &candidate, &limit)?;
    let needed = match candidate.count() {
        few if few < LEAST_LATENCIES => Some(LEAST_LATENCIES - few),
        count => until_certain(count, slower(&candidate, &limit), 1.0 - analysis.latency_quantile),
    };
    Some((format!("{said}: too slow, but it may be chance"), needed))
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

#[cfg(test)]
mod tests {
    use modelyard_core::measure::Counters;
    use modelyard_core::{Millis, Timestamp};

    use super::*;

    /// A small linear congruential generator: the test needs luck, not quality. Constants: Knuth's MMIX.
    struct Luck(u64);

    impl Luck {
        fn hits(&mut self, chance: f64) -> bool {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) as f64 / (1u64 << 31) as f64) < chance
        }
    }

    /// Plays 200 requests a second with a look every quarter of a second; when the verdict is `fail`, if it is.
    fn fails_after(seed: u64, error_rate: impl Fn(u64) -> f64, looks: u64) -> Option<u64> {
        let (mut luck, mut counters, mut readings) = (Luck(seed), Counters::default(), Readings::default());
        let mut stable = Counters { requests: 10_000, errors: 10, ..Counters::default() };
        let analysis = Analysis::default();
        (0..looks).find(|&look| {
            for _ in 0..50 {
                counters.requests += u64::from(look > 0);
                counters.errors += u64::from(look > 0 && luck.hits(error_rate(look)));
                stable.requests += 1;
                stable.errors += u64::from(luck.hits(0.001));
            }
            readings.take(Timestamp(look * 250), &counters, &stable, analysis.window, false);
            judge(&readings, &analysis, false).verdict == Verdict::Fail
        })
    }

    #[test]
    fn five_per_cent_of_errors_fail_within_two_seconds() {
        // The bench plays 10 000: at least 99 %. Of 1 000 some more may be late by chance.
        let runs = 1_000;
        let onset = |start: u64| {
            let delays =
                (0..runs).map(|seed| fails_after(seed, |look| if look > start { 0.05 } else { 0.001 }, start + 80));
            let mut delays: Vec<u64> = delays.map(|look| (look.unwrap() - start) * 250).collect();
            delays.sort_unstable();
            delays
        };
        for start in [0, 200] {
            let delays = onset(start);
            let late = delays.iter().filter(|&&delay| delay > 2_000).count();
            let (median, last) = (delays[runs as usize / 2], delays[runs as usize - 1]);
            assert!(late <= 18 && median <= 1_000, "from look {start}: {late} of {runs} late, median {median} ms");
            assert!(last <= 4_000, "from look {start}: {last} ms");
        }
        let gross: Vec<u64> = (0..runs).map(|seed| fails_after(seed, |_| 0.5, 80).unwrap() * 250).collect();
        assert!(gross.iter().all(|&delay| delay <= 250), "half of all requests failing shows at the first look");
    }

    #[test]
    fn a_healthy_candidate_never_fails_and_one_at_its_limit_seldom() {
        let ten_minutes = 2_400;
        for rate in [0.0, 0.002, 0.005] {
            let alarms = (0..200).filter(|&seed| fails_after(seed, |_| rate, ten_minutes).is_some()).count();
            assert_eq!(alarms, 0, "{alarms} false alarms in 200 ten-minute watches at {rate}");
        }
        let alarms = (0..200).filter(|&seed| fails_after(seed, |_| 0.01, ten_minutes).is_some()).count();
        assert!(alarms <= 16, "{alarms} of 200 ten-minute watches failed a candidate exactly at its limit");
    }

    fn with_latencies(candidate: &[u64], stable: &[u64]) -> Readings {
        let mut readings = Readings::default();
        readings.take(Timestamp(0), &Counters::default(), &Counters::default(), Millis::seconds(30), true);
        let counted = |latencies: &[u64]| {
            let mut counters = Counters { requests: latencies.len() as u64, ..Counters::default() };
            latencies.iter().for_each(|&micros| counters.latency.record(micros));
            counters
        };
        readings.take(Timestamp(1_000), &counted(candidate), &counted(stable), Millis::seconds(30), true);
        readings
    }

    #[test]
    fn a_slow_candidate_fails_by_time_and_by_ratio() {
        let objective = Analysis { max_latency_ms: Some(50.0), ..Analysis::default() };
        let ratio = Analysis { max_latency_ratio: Some(1.5), ..Analysis::default() };
        let (fast, slow): (Vec<u64>, Vec<u64>) = ((0..200).map(|i| 9_000 + i * 10).collect(), vec![90_000; 200]);
        for analysis in [&objective, &ratio] {
            let failed = judge(&with_latencies(&slow, &fast), analysis, true);
            assert_eq!((failed.verdict, failed.cause), (Verdict::Fail, Some(Cause::Latency)), "{}", failed.why);
            assert!(failed.evidence.iter().any(|line| line.contains("stable")), "{:?}", failed.evidence);
            assert_eq!(judge(&with_latencies(&fast, &fast), analysis, true).verdict, Verdict::Pass);
        }
        let few = judge(&with_latencies(&slow[..10], &fast), &objective, true);
        assert_eq!(few.verdict, Verdict::Inconclusive, "ten cold requests decide nothing");
        let lonely = judge(&with_latencies(&slow, &[]), &ratio, true);
        assert_eq!(lonely.verdict, Verdict::Pass, "without a yardstick there is no ratio");
    }

    #[test]
    fn too_few_requests_hold_or_pass_by_policy() {
        let readings = with_latencies(&[1_000; 10], &[]);
        assert_eq!(judge(&readings, &Analysis::default(), true).verdict, Verdict::Inconclusive);
        let lenient = Analysis { no_traffic: NoTraffic::Promote, ..Analysis::default() };
        let passed = judge(&readings, &lenient, true);
        assert_eq!(passed.verdict, Verdict::Pass);
        assert_eq!(passed.why, "10 of 50 requests that a verdict needs; passed on readiness and liveness alone");
    }
}
