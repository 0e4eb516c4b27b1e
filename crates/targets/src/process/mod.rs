//! Target `process`: each instance a process group of this machine under a supervisor of its own.
//!
//! The target writes `instances/<id>/spec.json` and starts `<binary> instance <dir>`, detached. From then on the folder is the only
//! link between them, so that instances outlive the control plane and a new one finds them as they are.
//!
//! Promises: an id is started at most once; an instance that ended stays ended; what `observe` says is read from what is there, never
//! remembered from what was asked.
//! Absent on purpose: other systems than Linux (`/proc`, pidfds and parent-death signals carry the promises).

mod cgroup;
mod family;
pub(crate) mod folder;
mod keeping;
mod launch;
pub(crate) mod log;
mod lost;
mod observe;
pub(crate) mod port;
mod program;
mod room;
pub(crate) mod supervise;
mod wake;
mod watch;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use modelyard_core::InstanceId;
use modelyard_core::home::Home;
use modelyard_core::instance::{InstanceSpec, InstanceStatus};
use modelyard_core::package::Runtime;
use modelyard_core::ports::{PortFuture, Room, Target, TargetError};
use rustix::process::Signal;

use self::folder::{Asked, Folder, Stop};
use self::launch::{ONNXRUNTIME, PASSED_ON};
use self::observe::Known;
use crate::identity::Identity;

pub use self::supervise::{Error, supervise};
pub use crate::identity::{is_alive, start_ticks, terminate};

/// The target `process`.
#[derive(Clone, Debug)]
pub struct ProcessTarget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    binary: PathBuf,
    home: PathBuf,
    instances: PathBuf,
    onnxruntime: Option<PathBuf>,
    memory: Mutex<Memory>,
}

/// What need not be read twice. Losing it loses nothing.
#[derive(Debug, Default)]
struct Memory {
    known: HashMap<InstanceId, Known>,
    /// Supervisors started by this process: they are waited for, so that no zombies are left.
    children: Vec<Child>,
    /// The ONNX Runtime library, where it became known later.
    onnxruntime: Option<PathBuf>,
    /// When and how often the supervisor of an instance was started.
    attempts: HashMap<InstanceId, (Instant, u32)>,
}

impl ProcessTarget {
    /// A target that keeps its instances under `home` and runs `binary instance DIR` for each.
    pub fn new(binary: impl Into<PathBuf>, home: &Home) -> Self {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let inner = Inner {
            binary: absolute(binary.into()),
            home: absolute(home.root().to_owned()),
            instances: absolute(home.instances()),
            onnxruntime: std::env::var_os(ONNXRUNTIME).map(PathBuf::from),
            memory: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same target with the ONNX Runtime library that its `onnx` instances load, instead of what `MODELYARD_ONNXRUNTIME` says.
    #[must_use]
    pub fn with_onnxruntime(self, library: impl Into<PathBuf>) -> Self {
        let Inner { binary, home, instances, .. } = &*self.inner;
        let onnxruntime = Some(library.into());
        let inner = Inner {
            binary: binary.clone(),
            home: home.clone(),
            instances: instances.clone(),
            onnxruntime,
            memory: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Instances that are started from now on load this ONNX Runtime library.
    pub fn use_onnxruntime(&self, library: impl Into<PathBuf>) {
        let library = library.into();
        self.inner.memory().onnxruntime = Some(std::path::absolute(&library).unwrap_or(library));
    }

    /// File work off the caller's threads: a slow disk must not hold up the control plane's other duties.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, TargetError> + Send + 'static,
    ) -> PortFuture<'_, Result<T, TargetError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&inner)).await;
            done.unwrap_or_else(|error| Err(failed("call the process target")(io::Error::other(error))))
        })
    }
}

impl Target for ProcessTarget {
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> PortFuture<'a, Result<(), TargetError>> {
        let spec = spec.clone();
        self.call(move |inner| inner.ensure(spec))
    }

    fn observe(&self) -> PortFuture<'_, Result<Vec<InstanceStatus>, TargetError>> {
        self.call(|inner| inner.observe().map_err(failed("look at the instances' folder")))
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> PortFuture<'a, Result<(), TargetError>> {
        let id = id.clone();
        self.call(move |inner| inner.stop(&id, grace).map_err(failed(format!("stop `{id}`"))))
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> PortFuture<'a, Result<(), TargetError>> {
        let id = id.clone();
        self.call(move |inner| inner.forget(&id).map_err(failed(format!("forget `{id}`"))))
    }

    fn room(&self) -> PortFuture<'_, Room> {
        Box::pin(async { tokio::task::spawn_blocking(room::room).await.unwrap_or_default() })
    }

    fn logs<'a>(&'a self, id: &'a InstanceId, lines: usize) -> PortFuture<'a, Result<Vec<String>, TargetError>> {
        let id = id.clone();
        self.call(move |inner| inner.logs(&id, lines).map_err(failed(format!("read the log of `{id}`"))))
    }
}

fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> TargetError {
    let doing = doing.into();
    move |source| TargetError::Failed { doing: format!("could not {doing}"), source }
}

impl Inner {
    fn folder(&self, id: &InstanceId) -> Folder {
        Folder::new(self.instances.join(id.as_str()))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What is remembered can be read again, so a panic elsewhere does not poison it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[tracing::instrument(name = "target.ensure", skip_all, fields(instance = %spec.id), err)]
    fn ensure(&self, spec: InstanceSpec) -> Result<(), TargetError> {
        let (id, folder) = (spec.id.clone(), self.folder(&spec.id));
        let could_not = || failed(format!("start `{id}`"));
        if self.is_kept(&id) {
            return Ok(()); // it has ended and was forgotten; an id is never started twice
        }
        if let Some(asked) = folder::read::<Asked>(&folder.spec()).map_err(could_not())? {
            return match asked.spec.generation > spec.generation {
                true => Err(TargetError::Stale { id, seen: asked.spec.generation }),
                false => self.nurse(&id, &folder).map_err(could_not()),
            };
        }
        self.check(&spec)?;
        folder.make().map_err(could_not())?;
        let onnxruntime = self.memory().onnxruntime.clone().or_else(|| self.onnxruntime.clone());
        let asked = Asked { at: folder::now(), onnxruntime, home: self.home.clone(), spec };
        match folder::write_new(&folder.spec(), &asked).map_err(could_not())? {
            true => self.start_supervisor(&id, &folder).map_err(could_not()),
            false => Ok(()), // another caller was faster, and starts it
        }
    }

    /// What can be known to fail before anything is started.
    fn check(&self, spec: &InstanceSpec) -> Result<(), TargetError> {
        let impossible = |why: String| Err(TargetError::Impossible { id: spec.id.clone(), why });
        if !spec.package_dir.is_dir() {
            let dir = spec.package_dir.display();
            return impossible(format!("the package's folder {dir} is not there; unpack the package again"));
        }
        if !self.binary.is_file() {
            let binary = self.binary.display();
            return impossible(format!(
                "the program {binary} is not there; was Modelyard moved or removed? restart the control plane"
            ));
        }
        match &spec.runtime {
            Runtime::Command { command, .. } if command.is_empty() => impossible(
                "the package's command is empty; name a program in `modelyard.toml` under [runtime]".to_owned(),
            ),
            Runtime::None {} => impossible(
                "nothing runs the package; give it a `command` or a `python` function in `modelyard.toml` under [runtime]".to_owned(),
            ),
            Runtime::Command { .. } | Runtime::Onnx { .. } | Runtime::Python { .. } => Ok(()),
        }
    }

    /// Starts `<binary> instance <dir>`, which detaches itself.
    fn start_supervisor(&self, id: &InstanceId, folder: &Folder) -> io::Result<()> {
        let mut memory = self.memory();
        let attempts = memory.attempts.get(id).map_or(0, |&(_, attempts)| attempts);
        memory.attempts.insert(id.clone(), (Instant::now(), attempts + 1));
        let said = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.supervisor_log())?;
        let mut command = Command::new(&self.binary);
        command.arg("instance").arg(folder.path()).current_dir(folder.path());
        command.env_clear().envs(PASSED_ON.iter().filter_map(|&name| Some((name, std::env::var_os(name)?))));
        command.env("MODELYARD_HOME", &self.home);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = command.spawn()?;
        tracing::info!(instance = %id, supervisor = child.id(), attempt = attempts + 1, "instance started");
        memory.children.push(child);
        Ok(())
    }

    /// Starts the supervisor anew if it never showed itself: the control plane may have died between writing the spec and starting it.
    /// The folder's lock keeps a late one and a new one from both starting the program.
    fn nurse(&self, id: &InstanceId, folder: &Folder) -> io::Result<()> {
        if folder.supervisor().exists() || folder.exit().exists() {
            return Ok(());
        }
        let written = folder.spec().metadata()?.modified()?.elapsed().unwrap_or_default();
        let last = self.memory().attempts.get(id).copied();
        let waits = last.map_or(written, |(at, _)| at.elapsed()) < lost::SHOW_UP;
        match last {
            _ if waits => Ok(()),
            Some((_, attempts)) if attempts >= 5 => match folder.try_lock()? {
                Some(lock) => lost::give_up(folder, &lock, self.why_no_supervisor(folder)).map(drop),
                None => Ok(()),
            },
            _ => self.start_supervisor(id, folder),
        }
    }

    fn why_no_supervisor(&self, folder: &Folder) -> String {
        let said = log::tail(&folder.supervisor_log(), 3).ok().flatten().unwrap_or_default().join(" / ");
        format!("`{} instance` does not start: {said}", self.binary.display())
    }

    #[tracing::instrument(name = "target.stop", skip_all, fields(instance = %id), err)]
    fn stop(&self, id: &InstanceId, grace: Duration) -> io::Result<()> {
        let folder = self.folder(id);
        if !folder.spec().exists() || folder.exit().exists() {
            return Ok(());
        }
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        // First the wish, then the signal: a supervisor that is about to start sees one or the other.
        folder::write(&folder.stop(), &Stop { grace_ms })?;
        tracing::info!(instance = %id, grace_ms, "instance asked to end");
        match folder::read::<Identity>(&folder.supervisor())? {
            Some(supervisor) => supervisor.signal(Signal::TERM).map(drop),
            None => Ok(()),
        }
    }
}

/// Whether a path component may be an instance's folder.
fn instance_of(path: &Path) -> Option<InstanceId> {
    InstanceId::new(path.file_name()?.to_str()?).ok()
}
