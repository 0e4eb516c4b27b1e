//! Rolling back: out of an open rollout, within the window of a finished one, or to any earlier revision.

use modelyard_core::event::{Actor, EventBody, Order, Outcome};
use modelyard_core::service::ServiceSpec;
use modelyard_core::signature::compatible;
use modelyard_core::strategy::{BlueGreen, NoTraffic, QualityPolicy, Strategy};
use modelyard_core::{Millis, RevisionNumber, ServiceName};
use modelyard_rollout::Plan;

use super::deploy::start;
use super::{Accepted, Decision, Error, Orders, accepted, package_of, present};
use crate::store::fold::ServiceState;

/// What to roll back to.
#[derive(Clone, Debug)]
pub struct Rollback {
    /// The revision; the one before the present, if none is named.
    pub to: Option<RevisionNumber>,
    /// Who asks.
    pub actor: Actor,
}

/// How a rollback is done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// The rollout goes back to where it started from: its pool is still there.
    Abort,
    /// A rollout of its own.
    Rollout(RevisionNumber),
}

impl Orders {
    /// Rolls back.
    ///
    /// # Errors
    /// [`Error::NoRevision`], [`Error::NothingEarlier`], [`Error::AlreadyStable`], [`Error::Open`] when another revision than the
    /// open rollout's stable one is named, [`Error::Incompatible`].
    #[tracing::instrument(name = "order.rollback", skip_all, fields(service = %name), err(level = "info"))]
    pub async fn roll_back(&self, name: &ServiceName, rollback: Rollback) -> Result<Accepted, Error> {
        let Rollback { to, actor } = rollback;
        let state = self.ledger.service(name);
        if let Way::Rollout(target) = way(present(&state)?, to)? {
            self.check_lineage(&state, target).await?;
        }
        self.decide(name, actor, |state| {
            let state = present(state)?;
            match way(state, to)? {
                Way::Abort => {
                    let bodies = vec![EventBody::Ordered { order: Order::Abort }];
                    Ok(Decision { rollout: state.current_rollout().cloned(), bodies, accepted: accepted(state) })
                }
                Way::Rollout(target) => {
                    let spec = state.spec.as_ref().ok_or_else(|| Error::NoService(name.clone()))?;
                    Ok(start(state, target, &[], Plan::new(&fast(spec))?, Vec::new(), self.ledger.now()))
                }
            }
        })
        .await
    }

    /// Of two revisions of one API, the later took what the earlier took. Going back along that line is what a rollback is;
    /// only a revision of another line would break every caller.
    async fn check_lineage(&self, state: &ServiceState, target: RevisionNumber) -> Result<(), Error> {
        let Some(stable) = state.stable else { return Ok(()) };
        let present = self.packages.document(package_of(state, stable)?).await?;
        let former = self.packages.document(package_of(state, target)?).await?;
        let along = compatible(&former.signature, &present.signature);
        if along.is_ok() {
            return Ok(());
        }
        compatible(&present.signature, &former.signature).map_err(|why| Error::Incompatible {
            service: state.name.clone(),
            from: stable,
            to: format!("revision {target}"),
            why,
        })
    }
}

fn way(state: &ServiceState, to: Option<RevisionNumber>) -> Result<Way, Error> {
    if let Some(revision) = to {
        package_of(state, revision)?;
    }
    if let Some(open) = &state.open {
        let origin = open.machine.stable;
        let decided = open.machine.outcome().is_some();
        let there = to.is_none() || to == origin;
        if !decided && there {
            return Ok(Way::Abort);
        }
        if !decided {
            return Err(Error::Open { service: state.name.clone(), rollout: open.id.clone() });
        }
        if open.machine.is_in_rollback_window() && there && origin.is_some() {
            return Ok(Way::Abort);
        }
    }
    let target = to.or_else(|| previous(state)).ok_or_else(|| Error::NothingEarlier(state.name.clone()))?;
    if state.stable == Some(target) {
        return Err(Error::AlreadyStable { service: state.name.clone(), revision: target });
    }
    Ok(Way::Rollout(target))
}

/// The revision that the present one was promoted from.
fn previous(state: &ServiceState) -> Option<RevisionNumber> {
    let promoted = |record: &&std::sync::Arc<crate::store::fold::Record>| {
        record.outcome == Some(Outcome::Promoted) && Some(record.to) == state.stable
    };
    state.rollouts.iter().rev().find(promoted).and_then(|record| record.from).filter(|from| Some(*from) != state.stable)
}

/// All at once as soon as the old revision lives again: whoever rolls back has waited long enough.
fn fast(spec: &ServiceSpec) -> ServiceSpec {
    let mut fast = spec.clone();
    fast.strategy = Strategy::BlueGreen(BlueGreen {
        steps: Vec::new(),
        bake: Millis(0),
        preview: Millis(0),
        manual: false,
        rollback_window: Millis(0),
    });
    // It worked before: nothing is compared, and no drop of quality holds it up.
    fast.metrics.clear();
    fast.quality = QualityPolicy::default();
    fast.analysis.min_requests = 0;
    fast.analysis.no_traffic = NoTraffic::Promote;
    fast
}
