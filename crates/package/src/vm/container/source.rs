//! A raw disk, read for what it holds.
//!
//! Promises: holes and runs of zeros are never handed on, whether the file system knows of them or not; memory stays flat; holes cost no time.
//! Absent on purpose: keeping the file's position, which looking for holes moves.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom as Place;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Bytes that are kept or left out together, in every container: 64 KiB, the cluster of qcow2 and the grain of VMDK.
pub const CLUSTER: usize = 64 << 10;

/// Bytes that are read at once: 4 MiB, enough to keep a few threads busy and a disk streaming.
const PIECE: usize = 64 * CLUSTER;

/// Bytes of a sector: disks are made of whole ones.
pub const SECTOR: u64 = 512;

static ZEROS: [u8; CLUSTER] = [0; CLUSTER];

/// A raw disk.
pub struct Source<'a> {
    raw: &'a File,
    size: u64,
}

impl<'a> Source<'a> {
    /// Takes the disk that `raw` holds.
    pub fn new(mut raw: &'a File) -> io::Result<Self> {
        let size = raw.seek(SeekFrom::End(0)).map_err(reading)?;
        if size == 0 || !size.is_multiple_of(SECTOR) {
            let why = format!(
                "the raw disk has {size} bytes; a disk is made of whole sectors of {SECTOR} bytes, at least one"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { raw, size })
    }

    /// Its length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Calls `each` with every run of clusters that hold something: where it starts, a multiple of [`CLUSTER`], and its bytes. Only the last cluster of
    /// the disk may be shorter.
    pub fn filled(&self, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while let Some(data) = self.data(at)? {
            // Where data begins within a cluster, the cluster was not read yet, or `at` is past it.
            at = at.max(data.start - data.start % CLUSTER as u64);
            let end = data.end.next_multiple_of(CLUSTER as u64).min(self.size);
            while at < end {
                let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let piece = &mut buffer[..length];
                self.raw.read_exact_at(piece, at).map_err(reading)?;
                for run in runs(piece) {
                    each(at + run.start as u64, &piece[run])?;
                }
                at += length as u64;
            }
        }
        Ok(())
    }

    /// The next range of the file that is no hole, from `at` on.
    fn data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        if at >= self.size {
            return Ok(None);
        }
        let start = match rustix::fs::seek(self.raw, Place::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Where nobody knows of holes, everything is read.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(at..self.size)),
            Err(error) => return Err(reading(error.into())),
        };
        let end = rustix::fs::seek(self.raw, Place::Hole(start)).map_err(|error| reading(error.into()))?;
        // A file that grows meanwhile ends where it ended.
        Ok((start < self.size).then_some(start..end.min(self.size)))
    }

    /// A digest of its length and of everything that it holds.
    pub fn digest(&self) -> io::Result<[u8; 32]> {
        let mut hash = Hash::new(self.size);
        self.filled(|at, run| {
            hash.add(at, run);
            Ok(())
        })?;
        Ok(hash.end())
    }
}

/// The digest of a disk, of what [`Source::filled`] tells of it: the same for the same bytes, wherever its file has holes.
pub struct Hash(Sha256);

impl Hash {
    /// Of a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self(Sha256::new_with_prefix(size.to_le_bytes()))
    }

    /// Adds a run.
    pub fn add(&mut self, at: u64, run: &[u8]) {
        // By the cluster: where runs are cut depends on the file system's holes.
        for (cluster, at) in run.chunks(CLUSTER).zip((at..).step_by(CLUSTER)) {
            self.0.update(at.to_le_bytes());
            self.0.update(cluster);
        }
    }

    /// The digest.
    pub fn end(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Runs of clusters in `piece` that hold something.
fn runs(piece: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (index, cluster) in piece.chunks(CLUSTER).enumerate() {
        let start = index * CLUSTER;
        if *cluster == ZEROS[..cluster.len()] {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end += cluster.len(),
            _ => found.push(start..start + cluster.len()),
        }
    }
    found
}

/// Says that it was the raw disk that could not be read; the sink's errors look the same otherwise.
fn reading(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("could not read the raw disk: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(size: u64, data: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    fn found(file: &File) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        let take = |at, run: &[u8]| {
            found.push((at, run.len()));
            Ok(())
        };
        Source::new(file).unwrap().filled(take).unwrap();
        found
    }

    #[test]
    fn only_clusters_that_hold_something_are_told_each_once() {
        let cluster = CLUSTER as u64;
        // Two writes into one cluster, with a hole of the file system between them; zeros that were written; the last cluster, which is short.
        let size = 8 * cluster + 1024;
        let zeros = vec![0; 2 * CLUSTER];
        let file = disk(
            size,
            &[
                (cluster + 5, b"a"),
                (2 * cluster - 1, b"b"),
                (3 * cluster, &zeros),
                (6 * cluster - 1, b"cd"),
                (size - 1, b"e"),
            ],
        );
        assert_eq!(found(&file), [(cluster, CLUSTER), (5 * cluster, 2 * CLUSTER), (8 * cluster, 1024)]);
    }

    #[test]
    fn a_digest_does_not_depend_on_holes_of_the_file_system() {
        let mut bytes = vec![0; 2 * PIECE];
        let middle = 3 * CLUSTER..PIECE + 5 * CLUSTER;
        bytes[middle.clone()].fill(7);
        let dense = disk(bytes.len() as u64, &[(0, &bytes)]);
        let sparse = disk(bytes.len() as u64, &[(middle.start as u64, &bytes[middle])]);
        assert_ne!(found(&dense), found(&sparse));
        let digest = |file: &File| Source::new(file).unwrap().digest().unwrap();
        assert_eq!(digest(&dense), digest(&sparse));
        let longer = disk(bytes.len() as u64 + 512, &[(0, &bytes)]);
        assert_ne!(digest(&dense), digest(&longer));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        for size in [0, 511, 513] {
            let error = Source::new(&disk(size, &[])).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("has {size} bytes")), "{error}");
        }
    }
}
