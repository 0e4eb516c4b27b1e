//! A database in a file of SQLite, for one process or several.
//!
//! Promises: a change is whole or not at all, and on the disk once it is answered; tables of a newer form are refused untouched.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::Error;

/// What is kept in one file.
#[derive(Debug)]
pub(crate) struct Sqlite {
    /// What messages call it.
    what: &'static str,
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Sqlite {
    /// Opens the database at `path`, making its `tables`, which have the form `version`, if needed.
    pub fn open(path: &Path, what: &'static str, tables: &str, version: i64) -> Result<Self, Error> {
        let open = || {
            let mut connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.busy_timeout(Duration::from_secs(10))?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if found == 0 {
                transaction.execute_batch(tables)?;
                transaction.pragma_update(None, "user_version", version)?;
            }
            transaction.commit()?;
            Ok((connection, found))
        };
        let (connection, found) = open().map_err(|error| failed(&error, what, path))?;
        if found > version {
            let why = format!("it has form {found}, and this Modelyard reads up to {version}");
            return Err(Error::Document { what: format!("`{}`", path.display()), why });
        }
        Ok(Self { what, path: path.to_owned(), connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one question, or makes a change of one statement.
    pub fn query<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        ask(&self.connection()).map_err(|error| failed(&error, self.what, &self.path))
    }

    /// Makes a change of several statements.
    pub fn change<T>(&self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, Error> {
        let mut connection = self.connection();
        let write = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let changed = change(&transaction)?;
            transaction.commit().map(|()| changed)
        };
        write().map_err(|error| failed(&error, self.what, &self.path))
    }
}

fn failed(error: &rusqlite::Error, what: &str, path: &Path) -> Error {
    let why = error.to_string();
    if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, why);
        return Error::File { doing: "could not write", path: path.to_owned(), source };
    }
    Error::Document { what: what.to_owned(), why }
}
