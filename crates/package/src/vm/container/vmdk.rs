//! A disk as a stream-optimised VMDK: the one form of it that appliances (OVF) may hold and that vSphere takes.
//!
//! Layout: header, description, then grains, each with its place and deflated; after the grains of 32 MiB of the disk a table of where they are; at the
//! end the directory of the tables, and a footer that says where it is.
//!
//! Promises: written from front to back, so that it can be hashed and stand within a tar file; the same disk, the same bytes, however many threads.
//! Absent on purpose: an identifier for VirtualBox, which refuses a second disk with the same one; it makes one up where none is.
//!
//! Source: VMware, "Virtual Disk Format 5.0".

use std::io::{self, Write};
use std::thread;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::source::{CLUSTER, SECTOR, Source};
use super::writing;

/// `KDMV`.
const MAGIC: u32 = 0x564d_444b;

/// The version that may have the flags below.
const VERSION: u32 = 3;

/// Line ends can be checked, grains are compressed, markers stand before everything.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;

/// Sectors of a grain.
const GRAIN: u64 = CLUSTER as u64 / SECTOR;

/// Grains that a table tells of.
const ENTRIES: u64 = 512;

/// Where the description stands, and how many sectors are its own.
const DESCRIPTION: (u64, u64) = (1, 20);

/// The first sector after header and description, on the border of a grain.
const OVERHEAD: u64 = 128;

/// "The directory is at the end, see the footer."
const AT_END: u64 = u64::MAX;

/// Sectors that a grain may take, with what stands before it: readers have room for no more.
const MOST_SECTORS: u64 = GRAIN + 1;

/// How hard grains are pressed, of 9. 1 leaves 41 % of a program, 2 leaves 33 % for two thirds of the speed, 6 leaves 30 % for one third.
const LEVEL: u32 = 2;

/// Bytes that are tried at each of [`SAMPLES`] places of a grain.
const SAMPLE: usize = 1 << 10;

/// Places of a grain that are tried.
const SAMPLES: usize = 4;

/// Most threads that press grains: more than a disk can take the output of.
const MOST_THREADS: usize = 8;

/// What a marker says that follows: nothing more, a table, the directory, the footer.
#[derive(Clone, Copy)]
enum Marker {
    End = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes of the disk that are not left out.
    pub populated_bytes: u64,
}

/// Writes the disk; `name` is what the file is called, as its description says.
pub fn write(source: &Source<'_>, name: &str, sink: &mut dyn Write) -> io::Result<Written> {
    let digest = source.digest()?;
    let tables = source.size().div_ceil(ENTRIES * CLUSTER as u64) as usize;
    let mut image = Image { sink, next: 0, directory: vec![0; tables], table: None, populated_bytes: 0 };
    image.put(&header(source.size(), AT_END))?;
    let mut description = description(source.size(), name, &digest).into_bytes();
    description.resize(((OVERHEAD - 1) * SECTOR) as usize, 0);
    image.put(&description)?;
    source.filled(|at, run| image.add(at / CLUSTER as u64, run))?;
    image.end(source.size())
}

/// The image as far as it is written.
struct Image<'a> {
    sink: &'a mut dyn Write,
    /// The sector that is written next.
    next: u64,
    /// Where tables are.
    directory: Vec<u32>,
    /// The table that is being filled, and its number.
    table: Option<(u64, Vec<u32>)>,
    populated_bytes: u64,
}

impl Image<'_> {
    /// Adds grains, from number `first` on.
    fn add(&mut self, first: u64, run: &[u8]) -> io::Result<()> {
        let grains: Vec<(u64, &[u8])> = (first..).zip(run.chunks(CLUSTER)).collect();
        for (grain, pressed) in (first..).zip(press_all(&grains)?) {
            let number = grain / ENTRIES;
            if self.table.as_ref().is_some_and(|(open, _)| *open != number) {
                self.end_table()?;
            }
            let place = self.place()?;
            let (_, entries) = self.table.get_or_insert_with(|| (number, vec![0; ENTRIES as usize]));
            entries[(grain % ENTRIES) as usize] = place;
            self.put(&pressed)?;
        }
        self.populated_bytes += run.len() as u64;
        Ok(())
    }

    /// The sector that is written next, as tables have it.
    fn place(&self) -> io::Result<u32> {
        u32::try_from(self.next).map_err(|_| {
            let why = "the disk holds more than a VMDK can (2 TiB, compressed); take qcow2 or raw";
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })
    }

    fn end_table(&mut self) -> io::Result<()> {
        let Some((number, entries)) = self.table.take() else { return Ok(()) };
        self.directory[number as usize] = self.tell(Marker::Table, &numbers(&entries))?;
        Ok(())
    }

    /// Writes the last table, the directory and the footer.
    fn end(mut self, size: u64) -> io::Result<Written> {
        self.end_table()?;
        let directory = numbers(&self.directory);
        let directory = self.tell(Marker::Directory, &directory)?;
        self.tell(Marker::Footer, &header(size, directory.into()))?;
        self.put(&marker(Marker::End, 0))?;
        Ok(Written { bytes: self.next * SECTOR, populated_bytes: self.populated_bytes })
    }

    /// Writes a marker and what it is for. Returns the sector of the latter.
    fn tell(&mut self, what: Marker, bytes: &[u8]) -> io::Result<u32> {
        self.put(&marker(what, (bytes.len() as u64).div_ceil(SECTOR)))?;
        let place = self.place()?;
        self.put(bytes)?;
        Ok(place)
    }

    /// Writes whole sectors; the last one is filled up.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let rest = bytes.len().next_multiple_of(SECTOR as usize) - bytes.len();
        self.sink.write_all(bytes).map_err(writing)?;
        self.sink.write_all(&[0; SECTOR as usize][..rest]).map_err(writing)?;
        self.next += (bytes.len() + rest) as u64 / SECTOR;
        Ok(())
    }
}

/// Presses grains on as many threads as there are, and keeps their order.
fn press_all(grains: &[(u64, &[u8])]) -> io::Result<Vec<Vec<u8>>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let share = grains.len().div_ceil(threads).max(1);
    let press_share = |share: &[(u64, &[u8])]| -> io::Result<Vec<Vec<u8>>> {
        share.iter().map(|(number, grain)| press(*number, grain)).collect()
    };
    let shares: Vec<io::Result<Vec<Vec<u8>>>> = thread::scope(|scope| {
        let others: Vec<_> = grains.chunks(share).map(|share| scope.spawn(move || press_share(share))).collect();
        let lost = || io::Error::other("a thread that compresses the disk ended");
        others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(lost()))).collect()
    });
    let shares: io::Result<Vec<_>> = shares.into_iter().collect();
    Ok(shares?.into_iter().flatten().collect())
}

/// A grain as it stands in the file: its place on the disk, its length, and itself, deflated.
fn press(number: u64, grain: &[u8]) -> io::Result<Vec<u8>> {
    let pressed = press_by(if is_soft(grain)? { LEVEL } else { 0 }, number, grain)?;
    // What grew is stored.
    if pressed.len() as u64 <= MOST_SECTORS * SECTOR { Ok(pressed) } else { press_by(0, number, grain) }
}

/// Whether pressing pays: a tenth must go. Weights and what is compressed already do not give way; to find that out by trying takes thirty times as long
/// as to store them, so a sample is tried.
fn is_soft(grain: &[u8]) -> io::Result<bool> {
    let mut sample = Vec::with_capacity(SAMPLES * SAMPLE);
    for part in grain.chunks(CLUSTER / SAMPLES) {
        sample.extend_from_slice(&part[..part.len().min(SAMPLE)]);
    }
    let mut packed = ZlibEncoder::new(Vec::with_capacity(2 * sample.len()), Compression::new(1));
    packed.write_all(&sample)?;
    Ok(packed.finish()?.len() < sample.len() / 10 * 9)
}

fn press_by(level: u32, number: u64, grain: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(CLUSTER + SECTOR as usize);
    bytes.extend_from_slice(&(number * GRAIN).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let mut packed = ZlibEncoder::new(bytes, Compression::new(level));
    packed.write_all(grain)?;
    // Readers expect a whole grain, also at the end of a disk that is no multiple of it.
    packed.write_all(&vec![0; CLUSTER - grain.len()])?;
    let mut bytes = packed.finish()?;
    let length = (bytes.len() - 12) as u32;
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

fn marker(what: Marker, sectors: u64) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(what as u32).to_le_bytes());
    bytes.resize(SECTOR as usize, 0);
    bytes
}

/// The header, which is the footer too. `directory` is the sector where the directory is.
fn header(size: u64, directory: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(SECTOR as usize);
    let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
    put(&MAGIC.to_le_bytes());
    put(&VERSION.to_le_bytes());
    put(&FLAGS.to_le_bytes());
    put(&(size / SECTOR).to_le_bytes());
    put(&GRAIN.to_le_bytes());
    put(&DESCRIPTION.0.to_le_bytes());
    put(&DESCRIPTION.1.to_le_bytes());
    put(&(ENTRIES as u32).to_le_bytes());
    // No second directory.
    put(&0_u64.to_le_bytes());
    put(&directory.to_le_bytes());
    put(&OVERHEAD.to_le_bytes());
    // It was ended cleanly; what shows that nobody translated line ends; deflate.
    put(&[0]);
    put(b"\n \r\n");
    put(&1_u16.to_le_bytes());
    header.resize(SECTOR as usize, 0);
    header
}

/// The description, a text. Its ids are derived from what the disk holds.
fn description(size: u64, name: &str, digest: &[u8; 32]) -> String {
    let sectors = size / SECTOR;
    let long: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    // The two highest numbers mean "no parent" and "unknown" to some.
    let content = &long[24..];
    let content = if content.starts_with("fffffff") { "0fffffff" } else { content };
    // What an IDE disk of its size says; nobody counts cylinders today.
    let cylinders = sectors.div_ceil(16 * 63).min(16383);
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={content}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n\
         ddb.longContentID = \"{long}\"\nddb.virtualHWVersion = \"4\"\n"
    )
}

/// Numbers as they stand in tables.
fn numbers(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that nothing compresses.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_grain_has_room_at_every_reader() {
        let pressed = press(7, &noise(CLUSTER)).unwrap();
        assert!(pressed.len() as u64 <= MOST_SECTORS * SECTOR, "{} bytes", pressed.len());
        assert_eq!(pressed[8..12], (pressed.len() as u32 - 12).to_le_bytes());
    }

    #[test]
    fn only_what_gives_way_is_pressed() {
        let words = b"what compresses ".repeat(CLUSTER / 16);
        assert!(is_soft(&words).unwrap());
        assert!(press(0, &words).unwrap().len() < CLUSTER / 50);
        assert!(!is_soft(&noise(CLUSTER)).unwrap());
        assert!(!is_soft(&noise(512)).unwrap());
        // A sample that deceives: soft where it is tried, hard everywhere else.
        let mut bytes = noise(CLUSTER);
        bytes.chunks_mut(CLUSTER / SAMPLES).for_each(|part| part[..SAMPLE].fill(0));
        assert!(is_soft(&bytes).unwrap());
        assert!(press(0, &bytes).unwrap().len() as u64 <= MOST_SECTORS * SECTOR);
    }

    #[test]
    fn grains_keep_their_order_over_threads() {
        let bytes = noise(9 * CLUSTER);
        let grains: Vec<(u64, &[u8])> = (5..).zip(bytes.chunks(CLUSTER)).collect();
        let pressed = press_all(&grains).unwrap();
        let places: Vec<u64> = pressed.iter().map(|grain| u64::from_le_bytes(grain[..8].try_into().unwrap())).collect();
        assert_eq!(places, (5..14).map(|number| number * GRAIN).collect::<Vec<_>>());
    }

    #[test]
    fn headers_and_markers_are_a_sector() {
        assert_eq!(header(1 << 30, AT_END).len(), 512);
        assert_eq!(header(1 << 30, AT_END)[73..79], *b"\n \r\n\x01\x00");
        assert_eq!(marker(Marker::Footer, 1)[..16], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn ids_that_mean_something_else_are_not_given() {
        let told = description(1 << 20, "x.vmdk", &[0xff; 32]);
        assert!(told.contains("CID=0fffffff\n"), "{told}");
        assert!(told.len() as u64 <= DESCRIPTION.1 * SECTOR);
    }
}
