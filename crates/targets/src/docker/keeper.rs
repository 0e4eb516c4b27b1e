//! Looking at one engine: whenever somebody asks, and once a second.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use modelyard_core::InstanceId;
use modelyard_core::instance::{Exit, InstanceState, InstanceStatus};
use modelyard_core::url::encoded;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::Inner;
use super::container::{Listed, Who, memory_bytes};
use super::engine::Error;
use super::notes::Note;
use crate::place::Kept;
use crate::process::folder::now;

/// A look that takes longer than this is none: the engine hangs.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks that nobody asked for.
const CALM: Duration = Duration::from_secs(1);
/// Between two tries to reach it: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Between two samples of the memory of a container: the engine reads a dozen files for each.
const SAMPLE: Duration = Duration::from_secs(5);
/// A container that was told to start, and of which the engine says it did not, has so long.
const START_LIMIT_MS: u64 = 150_000;
/// The engine ends by force who does not end in time; if it died meanwhile, nobody did.
const FORCE_MS: u64 = 5_000;
/// On loopback a connection is made or refused at once; one that is made only to be closed leads to nobody.
const CONNECT: Duration = Duration::from_millis(200);
const HOLDS: Duration = Duration::from_millis(40);

/// What is known of a container that runs, and need not be asked again.
#[derive(Clone, Debug, Default)]
struct Known {
    pid: Option<u32>,
    listens: bool,
    memory_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    sampled: Option<Instant>,
}

impl Inner {
    /// Runs until it is dropped.
    pub(super) async fn keep(self: Arc<Self>, mut kept: Kept) {
        let mut pause = AGAIN.0;
        let mut known = HashMap::new();
        loop {
            let why = match self.connect(&mut kept).await {
                Ok(()) => {
                    pause = AGAIN.0;
                    self.follow(&mut known, &mut kept).await
                }
                Err(error) => error.to_string(),
            };
            self.sights.gone(&self.ours.machine, why);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    async fn connect(&self, kept: &mut Kept) -> Result<(), Error> {
        self.engine.greet(LOOK).await?;
        let bridge = self.engine.get::<Value>("/networks/bridge", LOOK).await;
        let bridged = match bridge {
            Ok(_) => true,
            Err(error) if error.is(StatusCode::NOT_FOUND) => false,
            Err(error) => return Err(error),
        };
        let before = self.bridged.lock().unwrap_or_else(PoisonError::into_inner).replace(bridged);
        if !bridged && before != Some(false) {
            tracing::warn!(machine = %self.ours.machine, "this engine has no network `bridge`: its containers share the network of the host");
        }
        kept.reach(&self.machine);
        Ok(())
    }

    /// Looks until it cannot any more; returns why.
    async fn follow(&self, known: &mut HashMap<InstanceId, Known>, kept: &mut Kept) -> String {
        let mut asked = self.sights.asked();
        loop {
            let number = *asked.borrow_and_update();
            let looked = tokio::time::timeout(LOOK, self.look(known)).await;
            match looked.unwrap_or_else(|_| Err(Error::Away(format!("it does not answer within {} s", LOOK.as_secs()))))
            {
                Ok(instances) => {
                    kept.see(&instances);
                    self.sights.saw(&self.ours.machine, number, instances);
                }
                Err(error) => return error.to_string(),
            }
            let _ = tokio::time::timeout(CALM, asked.changed()).await;
        }
    }

    /// Everything of ours that the engine has, and what was asked for and is not there.
    async fn look(&self, known: &mut HashMap<InstanceId, Known>) -> Result<Vec<InstanceStatus>, Error> {
        // First what is written down, then what is there: who is started in between is in neither, or in both.
        let mut notes: HashMap<InstanceId, Note> = self.notes.present().into_iter().collect();
        let path = format!("/containers/json?all=true&filters={}", encoded(&self.ours.filter()));
        let listed: Vec<Listed> = self.engine.get(&path, LOOK).await?;
        let there = listed.iter().filter_map(|one| Some((one, one.who(&self.ours)?)));
        let there: Vec<(&Listed, Who)> = there.filter(|(_, who)| !self.is_forgotten(&who.id)).collect();
        known.retain(|id, _| there.iter().any(|(_, who)| who.id == *id));
        let looks = there.iter().map(|(one, who)| {
            let (note, before) = (notes.remove(&who.id), known.get(&who.id).cloned().unwrap_or_default());
            async move { self.look_at(one, who, note, before).await }
        });
        let mut all = Vec::new();
        for looked in join_all(looks).await {
            let (status, now_known) = looked?;
            known.insert(status.id.clone(), now_known);
            all.push(status);
        }
        for (id, note) in notes {
            all.extend(self.without_container(id, note));
        }
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    /// Its container is being removed, or could not be.
    fn is_forgotten(&self, id: &InstanceId) -> bool {
        self.notes.get(id).is_some_and(|note| note.forgotten)
    }

    /// One container.
    async fn look_at(
        &self,
        one: &Listed,
        who: &Who,
        note: Option<Note>,
        mut known: Known,
    ) -> Result<(InstanceStatus, Known), Error> {
        // One whose note is lost was started by us all the same: it is never started again.
        let started = (one.state != "created").then(now);
        let adopted = || Note { started, ..Note::asked(who.service.clone(), who.revision, who.generation) };
        let note = match note {
            Some(note) => note,
            None => self.write(&who.id, adopted, |_| {})?,
        };
        if let Some(exit) = note.exit.clone() {
            return Ok((self.status(&who.id, &note, InstanceState::Exited(exit), &known), known));
        }
        let state = match one.state.as_str() {
            "running" | "paused" | "restarting" | "removing" => self.running(one, who, &note, &mut known).await?,
            "created" => match note.started {
                Some(at) if now() - at > modelyard_core::Millis(START_LIMIT_MS) => {
                    let why = "the engine was told to start it, and did not";
                    InstanceState::Exited(self.ended(
                        &who.id,
                        &note,
                        Exit { start_error: Some(why.to_owned()), ..Exit::at(now()) },
                    )?)
                }
                _ => InstanceState::Starting,
            },
            _ => {
                let exit = self.inspect(&one.id).await?.state.exit(now(), note.stop.is_some());
                let exit = Exit { peak_memory_bytes: known.peak_bytes, ..exit };
                InstanceState::Exited(self.ended(&who.id, &note, exit)?)
            }
        };
        Ok((self.status(&who.id, &note, state, &known), known))
    }

    async fn running(&self, one: &Listed, who: &Who, note: &Note, known: &mut Known) -> Result<InstanceState, Error> {
        if let Some((asked, grace_ms)) = note.stop
            && now() - asked > modelyard_core::Millis(grace_ms.saturating_add(FORCE_MS))
        {
            let killed = self.engine.bytes(Method::POST, &format!("/containers/{}/kill", one.id), None, LOOK).await;
            let _ = killed.inspect_err(|error| tracing::warn!(instance = %who.id, %error, "a container does not end"));
        }
        let Some((address, probe)) = one.addresses(who) else { return Ok(InstanceState::Starting) };
        if !known.listens {
            let probed = async { if let Some(probe) = probe { listens(probe).await } else { true } };
            if !(listens(address).await && probed.await) {
                return Ok(InstanceState::Starting);
            }
            known.pid = Some(self.inspect(&one.id).await?.state.pid).filter(|pid| *pid > 0);
            known.listens = true;
        }
        if known.sampled.is_none_or(|at| at.elapsed() > SAMPLE) {
            let path = format!("/containers/{}/stats?stream=false&one-shot=true", one.id);
            // A container that ends meanwhile has none.
            let used = self.engine.get::<Value>(&path, LOOK).await.ok().and_then(|stats| memory_bytes(&stats));
            (known.memory_bytes, known.sampled) = (used, Some(Instant::now()));
            known.peak_bytes = known.peak_bytes.max(used);
        }
        Ok(InstanceState::Running { address, probe })
    }

    /// Somebody removed it, or it was not made yet.
    fn without_container(&self, id: InstanceId, note: Note) -> Option<InstanceStatus> {
        let exit = match (&note.exit, note.started) {
            (Some(exit), _) => exit.clone(),
            // It may have been made and started since the list was.
            (None, Some(at)) if now() - at > modelyard_core::Millis(2_000) => {
                tracing::warn!(instance = %id, "the container of an instance was removed by somebody else");
                self.ended(&id, &note, Exit { asked: note.stop.is_some(), ..Exit::at(now()) }).ok()?
            }
            (None, _) => return Some(self.status(&id, &note, InstanceState::Starting, &Known::default())),
        };
        Some(self.status(&id, &note, InstanceState::Exited(exit), &Known::default()))
    }

    fn write(&self, id: &InstanceId, new: impl FnOnce() -> Note, with: impl FnOnce(&mut Note)) -> Result<Note, Error> {
        self.notes
            .change(id, new, with)
            .map_err(|error| Error::Away(format!("its notes cannot be written here: {error}")))
    }

    /// Writes down how an instance ended; what was written first counts.
    fn ended(&self, id: &InstanceId, note: &Note, exit: Exit) -> Result<Exit, Error> {
        let Exit { code, signal, out_of_memory, asked, .. } = exit;
        tracing::info!(instance = %id, ?code, ?signal, out_of_memory, asked, "instance ended");
        let note =
            self.write(id, || note.clone(), |note| note.exit = Some(note.exit.take().unwrap_or(exit.clone())))?;
        Ok(note.exit.unwrap_or(exit))
    }

    fn status(&self, id: &InstanceId, note: &Note, state: InstanceState, known: &Known) -> InstanceStatus {
        let runs = matches!(state, InstanceState::Running { .. });
        InstanceStatus {
            id: id.clone(),
            service: note.service.clone(),
            revision: note.revision,
            state,
            started: note.started.unwrap_or(note.asked),
            pid: known.pid,
            memory_bytes: known.memory_bytes.filter(|_| runs),
            machine: Some(self.ours.machine.clone()),
            out_of_reach: None,
        }
    }
}

/// Whether somebody takes connections there. The engine's own proxy takes them for everybody, and closes at once those that lead nowhere.
async fn listens(address: SocketAddr) -> bool {
    let Ok(Ok(mut stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await else { return false };
    match tokio::time::timeout(HOLDS, stream.read(&mut [0])).await {
        Err(_) => true,
        Ok(read) => read.is_ok_and(|count| count > 0),
    }
}
