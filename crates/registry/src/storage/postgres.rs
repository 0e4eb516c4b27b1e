//! A few connections to PostgreSQL; the documents and locks that several machines share.
//!
//! Promises: a connection that broke is made anew; whoever holds a lock and dies lets go of it; what a lock guards is written through the very
//! connection that holds it, so nobody writes who has lost it; beyond this machine only with TLS, unless the URL says `sslmode=disable`.
//! Absent on purpose: a pool in front that hands connections on within a session: locks belong to sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::runtime::Handle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, Error as Asked};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{chain, runtime, wait};
use crate::Error;

/// Connections that ask and answer at once.
const LANES: usize = 8;

/// Connections that hold the lock of those who give names. Of their own, so that whoever holds one finds a connection to work with.
const NAMERS: usize = 16;

/// Connections that hold the lock of whoever changes documents, or wait for it.
const WRITERS: usize = 4;

/// How often one question is asked when connections break.
const TRIES: usize = 3;

/// The first of our locks: the first eight letters of `modelyard` as a number.
const FIRST: i64 = i64::from_be_bytes(*b"modelyar");
/// Lock of whoever makes the tables.
const TABLES: i64 = FIRST;
/// Lock of whoever changes documents.
const WRITING: i64 = FIRST + 1;
/// Lock that keeps sweeps apart from whoever gives something a name.
const NAMING: i64 = FIRST + 2;

/// What each form of the tables adds to the one before.
const FORMS: [&str; 1] = ["
    CREATE TABLE modelyard_documents (name TEXT PRIMARY KEY, json TEXT NOT NULL);
    CREATE TABLE modelyard_manifests (
        repository TEXT COLLATE \"C\" NOT NULL, digest TEXT COLLATE \"C\" NOT NULL, media_type TEXT NOT NULL, size BIGINT NOT NULL,
        subject TEXT, artifact_type TEXT, annotations TEXT NOT NULL, PRIMARY KEY (repository, digest));
    CREATE INDEX modelyard_manifests_by_subject ON modelyard_manifests (repository, subject) WHERE subject IS NOT NULL;
    CREATE TABLE modelyard_tags (
        repository TEXT COLLATE \"C\" NOT NULL, tag TEXT COLLATE \"C\" NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, tag));
    CREATE INDEX modelyard_tags_by_digest ON modelyard_tags (repository, digest);
    CREATE TABLE modelyard_links (
        repository TEXT COLLATE \"C\" NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, digest));
    CREATE INDEX modelyard_links_by_digest ON modelyard_links (digest);
    CREATE TABLE modelyard_files (
        filename TEXT COLLATE \"C\" PRIMARY KEY, project TEXT COLLATE \"C\" NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
        size BIGINT NOT NULL, uploaded BIGINT NOT NULL, requires_python TEXT, metadata TEXT, yanked TEXT);
    CREATE INDEX modelyard_files_by_project ON modelyard_files (project, version);"];

/// The database.
pub(crate) struct Postgres {
    name: String,
    runtime: &'static Handle,
    working: Pool,
    naming: Pool,
    writing: Pool,
}

/// A lock that ends when this is dropped, or with the process.
pub(crate) struct Locked {
    client: Option<Box<Client>>,
    unlock: &'static str,
    key: i64,
    runtime: &'static Handle,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let (Some(client), unlock, key) = (self.client.take(), self.unlock, self.key) else { return };
        self.runtime.spawn(async move {
            if client.execute(unlock, &[&key]).await.is_err() {
                // Nobody gets a connection that may still hold it.
                drop(Client::take(*client));
            }
        });
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Postgres({})", self.name)
    }
}

/// Whether the database is asked over the network.
fn is_remote(config: &Config) -> bool {
    let remote = |host: &Host| match host {
        Host::Tcp(name) => !matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        Host::Unix(_) => false,
    };
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().any(remote),
        addresses => addresses.iter().any(|address| !address.is_loopback()),
    }
}

/// TLS as the rest of the registry speaks it; whom to trust is said by `PGSSLROOTCERT`, if it is set.
fn tls() -> Result<MakeRustlsConnect, String> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = std::env::var_os("PGSSLROOTCERT") {
        let certificates = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.map_err(|error| format!("PGSSLROOTCERT cannot be read: {error}"))?;
        roots.roots.clear();
        roots.add_parsable_certificates(certificates);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// What the URL says, and what it should have said.
fn read_url(url: &str) -> Result<Config, String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("its URL does not begin with `postgresql://`".to_owned());
    }
    let mut config: Config = url.parse().map_err(|error: Asked| chain(&error))?;
    if is_remote(&config) && config.get_ssl_mode() == SslMode::Prefer {
        config.ssl_mode(SslMode::Require);
    }
    if let (None, Ok(password)) = (config.get_password(), std::env::var("PGPASSWORD")) {
        config.password(password);
    }
    // 30 s without a sign of life: nobody waits longer for a machine that has gone.
    let patience = Duration::from_secs(30);
    config.connect_timeout(Duration::from_secs(5)).keepalives_idle(patience).tcp_user_timeout(patience);
    config.application_name("modelyard");
    Ok(config)
}

impl Postgres {
    /// The database of a URL, with one set of connections for the whole process.
    pub fn shared(url: &str) -> Result<Arc<Self>, Error> {
        static OPEN: Mutex<BTreeMap<String, Weak<Postgres>>> = Mutex::new(BTreeMap::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, database| database.strong_count() > 0);
        if let Some(database) = open.get(url).and_then(Weak::upgrade) {
            return Ok(database);
        }
        let database = Arc::new(Self::open(url)?);
        open.insert(url.to_owned(), Arc::downgrade(&database));
        Ok(database)
    }

    /// Connects, and makes the tables if they are not there.
    fn open(url: &str) -> Result<Self, Error> {
        let unnamed = |why: String| Error::Storage { store: "the metadata's PostgreSQL".to_owned(), why };
        let config = read_url(url).map_err(unnamed)?;
        let tls = tls().map_err(unnamed)?;
        let name = config.get_dbname().or(config.get_user()).unwrap_or_default().to_owned();
        let pool = |connections: usize| {
            let fast = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let manager = Manager::from_config(config.clone(), tls.clone(), fast);
            Pool::builder(manager).max_size(connections).runtime(Runtime::Tokio1).build()
        };
        let pool = |connections| pool(connections).map_err(|error| unnamed(error.to_string()));
        let opened =
            Self { name, runtime: runtime()?, working: pool(LANES)?, naming: pool(NAMERS)?, writing: pool(WRITERS)? };
        match opened.run(async |client| migrate(client).await)? {
            form if form <= FORMS.len() => Ok(opened),
            newer => {
                let known = FORMS.len();
                Err(opened.failed(format!("its tables have form {newer}, and this Modelyard reads up to {known}")))
            }
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::Storage { store: format!("the PostgreSQL database `{}`", self.name), why }
    }

    async fn connection(&self, pool: &Pool) -> Result<Client, Error> {
        pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.failed(chain(&error)),
            other => self.failed(chain(&other)),
        })
    }

    /// Asks the database; what is asked may be asked twice when a connection breaks, so asking twice must do no harm.
    pub fn run<T: Send>(&self, ask: impl AsyncFn(&mut Client) -> Result<T, Asked> + Send + Sync) -> Result<T, Error> {
        wait(self.runtime, async || {
            let mut tries = 1;
            loop {
                let mut client = self.connection(&self.working).await?;
                match ask(&mut client).await {
                    Err(_) if client.is_closed() && tries < TRIES => tries += 1,
                    done => return done.map_err(|error| self.failed(chain(&error))),
                }
            }
        })
    }

    /// A document, if there is one.
    pub fn document(&self, name: &str) -> Result<Option<String>, Error> {
        self.run(async |client| {
            let ask = client.prepare_cached("SELECT json FROM modelyard_documents WHERE name = $1").await?;
            Ok(client.query_opt(&ask, &[&name]).await?.map(|row| row.get(0)))
        })
    }

    /// Replaces a document; the lock's own connection does it.
    pub fn write_document(&self, name: &str, json: &str, writing: &Locked) -> Result<(), Error> {
        let Some(client) = &writing.client else { return Ok(()) };
        let sql =
            "INSERT INTO modelyard_documents VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET json = excluded.json";
        let done = wait(self.runtime, async || client.execute(sql, &[&name, &json]).await);
        done.map(drop).map_err(|error| self.failed(chain(&error)))
    }

    /// Waits until nobody else, on whichever machine, changes documents.
    pub fn lock(&self) -> Result<Locked, Error> {
        wait(self.runtime, async || self.locked(&self.writing, WRITING, false).await)
    }

    /// Waits for a lock of those who give names (`together`), or of the one who sweeps.
    pub async fn pass(self: &Arc<Self>, together: bool) -> Result<Locked, Error> {
        // On our own runtime: a connection lives as long as the one that it was made on.
        let database = Arc::clone(self);
        let passing = self.runtime.spawn(async move { database.locked(&database.naming, NAMING, together).await });
        passing.await.map_err(|error| self.failed(error.to_string()))?
    }

    /// [`Postgres::pass`] for callers without a runtime.
    pub fn pass_here(&self, together: bool) -> Result<Locked, Error> {
        wait(self.runtime, async || self.locked(&self.naming, NAMING, together).await)
    }

    async fn locked(&self, pool: &Pool, key: i64, shared: bool) -> Result<Locked, Error> {
        let (lock, unlock) = match shared {
            true => ("SELECT pg_advisory_lock_shared($1)", "SELECT pg_advisory_unlock_shared($1)"),
            false => ("SELECT pg_advisory_lock($1)", "SELECT pg_advisory_unlock($1)"),
        };
        let mut tries = 1;
        loop {
            let client = self.connection(pool).await?;
            // Whoever is dropped while waiting takes the connection along: the lock may come later.
            let mut held = Locked { client: Some(Box::new(client)), unlock, key, runtime: self.runtime };
            let asked = match &held.client {
                Some(client) => client.execute(lock, &[&key]).await,
                None => return Ok(held),
            };
            match asked {
                Ok(_) => return Ok(held),
                Err(error) => {
                    let broken = held.client.take().is_some_and(|client| Client::take(*client).is_closed());
                    if !broken || tries >= TRIES {
                        return Err(self.failed(chain(&error)));
                    }
                    tries += 1;
                }
            }
        }
    }
}

/// Makes the tables what this build wants; the form that they have then, which may be a newer one.
async fn migrate(client: &mut Client) -> Result<usize, Asked> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&TABLES]).await?;
    let there = transaction.query_one("SELECT to_regclass('modelyard_form') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        transaction.batch_execute("CREATE TABLE modelyard_form (form BIGINT NOT NULL)").await?;
    }
    let found = transaction.query_one("SELECT coalesce(max(form), 0) FROM modelyard_form", &[]).await?;
    let found = usize::try_from(found.get::<_, i64>(0)).unwrap_or(0);
    let mut form = i64::try_from(found).unwrap_or(i64::MAX);
    for tables in FORMS.iter().skip(found) {
        form += 1;
        transaction.batch_execute(tables).await?;
        transaction.execute("INSERT INTO modelyard_form VALUES ($1)", &[&form]).await?;
    }
    transaction.commit().await?;
    Ok(found.max(FORMS.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, why) in [
            ("mysql://a:hunter2@b/c", "does not begin with"),
            ("postgresql://me:hunter2@127.0.0.1:9/models", "connect"),
            ("postgresql://me:hunter2@127.0.0.1:x/models", "invalid"),
        ] {
            let error = Postgres::open(url).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_in_the_clear() {
        for (url, mode) in [
            ("postgresql://me@127.0.0.1/models", SslMode::Prefer),
            ("postgresql://me@%2Frun%2Fpostgresql/models", SslMode::Prefer),
            ("postgresql://me@db.example.com/models", SslMode::Require),
            ("postgresql://me@localhost,db.example.com/models", SslMode::Require),
            ("postgresql://me@db.example.com/models?sslmode=disable", SslMode::Disable),
        ] {
            assert_eq!(read_url(url).unwrap().get_ssl_mode(), mode, "{url}");
        }
    }
}
