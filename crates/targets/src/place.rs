//! A machine as the fleet holds it, whatever it is reached by; and what was last seen of it.
//!
//! Promises: who asks waits half a second at most, and gets what was last known of a machine that does not answer, marked as out of reach; that is kept on
//! disk, so that a new control plane knows it at once.
//! Absent on purpose: reaching machines (`ssh`, `docker`).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelyard_core::InstanceId;
use modelyard_core::instance::InstanceStatus;
use modelyard_core::machine::{Machine, MachineId};
use modelyard_core::ports::Target;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::process::folder as documents;

/// How long a look waits for a machine before it takes what was last known: other machines wait for it too.
const PATIENCE: Duration = Duration::from_millis(400);
/// A connection that is back within this was never gone, as far as instances are concerned.
const BLINK: Duration = Duration::from_secs(5);

/// A machine that instances are placed on.
pub trait Place: Target {
    /// How it is reached.
    fn machine(&self) -> &Machine;

    /// What was last seen of it.
    fn sights(&self) -> &Sights;
}

/// What was last seen of a machine, and who waits for the next look.
#[derive(Debug)]
pub struct Sights {
    /// Number of the last look that was asked for.
    asked: watch::Sender<u64>,
    sight: watch::Sender<Sight>,
}

#[derive(Clone, Debug)]
struct Sight {
    /// Number of the look that saw it.
    answered: u64,
    reach: Reach,
    instances: Arc<Vec<InstanceStatus>>,
}

/// Whether a machine is in reach.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Connected to for the first time.
    Coming,
    Here,
    Gone {
        since: Instant,
        why: String,
    },
}

impl Sights {
    /// Of a machine that nobody has reached yet, and that had these instances.
    pub(crate) fn of(instances: Vec<InstanceStatus>) -> Self {
        let sight = Sight { answered: 0, reach: Reach::Coming, instances: Arc::new(instances) };
        Self { asked: watch::Sender::new(0), sight: watch::Sender::new(sight) }
    }

    /// Why it cannot be reached, if so.
    pub fn out_of_reach(&self) -> Option<String> {
        match &self.sight.borrow().reach {
            Reach::Gone { why, .. } => Some(why.clone()),
            Reach::Coming | Reach::Here => None,
        }
    }

    /// Whether it is being connected to for the first time.
    pub fn is_coming(&self) -> bool {
        matches!(self.sight.borrow().reach, Reach::Coming)
    }

    /// Whether it had nothing of ours when it was last seen.
    pub fn is_empty(&self) -> bool {
        self.sight.borrow().instances.is_empty()
    }

    /// Whether it had this instance when it was last seen.
    pub fn has(&self, id: &InstanceId) -> bool {
        self.sight.borrow().instances.iter().any(|status| status.id == *id)
    }

    /// Waits, for as long as `patience` goes, for a machine that is being connected to for the first time.
    pub(crate) async fn come(&self, patience: Duration) -> Reach {
        let mut sight = self.sight.subscribe();
        let come = sight.wait_for(|sight| !matches!(sight.reach, Reach::Coming));
        match tokio::time::timeout(patience, come).await {
            Ok(Ok(sight)) => sight.reach.clone(),
            _ => Reach::Coming,
        }
    }

    /// What is there now, or what was last known when it does not answer in time.
    pub(crate) async fn observe(&self) -> Vec<InstanceStatus> {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut sight = self.sight.subscribe();
        let settled = |sight: &Sight| sight.answered >= number || !matches!(sight.reach, Reach::Here);
        let _ = tokio::time::timeout(PATIENCE, sight.wait_for(settled)).await;
        let Sight { reach, instances, .. } = sight.borrow().clone();
        let why = match reach {
            Reach::Gone { since, why } if since.elapsed() >= BLINK => Some(why),
            Reach::Gone { .. } | Reach::Coming | Reach::Here => None,
        };
        let told = |status: &InstanceStatus| InstanceStatus { out_of_reach: why.clone(), ..status.clone() };
        instances.iter().map(told).collect()
    }

    /// Looks that are asked for.
    pub(crate) fn asked(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// It was looked at: the look of that number saw these instances.
    pub(crate) fn saw(&self, machine: &MachineId, number: u64, instances: Vec<InstanceStatus>) {
        self.sight.send_modify(|sight| {
            if let Reach::Gone { since, .. } = &sight.reach {
                tracing::info!(%machine, after = ?since.elapsed(), "a machine is back");
            }
            sight.answered = number;
            sight.reach = Reach::Here;
            sight.instances = Arc::new(instances);
        });
    }

    /// It cannot be reached.
    pub(crate) fn gone(&self, machine: &MachineId, why: String) {
        self.sight.send_modify(|sight| {
            let since = match &sight.reach {
                Reach::Gone { since, .. } => *since,
                Reach::Coming | Reach::Here => {
                    tracing::warn!(%machine, why, "a machine is out of reach");
                    Instant::now()
                }
            };
            sight.reach = Reach::Gone { since, why };
        });
    }
}

/// `seen.json`: the machine as it was last seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Last {
    /// How it was reached.
    machine: Option<Machine>,
    instances: Vec<InstanceStatus>,
}

/// What is kept of a machine on disk.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    last: Last,
}

impl Kept {
    /// Reads it; makes the folder, for the owner only.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join("seen.json");
        let last = documents::read(&path).ok().flatten().unwrap_or_default();
        Ok(Self { path, last })
    }

    /// The instances that it had.
    pub fn instances(&self) -> Vec<InstanceStatus> {
        self.last.instances.clone()
    }

    /// Whether it was reached in this way.
    pub fn was(&self, machine: &Machine) -> bool {
        self.last.machine.as_ref() == Some(machine)
    }

    /// Writes down how it is reached.
    pub fn reach(&mut self, machine: &Machine) {
        if !self.was(machine) {
            self.last.machine = Some(machine.clone());
            self.save();
        }
    }

    /// Writes down what is seen, unless only figures differ.
    pub fn see(&mut self, instances: &[InstanceStatus]) {
        let plain = |status: &InstanceStatus| InstanceStatus { memory_bytes: None, ..status.clone() };
        let instances: Vec<InstanceStatus> = instances.iter().map(plain).collect();
        if instances != self.last.instances {
            self.last.instances = instances;
            self.save();
        }
    }

    fn save(&self) {
        if let Err(error) = documents::write(&self.path, &self.last) {
            tracing::warn!(path = %self.path.display(), %error, "what was seen of a machine cannot be written down");
        }
    }
}

/// Machines under `folder` that had instances when they were last seen, and how they were reached.
pub(crate) fn last_reached(folder: &Path) -> Vec<(MachineId, Machine)> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let machine = |path: PathBuf| {
        let last: Last = documents::read(&path.join("seen.json")).ok().flatten()?;
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let id = format!("{}/{}", name(path.parent()?)?, name(&path)?).parse().ok()?;
        let machine = last.machine.filter(|machine| machine.problem().is_none() && !last.instances.is_empty())?;
        Some((id, machine))
    };
    entries(folder).flat_map(|environment| entries(&environment)).filter_map(machine).collect()
}
