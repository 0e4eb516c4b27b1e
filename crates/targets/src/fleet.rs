//! All places where instances run, as one target: this machine, and the machines of the environments.
//!
//! Promises: an instance is asked for where its specification says, and found where it is; machines do not wait for each other; a machine that its
//! environment names no more is kept as long as anything of ours is there, but nothing new is placed on it, and then its connection is ended.
//! Absent on purpose: which machine an instance goes to (the controller decides, and writes it down first).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use modelyard_core::InstanceId;
use modelyard_core::instance::{InstanceSpec, InstanceStatus};
use modelyard_core::machine::{Machine, MachineId, MachineSeen};
use modelyard_core::ports::{PortFuture, Room, Target, TargetError};
use tokio::task::JoinHandle;

use crate::docker::DockerMachine;
use crate::place::{Place, last_reached};
use crate::ssh::SshMachine;
use crate::{docker, ssh};

/// Reads which machines there are, now.
pub type Roster = Arc<dyn Fn() -> Result<BTreeMap<MachineId, Machine>, String> + Send + Sync>;

/// What machines are given from here, by how they are reached.
#[derive(Clone)]
pub struct Kits {
    /// Those that ssh reaches.
    pub ssh: ssh::Kit,
    /// Docker Engines.
    pub docker: docker::Kit,
}

/// All places.
pub struct Fleet {
    here: Arc<dyn Target>,
    roster: Roster,
    kits: Kits,
    folder: PathBuf,
    machines: Mutex<BTreeMap<MachineId, Known>>,
    /// Machines whose connection is being ended.
    leaving: Mutex<BTreeMap<MachineId, JoinHandle<()>>>,
}

/// A machine that is named no more is let go after this without anything of ours: what was just asked for there is not seen yet.
const QUIET: Duration = Duration::from_secs(10);

struct Known {
    machine: Arc<dyn Place>,
    listed: bool,
    /// Since when it is named no more and carries nothing.
    idle: Option<Instant>,
}

impl Fleet {
    /// This machine, and those of the roster; each keeps its own files in `folder`, under its environment and name.
    pub fn new(here: Arc<dyn Target>, roster: Roster, kits: Kits, folder: PathBuf) -> Self {
        let (machines, leaving) = (Mutex::default(), Mutex::default());
        let fleet = Self { here, roster, kits, folder, machines, leaving };
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
        self.let_go(&mut known);
    }

    fn take_up(&self, known: &mut BTreeMap<MachineId, Known>, id: &MachineId, machine: &Machine, listed: bool) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|_, ends| !ends.is_finished());
        if leaving.contains_key(id) {
            return; // its folder is in use until then; the next reading takes it up
        }
        drop(leaving);
        let folder = self.place_of(id);
        // The one before must let go of the folder first.
        known.remove(id);
        match self.reach(id, machine, folder) {
            Ok(machine) => drop(known.insert(id.clone(), Known { machine, listed, idle: None })),
            Err(error) => tracing::error!(machine = %id, %error, "the folder of a machine cannot be made"),
        }
    }

    fn reach(&self, id: &MachineId, machine: &Machine, folder: PathBuf) -> io::Result<Arc<dyn Place>> {
        match machine {
            Machine::Ssh(login) => {
                let machine = SshMachine::new(id.clone(), login.clone(), self.kits.ssh.clone(), folder)?;
                Ok(Arc::new(machine))
            }
            Machine::Docker(engine) => {
                let machine = DockerMachine::new(id.clone(), engine.clone(), self.kits.docker.clone(), folder)?;
                Ok(Arc::new(machine))
            }
        }
    }

    /// Where the files of a machine are.
    fn place_of(&self, id: &MachineId) -> PathBuf {
        self.folder.join(id.environment.as_str()).join(id.name.as_str())
    }

    /// Ends the connections to machines that are named no more and carry nothing, with what was kept of them.
    fn let_go(&self, known: &mut BTreeMap<MachineId, Known>) {
        let now = Instant::now();
        for one in known.values_mut() {
            let is_idle = !one.listed && one.machine.sights().is_empty();
            one.idle = is_idle.then(|| one.idle.unwrap_or(now));
        }
        // Whoever else holds it is about to start something there.
        let is_over =
            |one: &Known| one.idle.is_some_and(|since| now - since >= QUIET) && Arc::strong_count(&one.machine) == 1;
        let gone: Vec<MachineId> = known.iter().filter(|(_, one)| is_over(one)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            let Some(one) = known.remove(&id) else { continue };
            let folder = self.place_of(&id);
            tracing::info!(machine = %id, "a machine that is named no more is let go");
            let ends = tokio::spawn(async move {
                one.machine.leave().await;
                drop(one);
                if let Err(error) = std::fs::remove_dir_all(&folder) {
                    tracing::warn!(folder = %folder.display(), %error, "what was kept of a machine cannot be removed");
                }
            });
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(id, ends);
        }
    }

    fn all(&self) -> Vec<Arc<dyn Place>> {
        self.known().values().map(|known| Arc::clone(&known.machine)).collect()
    }

    /// Where an instance is; this machine if nobody else has it.
    fn of(&self, id: &InstanceId) -> Arc<dyn Target> {
        match self.all().into_iter().find(|machine| machine.sights().has(id)) {
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
            target: known.machine.machine().target(),
            listed: known.listed,
            coming: known.machine.sights().is_coming(),
            out_of_reach: known.machine.sights().out_of_reach(),
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
            if let Some(machine) = machines.iter().find(|machine| machine.sights().has(id)) {
                return machine.logs(id, lines).await;
            }
            // It has ended and was forgotten: who has its log is not known any more.
            let here = self.here.logs(id, lines).await;
            if here.is_ok() {
                return here;
            }
            let within = machines.iter().filter(|machine| machine.sights().out_of_reach().is_none());
            let there = join_all(within.map(|machine| machine.logs(id, lines))).await;
            there.into_iter().find(Result::is_ok).unwrap_or(here)
        })
    }
}
