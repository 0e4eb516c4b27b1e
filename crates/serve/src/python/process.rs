//! One worker process: started, asked, ended.
//!
//! Promises: a worker that does not answer in time is ended; so is one whose words do not make sense. It never outlives the server: it leaves when
//! its socket is closed, and its whole process group is killed when this value is dropped.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modelyard_core::flags::Values;
use modelyard_core::package::Entry;
use modelyard_core::signature::Signature;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use super::Interpreter;
use super::frame::{self, Said};
use crate::engine::Output;
use crate::tensor::Tensor;

/// How long a worker may take to load its function: large frameworks take a minute on a cold disk.
const LOADING: Duration = Duration::from_secs(300);

/// Everything that a worker is started with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) interpreter: Interpreter,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) entry: Entry,
    pub(crate) signature: Signature,
    pub(crate) flags: Values,
    pub(crate) parameters: serde_json::Value,
    pub(crate) timeout: Duration,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The function failed; the worker lives.
    Function(String),
    /// The inputs cannot be used; the worker lives.
    Refused(String),
    /// Nothing came in time. The worker was ended.
    TimedOut,
    /// The worker ended before it took the inputs.
    Unsent,
    /// The worker ended, or sent what makes no sense. It was ended.
    Lost(String),
}

/// A worker that has loaded its function.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    socket: UnixStream,
}

impl Process {
    /// Starts a worker and waits until it has loaded its function.
    ///
    /// # Errors
    /// What kept it from that, as a sentence.
    pub(crate) fn start(plan: &Plan) -> Result<Self, String> {
        let (socket, theirs) = UnixStream::pair().map_err(|error| format!("no socket pair: {error}"))?;
        let log = || io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from);
        let mut command = Command::new(&plan.interpreter.python);
        // Isolated: only the environment's packages, none of the user's; no caches in the package's folder.
        command.args(["-I", "-u", "-B"]).arg(&plan.interpreter.worker).current_dir(&plan.folder).process_group(0);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(log()).stderr(log());
        let python = plan.interpreter.python.display();
        let child = command.spawn().map_err(|error| format!("could not run {python}: {error}"))?;
        // The command holds the worker's end still: closed now, so that the worker's end is the only one.
        drop(command);
        let mut process = Self { child, socket };
        let head = json!({
            "kind": "load", "folder": plan.folder, "entry": plan.entry, "outputs": plan.signature.outputs,
            "flags": plan.flags, "parameters": plan.parameters,
        });
        let started = Instant::now();
        let sent = frame::write_head(&mut process.socket, &head).map_err(|error| error.to_string());
        match sent.and_then(|()| process.hear(&plan.signature, started + LOADING).map_err(|error| error.to_string())) {
            Ok(Said::Ready { python, numpy }) => {
                let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(pid = process.child.id(), %python, ?numpy, load_millis = millis, "a worker has loaded its function");
                Ok(process)
            }
            Ok(Said::Failed(what) | Said::Refused(what)) => {
                Err(format!("{what} while it was loaded; the trace is in the log above"))
            }
            Ok(Said::Answer(_)) => Err("the worker answered before it was asked".to_owned()),
            Err(why) => Err(format!("the worker did not load its function ({why}); {}", process.how_it_ended())),
        }
    }

    /// Calls the function.
    pub(crate) fn call(&mut self, plan: &Plan, inputs: &[Option<&Tensor>]) -> Result<Vec<Output>, CallError> {
        let deadline = Instant::now() + plan.timeout;
        let _ = self.socket.set_write_timeout(Some(plan.timeout));
        if let Err(error) = frame::write_inputs(&mut self.socket, &plan.signature.inputs, inputs) {
            return Err(match is_late(&error) {
                true => CallError::TimedOut,
                false if error.kind() == io::ErrorKind::BrokenPipe => CallError::Unsent,
                false => CallError::Lost(error.to_string()),
            });
        }
        match self.hear(&plan.signature, deadline) {
            Ok(Said::Answer(outputs)) => Ok(outputs),
            Ok(Said::Failed(what)) => Err(CallError::Function(what)),
            Ok(Said::Refused(what)) => Err(CallError::Refused(what)),
            Ok(Said::Ready { .. }) => Err(CallError::Lost("the worker said twice that it is ready".to_owned())),
            Err(error) if is_late(&error) => Err(CallError::TimedOut),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(CallError::Lost(error.to_string())),
            Err(_) => Err(CallError::Lost(self.how_it_ended())),
        }
    }

    fn hear(&mut self, signature: &Signature, deadline: Instant) -> io::Result<Said> {
        frame::read(&mut Until { socket: &self.socket, deadline }, signature)
    }

    /// How the worker ended, as a sentence; it is given a moment to.
    fn how_it_ended(&mut self) -> String {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let deadline = Instant::now() + Duration::from_millis(200);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return format!("the worker ended: {status}"),
                Ok(None) if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(2)),
                _ => return "the worker closed its socket".to_owned(),
            }
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Its children too; none may be left to hold memory or devices.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads until a moment, however many reads that takes.
struct Until<'s> {
    socket: &'s UnixStream,
    deadline: Instant,
}

impl io::Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        io::Read::read(&mut &*self.socket, buffer)
    }
}
