//! `modelyard rehearse`: a rollout played before production, with traffic and faults that were described, strategy by strategy.
//!
//! The state machine is the real one; what surrounds it is a light world of its own ([`crate::World`] is for what goes wrong at random,
//! this one for what was described). Figures are drawn from a seed: the same input gives the same [`Rehearsal`].
//!
//! Promises: a day with requests in well under a second; every strategy meets the same requests.
//! Absent on purpose: waits in queues under load, faults of the control plane and the gateway, anything that needs the real model.

mod draws;
mod evidence;
mod fault;
mod person;
mod pools;
mod scenario;
mod stage;
mod story;
mod told;
mod traffic;

use modelyard_core::metric::Metric;
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::{BlueGreen, NoTraffic, Strategy};
use modelyard_core::{Millis, RevisionNumber, Timestamp};
use modelyard_rollout::{Plan, PlanError, Rollout};

pub use fault::{EXAMPLES, Fault, FaultError, What, Whose};
pub use scenario::{Behaviour, Case, Decides, Labels, Person, Scenario, usual_cases};
pub use told::{Entry, Kind, Notice, Played, PlayedCase, Rehearsal, Shares, Window};
pub use traffic::{Described, Recorded, SHAPES, Traffic, shape};

use stage::Stage;

/// The revision that runs when the play begins, and the one that is rolled out.
const STABLE: RevisionNumber = RevisionNumber(1);
const CANDIDATE: RevisionNumber = RevisionNumber(2);

/// Plays every case with each of the strategies; the service's own comes first, whatever is named.
///
/// A strategy that the service cannot have (an A/B test without a metric) is left out, with its reason; of the service's own that is an error.
///
/// # Errors
/// [`PlanError`] when the service's own rules make no sense.
pub fn rehearse(spec: &ServiceSpec, scenario: &Scenario, strategies: &[&str]) -> Result<Rehearsal, PlanError> {
    Plan::new(spec)?;
    let (mut specs, mut left_out) = (vec![spec.clone()], Vec::new());
    for name in strategies.iter().filter(|name| **name != spec.strategy.name()) {
        match variant(spec, name) {
            Ok(spec) => specs.push(spec),
            Err(why) => left_out.push(format!("{name}: {why}")),
        }
    }
    let cases = scenario.cases.iter().map(|case| {
        let plays: Vec<Played> = specs.iter().filter_map(|spec| play(spec, scenario, case).ok()).collect();
        PlayedCase {
            name: case.name.clone(),
            faults: case.faults.iter().map(ToString::to_string).collect(),
            best: best(case, &plays),
            advice: advice(spec, case, &plays),
            plays,
        }
    });
    Ok(Rehearsal {
        service: spec.name.to_string(),
        instances: spec.instances,
        strategy: spec.strategy.name().to_owned(),
        starts_at_second: scenario.start,
        seed: scenario.seed,
        left_out,
        cases: cases.collect(),
    })
}

/// Plays one case with the service's own strategy.
///
/// # Errors
/// [`PlanError`] when its rules make no sense.
pub fn play(spec: &ServiceSpec, scenario: &Scenario, case: &Case) -> Result<Played, PlanError> {
    let plan = Plan::new(spec)?;
    let mut stage = Stage::new(spec, scenario, case);
    let mut rollout = start(spec, Some(STABLE), CANDIDATE, plan, stage.at());
    while !stage.is_over() {
        rollout = stage.tick(rollout, case);
    }
    Ok(stage.finish(&rollout))
}

fn start(
    spec: &ServiceSpec,
    stable: Option<RevisionNumber>,
    candidate: RevisionNumber,
    plan: Plan,
    at: Timestamp,
) -> Rollout {
    Rollout::start(spec.name.clone(), stable, candidate, &arms(spec), plan, at)
}

/// The revisions of the plan's further arms and shadows. They behave as stable does.
fn arms(spec: &ServiceSpec) -> Vec<RevisionNumber> {
    (CANDIDATE.0 + 1..).take(spec.strategy.further().len()).map(RevisionNumber).collect()
}

/// The rollout that `modelyard rollback` starts: all at once as soon as the old revision lives again.
fn rollback(spec: &ServiceSpec, at: Timestamp) -> Option<Rollout> {
    let mut fast = spec.clone();
    fast.strategy = Strategy::BlueGreen(BlueGreen {
        steps: Vec::new(),
        bake: Millis(0),
        preview: Millis(0),
        manual: false,
        rollback_window: Millis(0),
    });
    fast.analysis.min_requests = 0;
    fast.analysis.no_traffic = NoTraffic::Promote;
    let plan = Plan::new(&fast).ok()?;
    Some(start(&fast, Some(CANDIDATE), STABLE, plan, at))
}

/// The same service with another strategy and that strategy's defaults.
fn variant(spec: &ServiceSpec, name: &str) -> Result<ServiceSpec, String> {
    let mut strategy = Strategy::from_name(name).ok_or_else(|| "is no strategy".to_owned())?;
    if let Strategy::Ab(ab) = &mut strategy {
        let decides = spec.metrics.iter().find(|metric| !metric.dry_run && evidence::is_played(metric));
        ab.metric = decides.ok_or_else(|| "needs a metric in `[[metrics]]` that decides".to_owned())?.name.clone();
    }
    let spec = ServiceSpec { strategy, ..spec.clone() };
    Plan::new(&spec).map_err(|error| error.to_string())?;
    Ok(spec)
}

/// Fewest requests that failed or met a bad revision, then whole again first, then done first. None where no strategy noticed.
fn best(case: &Case, plays: &[Played]) -> Option<String> {
    let hurt = |play: &Played| {
        let lasting = play.harm.is_some() && play.whole.is_none();
        (
            lasting,
            play.failed.max(play.met),
            play.whole_after.unwrap_or_default(),
            play.decided.unwrap_or(Millis(u64::MAX)),
        )
    };
    let unseen = |play: &Played| play.met > 0 && play.noticed_by != Some(Notice::Rollout);
    if case.faults.is_empty() || plays.len() < 2 || plays.iter().all(unseen) {
        return None; // where nobody looks, the order is left to chance
    }
    plays.iter().min_by_key(|play| hurt(play)).map(|play| play.strategy.clone())
}

/// What would have helped where the service's own strategy did not notice.
fn advice(spec: &ServiceSpec, case: &Case, plays: &[Played]) -> Vec<String> {
    let Some(own) = plays.first().filter(|own| own.met > 0 && own.noticed_by != Some(Notice::Rollout)) else {
        return Vec::new();
    };
    let over = own.decided.filter(|_| own.outcome == Some(modelyard_core::event::Outcome::Promoted));
    let mut advice = Vec::new();
    for fault in case.faults.iter().filter(|fault| fault.whose == Whose::Candidate) {
        let analysis = &spec.analysis;
        let told = match &fault.what {
            _ if over.is_some_and(|over| over < fault.from) => {
                let over = over.unwrap_or_default();
                format!(
                    "`{fault}`: the rollout was over after {over}, and nobody watches after that; a longer `strategy.bake`, or blue-green with a \
                     `rollback-window` that reaches so far, would still have taken it back"
                )
            }
            What::Slower(_) | What::Latency(_)
                if analysis.max_latency_ms.is_none() && analysis.max_latency_ratio.is_none() =>
            {
                format!(
                    "`{fault}`: nothing looks at latency; set `analysis.max-latency-ratio = 2.0`, or `analysis.max-latency-ms`"
                )
            }
            What::Metric { name, .. } if !has(&spec.metrics, name) => format!(
                "`{fault}`: nothing looks at {name}; declare it in `[[metrics]]`, and send true labels to `/{}/feedback`",
                spec.name
            ),
            What::ErrorRate(rate) if *rate <= analysis.max_error_rate => format!(
                "`{fault}`: that is within what is allowed; `analysis.max-error-rate` is {}",
                analysis.max_error_rate
            ),
            _ => continue,
        };
        advice.push(told);
    }
    advice
}

fn has(metrics: &[Metric], name: &str) -> bool {
    metrics.iter().any(|metric| metric.name == name && !metric.dry_run)
}
