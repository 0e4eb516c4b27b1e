//! Standing over one running program: its output, its memory, its port, the wish that it ends, its end.
//!
//! One loop that waits for whatever comes first. What cannot be waited for (memory, a listening socket of another process) is looked at
//! on a cadence that follows how much hangs on it.

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use modelyard_core::home::Announcement;
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, kill_process_group, wait};

use super::cgroup::Groups;
use super::family;
use super::folder::{self, Folder, Stop};
use super::log::Writer;
use super::port::{self, Listener};
use super::program::Started;
use super::supervise::{Ended, pid_of};
use super::wake::Wake;

/// How long a program may take to end when nobody said.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// A running program.
pub(super) struct Watch<'a> {
    folder: &'a Folder,
    wake: &'a Wake,
    groups: &'a Groups,
    pid: u32,
    output: Option<PipeReader>,
    log: Writer,
    since: Instant,
    status: Option<WaitStatus>,
    /// When it is ended by force, once it was asked to end.
    deadline: Option<Instant>,
    /// The port that it was told, until it listens there.
    awaited: Option<u16>,
    out_of_memory: bool,
    peak_bytes: Option<u64>,
}

impl<'a> Watch<'a> {
    pub fn new(folder: &'a Folder, wake: &'a Wake, groups: &'a Groups, started: Started, log: Writer) -> Self {
        let Started { pid, output } = started;
        Self {
            folder,
            wake,
            groups,
            pid,
            output: Some(output),
            log,
            since: Instant::now(),
            status: None,
            deadline: None,
            awaited: None,
            out_of_memory: false,
            peak_bytes: None,
        }
    }

    /// Watches until the program and everything it started has ended.
    pub fn run(mut self, limit: Option<u64>, port: Option<u16>) -> Ended {
        self.awaited = port;
        // A wish that came before this program was there.
        let mut asked = self.folder.stop().exists();
        let mut look_at = Instant::now();
        while self.status.is_none() {
            if asked || self.wake.asked() {
                self.ask_to_end();
                asked = false;
            }
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.end_all();
                break;
            }
            if look_at <= Instant::now() {
                if self.look(limit) == Listener::Stranger {
                    self.end_all();
                    return Ended::PortTaken;
                }
                look_at = Instant::now() + self.cadence(limit);
            }
            let next = self.deadline.map_or(look_at, |deadline| deadline.min(look_at));
            let output = self.output.as_ref().map(AsFd::as_fd);
            self.wake.wait(output, next.saturating_duration_since(Instant::now()));
            self.copy_output();
            self.reap();
        }
        self.end_all();
        self.conclude(port)
    }

    fn conclude(mut self, port: Option<u16>) -> Ended {
        self.out_of_memory |= self.groups.out_of_memory_kills() > 0;
        if self.out_of_memory {
            self.peak_bytes = self.peak_bytes.max(self.groups.peak_bytes());
        }
        let lost = |port| port::listener(port, Vec::new) == Listener::Stranger;
        let ended_unasked = self.status.is_some() && self.deadline.is_none();
        if ended_unasked && self.awaited.is_some() && port.is_some_and(lost) {
            // It ended before it listened, and someone else does: that is why.
            return Ended::PortTaken;
        }
        Ended::Program {
            status: self.status,
            out_of_memory: self.out_of_memory,
            asked: self.deadline.is_some(),
            peak_bytes: self.peak_bytes,
        }
    }

    /// Passes the wish to end on to the whole process group. Asked again, the shorter of the two times counts.
    fn ask_to_end(&mut self) {
        let stop: Option<Stop> = folder::read(&self.folder.stop()).ok().flatten();
        let grace = stop.map_or(DEFAULT_GRACE, |stop| Duration::from_millis(stop.grace_ms));
        let deadline = Instant::now().checked_add(grace).unwrap_or_else(|| Instant::now() + DEFAULT_GRACE);
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        if let Some(group) = pid_of(self.pid) {
            let _ = kill_process_group(group, Signal::TERM); // gone already: then its end is on its way
        }
    }

    /// Looks at memory and at the port.
    fn look(&mut self, limit: Option<u64>) -> Listener {
        self.peak_bytes = self.peak_bytes.max(family::peak(self.pid));
        if let Some(limit) = limit
            && self.is_past(limit)
        {
            self.out_of_memory = true;
            self.end_all();
        }
        let Some(port) = self.awaited else { return Listener::Nobody };
        let found = port::listener(port, || {
            family::descendants(std::process::id()).into_iter().map(|process| process.pid).collect()
        });
        if let Listener::Ours(address) = found {
            let announced = folder::write(&self.folder.announce(), &Announcement { address, probe: None });
            // Not written (a full disk): tried again at the next look.
            self.awaited = self.awaited.filter(|_| announced.is_err());
        }
        found
    }

    fn is_past(&mut self, limit: u64) -> bool {
        if self.groups.limits_memory_of(self.pid) {
            // The kernel may have ended a child and left the program: that is not a whole instance any more.
            return self.groups.out_of_memory_kills() > 0;
        }
        let memory = family::memory(std::process::id()).zip(family::resident(std::process::id()));
        let used = memory.map_or(0, |(all, own)| all.saturating_sub(own));
        self.peak_bytes = self.peak_bytes.max(Some(used));
        used > limit
    }

    /// How long until the next look.
    fn cadence(&self, limit: Option<u64>) -> Duration {
        let age = self.since.elapsed();
        let port = match self.awaited {
            Some(_) if age < Duration::from_secs(2) => Duration::from_millis(10),
            Some(_) => Duration::from_millis(100),
            None => Duration::from_secs(1),
        };
        let memory = match limit {
            Some(_) if !self.groups.limits_memory_of(self.pid) => Duration::from_millis(50),
            Some(_) => Duration::from_millis(250),
            None => Duration::from_secs(1),
        };
        port.min(memory)
    }

    /// Copies what the program wrote; at most a mebibyte at a time, so that a chatty program does not keep us from the rest.
    fn copy_output(&mut self) {
        let mut buffer = [0; 16 << 10];
        for _ in 0..64 {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(count) => self.log.write(&buffer[..count]),
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for every process that ended: the program, and orphans that came to us.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid_of(self.pid) == Some(pid) {
                self.status = Some(status);
            }
        }
    }

    /// Ends everything below us by force and writes down the last output.
    fn end_all(&mut self) {
        let (wake, groups) = (self.wake, self.groups);
        let everyone = || family::below(std::process::id(), &groups.members());
        family::end(everyone, |span| {
            wake.wait(None, span);
            self.reap();
        });
        self.reap();
        self.copy_output();
    }
}
