//! The thread that follows the spool, and does what it is asked in between.
//!
//! Promises: one transaction per segment; the segment is removed after it. A file that cannot be written keeps its segments: they are tried again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_core::evidence::Evidence;
use modelyard_core::feedback::Feedback;
use modelyard_core::mirror::Told;
use modelyard_core::ports::Clock;
use modelyard_core::{RevisionNumber, ServiceName, Timestamp};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::aside::Aside;
use super::schema::{Rows, clear};
use super::sums::{self, Sums};
use super::take::{Became, Room, Taking};
use super::{Counts, Error, Following, Known, Places, Receipt, folder};
use crate::http_client::chain;

/// How often the spool is looked at: a segment is complete after a second.
const LOOK: Duration = Duration::from_millis(250);
/// Pause after the file could not be written.
const TROUBLE: Duration = Duration::from_secs(2);
/// Longest line: two bodies of 4 MiB each as base64, and some.
const LINE: usize = 12 << 20;
/// How often too old rows are looked for.
const CLEAR_MS: u64 = 60_000;

/// What the thread is asked.
pub enum Command {
    Follow { service: ServiceName, following: Option<Arc<Following>> },
    Feedback { service: ServiceName, items: Vec<Feedback>, reply: oneshot::Sender<Result<Receipt, Error>> },
    Value { service: ServiceName, scope: String, revision: RevisionNumber, metric: String, value: f64 },
    Past { service: ServiceName, scope: String, reply: oneshot::Sender<Result<Option<Evidence>, Error>> },
}

/// The thread's state.
pub struct Reader {
    connection: Connection,
    places: Places,
    clock: Arc<dyn Clock>,
    rooms: BTreeMap<ServiceName, Room>,
    aside: Aside,
    known: Known,
    counts: Arc<Counts>,
    cleared: Timestamp,
}

impl Reader {
    /// A reader that follows nothing yet.
    pub fn new(
        connection: Connection,
        places: Places,
        clock: Arc<dyn Clock>,
        aside: Aside,
        known: Known,
        counts: Arc<Counts>,
    ) -> Self {
        Self { connection, places, clock, rooms: BTreeMap::new(), aside, known, counts, cleared: Timestamp(0) }
    }

    /// Runs until nobody can ask any more.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let mut pause = LOOK;
        loop {
            match commands.recv_timeout(pause) {
                Ok(command) => {
                    self.obey(command);
                    // Commands come in bursts; segments can wait for their end.
                    commands.try_iter().for_each(|command| self.obey(command));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.aside.captures.turn(self.clock.now());
            pause = match self.read_spool().and_then(|()| self.clear()) {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::error!(error = %chain(&error), "evidence cannot be kept; tried again in two seconds");
                    TROUBLE
                }
            };
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Follow { service, following } => {
                if let Err(error) = self.follow(&service, following) {
                    tracing::error!(%service, error = %chain(&error), "evidence cannot be read");
                }
            }
            Command::Feedback { service, items, reply } => drop(reply.send(self.feedback(&service, &items))),
            Command::Past { service, scope, reply } => drop(reply.send(self.past(&service, &scope))),
            Command::Value { service, scope, revision, metric, value } => {
                if let Err(error) = self.value(&service, &scope, revision, &metric, value) {
                    tracing::error!(%service, error = %chain(&error), "a metric's value cannot be kept");
                }
            }
        }
    }

    pub(super) fn follow(&mut self, service: &ServiceName, following: Option<Arc<Following>>) -> Result<(), Error> {
        self.aside.follow(service, following.as_deref(), self.clock.now());
        let Some(following) = following else {
            self.rooms.remove(service);
            self.published().remove(service);
            // Nobody asks any more what it answered.
            for segment in segments(&folder(&self.places.spool, service)) {
                let _ = fs::remove_file(segment);
            }
            return Ok(());
        };
        if let Some(room) = self.rooms.get_mut(service).filter(|room| room.following.scope == following.scope) {
            room.following = following;
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        let rows = Rows { transaction: &transaction, service: service.as_str() };
        let sums = rows.sums(&following.scope)?.unwrap_or_default();
        let orphans = rows.orphans()?;
        drop(transaction);
        self.rooms.insert(service.clone(), Room { following, sums, orphans });
        self.publish(service);
        Ok(())
    }

    pub(super) fn feedback(&mut self, service: &ServiceName, items: &[Feedback]) -> Result<Receipt, Error> {
        let now = self.clock.now();
        let counts = Arc::clone(&self.counts);
        let (joined, orphaned) = self.within(service, |taking| {
            let mut became = (0, 0);
            for item in items {
                match taking.feedback(&item.id, now, &item.body)? {
                    Became::Orphaned => became.1 += 1,
                    _ => became.0 += 1,
                }
            }
            Ok(became)
        })?;
        self.aside.captures.feedback(service, items, now);
        Counts::add(&counts.orphaned, orphaned);
        Ok(Receipt { accepted: items.len() as u64, joined, orphaned })
    }

    pub(super) fn value(
        &mut self,
        service: &ServiceName,
        scope: &str,
        revision: RevisionNumber,
        metric: &str,
        value: f64,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let Some(room) = self.rooms.get_mut(service).filter(|room| room.following.scope == scope) else {
            return Ok(());
        };
        let following = Arc::clone(&room.following);
        let (Some(since), Some(metric)) = (following.since, following.metrics.iter().find(|m| m.name == metric)) else {
            return Ok(());
        };
        if !following.counts(now) || !value.is_finite() {
            return Ok(());
        }
        let after_ms = sums::after(now, since);
        room.sums.add(sums::Value { metric, unit: following.unit, revision, after_ms, value }, None);
        self.within(service, |_| Ok(()))
    }

    fn past(&mut self, service: &ServiceName, scope: &str) -> Result<Option<Evidence>, Error> {
        let transaction = self.connection.transaction()?;
        let rows = Rows { transaction: &transaction, service: service.as_str() };
        Ok(rows.sums(scope)?.map(|sums| sums.evidence()))
    }

    pub(super) fn read_spool(&mut self) -> Result<(), Error> {
        let services: Vec<ServiceName> = self.rooms.keys().cloned().collect();
        services.iter().try_for_each(|service| self.read_service(service))
    }

    fn read_service(&mut self, service: &ServiceName) -> Result<(), Error> {
        if !self.rooms.contains_key(service) {
            return Ok(());
        }
        for segment in segments(&folder(&self.places.spool, service)) {
            if !has_settled(&segment, self.places.settle) {
                // Those after it are younger.
                return Ok(());
            }
            self.read_segment(service, &segment)?;
            if let Err(error) = fs::remove_file(&segment) {
                tracing::error!(segment = %segment.display(), %error, "a segment that was read cannot be removed");
            }
        }
        Ok(())
    }

    #[tracing::instrument(name = "evidence.segment", level = "trace", skip_all, fields(%service))]
    fn read_segment(&mut self, service: &ServiceName, segment: &Path) -> Result<(), Error> {
        let file = match File::open(segment) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(segment = %segment.display(), %error, "a segment cannot be opened");
                return Ok(());
            }
        };
        let lines: Vec<Option<Told>> = Lines(BufReader::new(file))
            .map(|line| line.and_then(|line| serde_json::from_slice::<Told>(&line).ok()))
            .collect();
        let skipped = lines.iter().filter(|told| told.is_none()).count() as u64;
        let told: Vec<Told> = lines.into_iter().flatten().collect();
        let (mut is_new, mut repeated, mut orphaned) = (Vec::with_capacity(told.len()), 0, 0);
        self.within(service, |taking| {
            for told in &told {
                let became = match told {
                    Told::Answer(answer) => taking.answer(answer, decoded(answer.response.as_ref()).as_deref())?,
                    Told::Feedback(feedback) => {
                        taking.feedback(&feedback.id, Timestamp(feedback.at_ms), &feedback.body)?
                    }
                };
                is_new.push(became == Became::New);
                repeated += u64::from(became == Became::Repeated);
                orphaned += u64::from(became == Became::Orphaned);
            }
            Ok(())
        })?;
        let name = segment.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
        self.aside.take(service, &name, &told, &is_new, self.clock.now());
        // The evidence that was published is that of the transaction; what was seen beside it comes after.
        self.publish(service);
        let counts = &self.counts;
        for (counter, by) in [
            (&counts.read, told.len() as u64),
            (&counts.repeated, repeated),
            (&counts.skipped, skipped),
            (&counts.orphaned, orphaned),
        ] {
            Counts::add(counter, by);
        }
        Ok(())
    }

    /// One transaction over one service; whatever fails, sums and rows stay together.
    fn within<T>(
        &mut self,
        service: &ServiceName,
        work: impl FnOnce(&mut Taking<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let now = self.clock.now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Feedback of a service that is not followed (any more) may wait all the same.
        let fallback = || Room { following: Arc::default(), sums: Sums::default(), orphans: 0 };
        let mut room = self.rooms.get(service).cloned().unwrap_or_else(fallback);
        let rows = Rows { transaction: &transaction, service: service.as_str() };
        let mut taking = Taking::new(rows, &mut room);
        let done = work(&mut taking)?;
        let joined = taking.finish(now)?;
        transaction.commit()?;
        if let Some(known) = self.rooms.get_mut(service) {
            *known = room;
        }
        Counts::add(&self.counts.joined, joined);
        self.publish(service);
        Ok(done)
    }

    fn publish(&self, service: &ServiceName) {
        let Some(room) = self.rooms.get(service) else { return };
        let drift = self.aside.drift(service, self.clock.now());
        let evidence = Evidence { orphaned_feedback: room.orphans, drift, ..room.sums.evidence() };
        self.published().insert(service.clone(), Arc::new(evidence));
    }

    fn published(&self) -> std::sync::MutexGuard<'_, HashMap<ServiceName, Arc<Evidence>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&mut self) -> Result<(), Error> {
        let now = self.clock.now();
        if now - self.cleared < modelyard_core::Millis(CLEAR_MS) {
            return Ok(());
        }
        if clear(&mut self.connection, self.places.retention, now)? {
            // There may be more; the next look goes on.
            let transaction = self.connection.transaction()?;
            for (service, room) in &mut self.rooms {
                room.orphans = Rows { transaction: &transaction, service: service.as_str() }.orphans()?;
            }
            return Ok(());
        }
        self.cleared = now;
        Ok(())
    }
}

/// A body, decoded.
pub fn decoded(body: Option<&String>) -> Option<Vec<u8>> {
    STANDARD.decode(body?).ok()
}

/// Whether a segment has lain for a while. A clock that was set back makes no segment wait for ever.
fn has_settled(segment: &Path, settle: Duration) -> bool {
    let written = fs::metadata(segment).and_then(|data| data.modified());
    written.ok().and_then(|written| written.elapsed().ok()).is_none_or(|age| age >= settle)
}

/// Complete segments, oldest first.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let complete = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
    let mut segments: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(complete).collect();
    segments.sort_unstable();
    segments
}

/// Lines of bounded length; `None` for one that is longer, or cannot be read. Empty lines are none.
struct Lines<R>(R);

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Option<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = Vec::new();
            match io::Read::take(&mut self.0, LINE as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) if line.len() == LINE && line.last() != Some(&b'\n') => {
                    let _ = self.0.skip_until(b'\n');
                    return Some(None);
                }
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some(Some(line)),
            }
        }
    }
}
