//! A target in memory: it keeps the promises of the port, and a test decides what happens to its instances.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use modelyard_core::instance::{Exit, InstanceSpec, InstanceState, InstanceStatus};
use modelyard_core::machine::{MachineId, MachineSeen};
use modelyard_core::ports::{PortFuture, Room, Target, TargetError};
use modelyard_core::service::TargetKind;
use modelyard_core::{InstanceId, RevisionNumber, Timestamp};

/// A target in memory. Unless told otherwise, instances run as soon as they are asked for, and end as soon as they are asked to.
#[derive(Debug, Default)]
pub struct FakeTarget {
    world: Mutex<World>,
}

#[derive(Debug, Default)]
struct World {
    now: Timestamp,
    instances: BTreeMap<InstanceId, Instance>,
    forgotten: BTreeMap<InstanceId, Vec<String>>,
    slow: HashSet<RevisionNumber>,
    impossible: HashSet<RevisionNumber>,
    stubborn: HashSet<InstanceId>,
    failing_calls: u32,
    starts: u32,
    room: Room,
    machines: BTreeMap<MachineId, Option<String>>,
}

#[derive(Debug)]
struct Instance {
    spec: InstanceSpec,
    status: InstanceStatus,
    log: Vec<String>,
}

impl FakeTarget {
    /// An empty target.
    pub fn new() -> Self {
        Self::default()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time that starts and ends are stamped with.
    pub fn set_now(&self, now: Timestamp) {
        self.world().now = now;
    }

    /// What it says is left.
    pub fn leave(&self, room: Room) {
        self.world().room = room;
    }

    /// It has this machine, which is in reach, or not for a reason.
    pub fn set_machine(&self, id: &MachineId, out_of_reach: Option<&str>) {
        self.world().machines.insert(id.clone(), out_of_reach.map(str::to_owned));
    }

    /// Instances of this revision stay `starting` until they are announced.
    pub fn hold_starts_of(&self, revision: RevisionNumber) {
        self.world().slow.insert(revision);
    }

    /// Instances of this revision can never be started.
    pub fn refuse_starts_of(&self, revision: RevisionNumber) {
        self.world().impossible.insert(revision);
    }

    /// The instance does not end when asked to.
    pub fn make_stubborn(&self, id: &InstanceId) {
        self.world().stubborn.insert(id.clone());
    }

    /// The next `calls` calls fail as if the target itself were broken.
    pub fn fail_next(&self, calls: u32) {
        self.world().failing_calls = calls;
    }

    /// The instance listens here from now on.
    pub fn announce(&self, id: &InstanceId, address: SocketAddr, probe: Option<SocketAddr>) {
        if let Some(instance) = self.world().instances.get_mut(id) {
            instance.status.state = InstanceState::Running { address, probe };
        }
    }

    /// The instance ends like this.
    pub fn end(&self, id: &InstanceId, exit: Exit) {
        if let Some(instance) = self.world().instances.get_mut(id) {
            instance.status.state = InstanceState::Exited(exit);
            instance.status.memory_bytes = None;
        }
    }

    /// The instance ends by itself with this exit code.
    pub fn crash(&self, id: &InstanceId, code: i32) {
        let at = self.world().now;
        self.end(id, Exit { code: Some(code), ..Exit::at(at) });
    }

    /// The instance wrote a line.
    pub fn write_log(&self, id: &InstanceId, line: &str) {
        if let Some(instance) = self.world().instances.get_mut(id) {
            instance.log.push(line.to_owned());
        }
    }

    /// What was asked for, of the instances that are not forgotten.
    pub fn specs(&self) -> Vec<InstanceSpec> {
        self.world().instances.values().map(|instance| instance.spec.clone()).collect()
    }

    /// How many instances were ever started.
    pub fn starts(&self) -> u32 {
        self.world().starts
    }

    fn call<'a, T: Send + 'a>(
        &self,
        work: impl FnOnce(&mut World) -> Result<T, TargetError>,
    ) -> PortFuture<'a, Result<T, TargetError>> {
        let mut world = self.world();
        let done = match world.failing_calls.checked_sub(1) {
            Some(left) => {
                world.failing_calls = left;
                Err(failed("call the target", io::ErrorKind::ConnectionRefused, "it was told to fail"))
            }
            None => work(&mut world),
        };
        Box::pin(std::future::ready(done))
    }
}

fn failed(doing: &str, kind: io::ErrorKind, why: &str) -> TargetError {
    TargetError::Failed { doing: format!("could not {doing}"), source: io::Error::new(kind, why.to_owned()) }
}

impl World {
    /// Why the machine of an instance cannot be reached, if so.
    fn lost(&self, machine: Option<&MachineId>) -> Option<&str> {
        self.machines.get(machine?)?.as_deref()
    }

    fn in_reach(&self, doing: &str, machine: Option<&MachineId>) -> Result<(), TargetError> {
        match self.lost(machine) {
            Some(why) => Err(failed(doing, io::ErrorKind::ConnectionAborted, why)),
            None => Ok(()),
        }
    }

    fn see(&self) -> Vec<InstanceStatus> {
        let see = |instance: &Instance| InstanceStatus {
            out_of_reach: self.lost(instance.status.machine.as_ref()).map(str::to_owned),
            ..instance.status.clone()
        };
        self.instances.values().map(see).collect()
    }

    fn ensure(&mut self, spec: &InstanceSpec) -> Result<(), TargetError> {
        self.in_reach(&format!("start `{}`", spec.id), spec.machine.as_ref())?;
        if self.forgotten.contains_key(&spec.id) {
            return Ok(());
        }
        if let Some(instance) = self.instances.get(&spec.id) {
            let seen = instance.spec.generation;
            return if seen > spec.generation { Err(TargetError::Stale { id: spec.id.clone(), seen }) } else { Ok(()) };
        }
        if self.impossible.contains(&spec.revision) {
            return Err(TargetError::Impossible { id: spec.id.clone(), why: "it was told to refuse".to_owned() });
        }
        self.starts += 1;
        let port = u16::try_from(20_000 + self.starts % 40_000).unwrap_or(20_000);
        let state = match self.slow.contains(&spec.revision) {
            true => InstanceState::Starting,
            false => InstanceState::Running { address: (Ipv4Addr::LOCALHOST, port).into(), probe: None },
        };
        let status = InstanceStatus {
            id: spec.id.clone(),
            service: spec.service.clone(),
            revision: spec.revision,
            state,
            started: self.now,
            pid: Some(100_000 + self.starts),
            memory_bytes: Some(1 << 20),
            machine: spec.machine.clone(),
            out_of_reach: None,
        };
        self.instances.insert(spec.id.clone(), Instance { spec: spec.clone(), status, log: Vec::new() });
        Ok(())
    }

    fn stop(&mut self, id: &InstanceId) {
        let (at, stubborn) = (self.now, self.stubborn.contains(id));
        if let Some(instance) = self.instances.get_mut(id)
            && !matches!(instance.status.state, InstanceState::Exited(_))
            && !stubborn
        {
            instance.status.state = InstanceState::Exited(Exit { code: Some(0), asked: true, ..Exit::at(at) });
            instance.status.memory_bytes = None;
        }
    }

    fn forget(&mut self, id: &InstanceId) -> Result<(), TargetError> {
        match self.instances.remove(id) {
            Some(instance) if matches!(instance.status.state, InstanceState::Exited(_)) => {
                self.forgotten.insert(id.clone(), instance.log);
                Ok(())
            }
            Some(instance) => {
                self.instances.insert(id.clone(), instance);
                Err(failed(&format!("forget `{id}`"), io::ErrorKind::ResourceBusy, "it has not ended; stop it first"))
            }
            None => Ok(()),
        }
    }

    fn logs(&self, id: &InstanceId, lines: usize) -> Result<Vec<String>, TargetError> {
        let log = self.instances.get(id).map(|instance| &instance.log).or_else(|| self.forgotten.get(id));
        let log = log.ok_or_else(|| {
            failed(&format!("read the log of `{id}`"), io::ErrorKind::NotFound, "no such instance is known")
        })?;
        Ok(log[log.len().saturating_sub(lines)..].to_vec())
    }
}

impl Target for FakeTarget {
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> PortFuture<'a, Result<(), TargetError>> {
        self.call(|world| world.ensure(spec))
    }

    fn observe(&self) -> PortFuture<'_, Result<Vec<InstanceStatus>, TargetError>> {
        self.call(|world| Ok(world.see()))
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, _grace: Duration) -> PortFuture<'a, Result<(), TargetError>> {
        self.call(|world| {
            let machine = world.instances.get(id).and_then(|instance| instance.status.machine.as_ref());
            world.in_reach(&format!("stop `{id}`"), machine)?;
            world.stop(id);
            Ok(())
        })
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> PortFuture<'a, Result<(), TargetError>> {
        self.call(|world| world.forget(id))
    }

    fn room(&self) -> PortFuture<'_, Room> {
        let room = self.world().room;
        Box::pin(async move { room })
    }

    fn machines(&self) -> Vec<MachineSeen> {
        let seen = |(id, out_of_reach): (&MachineId, &Option<String>)| MachineSeen {
            id: id.clone(),
            target: TargetKind::Ssh,
            listed: true,
            coming: false,
            out_of_reach: out_of_reach.clone(),
        };
        self.world().machines.iter().map(seen).collect()
    }

    fn logs<'a>(&'a self, id: &'a InstanceId, lines: usize) -> PortFuture<'a, Result<Vec<String>, TargetError>> {
        self.call(|world| world.logs(id, lines))
    }
}
