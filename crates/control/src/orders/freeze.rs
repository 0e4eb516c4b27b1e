//! A person bars deploys of a service, and lets them in again.
//!
//! Promises: while they are barred nothing new begins, and the service cannot be removed and made anew; what is under way goes on, and a
//! rollback or an abort is never barred.

use modelyard_core::ServiceName;
use modelyard_core::event::{Actor, EventBody};
use modelyard_monitor::time::readable;

use super::{Decision, Error, Orders, accepted, present};
use crate::store::fold::ServiceState;

impl Orders {
    /// Bars deploys for the reason `why`, or lets them in again without one. Whether that changed anything.
    ///
    /// # Errors
    /// [`Error::NoService`]; [`Error::Frozen`] when they are barred for another reason: who barred them must lift that first.
    #[tracing::instrument(name = "order.freeze", skip_all, fields(service = %name), err(level = "info"))]
    pub async fn freeze(&self, name: &ServiceName, why: Option<String>, actor: Actor) -> Result<bool, Error> {
        let before = self.ledger.service(name);
        if present(&before)?.frozen.as_ref().map(|freeze| &freeze.why) == why.as_ref() {
            return Ok(false);
        }
        let decide = |state: &ServiceState| {
            let state = present(state)?;
            let body = match &why {
                Some(why) => {
                    refuse_frozen(state)?;
                    EventBody::Frozen { why: why.clone() }
                }
                None => EventBody::Unfrozen,
            };
            Ok(Decision { rollout: state.current_rollout().cloned(), bodies: vec![body], accepted: accepted(state) })
        };
        self.decide(name, actor, decide).await.map(|_| true)
    }
}

/// Refuses what would begin something new while deploys are barred.
pub(super) fn refuse_frozen(state: &ServiceState) -> Result<(), Error> {
    let Some(freeze) = &state.frozen else { return Ok(()) };
    let by = match &freeze.by {
        Actor::Person(name) => name.clone(),
        Actor::Controller => "the controller".to_owned(),
    };
    Err(Error::Frozen { service: state.name.clone(), by, since: readable(freeze.since), why: freeze.why.clone() })
}
