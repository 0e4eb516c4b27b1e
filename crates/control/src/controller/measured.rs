//! What is measured of a service now, what the gateway must tell for it, and what is known. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::evidence::{Evidence, Statistic};
use modelyard_core::metric::{Metric, MetricSource};
use modelyard_core::mirror::{Comparison, Tap};
use modelyard_core::profile::Profile;
use modelyard_core::service::{Revision, ServiceSpec};
use modelyard_core::strategy::{Strategy, Unit};
use modelyard_core::{RevisionNumber, Timestamp, Weight};
use modelyard_monitor::{capture, drift};

use crate::evidence::Following;
use crate::store::fold::{Open, ServiceState};

/// Bytes of spool that may lie unread: minutes of a busy service while the control plane is away.
const SPOOL: u64 = 256 << 20;
/// Longest body that is told for drift.
const BODY: u64 = 64 << 10;

/// What is measured; nothing of a service that was removed.
pub fn following(state: &ServiceState, profiles: BTreeMap<RevisionNumber, Arc<Profile>>) -> Option<Following> {
    let spec = state.spec.as_ref()?;
    let metrics = spec.metrics.clone();
    let asked = spec.quality.looks_at_drift();
    let drift = asked.then(|| drift::Rule { reference: spec.quality.reference, stable: state.stable, profiles });
    let capture = captured(state, spec);
    let last = state.rollouts.last();
    let Some(open) = &state.open else {
        let scope = last.map_or_else(String::new, |record| format!("after {}", record.id));
        let since = last.map(|record| record.ended.unwrap_or(record.started));
        return Some(Following { scope, since, until: None, metrics, unit: Unit::Request, drift, capture });
    };
    // While the old pool is kept the candidate is watched as before.
    let ended = last.and_then(|record| record.ended).filter(|_| !open.machine.is_in_rollback_window());
    let (unit, since, until) = match &open.machine.plan.strategy {
        // Before the split stands and after it is given up, arms do not get what they were assigned.
        Strategy::Ab(ab) => (ab.unit, open.split.since, earlier(open.split.until, ended)),
        _ => (Unit::Request, Some(open.machine.started), ended),
    };
    Some(Following { scope: open.id.to_string(), since, until, metrics, unit, drift, capture })
}

/// What is kept as files. The gateway may tell more than that, when others want to know.
fn captured(state: &ServiceState, spec: &ServiceSpec) -> Option<capture::Rule> {
    let capture = spec.capture.clone()?;
    let told = tap(state, spec)?.share;
    let keep = f64::from(capture.share.basis_points()) / f64::from(told.basis_points());
    let version = |revision: &Arc<Revision>| (revision.number, revision.version.to_string());
    let rollout = state.rollouts.last().map(|record| capture::Arms {
        rollout: record.id.to_string(),
        started: record.started,
        ended: record.ended,
        roles: record
            .arms
            .iter()
            .map(|&arm| (arm, "arm"))
            .chain(record.beside.iter().map(|&one| (one, "beside")))
            .chain(std::iter::once((record.to, "candidate")))
            .chain(record.from.map(|from| (from, "stable")))
            .collect(),
    });
    Some(capture::Rule { capture, keep, versions: state.revisions.values().map(version).collect(), rollout })
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

/// What the gateway tells of answers; nothing unless somebody wants to know.
pub fn tap(state: &ServiceState, spec: &ServiceSpec) -> Option<Tap> {
    let undecided = state.watched();
    let compares =
        undecided.is_some_and(is_test) || spec.metrics.iter().any(|metric| told_by(metric, undecided.is_some()));
    let drift = spec.quality.looks_at_drift();
    let captured = spec.capture.as_ref();
    let share = match captured {
        _ if compares || drift => Weight::ALL,
        Some(capture) => capture.share,
        None => return None,
    };
    let body_bytes = captured.map_or(0, |capture| capture.body_bytes).max(if drift { BODY } else { 0 });
    (share > Weight::NONE).then_some(Tap { share, body_bytes, limit_bytes: SPOOL })
}

/// A test counts units, whatever it is decided by.
fn is_test(open: &Open) -> bool {
    matches!(open.machine.plan.strategy, Strategy::Ab(_))
}

/// Whether a metric is computed from answers. Latency and errors matter while something is decided; predictions always, for labels come late.
fn told_by(metric: &Metric, undecided: bool) -> bool {
    match metric.from {
        MetricSource::Feedback | MetricSource::Reward | MetricSource::Response => true,
        MetricSource::Latency | MetricSource::Errors => undecided,
        MetricSource::Prometheus | MetricSource::Webhook => false,
    }
}

/// What is known of the arms; `None` when nothing is measured.
pub fn evidence(
    state: &ServiceState,
    known: Option<Arc<Evidence>>,
    mut shadows: BTreeMap<RevisionNumber, Comparison>,
) -> Option<Evidence> {
    let (spec, open) = (state.spec.as_ref()?, state.open.as_ref()?);
    let mirrors = matches!(open.machine.plan.strategy, Strategy::Shadow(_)) || !open.machine.beside().is_empty();
    let asked = !spec.metrics.is_empty() || spec.quality.looks_at_drift() || is_test(open) || mirrors;
    if !asked {
        return None;
    }
    // Of an earlier rollout's shadows nothing is asked.
    shadows.retain(|revision, _| state.revisions.get(revision).is_some_and(|r| r.created >= open.machine.started));
    let known = known.map(Arc::unwrap_or_clone).unwrap_or_default();
    Some(Evidence { shadows, ..known })
}

/// Fields of a revision whose drift the log keeps: those that moved most.
const DRIFTED: usize = 12;
/// Values of a sample that the log keeps: quantiles in steps of half a percent.
const LOGGED: usize = 201;

/// Evidence as it goes into the log: without what only judges need, for it is written every few seconds.
pub fn for_the_log(evidence: &Evidence) -> Evidence {
    let mut brief = evidence.clone();
    brief.drift.values_mut().for_each(|fields| fields.truncate(DRIFTED));
    for arm in brief.arms.values_mut() {
        arm.series.clear();
        for statistic in arm.metrics.values_mut() {
            if let Statistic::Sample { values, .. } = statistic
                && values.len() > LOGGED
            {
                let last = values.len() - 1;
                *values = (0..LOGGED).map(|step| values[step * last / (LOGGED - 1)]).collect();
            }
        }
    }
    brief
}

#[cfg(test)]
mod tests {
    use modelyard_core::evidence::ArmEvidence;

    use super::*;

    #[test]
    fn the_log_keeps_quantiles_and_leaves_series_out() {
        let values: Vec<f64> = (0..4_096).map(f64::from).collect();
        let arm = ArmEvidence {
            metrics: BTreeMap::from([("m".to_owned(), Statistic::Sample { seen: 9_000, values })]),
            series: BTreeMap::from([("m".to_owned(), vec![Some(1.0); 240])]),
            ..ArmEvidence::default()
        };
        let evidence = Evidence { arms: BTreeMap::from([(RevisionNumber(1), arm)]), ..Evidence::default() };
        let arm = &for_the_log(&evidence).arms[&RevisionNumber(1)];
        let Statistic::Sample { seen, values } = &arm.metrics["m"] else { panic!("a sample stays one") };
        assert!(arm.series.is_empty() && *seen == 9_000 && values.len() == LOGGED);
        assert_eq!((values[0], values[LOGGED - 1]), (0.0, 4_095.0));
        assert!((arm.metrics["m"].estimate(0.95).unwrap() - 3_891.0).abs() < 25.0);
    }
}
