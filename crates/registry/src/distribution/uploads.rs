//! Uploads: blobs on their way in, as files that outlive a restart.
//!
//! Promises: what was acknowledged is there; a session takes one writer at a time; memory stays flat.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::Mutex as AsyncMutex;

use super::answer::{Code, Refusal};
use super::digest::{Algorithm, AnyDigest, Hasher};
use crate::Error;

/// An upload that nobody went on with for so long is removed.
// A day: the longest that a person's interrupted push is likely to be taken up again.
const FORGOTTEN: Duration = Duration::from_secs(86_400);

/// Bytes that are gathered before they are written and hashed.
// 1 MiB: a hand-over to another thread costs nothing beside it.
const PIECE: usize = 1 << 20;

/// All uploads.
#[derive(Debug)]
pub struct Uploads {
    folder: PathBuf,
    live: Mutex<HashMap<String, Arc<AsyncMutex<Session>>>>,
}

/// One upload.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    repository: String,
    file: Option<File>,
    /// Bytes that are written.
    pub offset: u64,
    /// Hash of everything so far; none after a restart, then the file is read again.
    hasher: Option<Hasher>,
}

impl Uploads {
    /// Opens the folder of uploads and removes those that were forgotten.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::file("could not make", folder))?;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|facts| facts.modified()).ok();
            let age = age.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
            if age > FORGOTTEN {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { folder: folder.to_owned(), live: Mutex::default() })
    }

    /// Begins an upload into a repository; its id.
    pub fn begin(&self, repository: &str) -> Result<String, Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            let source = io::Error::other(error.to_string());
            Error::File { doing: "could not draw an id in", path: self.folder.clone(), source }
        })?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.folder.join(&id);
        fs::write(path.with_extension("repository"), repository).map_err(Error::file("could not write", &path))?;
        File::create_new(&path).map_err(Error::file("could not write", &path))?;
        Ok(id)
    }

    /// An upload of a repository.
    pub fn find(&self, repository: &str, id: &str) -> Result<Arc<AsyncMutex<Session>>, Refusal> {
        let unknown = || Refusal::new(Code::BlobUploadUnknown, "there is no such upload; begin another one");
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let path = self.folder.join(id);
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = live.get(id) {
            return Ok(session.clone());
        }
        let owner = fs::read_to_string(path.with_extension("repository")).map_err(|_| unknown())?;
        let length = fs::metadata(&path).map_err(|_| unknown())?.len();
        if owner != repository {
            return Err(unknown());
        }
        let hasher = (length == 0).then(|| Hasher::new(Algorithm::Sha256));
        let session = Session { path, repository: owner, file: None, offset: length, hasher };
        let session = Arc::new(AsyncMutex::new(session));
        live.insert(id.to_owned(), session.clone());
        Ok(session)
    }

    /// Forgets an upload and removes what it left.
    pub fn end(&self, id: &str) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let path = self.folder.join(id);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(path.with_extension("repository"));
    }
}

impl Session {
    /// Whether it belongs to this repository.
    pub fn is_of(&self, repository: &str) -> bool {
        self.repository == repository
    }

    /// Writes a body to its end.
    ///
    /// # Errors
    /// When the caller broke off (what came so far stays, and the caller may go on from there) or the disk failed.
    pub async fn append(&mut self, mut body: Body) -> Result<(), Refusal> {
        let mut gathered = BytesMut::new();
        loop {
            let frame = body.frame().await.transpose().map_err(|_| {
                Refusal::new(
                    Code::BlobUploadInvalid,
                    "the body broke off; ask where the upload stands and go on from there",
                )
            });
            let (over, broken) = match frame {
                Ok(Some(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        gathered.extend_from_slice(&data);
                    }
                    (false, None)
                }
                Ok(None) => (true, None),
                Err(refusal) => (true, Some(refusal)),
            };
            if gathered.len() >= PIECE || (over && !gathered.is_empty()) {
                self.write(gathered.split()).await?;
            }
            match (over, broken) {
                (_, Some(refusal)) => return Err(refusal),
                (true, None) => return Ok(()),
                (false, None) => {}
            }
        }
    }

    async fn write(&mut self, piece: BytesMut) -> Result<(), Refusal> {
        let (path, file, hasher, offset) = (self.path.clone(), self.file.take(), self.hasher.take(), self.offset);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => OpenOptions::new().append(true).open(&path)?,
            };
            if let Err(error) = file.write_all(&piece) {
                // A full disk may have taken a part: what was not acknowledged is not kept.
                let _ = file.set_len(offset);
                return Err(error);
            }
            let hasher = hasher.map(|mut hasher| {
                hasher.update(&piece);
                hasher
            });
            Ok((file, hasher, piece.len() as u64))
        });
        let (file, hasher, length) = done(written.await, &self.path)?;
        (self.file, self.hasher) = (Some(file), hasher);
        self.offset += length;
        Ok(())
    }

    /// The digest of everything, and the file ready to be given its name: read-only and on the disk.
    pub async fn seal(&mut self, algorithm: Algorithm) -> Result<(AnyDigest, PathBuf), Refusal> {
        let (path, hasher) = (self.path.clone(), self.hasher.take());
        self.file = None;
        let sealed = tokio::task::spawn_blocking(move || {
            let mut file = File::open(&path)?;
            let digest = match hasher {
                Some(hasher) if algorithm == Algorithm::Sha256 => hasher.finish(),
                _ => {
                    let mut hasher = Hasher::new(algorithm);
                    hasher.read(&mut file)?;
                    hasher.finish()
                }
            };
            crate::blob::make_read_only(&file, false)?;
            file.sync_all()?;
            Ok((digest, path))
        });
        done(sealed.await, &self.path)
    }
}

fn done<T>(joined: Result<io::Result<T>, tokio::task::JoinError>, path: &Path) -> Result<T, Refusal> {
    let done = joined.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|source| Error::File { doing: "could not write", path: path.to_owned(), source }.into())
}
