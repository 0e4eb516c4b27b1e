//! The metadata in PostgreSQL.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Known, Metadata};
use crate::Error;
use crate::digest::AnyDigest;
use crate::storage::Postgres;

const KNOWN: &str = "SELECT digest, media_type, size, subject, artifact_type, annotations FROM modelyard_manifests";

fn known(row: &Row) -> Option<Known> {
    let digest: String = row.get(0);
    Some(Known {
        digest: digest.parse().ok()?,
        media_type: row.get(1),
        size: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        subject: row.get(3),
        artifact_type: row.get(4),
        annotations: row.get(5),
    })
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

type Given<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Postgres {
    /// Rows of a question that changes nothing, or may be asked twice.
    pub(crate) fn rows(&self, sql: &str, given: Given<'_>) -> Result<Vec<Row>, Error> {
        self.run(async |client| {
            let ask = client.prepare_cached(sql).await?;
            client.query(&ask, given).await
        })
    }

    /// How many rows a change changed.
    pub(crate) fn change(&self, sql: &str, given: Given<'_>) -> Result<u64, Error> {
        self.run(async |client| {
            let ask = client.prepare_cached(sql).await?;
            client.execute(&ask, given).await
        })
    }
}

fn texts(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.get(0)).collect()
}

impl Metadata for Arc<Postgres> {
    fn link_all(&self, links: &[(&str, &AnyDigest)]) -> Result<(), Error> {
        let sql = "INSERT INTO modelyard_links SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING";
        let (repositories, digests): (Vec<_>, Vec<_>) =
            links.iter().map(|(repository, digest)| (*repository, digest.to_string())).unzip();
        self.change(sql, &[&repositories, &digests]).map(drop)
    }

    fn unlink(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let sql = "DELETE FROM modelyard_links WHERE repository = $1 AND digest = $2";
        Ok(self.change(sql, &[&repository, &digest.to_string()])? > 0)
    }

    fn is_linked(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM modelyard_links WHERE repository = $1 AND digest = $2";
        Ok(!self.rows(sql, &[&repository, &digest.to_string()])?.is_empty())
    }

    fn is_linked_anywhere(&self, digest: &AnyDigest) -> Result<bool, Error> {
        Ok(!self.rows("SELECT 1 FROM modelyard_links WHERE digest = $1 LIMIT 1", &[&digest.to_string()])?.is_empty())
    }

    fn put_manifest(&self, repository: &str, known: &Known, tags: &[String]) -> Result<(), Error> {
        let (digest, size) = (known.digest.to_string(), i64::try_from(known.size).unwrap_or(i64::MAX));
        // In one order for everybody: two who write the same tags wait for each other in turn, not in a circle.
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        self.run(async |client| {
            let transaction = client.transaction().await?;
            let put = transaction
                .prepare_cached(
                    "INSERT INTO modelyard_manifests VALUES ($1, $2, $3, $4, $5, $6, $7)
                     ON CONFLICT (repository, digest) DO UPDATE SET media_type = excluded.media_type, size = excluded.size,
                     subject = excluded.subject, artifact_type = excluded.artifact_type, annotations = excluded.annotations",
                )
                .await?;
            let (subject, kind) = (&known.subject, &known.artifact_type);
            let row: [&(dyn ToSql + Sync); 7] =
                [&repository, &digest, &known.media_type, &size, subject, kind, &known.annotations];
            transaction.execute(&put, &row).await?;
            let name = transaction
                .prepare_cached(
                    "INSERT INTO modelyard_tags VALUES ($1, $2, $3)
                     ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest",
                )
                .await?;
            for tag in &tags {
                transaction.execute(&name, &[&repository, tag, &digest]).await?;
            }
            transaction.commit().await
        })
    }

    fn manifest(&self, repository: &str, digest: &AnyDigest) -> Result<Option<Known>, Error> {
        let sql = format!("{KNOWN} WHERE repository = $1 AND digest = $2");
        Ok(self.rows(&sql, &[&repository, &digest.to_string()])?.first().and_then(known))
    }

    fn tag(&self, repository: &str, tag: &str) -> Result<Option<AnyDigest>, Error> {
        let sql = "SELECT digest FROM modelyard_tags WHERE repository = $1 AND tag = $2";
        Ok(texts(&self.rows(sql, &[&repository, &tag])?).first().and_then(|text| text.parse().ok()))
    }

    fn delete_tag(&self, repository: &str, tag: &str) -> Result<bool, Error> {
        Ok(self.change("DELETE FROM modelyard_tags WHERE repository = $1 AND tag = $2", &[&repository, &tag])? > 0)
    }

    fn delete_manifest(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let digest = digest.to_string();
        self.run(async |client| {
            let transaction = client.transaction().await?;
            let tags = "DELETE FROM modelyard_tags WHERE repository = $1 AND digest = $2";
            transaction.execute(tags, &[&repository, &digest]).await?;
            let manifest = "DELETE FROM modelyard_manifests WHERE repository = $1 AND digest = $2";
            let gone = transaction.execute(manifest, &[&repository, &digest]).await?;
            transaction.commit().await.map(|()| gone > 0)
        })
    }

    fn tags(&self, repository: &str, last: &str, most: usize) -> Result<Vec<String>, Error> {
        let sql = "SELECT tag FROM modelyard_tags WHERE repository = $1 AND tag > $2 ORDER BY tag LIMIT $3";
        Ok(texts(&self.rows(sql, &[&repository, &last, &limit(most)])?))
    }

    fn referrers(&self, repository: &str, subject: &AnyDigest) -> Result<Vec<Known>, Error> {
        let sql = format!("{KNOWN} WHERE repository = $1 AND subject = $2 ORDER BY digest");
        Ok(self.rows(&sql, &[&repository, &subject.to_string()])?.iter().filter_map(known).collect())
    }

    fn repositories(&self, last: &str, most: usize) -> Result<Vec<String>, Error> {
        let sql =
            "SELECT DISTINCT repository FROM modelyard_manifests WHERE repository > $1 ORDER BY repository LIMIT $2";
        Ok(texts(&self.rows(sql, &[&last, &limit(most)])?))
    }

    fn has_repository(&self, repository: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM modelyard_manifests WHERE repository = $1
                   UNION SELECT 1 FROM modelyard_links WHERE repository = $1 LIMIT 1";
        Ok(!self.rows(sql, &[&repository])?.is_empty())
    }

    fn all_manifests(&self) -> Result<Vec<AnyDigest>, Error> {
        let digests = texts(&self.rows("SELECT DISTINCT digest FROM modelyard_manifests", &[])?);
        Ok(digests.iter().filter_map(|text| text.parse().ok()).collect())
    }

    fn forget(&self, digest: &AnyDigest) -> Result<(), Error> {
        self.change("DELETE FROM modelyard_links WHERE digest = $1", &[&digest.to_string()]).map(drop)
    }
}
