//! Instances whose supervisor vanished (`kill -9`, the system's own out-of-memory killer): what they left is ended, and their end is written down.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use modelyard_core::instance::Exit;
use rustix::process::Signal;

use super::folder::{self, Folder, Program};
use super::supervise::{group_name, nothing};
use super::{cgroup, family, instance_of};
use crate::identity::Identity;

/// Ends what is left of an instance and records its end. The lock shows that no supervisor lives.
///
/// The kernel ended the program together with its supervisor; its children may still be there.
pub(crate) fn bury(folder: &Folder, _lock: &File) -> io::Result<Exit> {
    if let Some(exit) = folder::read::<Exit>(&folder.exit())? {
        return Ok(exit);
    }
    let supervisor: Option<Identity> = folder::read(&folder.supervisor()).unwrap_or_default();
    let program: Option<Program> = folder::read(&folder.program()).unwrap_or_default();
    let groups = groups(folder, supervisor);
    let leader = program.as_ref().map(|program| program.identity.pid);
    let strays = || family::strays(folder.path(), supervisor.map(|identity| identity.pid), leader, &groups);
    if !family::end(strays, std::thread::sleep) {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "processes of the instance do not end"));
    }
    remove(&groups);
    let exit = Exit { asked: folder.stop().exists(), ..how(program.is_some()) };
    if let Err(error) = folder::write(&folder.exit(), &exit) {
        // A full disk: the end is told all the same, and written down by whoever looks next.
        tracing::warn!(dir = %folder.path().display(), %error, "the end of an instance could not be written down");
    }
    Ok(exit)
}

/// The control groups that the instance has: those written down, and those that the supervisor made but did not come to write down.
fn groups(folder: &Folder, supervisor: Option<Identity>) -> Vec<PathBuf> {
    let mut groups: Vec<PathBuf> = folder::read(&folder.groups()).ok().flatten().unwrap_or_default();
    if let Some((id, supervisor)) = instance_of(folder.path()).zip(supervisor) {
        groups.extend(cgroup::existing(&group_name(&id, supervisor.pid)));
    }
    groups.sort();
    groups.dedup();
    groups
}

/// A process that was just ended may keep its group for a moment more.
fn remove(groups: &[PathBuf]) {
    for _ in 0..50 {
        cgroup::remove(groups);
        if !groups.iter().any(|group| group.exists()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tracing::warn!(?groups, "control groups could not be removed");
}

fn how(was_started: bool) -> Exit {
    if was_started {
        return Exit { signal: Some(Signal::KILL.as_raw()), ..nothing() };
    }
    let why =
        "its supervisor ended before the program was started; supervisor.log in the instance's folder may say why";
    Exit { start_error: Some(why.to_owned()), ..nothing() }
}

/// Gives up on an instance whose supervisor never came to life.
pub(crate) fn give_up(folder: &Folder, _lock: &File, why: String) -> io::Result<Exit> {
    let exit = Exit { asked: folder.stop().exists(), start_error: Some(why), ..nothing() };
    folder::write(&folder.exit(), &exit)?;
    Ok(exit)
}

/// How long a supervisor may take to show itself before it is started anew.
pub(crate) const SHOW_UP: Duration = Duration::from_secs(2);
