//! Error rates and sample sizes of judges, by simulation: Modelyard's, looked at after every request, beside the test of a fixed size, that test
//! repeated, Kayenta's judge and Flagger's thresholds, on the same streams; and the delay and false alarms of the infrastructure analysis.
//!
//! Promises: a run is determined by its seed; every judge sees the same stream of a run.
//! Absent on purpose: processes, sockets and clocks. Peers' methods are judged, not their programs.

mod alarms;
mod kinds;
mod peers;
mod streams;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use modelyard_rollout::Verdict;
use modelyard_rollout::judge::{Planned, compare, plan_size};
use serde::Serialize;

use crate::report::{self, Table, number};
use streams::{Pair, Scenario};

/// What to simulate.
#[derive(Args)]
pub struct Options {
    /// Runs of each row.
    #[arg(long, default_value_t = 10_000)]
    pub runs: u64,
    /// Weeks of healthy traffic at 200 requests per second in which false alarms are counted.
    #[arg(long, default_value_t = 52.0)]
    pub weeks: f64,
    /// Only this part.
    #[arg(long, value_enum)]
    pub only: Option<Part>,
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A part of the simulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Ours beside other judges, on the same streams.
    Compared,
    /// Further kinds of metrics, several arms, the guard, the split, shadows.
    Kinds,
    /// The infrastructure analysis.
    Alarms,
}

/// What became of many runs of one judge.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Outcome {
    promoted: u64,
    failed: u64,
    /// Sum of units per arm at the end of each run.
    units: u64,
    runs: u64,
}

impl Outcome {
    fn add(&mut self, (verdict, units): (Verdict, u64)) {
        self.promoted += u64::from(verdict == Verdict::Pass);
        self.failed += u64::from(verdict == Verdict::Fail);
        self.units += units;
        self.runs += 1;
    }

    fn share(&self) -> f64 {
        self.promoted as f64 / self.runs.max(1) as f64
    }

    fn mean_units(&self) -> f64 {
        self.units as f64 / self.runs.max(1) as f64
    }
}

#[derive(Serialize)]
struct Row {
    scenario: &'static str,
    candidate: String,
    judge: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
    mean_units: f64,
    fixed_units: u64,
}

/// Runs everything.
pub fn run(options: &Options) -> Result<()> {
    let asked = |part| options.only.is_none_or(|only| only == part);
    let mut rows = Vec::new();
    for scenario in Scenario::all().into_iter().filter(|_| asked(Part::Compared)) {
        let planned = planned(&scenario)?;
        report::print(&format!(
            "### {}\n\nFixed size for this effect: {} units per arm (one-sided error 5 %, power 80 %).\n",
            scenario.about, planned.fixed_units
        ))?;
        let mut table = Table::new(["candidate", "judge", "promoted", "failed", "units per arm, mean", "× fixed"]);
        for (name, effects) in
            [("worse by the effect", -1.0), ("equal", 0.0), ("better by the effect", 1.0), ("twice", 2.0)]
        {
            for row in judge_all(&scenario, name, effects, &planned, options.runs) {
                let percent = |count: u64| format!("{} %", number(100.0 * count as f64 / options.runs as f64, 2));
                table.row(vec![
                    name.into(),
                    row.judge.into(),
                    percent(row.outcome.promoted),
                    percent(row.outcome.failed),
                    number(row.mean_units, 0),
                    number(row.mean_units / planned.fixed_units as f64, 2),
                ]);
                rows.push(row);
            }
        }
        report::print(&table.render())?;
    }
    let kinds = if asked(Part::Kinds) { kinds::run(options)? } else { Vec::new() };
    let alarms = if asked(Part::Alarms) { Some(alarms::run(options)?) } else { None };
    report::save(options.json.as_deref(), &serde_json::json!({ "judges": rows, "kinds": kinds, "alarms": alarms }))
}

fn planned(scenario: &Scenario) -> Result<Planned> {
    plan_size(&scenario.ab(), &scenario.metric(), None).ok_or_else(|| anyhow::anyhow!("no size for {}", scenario.about))
}

/// All judges on the same streams.
fn judge_all(scenario: &Scenario, candidate: &str, effects: f64, planned: &Planned, runs: u64) -> Vec<Row> {
    let judges = [
        "modelyard, every request",
        "fixed size, one look",
        "fixed test, every request",
        "Kayenta, once",
        "Kayenta, every interval",
        "Flagger",
    ];
    let mut outcomes = [Outcome::default(); 6];
    for seed in 0..runs {
        // As long as a user would wait who plans for four times the fixed size.
        let pairs = scenario.stream(seed, effects, planned.fixed_units * 4);
        outcomes[0].add(sequential(scenario, &pairs));
        outcomes[1].add(peers::fixed(&pairs, planned.fixed_units));
        outcomes[2].add(peers::peeking(&pairs, planned.fixed_units));
        outcomes[3].add(peers::kayenta(scenario, &pairs, planned.fixed_units, true));
        outcomes[4].add(peers::kayenta(scenario, &pairs, planned.fixed_units, false));
        outcomes[5].add(peers::flagger(scenario, &pairs, planned.fixed_units));
    }
    let row = |(judge, outcome): (&'static str, Outcome)| Row {
        scenario: scenario.about,
        candidate: candidate.to_owned(),
        judge,
        mean_units: outcome.mean_units(),
        fixed_units: planned.fixed_units,
        outcome,
    };
    debug_assert!(outcomes.iter().all(|outcome| outcome.share() <= 1.0));
    judges.into_iter().zip(outcomes).map(row).collect()
}

/// Ours: looked at after every pair of requests, from the first on, with the least number of units that `service.toml` has by default.
fn sequential(scenario: &Scenario, pairs: &[Pair]) -> (Verdict, u64) {
    let (metric, ab) = (scenario.metric(), scenario.ab());
    let mut arms = scenario.empty();
    for (index, pair) in pairs.iter().enumerate() {
        arms.add(pair);
        let units = index as u64 + 1;
        if units < ab.least_units {
            continue;
        }
        let compared = compare(&metric, &arms.stable, &arms.candidate, ab.margin, ab.effect, ab.error);
        if compared.verdict != Verdict::Inconclusive {
            return (compared.verdict, units);
        }
    }
    (Verdict::Inconclusive, pairs.len() as u64)
}
