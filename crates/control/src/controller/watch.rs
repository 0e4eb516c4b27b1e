//! Watches the target: one reader for all services, so that many services cost one look.

use std::sync::Arc;
use std::time::Duration;

use modelyard_core::ports::Target;
use modelyard_core::{Millis, Timestamp};
use tokio::sync::{Notify, watch};

use super::lifecycle::TargetSeen;
use super::machines::RollCall;
use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::store::fold::World;

const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(500);
/// Between two looks at how the machines stand.
const CALM: Millis = Millis::seconds(1);
// Ends that nobody waits for are given as much time as a drained instance gets.
const GRACE: Duration = Duration::from_secs(10);

/// Watches the target.
pub struct Watch {
    /// The target.
    pub target: Arc<dyn Target>,
    /// Log and state.
    pub ledger: Arc<Ledger>,
    /// Where sights go.
    pub seen: Arc<watch::Sender<Option<Arc<TargetSeen>>>>,
    /// Asks for a look now.
    pub poke: Arc<Notify>,
}

impl Watch {
    /// Runs until dropped.
    pub async fn run(self) {
        let mut roll = RollCall::new(&self.ledger.world().lost);
        let mut called = Timestamp(0);
        loop {
            self.look().await;
            let now = self.ledger.now();
            // A clock that is set back must not keep it from being called.
            if now < called || now - called >= CALM {
                called = now;
                self.call_the_roll(&mut roll, now).await;
            }
            let busy = self.ledger.world().services.values().any(|service| service.is_busy());
            tokio::select! {
                () = tokio::time::sleep(if busy { BUSY } else { IDLE }) => {}
                () = self.poke.notified() => {}
            }
        }
    }

    /// Tells which machines were lost, and which are back.
    async fn call_the_roll(&self, roll: &mut RollCall, now: Timestamp) {
        let mut after = roll.clone();
        let events = after.call(self.target.machines(), now);
        if !events.is_empty()
            && let Err(error) = self.ledger.note(None, events).await
        {
            // Told with the next call.
            return tracing::error!(error = %chain(&error), "cannot record how the machines stand");
        }
        *roll = after;
    }

    /// Looks once, and tells everybody if anything changed.
    #[tracing::instrument(name = "target.look", level = "trace", skip_all)]
    pub async fn look(&self) -> bool {
        let begun = self.ledger.now();
        // What the log said before the look: an instance asked for since then is no stranger.
        let world = self.ledger.world();
        let statuses = match self.target.observe().await {
            Ok(statuses) => statuses,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the target cannot be observed");
                return false;
            }
        };
        let instances = statuses.into_iter().map(|status| (status.id.clone(), Arc::new(status))).collect();
        let sight = Arc::new(TargetSeen { begun, instances });
        self.clear_strangers(&world, &sight).await;
        let changed = self.seen.borrow().as_ref().is_none_or(|before| differs(before, &sight));
        self.seen.send_replace(Some(sight));
        if changed {
            self.ledger.wake_all();
        }
        true
    }

    /// Ends what the log knows nothing of, and forgets what has ended and been recorded.
    async fn clear_strangers(&self, before: &World, sight: &TargetSeen) {
        let after = self.ledger.world();
        let known =
            |world: &World, id, service| world.services.get(service).is_some_and(|s| s.instances.contains_key(id));
        for (id, status) in &sight.instances {
            if status.out_of_reach.is_some() || known(before, id, &status.service) || known(&after, id, &status.service)
            {
                continue;
            }
            let result = match &status.state {
                modelyard_core::instance::InstanceState::Exited(_) => self.target.forget(id).await,
                _ => self.target.stop(id, GRACE).await,
            };
            if let Err(error) = result {
                tracing::warn!(instance = %id, error = %chain(&error), "cannot clear an instance that nobody wants");
            }
        }
    }
}

/// Whether anything but figures differs.
fn differs(a: &TargetSeen, b: &TargetSeen) -> bool {
    let states = |seen: &TargetSeen| -> Vec<_> {
        seen.instances.values().map(|status| (status.id.clone(), status.state.clone(), status.pid)).collect()
    };
    states(a) != states(b)
}
