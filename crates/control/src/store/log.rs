//! Rows of the log: append with compare-and-set, read, replay.

use modelyard_core::event::{Actor, Event, EventBody};
use modelyard_core::{RolloutId, ServiceName, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, params};

use super::chain::{self, Link, Linked, Walked, Walker};
use super::{Error, StoredAnswer, kind_of};

/// Events that are written together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// When they happened.
    pub at: Timestamp,
    /// Service that they concern.
    pub service: Option<ServiceName>,
    /// Rollout that they belong to.
    pub rollout: Option<RolloutId>,
    /// Who did it.
    pub actor: Actor,
    /// The last position of the service that the caller acted on; the batch is refused when there is a later one.
    pub expect: Option<u64>,
    /// What happened, in order.
    pub bodies: Vec<EventBody>,
}

impl Batch {
    /// A batch of the controller for one service.
    pub fn of(service: &ServiceName, at: Timestamp, bodies: Vec<EventBody>) -> Self {
        Self { at, service: Some(service.clone()), rollout: None, actor: Actor::Controller, expect: None, bodies }
    }
}

/// Which events to read.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only those of this service.
    pub service: Option<ServiceName>,
    /// Only those of this rollout.
    pub rollout: Option<RolloutId>,
    /// Only those after this position.
    pub after: u64,
    /// Only those up to this position; none for no end.
    pub until: Option<u64>,
    /// Only those up to this moment, itself included.
    pub by: Option<Timestamp>,
    /// Only those of these kinds; all when empty.
    pub kinds: &'static [&'static str],
    /// At most so many; none for all.
    pub limit: Option<u32>,
}

/// Appends a batch in one transaction; see [`super::Store::append`].
pub fn append<T>(
    connection: &mut Connection,
    batch: &Batch,
    check: impl FnOnce(&[Event]) -> Result<T, Error>,
) -> Result<(Vec<Event>, T), Error> {
    let durable =
        batch.bodies.iter().any(|body| !matches!(body, EventBody::Measured { .. } | EventBody::EvidenceSeen { .. }));
    // Figures alone may be lost with the power; everything that an action follows from may not.
    connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    expect_last(&transaction, batch)?;
    let last: u64 = transaction.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
    let events: Vec<Event> = (last + 1..).zip(&batch.bodies).map(|(seq, body)| event(batch, seq, body)).collect();
    let checked = check(&events)?;
    let mut link = chain::last_link(&transaction)?;
    for event in &events {
        link = insert(&transaction, event, &link)?;
    }
    if let Some(last) = events.last() {
        chain::keep_head(&transaction, last.seq, &link)?;
    }
    transaction.commit()?;
    Ok((events, checked))
}

fn event(batch: &Batch, seq: u64, body: &EventBody) -> Event {
    Event {
        seq,
        at: batch.at,
        service: batch.service.clone(),
        rollout: batch.rollout.clone(),
        actor: batch.actor.clone(),
        body: body.clone(),
    }
}

fn expect_last(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), Error> {
    let (Some(service), Some(expected)) = (&batch.service, batch.expect) else { return Ok(()) };
    let sql = "SELECT coalesce(max(seq), 0) FROM events WHERE service = ?1";
    let found: u64 = transaction.query_row(sql, [service.as_str()], |row| row.get(0))?;
    if found == expected { Ok(()) } else { Err(Error::Conflict { service: service.clone(), expected, found }) }
}

/// Writes an event after the link of the one before; returns its own.
fn insert(transaction: &Transaction<'_>, event: &Event, before: &Link) -> Result<Link, Error> {
    let json = serde_json::to_string(event).map_err(|source| Error::Unreadable { seq: event.seq, source })?;
    let sql = "INSERT INTO events (seq, at, service, rollout, kind, json, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let service = event.service.as_ref().map(ServiceName::as_str);
    let rollout = event.rollout.as_ref().map(RolloutId::as_str);
    let kind = kind_of(&event.body);
    let texts = [service, rollout, Some(&kind), Some(&json)];
    let link = chain::link(before, &Linked { seq: event.seq, at: event.at.0, texts });
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute(params![event.seq, event.at.0, service, rollout, kind, json, link])?;
    Ok(link)
}

/// Reads events, oldest first.
pub fn read(connection: &Connection, query: &Query) -> Result<Vec<Event>, Error> {
    let mut sql = "SELECT seq, json FROM events WHERE seq > ?1".to_owned();
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(query.after)];
    for (column, value) in [
        ("service", query.service.as_ref().map(ServiceName::as_str)),
        ("rollout", query.rollout.as_ref().map(RolloutId::as_str)),
    ] {
        let Some(value) = value else { continue };
        values.push(Box::new(value.to_owned()));
        sql.push_str(&format!(" AND {column} = ?{}", values.len()));
    }
    if let Some(until) = query.until {
        values.push(Box::new(until));
        sql.push_str(&format!(" AND seq <= ?{}", values.len()));
    }
    if let Some(by) = query.by {
        values.push(Box::new(by.0));
        sql.push_str(&format!(" AND at <= ?{}", values.len()));
    }
    if !query.kinds.is_empty() {
        let kinds = query.kinds.iter().map(|kind| format!("'{kind}'")).collect::<Vec<_>>().join(", ");
        sql.push_str(&format!(" AND kind IN ({kinds})"));
    }
    sql.push_str(" ORDER BY seq");
    if let Some(limit) = query.limit {
        sql.push_str(&format!(" LIMIT {limit}"));
    }
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), position_and_json)?;
    rows.map(|row| parse(row?)).collect()
}

/// Hands every event to `each`, oldest first, and walks along their chain on the way.
pub fn replay(connection: &mut Connection, mut each: impl FnMut(Event) -> Result<(), Error>) -> Result<Walked, Error> {
    let view = connection.transaction()?;
    let mut walker = Walker::new(None);
    {
        let mut statement = view.prepare(&format!("SELECT {} FROM events ORDER BY seq", chain::COLUMNS))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(parse(chain::pass_row(&mut walker, row)?)?)?;
        }
    }
    Ok(walker.end(chain::head(&view)?))
}

fn position_and_json(row: &Row<'_>) -> rusqlite::Result<(u64, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn parse((seq, json): (u64, String)) -> Result<Event, Error> {
    serde_json::from_str(&json).map_err(|source| Error::Unreadable { seq, source })
}

/// See [`super::Store::remember`].
pub fn remember(connection: &Connection, key: &str, json: &str) -> Result<(), Error> {
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let sql = "INSERT INTO memory VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET json = excluded.json";
    connection.prepare_cached(sql)?.execute([key, json])?;
    Ok(())
}

/// See [`super::Store::recall`].
pub fn recall(connection: &Connection, key: &str) -> Result<Option<String>, Error> {
    Ok(connection.query_row("SELECT json FROM memory WHERE key = ?1", [key], |row| row.get(0)).optional()?)
}

/// See [`super::Store::keep_answer`].
pub fn keep_answer(connection: &Connection, answer: &StoredAnswer, oldest: Timestamp) -> Result<(), Error> {
    connection.execute("DELETE FROM answers WHERE at < ?1", [oldest.0])?;
    let sql = "INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (key) DO NOTHING";
    connection.execute(sql, params![answer.key, answer.request, answer.status, answer.json, answer.at.0])?;
    Ok(())
}

/// See [`super::Store::answer`].
pub fn answer(connection: &Connection, key: &str) -> Result<Option<StoredAnswer>, Error> {
    let sql = "SELECT request, status, json, at FROM answers WHERE key = ?1";
    let read = |row: &Row<'_>| {
        Ok(StoredAnswer {
            key: key.to_owned(),
            request: row.get(0)?,
            status: row.get(1)?,
            json: row.get(2)?,
            at: Timestamp(row.get(3)?),
        })
    };
    Ok(connection.query_row(sql, [key], read).optional()?)
}
