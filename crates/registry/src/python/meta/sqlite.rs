//! What the package index knows, in a file of SQLite.

use std::path::Path;

use modelyard_core::Digest;
use rusqlite::{OptionalExtension, Row, params};

use super::{Added, Entry, Files};
use crate::Error;
use crate::storage::Sqlite;

/// Version of the tables that this build writes.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE files (
        filename TEXT PRIMARY KEY, project TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
        uploaded INTEGER NOT NULL, requires_python TEXT, metadata TEXT, yanked TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX files_by_project ON files (project, version);";

const COLUMNS: &str = "filename, project, version, digest, size, uploaded, requires_python, metadata, yanked";

/// Opens the index at `path`, making it if needed.
pub fn open(path: &Path) -> Result<Sqlite, Error> {
    Sqlite::open(path, "the package index", TABLES, VERSION)
}

impl Files for Sqlite {
    fn add(&self, entry: &Entry) -> Result<Added, Error> {
        self.change(|transaction| {
            let sql = "SELECT digest FROM files WHERE filename = ?1";
            let there: Option<String> = transaction.query_row(sql, [&entry.filename], |row| row.get(0)).optional()?;
            if let Some(there) = there {
                return Ok(match there.parse() {
                    Ok(digest) if digest != entry.digest => Added::Other(digest),
                    _ => Added::Same,
                });
            }
            transaction.execute(
                &format!("INSERT INTO files ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
                params![
                    entry.filename,
                    entry.project,
                    entry.version,
                    entry.digest.to_string(),
                    i64::try_from(entry.size).unwrap_or(i64::MAX),
                    entry.uploaded,
                    entry.requires_python,
                    entry.metadata.map(|digest| digest.to_string()),
                    entry.yanked
                ],
            )?;
            Ok(Added::New)
        })
    }

    fn file(&self, filename: &str) -> Result<Option<Entry>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM files WHERE filename = ?1");
        self.query(|connection| connection.prepare_cached(&sql)?.query_row([filename], entry).optional())
            .map(Option::flatten)
    }

    fn files(&self, project: &str) -> Result<Vec<Entry>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM files WHERE project = ?1 ORDER BY filename");
        let found: Vec<Option<Entry>> =
            self.query(|connection| connection.prepare_cached(&sql)?.query_map([project], entry)?.collect())?;
        Ok(found.into_iter().flatten().collect())
    }

    fn projects(&self) -> Result<Vec<String>, Error> {
        let sql = "SELECT DISTINCT project FROM files ORDER BY project";
        self.query(|connection| connection.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect())
    }

    fn yank(&self, project: &str, version: &str, reason: Option<&str>) -> Result<usize, Error> {
        let sql = "UPDATE files SET yanked = ?3 WHERE project = ?1 AND version = ?2";
        self.query(|connection| connection.execute(sql, params![project, version, reason]))
    }

    fn blobs(&self) -> Result<Vec<Digest>, Error> {
        let sql = "SELECT digest FROM files UNION SELECT metadata FROM files WHERE metadata IS NOT NULL";
        let found: Vec<String> =
            self.query(|connection| connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect())?;
        Ok(found.iter().filter_map(|text| text.parse().ok()).collect())
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let (digest, size): (String, i64) = (row.get(3)?, row.get(4)?);
    let metadata: Option<String> = row.get(7)?;
    let (filename, project, version) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (uploaded, requires_python, yanked) = (row.get(5)?, row.get(6)?, row.get(8)?);
    Ok(digest.parse().ok().map(|digest| Entry {
        filename,
        project,
        version,
        digest,
        size: u64::try_from(size).unwrap_or(0),
        uploaded,
        requires_python,
        metadata: metadata.and_then(|text| text.parse().ok()),
        yanked,
    }))
}
