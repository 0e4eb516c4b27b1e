//! The metadata in a file of SQLite.

use std::path::Path;

use rusqlite::{OptionalExtension, params};

use super::{Known, Metadata};
use crate::Error;
use crate::digest::AnyDigest;
use crate::storage::Sqlite;

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

/// Opens the metadata at `path`, making it if needed.
pub fn open(path: &Path) -> Result<Sqlite, Error> {
    Sqlite::open(path, "the registry's metadata", TABLES, VERSION)
}

impl Metadata for Sqlite {
    fn link_all(&self, links: &[(&str, &AnyDigest)]) -> Result<(), Error> {
        self.change(|transaction| {
            let mut link = transaction.prepare_cached("INSERT OR IGNORE INTO links VALUES (?1, ?2)")?;
            links
                .iter()
                .try_for_each(|(repository, digest)| link.execute(params![repository, digest.to_string()]).map(drop))
        })
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
        self.change(|transaction| {
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
            Ok(())
        })
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
        self.change(|transaction| {
            let named = params![repository, digest.to_string()];
            transaction.execute("DELETE FROM tags WHERE repository = ?1 AND digest = ?2", named)?;
            let gone = transaction.execute("DELETE FROM manifests WHERE repository = ?1 AND digest = ?2", named)?;
            Ok(gone > 0)
        })
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
