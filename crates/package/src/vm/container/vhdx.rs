//! A disk as VHDX: the format of Hyper-V, whose machines with EFI firmware (generation 2) take no other.
//!
//! Layout: who wrote it, two headers, two tables of regions, an empty log, a region of metadata, a table of blocks, and the blocks that hold something.
//! Blocks are written first and the headers last, since the ids in them are derived from what the disk holds.
//!
//! Promises: `qemu-img check` finds nothing; blocks are in the order of the disk; the table of blocks is never held whole.
//! Absent on purpose: a log (nothing was under way) and parents.
//!
//! Source: Microsoft, MS-VHDX; RFC 3720, appendix B.4, for CRC-32C.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::source::{Hash, SECTOR, Source};
use super::writing;

const MIB: u64 = 1 << 20;

/// Bytes of a block, the smallest that there are.
const BLOCK: u64 = MIB;

/// Blocks after whose entries the table has one for a bitmap of sectors, which only disks with parents have.
const CHUNK: u64 = (1 << 23) * SECTOR / BLOCK;

/// Largest disk: 64 TiB.
const MOST_BYTES: u64 = 64 << 40;

/// Where log, metadata and the table of blocks are; the first two take 1 MiB each.
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const TABLE: u64 = 3 * MIB;

/// What an entry says of a block that is there.
const PRESENT: u64 = 6;

/// An id as it stands in files: three numbers, lowest byte first, and eight bytes.
type Id = [u8; 16];

const fn id(number: u128) -> Id {
    let b = number.to_be_bytes();
    [b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
}

const REGION_TABLE: Id = id(0x2DC27766_F623_4200_9D64_115E9BFD4A08);
const REGION_METADATA: Id = id(0x8B7CA206_4790_4B9A_B8FE_575F050F886E);
const ITEM_PARAMETERS: Id = id(0xCAA16737_FA36_4D43_B3B6_33F0AA44E76B);
const ITEM_SIZE: Id = id(0x2FA54224_CD1B_4876_B211_5DBED83BF4B8);
const ITEM_DISK: Id = id(0xBECA12AB_B2E6_4523_93EF_C309E000C746);
const ITEM_LOGICAL_SECTOR: Id = id(0x8141BF1D_A96F_4709_BA47_F233A8FAAB5F);
const ITEM_PHYSICAL_SECTOR: Id = id(0xCDA348C7_445D_4471_9CC9_E9885251C556);

/// Flags of an item of the metadata: it is about the disk, not the file; who does not know it must not go on.
const ABOUT_DISK: u32 = 2;
const REQUIRED: u32 = 4;

/// Writes the disk into `sink`, from its beginning.
pub fn write(source: &Source<'_>, sink: &mut File) -> io::Result<()> {
    let size = source.size();
    if size > MOST_BYTES {
        let why = format!("a disk of {size} bytes is larger than VHDX takes (64 TiB)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let blocks = size.div_ceil(BLOCK);
    let entries = blocks + (blocks - 1) / CHUNK;
    let table = (entries * 8).next_multiple_of(MIB);
    let mut hash = Hash::new(size);
    let mut image = Image { sink, next: TABLE + table, block: None };
    source.filled(|at, run| {
        hash.add(at, run);
        image.add(at, run)
    })?;
    let length = image.next;
    let ids = hash.end();
    let (one, other) = ids.split_at(16);
    let metadata = metadata(size, &made(one));
    sink.write_all_at(&metadata, METADATA).map_err(writing)?;
    let regions = regions(table);
    let header = header(&made(one), &made(other));
    for (at, bytes) in [(256 << 10, &regions), (192 << 10, &regions), (128 << 10, &header), (64 << 10, &header)] {
        sink.write_all_at(bytes, at).map_err(writing)?;
    }
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend("Modelyard".encode_utf16().flat_map(u16::to_le_bytes));
    sink.write_all_at(&identifier, 0).map_err(writing)?;
    // Log, table and the ends of blocks are zeros where nothing was written.
    sink.set_len(length).map_err(writing)
}

/// The image as far as it is written.
struct Image<'a> {
    sink: &'a mut File,
    /// Where the next block begins.
    next: u64,
    /// The block that was written last: its number and where it begins.
    block: Option<(u64, u64)>,
}

impl Image<'_> {
    /// Adds bytes of the disk.
    fn add(&mut self, mut at: u64, mut run: &[u8]) -> io::Result<()> {
        while !run.is_empty() {
            let within = at % BLOCK;
            let (now, later) = run.split_at((BLOCK - within).min(run.len() as u64) as usize);
            let place = self.place(at / BLOCK)? + within;
            self.sink.seek(SeekFrom::Start(place)).map_err(writing)?;
            self.sink.write_all(now).map_err(writing)?;
            at += now.len() as u64;
            run = later;
        }
        Ok(())
    }

    /// Where a block begins; a new one is told of in the table.
    fn place(&mut self, number: u64) -> io::Result<u64> {
        if let Some((_, place)) = self.block.filter(|(last, _)| *last == number) {
            return Ok(place);
        }
        let place = self.next;
        self.next += BLOCK;
        self.block = Some((number, place));
        // The place is a number of mebibytes from bit 20 on: as it is.
        let entry = place | PRESENT;
        self.sink.write_all_at(&entry.to_le_bytes(), TABLE + 8 * (number + number / CHUNK)).map_err(writing)?;
        Ok(place)
    }
}

/// An id made of a digest, marked as such (RFC 9562, version 8).
fn made(digest: &[u8]) -> Id {
    let mut id: Id = std::array::from_fn(|at| digest.get(at).copied().unwrap_or(0));
    id[7] = (id[7] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    id
}

/// Both headers are the same: nothing was written since.
fn header(file: &Id, data: &Id) -> Vec<u8> {
    let mut header = b"head\0\0\0\0".to_vec();
    header.extend(1_u64.to_le_bytes());
    header.extend(file);
    header.extend(data);
    // No log is under way; versions of log and format.
    header.extend([0; 16]);
    header.extend(0_u16.to_le_bytes());
    header.extend(1_u16.to_le_bytes());
    header.extend((MIB as u32).to_le_bytes());
    header.extend(LOG.to_le_bytes());
    sealed(header, 4 << 10)
}

fn regions(table: u64) -> Vec<u8> {
    let mut regions = b"regi\0\0\0\0".to_vec();
    regions.extend(2_u32.to_le_bytes());
    regions.extend([0; 4]);
    for (kind, at, length) in [(REGION_TABLE, TABLE, table), (REGION_METADATA, METADATA, MIB)] {
        regions.extend(kind);
        regions.extend(at.to_le_bytes());
        regions.extend((length as u32).to_le_bytes());
        // Required.
        regions.extend(1_u32.to_le_bytes());
    }
    sealed(regions, 64 << 10)
}

/// `bytes`, filled up to `length`, with their checksum after the signature.
fn sealed(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.resize(length, 0);
    let sum = crc32c(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The region of metadata: a table of 64 KiB, then what it tells of.
fn metadata(size: u64, disk: &Id) -> Vec<u8> {
    const ITEMS: usize = 64 << 10;
    let parameters = [(BLOCK as u32).to_le_bytes(), [0; 4]].concat();
    let sector = (SECTOR as u32).to_le_bytes();
    let items: [(Id, u32, &[u8]); 5] = [
        (ITEM_PARAMETERS, REQUIRED, &parameters),
        (ITEM_SIZE, ABOUT_DISK | REQUIRED, &size.to_le_bytes()),
        (ITEM_DISK, ABOUT_DISK | REQUIRED, disk),
        (ITEM_LOGICAL_SECTOR, ABOUT_DISK | REQUIRED, &sector),
        (ITEM_PHYSICAL_SECTOR, ABOUT_DISK | REQUIRED, &sector),
    ];
    let mut table = b"metadata\0\0".to_vec();
    table.extend((items.len() as u16).to_le_bytes());
    table.resize(32, 0);
    let mut contents = Vec::new();
    for (item, flags, content) in items {
        table.extend(item);
        table.extend(((ITEMS + contents.len()) as u32).to_le_bytes());
        table.extend((content.len() as u32).to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0; 4]);
        contents.extend_from_slice(content);
    }
    table.resize(ITEMS, 0);
    table.extend(contents);
    table
}

/// CRC-32C, a bit at a time: it seals four small tables.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| bit(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn ids_stand_in_files_as_microsoft_writes_them() {
        assert_eq!(REGION_TABLE[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
        assert_eq!(REGION_TABLE[8..], [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
    }
}
