//! Copying and hashing the same bytes at the same time; what copies of large files have in common.
//!
//! Promises: the digest is of the very bytes that were written; memory stays flat: a few pieces.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::{Bytes, BytesMut};
use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};

/// What is read, written and hashed at once.
// 1 MiB: a hand-over to the hashing thread costs nothing beside it.
const PIECE: usize = 1 << 20;

/// Pieces that wait to be hashed.
const WAITING: usize = 4;

/// Bytes that are written before the disk is asked, beside the copy, to keep them.
// 64 MiB: the last wait for the disk is then short, whatever the size.
const UNSYNCED: u64 = 64 << 20;

/// Has a file kept by the disk while it is being written, so that the last wait is short.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    unsynced: u64,
    syncing: Option<thread::JoinHandle<()>>,
}

impl Flush {
    /// To be told of each piece that was written.
    pub fn wrote(&mut self, file: &File, length: usize) -> io::Result<()> {
        self.unsynced += length as u64;
        if self.unsynced >= UNSYNCED && self.syncing.as_ref().is_none_or(thread::JoinHandle::is_finished) {
            self.unsynced = 0;
            let file = file.try_clone()?;
            // Its failure shows again when the file is synced whole.
            self.syncing = Some(thread::spawn(move || drop(file.sync_data())));
        }
        Ok(())
    }
}

/// Memory that all who move bytes at once share: alone, somebody works in large pieces, which is faster; many work in smaller ones.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes of one piece for each of them, together.
    together: usize,
    /// The smallest piece, in bytes.
    smallest: usize,
    /// The largest piece, in bytes.
    largest: usize,
    /// How many they are.
    sharers: AtomicUsize,
}

/// One who shares, until dropped.
#[derive(Debug)]
pub(crate) struct Share(&'static Budget);

impl Budget {
    /// A budget that nobody shares yet.
    pub const fn new(together: usize, smallest: usize, largest: usize) -> Self {
        Self { together, smallest, largest, sharers: AtomicUsize::new(0) }
    }

    /// One more.
    pub fn share(&'static self) -> Share {
        self.sharers.fetch_add(1, Relaxed);
        Share(self)
    }
}

impl Share {
    /// Length of the next piece in bytes.
    pub fn piece(&self) -> usize {
        let Budget { together, smallest, largest, sharers } = self.0;
        (together / sharers.load(Relaxed).max(1)).clamp(*smallest, *largest)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.sharers.fetch_sub(1, Relaxed);
    }
}

/// Pieces that another thread works on, and whose memory is used again when it is done with them.
#[derive(Debug)]
pub(crate) struct Pieces {
    given: VecDeque<Bytes>,
    most: usize,
}

impl Pieces {
    /// At most so many are under way at once.
    pub fn new(most: usize) -> Self {
        Self { given: VecDeque::with_capacity(most), most }
    }

    /// A piece of this length, to be filled; of the oldest one's memory, if that is free.
    pub fn next(&mut self, length: usize) -> BytesMut {
        let mut piece = self.oldest(length);
        piece.resize(length, 0);
        piece
    }

    /// A piece that is filled bit by bit, with room for so many bytes.
    pub fn empty(&mut self, room: usize) -> BytesMut {
        let mut piece = self.oldest(room);
        piece.clear();
        piece.reserve(room);
        piece
    }

    /// The oldest piece, if nobody works on it any more and it is not much larger than is needed by now.
    fn oldest(&mut self, length: usize) -> BytesMut {
        let oldest = (self.given.len() == self.most).then(|| self.given.pop_front()).flatten();
        let free = oldest.and_then(|piece| piece.try_into_mut().ok());
        free.filter(|piece| piece.capacity() <= 2 * length).unwrap_or_default()
    }

    /// The piece, to be given away.
    pub fn give(&mut self, piece: BytesMut) -> Bytes {
        let piece = piece.freeze();
        self.given.push_back(piece.clone());
        piece
    }
}

/// A blob's name and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// Reads until `chunk` is full or the source ends.
pub(crate) fn fill(source: &mut dyn Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Nobody writes to it from now on; `executable` lets it be started.
pub(crate) fn make_read_only(file: &File, executable: bool) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(if executable { 0o555 } else { 0o444 }))
}

/// Copies everything from `source` into `sink`. What is shorter than a piece is hashed by this thread; else another one hashes while this one copies.
pub(crate) fn copy(source: &mut dyn Read, sink: &mut File) -> io::Result<Blob> {
    let mut first = BytesMut::zeroed(PIECE);
    let length = fill(source, &mut first)?;
    first.truncate(length);
    if length < PIECE {
        sink.write_all(&first)?;
        return Ok(Blob { digest: Digest::from_sha256(Sha256::digest(&first).into()), size_bytes: length as u64 });
    }
    let (pieces, coming) = sync_channel(WAITING);
    thread::scope(|scope| {
        let hashing = scope.spawn(move || hash(&coming));
        let copied = copy_on(first, source, sink, pieces);
        let digest = hashing.join().map_err(|_| io::Error::other("the thread that hashes panicked"))?;
        Ok(Blob { digest, size_bytes: copied? })
    })
}

fn hash(pieces: &Receiver<Bytes>) -> Digest {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update(&piece);
    }
    Digest::from_sha256(hash.finalize().into())
}

/// Writes the first piece and all that follow, and hands each over; how many bytes it were.
fn copy_on(first: BytesMut, source: &mut dyn Read, sink: &mut File, pieces: SyncSender<Bytes>) -> io::Result<u64> {
    let gone = |_| io::Error::other("the thread that hashes is gone");
    let (mut piece, mut given, mut flush, mut size) = (first, Pieces::new(WAITING + 2), Flush::default(), 0);
    while !piece.is_empty() {
        let bytes = given.give(piece);
        pieces.send(bytes.clone()).map_err(gone)?;
        sink.write_all(&bytes)?;
        flush.wrote(sink, bytes.len())?;
        size += bytes.len() as u64;
        drop(bytes);
        piece = given.next(PIECE);
        let length = fill(source, &mut piece)?;
        piece.truncate(length);
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    #[test]
    fn many_get_smaller_pieces_than_one() {
        static BUDGET: Budget = Budget::new(800, 50, 300);
        let one = BUDGET.share();
        assert_eq!(one.piece(), 300);
        let others: Vec<Share> = (0..7).map(|_| BUDGET.share()).collect();
        assert_eq!(one.piece(), 100);
        let more: Vec<Share> = (0..100).map(|_| BUDGET.share()).collect();
        assert_eq!(one.piece(), 50);
        drop((others, more));
        assert_eq!(one.piece(), 300);
    }

    #[test]
    fn what_is_written_is_what_was_hashed() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 9 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            let blob = copy(&mut &bytes[..], &mut file).unwrap();
            assert_eq!(
                blob,
                Blob { digest: Digest::from_sha256(Sha256::digest(&bytes).into()), size_bytes: length as u64 }
            );
            let mut written = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut written).unwrap();
            assert!(written == bytes, "{length}");
        }
    }

    #[test]
    fn a_source_that_fails_fails_the_copy() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("torn"));
                }
                let length = into.len().min(self.0);
                self.0 -= length;
                Ok(length)
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(copy(&mut Failing(3 * PIECE), &mut file).unwrap_err().to_string(), "torn");
    }
}
