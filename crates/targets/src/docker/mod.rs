//! Target `docker`: containers of one Docker Engine of this machine, a machine of its environment.
//!
//! The engine keeps the containers, which outlive the control plane; their labels say whose they are. What it does not keep, `notes` does.
//!
//! Promises: those of the port; an image is fetched only if the engine lacks it, once for all who wait for it; an engine that is away is told as a
//! machine out of reach, and holds up no other.
//! Absent on purpose: engines of other machines; making images (whoever deploys does); removing images (they make the way back quick).

mod container;
mod engine;
mod keeper;
mod notes;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use modelyard_core::instance::{Exit, InstanceSpec, InstanceStatus};
use modelyard_core::machine::{self, Machine, MachineId};
use modelyard_core::ports::{PortFuture, Target, TargetError};
use modelyard_core::url::encoded;
use modelyard_core::{Digest, InstanceId};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use self::container::{Inspected, Network, Ours, said};
use self::engine::{Engine, Error};
use self::notes::{Note, Notes};
use crate::place::{Kept, Place, Reach, Sights};
use crate::process::folder::now;
use crate::process::{log, port};

/// A call that changes something.
const CALL: Duration = Duration::from_secs(30);
/// How long a start waits for an engine that is being connected to for the first time.
const COMING: Duration = Duration::from_secs(30);
/// Starting a container: its file system is laid out, its network is made.
const STARTING: Duration = Duration::from_secs(120);
/// An image over a slow line.
const PULLING: Duration = Duration::from_secs(1_800);
/// Lines of a log that are kept once the container is removed.
const KEPT_LINES: usize = 1_000;

/// The container image of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is kept in the registry: `wine`.
    pub repository: String,
    /// Digest of its manifest: what it is fetched by.
    pub manifest: Digest,
    /// Digest of its configuration: what most engines call it by, wherever it came from.
    pub config: Digest,
}

/// Finds the image of a package, by the digest of its manifest or whichever there is; none when there is none. May take long.
pub type Images = dyn Fn(&Digest, Option<Digest>) -> Result<Option<Image>, String> + Send + Sync;

/// A token by which a repository of the registry is read; none where none is needed.
pub type Pass = dyn Fn(&str) -> Result<Option<String>, String> + Send + Sync;

/// What an engine is given from here.
#[derive(Clone)]
pub struct Kit {
    /// A word that only this control plane knows. Containers carry a digest of it.
    pub owner: String,
    /// Finds images.
    pub images: Arc<Images>,
    /// The registry that gives them.
    pub registry: SocketAddr,
    /// Lets an engine read there.
    pub pass: Arc<Pass>,
}

/// One engine.
pub struct DockerMachine {
    inner: Arc<Inner>,
    keeper: JoinHandle<()>,
}

struct Inner {
    ours: Ours,
    machine: Machine,
    kit: Kit,
    engine: Engine,
    sights: Sights,
    notes: Notes,
    /// Whether it has a network of its own for containers; known once it was reached.
    bridged: Mutex<Option<bool>>,
    /// Instances that are being started right now.
    busy: Mutex<HashSet<InstanceId>>,
    pulling: tokio::sync::Mutex<()>,
}

impl Drop for DockerMachine {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl DockerMachine {
    /// An engine whose own files are kept in `folder`; it is connected to from now on. What the folder says is taken for true until then.
    ///
    /// # Errors
    /// When the folder cannot be made, or the engine cannot be one of this machine.
    pub fn new(id: MachineId, engine: machine::Engine, kit: Kit, folder: PathBuf) -> io::Result<Self> {
        let socket = engine.socket().ok_or_else(|| io::Error::other(engine.problem().unwrap_or_default()))?;
        let kept = Kept::open(&folder)?;
        let digest = Digest::from_sha256(Sha256::digest(kit.owner.as_bytes()).into());
        let inner = Arc::new(Inner {
            ours: Ours { owner: digest.hex()[..12].to_owned(), machine: id },
            machine: Machine::Docker(engine),
            kit,
            engine: Engine::at(socket),
            sights: Sights::of(kept.instances()),
            notes: Notes::open(folder.join("instances"))?,
            bridged: Mutex::default(),
            busy: Mutex::default(),
            pulling: tokio::sync::Mutex::default(),
        });
        let keeper = tokio::spawn(Arc::clone(&inner).keep(kept));
        Ok(Self { inner, keeper })
    }
}

/// Who is being started; nobody else starts it meanwhile.
struct Busy<'a>(&'a Inner, InstanceId);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// What is read of an answer that names something.
#[derive(Deserialize)]
struct Named {
    #[serde(rename = "Id")]
    id: String,
}

impl Inner {
    fn failed(&self, doing: &str, why: impl ToString) -> TargetError {
        TargetError::Failed {
            doing: format!("could not {doing} on machine `{}`", self.ours.machine),
            source: io::Error::other(why.to_string()),
        }
    }

    /// Waits for an engine that is being connected to; refuses one that is away.
    async fn here(&self, doing: &str) -> Result<(), TargetError> {
        match self.sights.come(COMING).await {
            Reach::Here => Ok(()),
            Reach::Gone { why, .. } => Err(self.failed(doing, format!("it is out of reach: {why}"))),
            Reach::Coming => Err(self.failed(doing, "it is out of reach")),
        }
    }

    fn change(
        &self,
        doing: &str,
        id: &InstanceId,
        new: impl FnOnce() -> Note,
        with: impl FnOnce(&mut Note),
    ) -> Result<Note, TargetError> {
        self.notes.change(id, new, with).map_err(|error| self.failed(doing, error))
    }

    #[tracing::instrument(name = "docker.ensure", skip_all, fields(instance = %spec.id), err)]
    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), TargetError> {
        let doing = format!("start `{}`", spec.id);
        if let Some(note) = self.notes.get(&spec.id) {
            if note.forgotten {
                return Ok(()); // it has ended; an id is never started twice
            }
            if note.generation > spec.generation {
                return Err(TargetError::Stale { id: spec.id.clone(), seen: note.generation });
            }
            if note.started.is_some() || note.exit.is_some() {
                return Ok(());
            }
        }
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.id.clone()) {
            return Ok(()); // another caller starts it
        }
        let _busy = Busy(self, spec.id.clone());
        self.here(&doing).await?;
        let image = self.image(spec, &doing).await?;
        let container = self.create(spec, &image, &doing).await?;
        self.start(spec, &container, &doing).await
    }

    /// What the engine calls the package's image; fetched if it has none.
    async fn image(&self, spec: &InstanceSpec, doing: &str) -> Result<String, TargetError> {
        let (images, package, named) = (Arc::clone(&self.kit.images), spec.package, spec.image);
        let found = tokio::task::spawn_blocking(move || images(&package, named)).await;
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        let Some(image) = found.map_err(|why| self.failed(doing, why))? else {
            let which = named.map(|image| format!(" {image}")).unwrap_or_default();
            let why = format!(
                "the registry has no container image{which} of package {}; `modelyard deploy` makes it where the package is, `modelyard package DIR --format image` by hand",
                spec.package
            );
            return Err(TargetError::Impossible { id: spec.id.clone(), why });
        };
        if let Some(known) = self.present(&image).await.map_err(|error| self.failed(doing, error))? {
            return Ok(known);
        }
        // One at a time: many instances of one package come together, and its image is fetched once.
        let _pulling = self.pulling.lock().await;
        if let Some(known) = self.present(&image).await.map_err(|error| self.failed(doing, error))? {
            return Ok(known);
        }
        self.pull(&image).await.map_err(|why| self.failed(doing, format!("the image cannot be fetched: {why}")))?;
        match self.present(&image).await.map_err(|error| self.failed(doing, error))? {
            Some(known) => Ok(known),
            None => Err(self.failed(doing, "the image was fetched, and the engine does not know it")),
        }
    }

    /// What the engine calls the image, if it has it: by its configuration, or by its manifest where it keeps images as containerd does.
    async fn present(&self, image: &Image) -> Result<Option<String>, Error> {
        for digest in [image.config, image.manifest] {
            match self.engine.get::<Named>(&format!("/images/{digest}/json"), CALL).await {
                Ok(Named { id }) => return Ok(Some(id)),
                Err(error) if error.is(StatusCode::NOT_FOUND) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn pull(&self, image: &Image) -> Result<(), String> {
        let (began, repository) = (Instant::now(), format!("{}/{}", self.kit.registry, image.repository));
        let token = (self.kit.pass)(&image.repository)?;
        let pulled = self.engine.pull(&repository, &image.manifest.to_string(), token.as_deref(), PULLING).await;
        let pulled = pulled.map_err(|error| error.to_string())?;
        tracing::info!(
            machine = %self.ours.machine, image = %image.manifest, layers = pulled.layers, reused = pulled.reused, after = ?began.elapsed(),
            "image fetched by an engine"
        );
        Ok(())
    }

    /// The container of an instance; made unless it is there.
    async fn create(&self, spec: &InstanceSpec, image: &str, doing: &str) -> Result<String, TargetError> {
        let bridged = self.bridged.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(true);
        let network = match bridged {
            true => Network::Bridge,
            false => {
                let draw =
                    spec.id.as_str().bytes().fold(now().0, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
                let pick = |draw| port::pick(draw).map_err(|error| self.failed(doing, error));
                Network::Host(pick(draw)?, pick(draw.wrapping_add(7))?)
            }
        };
        let plan = self.ours.plan(spec, image, network);
        let name = self.ours.name(&spec.id);
        let path = format!("/containers/create?name={}", encoded(&name));
        match self.engine.bytes(Method::POST, &path, Some(&plan), CALL).await {
            Ok(bytes) => {
                let named: Named = serde_json::from_slice(&bytes).map_err(|error| self.failed(doing, error))?;
                Ok(named.id)
            }
            Err(error) if error.is(StatusCode::CONFLICT) => {
                let there: Inspected = self.inspect(&name).await.map_err(|error| self.failed(doing, error))?;
                match there.who(&self.ours).filter(|who| who.id == spec.id) {
                    Some(_) => Ok(there.id),
                    None => Err(self.failed(doing, format!("another container is called `{name}`; remove it"))),
                }
            }
            Err(error) if error.is(StatusCode::BAD_REQUEST) => {
                // Such as a memory limit that is too low for it.
                Err(TargetError::Impossible {
                    id: spec.id.clone(),
                    why: format!("machine `{}`: {error}", self.ours.machine),
                })
            }
            Err(error) => Err(self.failed(doing, error)),
        }
    }

    async fn inspect(&self, container: &str) -> Result<Inspected, Error> {
        self.engine.get(&format!("/containers/{}/json", encoded(container)), CALL).await
    }

    /// Starts a container that was made. First it is written down: whoever reads that does not start it again.
    async fn start(&self, spec: &InstanceSpec, container: &str, doing: &str) -> Result<(), TargetError> {
        let mut mine = false;
        self.change(
            doing,
            &spec.id,
            || fresh(spec),
            |note| {
                if note.started.is_none() && note.stop.is_none() {
                    (note.started, mine) = (Some(now()), true);
                }
            },
        )?;
        if !mine {
            return Ok(());
        }
        match self.engine.bytes(Method::POST, &format!("/containers/{container}/start"), None, STARTING).await {
            Ok(_) => {
                tracing::info!(instance = %spec.id, container = &container[..container.len().min(12)], "container started");
                Ok(())
            }
            Err(Error::Refused { why, .. }) => {
                let exit = Exit { start_error: Some(why), ..Exit::at(now()) };
                self.change(doing, &spec.id, || fresh(spec), |note| note.exit = Some(exit)).map(drop)
            }
            // Whether it started is seen later; it is not asked to start again.
            Err(error) => Err(self.failed(doing, error)),
        }
    }

    #[tracing::instrument(name = "docker.stop", skip_all, fields(instance = %id), err)]
    async fn stop(self: &Arc<Self>, id: &InstanceId, grace: Duration) -> Result<(), TargetError> {
        let doing = format!("stop `{id}`");
        let Some(note) = self.notes.get(id).filter(|note| note.exit.is_none() && !note.forgotten) else {
            return Ok(());
        };
        self.here(&doing).await?;
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        // The shortest grace counts: who asks again is less patient.
        let asked = |note: &mut Note| {
            note.stop = Some(note.stop.filter(|(_, before)| *before <= grace_ms).unwrap_or((now(), grace_ms)))
        };
        let note = self.change(&doing, id, || note, asked)?;
        if note.started.is_none() {
            let exit = Exit { asked: true, ..Exit::at(now()) };
            self.change(&doing, id, || note, |note| note.exit = Some(exit))?;
            return Ok(());
        }
        let (inner, name) = (Arc::clone(self), self.ours.name(id));
        let seconds = grace.as_millis().div_ceil(1_000);
        // The engine waits for the end itself, and this call with it: the caller does not.
        tokio::spawn(async move {
            let limit = grace + CALL;
            let path = format!("/containers/{}/stop?t={seconds}", encoded(&name));
            if let Err(error) = inner.engine.bytes(Method::POST, &path, None, limit).await
                && !error.is(StatusCode::NOT_FOUND)
            {
                tracing::warn!(container = %name, %error, "a container cannot be stopped yet");
            }
        });
        Ok(())
    }

    async fn forget(&self, id: &InstanceId) -> Result<(), TargetError> {
        let doing = format!("forget `{id}`");
        let Some(note) = self.notes.get(id).filter(|note| !note.forgotten) else { return Ok(()) };
        if note.exit.is_none() {
            let busy = io::Error::new(io::ErrorKind::ResourceBusy, "it has not ended; stop it first");
            return Err(TargetError::Failed {
                doing: format!("could not {doing} on machine `{}`", self.ours.machine),
                source: busy,
            });
        }
        self.here(&doing).await?;
        let name = self.ours.name(id);
        match self.said(&name, KEPT_LINES).await {
            Ok(said) => std::fs::write(self.notes.log(id), said).map_err(|error| self.failed(&doing, error))?,
            Err(error) => tracing::warn!(instance = %id, %error, "the log of a container is lost with it"),
        }
        let path = format!("/containers/{}?v=true&force=true", encoded(&name));
        match self.engine.bytes(Method::DELETE, &path, None, CALL).await {
            Ok(_) => {}
            Err(error) if error.is(StatusCode::NOT_FOUND) => {}
            Err(error) => return Err(self.failed(&doing, error)),
        }
        self.change(&doing, id, || note, |note| note.forgotten = true)?;
        self.notes.trim();
        Ok(())
    }

    /// The last lines of a container, as it wrote them.
    async fn said(&self, container: &str, lines: usize) -> Result<Vec<u8>, Error> {
        let lines = lines.min(10_000);
        let path = format!("/containers/{}/logs?stdout=true&stderr=true&tail={lines}", encoded(container));
        self.engine.bytes(Method::GET, &path, None, CALL).await.map(|frames| said(&frames))
    }

    async fn logs(&self, id: &InstanceId, lines: usize) -> Result<Vec<String>, TargetError> {
        let doing = format!("read the log of `{id}`");
        let Some(note) = self.notes.get(id) else {
            return Err(self.failed(&doing, "no such instance is known"));
        };
        if note.forgotten {
            return Ok(log::tail(&self.notes.log(id), lines)
                .map_err(|error| self.failed(&doing, error))?
                .unwrap_or_default());
        }
        self.here(&doing).await?;
        match self.said(&self.ours.name(id), lines).await {
            Ok(said) => {
                let text = said.strip_suffix(b"\n").unwrap_or(&said);
                let all: Vec<String> =
                    text.split(|&byte| byte == b'\n').filter(|_| !text.is_empty()).map(log::clean).collect();
                Ok(all[all.len().saturating_sub(lines)..].to_vec())
            }
            Err(error) if error.is(StatusCode::NOT_FOUND) => Ok(Vec::new()),
            Err(error) => Err(self.failed(&doing, error)),
        }
    }
}

/// The note of an instance that is asked for the first time.
fn fresh(spec: &InstanceSpec) -> Note {
    Note::asked(spec.service.clone(), spec.revision, spec.generation)
}

impl Place for DockerMachine {
    fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    fn sights(&self) -> &Sights {
        &self.inner.sights
    }
}

impl Target for DockerMachine {
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> PortFuture<'a, Result<(), TargetError>> {
        Box::pin(self.inner.ensure(spec))
    }

    fn observe(&self) -> PortFuture<'_, Result<Vec<InstanceStatus>, TargetError>> {
        Box::pin(async { Ok(self.inner.sights.observe().await) })
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> PortFuture<'a, Result<(), TargetError>> {
        Box::pin(self.inner.stop(id, grace))
    }

    fn forget<'a>(&'a self, id: &'a InstanceId) -> PortFuture<'a, Result<(), TargetError>> {
        Box::pin(self.inner.forget(id))
    }

    fn leave(&self) -> PortFuture<'_, ()> {
        Box::pin(async { self.keeper.abort() })
    }

    fn logs<'a>(&'a self, id: &'a InstanceId, lines: usize) -> PortFuture<'a, Result<Vec<String>, TargetError>> {
        Box::pin(self.inner.logs(id, lines))
    }
}
