//! What the package index knows, in PostgreSQL.

use std::sync::Arc;

use modelyard_core::Digest;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Added, Entry, Files};
use crate::Error;
use crate::storage::Postgres;

const COLUMNS: &str = "filename, project, version, digest, size, uploaded, requires_python, metadata, yanked";

fn entry(row: &Row) -> Option<Entry> {
    let (digest, metadata): (String, Option<String>) = (row.get(3), row.get(7));
    Some(Entry {
        filename: row.get(0),
        project: row.get(1),
        version: row.get(2),
        digest: digest.parse().ok()?,
        size: u64::try_from(row.get::<_, i64>(4)).unwrap_or(0),
        uploaded: row.get(5),
        requires_python: row.get(6),
        metadata: metadata.and_then(|text| text.parse().ok()),
        yanked: row.get(8),
    })
}

impl Files for Arc<Postgres> {
    fn add(&self, entry: &Entry) -> Result<Added, Error> {
        let (digest, size) = (entry.digest.to_string(), i64::try_from(entry.size).unwrap_or(i64::MAX));
        let metadata = entry.metadata.map(|digest| digest.to_string());
        let row: [&(dyn ToSql + Sync); 9] = [
            &entry.filename,
            &entry.project,
            &entry.version,
            &digest,
            &size,
            &entry.uploaded,
            &entry.requires_python,
            &metadata,
            &entry.yanked,
        ];
        let sql = format!(
            "INSERT INTO modelyard_files ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"
        );
        if self.change(&sql, &row)? > 0 {
            return Ok(Added::New);
        }
        let there = self.file(&entry.filename)?.map(|there| there.digest).filter(|there| *there != entry.digest);
        Ok(there.map_or(Added::Same, Added::Other))
    }

    fn file(&self, filename: &str) -> Result<Option<Entry>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM modelyard_files WHERE filename = $1");
        Ok(self.rows(&sql, &[&filename])?.first().and_then(entry))
    }

    fn files(&self, project: &str) -> Result<Vec<Entry>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM modelyard_files WHERE project = $1 ORDER BY filename");
        Ok(self.rows(&sql, &[&project])?.iter().filter_map(entry).collect())
    }

    fn projects(&self) -> Result<Vec<String>, Error> {
        let rows = self.rows("SELECT DISTINCT project FROM modelyard_files ORDER BY project", &[])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn yank(&self, project: &str, version: &str, reason: Option<&str>) -> Result<usize, Error> {
        let sql = "UPDATE modelyard_files SET yanked = $3 WHERE project = $1 AND version = $2";
        let changed = self.change(sql, &[&project, &version, &reason])?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    fn blobs(&self) -> Result<Vec<Digest>, Error> {
        let sql =
            "SELECT digest FROM modelyard_files UNION SELECT metadata FROM modelyard_files WHERE metadata IS NOT NULL";
        let rows = self.rows(sql, &[])?;
        Ok(rows.iter().filter_map(|row| row.get::<_, String>(0).parse().ok()).collect())
    }
}
