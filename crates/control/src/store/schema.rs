//! The store's schema: numbered migrations, each with its way back.
//!
//! Promises: a store is migrated within one transaction or not at all; a store of a newer build is refused untouched.

use rusqlite::{Connection, Transaction};

use super::{Error, chain};

/// Marks a SQLite file as ours (`application_id`): the letters `MODY`.
const APPLICATION_ID: i64 = 0x4D4F_4459;

/// What SQL alone cannot do.
type Step = fn(&Transaction<'_>) -> Result<(), Error>;

/// One numbered change of the schema.
struct Migration {
    up: &'static str,
    /// After `up`.
    then: Option<Step>,
    down: &'static str,
}

/// Every change, oldest first. Never edit one that was released: add another.
const MIGRATIONS: [Migration; 3] = [
    Migration {
        up: "CREATE TABLE events (
                 seq INTEGER PRIMARY KEY,
                 at INTEGER NOT NULL,
                 service TEXT,
                 rollout TEXT,
                 kind TEXT NOT NULL,
                 json TEXT NOT NULL
             ) STRICT;
             CREATE INDEX events_by_service ON events (service, seq);
             CREATE INDEX events_by_rollout ON events (rollout, seq) WHERE rollout IS NOT NULL;",
        then: None,
        down: "DROP TABLE events;",
    },
    // What may be lost without harm: counters carried over a restart, and answers to orders that may be asked twice.
    Migration {
        up: "CREATE TABLE memory (key TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
             CREATE TABLE answers (
                 key TEXT PRIMARY KEY,
                 request TEXT NOT NULL,
                 status INTEGER NOT NULL,
                 json TEXT NOT NULL,
                 at INTEGER NOT NULL
             ) STRICT;",
        then: None,
        down: "DROP TABLE answers; DROP TABLE memory;",
    },
    // Each event carries a hash of itself and of the one before; the end is kept beside the log.
    Migration {
        up: "ALTER TABLE events ADD COLUMN hash BLOB;
             CREATE TABLE chain (id INTEGER PRIMARY KEY CHECK (id = 0), seq INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;",
        then: Some(chain::link_all),
        down: "DROP TABLE chain; ALTER TABLE events DROP COLUMN hash;",
    },
];

/// Version of the schema that this build writes.
pub const LATEST: i64 = MIGRATIONS.len() as i64;

/// First version in which events are chained.
pub const CHAINED: i64 = 3;

/// Brings the store to `wanted`, forwards or back, in one transaction.
///
/// # Errors
/// [`Error::Newer`] when the store is of a later build, [`Error::Foreign`] when the file is another program's.
pub fn migrate(connection: &mut Connection, wanted: i64) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    refuse_foreign(&transaction, found)?;
    if found > LATEST {
        return Err(Error::Newer { found, known: LATEST });
    }
    for migration in MIGRATIONS.iter().take(to_index(wanted)).skip(to_index(found)) {
        transaction.execute_batch(migration.up)?;
        migration.then.map_or(Ok(()), |then| then(&transaction))?;
    }
    for migration in MIGRATIONS.iter().take(to_index(found)).skip(to_index(wanted)).rev() {
        transaction.execute_batch(migration.down)?;
    }
    transaction.pragma_update(None, "user_version", wanted)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(transaction.commit()?)
}

fn refuse_foreign(transaction: &Transaction<'_>, version: i64) -> Result<(), Error> {
    let id: i64 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let untouched = id == 0 && version == 0 && tables == 0;
    if untouched || id == APPLICATION_ID { Ok(()) } else { Err(Error::Foreign) }
}

fn to_index(version: i64) -> usize {
    usize::try_from(version).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_events(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn migrations_go_forwards_and_back_and_keep_events() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, 1).unwrap();
        connection.execute("INSERT INTO events VALUES (1, 0, NULL, NULL, 'control-stopped', '{}')", []).unwrap();
        migrate(&mut connection, LATEST).unwrap();
        assert_eq!(count_events(&connection), 1);
        connection.execute("INSERT INTO memory VALUES ('a', '1')", []).unwrap();
        migrate(&mut connection, 1).unwrap();
        assert_eq!(count_events(&connection), 1);
        assert!(connection.execute("INSERT INTO memory VALUES ('a', '1')", []).is_err(), "the way back dropped it");
        migrate(&mut connection, 0).unwrap();
        migrate(&mut connection, LATEST).unwrap();
        assert_eq!(count_events(&connection), 0);
    }

    #[test]
    fn newer_and_foreign_stores_are_refused_untouched() {
        let mut newer = Connection::open_in_memory().unwrap();
        migrate(&mut newer, LATEST).unwrap();
        newer.pragma_update(None, "user_version", LATEST + 1).unwrap();
        assert!(matches!(migrate(&mut newer, LATEST), Err(Error::Newer { .. })));
        let mut foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(migrate(&mut foreign, LATEST), Err(Error::Foreign)));
    }
}
