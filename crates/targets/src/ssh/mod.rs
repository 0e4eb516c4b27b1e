//! Target `ssh`: one machine that needs nothing but an sshd.
//!
//! A master connection carries everything: a conversation with `modelyard target` there, which speaks for the processes of that machine, copies of
//! programs and packages, and the ports at which instances are reached. It outlives the control plane, as the gateway does, so that traffic goes on.
//!
//! Promises: those of the port, for they are kept by the far folder, never by what is remembered here; every call has a deadline; a machine that is out
//! of reach answers at once with what was last known of it, also after a restart, and says so.
//! Absent on purpose: who runs where (the controller decides), and ssh itself (the OpenSSH client: its configuration, keys and known hosts count).

mod command;
mod far;
mod forwards;
mod install;
mod keeper;
mod master;
mod session;
mod wire;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use modelyard_core::instance::{InstanceSpec, InstanceStatus};
use modelyard_core::machine::{Login, Machine, MachineId};
use modelyard_core::package::Runtime;
use modelyard_core::ports::{PortFuture, Room, Target, TargetError};
use modelyard_core::{Digest, InstanceId};
use tokio::task::JoinHandle;

pub use self::far::{Depot, Far};
pub use self::install::Hashes;
use self::install::RUN;
use self::master::Ssh;
use self::session::Session;
use self::wire::{Answer, Call, millis};
use crate::place::{Kept, Place, Reach, Sights};

/// A call that changes something.
const CALL: Duration = Duration::from_secs(30);
/// How long a start waits for a machine that is being connected to for the first time.
const COMING: Duration = Duration::from_secs(900);
/// A package over a slow line.
const SHIPPING: Duration = Duration::from_secs(1_800);

/// Writes a package with everything that belongs to it to a file.
pub type Bundle = dyn Fn(&Digest, &Path) -> Result<(), String> + Send + Sync;

/// What a machine is given from here.
#[derive(Clone)]
pub struct Kit {
    /// This program's file.
    pub binary: PathBuf,
    /// Finds the ONNX Runtime library, or says why there is none. May take long.
    pub library: Arc<dyn Fn() -> Result<PathBuf, String> + Send + Sync>,
    /// Writes a package with everything that belongs to it to a file that `modelyard target --take` understands. May take long.
    pub bundle: Arc<Bundle>,
    /// A word that only this control plane knows.
    pub owner: String,
    /// Who it is, for people.
    pub whose: String,
    /// Digests of what is copied.
    pub hashes: Arc<Hashes>,
}

/// One machine.
pub struct SshMachine {
    inner: Arc<Inner>,
    keeper: JoinHandle<()>,
}

struct Inner {
    id: MachineId,
    machine: Machine,
    login: Login,
    kit: Kit,
    ssh: Ssh,
    sights: Sights,
    /// The conversation, and the digest of the program there.
    session: Mutex<Option<(Arc<Session>, String)>>,
    shipping: tokio::sync::Mutex<()>,
}

impl Drop for SshMachine {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl SshMachine {
    /// A machine whose own files are kept in `folder`; it is connected to from now on. What the folder says is taken for true until then.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(id: MachineId, login: Login, kit: Kit, folder: PathBuf) -> io::Result<Self> {
        let kept = Kept::open(&folder)?;
        let inner = Arc::new(Inner {
            id,
            machine: Machine::Ssh(login.clone()),
            login,
            kit,
            ssh: Ssh::new(folder),
            sights: Sights::of(kept.instances()),
            session: Mutex::default(),
            shipping: tokio::sync::Mutex::default(),
        });
        let keeper = tokio::spawn(Arc::clone(&inner).keep(kept));
        Ok(Self { inner, keeper })
    }
}

impl Inner {
    fn failed(&self, doing: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TargetError {
        TargetError::Failed {
            doing: format!("could not {doing} on machine `{}`", self.id),
            source: io::Error::other(why),
        }
    }

    /// The conversation; waits, for as long as `patience` goes, for a machine that is being connected to for the first time.
    async fn session(&self, doing: &str, patience: Duration) -> Result<(Arc<Session>, String), TargetError> {
        let reach = self.sights.come(patience).await;
        let why = match reach {
            Reach::Gone { why, .. } => format!("it is out of reach: {why}"),
            Reach::Coming | Reach::Here => "it is out of reach".to_owned(),
        };
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        session.ok_or_else(|| self.failed(doing, why))
    }

    async fn call(&self, doing: &str, call: Call) -> Result<Answer, TargetError> {
        let (session, _) = self.session(doing, CALL).await?;
        session.call(call, CALL).await.map_err(|error| self.failed(doing, error))
    }

    /// A call that is done or fails.
    async fn done(&self, id: &InstanceId, doing: &str, call: Call) -> Result<(), TargetError> {
        let answer = self.call(doing, call).await?;
        self.is_done(id, doing, answer)
    }

    fn is_done(&self, id: &InstanceId, doing: &str, answer: Answer) -> Result<(), TargetError> {
        match answer {
            Answer::Done => Ok(()),
            Answer::Impossible { why } => {
                Err(TargetError::Impossible { id: id.clone(), why: format!("machine `{}`: {why}", self.id) })
            }
            Answer::Stale { seen } => Err(TargetError::Stale { id: id.clone(), seen }),
            Answer::Failed { why } | Answer::NotYours { why } => Err(self.failed(doing, why)),
            other => Err(self.failed(doing, format!("it answered something else: {other:?}"))),
        }
    }

    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), TargetError> {
        let doing = format!("start `{}`", spec.id);
        // A machine that is not there is told before a library is looked for.
        self.session(&doing, COMING).await?;
        let onnxruntime = match &spec.runtime {
            Runtime::Onnx { .. } => Some(self.library(&doing).await?),
            Runtime::Command { .. } | Runtime::Python { .. } | Runtime::None {} => None,
        };
        let ask = || Call::Ensure { spec: Box::new(spec.clone()), onnxruntime: onnxruntime.clone() };
        let mut answer = self.call(&doing, ask()).await?;
        if answer == Answer::NoPackage {
            // One at a time: many instances of one package come together, and it is copied once.
            let _shipping = self.shipping.lock().await;
            answer = self.call(&doing, ask()).await?;
            if answer == Answer::NoPackage {
                let shipped = self.ship(spec.package).await;
                shipped.map_err(|why| self.failed(&doing, format!("the package cannot be brought there: {why}")))?;
                answer = self.call(&doing, ask()).await?;
            }
        }
        self.is_done(&spec.id, &doing, answer)
    }

    /// Path of the ONNX Runtime library there.
    async fn library(&self, doing: &str) -> Result<PathBuf, TargetError> {
        let found = Arc::clone(&self.kit.library);
        let found = tokio::task::spawn_blocking(move || found()).await.unwrap_or_else(|error| Err(error.to_string()));
        let file =
            found.map_err(|why| self.failed(doing, format!("there is no ONNX Runtime to bring there: {why}")))?;
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let folder = &self.login.folder;
        let hex = install::put(&self.ssh, Arc::clone(&self.kit.hashes), folder, &file, &name).await;
        let hex = hex.map_err(|why| self.failed(doing, why))?;
        Ok(Path::new(folder).join("bin").join(hex).join(name))
    }

    /// Copies a package.
    async fn ship(&self, package: Digest) -> Result<(), String> {
        let file = self.ssh.folder().join(format!("{}.oci", package.hex()));
        let (bundle, path) = (Arc::clone(&self.kit.bundle), file.clone());
        let made = tokio::task::spawn_blocking(move || bundle(&package, &path)).await;
        let sent = match made.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => self.send(&file).await,
            Err(why) => Err(why),
        };
        let _ = std::fs::remove_file(&file);
        sent.inspect(|()| tracing::info!(machine = %self.id, %package, "package copied to a machine"))
    }

    async fn send(&self, file: &Path) -> Result<(), String> {
        let program = self.session.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, hex)| hex.clone());
        let program = program.ok_or("the connection ended")?;
        let input = File::open(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        let words = command::over(RUN, &[&self.login.folder, &program, "--take"]);
        self.ssh.run(words, Some(input), SHIPPING).await.map(drop)
    }
}

impl Place for SshMachine {
    fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    fn sights(&self) -> &Sights {
        &self.inner.sights
    }
}

impl Target for SshMachine {
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> PortFuture<'a, Result<(), TargetError>> {
        Box::pin(self.inner.ensure(spec))
    }

    fn observe(&self) -> PortFuture<'_, Result<Vec<InstanceStatus>, TargetError>> {
        Box::pin(async { Ok(self.inner.sights.observe().await) })
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> PortFuture<'a, Result<(), TargetError>> {
        let call = Call::Stop { id: id.clone(), grace_ms: millis(grace) };
        Box::pin(async move { self.inner.done(id, &format!("stop `{id}`"), call).await })
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> PortFuture<'a, Result<(), TargetError>> {
        let call = Call::Forget { id: id.clone() };
        Box::pin(async move { self.inner.done(id, &format!("forget `{id}`"), call).await })
    }

    fn room(&self) -> PortFuture<'_, Room> {
        Box::pin(async {
            match self.inner.call("see what is left", Call::Room).await {
                Ok(Answer::Room { memory_bytes, cpu_millis }) => Room { memory_bytes, cpu_millis },
                _ => Room::default(),
            }
        })
    }

    fn leave(&self) -> PortFuture<'_, ()> {
        Box::pin(async {
            self.keeper.abort();
            self.inner.session.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.inner.ssh.end().await;
        })
    }

    fn logs<'a>(&'a self, id: &'a InstanceId, lines: usize) -> PortFuture<'a, Result<Vec<String>, TargetError>> {
        let call = Call::Logs { id: id.clone(), lines };
        Box::pin(async move {
            let doing = format!("read the log of `{id}`");
            match self.inner.call(&doing, call).await? {
                Answer::Lines { lines } => Ok(lines),
                other => self.inner.is_done(id, &doing, other).map(|()| Vec::new()),
            }
        })
    }
}
