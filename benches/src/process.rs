//! Processes under test: started on one core, watched through /proc, ended with everything that they started.
//!
//! Promises: only processes of the groups that were started here are ever signalled; a dropped [`Process`] leaves nothing behind, and
//! neither does a benchmark that is told to stop (SIGINT, SIGTERM) once [`clean_up_when_told_to_stop`] was called.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::http1::{self, Answer, Request};

/// Leaders of the groups that run.
static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<u32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, SIGINT and SIGTERM end every process that was started here, then this one.
pub fn clean_up_when_told_to_stop() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            for pid in groups().iter().filter_map(|&leader| Pid::from_raw(leader.cast_signed())) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Pins the calling thread, and what it starts from now on, to one core.
pub fn pin(core: Option<usize>) -> Result<()> {
    core.map_or(Ok(()), |core| pin_thread(None, core))
}

/// Pins a thread to one core; none is the calling one.
pub fn pin_thread(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set).with_context(|| format!("could not pin a thread to core {core}"))
}

/// A loopback address that is free right now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A process under test and everything that it started.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// When it was started.
    pub started: Instant,
}

impl Process {
    /// Starts `command` in a process group of its own, pinned to `core`; its output goes to `folder`/`name`.log.
    pub fn start(name: &str, mut command: Command, core: Option<usize>, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let started = Instant::now();
        // A child inherits the affinity of the thread that starts it: no helper program is needed.
        let child = std::thread::scope(|scope| {
            let start = scope.spawn(|| pin(core).and_then(|()| Ok(command.spawn()?)));
            start.join().map_err(|_| anyhow::anyhow!("the starting thread panicked"))?
        });
        let child = child.with_context(|| format!("could not start {name} ({})", command.get_program().display()))?;
        groups().insert(child.id());
        Ok(Self { name: name.to_owned(), child, log, started })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Threads of the process itself whose names are as wanted.
    pub fn threads_named(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Pid> {
        let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
        let wanted = tasks(self.pid()).filter(|task| is_wanted(name(task).trim_end()));
        wanted.filter_map(|task| Pid::from_raw(task.file_name()?.to_str()?.parse().ok()?)).collect()
    }

    /// Processor time that the group has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let nanos = |pid: u32| -> u64 { tasks(pid).filter_map(|task| first_number(&task.join("schedstat"))).sum() };
        group(self.pid()).into_iter().map(nanos).sum::<u64>() as f64 / 1e9
    }

    /// Resident memory of the group in bytes; pages that its processes share count once (PSS).
    pub fn resident_bytes(&self) -> u64 {
        group(self.pid()).into_iter().map(resident).sum()
    }

    /// Resident memory of the group in bytes, as if each process were alone: shared pages count for each (RSS).
    pub fn resident_bytes_alone(&self) -> u64 {
        group(self.pid()).into_iter().map(resident_alone).sum()
    }

    /// Waits until `request` is answered 200 and returns the body and the time since the start.
    pub fn wait_for(&mut self, address: SocketAddr, request: &Request, limit: Duration) -> Result<(Vec<u8>, Duration)> {
        let mut last = String::from("nothing yet");
        while self.started.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before it answered; its last words:\n{}", self.name, self.last_words());
            }
            match ask(address, request) {
                Ok((200, body)) => return Ok((body, self.started.elapsed())),
                Ok((status, body)) => last = format!("status {status}: {}", String::from_utf8_lossy(&body)),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(2)); // polls: the server has no other way to tell
        }
        bail!("{} did not answer {} within {limit:?}; last: {last}\n{}", self.name, request.path, self.last_words())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pid) = Pid::from_raw(self.pid().cast_signed()) else { return };
        let _ = kill_process_group(pid, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = kill_process_group(pid, Signal::KILL);
        groups().remove(&self.pid()); // before its number can be another's
        let _ = self.child.wait();
    }
}

/// One request on a connection of its own; status and body.
pub fn ask(address: SocketAddr, request: &Request) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&request.encode(&address.to_string(), true))?;
    let (answer, buffer) = read_answer(&mut stream)?;
    Ok((answer.status, answer.body(&buffer)))
}

/// Reads one whole answer.
pub fn read_answer(stream: &mut impl std::io::Read) -> Result<(Answer, Vec<u8>)> {
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        if let Some(answer) = http1::parse(&buffer)? {
            return Ok((answer, buffer));
        }
        match stream.read(&mut chunk)? {
            0 => bail!("the connection was closed before the answer was whole"),
            read => buffer.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Every process of a process group.
fn group(leader: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &u32| group_of(pid) == Some(leader)).collect()
}

/// Field 5 of `/proc/PID/stat`, read after the command's closing parenthesis (a command may hold spaces); `None` once it has ended.
fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn first_number(path: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Resident memory of one process in bytes, shared pages in proportion.
pub fn resident(pid: u32) -> u64 {
    kilobytes(pid, "smaps_rollup", "Pss:").map_or_else(|| resident_alone(pid), |size| size * 1024)
}

/// Resident memory of one process in bytes, shared pages whole.
fn resident_alone(pid: u32) -> u64 {
    kilobytes(pid, "status", "VmRSS:").unwrap_or(0) * 1024
}

fn kilobytes(pid: u32, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60 & sleep 60"]);
        let process = Process::start("busy", command, Some(0), folder.path()).unwrap();
        let leader = process.pid();
        let deadline = Instant::now() + Duration::from_secs(20);
        while (group(leader).len() < 3 || process.cpu_seconds() == 0.0) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(group(leader).len() == 3 && process.resident_bytes() > 0 && process.cpu_seconds() > 0.0);
        drop(process);
        // A killed grandchild lingers until its adoptive parent has looked.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !group(leader).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(group(leader), Vec::<u32>::new());
    }

    #[test]
    fn a_process_that_ends_early_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such model; exit 3"]);
        let mut process = Process::start("early", command, None, folder.path()).unwrap();
        let address = free_address().unwrap();
        let error = process.wait_for(address, &Request::get("/"), Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("no such model"), "{error}");
    }
}
