//! The body of the hidden command `modelyard instance DIR`: one small process that stands over one instance.
//!
//! It outlives the control plane, so that an instance's end is seen and recorded whoever watches, and it ends the instance whole.
//!
//! Promises: under the folder's lock at most one program is ever started for an id; when the supervisor dies, so does the program
//! (the kernel sees to it); when the program ends, everything that it started ends, and then `exit.json` is written, last of all.
//! Absent on purpose: restarts and probes (the control plane's), an asynchronous runtime (memory is paid per instance).

use std::io;
use std::path::{Path, PathBuf};

use modelyard_core::InstanceId;
use modelyard_core::instance::Exit;
use modelyard_core::package::Runtime;
use rustix::process::{Pid, Signal, WaitStatus, getpid, set_child_subreaper, setsid};

use super::cgroup::{self, Groups};
use super::folder::{self, Asked, Folder};
use super::launch::{self, Launch, PASSED_ON};
use super::log::Writer;
use super::wake::Wake;
use super::watch::Watch;
use super::{port, program};
use crate::identity::Identity;

/// Set on the second stage of the command, which becomes the program.
pub(crate) const STAGE: &str = "MODELYARD_INSTANCE_STAGE";

/// How often another port is tried when someone else took the one that was picked.
const PORT_ATTEMPTS: u64 = 5;

/// Why an instance could not be supervised. The target tells the control plane of it too; this is what the command itself says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The instance's folder cannot be used.
    #[error("could not {doing} in the instance folder {}; check that the folder exists and the disk is not full", dir.display())]
    Folder {
        /// What was being done.
        doing: &'static str,
        /// The folder.
        dir: PathBuf,
        /// The error beneath.
        #[source]
        source: io::Error,
    },
    /// The folder does not say what to run.
    #[error("{} holds no spec.json; `modelyard instance` is started by the control plane, not by hand", .0.display())]
    NoSpec(PathBuf),
    /// The supervisor ended before the program was started.
    #[error("the supervisor of this instance is gone, so its program is not started")]
    Orphaned,
    /// The program cannot be executed.
    #[error("cannot execute `{}` in {}", program.display(), folder.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// Its working folder.
        folder: PathBuf,
        /// The error beneath.
        #[source]
        source: io::Error,
    },
}

/// Runs the instance of a folder until it has ended. Ends at once, without an error, if the instance is supervised already or has ended.
///
/// # Errors
/// [`Error`] if the folder cannot be used. A program that does not start or crashes is no error: it is recorded in `exit.json`.
pub fn supervise(dir: &Path) -> Result<(), Error> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let folder = Folder::new(dir);
    if std::env::var_os(STAGE).is_some() {
        return Err(program::become_program(&folder));
    }
    // A session of its own: no terminal's hang-up or Ctrl-C reaches it. It fails only where it has one already.
    let _ = setsid();
    let failed = |doing| move |source| Error::Folder { doing, dir: PathBuf::new(), source };
    run(&folder, failed).map_err(|error| match error {
        Error::Folder { doing, source, .. } => Error::Folder { doing, dir: folder.path().to_owned(), source },
        other => other,
    })
}

fn run<F: FnOnce(io::Error) -> Error>(folder: &Folder, failed: impl Fn(&'static str) -> F) -> Result<(), Error> {
    let Some(lock) = folder.try_lock().map_err(failed("take the lock"))? else { return Ok(()) };
    if folder.exit().exists() {
        return Ok(());
    }
    if folder.supervisor().exists() {
        // One was here before and died. An id is never started twice.
        return super::lost::bury(folder, &lock).map(drop).map_err(failed("record the end of the program"));
    }
    let asked: Asked = folder::read(&folder.spec())
        .map_err(failed("read spec.json"))?
        .ok_or_else(|| Error::NoSpec(folder.path().to_owned()))?;
    // Before the identity is published, so that no signal finds us unprepared.
    let wake = Wake::listen().map_err(failed("listen for signals"))?;
    let identity = Identity::own().map_err(failed("read /proc"))?;
    folder::write(&folder.supervisor(), &identity).map_err(failed("write supervisor.json"))?;
    let _ = set_child_subreaper(Some(getpid())); // without it, orphans are found by their mark
    let groups = Groups::make(&group_name(&asked.spec.id, identity.pid), asked.spec.resources);
    folder::write(&folder.groups(), &groups.paths()).map_err(failed("write groups.json"))?;
    let exit = Supervisor { folder, asked: &asked, wake, groups: groups.clone() }.run_to_end();
    cgroup::remove(&groups.paths());
    folder::write(&folder.exit(), &exit).map_err(failed("write exit.json"))
}

/// Name of an instance's control groups: ids are unique within one home only.
pub(super) fn group_name(id: &InstanceId, supervisor: u32) -> String {
    format!("modelyard-{id}-{supervisor}")
}

/// One life of one instance.
struct Supervisor<'a> {
    folder: &'a Folder,
    asked: &'a Asked,
    wake: Wake,
    groups: Groups,
}

/// How one attempt ended.
pub(super) enum Ended {
    /// The program ended; everything it started has ended too.
    Program {
        /// `None` if not even SIGKILL ended it: it hangs in the kernel, and ends when that lets go.
        status: Option<WaitStatus>,
        out_of_memory: bool,
        asked: bool,
        peak_bytes: Option<u64>,
    },
    /// Someone else listens on the port that was picked.
    PortTaken,
}

impl Supervisor<'_> {
    fn run_to_end(mut self) -> Exit {
        for attempt in 0..PORT_ATTEMPTS {
            if self.folder.stop().exists() {
                return Exit { asked: true, ..nothing() };
            }
            match self.attempt(attempt) {
                Ok(Ended::PortTaken) => {}
                Ok(Ended::Program { status, out_of_memory, asked, peak_bytes }) => {
                    return self.exit(status, out_of_memory, asked, peak_bytes);
                }
                Err(why) => return Exit { start_error: Some(why), ..nothing() },
            }
        }
        let why = format!(
            "{PORT_ATTEMPTS} ports in turn were taken by other programs; see what listens on this machine with `ss -ltnp`"
        );
        Exit { start_error: Some(why), ..nothing() }
    }

    fn attempt(&mut self, attempt: u64) -> Result<Ended, String> {
        let port = self.pick_port(attempt)?;
        let launch = self.launch(port)?;
        let log = Writer::open(self.folder.log()).map_err(|error| format!("cannot open the log: {error}"))?;
        let started = program::start(self.folder, &launch)
            .map_err(|error| format!("cannot start the program: {}", chain(&error)))?;
        let limit = self.asked.spec.resources.memory_bytes;
        Ok(Watch::new(self.folder, &self.wake, &self.groups, started, log).run(limit, port))
    }

    fn pick_port(&self, attempt: u64) -> Result<Option<u16>, String> {
        match self.asked.spec.runtime {
            Runtime::Onnx { .. } | Runtime::Python { .. } | Runtime::None {} => Ok(None),
            Runtime::Command { .. } => {
                // Spread by pid and time: instances that start together should not all try one port.
                let draw = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    ^ folder::now().0.wrapping_add(attempt * 101);
                port::pick(draw).map(Some).map_err(|error| format!("no free port: {error}"))
            }
        }
    }

    fn launch(&self, port: Option<u16>) -> Result<Launch, String> {
        let base = PASSED_ON.iter().filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
        let launch = launch::plan(self.asked, self.folder, Path::new(program::OWN), port, base)
            .map_err(|error| error.to_string())?;
        let limit = self.asked.spec.resources.memory_bytes;
        let groups = self.groups.paths();
        // Only where no group limits it: twice and some, since address space that is never touched counts here. It stops what
        // grows faster than the watch can look.
        let data_bytes =
            limit.filter(|_| !self.groups.limits_memory()).map(|bytes| bytes.saturating_mul(2).saturating_add(1 << 30));
        Ok(Launch { groups, data_bytes, ..launch })
    }

    fn exit(
        &self,
        status: Option<WaitStatus>,
        out_of_memory: bool,
        asked: bool,
        peak_memory_bytes: Option<u64>,
    ) -> Exit {
        let start_error = folder::read_bytes(&self.folder.start_error(), 64 << 10).ok().flatten();
        Exit {
            code: status.and_then(WaitStatus::exit_status),
            signal: status.map_or(Some(Signal::KILL.as_raw()), WaitStatus::terminating_signal),
            out_of_memory,
            asked,
            peak_memory_bytes,
            start_error: start_error.map(|text| String::from_utf8_lossy(&text).into_owned()),
            ..nothing()
        }
    }
}

/// An end now of which nothing more is known.
pub(super) fn nothing() -> Exit {
    Exit::at(folder::now())
}

/// An error and what lies beneath it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let beneath = std::iter::successors(error.source(), |error| error.source());
    beneath.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

/// The pid of our own child.
pub(super) fn pid_of(id: u32) -> Option<Pid> {
    crate::identity::raw(id)
}
