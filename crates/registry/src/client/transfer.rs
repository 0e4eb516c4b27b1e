//! Blobs on their way: several at once, each going on where it stood when a connection breaks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{Method, StatusCode, header};

use super::Tell;
use super::error::ClientError;
use super::http::{Http, Sent};
use crate::Store;
use crate::manifest::Descriptor;

/// Blobs that move at once.
// 4: what registries allow one client, and enough that latency does not set the pace.
const LANES: usize = 4;

/// How often a transfer may break off before it is given up.
const TRIES: u32 = 5;

/// Pause before the next try, growing.
const PAUSE: Duration = Duration::from_millis(200);

/// The parts that the registry does not have.
pub fn missing(http: &Http, parts: &[Descriptor]) -> Result<Vec<Descriptor>, ClientError> {
    let found = Mutex::new(Vec::new());
    in_lanes(parts, |part| {
        const DOING: &str = "say which blobs it has";
        let path = format!("/blobs/{}", part.digest);
        let answer = http.ask(&Method::HEAD, &path, &[], &Sent::Nothing, DOING)?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => {
                found.lock().unwrap_or_else(PoisonError::into_inner).push(part.clone());
                Ok(())
            }
            _ => Err(http.refused(DOING, answer)),
        }
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|part| part.digest);
    Ok(found)
}

/// Sends blobs of the local registry.
pub fn send(http: &Http, store: &Store, parts: &[Descriptor], tell: Tell<'_>) -> Result<(), ClientError> {
    let done = Done::of(parts, tell);
    in_lanes(parts, |part| send_one(http, store, part, &done))
}

fn send_one(http: &Http, store: &Store, part: &Descriptor, done: &Done<'_>) -> Result<(), ClientError> {
    const DOING: &str = "take a blob";
    store.blobs().verify(&part.digest)?;
    let begun = http.ask(&Method::POST, "/blobs/uploads/", &[], &Sent::Bytes(b""), DOING)?;
    if begun.status() != StatusCode::ACCEPTED {
        return Err(http.refused(DOING, begun));
    }
    let mut place = location(http, &begun)?;
    let mut from = 0;
    for attempt in 1.. {
        let path = store.blobs().path(&part.digest);
        let open = || -> io::Result<Box<dyn Read + '_>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(from))?;
            Ok(Box::new(Counted { source: file, done }))
        };
        let last = part.size.saturating_sub(1);
        let mut headers = vec![(header::CONTENT_TYPE, "application/octet-stream".to_owned())];
        if from > 0 {
            headers.push((header::CONTENT_RANGE, format!("{from}-{last}")));
        }
        let joint = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{joint}digest={}", part.digest);
        let sent = http.ask(&Method::PUT, &url, &headers, &Sent::Stream(&open, part.size - from), DOING);
        match sent {
            Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(()),
            Ok(answer) if !answer.status().is_server_error() => return Err(http.refused(DOING, answer)),
            Err(error @ ClientError::Denied { .. }) => return Err(error),
            Ok(answer) if attempt >= TRIES => return Err(http.refused(DOING, answer)),
            Err(error) if attempt >= TRIES => return Err(error),
            Ok(_) | Err(_) => {}
        }
        std::thread::sleep(PAUSE * attempt);
        // Where it stands: an upload that the registry forgot is begun anew.
        let standing = http.ask(&Method::GET, &place, &[], &Sent::Nothing, DOING);
        match standing {
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {
                from = stands(answer.headers().get(header::RANGE).and_then(|value| value.to_str().ok()), part.size);
                place = location(http, &answer).unwrap_or(place);
            }
            _ => {
                let begun = http.ask(&Method::POST, "/blobs/uploads/", &[], &Sent::Bytes(b""), DOING)?;
                (place, from) = (location(http, &begun)?, 0);
            }
        }
    }
    Ok(())
}

/// Bytes that arrived, by `Range: 0-LAST`; an upload that has none says `0-0` too.
fn stands(range: Option<&str>, size: u64) -> u64 {
    let last = range.and_then(|range| range.rsplit_once('-')).and_then(|(_, last)| last.parse::<u64>().ok());
    last.filter(|&last| last > 0).map_or(0, |last| (last + 1).min(size))
}

fn location(http: &Http, answer: &ureq::http::Response<ureq::Body>) -> Result<String, ClientError> {
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    location.map(|location| http.url(location)).ok_or_else(|| ClientError::Refused {
        host: http.host().to_owned(),
        doing: "take a blob",
        why: "it does not say where to send it".to_owned(),
    })
}

/// Fetches blobs into the local registry.
pub fn fetch(http: &Http, store: &Store, parts: &[Descriptor], tell: Tell<'_>) -> Result<(), ClientError> {
    let done = Done::of(parts, tell);
    in_lanes(parts, |part| {
        let mut source = Resuming { http, part, body: None, at: 0, broken: 0, failed: None };
        let stored = store.blobs().store(&mut Counted { source: &mut source, done: &done });
        if let Some(error) = source.failed {
            return Err(error);
        }
        let found = stored?.blob;
        if found.digest != part.digest {
            // What nobody asked for is swept with everything that nothing refers to.
            let (expected, actual) = (part.digest.to_string(), found.digest.to_string());
            return Err(ClientError::WrongBytes { host: http.host().to_owned(), expected, actual });
        }
        Ok(())
    })
}

/// A blob being read from a registry, from where it stood after each break.
struct Resuming<'a> {
    http: &'a Http,
    part: &'a Descriptor,
    body: Option<ureq::BodyReader<'static>>,
    at: u64,
    broken: u32,
    failed: Option<ClientError>,
}

impl Resuming<'_> {
    fn open(&mut self) -> Result<ureq::BodyReader<'static>, ClientError> {
        const DOING: &str = "give a blob";
        let path = format!("/blobs/{}", self.part.digest);
        let range = (self.at > 0).then(|| (header::RANGE, format!("bytes={}-", self.at)));
        let answer = self.http.ask(&Method::GET, &path, range.as_slice(), &Sent::Nothing, DOING)?;
        let mut skip = match answer.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            StatusCode::OK => self.at,
            _ => return Err(self.http.refused(DOING, answer)),
        };
        let mut body = answer.into_body().into_reader();
        // A registry without ranges gives it all again.
        let mut scratch = vec![0; 64 << 10];
        while skip > 0 {
            let most = usize::try_from(skip).unwrap_or(scratch.len()).min(scratch.len());
            match body.read(&mut scratch[..most]) {
                Ok(length) if length > 0 => skip -= length as u64,
                _ => break,
            }
        }
        Ok(body)
    }

    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let broke = |why: String| ClientError::Unreachable { host: self.http.host().to_owned(), why };
        let length = body.read(buffer).map_err(|error| broke(error.to_string()))?;
        if length == 0 && self.at < self.part.size {
            return Err(broke(format!("it broke off after {} of {} bytes", self.at, self.part.size)));
        }
        self.body = Some(body);
        Ok(length)
    }
}

impl Read for Resuming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.part.size || buffer.is_empty() {
            return Ok(0);
        }
        // More than was announced is not read: the digest would not fit anyway.
        let most = usize::try_from(self.part.size - self.at).unwrap_or(buffer.len()).min(buffer.len());
        loop {
            match self.step(&mut buffer[..most]) {
                Ok(length) => {
                    self.at += length as u64;
                    return Ok(length);
                }
                Err(ClientError::Unreachable { .. }) if self.broken + 1 < TRIES => {
                    self.broken += 1;
                    std::thread::sleep(PAUSE * self.broken);
                }
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.failed = Some(error);
                    return Err(told);
                }
            }
        }
    }
}

/// Bytes that are done, told as they go.
struct Done<'a> {
    bytes: AtomicU64,
    all: u64,
    tell: Tell<'a>,
}

impl<'a> Done<'a> {
    fn of(parts: &[Descriptor], tell: Tell<'a>) -> Self {
        let all = parts.iter().map(|part| part.size).sum();
        tell(0, all);
        Self { bytes: AtomicU64::new(0), all, tell }
    }
}

struct Counted<'a, 'b, R> {
    source: R,
    done: &'a Done<'b>,
}

impl<R: Read> Read for Counted<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        let done = self.done.bytes.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        (self.done.tell)(done.min(self.done.all), self.done.all);
        Ok(length)
    }
}

/// Does the work for each part, several at once; the first error ends it.
fn in_lanes(
    parts: &[Descriptor],
    work: impl Fn(&Descriptor) -> Result<(), ClientError> + Sync,
) -> Result<(), ClientError> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let lane = || {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(part) {
                next.store(parts.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..parts.len().min(LANES) {
            scope.spawn(lane);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_stands_where_its_range_says() {
        assert_eq!(
            [stands(None, 10), stands(Some("0-0"), 10), stands(Some("0-4"), 10), stands(Some("0-99"), 10)],
            [0, 0, 5, 10]
        );
    }
}
