//! Starting instances: package folder, specification, target; each start in a task of its own.
//!
//! Promises: one start per instance at a time; after the gate was closed nothing is started any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use modelyard_core::flags;
use modelyard_core::instance::InstanceSpec;
use modelyard_core::machine::MachineId;
use modelyard_core::ports::{Target, TargetError};
use modelyard_core::service::Revision;
use modelyard_core::{InstanceId, ServiceName, Timestamp};
use tokio::sync::{Notify, RwLock};

use crate::http_client::chain;
use crate::ledger::lock;
use crate::packages::Packages;

// The second and third try bridge a full disk being cleared or a registry restarting; after that a person is told.
const TRIES: u32 = 3;

/// What became of the starts of one service.
pub struct Starts {
    target: Arc<dyn Target>,
    packages: Arc<dyn Packages>,
    gate: Arc<Gate>,
    tries: Arc<Mutex<HashMap<InstanceId, Try>>>,
}

/// Closed once the control plane goes down: whoever holds it open may start an instance.
#[derive(Default)]
pub struct Gate {
    closed: RwLock<bool>,
}

impl Gate {
    /// Waits for the starts under way, and lets no further one begin.
    pub async fn close(&self) {
        *self.closed.write().await = true;
    }
}

#[derive(Clone, Debug, Default)]
struct Try {
    count: u32,
    running: bool,
    /// When the target last said yes.
    done: Option<Timestamp>,
    error: Option<String>,
    fatal: bool,
}

/// What is asked for.
pub struct Wanted {
    /// Identity.
    pub id: InstanceId,
    /// Service.
    pub service: ServiceName,
    /// The service by whose name callers know it, if another.
    pub known_as: Option<ServiceName>,
    /// Revision.
    pub revision: Arc<Revision>,
    /// Position of the event that asked for it.
    pub generation: u64,
    /// Where it was placed.
    pub machine: Option<MachineId>,
}

impl Starts {
    /// No starts yet.
    pub fn new(target: Arc<dyn Target>, packages: Arc<dyn Packages>, gate: Arc<Gate>) -> Self {
        Self { target, packages, gate, tries: Arc::default() }
    }

    /// Starts an instance that the target did not know when it was asked at `begun`. Calls `after` when the try is over.
    pub fn ensure(&self, wanted: Wanted, begun: Timestamp, now: Timestamp, after: Vec<Arc<Notify>>) {
        {
            let mut tries = lock(&self.tries);
            let attempt = tries.entry(wanted.id.clone()).or_default();
            // Asked for already, and not looked at since.
            if attempt.running || attempt.fatal || attempt.done.is_some_and(|done| done >= begun) {
                return;
            }
            attempt.running = true;
            attempt.count += 1;
        }
        let (target, packages, gate) = (Arc::clone(&self.target), Arc::clone(&self.packages), Arc::clone(&self.gate));
        let tries = Arc::clone(&self.tries);
        tokio::spawn(async move {
            let id = wanted.id.clone();
            let result = start(&*target, &*packages, &gate, wanted).await;
            record(&mut lock(&tries), id, result, now);
            after.iter().for_each(|waker| waker.notify_one());
        });
    }

    /// Why an instance can never be started, if so.
    pub fn hopeless(&self, id: &InstanceId) -> Option<String> {
        lock(&self.tries).get(id).filter(|attempt| attempt.fatal).and_then(|attempt| attempt.error.clone())
    }

    /// Drops what is remembered of instances that `keep` does not want kept.
    pub fn retain(&self, keep: impl Fn(&InstanceId) -> bool) {
        lock(&self.tries).retain(|id, _| keep(id));
    }
}

fn record(tries: &mut HashMap<InstanceId, Try>, id: InstanceId, result: Result<(), Refused>, now: Timestamp) {
    let attempt = tries.entry(id.clone()).or_default();
    attempt.running = false;
    match result {
        Ok(()) => attempt.done = Some(now),
        Err(Refused { why, for_ever }) => {
            tracing::warn!(instance = %id, attempt = attempt.count, why, "an instance cannot be started");
            attempt.fatal = for_ever || attempt.count >= TRIES;
            attempt.error = Some(why);
        }
    }
}

struct Refused {
    why: String,
    for_ever: bool,
}

async fn start(target: &dyn Target, packages: &dyn Packages, gate: &Gate, wanted: Wanted) -> Result<(), Refused> {
    let again = |why: String| Refused { why, for_ever: false };
    let digest = wanted.revision.package;
    let package = packages.document(digest).await.map_err(|error| again(chain(&error)))?;
    let package_dir = packages.folder(digest).await.map_err(|error| again(chain(&error)))?;
    let spec = InstanceSpec {
        id: wanted.id,
        service: wanted.service,
        known_as: wanted.known_as,
        revision: wanted.revision.number,
        package: digest,
        image: wanted.revision.image,
        package_dir,
        runtime: package.runtime.clone(),
        environment: environment(&wanted.revision),
        resources: wanted.revision.resources,
        generation: wanted.generation,
        machine: wanted.machine,
    };
    let closed = gate.closed.read().await;
    if *closed {
        return Ok(());
    }
    match target.ensure(&spec).await {
        Ok(()) | Err(TargetError::Stale { .. }) => Ok(()),
        Err(error @ TargetError::Impossible { .. }) => Err(Refused { why: chain(&error), for_ever: true }),
        Err(error @ TargetError::Failed { .. }) => Err(again(chain(&error))),
    }
}

/// Configuration as it is, and the flags.
fn environment(revision: &Revision) -> BTreeMap<String, String> {
    let mut variables = revision.configuration.clone();
    variables.extend(flags::environment(&revision.flags));
    variables
}
