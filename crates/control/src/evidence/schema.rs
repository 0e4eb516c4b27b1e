//! The evidence file: its schema, and rows as values.
//!
//! Promises: a file of a newer build, or of another program, is refused untouched; migrations run in one transaction.

use std::collections::BTreeMap;
use std::path::Path;

use modelyard_core::{RevisionNumber, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};

use super::Error;
use super::sums::{Pair, Sums};

/// Marks the file as ours (`application_id`): the letters `MODE`.
const APPLICATION_ID: i64 = 0x4D4F_4445;

/// Every change, oldest first. Never edit one that was released: add another.
const MIGRATIONS: [&str; 1] = ["CREATE TABLE answers (
         service TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL, at INTEGER NOT NULL, scope TEXT NOT NULL, shadow INTEGER NOT NULL,
         unit TEXT, status INTEGER NOT NULL, micros INTEGER NOT NULL,
         predictions TEXT NOT NULL, scores TEXT NOT NULL, excluded INTEGER NOT NULL,
         PRIMARY KEY (service, id, revision)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX answers_by_time ON answers (at);
     CREATE INDEX answers_by_unit ON answers (service, scope, unit) WHERE unit IS NOT NULL;
     CREATE TABLE feedback (
         service TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, at INTEGER NOT NULL, joined INTEGER NOT NULL,
         PRIMARY KEY (service, id, body)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX feedback_by_time ON feedback (at);
     CREATE INDEX feedback_waiting ON feedback (service) WHERE joined = 0;
     CREATE TABLE units (
         service TEXT NOT NULL, scope TEXT NOT NULL, unit TEXT NOT NULL, at INTEGER NOT NULL,
         revision INTEGER NOT NULL, excluded INTEGER NOT NULL, pairs TEXT NOT NULL,
         PRIMARY KEY (service, scope, unit)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX units_by_time ON units (at);
     CREATE TABLE scopes (
         service TEXT NOT NULL, scope TEXT NOT NULL, at INTEGER NOT NULL, sums TEXT NOT NULL,
         PRIMARY KEY (service, scope)
     ) STRICT, WITHOUT ROWID;"];

/// Opens or makes the file.
///
/// # Errors
/// [`Error::Newer`], [`Error::Foreign`], or SQLite's.
pub fn open(path: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A segment of the spool is removed once its transaction is on disk, so that must be true of a power cut too.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 16 MiB: request ids fall anywhere in the index, and a small cache would read and write each page again and again.
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let id: i64 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if id != APPLICATION_ID && !(id == 0 && tables == 0) {
        return Err(Error::Foreign);
    }
    let known = MIGRATIONS.len();
    let done = usize::try_from(found).ok().filter(|&done| done <= known).ok_or(Error::Newer { found })?;
    MIGRATIONS[done..].iter().try_for_each(|change| transaction.execute_batch(change))?;
    transaction.pragma_update(None, "user_version", known as i64)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(transaction.commit()?)
}

/// An answer as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRow {
    pub id: String,
    pub revision: RevisionNumber,
    pub at: Timestamp,
    /// The rollout in which it counts; empty when in none.
    pub scope: String,
    pub shadow: bool,
    pub unit: Option<String>,
    pub status: u16,
    pub micros: u64,
    /// What later labels are compared with, by metric.
    pub predictions: Map<String, Value>,
    /// What it counts for, by metric.
    pub scores: BTreeMap<String, f64>,
    pub excluded: bool,
}

/// A session as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitRow {
    pub revision: RevisionNumber,
    pub excluded: bool,
    pub at: Timestamp,
    /// Sum and number of its values, by metric.
    pub pairs: BTreeMap<String, Pair>,
}

const ANSWER: &str = "id, revision, at, scope, shadow, unit, status, micros, predictions, scores, excluded";

fn read_answer(row: &Row<'_>) -> rusqlite::Result<AnswerRow> {
    Ok(AnswerRow {
        id: row.get(0)?,
        revision: RevisionNumber(row.get(1)?),
        at: Timestamp(row.get(2)?),
        scope: row.get(3)?,
        shadow: row.get(4)?,
        unit: row.get(5)?,
        status: row.get(6)?,
        micros: row.get(7)?,
        predictions: from_json(&row.get::<_, String>(8)?),
        scores: from_json(&row.get::<_, String>(9)?),
        excluded: row.get(10)?,
    })
}

fn from_json<T: serde::de::DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("maps by text and plain numbers: {error}"))
}

/// One transaction's reads and writes for one service.
pub struct Rows<'a> {
    pub transaction: &'a Transaction<'a>,
    pub service: &'a str,
}

impl Rows<'_> {
    /// The answers with an id, one per arm that gave one.
    pub fn answers(&self, id: &str) -> Result<Vec<AnswerRow>, Error> {
        let sql = format!("SELECT {ANSWER} FROM answers WHERE service = ?1 AND id = ?2");
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let rows = statement.query_map(params![self.service, id], read_answer)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The answers of a session.
    pub fn answers_of_unit(&self, scope: &str, unit: &str) -> Result<Vec<AnswerRow>, Error> {
        let sql = format!("SELECT {ANSWER} FROM answers WHERE service = ?1 AND scope = ?2 AND unit = ?3");
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let rows = statement.query_map(params![self.service, scope, unit], read_answer)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps what a known answer counts for.
    pub fn update_answer(&self, row: &AnswerRow) -> Result<(), Error> {
        let sql = "UPDATE answers SET scores = ?4, excluded = ?5 WHERE service = ?1 AND id = ?2 AND revision = ?3";
        let row = params![self.service, row.id, row.revision.0, to_json(&row.scores), row.excluded];
        self.transaction.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    /// Keeps a new answer.
    pub fn put_answer(&self, row: &AnswerRow) -> Result<(), Error> {
        let sql = "INSERT INTO answers (service, id, revision, at, scope, shadow, unit, status, micros, predictions, scores, excluded)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        self.transaction.prepare_cached(sql)?.execute(params![
            self.service,
            row.id,
            row.revision.0,
            row.at.0,
            row.scope,
            row.shadow,
            row.unit,
            row.status,
            row.micros,
            to_json(&row.predictions),
            to_json(&row.scores),
            row.excluded,
        ])?;
        Ok(())
    }

    /// Keeps feedback: a shadow's answer may come after it has joined another's. Whether it is new.
    pub fn put_feedback(&self, id: &str, at: Timestamp, body: &Value, joined: bool) -> Result<bool, Error> {
        let sql = "INSERT OR IGNORE INTO feedback (service, id, body, at, joined) VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = params![self.service, id, body.to_string(), at.0, joined];
        Ok(self.transaction.prepare_cached(sql)?.execute(row)? > 0)
    }

    /// What was posted of an answer, oldest first.
    pub fn feedback(&self, id: &str) -> Result<Vec<Value>, Error> {
        let sql = "SELECT body FROM feedback WHERE service = ?1 AND id = ?2 ORDER BY at, body";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let rows = statement.query_map(params![self.service, id], |row| row.get::<_, String>(0))?;
        let texts: Vec<String> = rows.collect::<Result<_, _>>()?;
        Ok(texts.iter().map(|text| from_json(text)).collect())
    }

    /// The answer is there now; how much feedback had waited for it.
    pub fn join_feedback(&self, id: &str) -> Result<u64, Error> {
        let sql = "UPDATE feedback SET joined = 1 WHERE service = ?1 AND id = ?2 AND joined = 0";
        Ok(self.transaction.prepare_cached(sql)?.execute(params![self.service, id])? as u64)
    }

    /// How much feedback waits for its answer.
    pub fn orphans(&self) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM feedback WHERE service = ?1 AND joined = 0";
        Ok(self.transaction.prepare_cached(sql)?.query_row([self.service], |row| row.get(0))?)
    }

    /// A session, if it was met before.
    pub fn unit(&self, scope: &str, unit: &str) -> Result<Option<UnitRow>, Error> {
        let sql = "SELECT revision, excluded, at, pairs FROM units WHERE service = ?1 AND scope = ?2 AND unit = ?3";
        let read = |row: &Row<'_>| {
            Ok(UnitRow {
                revision: RevisionNumber(row.get(0)?),
                excluded: row.get(1)?,
                at: Timestamp(row.get(2)?),
                pairs: from_json(&row.get::<_, String>(3)?),
            })
        };
        let mut statement = self.transaction.prepare_cached(sql)?;
        Ok(statement.query_row(params![self.service, scope, unit], read).optional()?)
    }

    /// Keeps a session, new or changed.
    pub fn put_unit(&self, scope: &str, unit: &str, row: &UnitRow) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO units (service, scope, unit, at, revision, excluded, pairs) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let pairs = to_json(&row.pairs);
        self.transaction.prepare_cached(sql)?.execute(params![
            self.service,
            scope,
            unit,
            row.at.0,
            row.revision.0,
            row.excluded,
            pairs
        ])?;
        Ok(())
    }

    /// The sums of a scope.
    pub fn sums(&self, scope: &str) -> Result<Option<Sums>, Error> {
        let sql = "SELECT sums FROM scopes WHERE service = ?1 AND scope = ?2";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let text: Option<String> = statement.query_row(params![self.service, scope], |row| row.get(0)).optional()?;
        Ok(text.map(|text| from_json(&text)))
    }

    /// Keeps the sums of a scope.
    pub fn put_sums(&self, scope: &str, at: Timestamp, sums: &Sums) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO scopes (service, scope, at, sums) VALUES (?1, ?2, ?3, ?4)";
        self.transaction.prepare_cached(sql)?.execute(params![self.service, scope, at.0, to_json(sums)])?;
        Ok(())
    }
}

/// How much is kept. Sums stay: what was decided by can be shown for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long answers and feedback wait for each other, in milliseconds.
    pub age_ms: u64,
    /// Bytes that the file may use.
    pub bytes: u64,
}

impl Default for Retention {
    // 30 days: labels of a month still find their answers. 2 GiB: about eight million answers.
    fn default() -> Self {
        Self { age_ms: 30 * 86_400_000, bytes: 2 << 30 }
    }
}

/// Rows that one clearing may remove of each table, so that it never holds the reader up for long.
const AT_ONCE: u64 = 20_000;

/// Removes what is too old and, while the file is too large, the oldest. Whether there may be more to remove.
///
/// # Errors
/// SQLite's.
pub fn clear(connection: &mut Connection, retention: Retention, now: Timestamp) -> Result<bool, Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let oldest = now.0.saturating_sub(retention.age_ms);
    let mut removed = remove_before(&transaction, oldest)?;
    if removed == 0 && used(&transaction)? > retention.bytes {
        let middle = "SELECT at FROM answers ORDER BY at LIMIT 1 OFFSET ?1";
        let cut: Option<u64> = transaction.query_row(middle, [AT_ONCE], |row| row.get(0)).optional()?;
        // Few answers, and yet too large: the feedback that waits for none is what fills it.
        removed = match cut {
            Some(cut) => remove_before(&transaction, cut.saturating_add(1))?,
            None => remove_oldest(&transaction, "feedback", "service, id, body", u64::MAX >> 1)?,
        };
    }
    transaction.commit()?;
    Ok(removed > 0)
}

fn remove_before(transaction: &Transaction<'_>, at: u64) -> Result<usize, Error> {
    let mut removed = 0;
    for (table, key) in
        [("answers", "service, id, revision"), ("feedback", "service, id, body"), ("units", "service, scope, unit")]
    {
        removed += remove_oldest(transaction, table, key, at)?;
    }
    Ok(removed)
}

fn remove_oldest(transaction: &Transaction<'_>, table: &str, key: &str, before: u64) -> Result<usize, Error> {
    let sql = format!(
        "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE at < ?1 ORDER BY at LIMIT {AT_ONCE})"
    );
    Ok(transaction.execute(&sql, [before])?)
}

fn used(transaction: &Transaction<'_>) -> Result<u64, Error> {
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok((pragma("page_count")?.saturating_sub(pragma("freelist_count")?)) * pragma("page_size")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(connection: &mut Connection, answers: u64) {
        let transaction = connection.transaction().unwrap();
        let rows = Rows { transaction: &transaction, service: "wine" };
        for at in 0..answers {
            let row = AnswerRow {
                id: format!("{:032x}", at.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                revision: RevisionNumber(1),
                at: Timestamp(at),
                scope: "wine-1".into(),
                shadow: false,
                unit: None,
                status: 200,
                micros: 7,
                predictions: Map::new(),
                scores: BTreeMap::new(),
                excluded: false,
            };
            rows.put_answer(&row).unwrap();
        }
        transaction.commit().unwrap();
    }

    fn count(connection: &Connection) -> u64 {
        connection.query_row("SELECT count(*) FROM answers", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.sqlite");
        drop(open(&path).unwrap());
        drop(open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open(&path), Err(Error::Newer { found: 99 })));
        let foreign = folder.path().join("theirs.sqlite");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(open(&foreign), Err(Error::Foreign)));
    }

    #[test]
    fn what_is_too_old_goes_and_what_is_too_much_goes_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open(&folder.path().join("evidence.sqlite")).unwrap();
        fill(&mut connection, 60_000);
        let by_age = Retention { age_ms: 50_000, bytes: u64::MAX };
        assert!(clear(&mut connection, by_age, Timestamp(60_000)).unwrap());
        assert!(!clear(&mut connection, by_age, Timestamp(60_000)).unwrap(), "nothing left to do");
        assert_eq!(count(&connection), 50_000);
        let by_size = Retention { age_ms: u64::MAX, bytes: 5 << 20 };
        let before: u64 = connection.query_row("SELECT min(at) FROM answers", [], |row| row.get(0)).unwrap();
        while clear(&mut connection, by_size, Timestamp(60_000)).unwrap() {}
        let after: u64 = connection.query_row("SELECT min(at) FROM answers", [], |row| row.get(0)).unwrap();
        assert!(after > before && (1..50_000).contains(&count(&connection)), "{} left", count(&connection));
    }
}
