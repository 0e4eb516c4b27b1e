//! A disk as qcow2, version 3: the format of QEMU and KVM, Proxmox and OpenStack.
//!
//! Layout: header, first-level table, then for each 512 MiB of the disk that hold something their clusters and their second-level table, then the
//! reference counts. So everything is written once, in order, and one second-level table is all that is kept in mind.
//!
//! Promises: `qemu-img check` finds nothing; every cluster that is there is used once.
//! Absent on purpose: compressed clusters. What fills these disks is compressed where that pays (kernel, initial RAM file system, squashfs), and weights
//! do not give way: with `qemu-img convert -c` a boot partition kept 95 % of its length and float32 weights 93 %, in eight times the time, and every
//! read would pay again.
//!
//! Source: QEMU, `docs/interop/qcow2.txt`.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::source::{CLUSTER, Source};
use super::writing;

const CLUSTER_BYTES: u64 = CLUSTER as u64;

/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;

/// log2 of [`CLUSTER`].
const CLUSTER_BITS: u32 = 16;

/// Bytes of the header with all fields of version 3 and none of those that came later.
const HEADER_BYTES: u32 = 104;

/// Entries of a table of one cluster, 8 bytes each.
const ENTRIES: u64 = CLUSTER_BYTES / 8;

/// log2 of the bits of a reference count: 16 bits.
const COUNT_ORDER: u32 = 4;

/// Clusters whose counts fit a cluster: 2 bytes each.
const COUNTS: u64 = CLUSTER_BYTES / 2;

/// "The reference count of this cluster is exactly one."
const COPIED: u64 = 1 << 63;

/// Most bytes of a first-level table that QEMU reads, 32 MiB: a disk of 2 PiB.
const MOST_FIRST_BYTES: u64 = 32 << 20;

/// Writes the disk into `sink`, from its beginning.
pub fn write(source: &Source<'_>, sink: &mut File) -> io::Result<()> {
    let entries = source.size().div_ceil(ENTRIES * CLUSTER_BYTES);
    if entries * 8 > MOST_FIRST_BYTES {
        let why = format!("a disk of {} bytes is larger than qcow2 takes (2 PiB)", source.size());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let first_clusters = (entries * 8).div_ceil(CLUSTER_BYTES);
    let mut image = Image { sink, next: 1 + first_clusters, first: vec![0; entries as usize], second: None };
    image.sink.seek(SeekFrom::Start(image.next * CLUSTER_BYTES)).map_err(writing)?;
    source.filled(|at, run| image.add(at / CLUSTER_BYTES, run))?;
    image.end_second()?;
    let (table, table_clusters) = image.count()?;
    let mut first = numbers(&image.first);
    first.resize((first_clusters * CLUSTER_BYTES) as usize, 0);
    image.sink.write_all_at(&first, CLUSTER_BYTES).map_err(writing)?;
    let mut header = header(source.size(), entries as u32, table, table_clusters);
    header.resize(CLUSTER, 0);
    image.sink.write_all_at(&header, 0).map_err(writing)
}

/// The image as far as it is written.
struct Image<'a> {
    sink: &'a mut File,
    /// The cluster of the image that is written next.
    next: u64,
    /// Where second-level tables are.
    first: Vec<u64>,
    /// The second-level table that is being filled, and its number.
    second: Option<(u64, Vec<u64>)>,
}

impl Image<'_> {
    /// Adds clusters of the disk, from `cluster` on.
    fn add(&mut self, cluster: u64, mut run: &[u8]) -> io::Result<()> {
        let mut cluster = cluster;
        while !run.is_empty() {
            let (table, place) = (cluster / ENTRIES, cluster % ENTRIES);
            let fits = ((ENTRIES - place) * CLUSTER_BYTES).min(run.len() as u64) as usize;
            let (now, later) = run.split_at(fits);
            self.add_within(table, place as usize, now)?;
            cluster += ENTRIES - place;
            run = later;
        }
        Ok(())
    }

    /// Adds clusters that one second-level table tells of.
    fn add_within(&mut self, table: u64, place: usize, run: &[u8]) -> io::Result<()> {
        if self.second.as_ref().is_some_and(|(open, _)| *open != table) {
            self.end_second()?;
        }
        let (_, entries) = self.second.get_or_insert_with(|| (table, vec![0; ENTRIES as usize]));
        let count = run.len().div_ceil(CLUSTER);
        for (entry, cluster) in entries[place..place + count].iter_mut().zip(self.next..) {
            *entry = used(cluster);
        }
        self.next += count as u64;
        self.put(run)
    }

    /// Writes the second-level table that is being filled.
    fn end_second(&mut self) -> io::Result<()> {
        let Some((table, entries)) = self.second.take() else { return Ok(()) };
        self.first[table as usize] = used(self.next);
        self.next += 1;
        self.put(&numbers(&entries))
    }

    /// Writes the reference counts: first the blocks, then their table. Returns the cluster where the table begins, and how many it takes.
    fn count(&mut self) -> io::Result<(u64, u64)> {
        let (blocks, table_clusters) = counted(self.next);
        let all = self.next + blocks + table_clusters;
        let offsets: Vec<u64> = (0..blocks).map(|block| (self.next + block) * CLUSTER_BYTES).collect();
        for block in 0..blocks {
            let ones = (all - block * COUNTS).min(COUNTS) as usize;
            let mut bytes = 1_u16.to_be_bytes().repeat(ones);
            bytes.resize(CLUSTER, 0);
            self.put(&bytes)?;
        }
        self.put(&numbers(&offsets))?;
        Ok((self.next + blocks, table_clusters))
    }

    /// Writes whole clusters; the last one is filled up.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes).map_err(writing)?;
        let rest = bytes.len().next_multiple_of(CLUSTER) - bytes.len();
        self.sink.write_all(&vec![0; rest]).map_err(writing)
    }
}

/// What tables say of a cluster that is used once.
const fn used(cluster: u64) -> u64 {
    (cluster * CLUSTER_BYTES) | COPIED
}

/// How many blocks of counts, and how many clusters of their table, count `clusters` and themselves.
fn counted(clusters: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (1, 1);
    loop {
        let wanted = (clusters + blocks + table).div_ceil(COUNTS);
        let wanted_table = wanted.div_ceil(ENTRIES);
        if (wanted, wanted_table) == (blocks, table) {
            return (blocks, table);
        }
        // They only grow, and slower than what they count.
        (blocks, table) = (wanted, wanted_table);
    }
}

fn header(size: u64, entries: u32, counts: u64, counts_clusters: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(CLUSTER);
    let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
    put(&MAGIC.to_be_bytes());
    put(&3_u32.to_be_bytes());
    // No backing file: offset and length.
    put(&[0; 12]);
    put(&CLUSTER_BITS.to_be_bytes());
    put(&size.to_be_bytes());
    // Not encrypted.
    put(&[0; 4]);
    put(&entries.to_be_bytes());
    put(&CLUSTER_BYTES.to_be_bytes());
    put(&(counts * CLUSTER_BYTES).to_be_bytes());
    put(&(counts_clusters as u32).to_be_bytes());
    // No snapshots: count and offset. No features: incompatible, compatible, autoclear.
    put(&[0; 12]);
    put(&[0; 24]);
    put(&COUNT_ORDER.to_be_bytes());
    put(&HEADER_BYTES.to_be_bytes());
    // No extensions: the one that ends them.
    put(&[0; 8]);
    header
}

/// Numbers as they stand in tables.
fn numbers(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_count_themselves() {
        for clusters in [1, COUNTS - 3, COUNTS - 2, COUNTS - 1, COUNTS, 10 * COUNTS - 11, ENTRIES * COUNTS] {
            let (blocks, table) = counted(clusters);
            let all = clusters + blocks + table;
            assert!(blocks * COUNTS >= all, "{clusters}: {blocks} blocks");
            assert!((blocks - 1) * COUNTS < all, "{clusters}: {blocks} blocks are too many");
            assert_eq!(table, blocks.div_ceil(ENTRIES));
        }
    }

    /// What `qemu-img check` would find wrong on a disk of more than 2 GiB that are there; such a disk takes long to write.
    #[test]
    fn counts_take_as_many_blocks_as_they_need() {
        let mut sink = tempfile::tempfile().unwrap();
        let next = 3 * COUNTS - 2;
        sink.seek(SeekFrom::Start(next * CLUSTER_BYTES)).unwrap();
        let mut image = Image { sink: &mut sink, next, first: Vec::new(), second: None };
        let (table, clusters) = image.count().unwrap();
        assert_eq!((table, clusters), (next + 4, 1));
        let read = |cluster: u64| {
            let mut bytes = vec![0; CLUSTER];
            sink.read_exact_at(&mut bytes, cluster * CLUSTER_BYTES).unwrap();
            bytes
        };
        let offsets: Vec<u64> = (0..4).map(|block| (next + block) * CLUSTER_BYTES).collect();
        assert_eq!(read(table)[..32], numbers(&offsets));
        assert_eq!(read(table)[32..], vec![0; CLUSTER - 32]);
        for block in next..next + 3 {
            assert_eq!(read(block), [0, 1].repeat(COUNTS as usize));
        }
        // Of the last one are used: what is left of the counts and their table.
        assert_eq!(read(next + 3), [[0, 1].repeat(3), vec![0; CLUSTER - 6]].concat());
    }

    #[test]
    fn a_header_is_as_long_as_it_says() {
        let header = header(1 << 30, 2, 9, 1);
        assert_eq!(header.len(), HEADER_BYTES as usize + 8);
        assert_eq!(header[48..56], (9 * CLUSTER_BYTES).to_be_bytes());
        assert_eq!(header[100..104], 104_u32.to_be_bytes());
    }
}
