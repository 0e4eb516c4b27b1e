//! What is measured of a service now, what the gateway must tell for it, and what is known. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::evidence::Evidence;
use modelyard_core::metric::{Metric, MetricSource};
use modelyard_core::mirror::{Comparison, Tap};
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::{Strategy, Unit};
use modelyard_core::{RevisionNumber, Timestamp, Weight};

use crate::evidence::Following;
use crate::store::fold::{Open, ServiceState};

/// Bytes of spool that may lie unread: minutes of a busy service while the control plane is away.
const SPOOL: u64 = 256 << 20;
/// Longest body that is told for drift.
const BODY: u64 = 64 << 10;

/// What is measured; nothing of a service that was removed.
pub fn following(state: &ServiceState) -> Option<Following> {
    let spec = state.spec.as_ref()?;
    let metrics = spec.metrics.clone();
    let last = state.rollouts.last();
    let Some(open) = &state.open else {
        let scope = last.map_or_else(String::new, |record| format!("after {}", record.id));
        let since = last.map(|record| record.ended.unwrap_or(record.started));
        return Some(Following { scope, since, until: None, metrics, unit: Unit::Request });
    };
    let ended = last.and_then(|record| record.ended);
    let (unit, since, until) = match &open.machine.plan.strategy {
        // Before the split stands and after it is given up, arms do not get what they were assigned.
        Strategy::Ab(ab) => (ab.unit, open.split.since, earlier(open.split.until, ended)),
        _ => (Unit::Request, Some(open.machine.started), ended),
    };
    Some(Following { scope: open.id.to_string(), since, until, metrics, unit })
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

/// What the gateway tells of answers; nothing unless somebody wants to know.
pub fn tap(state: &ServiceState, spec: &ServiceSpec) -> Option<Tap> {
    let undecided = state.undecided();
    let compares =
        undecided.is_some_and(is_test) || spec.metrics.iter().any(|metric| told_by(metric, undecided.is_some()));
    let drift = spec.quality.max_psi.is_some();
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
    let mirrors = matches!(open.machine.plan.strategy, Strategy::Shadow(_));
    let asked = !spec.metrics.is_empty() || spec.quality.max_psi.is_some() || is_test(open) || mirrors;
    if !asked {
        return None;
    }
    // Of an earlier rollout's shadows nothing is asked.
    shadows.retain(|revision, _| state.revisions.get(revision).is_some_and(|r| r.created >= open.machine.started));
    let known = known.map(Arc::unwrap_or_clone).unwrap_or_default();
    Some(Evidence { shadows, ..known })
}
