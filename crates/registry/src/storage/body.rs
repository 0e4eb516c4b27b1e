//! Bodies: bytes of a file, read piece by piece as they are sent.
//!
//! Promises: all callers together hold a few megabytes, whatever their files' length; a thread waits for the disk, never the one that sends.

use std::fs::File;
use std::io::{self, IoSliceMut, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::verified::Check;
use crate::copying::{self, Budget, Share};

/// What is read at once of a file that is hashed.
// 128 KiB: a hand-over between threads costs little beside it, and 32 callers hold three each, 12 MiB.
const PIECE: usize = 128 << 10;

/// What is read at once for all callers of files that need no check, and for each of them: it has two such pieces at most, one that is read into and one that is
/// being sent.
// Up to 512 KiB, the larger the faster: the network takes it in one call, and sends it in its largest packets.
static BUDGET: Budget = Budget::new(4 << 20, 64 << 10, 512 << 10);

/// Bytes of a file from `from`, `length` of them. With a check, the last of them are only sent once the whole file has shown its digest;
/// otherwise the answer breaks off.
pub fn file_body(file: File, from: u64, length: u64, check: Option<Check>) -> Body {
    match check {
        Some(check) => hashed(file, from, length, check),
        None => Body::from_stream(Known::new(file, from, length)),
    }
}

/// A body of the pieces that come through a channel.
pub fn pieces(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    Body::from_stream(Pieces(receiver))
}

struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// A file that needs no check. What the system holds in memory is read by the thread that sends it: a hand-over between threads would cost more than
/// the copy.
struct Known {
    file: Arc<File>,
    from: u64,
    left: u64,
    share: Share,
    given: copying::Pieces,
    reading: Option<JoinHandle<io::Result<BytesMut>>>,
}

impl Known {
    fn new(file: File, from: u64, length: u64) -> Self {
        Self {
            file: Arc::new(file),
            from,
            left: length,
            share: BUDGET.share(),
            given: copying::Pieces::new(2),
            reading: None,
        }
    }

    /// The next bytes, if they are in memory.
    fn at_once(&self, piece: &mut BytesMut) -> io::Result<bool> {
        match preadv2(&self.file, &mut [IoSliceMut::new(piece)], self.from, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                piece.truncate(read);
                Ok(true)
            }
            // Not in memory; a file system that cannot tell; a kernel from before 4.14.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Stream for Known {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let read = match &mut self.reading {
            Some(reading) => ready!(Pin::new(reading).poll(cx)),
            None => {
                let most = self.share.piece();
                let length = usize::try_from(self.left).unwrap_or(most).min(most);
                let mut piece = self.given.next(length);
                match self.at_once(&mut piece) {
                    Ok(true) => Ok(Ok(piece)),
                    Err(error) => Ok(Err(error)),
                    Ok(false) => {
                        let (file, from) = (Arc::clone(&self.file), self.from);
                        let waiting =
                            tokio::task::spawn_blocking(move || file.read_exact_at(&mut piece, from).map(|()| piece));
                        ready!(Pin::new(self.reading.insert(waiting)).poll(cx))
                    }
                }
            }
        };
        self.reading = None;
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(piece) => {
                self.from += piece.len() as u64;
                self.left -= piece.len() as u64;
                Poll::Ready(Some(Ok(self.given.give(piece))))
            }
            Err(error) => {
                self.left = 0;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

/// A file that another thread hashes, up to two pieces ahead of what is sent.
fn hashed(mut file: File, from: u64, length: u64, check: Check) -> Body {
    // One is read into, one waits in the channel, one is being sent.
    const PIECES: usize = 3;
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::task::spawn_blocking(move || {
        let ready = check.before(&mut file, length).and_then(|check| file.seek(SeekFrom::Start(from)).map(|_| check));
        let mut check = match ready {
            Ok(check) => check,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        let (mut left, mut given) = (length, copying::Pieces::new(PIECES));
        while left > 0 {
            let mut piece = given.next(usize::try_from(left).unwrap_or(PIECE).min(PIECE));
            left = left.saturating_sub(PIECE as u64);
            let read = file.read_exact(&mut piece).and_then(|()| match &mut check {
                Some(check) => check.piece(&piece, left == 0),
                None => Ok(()),
            });
            let stop = read.is_err();
            let piece = given.give(piece);
            if sender.blocking_send(read.map(|()| piece)).is_err() || stop {
                return;
            }
        }
    });
    pieces(receiver)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rustix::fs::{Advice, fadvise};

    use super::super::verified::Verified;
    use super::*;
    use crate::digest::AnyDigest;

    const LENGTH: usize = 5 * PIECE + 17;

    /// A file of which nothing is held in memory, where it lies on a disk.
    fn forgotten() -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        (file, bytes)
    }

    async fn sent(file: File, from: usize, length: usize, check: Option<Check>) -> Result<Vec<u8>, axum::Error> {
        let body = file_body(file, from as u64, length as u64, check).collect().await?;
        Ok(body.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn every_byte_is_sent_from_the_disk_and_from_memory() {
        let (file, bytes) = forgotten();
        for (from, length) in [(0, LENGTH), (0, LENGTH), (PIECE - 1, 2), (3, PIECE), (LENGTH - 1, 1), (LENGTH, 0)] {
            let came = sent(file.try_clone().unwrap(), from, length, None).await.unwrap();
            assert!(came == bytes[from..from + length], "{length} bytes from {from}");
        }
    }

    #[tokio::test]
    async fn a_file_that_was_cut_short_breaks_its_answer_off() {
        let (file, _) = forgotten();
        file.set_len(2 * PIECE as u64).unwrap();
        assert!(sent(file, 0, LENGTH, None).await.is_err());
    }

    #[tokio::test]
    async fn what_is_checked_is_sent_whole_or_breaks_off() {
        let (file, bytes) = forgotten();
        let digest: AnyDigest = (&crate::blob::digest_of(&bytes)).into();
        let check = |digest| Verified::default().check(&file, digest);
        let came = sent(file.try_clone().unwrap(), 0, LENGTH, check(&digest)).await.unwrap();
        assert!(came == bytes);
        let part = sent(file.try_clone().unwrap(), 7, PIECE, check(&digest)).await.unwrap();
        assert!(part == bytes[7..7 + PIECE]);
        let other: AnyDigest = (&crate::blob::digest_of(b"other")).into();
        assert!(sent(file.try_clone().unwrap(), 0, LENGTH, check(&other)).await.is_err());
        assert!(sent(file.try_clone().unwrap(), 7, PIECE, check(&other)).await.is_err());
    }
}
