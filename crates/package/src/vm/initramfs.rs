//! The initial RAM file system: Modelyard itself with what it is linked against, the drivers, and the document that says what to do.
//!
//! Promises: the same program, drivers and document give the same bytes.
//!
//! Source: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst` (cpio, format "newc", compressed with gzip).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, trailer};
use flate2::{Compression, GzBuilder};
use modelyard_core::boot::{Boot, DOCUMENT, INIT};

use super::boot::BootFiles;
use super::error::VmError;
use crate::canonical;
use crate::image::closure;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
/// The console, which the kernel opens before anything is mounted: character device 5, 1.
const CONSOLE: (u32, u32, u32) = (0o020_600, 5, 1);

enum Content {
    Folder,
    Console,
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// Writes it to `sink`.
pub fn write(program: &Path, boot_files: &BootFiles, boot: &Boot, sink: &mut dyn Write) -> Result<(), VmError> {
    let mut entries = BTreeMap::new();
    let mut add = |path: &str, mode: u32, content: Content| {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            entries.entry(path[..at].to_owned()).or_insert((FOLDER, Content::Folder));
        }
        entries.insert(path.to_owned(), (mode, content));
    };
    for folder in ["proc", "sys", "dev", "run", "tmp", "root"] {
        add(folder, FOLDER, Content::Folder);
    }
    add("dev/console", CONSOLE.0, Content::Console);
    add(INIT, PROGRAM, Content::File(program.to_owned()));
    let needed = closure(&[program])?;
    if let Some(loader) = &needed.interpreter {
        add(loader, PROGRAM, Content::File(loader.into()));
    }
    let folder = needed.folder.as_deref().unwrap_or("/lib");
    for (library, file) in needed.libraries {
        add(&format!("{folder}/{library}"), PLAIN, Content::File(file));
    }
    for driver in &boot_files.modules {
        add(&driver.module.path, PLAIN, Content::Bytes(driver.bytes()?));
    }
    add(DOCUMENT, PLAIN, Content::Bytes(canonical::to_vec(boot)));
    archive(&entries, sink).map_err(VmError::part("the initial RAM file system"))
}

fn archive(entries: &BTreeMap<String, (u32, Content)>, sink: &mut dyn Write) -> io::Result<()> {
    // No time, no name, and 255 for the system: whoever compresses it gets the same bytes.
    let mut packing = GzBuilder::new().mtime(0).operating_system(255).write(sink, Compression::new(6));
    for (number, (path, (mode, content))) in (1_u32..).zip(entries) {
        let mut head = Builder::new(path).ino(number).mode(*mode).nlink(1).mtime(0);
        let (mut source, length): (Box<dyn Read + '_>, u64) = match content {
            Content::Folder => (Box::new(io::empty()), 0),
            Content::Console => {
                head = head.rdev_major(CONSOLE.1).rdev_minor(CONSOLE.2);
                (Box::new(io::empty()), 0)
            }
            Content::Bytes(bytes) => (Box::new(&bytes[..]), bytes.len() as u64),
            Content::File(path) => {
                let file = File::open(path)?;
                let length = file.metadata()?.len();
                (Box::new(file), length)
            }
        };
        let length = u32::try_from(length).map_err(|_| io::Error::other(format!("{path} is longer than 4 GiB")))?;
        let mut writing = head.write(packing, length);
        io::copy(&mut source, &mut writing)?;
        packing = writing.finish()?;
    }
    trailer(packing)?.finish()?.flush()
}
