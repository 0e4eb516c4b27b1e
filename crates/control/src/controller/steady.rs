//! What serves between rollouts: whether it has become worse than when it was promoted, or is asked for what it was not made for.
//!
//! Nothing is taken back here: there is no other pool to go back to. It is told, once for each cause, and a person decides: another version, or
//! alternatives as shadow or canary beside it, with this one as stable.

use modelyard_core::event::{Actor, EventBody};
use modelyard_core::evidence::{ArmEvidence, Evidence};
use modelyard_core::failure::Cause;
use modelyard_core::service::ServiceSpec;
use modelyard_core::{Millis, RevisionNumber};
use modelyard_rollout::Verdict;
use modelyard_rollout::judge::{DriftJudged, drifted, guard};

use super::Controller;
use super::tick::Memory;
use crate::store::Error;
use crate::store::fold::ServiceState;

/// How often what serves is looked at: quality moves slowly.
const LOOK: Millis = Millis::seconds(1);

impl Controller {
    /// Looks at the evidence since the last rollout, and tells what is new.
    pub(super) async fn watch_stable(&self, state: &ServiceState, memory: &mut Memory) -> Result<(), Error> {
        let (Some(spec), Some(stable)) = (&state.spec, state.stable) else { return Ok(()) };
        let asked = spec.quality.looks_at_drift() || !spec.metrics.is_empty();
        let now = self.clock.now();
        if !asked || now - memory.watched.0 < LOOK {
            return Ok(());
        }
        memory.watched.0 = now;
        let Some(known) = self.book.evidence(&state.name) else { return Ok(()) };
        // What is known may still be that of the rollout which has just been closed.
        let after = state.rollouts.last().map(|record| format!("after {}", record.id));
        if self.book.following(&state.name).map(|following| following.scope.clone()) != after {
            return Ok(());
        }
        self.recall_promotion(state, stable, memory).await;
        let then = memory.watched.1.as_ref().and_then(|(_, arm)| arm.as_ref());
        let told = |cause: Cause| state.noticed().any(|notice| notice.cause == cause);
        let found = [worse(spec, stable, then, &known), moved(spec, stable, &known)];
        let news: Vec<EventBody> =
            found.into_iter().flatten().filter(|one| !told(one.0)).map(|one| one.event(stable)).collect();
        if !news.is_empty() {
            self.ledger.commit(state, Actor::Controller, news).await?;
        }
        Ok(())
    }

    /// What was known of the revision in the rollout that made it stable: read once.
    async fn recall_promotion(&self, state: &ServiceState, stable: RevisionNumber, memory: &mut Memory) {
        let promoted = state.rollouts.iter().rev().find(|record| record.to == stable && record.ended.is_some());
        let Some(record) = promoted else { return };
        if memory.watched.1.as_ref().is_some_and(|(id, _)| *id == record.id) {
            return;
        }
        let known = self.book.of_scope(&state.name, record.id.as_str()).await.ok().flatten();
        memory.watched.1 = Some((record.id.clone(), known.and_then(|mut known| known.arms.remove(&stable))));
    }
}

/// Something to be told.
struct Found(Cause, String, Vec<String>);

impl Found {
    fn event(self, revision: RevisionNumber) -> EventBody {
        let Self(cause, why, evidence) = self;
        EventBody::QualityDropped { revision, cause, why, evidence }
    }
}

/// Worse than when it was promoted, by the service's own judge. A limit (threshold judge) needs no past.
fn worse(spec: &ServiceSpec, stable: RevisionNumber, then: Option<&ArmEvidence>, known: &Evidence) -> Option<Found> {
    let (nothing, now) = (ArmEvidence::default(), known.arms.get(&stable)?);
    let guarded = guard(&spec.metrics, &spec.judge, then.unwrap_or(&nothing), now);
    (guarded.verdict == Verdict::Fail).then(|| {
        let why = guarded.why.replace("than stable's", "than when it was promoted");
        Found(Cause::Quality, why, guarded.evidence)
    })
}

/// Moved further from its reference than is allowed, by the measures of a rollout.
fn moved(spec: &ServiceSpec, stable: RevisionNumber, known: &Evidence) -> Option<Found> {
    let moved = drifted(&spec.quality, known.drift.get(&stable)?);
    let worst = moved.first()?.in_words();
    Some(Found(Cause::Drift, worst, moved.iter().map(DriftJudged::in_words).take(8).collect()))
}
