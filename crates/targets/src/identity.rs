//! Identity of processes: a pid together with the moment at which the process started.
//!
//! Promises: a signal reaches the very process that was meant or none at all, even if its pid was given to another one since.
//! Source: `proc(5)`, `/proc/PID/stat` field 22, start time in clock ticks since boot.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process, for ever: no other process of this boot has the same two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start in clock ticks since boot.
    pub start_ticks: u64,
}

impl Identity {
    /// The identity of the process that has this pid now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        start_ticks(pid).map(|start_ticks| Self { pid, start_ticks })
    }

    /// The identity of this process.
    ///
    /// # Errors
    /// When `/proc` is not there to be read.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
            .ok_or_else(|| io::Error::other("/proc is not readable; Modelyard needs it mounted"))
    }

    /// Whether the process still runs. One that ended but was not yet waited for (a zombie) does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.ended())
    }

    /// Sends a signal to exactly this process; `false` if it runs no more.
    ///
    /// # Errors
    /// When the system refuses, for example because the process belongs to another user.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(handle) = self.open()? else { return Ok(false) };
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks the process to end (SIGTERM) and ends it by force (SIGKILL) after `grace`. Returns once it has ended.
    ///
    /// # Errors
    /// When the system refuses, or the process does not even end by force within five seconds (it hangs in the kernel).
    pub fn terminate(self, grace: Duration) -> io::Result<()> {
        let Some(handle) = self.open()? else { return Ok(()) };
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(5))] {
            match pidfd_send_signal(&handle, signal) {
                Err(Errno::SRCH) => return Ok(()),
                other => other?,
            }
            if ends_within(&handle, patience)? {
                return Ok(());
            }
        }
        let why =
            format!("process {} does not end, even after SIGKILL: it hangs in the kernel (disk or device)", self.pid);
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// A handle on exactly this process. The order matters: first the handle, then the look at who it is.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = raw(self.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Start of the process that has this pid now, in clock ticks since boot.
pub fn start_ticks(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_ticks)
}

/// Whether the process that had this pid and start still runs.
pub fn is_alive(pid: u32, start_ticks: u64) -> bool {
    Identity { pid, start_ticks }.is_alive()
}

/// Ends the process that had this pid and start: [`Identity::terminate`].
///
/// # Errors
/// As [`Identity::terminate`].
pub fn terminate(pid: u32, start_ticks: u64, grace: Duration) -> io::Result<()> {
    Identity { pid, start_ticks }.terminate(grace)
}

pub(crate) fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// A pidfd becomes readable when its process ends.
fn ends_within(handle: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(crate) fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(span.subsec_nanos()) }
}

/// What is read of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub start_ticks: u64,
}

impl Stat {
    /// Ended: a zombie, or dead.
    pub fn ended(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name stands in parentheses and may itself hold parentheses, spaces and any byte: what counts comes after the last `)`.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let after = bytes.iter().rposition(|&byte| byte == b')')? + 1;
    let text = std::str::from_utf8(&bytes[after..]).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    // `fields[0]` is field 3 of the manual page.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let pid = |field: usize| number(field).and_then(|pid| u32::try_from(pid).ok());
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: pid(4)?,
        group: pid(5)?,
        session: pid(6)?,
        start_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_name_cannot_forge_the_fields() {
        let line = b"7 (a) R 1 1 (x) S 5 7 6 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 10\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.session, stat.start_ticks), (b'S', 5, 7, 6, 4242));
        for broken in [&b""[..], b"7 (a", b"7 (a) S", b"7 (a) S x y z", b"\xff\xff)"] {
            assert_eq!(parse_stat(broken), None);
        }
    }

    #[test]
    fn another_start_is_another_process() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        let other = Identity { start_ticks: own.start_ticks + 1, ..own };
        assert!(!other.is_alive());
        assert!(!other.signal(Signal::KILL).unwrap(), "a stranger would have been killed");
        other.terminate(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        identity.terminate(Duration::from_secs(10)).unwrap();
        assert!(!identity.is_alive(), "ended, not yet waited for");
        child.wait().unwrap();
        identity.terminate(Duration::ZERO).unwrap();
    }

    #[test]
    fn who_ignores_the_request_is_ended_by_force() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo; while :; do sleep 600; done"]).process_group(0);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // The line tells that the trap is set.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let identity = Identity::of(child.id()).unwrap();
        identity.terminate(Duration::from_millis(50)).unwrap();
        rustix::process::kill_process_group(raw(child.id()).unwrap(), Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
