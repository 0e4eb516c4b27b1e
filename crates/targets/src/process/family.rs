//! The processes of an instance: the program, its children, theirs, and those that left home.
//!
//! Promises: ending a family ends all of it, also processes that made sessions of their own or were orphaned.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cgroup;
use super::launch::MARK;
use crate::identity::{self, Identity, Stat};

/// How long a family may take to end by force: far longer than the kernel needs unless a process hangs in a device.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every process of the machine with what `/proc` says of it.
fn everyone() -> Vec<(u32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, identity::stat(pid)?))).collect()
}

/// The living descendants of a process.
pub(crate) fn descendants(ancestor: u32) -> Vec<Identity> {
    let everyone = everyone();
    let mut family = vec![ancestor];
    let mut index = 0;
    while let Some(&parent) = family.get(index) {
        family.extend(everyone.iter().filter(|(_, stat)| stat.parent == parent).map(|&(pid, _)| pid));
        index += 1;
    }
    let alive = |pid: u32| everyone.iter().find(|&&(this, stat)| this == pid && !stat.ended());
    let found = family.iter().skip(1).filter_map(|&pid| alive(pid));
    found.map(|&(pid, stat)| Identity { pid, start_ticks: stat.start_ticks }).collect()
}

/// The living descendants of a process and those of `others` that are none.
pub(crate) fn below(ancestor: u32, others: &[u32]) -> Vec<Identity> {
    let mut found = descendants(ancestor);
    let known: Vec<u32> = found.iter().map(|process| process.pid).collect();
    let more =
        others.iter().filter(|pid| !known.contains(pid) && **pid != ancestor).filter_map(|&pid| Identity::of(pid));
    found.extend(more.filter(|process| process.is_alive()));
    found
}

/// The living processes that an instance left behind when its supervisor vanished: by mark, by control group, by process group and session.
pub(crate) fn strays(dir: &Path, supervisor: Option<u32>, program: Option<u32>, groups: &[PathBuf]) -> Vec<Identity> {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let grouped: Vec<u32> = groups.iter().flat_map(|group| cgroup::members(group)).collect();
    let belongs = |pid: u32, stat: &Stat| {
        // The supervisor leads the session, so both numbers together name this instance alone.
        let at_home = program == Some(stat.group) && supervisor == Some(stat.session);
        at_home || grouped.contains(&pid) || is_marked(pid, &mark)
    };
    let own = std::process::id();
    let found = everyone().into_iter().filter(|(pid, stat)| *pid != own && !stat.ended() && belongs(*pid, stat));
    found.map(|(pid, stat)| Identity { pid, start_ticks: stat.start_ticks }).collect()
}

fn is_marked(pid: u32, mark: &[u8]) -> bool {
    // Not readable: another user's process, so not ours.
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|bytes| bytes.split(|&byte| byte == 0).any(|entry| entry == mark))
}

/// Ends by force whatever `find` finds, until it finds nothing: a dying process may still have made another.
/// `false` if something is still there after five seconds.
pub(crate) fn end(mut find: impl FnMut() -> Vec<Identity>, mut between: impl FnMut(Duration)) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let family = find();
        if family.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            tracing::error!(?family, "processes do not end, even after SIGKILL");
            return false;
        }
        for process in family {
            // One that is gone already is what we want; one that we may not signal is reported at the deadline.
            let _ = process.signal(Signal::KILL);
        }
        between(Duration::from_millis(10));
    }
}

/// Resident memory in bytes of a process and its children, theirs included.
pub(crate) fn memory(pid: u32) -> Option<u64> {
    let own = resident(pid)?;
    Some(own + children(pid).into_iter().filter_map(memory).sum::<u64>())
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Resident memory in bytes of one process.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Largest resident memory so far in bytes, of this process alone.
pub(crate) fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_family_is_found_measured_and_ended() {
        let mut command = Command::new("sh");
        // The grandchild is orphaned at once, in a session of its own.
        command
            .args(["-c", "(setsid sleep 600 &) ; sleep 600 & echo; wait"])
            .env(MARK, "/i/family-test")
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert!(memory(child.id()).unwrap() > 0 && peak(child.id()).unwrap() > 0);
        assert!(descendants(std::process::id()).iter().any(|process| process.pid == child.id()));
        let dir = Path::new("/i/family-test");
        assert!(end(|| strays(dir, None, None, &[]), |_| drop(child.try_wait())));
        assert!(strays(dir, None, None, &[]).is_empty());
        child.wait().unwrap();
        assert_eq!(memory(child.id()), None);
    }
}
