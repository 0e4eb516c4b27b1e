//! Uploads: blobs on their way in, as files that outlive a restart.
//!
//! Promises: what was acknowledged is there; a session takes one writer at a time; memory stays flat.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

use super::answer::{Code, Refusal};
use crate::Error;
use crate::copying::{Budget, Flush, Pieces, make_read_only};
use crate::digest::{Algorithm, AnyDigest, Hasher};

/// An upload that nobody went on with for so long is removed.
// A day: the longest that a person's interrupted push is likely to be taken up again.
const FORGOTTEN: Duration = Duration::from_secs(86_400);

/// Bytes that are gathered before they are written and hashed, for all pushes and for each of them: it has two such pieces, one that is gathered and one
/// that is being written.
// 128 KiB at least: a hand-over to another thread costs little beside it.
static BUDGET: Budget = Budget::new(4 << 20, 128 << 10, 512 << 10);

/// All uploads.
#[derive(Debug)]
pub struct Uploads {
    folder: PathBuf,
    live: Mutex<HashMap<String, Arc<Session>>>,
}

/// One upload.
#[derive(Debug)]
struct Session {
    id: String,
    repository: String,
    turn: Arc<AsyncMutex<()>>,
    sink: Mutex<Sink>,
}

/// Where the bytes go.
#[derive(Debug)]
struct Sink {
    path: PathBuf,
    file: Option<File>,
    /// Bytes that are written.
    offset: u64,
    /// Hash of everything so far; none after a restart, then the file is read again.
    hasher: Option<Hasher>,
    flush: Flush,
    ended: bool,
}

/// An upload whose turn it is: nobody else writes to it until this, and whatever it still writes after its caller has gone, is over.
#[derive(Debug)]
pub struct Held {
    session: Arc<Session>,
    turn: Arc<OwnedMutexGuard<()>>,
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

    /// Begins an upload into a repository, to be hashed by this algorithm unless it ends with another one; its id.
    pub fn begin(&self, repository: &str, algorithm: Algorithm) -> Result<String, Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            let source = io::Error::other(error.to_string());
            Error::File { doing: "could not draw an id in", path: self.folder.clone(), source }
        })?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.folder.join(&id);
        let make = || {
            fs::write(path.with_extension("repository"), repository)?;
            File::create_new(&path).map(drop)
        };
        if let Err(source) = make() {
            self.end(&id);
            return Err(Error::File { doing: "could not write", path, source });
        }
        let session = Session::new(id.clone(), repository.to_owned(), path, 0, Some(Hasher::new(algorithm)));
        self.live().insert(id.clone(), Arc::new(session));
        Ok(id)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is our turn with an upload of a repository.
    pub async fn take(&self, repository: &str, id: &str) -> Result<Held, Refusal> {
        let session = self.find(repository, id)?;
        let turn = Arc::new(Arc::clone(&session.turn).lock_owned().await);
        match session.sink().ended {
            true => Err(unknown()),
            false => Ok(Held { turn, session: session.clone() }),
        }
    }

    fn find(&self, repository: &str, id: &str) -> Result<Arc<Session>, Refusal> {
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let path = self.folder.join(id);
        let mut live = self.live();
        if let Some(session) = live.get(id) {
            return if session.repository == repository { Ok(session.clone()) } else { Err(unknown()) };
        }
        let owner = fs::read_to_string(path.with_extension("repository")).map_err(|_| unknown())?;
        let length = fs::metadata(&path).map_err(|_| unknown())?.len();
        if owner != repository {
            return Err(unknown());
        }
        let hasher = (length == 0).then(|| Hasher::new(Algorithm::Sha256));
        let session = Arc::new(Session::new(id.to_owned(), owner, path, length, hasher));
        live.insert(id.to_owned(), session.clone());
        Ok(session)
    }

    /// Forgets an upload and removes what it left.
    pub fn end(&self, id: &str) {
        if let Some(session) = self.live().remove(id) {
            session.sink().ended = true;
        }
        let path = self.folder.join(id);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(path.with_extension("repository"));
    }
}

/// Takes a body that cannot be kept, so that its sender comes to read why.
pub async fn drain(mut body: Body) {
    // 1 GiB: whoever sends more sees the connection end.
    let mut left = 1_usize << 30;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.into_data().map_or(0, |data| data.len());
        match left.checked_sub(length) {
            Some(less) => left = less,
            None => return,
        }
    }
}

fn broken_off() -> Refusal {
    Refusal::new(Code::BlobUploadInvalid, "the body broke off; ask where the upload stands and go on from there")
}

fn unknown() -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, "there is no such upload; begin another one")
}

impl Session {
    fn new(id: String, repository: String, path: PathBuf, offset: u64, hasher: Option<Hasher>) -> Self {
        let sink = Sink { path, file: None, offset, hasher, flush: Flush::default(), ended: false };
        Self { id, repository, turn: Arc::default(), sink: Mutex::new(sink) }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.session.id
    }

    /// Bytes that are written.
    pub fn offset(&self) -> u64 {
        self.session.sink().offset
    }

    /// Writes a body to its end: one piece is hashed and written while the next one arrives.
    ///
    /// # Errors
    /// When the caller broke off (what came so far stays, and the caller may go on from there) or the disk failed.
    pub async fn append(&self, mut body: Body) -> Result<(), Refusal> {
        // One piece is gathered while the other one is written.
        let (share, mut memory, mut writing) = (BUDGET.share(), Pieces::new(2), None);
        let (mut room, all) = (share.piece(), body.size_hint().upper());
        let mut gathered =
            memory.empty(all.and_then(|all| usize::try_from(all).ok()).map_or(room, |all| all.min(room)));
        let ended = loop {
            let (mut data, over) = match body.frame().await {
                Some(Ok(frame)) => (frame.into_data().unwrap_or_default(), None),
                None => (Bytes::new(), Some(Ok(()))),
                Some(Err(_)) => (Bytes::new(), Some(Err(broken_off()))),
            };
            while !data.is_empty() || (over.is_some() && !gathered.is_empty()) {
                let fits = data.len().min(room - gathered.len());
                gathered.extend_from_slice(&data.split_to(fits));
                if gathered.len() < room && over.is_none() {
                    continue;
                }
                if let Some(before) = writing.take()
                    && let Err(refusal) = self.done(before).await
                {
                    drain(body).await;
                    return Err(refusal);
                }
                let piece = memory.give(gathered);
                room = share.piece();
                gathered = memory.empty(room);
                writing = Some(self.start(move |sink| sink.write(&piece)));
            }
            if let Some(over) = over {
                break over;
            }
        };
        if let Some(last) = writing {
            self.done(last).await?;
        }
        ended
    }

    /// The digest of everything, and the file ready to be given its name: read-only and on the disk.
    pub async fn seal(&self, algorithm: Algorithm) -> Result<(AnyDigest, PathBuf), Refusal> {
        self.done(self.start(move |sink| sink.seal(algorithm))).await
    }

    /// Work on the file, on a thread that may wait; our turn is not over before it is done, even when the caller has gone.
    fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Sink) -> io::Result<T> + Send + 'static,
    ) -> JoinHandle<io::Result<T>> {
        let (session, turn) = (Arc::clone(&self.session), Arc::clone(&self.turn));
        tokio::task::spawn_blocking(move || {
            let done = work(&mut session.sink());
            drop(turn);
            done
        })
    }

    async fn done<T>(&self, work: JoinHandle<io::Result<T>>) -> Result<T, Refusal> {
        let done = work.await.map_err(io::Error::other).and_then(|done| done);
        let path = || self.session.sink().path.clone();
        done.map_err(|source| Error::File { doing: "could not write", path: path(), source }.into())
    }
}

impl Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).open(&self.path)?,
        };
        if let Err(error) = file.write_all(piece) {
            // A full disk may have taken a part: what was not acknowledged is not kept.
            let _ = file.set_len(self.offset);
            return Err(error);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
        }
        self.offset += piece.len() as u64;
        self.flush.wrote(&file, piece.len())?;
        self.file = Some(file);
        Ok(())
    }

    fn seal(&mut self, algorithm: Algorithm) -> io::Result<(AnyDigest, PathBuf)> {
        self.file = None;
        let mut file = File::open(&self.path)?;
        let digest = match self.hasher.take() {
            Some(hasher) if hasher.algorithm() == algorithm => hasher.finish(),
            _ => {
                let mut hasher = Hasher::new(algorithm);
                hasher.read(&mut file)?;
                hasher.finish()
            }
        };
        make_read_only(&file, false)?;
        file.sync_all()?;
        Ok((digest, self.path.clone()))
    }
}
