//! The metadata in a file of SQLite.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Known, Metadata};
use crate::Error;
use crate::distribution::AnyDigest;

/// Version of the tables that this build writes.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE manifests (
        repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
        subject TEXT, artifact_type TEXT, annotations TEXT NOT NULL,
        PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX manifests_by_subject ON manifests (repository, subject) WHERE subject IS NOT NULL;
    CREATE TABLE tags (
        repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (repository, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tags_by_digest ON tags (repository, digest);
    CREATE TABLE links (
        repository TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;";

/// What the registry knows of repositories, in a file.
#[derive(Debug)]
pub struct Sqlite {
    connection: Mutex<Connection>,
}

fn failed(error: &rusqlite::Error) -> Error {
    let why = error.to_string();
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, why);
        return Error::File { doing: "could not write", path: "distribution.sqlite".into(), source };
    }
    Error::Document { what: "the registry's metadata".to_owned(), why }
}

impl Sqlite {
    /// Opens the metadata at `path`, making it if needed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let mut connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if found == 0 {
                transaction.execute_batch(TABLES)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            transaction.commit()?;
            Ok((connection, found))
        };
        let (connection, found) = open().map_err(|error: rusqlite::Error| failed(&error))?;
        if found > VERSION {
            let why = format!("it has form {found}, and this Modelyard reads up to {VERSION}");
            return Err(Error::Document { what: format!("`{}`", path.display()), why });
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn query<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        ask(&self.connection()).map_err(|error| failed(&error))
    }
}

impl Metadata for Sqlite {
    fn link_all(&self, links: &[(&str, &AnyDigest)]) -> Result<(), Error> {
        let mut connection = self.connection();
        let mut write = || {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (repository, digest) in links {
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO links VALUES (?1, ?2)")?
                    .execute(params![repository, digest.to_string()])?;
            }
            transaction.commit()
        };
        write().map_err(|error| failed(&error))
    }

    fn unlink(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let sql = "DELETE FROM links WHERE repository = ?1 AND digest = ?2";
        self.query(|connection| connection.execute(sql, params![repository, digest.to_string()])).map(|count| count > 0)
    }

    fn is_linked(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM links WHERE repository = ?1 AND digest = ?2";
        self.query(|connection| connection.prepare_cached(sql)?.exists(params![repository, digest.to_string()]))
    }

    fn is_linked_anywhere(&self, digest: &AnyDigest) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM links WHERE digest = ?1 LIMIT 1";
        self.query(|connection| connection.prepare_cached(sql)?.exists(params![digest.to_string()]))
    }

    fn put_manifest(&self, repository: &str, known: &Known, tags: &[String]) -> Result<(), Error> {
        let mut connection = self.connection();
        let mut put = || {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    repository,
                    known.digest.to_string(),
                    known.media_type,
                    i64::try_from(known.size).unwrap_or(i64::MAX),
                    known.subject,
                    known.artifact_type,
                    known.annotations
                ],
            )?;
            for tag in tags {
                let sql = "INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3)";
                transaction.execute(sql, params![repository, tag, known.digest.to_string()])?;
            }
            transaction.commit()
        };
        put().map_err(|error| failed(&error))
    }

    fn manifest(&self, repository: &str, digest: &AnyDigest) -> Result<Option<Known>, Error> {
        let sql = "SELECT digest, media_type, size, subject, artifact_type, annotations FROM manifests
                   WHERE repository = ?1 AND digest = ?2";
        self.query(|connection| {
            connection.prepare_cached(sql)?.query_row(params![repository, digest.to_string()], known).optional()
        })
        .map(Option::flatten)
    }

    fn tag(&self, repository: &str, tag: &str) -> Result<Option<AnyDigest>, Error> {
        let sql = "SELECT digest FROM tags WHERE repository = ?1 AND tag = ?2";
        let found: Option<String> = self.query(|connection| {
            connection.prepare_cached(sql)?.query_row(params![repository, tag], |row| row.get(0)).optional()
        })?;
        Ok(found.and_then(|text| text.parse().ok()))
    }

    fn delete_tag(&self, repository: &str, tag: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM tags WHERE repository = ?1 AND tag = ?2";
        self.query(|connection| connection.execute(sql, params![repository, tag])).map(|count| count > 0)
    }

    fn delete_manifest(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let mut connection = self.connection();
        let mut delete = || {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let named = params![repository, digest.to_string()];
            transaction.execute("DELETE FROM tags WHERE repository = ?1 AND digest = ?2", named)?;
            let gone = transaction.execute("DELETE FROM manifests WHERE repository = ?1 AND digest = ?2", named)?;
            transaction.commit().map(|()| gone > 0)
        };
        delete().map_err(|error| failed(&error))
    }

    fn tags(&self, repository: &str, last: &str, most: usize) -> Result<Vec<String>, Error> {
        let sql = "SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.query(|connection| {
            connection.prepare_cached(sql)?.query_map(params![repository, last, most], |row| row.get(0))?.collect()
        })
    }

    fn referrers(&self, repository: &str, subject: &AnyDigest) -> Result<Vec<Known>, Error> {
        let sql = "SELECT digest, media_type, size, subject, artifact_type, annotations FROM manifests
                   WHERE repository = ?1 AND subject = ?2 ORDER BY digest";
        let found: Vec<Option<Known>> = self.query(|connection| {
            connection.prepare_cached(sql)?.query_map(params![repository, subject.to_string()], known)?.collect()
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    fn repositories(&self, last: &str, most: usize) -> Result<Vec<String>, Error> {
        let sql = "SELECT DISTINCT repository FROM manifests WHERE repository > ?1 ORDER BY repository LIMIT ?2";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.query(|connection| {
            connection.prepare_cached(sql)?.query_map(params![last, most], |row| row.get(0))?.collect()
        })
    }

    fn has_repository(&self, repository: &str) -> Result<bool, Error> {
        let sql =
            "SELECT 1 FROM manifests WHERE repository = ?1 UNION SELECT 1 FROM links WHERE repository = ?1 LIMIT 1";
        self.query(|connection| connection.prepare_cached(sql)?.exists(params![repository]))
    }

    fn all_manifests(&self) -> Result<Vec<AnyDigest>, Error> {
        let digests: Vec<String> = self.query(|connection| {
            connection.prepare("SELECT DISTINCT digest FROM manifests")?.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(digests.iter().filter_map(|text| text.parse().ok()).collect())
    }

    fn forget(&self, digest: &AnyDigest) -> Result<(), Error> {
        let sql = "DELETE FROM links WHERE digest = ?1";
        self.query(|connection| connection.execute(sql, params![digest.to_string()])).map(drop)
    }
}

fn known(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Known>> {
    let digest: String = row.get(0)?;
    let size: i64 = row.get(2)?;
    let (media_type, subject) = (row.get(1)?, row.get(3)?);
    let (artifact_type, annotations) = (row.get(4)?, row.get(5)?);
    let size = u64::try_from(size).unwrap_or(0);
    Ok(digest.parse().ok().map(|digest| Known { digest, media_type, size, subject, artifact_type, annotations }))
}
