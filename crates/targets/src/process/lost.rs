//! Instances whose supervisor vanished (`kill -9`, the system's own out-of-memory killer): what they left is ended, and their end is written down.

use std::fs::File;
use std::io;
use std::time::Duration;

use modelyard_core::instance::Exit;
use rustix::process::Signal;

use super::folder::{self, Folder, Program};
use super::supervise::nothing;
use super::{cgroup, family};
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
    let groups = program.as_ref().map(|program| program.groups.clone()).unwrap_or_default();
    let leader = program.as_ref().map(|program| program.identity.pid);
    let strays = || family::strays(folder.path(), supervisor.map(|identity| identity.pid), leader, &groups);
    if !family::end(strays, std::thread::sleep) {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "processes of the instance do not end"));
    }
    cgroup::remove(&groups);
    let exit = Exit { asked: folder.stop().exists(), ..how(program.is_some()) };
    folder::write(&folder.exit(), &exit)?;
    Ok(exit)
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
