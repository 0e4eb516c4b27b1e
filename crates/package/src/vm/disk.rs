//! The disk: a partition table, a partition for the firmware, and one with the root.
//!
//! Promises: the same parts give the same bytes; what is not written stays a hole.
//!
//! Source: UEFI specification 2.10, chapter 5 (GPT) and 13.3 (EFI system partition); Boot Loader Specification, type 1.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{EFI, LINUX_FS};
use gpt::{GptConfig, GptDisk};
use modelyard_core::Digest;
use uuid::Uuid;

use super::boot::REMOVABLE;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// Partitions begin at multiples of this: 1 MiB.
const ALIGNED: u64 = 1 << 20;

/// Pieces of the firmware's partition, of which empty ones are not written: 64 KiB.
const PIECE: usize = 64 << 10;

/// Room beside the files of the firmware's partition, for tables and folders.
const SPARE: u64 = 2 << 20;

/// The smallest volume that is a FAT32, as firmware wants it: 65 525 clusters of a sector, and its tables.
const SMALLEST: u64 = 36 << 20;

/// What a disk is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// What people see in the loader's menu.
    pub title: &'a str,
    /// The boot loader.
    pub loader: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// The initial RAM file system.
    pub initramfs: &'a File,
    /// What the kernel is told.
    pub options: &'a str,
    /// The root.
    pub root: &'a File,
    /// Its partition's name.
    pub root_name: &'a str,
    /// Everything that is random on other disks comes from this.
    pub seed: &'a Digest,
}

/// Writes the disk to `sink`, which is empty; its size in bytes.
pub fn write(parts: &Parts<'_>, sink: &mut File) -> io::Result<u64> {
    let length = |path: &Path| path.metadata().map(|facts| facts.len());
    let initramfs = parts.initramfs.metadata()?.len();
    let files = length(parts.loader)? + length(parts.kernel)? + initramfs;
    let firmware = aligned((files + SPARE).max(SMALLEST));
    let root_length = parts.root.metadata()?.len();
    let (at_firmware, at_root) = (ALIGNED, ALIGNED + firmware);
    let root = aligned(root_length);
    // The second partition table lies behind.
    let size = at_root + root + ALIGNED;
    sink.set_len(size)?;
    let table = [(EFI, "EFI system partition", at_firmware, firmware), (LINUX_FS, parts.root_name, at_root, root)];
    partitions(&table, parts.seed, size, sink)?;
    write_firmware(parts, firmware, at_firmware, sink)?;
    sink.seek(SeekFrom::Start(at_root))?;
    let mut source = parts.root;
    source.rewind()?;
    let copied = io::copy(&mut source.take(root_length), sink)?;
    match copied == root_length {
        true => Ok(size),
        false => Err(io::Error::other("the root became shorter while it was copied")),
    }
}

const fn aligned(length: u64) -> u64 {
    length.div_ceil(ALIGNED) * ALIGNED
}

/// An identifier that only this seed gives. Source: RFC 9562, version 8.
fn identifier(seed: &Digest, what: u8) -> Uuid {
    let hex = seed.hex();
    let mut bytes = [what; 16];
    for (byte, pair) in bytes.iter_mut().skip(1).zip(hex.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn partitions(
    table: &[(gpt::partition_types::Type, &str, u64, u64)],
    seed: &Digest,
    size: u64,
    sink: &mut File,
) -> io::Result<()> {
    let sectors = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(sink).map_err(io::Error::other)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let created = config.create_from_device(&mut *sink, Some(identifier(seed, 0)));
    let mut disk: GptDisk<&mut File> = created.map_err(io::Error::other)?;
    let all = (1_u8..).zip(table).map(|(number, (kind, name, at, length))| {
        let partition = Partition {
            part_type_guid: kind.clone(),
            part_guid: identifier(seed, number),
            first_lba: at / SECTOR,
            last_lba: (at + length) / SECTOR - 1,
            flags: 0,
            name: (*name).to_owned(),
        };
        (u32::from(number), partition)
    });
    disk.update_partitions(all.collect::<BTreeMap<_, _>>()).map_err(io::Error::other)?;
    disk.write_inplace().map_err(io::Error::other)
}

/// The partition that the firmware reads.
fn write_firmware(parts: &Parts<'_>, length: u64, at: u64, sink: &mut File) -> io::Result<()> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    // Made in memory: the writer goes from sector to sector, and each would be a call to the system.
    let mut volume = Cursor::new(vec![0; length]);
    firmware_files(parts, &mut volume)?;
    for (number, piece) in (0_u64..).zip(volume.into_inner().chunks(PIECE)) {
        if piece.iter().any(|&byte| byte != 0) {
            sink.seek(SeekFrom::Start(at + number * PIECE as u64))?;
            sink.write_all(piece)?;
        }
    }
    Ok(())
}

fn firmware_files(parts: &Parts<'_>, mut volume: &mut Cursor<Vec<u8>>) -> io::Result<()> {
    let hex = parts.seed.hex();
    let number = u32::from_str_radix(&hex[..8], 16).unwrap_or_default();
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(&mut volume, options.volume_id(number).volume_label(*b"MODELYARD  "))?;
    {
        let system = opened(volume)?;
        for folder in ["EFI", "EFI/BOOT", "loader", "loader/entries", "modelyard"] {
            system.root_dir().create_dir(folder)?;
        }
        system.unmount()?;
    }
    // Before there are files: nothing of them is taken for a folder.
    volume.get_mut().chunks_mut(SECTOR as usize).for_each(put_in_order);
    let system = opened(volume)?;
    {
        let root = system.root_dir();
        let put = |path: &str, source: &mut dyn Read| -> io::Result<()> {
            let mut file = root.create_file(path)?;
            let mut piece = vec![0; 1 << 20];
            loop {
                match source.read(&mut piece)? {
                    0 => return file.flush(),
                    length => file.write_all(&piece[..length])?,
                }
            }
        };
        put(&format!("EFI/BOOT/{REMOVABLE}"), &mut File::open(parts.loader)?)?;
        put("loader/loader.conf", &mut &b"timeout 0\ndefault modelyard.conf\neditor no\n"[..])?;
        let entry = format!(
            "title {}\nlinux /modelyard/vmlinuz\ninitrd /modelyard/initrd\noptions {}\n",
            parts.title, parts.options
        );
        put("loader/entries/modelyard.conf", &mut entry.as_bytes())?;
        put("modelyard/vmlinuz", &mut File::open(parts.kernel)?)?;
        let mut initramfs = parts.initramfs;
        initramfs.rewind()?;
        put("modelyard/initrd", &mut initramfs)?;
    }
    system.unmount()
}

fn opened(volume: &mut Cursor<Vec<u8>>) -> io::Result<FileSystem<&mut Cursor<Vec<u8>>>> {
    volume.rewind()?;
    FileSystem::new(volume, FsOptions::new().time_provider(&NO_TIME).update_accessed_date(false))
}

/// Puts `.` and `..` where they belong in a new folder: first and second. `fatfs` 0.3 gives each a long name, which stands before it, and of which the
/// specification knows nothing; and calls the root by its number.
fn put_in_order(sector: &mut [u8]) {
    const ENTRY: usize = 32;
    const ROOT_CLUSTER: u8 = 2;
    let starts = |at: usize, name: &[u8]| sector[at * ENTRY..].starts_with(name);
    let is_long = |at: usize| sector[at * ENTRY + 11] == 0x0f;
    if !(is_long(0) && starts(1, b".          ") && is_long(2) && starts(3, b"..         ")) {
        return;
    }
    sector.copy_within(ENTRY..2 * ENTRY, 0);
    sector.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
    // The root is called cluster 0 by its folders, whatever it is.
    let parent = &mut sector[ENTRY..2 * ENTRY];
    if (parent[20], parent[21], parent[26], parent[27]) == (0, 0, ROOT_CLUSTER, 0) {
        parent[26] = 0;
    }
    // Deleted entries, which the next files take.
    for at in [2, 3] {
        sector[at * ENTRY..(at + 1) * ENTRY].fill(0);
        sector[at * ENTRY] = 0xe5;
    }
}

/// The clock of a disk that is the same whenever it is made.
#[derive(Debug)]
struct NoTime;

static NO_TIME: NoTime = NoTime;

impl fatfs::TimeProvider for NoTime {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        fatfs::DateTime { date: self.get_current_date(), time: fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}
