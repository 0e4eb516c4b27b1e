//! The judges that ours is compared with.

use modelyard_core::evidence::ArmEvidence;
use modelyard_core::metric::{Judge, JudgeKind, Metric};
use modelyard_rollout::Verdict;
use modelyard_rollout::judge::guard;

use super::streams::{Pair, Scenario};

/// Intervals that the fixed size is cut into for judges that work on series of means.
const INTERVALS: usize = 20;

/// Normal quantile of 95 %.
const Z: f64 = 1.644_853_626_951_472;

/// Sums of both arms, for the z-test.
#[derive(Default)]
struct Sums {
    n: f64,
    stable: (f64, f64),
    candidate: (f64, f64),
}

impl Sums {
    fn add(&mut self, &(stable, candidate): &Pair) {
        self.n += 1.0;
        self.stable = (self.stable.0 + stable, self.stable.1 + stable * stable);
        self.candidate = (self.candidate.0 + candidate, self.candidate.1 + candidate * candidate);
    }

    /// The one-sided z-test that the candidate is better.
    fn is_better(&self) -> bool {
        let variance = |(sum, squares): (f64, f64)| (squares - sum * sum / self.n) / (self.n - 1.0);
        let error = ((variance(self.stable) + variance(self.candidate)) / self.n).sqrt();
        self.candidate.0 / self.n - self.stable.0 / self.n > Z * error
    }
}

/// The test of a fixed size, looked at once.
pub fn fixed(pairs: &[Pair], units: u64) -> (Verdict, u64) {
    let mut sums = Sums::default();
    pairs.iter().take(units as usize).for_each(|pair| sums.add(pair));
    (if sums.is_better() { Verdict::Pass } else { Verdict::Fail }, units)
}

/// The same test, looked at after every request from the hundredth on, until it first says yes: what must not be done.
pub fn peeking(pairs: &[Pair], units: u64) -> (Verdict, u64) {
    let mut sums = Sums::default();
    for (index, pair) in pairs.iter().take(units as usize).enumerate() {
        sums.add(pair);
        if index >= 99 && sums.is_better() {
            return (Verdict::Pass, index as u64 + 1);
        }
    }
    (Verdict::Fail, units)
}

fn means(pairs: &[Pair], units: u64) -> Vec<Pair> {
    let each = (units as usize / INTERVALS).max(1);
    let mean = |chunk: &[Pair]| {
        let (stable, candidate) = chunk.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        (stable / chunk.len() as f64, candidate / chunk.len() as f64)
    };
    pairs.chunks(each).take(INTERVALS).map(mean).collect()
}

/// Kayenta's judge over the means of intervals: once at the end, or after each interval from the tenth on, where the first `fail` ends the canary and a
/// `pass` at the end promotes it.
pub fn kayenta(scenario: &Scenario, pairs: &[Pair], units: u64, once: bool) -> (Verdict, u64) {
    let means = means(pairs, units);
    let metrics: Vec<Metric> = vec![scenario.metric()];
    let judge = Judge { kind: JudgeKind::Classical, ..Judge::default() };
    let first = if once { means.len() } else { 10 };
    let mut verdict = Verdict::Inconclusive;
    for seen in first..=means.len() {
        let arm = |values: Vec<Option<f64>>| ArmEvidence {
            series: [("quality".to_owned(), values)].into(),
            ..ArmEvidence::default()
        };
        let stable = arm(means[..seen].iter().map(|pair| Some(pair.0)).collect());
        let candidate = arm(means[..seen].iter().map(|pair| Some(pair.1)).collect());
        verdict = guard(&metrics, &judge, &stable, &candidate).verdict;
        if verdict == Verdict::Fail {
            return (verdict, units * seen as u64 / means.len() as u64);
        }
    }
    (verdict, units)
}

/// Flagger: each interval's value is held against a limit, here half the effect below what is expected of stable; five failed checks end it, ten
/// passed ones promote.
pub fn flagger(scenario: &Scenario, pairs: &[Pair], units: u64) -> (Verdict, u64) {
    let least = scenario.middle() - scenario.effect / 2.0;
    let each = units / INTERVALS as u64;
    let (mut passed, mut failed) = (0, 0);
    for (index, (_, candidate)) in means(pairs, units).into_iter().enumerate() {
        if candidate >= least {
            passed += 1
        } else {
            failed += 1
        }
        let seen = each * (index as u64 + 1);
        if failed == 5 {
            return (Verdict::Fail, seen);
        }
        if passed == 10 {
            return (Verdict::Pass, seen);
        }
    }
    (Verdict::Inconclusive, units)
}
