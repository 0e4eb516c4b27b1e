//! Blobs in an S3-compatible store, under the names that they have in the folder: `blobs/<algorithm>/<hex>`.
//!
//! Promises: an object appears whole or not at all; what comes back whole is checked against its digest before its last byte is given away;
//! memory stays flat, whatever the size and however many at once.
//! An object's time cannot be set, so that somebody cares for it is said by an empty object beside it, `touched/<algorithm>/<hex>`.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::path::Path as FilePath;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::settings::Settings;
use super::transport::Connector;
use super::{Object, body, chain, runtime, verified, wait};
use crate::digest::{AnyDigest, Hasher};
use crate::{Error, leftovers};

/// Bytes that go at once; smaller blobs go in one request.
// 8 MiB: a request costs little beside it, and three of them in memory at once are little.
const PART: u64 = 8 << 20;

/// Parts of an object, at most: S3 takes ten thousand.
const PARTS: u64 = 9_000;

/// Parts of one blob on their way at once.
const LANES: usize = 2;

/// Blobs that go at once: those that wait lie on the disk.
const UPLOADS: usize = 4;

/// A bucket, or a part of one.
pub(crate) struct Bucket {
    store: AmazonS3,
    prefix: Path,
    /// How it is named in messages.
    name: String,
    runtime: &'static Handle,
    uploads: Semaphore,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.name)
    }
}

/// Bucket and prefix of `s3://bucket/prefix`.
fn read_url(url: &str) -> Result<(&str, Path), &'static str> {
    let rest = url.strip_prefix("s3://").ok_or("it does not begin with `s3://`")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    match (3..=63).contains(&bucket.len()) && bucket.bytes().all(letters) {
        true => Ok((bucket, Path::parse(prefix.trim_end_matches('/')).map_err(|_| "its prefix is no path")?)),
        false => Err("its bucket is no name: 3 to 63 lower-case letters, digits, `-` and `.`"),
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let rest = endpoint.strip_prefix("http://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

/// What is there may be none.
fn found<T>(answer: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match answer {
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// An error of the disk, in the clothes of the bucket.
fn disk(source: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "disk", source: source.into() }
}

impl Bucket {
    /// Opens the bucket that the settings name and looks whether it lets us in.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        let url = settings.blobs.as_deref().unwrap_or_default();
        // An address may carry a password that somebody meant well with.
        let name = url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned();
        let wrong = |why: &str| Error::Storage { store: format!("the bucket `{name}`"), why: why.to_owned() };
        let (bucket, prefix) = read_url(url).map_err(wrong)?;
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_http_connector(Connector);
        let given = [
            (AmazonS3ConfigKey::Endpoint, &settings.endpoint),
            (AmazonS3ConfigKey::Region, &settings.region),
            (AmazonS3ConfigKey::AccessKeyId, &settings.access_key_id),
            (AmazonS3ConfigKey::SecretAccessKey, &settings.secret_access_key),
        ];
        for (key, value) in given.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            builder = builder.with_config(key, value);
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        if endpoint.is_some_and(|endpoint| is_loopback(&endpoint)) {
            builder = builder.with_allow_http(true);
        }
        let retries = RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(20), ..RetryConfig::default() };
        let store = builder.with_retry(retries).build().map_err(|error| wrong(&chain(&error)))?;
        let opened = Self { store, prefix, name, runtime: runtime()?, uploads: Semaphore::new(UPLOADS) };
        // A missing object alone would not tell it from a missing bucket.
        opened.wait(async || opened.store.list_with_delimiter(Some(&opened.prefix.clone().join("none"))).await)?;
        Ok(opened)
    }

    fn at(&self, kind: &'static str, digest: &AnyDigest) -> Path {
        self.prefix.clone().join(kind).join(digest.algorithm().name()).join(digest.hex())
    }

    fn failed(&self, why: String) -> Error {
        Error::Storage { store: format!("the bucket `{}`", self.name), why }
    }

    fn wait<T: Send, F: Future<Output = object_store::Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T, Error> {
        wait(self.runtime, work).map_err(|error| self.failed(chain(&error)))
    }

    fn head(&self, at: &Path) -> Result<Option<ObjectMeta>, Error> {
        self.wait(async || found(self.store.head(at).await))
    }

    /// Length of a blob, if it is there.
    pub fn size(&self, digest: &AnyDigest) -> Result<Option<u64>, Error> {
        Ok(self.head(&self.at("blobs", digest))?.map(|facts| facts.size))
    }

    /// Marks a blob as cared for; whether it is there.
    pub fn touch(&self, digest: &AnyDigest) -> Result<bool, Error> {
        if self.size(digest)?.is_none() {
            return Ok(false);
        }
        let at = self.at("touched", digest);
        self.wait(async || self.store.put(&at, PutPayload::new()).await).map(|_| true)
    }

    /// Stores bytes as this blob.
    pub fn put(&self, digest: &AnyDigest, bytes: Vec<u8>) -> Result<(), Error> {
        let at = self.at("blobs", digest);
        self.wait(async || self.store.put(&at, PutPayload::from(bytes)).await).map(drop)
    }

    /// Stores the file at `path` as this blob, whatever is there: its own bytes may have been damaged. Whose digest it is was checked before.
    pub fn upload(&self, digest: &AnyDigest, path: &FilePath) -> Result<(), Error> {
        let mut file = File::open(path).map_err(Error::file("could not open", path))?;
        let length = file.metadata().map_err(Error::file("could not read", path))?.len();
        let at = self.at("blobs", digest);
        self.wait(async || {
            let _turn = self.uploads.acquire().await;
            if length > PART {
                return self.upload_parts(&at, &mut file, length).await;
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(disk)?;
            self.store.put(&at, PutPayload::from(bytes)).await.map(drop)
        })
    }

    async fn upload_parts(&self, at: &Path, file: &mut File, length: u64) -> object_store::Result<()> {
        let part = usize::try_from(PART.max(length.div_ceil(PARTS))).unwrap_or(usize::MAX);
        let mut writer = WriteMultipart::new_with_chunk_size(self.store.put_multipart(at).await?, part);
        loop {
            let mut piece = vec![0; 1 << 20];
            match file.read(&mut piece) {
                Ok(0) => return writer.finish().await.map(drop),
                Ok(length) => {
                    writer.wait_for_capacity(LANES).await?;
                    piece.truncate(length);
                    writer.put(Bytes::from(piece));
                }
                Err(error) => {
                    writer.abort().await?;
                    return Err(disk(error));
                }
            }
        }
    }

    /// A small blob whole, at most `limit` bytes of it.
    pub fn read(&self, digest: &AnyDigest, limit: u64) -> Result<Vec<u8>, Error> {
        let at = self.at("blobs", digest);
        self.wait(async || {
            let (mut bytes, mut pieces) = (Vec::new(), self.store.get(&at).await?.into_stream());
            while let Some(piece) = pieces.try_next().await? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 >= limit {
                    break;
                }
            }
            Ok(bytes)
        })
    }

    /// Fetches a blob to `path` and checks it; whether it is there.
    pub fn bring(&self, digest: &AnyDigest, path: &FilePath) -> Result<bool, Error> {
        let folder = path.parent().unwrap_or(FilePath::new("."));
        let failed = |source| Error::File { doing: "could not write into", path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let temporary = leftovers::file_in(folder).map_err(failed)?;
        let came = self.each(digest, |piece| temporary.as_file().write_all(piece))?;
        let Some((came, _)) = came else { return Ok(false) };
        if came != *digest {
            return Err(self.failed(format!("the bytes of blob {digest} have digest {came} there; push it again")));
        }
        let sealed =
            crate::copying::make_read_only(temporary.as_file(), false).and_then(|()| temporary.as_file().sync_all());
        sealed.map_err(failed)?;
        temporary.persist(path).map_err(|error| failed(error.error))?;
        Ok(true)
    }

    /// The digest and the length of what is there as this blob.
    pub fn hash(&self, digest: &AnyDigest) -> Result<(AnyDigest, u64), Error> {
        self.each(digest, |_| Ok(()))?.ok_or_else(|| self.failed(format!("it has no blob {digest}")))
    }

    /// Gives every piece of a blob to `each`; the digest and length of all, or none if it is not there.
    fn each(
        &self,
        digest: &AnyDigest,
        mut each: impl FnMut(&[u8]) -> io::Result<()> + Send,
    ) -> Result<Option<(AnyDigest, u64)>, Error> {
        let at = self.at("blobs", digest);
        self.wait(async || {
            let Some(answer) = found(self.store.get(&at).await)? else { return Ok(None) };
            let (mut pieces, mut hasher, mut length) = (answer.into_stream(), Hasher::new(digest.algorithm()), 0);
            while let Some(piece) = pieces.try_next().await? {
                hasher.update(&piece);
                length += piece.len() as u64;
                each(&piece).map_err(disk)?;
            }
            Ok(Some((hasher.finish(), length)))
        })
    }

    /// `length` bytes of a blob of `size` bytes, from `from`. When they are all of it, the last of them are only sent once they have shown
    /// their digest; otherwise the answer breaks off.
    pub fn body(&self, digest: &AnyDigest, from: u64, length: u64, size: u64) -> Body {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
        if length > 0 {
            let (store, at, digest) = (self.store.clone(), self.at("blobs", digest), digest.clone());
            let check = (length == size).then(|| Hasher::new(digest.algorithm()));
            self.runtime.spawn(async move {
                if let Err(error) =
                    give(&store, &at, from..from + length, check.map(|hasher| (hasher, digest)), &sender).await
                {
                    tracing::error!(%at, error = %chain(&error), "the answer with a blob of the bucket breaks off");
                    let _ = sender.send(Err(error)).await;
                }
            });
        }
        body::pieces(receiver)
    }

    /// Every blob.
    pub fn list(&self) -> Result<Vec<Object>, Error> {
        let (blobs, touched) = (self.prefix.clone().join("blobs"), self.prefix.clone().join("touched"));
        let clock = touched.clone().join("clock");
        self.wait(async || {
            let mut touched_at = HashMap::new();
            let mut marks = self.store.list(Some(&touched));
            while let Some(mark) = marks.try_next().await? {
                touched_at.extend(digest_of(&mark.location).map(|digest| (digest, mark.last_modified)));
            }
            // Ages are by the clock of the store, whatever ours says.
            self.store.put(&clock, PutPayload::new()).await?;
            let now = self.store.head(&clock).await?.last_modified;
            let object = |facts: ObjectMeta| {
                let digest = digest_of(&facts.location)?;
                let at = touched_at.get(&digest).copied().unwrap_or_default().max(facts.last_modified);
                // The time of a single object is told in whole seconds.
                let age = Some((now - at).to_std().unwrap_or_default());
                Some(Object { digest, size: facts.size, age })
            };
            self.store.list(Some(&blobs)).try_filter_map(async |facts| Ok(object(facts))).try_collect().await
        })
    }

    /// Removes a blob, and that anybody cared for it.
    pub fn remove(&self, digest: &AnyDigest) -> Result<(), Error> {
        let (blob, mark) = (self.at("blobs", digest), self.at("touched", digest));
        self.wait(async || {
            found(self.store.delete(&blob).await)?;
            found(self.store.delete(&mark).await).map(drop)
        })
    }
}

fn digest_of(location: &Path) -> Option<AnyDigest> {
    let mut parts = location.as_ref().rsplit('/');
    let (hex, algorithm) = (parts.next()?, parts.next()?);
    format!("{algorithm}:{hex}").parse().ok()
}

/// Sends a range of an object piece by piece, until nobody wants it any more.
async fn give(
    store: &AmazonS3,
    at: &Path,
    range: std::ops::Range<u64>,
    mut check: Option<(Hasher, AnyDigest)>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut left = range.end - range.start;
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let mut pieces = store.get_opts(at, options).await.map_err(io::Error::other)?.into_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(io::Error::other)?;
        left = left.checked_sub(piece.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
        if let Some((hasher, expected)) = &mut check {
            hasher.update(&piece);
            if left == 0 && hasher.clone().finish() != *expected {
                return Err(io::Error::new(io::ErrorKind::InvalidData, verified::CHANGED));
            }
        }
        if sender.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
    if left > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_perhaps_a_prefix() {
        assert_eq!(read_url("s3://models"), Ok(("models", Path::default())));
        assert_eq!(read_url("s3://models/a/b/"), Ok(("models", Path::from("a/b"))));
        for wrong in ["", "https://models", "s3://", "s3://A", "s3://models/a//b", "s3://key:secret@models"] {
            assert!(read_url(wrong).is_err(), "{wrong}");
        }
        for (endpoint, here) in [
            ("http://127.0.0.1:9000", true),
            ("http://localhost", true),
            ("http://[::1]:9/x", true),
            ("https://localhost", false),
            ("http://127.0.0.1.example.com:80", false),
        ] {
            assert_eq!(is_loopback(endpoint), here, "{endpoint}");
        }
    }

    #[test]
    fn a_store_that_cannot_be_reached_is_named_without_its_key() {
        let settings = Settings {
            blobs: Some("s3://models".into()),
            endpoint: Some("http://127.0.0.1:9".into()),
            access_key_id: Some("me".into()),
            secret_access_key: Some("hunter2".into()),
            ..Settings::default()
        };
        let error = Bucket::open(&settings).unwrap_err().to_string();
        assert!(error.contains("s3://models") && !error.contains("hunter2"), "{error}");
    }
}
