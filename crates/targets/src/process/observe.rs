//! What is seen of the instances: read from their folders and from `/proc`.
//!
//! Cheap enough for ten looks per second at dozens of instances: what cannot change any more is read once.

use std::collections::HashSet;
use std::fs;
use std::io;

use modelyard_core::home::Announcement;
use modelyard_core::instance::{Exit, InstanceState, InstanceStatus};
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Timestamp};

use super::folder::{self, Asked, Folder, Program};
use super::{Inner, family, instance_of, lost};
use crate::identity::Identity;

/// What is known of one instance and does not change any more.
#[derive(Clone, Debug)]
pub(super) struct Known {
    service: ServiceName,
    revision: RevisionNumber,
    started: Timestamp,
    supervisor: Option<Identity>,
    /// Kept once it is announced: until then another attempt may replace it.
    running: Option<(Announcement, Option<Identity>)>,
    ended: Option<Exit>,
}

impl Inner {
    pub(super) fn observe(&self) -> io::Result<Vec<InstanceStatus>> {
        self.memory().children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        let entries = match fs::read_dir(&self.instances) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut ids: Vec<InstanceId> = entries.flatten().filter_map(|entry| instance_of(&entry.path())).collect();
        ids.sort();
        let present: HashSet<&InstanceId> = ids.iter().collect();
        let mut memory = self.memory();
        memory.known.retain(|id, _| present.contains(id));
        memory.attempts.retain(|id, _| present.contains(id));
        drop(memory);
        Ok(ids.into_iter().filter_map(|id| self.look(id)).collect())
    }

    /// One instance. A folder that cannot be read hides that instance alone.
    fn look(&self, id: InstanceId) -> Option<InstanceStatus> {
        let before = self.memory().known.get(&id).cloned();
        let looked = self
            .look_closer(&id, before)
            .inspect_err(|error| tracing::warn!(instance = %id, %error, "its folder cannot be read"));
        let known = looked.ok().flatten()?;
        self.memory().known.insert(id.clone(), known.clone());
        Some(known.status(id))
    }

    fn look_closer(&self, id: &InstanceId, before: Option<Known>) -> io::Result<Option<Known>> {
        let folder = self.folder(id);
        let mut known = match before {
            Some(known) if known.ended.is_some() => return Ok(Some(known)),
            Some(known) => known,
            None => match folder::read::<Asked>(&folder.spec())? {
                Some(asked) => Known::new(asked),
                None => return Ok(None), // being written right now, or left by a crash before anything started
            },
        };
        if known.supervisor.is_none() {
            known.supervisor = folder::read(&folder.supervisor())?;
        }
        match known.supervisor {
            None => self.nurse(id, &folder)?,
            Some(supervisor) if !supervisor.is_alive() => known.ended = end_of(&folder)?,
            Some(_) => {}
        }
        if known.ended.is_none() {
            known.ended = folder::read(&folder.exit())?;
        }
        if let Some(exit) = &known.ended {
            let Exit { code, signal, out_of_memory, asked, .. } = exit;
            tracing::info!(instance = %id, ?code, ?signal, out_of_memory, asked, "instance ended");
        }
        if known.running.is_none() && known.ended.is_none() {
            known.running = running(&folder);
        }
        Ok(Some(known))
    }
}

/// The end of an instance whose supervisor ended: what it wrote down, or else what can be told now. `None` if that has to wait.
fn end_of(folder: &Folder) -> io::Result<Option<Exit>> {
    if let Some(exit) = folder::read(&folder.exit())? {
        return Ok(Some(exit));
    }
    match folder.try_lock()? {
        Some(lock) => lost::bury(folder, &lock).map(Some),
        None => Ok(None), // someone else is burying it
    }
}

/// The announcement, once there is one. A program of the package writes it; what is not an announcement is none.
fn running(folder: &Folder) -> Option<(Announcement, Option<Identity>)> {
    let announcement = folder::read(&folder.announce()).ok().flatten()?;
    let program: Option<Program> = folder::read(&folder.program()).ok().flatten();
    Some((announcement, program.map(|program| program.identity)))
}

impl Known {
    fn new(asked: Asked) -> Self {
        let Asked { at, spec, .. } = asked;
        Self {
            service: spec.service,
            revision: spec.revision,
            started: at,
            supervisor: None,
            running: None,
            ended: None,
        }
    }

    fn status(self, id: InstanceId) -> InstanceStatus {
        let Self { service, revision, started, running, ended, .. } = self;
        let program = running.as_ref().and_then(|(_, program)| *program);
        let memory_bytes = program.filter(|_| ended.is_none()).and_then(|program| family::memory(program.pid));
        let state = match (ended, running) {
            (Some(exit), _) => InstanceState::Exited(exit),
            (None, Some((Announcement { address, probe }, _))) => InstanceState::Running { address, probe },
            (None, None) => InstanceState::Starting,
        };
        InstanceStatus {
            id,
            service,
            revision,
            state,
            started,
            pid: program.map(|program| program.pid),
            memory_bytes,
            machine: None,
            out_of_reach: None,
        }
    }
}
