//! The event store: an append-only log in SQLite.
//!
//! Promises: a batch of events is written whole or not at all, and is on disk (`synchronous=FULL`) before the caller hears of it;
//! positions have no gaps; one control plane at a time holds a store (an exclusive lock beside it).
//! Absent on purpose: meaning. What events say of a service is folded in [`fold`].

pub mod chain;
pub mod fold;
mod log;
mod schema;
mod worker;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use modelyard_core::event::{Event, EventBody};
use modelyard_core::{Digest, ServiceName, Timestamp};
use rusqlite::Connection;

pub use chain::{Anchor, Walked};
pub use log::{Batch, Query};
use worker::Worker;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the store.
    #[error("another control plane holds `{}`", path.display())]
    Held {
        /// The store.
        path: PathBuf,
    },
    /// The store was written by a later build.
    #[error(
        "the store has schema {found}, and this build knows schemas up to {known}; use the newer `modelyard` that wrote it"
    )]
    Newer {
        /// Schema of the store.
        found: i64,
        /// Latest schema of this build.
        known: i64,
    },
    /// The store was written before events were chained.
    #[error("the events of the store are not chained yet: a control plane of this version does it when it starts")]
    Unchained,
    /// The file is no store of ours.
    #[error("the file holds another program's database; choose another MODELYARD_HOME, or move the file away")]
    Foreign,
    /// The file is damaged.
    #[error("the store is damaged ({why}); restore `{}` from a backup, or move it away to start with an empty log", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What the check found.
        why: String,
    },
    /// An event cannot be read.
    #[error("event {seq} cannot be read; it may be of a newer `modelyard`")]
    Unreadable {
        /// Its position.
        seq: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Something was written for the service since the caller looked.
    #[error("`{service}` moved on to event {found} while event {expected} was expected last")]
    Conflict {
        /// Service.
        service: ServiceName,
        /// Last position that the caller knew.
        expected: u64,
        /// Last position.
        found: u64,
    },
    /// An event contradicts the state that it is applied to.
    #[error("an event does not fit the state")]
    Fold(#[from] fold::FoldError),
    /// A file operation failed.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("the store failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The store was closed, or its thread died.
    #[error("the store is closed")]
    Closed,
}

/// The event store of one home. Reads and writes run on threads of their own.
#[derive(Debug)]
pub struct Store {
    writer: Worker,
    reader: Worker,
    // Dropped last: the lock outlives the connections.
    _lock: File,
}

impl Store {
    /// Opens or makes the store at `path`, migrates it, and holds it until dropped.
    ///
    /// # Errors
    /// [`Error::Held`] when another process holds it; [`Error::Newer`], [`Error::Foreign`], [`Error::Damaged`] as they say.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            let wrap = |source| Error::File { doing: "make the folder", path: folder.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(wrap)?;
        }
        let lock = hold(path)?;
        let mut connection = connect(path)?;
        check(&connection, path)?;
        schema::migrate(&mut connection, schema::LATEST)?;
        let reader = connect(path)?;
        Ok(Self {
            writer: Worker::start("store-writer", connection)?,
            reader: Worker::start("store-reader", reader)?,
            _lock: lock,
        })
    }

    /// Appends a batch in one transaction, then hands the written events to `then` on the writer's thread, before any later batch.
    ///
    /// `check` runs inside the transaction with the events as they will be; an error takes the whole batch back.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the batch expected another last position of its service.
    pub async fn append<T: Send + 'static>(
        &self,
        batch: Batch,
        check: impl FnOnce(&[Event]) -> Result<T, Error> + Send + 'static,
        then: impl FnOnce(&[Event], T) + Send + 'static,
    ) -> Result<Vec<Event>, Error> {
        self.writer
            .run(move |connection| {
                let (events, checked) = log::append(connection, &batch, check)?;
                then(&events, checked);
                Ok(events)
            })
            .await
    }

    /// Reads events, oldest first.
    ///
    /// # Errors
    /// [`Error::Unreadable`] at the first event that cannot be read.
    pub async fn read(&self, query: Query) -> Result<Vec<Event>, Error> {
        self.reader.run(move |connection| log::read(connection, &query)).await
    }

    /// Every event, oldest first, one at a time, and what its chain is like. Blocks; for the start only.
    ///
    /// # Errors
    /// The first error of reading or of `each`. A broken chain is none: it is told.
    pub fn replay(&self, each: impl FnMut(Event) -> Result<(), Error> + Send + 'static) -> Result<Walked, Error> {
        self.reader.run_blocking(move |connection| log::replay(connection, each))
    }

    /// Walks the chain over the whole log.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub async fn walk(&self, anchor: Option<Anchor>) -> Result<Walked, Error> {
        self.reader
            .run(move |connection| {
                let view = connection.transaction()?;
                chain::walk(&view, anchor)
            })
            .await
    }

    /// The link of the event at a position; none when there is none.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub async fn link(&self, seq: u64) -> Result<Option<Digest>, Error> {
        self.reader.run(move |connection| chain::kept(connection, seq)).await
    }

    /// Keeps a small document that may be lost without harm.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub async fn remember(&self, key: String, json: String) -> Result<(), Error> {
        self.writer.run(move |connection| log::remember(connection, &key, &json)).await
    }

    /// A document kept by [`Store::remember`].
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub async fn recall(&self, key: String) -> Result<Option<String>, Error> {
        self.writer.run(move |connection| log::recall(connection, &key)).await
    }

    /// Keeps the answer to an order under its idempotency key, and drops those from before `oldest`.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub async fn keep_answer(&self, answer: StoredAnswer, oldest: Timestamp) -> Result<(), Error> {
        self.writer.run(move |connection| log::keep_answer(connection, &answer, oldest)).await
    }

    /// The answer kept under an idempotency key.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub async fn answer(&self, key: String) -> Result<Option<StoredAnswer>, Error> {
        self.writer.run(move |connection| log::answer(connection, &key)).await
    }
}

/// The answer to an order that may be asked twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Idempotency key.
    pub key: String,
    /// Fingerprint of the request.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub json: String,
    /// When it was given.
    pub at: Timestamp,
}

/// The name of an event's kind, as its JSON has it.
pub fn kind_of(body: &EventBody) -> String {
    let value = serde_json::to_value(body).unwrap_or_default();
    value.get("event").and_then(|kind| kind.as_str()).unwrap_or("unknown").to_owned()
}

/// How long the lock of a control plane that is gone may still be held: a child that it had forked shares the lock until
/// it runs a program of its own.
const HANDOVER: Duration = Duration::from_secs(2);

fn hold(path: &Path) -> Result<File, Error> {
    let beside = path.with_extension("lock");
    let wrap = |doing| {
        let path = beside.clone();
        move |source| Error::File { doing, path, source }
    };
    let options = File::options().create(true).truncate(false).write(true).open(&beside);
    let file = options.map_err(wrap("open"))?;
    let deadline = Instant::now() + HANDOVER;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::Held { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(wrap("lock")(source)),
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let damaged = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            Error::Damaged { path: path.to_owned(), why: source.to_string() }
        }
        _ => Error::Sqlite(source),
    };
    connection.pragma_update(None, "journal_mode", "WAL").map_err(damaged)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<(), Error> {
    let damaged = |why: String| Error::Damaged { path: path.to_owned(), why };
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| damaged(error.to_string()))?;
    if found == "ok" { Ok(()) } else { Err(damaged(found)) }
}

#[cfg(test)]
mod tests;
