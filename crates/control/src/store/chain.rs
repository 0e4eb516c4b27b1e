//! The chain over the log: every event carries a hash of itself and of the event before.
//!
//! Promises: whoever changes, removes, inserts or swaps rows afterwards breaks the chain at the first of them, and the last row cannot
//! vanish unnoticed either: its place is kept beside the log. Whoever wrote down a position and its hash notices a rewritten chain too.
//! Absent on purpose: secrecy and signatures. Who may write the file can compute a whole new chain; only an anchor kept elsewhere tells.
//!
//! A link is the SHA-256 of: the link before (32 zero bytes before the first), `seq` and `at` as 8 bytes each, big-endian, then `service`,
//! `rollout`, `kind` and `json`, each as one byte (0 absent, 1 present) and, if present, its length as 8 bytes and its UTF-8 bytes.

use std::path::Path;

use modelyard_core::Digest;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Error, schema};

/// Hash of an event and of everything before it.
pub type Link = [u8; 32];

/// The end of the log as it is kept beside it: position and link.
pub type Head = (u64, Vec<u8>);

/// What stands before the first event.
const NOTHING: Link = [0; 32];

/// What an event's link is made of, as the row has it.
pub struct Linked<'a> {
    /// Position.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Service, rollout, kind, JSON.
    pub texts: [Option<&'a str>; 4],
}

/// The link of an event after `before`.
pub fn link(before: &Link, event: &Linked<'_>) -> Link {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(event.seq.to_be_bytes());
    hash.update(event.at.to_be_bytes());
    for text in event.texts {
        hash.update([u8::from(text.is_some())]);
        if let Some(text) = text {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
    hash.finalize().into()
}

/// What a walk along the chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Walked {
    /// Events that fit, from the first on.
    pub events: u64,
    /// Link of the last that fits; none of an empty log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Digest>,
    /// The first event that does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Break>,
}

/// The first event that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// Its position.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

/// A position and its link, written down earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Position.
    pub seq: u64,
    /// Link.
    pub link: Digest,
}

/// A walk that is given one row after the other.
pub struct Walker {
    last: u64,
    link: Link,
    anchor: Option<Anchor>,
    broken: Option<Break>,
}

impl Walker {
    /// A walk from the first event on.
    pub fn new(anchor: Option<Anchor>) -> Self {
        Self { last: 0, link: NOTHING, anchor, broken: None }
    }

    /// The next row, oldest first.
    pub fn pass(&mut self, event: &Linked<'_>, kept: Option<&[u8]>) {
        if self.broken.is_some() {
            return;
        }
        let wanted = self.last + 1;
        let link = link(&self.link, event);
        let wrong = if event.seq != wanted {
            Some((wanted, format!("event {wanted} is missing: event {} follows event {}", event.seq, self.last)))
        } else if kept.is_none_or(<[u8]>::is_empty) {
            Some((event.seq, "it carries no hash: it was not written by Modelyard".to_owned()))
        } else if kept != Some(&link[..]) {
            Some((
                event.seq,
                "its hash does not fit its contents and the event before: it was changed, or moved".to_owned(),
            ))
        } else if self.anchor.is_some_and(|anchor| anchor.seq == event.seq && anchor.link != Digest::from_sha256(link))
        {
            Some((
                event.seq,
                "its hash is not the one that was written down: the log up to here was rewritten".to_owned(),
            ))
        } else {
            None
        };
        match wrong {
            Some((seq, why)) => self.broken = Some(Break { seq, why }),
            None => (self.last, self.link) = (event.seq, link),
        }
    }

    /// The end; `head` is the last position as it is kept beside the log.
    pub fn end(mut self, head: Option<Head>) -> Walked {
        if self.broken.is_none() {
            self.broken = self.wrong_end(head);
        }
        let head = (self.last > 0).then(|| Digest::from_sha256(self.link));
        Walked { events: self.last, head, broken: self.broken }
    }

    fn wrong_end(&self, head: Option<Head>) -> Option<Break> {
        let next = self.last + 1;
        let (seq, link) = head.unwrap_or((0, NOTHING.to_vec()));
        if seq > self.last {
            return Some(Break { seq: next, why: format!("event {next} is missing: the log went on to event {seq}") });
        }
        if seq < self.last {
            let why = format!("it was added behind the back of the log, which ends at event {seq}");
            return Some(Break { seq: seq + 1, why });
        }
        if self.last > 0 && link != self.link {
            return Some(Break { seq, why: "the end that is kept beside the log has another hash".to_owned() });
        }
        let lost = self.anchor.filter(|anchor| anchor.seq > self.last);
        lost.map(|anchor| Break {
            seq: next,
            why: format!("event {next} is missing: event {} was written down", anchor.seq),
        })
    }
}

/// Columns that [`pass_row`] reads.
pub const COLUMNS: &str = "seq, at, service, rollout, kind, json, hash";

/// Hands a row of [`COLUMNS`] to the walk; returns its position and JSON.
pub fn pass_row(walker: &mut Walker, row: &Row<'_>) -> rusqlite::Result<(u64, String)> {
    let (seq, at): (u64, u64) = (row.get(0)?, row.get(1)?);
    let (service, rollout): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
    let (kind, json): (String, String) = (row.get(4)?, row.get(5)?);
    let kept: Option<Vec<u8>> = row.get(6)?;
    let texts = [service.as_deref(), rollout.as_deref(), Some(&kind), Some(&json)];
    walker.pass(&Linked { seq, at, texts }, kept.as_deref());
    Ok((seq, json))
}

/// The end of the log as it is kept beside it.
pub fn head(connection: &Connection) -> Result<Option<Head>, Error> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(connection.query_row("SELECT seq, hash FROM chain", [], read).optional()?)
}

/// Keeps the end of the log.
pub fn keep_head(transaction: &Transaction<'_>, seq: u64, link: &Link) -> Result<(), Error> {
    let sql = "INSERT INTO chain VALUES (0, ?1, ?2) ON CONFLICT (id) DO UPDATE SET seq = ?1, hash = ?2";
    transaction.prepare_cached(sql)?.execute(rusqlite::params![seq, link])?;
    Ok(())
}

/// The link that the next event follows, whatever became of the row: a break stays where it is.
pub fn last_link(transaction: &Transaction<'_>) -> Result<Link, Error> {
    let kept = head(transaction)?.and_then(|(_, link)| Link::try_from(link).ok());
    Ok(kept.unwrap_or(NOTHING))
}

/// The link of the event at a position, as the row has it.
pub fn kept(connection: &Connection, seq: u64) -> Result<Option<Digest>, Error> {
    let sql = "SELECT hash FROM events WHERE seq = ?1";
    let found: Option<Vec<u8>> = connection.query_row(sql, [seq], |row| row.get(0)).optional()?;
    Ok(found.and_then(|link| Link::try_from(link).ok()).map(Digest::from_sha256))
}

/// Walks the whole chain.
///
/// # Errors
/// [`Error::Sqlite`] when the log cannot be read.
pub fn walk(connection: &Connection, anchor: Option<Anchor>) -> Result<Walked, Error> {
    let mut walker = Walker::new(anchor);
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM events ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        pass_row(&mut walker, row)?;
    }
    Ok(walker.end(head(connection)?))
}

/// Walks the chain of the store at `path`, which a control plane may be using.
///
/// # Errors
/// [`Error::Unchained`] when it is of an older build, [`Error::Newer`] when it is of a later one, [`Error::Sqlite`] when there is none.
pub fn walk_file(path: &Path, anchor: Option<Anchor>) -> Result<Walked, Error> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        found if found > schema::LATEST => Err(Error::Newer { found, known: schema::LATEST }),
        found if found < schema::CHAINED => Err(Error::Unchained),
        _ => {
            // One view of the log and of its end, whatever is written meanwhile.
            let view = connection.unchecked_transaction()?;
            walk(&view, anchor)
        }
    }
}

/// Links every event of a log that has no chain yet.
pub fn link_all(transaction: &Transaction<'_>) -> Result<(), Error> {
    let (mut last, mut before) = (0, NOTHING);
    {
        let mut read = transaction.prepare("SELECT seq, at, service, rollout, kind, json FROM events ORDER BY seq")?;
        let mut write = transaction.prepare("UPDATE events SET hash = ?2 WHERE seq = ?1")?;
        let mut rows = read.query([])?;
        while let Some(row) = rows.next()? {
            let (seq, at): (u64, u64) = (row.get(0)?, row.get(1)?);
            let (service, rollout): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
            let (kind, json): (String, String) = (row.get(4)?, row.get(5)?);
            let texts = [service.as_deref(), rollout.as_deref(), Some(&kind), Some(&json)];
            before = link(&before, &Linked { seq, at, texts });
            write.execute(rusqlite::params![seq, before])?;
            last = seq;
        }
    }
    if last > 0 { keep_head(transaction, last, &before) } else { Ok(()) }
}
