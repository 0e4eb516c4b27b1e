//! `modelyard rehearse FILE`: play a service's next rollout before production, strategy by strategy.
//!
//! Promises: nothing is started, asked or changed; no control plane is needed. The same files and flags print the same.

use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::strategy::Strategy;
use modelyard_rehearse::play::{Described, Fault, PlayedCase, Scenario, Traffic, rehearse, usual_cases};

use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::rehearsal::{self, Shown, file};
use crate::service_file::Draft;
use crate::terminal::{Paint, say};

/// Arguments of `rehearse`.
#[derive(Debug, Args)]
pub struct Rehearse {
    /// The `service.toml` whose rules are played, or its folder.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it is played with. Default: `rehearse.toml` beside the service, else steady traffic and the usual faults.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// A strategy to play beside the service's own; the first one's timeline is shown. May be repeated. Default: all of them.
    #[arg(long, value_name = "K", value_parser = clap::builder::PossibleValuesParser::new(Strategy::NAMES))]
    strategy: Vec<String>,
    /// What goes wrong, instead of the scenario's cases: `"error rate 3 % from minute 12"`. May be repeated; all of them happen in one play.
    #[arg(long, value_name = "SENTENCE")]
    fault: Vec<String>,
    /// The case whose timeline is shown, by its name or number. Default: the first in which something goes wrong.
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Requests per second, day and night.
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// Time of day (UTC) at which the rollout starts: `09:30`.
    #[arg(long, value_name = "HH:MM")]
    start: Option<String>,
    /// What chance is drawn from.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Any key of a `service.toml`, such as `strategy.bake=5m`, to see what it would change. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write a page with charts, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Rehearse {
    /// Plays and prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let path = if self.file.is_dir() { self.file.join("service.toml") } else { self.file.clone() };
        let mut draft = Draft::default();
        draft.file(&path)?;
        self.set.iter().try_for_each(|assignment| draft.set(assignment))?;
        let name = draft.name().or_else(|| draft.package().and_then(model)).unwrap_or("model").to_owned();
        let spec = draft.finish(&name)?;
        let read = match self.scenario_file(&path) {
            Some(path) => file::scenario(&path, &spec)?,
            None => file::Read { scenario: Scenario::usual(&spec), strategies: Vec::new(), recorded: None },
        };
        let (mut scenario, strategies) = (read.scenario, read.strategies);
        self.change(&mut scenario, &spec.metrics)?;
        let strategies: Vec<&str> = match (self.strategy.is_empty(), strategies.is_empty()) {
            (false, _) => self.strategy.iter().map(String::as_str).collect(),
            (true, false) => strategies.iter().map(String::as_str).collect(),
            (true, true) => Strategy::NAMES.to_vec(),
        };
        let told = rehearse(&spec, &scenario, &strategies).map_err(|error| {
            Failed::from(error, "the service's own rules cannot be played", "correct them in the service file")
        })?;
        let shown = Shown {
            traffic: rehearsal::traffic(&scenario, read.recorded.as_deref()),
            strategy: self.strategy.first().cloned().unwrap_or_else(|| told.strategy.clone()),
            case: self.chosen(&told.cases)?,
        };
        if let Some(path) = &self.html {
            std::fs::write(path, rehearsal::page(&told, &shown)).map_err(|error| {
                Failed::from(error, format!("could not write {}", path.display()), "choose another file with `--html`")
            })?;
            say(&format!("wrote {}", path.display()));
        }
        context.print(&told, || rehearsal::text(&told, &shown, Paint::stdout()))?;
        Ok(Exit::Done)
    }

    /// The file that was named, or the one that lies beside the service.
    fn scenario_file(&self, service: &Path) -> Option<PathBuf> {
        let beside = service.with_file_name("rehearse.toml");
        self.scenario.clone().or_else(|| beside.is_file().then_some(beside))
    }

    /// What flags say weighs more than the file.
    fn change(&self, scenario: &mut Scenario, metrics: &[modelyard_core::metric::Metric]) -> Result<(), Usage> {
        if let Some(rate) = self.rate {
            if !(0.0..=1e6).contains(&rate) {
                return Err(Usage::new(
                    format!("`--rate {rate}` is no rate"),
                    "requests per second, from 0 to 1000000",
                ));
            }
            scenario.traffic = Traffic::Described(Described::steady(rate));
        }
        if let Some(start) = &self.start {
            let minutes = file::minutes(start).ok_or_else(|| {
                Usage::new(format!("`--start {start}` is no time of day"), "write it as `--start 09:30`")
            })?;
            scenario.start = u64::from(minutes) * 60;
        }
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        if !self.fault.is_empty() {
            let faults: Result<Vec<Fault>, _> = self.fault.iter().map(|sentence| sentence.parse::<Fault>()).collect();
            let faults = faults.map_err(|error| {
                Usage::new(error.to_string(), "all faults that can be said: docs/guide/rehearse.md")
            })?;
            scenario.cases = vec![file::named(None, faults)];
        } else if scenario.cases.is_empty() {
            scenario.cases = usual_cases(metrics);
        }
        Ok(())
    }

    fn chosen(&self, cases: &[PlayedCase]) -> Result<usize, Usage> {
        let Some(named) = &self.case else {
            return Ok(cases.iter().position(|case| !case.faults.is_empty()).unwrap_or(0));
        };
        let by_name = cases.iter().position(|case| case.name == *named);
        let by_number = named.parse::<usize>().ok().filter(|number| (1..=cases.len()).contains(number));
        by_name.or(by_number.map(|number| number - 1)).ok_or_else(|| {
            let names: Vec<String> =
                cases.iter().enumerate().map(|(index, case)| format!("{} {}", index + 1, case.name)).collect();
            Usage::new(format!("there is no case `{named}`"), format!("there are: {}", names.join("; ")))
        })
    }
}

/// The model's name in `wine:2.1.0`, `wine@champion`; of a folder, the folder's.
fn model(package: &str) -> Option<&str> {
    let path = package.trim_end_matches('/');
    let last = path.rsplit('/').find(|part| !matches!(*part, "." | "..")).unwrap_or(path);
    let name = last.split([':', '@']).next().unwrap_or(last);
    modelyard_core::ServiceName::new(name).is_ok().then_some(name)
}
