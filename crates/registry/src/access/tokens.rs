//! The tokens of a home: one document, replaced whole, readable by its owner alone.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use modelyard_core::{Digest, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::mpsc;

use super::Grant;
use super::short::Mint;
use crate::Error;
use crate::blob::digest_of;
use crate::layout::{read_document, write_document};

/// What every token begins with, so that those who look for leaked secrets know it.
const PREFIX: &str = "mdy_";

/// One token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the token for lists and for revoking it.
    pub id: String,
    /// SHA-256 of the token. It has 256 random bits: nothing slower is needed to keep it from being guessed.
    hash: Digest,
    /// What it grants.
    pub grant: Arc<Grant>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

impl Entry {
    /// As documents have it: everything but the hash.
    pub fn document(&self, now: Timestamp) -> Value {
        let Grant { name, role, scope, expires } = &*self.grant;
        json!({
            "id": self.id, "name": name, "role": role, "environment": scope.environment,
            "repositories": scope.repositories, "created": self.created, "expires": expires,
            "revoked": self.revoked, "valid": self.is_valid(now),
        })
    }

    /// Whether it still grants anything.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.grant.expires.is_none_or(|end| now < end)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    form: u32,
    #[serde(default)]
    anonymous: Vec<String>,
    #[serde(default)]
    tokens: Vec<Entry>,
}

/// What a caller showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// Nothing is demanded: no token was ever made.
    NotDemanded,
    /// A token that grants this.
    Valid(Arc<Grant>),
    /// No token.
    Nothing,
    /// One that is none, was revoked, or has expired.
    Invalid,
}

/// A token that was refused, or was not enough. The token itself is nowhere in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id; none when it is no token of this home.
    pub token: Option<String>,
    /// Whose it is.
    pub name: Option<String>,
    /// Why.
    pub why: String,
    /// What was asked: method and path, cut.
    pub asked: String,
}

/// Longest text of what was asked, in characters.
const ASKED_CHARS: usize = 120;

/// What was asked, without what might be a token: somebody may have put one into the path.
fn asked(method: &str, path: &str) -> String {
    let path = path.find(PREFIX).map_or_else(|| path.to_owned(), |at| format!("{}{PREFIX}…", &path[..at]));
    let text = format!("{method} {path}");
    text.chars().filter(|c| !c.is_control()).take(ASKED_CHARS).collect()
}

/// What the file looked like when it was read: inode, length, time in nanoseconds.
type State = (u64, u64, i64, i64);

/// The document as it was read, and what the file looked like then.
type Read = (State, Arc<Document>);

/// The tokens of a home. Clones share what they have read.
#[derive(Clone, Debug)]
pub struct Tokens {
    path: PathBuf,
    read: Arc<Mutex<Option<Read>>>,
    mint: Mint,
    told: Option<mpsc::Sender<Refused>>,
}

impl Tokens {
    /// The tokens kept at `path`; nothing is made yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: Arc::default(), mint: Mint::default(), told: None }
    }

    /// The same, which tells of every token that is refused. What does not fit into the channel is lost: nobody waits for it.
    #[must_use]
    pub fn telling(mut self, told: mpsc::Sender<Refused>) -> Self {
        self.told = Some(told);
        self
    }

    /// Tells that the token of that id, or one that is none, was refused.
    pub fn refused(&self, id: Option<&str>, why: &str, method: &str, path: &str) {
        let Some(told) = &self.told else { return };
        let document = self.document().ok();
        let entry = document.iter().flat_map(|document| &document.tokens).find(|entry| Some(entry.id.as_str()) == id);
        let refused = Refused {
            token: entry.map(|entry| entry.id.clone()),
            name: entry.map(|entry| entry.grant.name.clone()),
            why: why.to_owned(),
            asked: asked(method, path),
        };
        let _ = told.try_send(refused);
    }

    fn document(&self) -> Result<Arc<Document>, Error> {
        let facts = match fs::metadata(&self.path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(Error::file("could not read", &self.path)(error)),
        };
        let state = (facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, document)) = &*read
            && *known == state
        {
            return Ok(Arc::clone(document));
        }
        let document: Arc<Document> = Arc::new(read_document(&self.path)?);
        if document.form != 1 {
            let why = format!("it has form {}, and this Modelyard reads form 1", document.form);
            return Err(Error::Document { what: format!("`{}`", self.path.display()), why });
        }
        *read = Some((state, Arc::clone(&document)));
        Ok(document)
    }

    /// Every token that was ever made.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Document`] when they cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        Ok(self.document()?.tokens.clone())
    }

    /// Patterns of the repositories that anybody may read.
    ///
    /// # Errors
    /// As [`Tokens::list`].
    pub fn anonymous(&self) -> Result<Vec<String>, Error> {
        Ok(self.document()?.anonymous.clone())
    }

    /// What a caller's token is worth.
    ///
    /// # Errors
    /// As [`Tokens::list`]: then nobody is let in.
    pub fn look(&self, secret: Option<&str>, now: Timestamp) -> Result<Presented, Error> {
        self.look_closely(secret, now).map(|(presented, _)| presented)
    }

    /// [`Tokens::look`], and the id of the token, also of one that was revoked or has expired.
    ///
    /// # Errors
    /// As [`Tokens::list`]: then nobody is let in.
    pub fn look_closely(&self, secret: Option<&str>, now: Timestamp) -> Result<(Presented, Option<String>), Error> {
        let document = self.document()?;
        if document.tokens.is_empty() {
            return Ok((Presented::NotDemanded, None));
        }
        let Some(secret) = secret else { return Ok((Presented::Nothing, None)) };
        let hash = digest_of(secret.as_bytes());
        // Every entry is compared, each in the same time: nothing is learnt from how long it takes.
        let mut found = None;
        for entry in &document.tokens {
            if bool::from(entry.hash.as_bytes().ct_eq(hash.as_bytes())) {
                found = Some(entry);
            }
        }
        let id = found.map(|entry| entry.id.clone());
        Ok(match found.filter(|entry| entry.is_valid(now)) {
            Some(entry) => (Presented::Valid(Arc::clone(&entry.grant)), id),
            None => (Presented::Invalid, id),
        })
    }

    /// What the token of that id is worth.
    pub(super) fn by_id(&self, id: &str, now: Timestamp) -> Result<Presented, Error> {
        let document = self.document()?;
        let found = document.tokens.iter().find(|entry| entry.id == id && entry.is_valid(now));
        Ok(found.map_or(Presented::Invalid, |entry| Presented::Valid(Arc::clone(&entry.grant))))
    }

    /// A token by which an engine that this process sends here reads one repository; none when nothing is demanded.
    ///
    /// # Errors
    /// As [`Tokens::list`]; or when the operating system gives no randomness.
    pub fn own_pass(&self, repository: &str) -> Result<Option<String>, Error> {
        if self.document()?.tokens.is_empty() {
            return Ok(None);
        }
        let no_randomness =
            || Error::file("could not get randomness for", &self.path)(std::io::Error::other("there is none"));
        self.mint.own(repository, super::now()).map(Some).ok_or_else(no_randomness)
    }

    /// What such a token grants: to read what it names.
    pub(super) fn own_grant(&self, access: &[super::short::Access]) -> Result<Presented, Error> {
        if self.document()?.tokens.is_empty() {
            return Ok(Presented::NotDemanded);
        }
        let repositories = access.iter().map(|access| access.name.clone()).collect();
        let scope = super::Scope { environment: None, repositories };
        let name = "this control plane".to_owned();
        Ok(Presented::Valid(Arc::new(Grant { name, role: super::Role::Viewer, scope, expires: None })))
    }

    /// Makes the short-lived tokens of this process.
    pub(super) const fn mint(&self) -> &Mint {
        &self.mint
    }

    /// Makes a token; the second is what its holder gets, and nothing keeps it.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be kept or the operating system gives no randomness.
    pub fn create(&self, grant: Grant, now: Timestamp) -> Result<(Entry, String), Error> {
        let mut random = [0; 32];
        let no_randomness = |error: getrandom::Error| std::io::Error::other(error.to_string());
        getrandom::fill(&mut random)
            .map_err(|error| Error::file("could not get randomness for", &self.path)(no_randomness(error)))?;
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let hash = digest_of(secret.as_bytes());
        let entry = Entry { id: hash.short(), hash, grant: Arc::new(grant), created: now, revoked: None };
        self.change(|document| {
            document.tokens.push(entry.clone());
            true
        })?;
        Ok((entry, secret))
    }

    /// Revokes the token of that id, at once; none when there is none that still counts.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Document`].
    pub fn revoke(&self, id: &str, now: Timestamp) -> Result<Option<Entry>, Error> {
        let mut revoked = None;
        self.change(|document| {
            let entry = document.tokens.iter_mut().find(|entry| entry.id == id && entry.revoked.is_none());
            revoked = entry.map(|entry| {
                entry.revoked = Some(now);
                entry.clone()
            });
            revoked.is_some()
        })?;
        Ok(revoked)
    }

    /// Lets anybody read the repositories that fit a pattern, and no others.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Document`].
    pub fn set_anonymous(&self, patterns: Vec<String>) -> Result<(), Error> {
        self.change(|document| {
            document.anonymous = patterns;
            true
        })
    }

    /// Changes the document while nobody else does, if `change` says so.
    fn change(&self, change: impl FnOnce(&mut Document) -> bool) -> Result<(), Error> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(Error::file("could not make", folder))?;
        let beside = self.path.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&beside).and_then(|file| {
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
        let _lock = lock.map_err(Error::file("could not lock", &beside))?;
        let mut document = Document::clone(&*self.document()?);
        document.form = 1;
        if !change(&mut document) {
            return Ok(());
        }
        // It is a temporary file first, and those are made for their owner alone.
        write_document(&self.path, &document)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Role, Scope};
    use super::*;

    fn grant(name: &str, expires: Option<u64>) -> Grant {
        Grant { name: name.into(), role: Role::Viewer, scope: Scope::default(), expires: expires.map(Timestamp) }
    }

    #[test]
    fn a_token_counts_until_it_expires_or_is_revoked_and_is_kept_hashed_only() {
        let home = tempfile::tempdir().unwrap();
        let tokens = Tokens::at(home.path().join("tokens.json"));
        assert_eq!(tokens.look(None, Timestamp(1)).unwrap(), Presented::NotDemanded);
        let (first, secret) = tokens.create(grant("ci", Some(100)), Timestamp(1)).unwrap();
        let (second, other) = tokens.create(grant("ann", None), Timestamp(1)).unwrap();
        assert_ne!((&first.id, &secret), (&second.id, &other));
        let worth = |secret: &str, at| tokens.look(Some(secret), Timestamp(at)).unwrap();
        assert!(matches!(worth(&secret, 99), Presented::Valid(grant) if grant.name == "ci"));
        assert_eq!((worth(&secret, 100), worth("mdy_x", 1)), (Presented::Invalid, Presented::Invalid));
        assert_eq!(tokens.look(None, Timestamp(1)).unwrap(), Presented::Nothing);
        let text = fs::read_to_string(home.path().join("tokens.json")).unwrap();
        assert!(!text.contains(&secret) && !text.contains(&secret[4..]), "{text}");
        let mode = fs::metadata(home.path().join("tokens.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Who is refused is told, and by no letter of the token.
        let (told, mut refusals) = mpsc::channel(1);
        let watched = Tokens::at(home.path().join("tokens.json")).telling(told);
        let id = watched.look_closely(Some(&secret), Timestamp(100)).unwrap().1;
        watched.refused(id.as_deref(), "expired", "GET", &format!("/v2/{secret}/x"));
        watched.refused(None, "one too many for the channel", "GET", "/");
        let refused = refusals.try_recv().unwrap();
        assert_eq!((refused.token, refused.name.as_deref()), (Some(first.id), Some("ci")));
        assert_eq!((refused.asked.as_str(), refusals.try_recv().is_err()), ("GET /v2/mdy_…", true));
        // Another process revokes it.
        let elsewhere = Tokens::at(home.path().join("tokens.json"));
        assert!(elsewhere.revoke(&second.id, Timestamp(5)).unwrap().is_some());
        assert!(elsewhere.revoke(&second.id, Timestamp(5)).unwrap().is_none());
        assert_eq!(worth(&other, 6), Presented::Invalid);
    }

    #[test]
    fn a_damaged_document_lets_nobody_in() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens.json");
        for text in ["", "{", r#"{"form":2}"#, r#"{"form":1,"else":1}"#] {
            fs::write(&path, text).unwrap();
            assert!(Tokens::at(&path).look(None, Timestamp(1)).is_err(), "{text}");
        }
    }
}
