//! Starting the program: the supervisor starts itself once more, and that second stage becomes the program.
//!
//! Between `fork` and `exec` almost nothing is safe to do; a stage of its own may do all it needs in plain, safe code.

use std::fs;
use std::io::{self, PipeReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

use super::cgroup;
use super::folder::{self, Folder, Program};
use super::launch::{Launch, MARK};
use super::supervise::{Error, STAGE, chain};
use crate::identity::Identity;

/// This very binary: through /proc, so that an upgrade of the file on disk does not mix two versions.
pub(crate) const OWN: &str = "/proc/self/exe";

/// A program that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its pid, which is also its process group.
    pub pid: u32,
    /// What it writes to its standard streams, in order.
    pub output: PipeReader,
}

/// Starts the program of a launch.
pub(crate) fn start(folder: &Folder, launch: &Launch) -> io::Result<Started> {
    let _ = fs::remove_file(folder.start_error());
    let _ = fs::remove_file(folder.announce());
    folder::write(&folder.launch(), launch)?;
    let (output, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let mut command = Command::new(OWN);
    command.arg0("modelyard").arg("instance").arg(folder.path());
    command.env(STAGE, "program").env(MARK, folder.path());
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let pid = command.spawn()?.id();
    // A process that is not waited for yet keeps its entry in /proc, even if it ended already.
    let identity = Identity::of(pid).ok_or_else(|| io::Error::other("the program is not in /proc"))?;
    folder::write(&folder.program(), &Program { identity })?;
    Ok(Started { pid, output })
}

/// The second stage: takes on the limits and becomes the program. Returns only if that fails.
pub(crate) fn become_program(folder: &Folder) -> Error {
    let failed = |doing, source| Error::Folder { doing, dir: folder.path().to_owned(), source };
    let error = match folder::read::<Launch>(&folder.launch()) {
        Ok(Some(launch)) => execute(&launch),
        Ok(None) => Error::NoSpec(folder.path().to_owned()),
        Err(source) => failed("read launch.json", source),
    };
    let _ = fs::write(folder.start_error(), chain(&error)); // the exit code tells if not even this can be written
    error
}

fn execute(launch: &Launch) -> Error {
    // The program must not outlive its supervisor. It may have died before this line, hence the look afterwards.
    let bound = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    let parent = getppid().map(|pid| pid.as_raw_pid());
    if bound && parent.and_then(|pid| u32::try_from(pid).ok()) != Some(launch.supervisor) {
        return Error::Orphaned;
    }
    for group in &launch.groups {
        // If the kernel refuses, the supervisor sees that we are not in it and watches memory itself.
        let _ = cgroup::join(group, std::process::id());
    }
    limit(launch.data_bytes);
    // Lists of processes show `modelyard serve …`, not the link that it is started through.
    let name = if launch.program == Path::new(OWN) { "modelyard".as_ref() } else { launch.program.as_os_str() };
    let source = Command::new(&launch.program)
        .arg0(name)
        .args(&launch.arguments)
        .env_clear()
        .envs(&launch.environment)
        .current_dir(&launch.folder)
        .exec();
    Error::Execute { program: launch.program.clone(), folder: launch.folder.clone(), source }
}

fn limit(data_bytes: Option<u64>) {
    // A core dump of a model can fill the disk, and would land in the package's folder.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    if let Some(bytes) = data_bytes {
        let _ = setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    }
}
