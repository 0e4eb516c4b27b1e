//! Keeping one machine in reach: connecting, looking, connecting again.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use modelyard_core::instance::{InstanceState, InstanceStatus};
use modelyard_core::machine::{Machine, MachineId};
use serde::{Deserialize, Serialize};

use super::command::over;
use super::forwards::Forwards;
use super::install::{PROGRAM, RUN, put};
use super::session::Session;
use super::wire::{Answer, Call};
use super::{Inner, Reach};
use crate::process::folder as documents;

/// The far side is here and has only to start.
const GREETING: Duration = Duration::from_secs(30);
/// A look that takes longer than this is none: the connection is made anew.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks that nobody asked for. The far side ends when it hears nothing for a minute.
const CALM: Duration = Duration::from_secs(1);
/// Between two tries to connect: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// `seen.json`: the machine as it was last seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Last {
    /// How it was reached by the master that may still run.
    machine: Option<Machine>,
    instances: Vec<InstanceStatus>,
}

/// What is kept of a machine on disk.
#[derive(Debug)]
pub struct Kept {
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

    /// Writes down what is seen, unless only figures differ.
    fn see(&mut self, instances: &[InstanceStatus]) {
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
pub fn last_reached(folder: &Path) -> Vec<(MachineId, Machine)> {
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

impl Inner {
    /// Runs until it is dropped.
    pub(super) async fn keep(self: Arc<Self>, mut kept: Kept) {
        let mut forwards = Forwards::load(self.ssh.clone());
        let mut pause = AGAIN.0;
        loop {
            let why = match self.connect(&mut forwards, &mut kept).await {
                Ok((session, program)) => {
                    pause = AGAIN.0;
                    let session = Arc::new(session);
                    self.converse(Some((Arc::clone(&session), program)));
                    let why = self.follow(&session, &mut forwards, &mut kept).await;
                    self.converse(None);
                    why
                }
                Err(why) => why,
            };
            self.gone(why);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    fn converse(&self, session: Option<(Arc<Session>, String)>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    fn gone(&self, why: String) {
        self.sight.send_modify(|sight| {
            let since = match &sight.reach {
                Reach::Gone { since, .. } => *since,
                Reach::Coming | Reach::Here => {
                    tracing::warn!(machine = %self.id, why, "a machine is out of reach");
                    Instant::now()
                }
            };
            sight.reach = Reach::Gone { since, why };
        });
    }

    /// A conversation with the far side, over a master that forwards what is to be forwarded; and the digest of the program there.
    async fn connect(&self, forwards: &mut Forwards, kept: &mut Kept) -> Result<(Session, String), String> {
        if kept.last.machine.as_ref() != Some(&self.machine) {
            // The master that may run leads to where the machine was before.
            self.ssh.end().await;
            kept.last.machine = Some(self.machine.clone());
            kept.save();
        }
        let master = match self.ssh.master().await {
            Some(master) => master,
            None => {
                let master = self.ssh.start(&self.machine).await?;
                if let Err(why) = self.ssh.lets_through().await {
                    // The next try asks anew.
                    self.ssh.end().await;
                    return Err(why);
                }
                master
            }
        };
        // Traffic first: everything else may take its time.
        forwards.renew(master).await;
        let folder = &self.machine.folder;
        let program = put(&self.ssh, Arc::clone(&self.kit.hashes), folder, &self.kit.binary, PROGRAM).await?;
        let session = Session::open(self.ssh.command(over(RUN, &[folder, &program, ""])), GREETING).await;
        let session = session.map_err(|error| error.to_string())?;
        let hello = Call::Hello { owner: format!("{} {}", self.kit.owner, self.id), whose: self.kit.whose.clone() };
        match session.call(hello, GREETING).await.map_err(|error| error.to_string())? {
            Answer::Done => Ok((session, program)),
            Answer::NotYours { why } | Answer::Failed { why } => Err(why),
            other => Err(format!("it answered something else: {other:?}")),
        }
    }

    /// Looks whenever somebody asks, and once a second; returns why it cannot any more.
    async fn follow(&self, session: &Session, forwards: &mut Forwards, kept: &mut Kept) -> String {
        let mut asked = self.asked.subscribe();
        loop {
            let number = *asked.borrow_and_update();
            let instances = match session.call(Call::Observe, LOOK).await {
                Ok(Answer::Seen { instances }) => instances,
                Ok(Answer::Failed { why }) => {
                    // Its disk, for example: the connection is well, and what was last known still counts.
                    tracing::warn!(machine = %self.id, why, "a machine cannot be looked at");
                    tokio::time::sleep(CALM).await;
                    continue;
                }
                Ok(other) => return format!("it answered something else: {other:?}"),
                Err(error) => return error.to_string(),
            };
            let instances = self.reached(instances, forwards).await;
            self.ssh.trim_log();
            kept.see(&instances);
            self.sight.send_modify(|sight| {
                if let Reach::Gone { since, .. } = &sight.reach {
                    tracing::info!(machine = %self.id, after = ?since.elapsed(), "a machine is back");
                }
                sight.answered = number;
                sight.reach = Reach::Here;
                sight.instances = Arc::new(instances);
            });
            let _ = tokio::time::timeout(CALM, asked.changed()).await;
        }
    }

    /// The instances with the addresses at which they are reached from here.
    async fn reached(&self, mut instances: Vec<InstanceStatus>, forwards: &mut Forwards) -> Vec<InstanceStatus> {
        for status in &mut instances {
            (status.machine, status.out_of_reach) = (Some(self.id.clone()), None);
            let InstanceState::Running { address, probe } = status.state else { continue };
            let local = forwards.local(&status.id, address).await;
            let aside = match probe {
                Some(probe) => forwards.local(&status.id, probe).await.map(Some),
                None => Ok(None),
            };
            status.state = match (local, aside) {
                (Ok(address), Ok(probe)) => InstanceState::Running { address, probe },
                (Err(why), _) | (_, Err(why)) => {
                    tracing::warn!(machine = %self.id, instance = %status.id, why, "an instance cannot be reached");
                    InstanceState::Starting
                }
            };
        }
        let runs = |id: &_| {
            instances.iter().any(|status| status.id == *id && !matches!(status.state, InstanceState::Exited(_)))
        };
        forwards.retain(runs).await;
        instances
    }
}
