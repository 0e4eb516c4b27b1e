//! All places where instances run, as one target: this machine, and the machines of the environments.
//!
//! Promises: an instance is asked for where its specification says, and found where it is; machines do not wait for each other; a machine that its
//! environment names no more is kept as long as the control plane runs, or longer if anything of ours is there, but nothing new is placed on it.
//! Absent on purpose: which machine an instance goes to (the controller decides, and writes it down first).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{join, join_all};
use modelyard_core::InstanceId;
use modelyard_core::instance::{InstanceSpec, InstanceStatus};
use modelyard_core::machine::{Machine, MachineId, MachineSeen};
use modelyard_core::ports::{PortFuture, Room, Target, TargetError};

use crate::ssh::{Kit, SshMachine, last_reached};

/// Reads which machines there are, now.
pub type Roster = Arc<dyn Fn() -> Result<BTreeMap<MachineId, Machine>, String> + Send + Sync>;

/// All places.
pub struct Fleet {
    here: Arc<dyn Target>,
    roster: Roster,
    kit: Kit,
    folder: PathBuf,
    machines: Mutex<BTreeMap<MachineId, Known>>,
}

#[derive(Clone)]
struct Known {
    machine: Arc<SshMachine>,
    listed: bool,
}

impl Fleet {
    /// This machine, and those of the roster; each keeps its own files in `folder`, under its environment and name.
    pub fn new(here: Arc<dyn Target>, roster: Roster, kit: Kit, folder: PathBuf) -> Self {
        let fleet = Self { here, roster, kit, folder, machines: Mutex::default() };
        fleet.read();
        fleet
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<MachineId, Known>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what the roster says now.
    fn read(&self) {
        let wanted = match (self.roster)() {
            Ok(wanted) => wanted,
            Err(why) => return tracing::error!(why, "the machines cannot be read; those known before still count"),
        };
        let mut known = self.known();
        for (id, one) in known.iter_mut() {
            one.listed = wanted.contains_key(id);
        }
        for (id, machine) in &wanted {
            if known.get(id).is_none_or(|one| one.machine.machine() != machine) {
                self.take_up(&mut known, id, machine, true);
            }
        }
        // What an earlier control plane left on machines that are not named any more.
        for (id, machine) in last_reached(&self.folder) {
            if !known.contains_key(&id) {
                self.take_up(&mut known, &id, &machine, false);
            }
        }
    }

    fn take_up(&self, known: &mut BTreeMap<MachineId, Known>, id: &MachineId, machine: &Machine, listed: bool) {
        let folder = self.folder.join(id.environment.as_str()).join(id.name.as_str());
        // The one before must let go of the folder first.
        known.remove(id);
        match SshMachine::new(id.clone(), machine.clone(), self.kit.clone(), folder) {
            Ok(machine) => drop(known.insert(id.clone(), Known { machine: Arc::new(machine), listed })),
            Err(error) => tracing::error!(machine = %id, %error, "the folder of a machine cannot be made"),
        }
    }

    fn all(&self) -> Vec<Arc<SshMachine>> {
        self.known().values().map(|known| Arc::clone(&known.machine)).collect()
    }

    /// Where an instance is; this machine if nobody else has it.
    fn of(&self, id: &InstanceId) -> Arc<dyn Target> {
        match self.all().into_iter().find(|machine| machine.has(id)) {
            Some(machine) => machine,
            None => Arc::clone(&self.here),
        }
    }

    async fn ensure_there(&self, id: &MachineId, spec: &InstanceSpec) -> Result<(), TargetError> {
        let machine = self.known().get(id).map(|known| Arc::clone(&known.machine));
        let Some(machine) = machine else {
            let why = format!(
                "its environment names no such machine; `modelyard env set environments/{}.toml` does",
                id.environment
            );
            let doing = format!("could not start `{}` on machine `{id}`", spec.id);
            return Err(TargetError::Failed { doing, source: io::Error::other(why) });
        };
        machine.ensure(spec).await
    }
}

impl Target for Fleet {
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> PortFuture<'a, Result<(), TargetError>> {
        match &spec.machine {
            None => self.here.ensure(spec),
            Some(id) => Box::pin(self.ensure_there(id, spec)),
        }
    }

    fn observe(&self) -> PortFuture<'_, Result<Vec<InstanceStatus>, TargetError>> {
        Box::pin(async {
            let machines = self.all();
            let there = join_all(machines.iter().map(|machine| machine.observe()));
            let (here, there) = join(self.here.observe(), there).await;
            let mut all = here?;
            all.extend(there.into_iter().flatten().flatten());
            Ok(all)
        })
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> PortFuture<'a, Result<(), TargetError>> {
        Box::pin(async move { self.of(id).stop(id, grace).await })
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> PortFuture<'a, Result<(), TargetError>> {
        Box::pin(async move { self.of(id).forget(id).await })
    }

    /// Of this machine: where an instance would go is not known yet.
    fn room(&self) -> PortFuture<'_, Room> {
        self.here.room()
    }

    fn machines(&self) -> Vec<MachineSeen> {
        self.read();
        let seen = |(id, known): (&MachineId, &Known)| MachineSeen {
            id: id.clone(),
            listed: known.listed,
            out_of_reach: known.machine.out_of_reach(),
        };
        self.known().iter().map(seen).collect()
    }

    fn leave(&self) -> PortFuture<'_, ()> {
        Box::pin(async {
            let machines = self.all();
            join_all(machines.iter().map(|machine| machine.leave())).await;
        })
    }

    fn logs<'a>(&'a self, id: &'a InstanceId, lines: usize) -> PortFuture<'a, Result<Vec<String>, TargetError>> {
        Box::pin(async move {
            let machines = self.all();
            if let Some(machine) = machines.iter().find(|machine| machine.has(id)) {
                return machine.logs(id, lines).await;
            }
            // It has ended and was forgotten: who has its log is not known any more.
            let here = self.here.logs(id, lines).await;
            if here.is_ok() {
                return here;
            }
            let within = machines.iter().filter(|machine| machine.out_of_reach().is_none());
            let there = join_all(within.map(|machine| machine.logs(id, lines))).await;
            there.into_iter().find(Result::is_ok).unwrap_or(here)
        })
    }
}
