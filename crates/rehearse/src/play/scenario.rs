//! What is played: traffic, what the revisions are like, what goes wrong, and how persons behave.

use std::collections::BTreeMap;

use modelyard_core::metric::{Better, Metric};
use modelyard_core::service::ServiceSpec;
use modelyard_core::{Millis, RevisionNumber};

use super::fault::{Fault, What, Whose};
use super::traffic::{Described, Traffic};

/// Everything but the service's own rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Requests over time.
    pub traffic: Traffic,
    /// Second of the day (UTC) at which the rollout starts.
    pub start: u64,
    /// Longest time that is played.
    pub longest: Millis,
    /// What chance is drawn from.
    pub seed: u64,
    /// What stable is like.
    pub stable: Behaviour,
    /// What the candidate is like, apart from faults.
    pub candidate: Behaviour,
    /// How true labels come.
    pub labels: Labels,
    /// What persons do.
    pub person: Person,
    /// What is played, one after the other.
    pub cases: Vec<Case>,
}

/// One course of things.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name, for people.
    pub name: String,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// What a revision is like when nothing goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// Share of its answers that are errors.
    pub error_rate: f64,
    /// Median latency in milliseconds.
    pub latency_ms: f64,
    /// Standard deviation of the latency's logarithm; 0.4 makes p95 twice the median.
    pub spread: f64,
    /// From being asked for to ready and live.
    pub starts_in: Millis,
    /// From being asked to end to being gone.
    pub stops_in: Millis,
    /// Value of each metric.
    pub metrics: BTreeMap<String, f64>,
    /// Standard deviation of the values behind a metric that is a mean.
    pub deviations: BTreeMap<String, f64>,
    /// Share of its answers that differ from stable's.
    pub disagreement: f64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            error_rate: 0.0005,
            latency_ms: 20.0,
            spread: 0.4,
            starts_in: Millis::seconds(3),
            stops_in: Millis(500),
            metrics: BTreeMap::new(),
            deviations: BTreeMap::new(),
            disagreement: 0.001,
        }
    }
}

/// How true labels come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Labels {
    /// Share of answers whose label ever comes.
    pub share: f64,
    /// How late.
    pub delay: Millis,
}

impl Default for Labels {
    fn default() -> Self {
        Self { share: 1.0, delay: Millis(0) }
    }
}

/// What persons do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// How long a rollout that asks waits for an answer.
    pub reacts: Millis,
    /// How long harm that nothing here notices goes on until somebody notices and rolls back.
    pub notices: Millis,
    /// What is answered when the candidate failed; a rollout that merely asks for a go-ahead gets it.
    pub decides: Decides,
}

/// What a person answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decides {
    /// Back to stable.
    #[default]
    Abort,
    /// On with the candidate.
    Promote,
    /// Nothing, ever.
    Nothing,
}

impl Default for Person {
    fn default() -> Self {
        Self { reacts: Millis::seconds(900), notices: Millis::seconds(1_800), decides: Decides::Abort }
    }
}

/// The usual cases: all is well, and what most often is not.
pub fn usual_cases(metrics: &[Metric]) -> Vec<Case> {
    let case = |name: &str, faults: Vec<Fault>| Case { name: name.to_owned(), faults };
    let of = |what: What| Fault::of_candidate(what);
    let late = Fault { from: Millis::seconds(600), ..of(What::ErrorRate(0.05)) };
    let mut cases = vec![
        case("healthy", Vec::new()),
        case("5 % errors", vec![of(What::ErrorRate(0.05))]),
        case("5 % errors after 10 min", vec![late]),
        case("latency × 4", vec![of(What::Slower(4.0))]),
        case("a crash after 20 s", vec![Fault { from: Millis::seconds(20), ..of(What::Crash) }]),
        case("never starts", vec![of(What::NeverStarts)]),
    ];
    let quality = metrics.iter().find(|metric| !metric.dry_run && super::evidence::is_played(metric));
    let (name, value, against) = match quality {
        None => ("accuracy".to_owned(), 0.91, 0.94),
        Some(metric) => {
            let usual = super::evidence::usual(metric);
            let worse = if metric.better() == Better::Lower { 1.25 } else { 0.95 };
            (metric.name.clone(), (usual * worse * 1e4).round() / 1e4, usual)
        }
    };
    let shown = format!("{name} {value} against {against}");
    cases.push(case(&shown, vec![of(What::Metric { name, value, against: Some(against) })]));
    cases
}

impl Scenario {
    /// Steady traffic, healthy revisions, the usual cases.
    pub fn usual(spec: &ServiceSpec) -> Self {
        Self {
            traffic: Traffic::Described(Described::steady(50.0)),
            start: 36_000,
            longest: Millis::seconds(86_400),
            seed: 1,
            stable: Behaviour::default(),
            candidate: Behaviour::default(),
            labels: Labels::default(),
            person: Person::default(),
            cases: usual_cases(&spec.metrics),
        }
    }
}

/// How a revision behaves at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Now {
    pub(super) error_rate: f64,
    pub(super) latency_ms: f64,
    pub(super) spread: f64,
    pub(super) starts_in: Millis,
    pub(super) stops_in: Millis,
    pub(super) never_starts: bool,
    pub(super) hangs: bool,
    pub(super) wrong: bool,
    pub(super) crashes_every: Option<Millis>,
    pub(super) disagreement: f64,
    /// Value and standard deviation of each metric, in the order of the service's metrics.
    pub(super) metrics: Vec<(f64, f64)>,
    /// Whether those who meet it are hurt.
    pub(super) is_bad: bool,
}

/// How revisions behave over time.
#[derive(Clone, Debug)]
pub(super) struct Course<'a> {
    scenario: &'a Scenario,
    faults: &'a [Fault],
    metrics: &'a [Metric],
}

impl<'a> Course<'a> {
    pub(super) fn new(scenario: &'a Scenario, faults: &'a [Fault], metrics: &'a [Metric]) -> Self {
        Self { scenario, faults, metrics }
    }

    /// When something changes next.
    pub(super) fn next_change(&self, now: Millis) -> Option<Millis> {
        self.changes().filter(|&at| at > now).min()
    }

    /// Every moment at which something changes.
    pub(super) fn changes(&self) -> impl Iterator<Item = Millis> + '_ {
        self.faults.iter().flat_map(|fault| [Some(fault.from), fault.until]).flatten()
    }

    /// Single ends of instances after a moment (or from the start) up to another: whose, and whether memory was the cause.
    pub(super) fn ends(&self, after: Option<Millis>, to: Millis) -> impl Iterator<Item = (Whose, bool)> + '_ {
        let within = move |fault: &&Fault| after.is_none_or(|after| after < fault.from) && fault.from <= to;
        self.faults.iter().filter(within).filter_map(|fault| match fault.what {
            What::Crash => Some((fault.whose, false)),
            What::OutOfMemory => Some((fault.whose, true)),
            _ => None,
        })
    }

    /// Whether one revision is no worse than the other at this metric.
    fn is_worse(&self, name: &str, value: f64, stable: f64) -> bool {
        let known = self.metrics.iter().find(|metric| metric.name == name);
        let better = known.map_or_else(|| usual_direction(name), Metric::better);
        match better {
            Better::Higher => value < stable,
            Better::Lower => value > stable,
            Better::Same => (value - stable).abs() > f64::EPSILON,
        }
    }

    /// How a revision behaves now. Revisions beyond the candidate are further arms; they behave as stable does.
    pub(super) fn behaviour(&self, revision: RevisionNumber, now: Millis) -> Now {
        let is_candidate = revision == super::CANDIDATE;
        let base = if is_candidate { &self.scenario.candidate } else { &self.scenario.stable };
        let mut is = Now {
            error_rate: base.error_rate,
            latency_ms: base.latency_ms,
            spread: base.spread,
            starts_in: base.starts_in,
            stops_in: base.stops_in,
            disagreement: base.disagreement,
            metrics: self.metrics.iter().map(|metric| self.level(metric, base, is_candidate, now)).collect(),
            ..Now::default()
        };
        let whose = if is_candidate { Whose::Candidate } else { Whose::Stable };
        for fault in self.faults.iter().filter(|fault| fault.whose == whose && fault.is_active(now)) {
            is.is_bad |= fault.hurts();
            match &fault.what {
                What::ErrorRate(rate) => is.error_rate = *rate,
                What::Slower(factor) => is.latency_ms *= factor,
                What::Latency(span) => is.latency_ms = span.0 as f64,
                What::Metric { name, value, against } => {
                    let stable = against.unwrap_or_else(|| self.stable_value(name));
                    is.is_bad |= is_candidate && self.is_worse(name, *value, stable);
                    // Answers that are right less often differ at least as often.
                    let shift = (value - stable).abs();
                    is.disagreement = is.disagreement.max(if shift < 1.0 { shift } else { 0.0 });
                }
                What::Disagreement(share) => (is.disagreement, is.is_bad) = (*share, is.is_bad),
                What::CrashEvery(span) => is.crashes_every = Some(*span),
                What::Hang => is.hangs = true,
                What::WrongAnswers => is.wrong = true,
                What::StartsIn(span) => is.starts_in = *span,
                What::NeverStarts => is.never_starts = true,
                What::Crash | What::OutOfMemory => {}
            }
        }
        is
    }

    fn stable_value(&self, name: &str) -> f64 {
        let known = self.metrics.iter().find(|metric| metric.name == name);
        let usual = known.map_or(0.0, super::evidence::usual);
        self.scenario.stable.metrics.get(name).copied().unwrap_or(usual)
    }

    /// Value and deviation of a metric: what a fault says, else what the revision is like, else what stable is like, else what is usual.
    fn level(&self, metric: &Metric, base: &Behaviour, is_candidate: bool, now: Millis) -> (f64, f64) {
        let mut said =
            self.faults.iter().rev().filter(|fault| fault.is_active(now)).filter_map(|fault| match &fault.what {
                What::Metric { name, value, against } if *name == metric.name => {
                    match (fault.whose == Whose::Candidate) == is_candidate {
                        true => Some(*value),
                        false => *against,
                    }
                }
                _ => None,
            });
        let own = base.metrics.get(&metric.name).copied();
        let value = said.next().or(own).unwrap_or_else(|| self.stable_value(&metric.name));
        let deviation = base.deviations.get(&metric.name).or_else(|| self.scenario.stable.deviations.get(&metric.name));
        (value, deviation.copied().unwrap_or_else(|| (value.abs() / 3.0).max(1e-9)))
    }
}

/// Which way is better for a metric that the service does not declare.
fn usual_direction(name: &str) -> Better {
    const LOWER: [&str; 8] = ["loss", "rmse", "mae", "mse", "brier", "error", "latency", "drift"];
    if LOWER.iter().any(|part| name.contains(part)) { Better::Lower } else { Better::Higher }
}
