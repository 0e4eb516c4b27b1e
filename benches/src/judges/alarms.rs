//! How soon the infrastructure analysis acts, and how often it errs.

use anyhow::Result;
use modelyard_core::Timestamp;
use modelyard_core::measure::Counters;
use modelyard_core::strategy::Analysis;
use modelyard_rollout::Verdict;
use modelyard_rollout::judge::Watch;
use serde::Serialize;

use super::Options;
use crate::report::{self, Table, number};

/// Looks per second, as a rollout asks to be woken.
const LOOKS: u64 = 4;
/// Requests between two looks, at 200 per second.
const REQUESTS: u64 = 50;

/// Figures of the infrastructure analysis.
#[derive(Serialize)]
pub struct Alarms {
    /// Share of errors that sets in, and how long until it fails, in ms: median, 95 %, largest.
    delays: Vec<(f64, u64, u64, u64)>,
    /// Share of errors of healthy traffic, weeks that were played, and false alarms.
    false_alarms: Vec<(f64, f64, u64)>,
}

/// Errors among requests, by the gaps between them.
struct Errors {
    random: fastrand::Rng,
    rate: f64,
    gap: f64,
}

impl Errors {
    fn new(seed: u64, rate: f64) -> Self {
        let mut errors = Self { random: fastrand::Rng::with_seed(seed), rate, gap: 0.0 };
        errors.gap = errors.draw();
        errors
    }

    /// Requests until the next error: geometric.
    fn draw(&mut self) -> f64 {
        ((1.0 - self.random.f64()).ln() / (-self.rate).ln_1p()).floor()
    }

    fn among(&mut self, requests: u64) -> u64 {
        let (mut left, mut errors) = (requests as f64, 0);
        while self.gap < left {
            left -= self.gap + 1.0;
            errors += 1;
            self.gap = self.draw();
        }
        self.gap -= left;
        errors
    }
}

/// One watch: looks at the counts until it fails, at most `looks` times.
fn fails_after(seed: u64, before: f64, onset: u64, after: f64, looks: u64) -> Option<u64> {
    let (mut healthy, mut broken) = (Errors::new(seed, before), Errors::new(seed ^ 0xFA11, after));
    let (mut watch, mut counters) = (Watch::new(Analysis::default()), Counters::default());
    // Stable is as healthy as the candidate was, gets as much, and has answered for a minute.
    let mut beside = Errors::new(seed ^ 0x57AB, before);
    let known = 60 * LOOKS * REQUESTS;
    let mut stable = Counters { requests: known, errors: beside.among(known), ..Counters::default() };
    (0..looks).find(|&look| {
        if look > 0 {
            stable.requests += REQUESTS;
            stable.errors += beside.among(REQUESTS);
            counters.requests += REQUESTS;
            counters.errors += if look > onset { broken.among(REQUESTS) } else { healthy.among(REQUESTS) };
        }
        watch.look(Timestamp(look * 1_000 / LOOKS), &counters, &stable) == Verdict::Fail
    })
}

/// Plays and prints.
pub fn run(options: &Options) -> Result<Alarms> {
    report::print("### Infrastructure: 200 requests per second, looked at four times a second\n")?;
    let mut table = Table::new(["errors set in", "median ms", "within 2 s", "95 % within ms", "largest ms"]);
    let mut delays = Vec::new();
    let onset = 10 * LOOKS;
    for rate in [0.05, 0.1, 0.5] {
        let delay = |seed| {
            fails_after(seed, 0.001, onset, rate, onset + 400).map_or(u64::MAX, |look| (look - onset) * 1_000 / LOOKS)
        };
        let mut all: Vec<u64> = (0..options.runs).map(delay).collect();
        all.sort_unstable();
        let at = |share: f64| {
            all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        let quick = all.iter().filter(|&&delay| delay <= 2_000).count();
        let within = format!("{} %", number(100.0 * quick as f64 / all.len().max(1) as f64, 1));
        let found = (rate, at(0.5), at(0.95), at(1.0));
        table.row(vec![
            format!("{} %", rate * 100.0),
            found.1.to_string(),
            within,
            found.2.to_string(),
            found.3.to_string(),
        ]);
        delays.push(found);
    }
    report::print(&table.render())?;
    let mut table = Table::new(["healthy traffic: errors", "weeks", "requests", "false alarms"]);
    let mut false_alarms = Vec::new();
    for rate in [0.001, 0.002] {
        let looks = (options.weeks * 7.0 * 86_400.0) as u64 * LOOKS;
        let (mut left, mut alarms, mut seed) = (looks, 0, 0);
        // A watch begins anew after an alarm, and every hour as a rollout's steps do.
        while left > 0 {
            let part = left.min(3_600 * LOOKS);
            let found = fails_after(seed, rate, u64::MAX, rate, part);
            alarms += u64::from(found.is_some());
            left -= found.map_or(part, |look| (look + 1).min(part));
            seed += 1;
        }
        let requests = looks as f64 * REQUESTS as f64;
        table.row(vec![
            format!("{} %", rate * 100.0),
            number(options.weeks, 1),
            number(requests, 0),
            alarms.to_string(),
        ]);
        false_alarms.push((rate, options.weeks, alarms));
    }
    report::print(&table.render())?;
    Ok(Alarms { delays, false_alarms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_make_the_rate() {
        let mut errors = Errors::new(1, 0.02);
        let found: u64 = (0..20_000).map(|_| errors.among(REQUESTS)).sum();
        assert!((18_500..21_500).contains(&found), "{found} of a million at 2 %");
    }
}
