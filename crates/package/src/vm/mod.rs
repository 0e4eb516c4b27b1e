//! The format `vm`: a disk that a machine boots and serves from, made without root, loop devices or network.
//!
//! The disk holds the files of the container image of the package, laid over each other (`tree`), as a read-only root (`squash`); a kernel, its drivers
//! and a boot loader that somebody else built (`boot`); and Modelyard as the first process (`initramfs`), whose part `modelyard-guest` is.
//!
//! Promises: the same package, program, engine, base and boot files give the same bytes; nothing is run or mounted while it is made; a disk that is there is
//! replaced by a whole one or stays.
//! Absent on purpose: a shell, a package manager, a way in: what the machine does is serve.

mod boot;
pub mod container;
mod disk;
mod error;
mod initramfs;
mod squash;
mod tree;

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use modelyard_core::Digest;
use modelyard_core::boot::{Boot, PROGRAM, Program, VERSION};
use modelyard_registry::blob::Blobs;
use serde_json::Value;

#[cfg(fuzzing)]
pub(crate) use self::boot::fuzz as fuzz_boot;
pub use self::boot::{BootFiles, unpacked};
use self::container::{Container, Hardware};
pub use self::error::VmError;
#[cfg(fuzzing)]
pub(crate) use self::tree::fuzz as fuzz_layer;
use self::tree::{Content, Node, Slice, Tree};
use crate::image::{Image, digest_of};
use crate::written::{Written, facts};

/// Folders of the root over which the machine mounts something.
const MOUNTED: [(&str, u16); 5] = [("proc", 0o555), ("sys", 0o555), ("dev", 0o755), ("run", 0o755), ("tmp", 0o1777)];

/// What the kernel is told: to speak on the screen and on the first serial line, and to start again after it fell over.
const OPTIONS: &str = "console=tty0 console=ttyS0,115200 loglevel=4 panic=10";

/// Longest configuration of an image that is read, in bytes.
const MOST_CONFIG_BYTES: u64 = 4 << 20;

/// What a disk is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// The container image of the package, whose blobs are stored.
    pub image: &'a Image,
    /// The package's digest.
    pub package: &'a Digest,
    /// What the machine is called.
    pub hostname: &'a str,
    /// Modelyard itself, the same as in the image.
    pub program: &'a Path,
    /// What it boots with.
    pub boot: &'a BootFiles,
    /// Seconds since 1970 to stamp on what has no time of its own.
    pub source_date_epoch: Option<u64>,
}

/// A raw disk.
#[derive(Debug)]
pub struct Disk {
    /// Its bytes, in a file that has no name.
    pub file: File,
    /// How large the machine sees it, in bytes.
    pub size_bytes: u64,
    /// Length of the root, in bytes.
    pub root_bytes: u64,
    /// Length of the initial RAM file system, in bytes.
    pub initramfs_bytes: u64,
}

/// Makes the disk in `scratch`, a folder with room for all of it.
///
/// # Errors
/// [`VmError`].
#[tracing::instrument(name = "vm", skip_all, fields(image = %made_of.image.name), err)]
pub fn build(blobs: &Blobs, made_of: &Ingredients<'_>, scratch: &Path) -> Result<Disk, VmError> {
    let moment = made_of.source_date_epoch.and_then(|moment| u32::try_from(moment).ok()).unwrap_or(0);
    let scratch_file = || tempfile::tempfile_in(scratch);
    let mut root = scratch_file().map_err(VmError::part("the root"))?;
    let mut tree = Tree::of(blobs, &made_of.image.layers, scratch)?;
    for (path, mode) in MOUNTED {
        tree.folder(path, mode);
    }
    // The first process is the same program: it stands on the disk once, and is mounted there.
    let nothing = File::open("/dev/null").map_err(VmError::part("the root"))?;
    let empty =
        Node { mode: 0o755, user: 0, group: 0, modified: moment, content: Content::File(Slice::empty(nothing)) };
    tree.put(PROGRAM.trim_start_matches('/'), empty);
    let root_bytes = squash::write(&tree, moment, &root).map_err(VmError::part("the root"))?;
    drop(tree);
    let (root_digest, _) = facts(&mut root).map_err(VmError::part("the root"))?;
    let boot = document(blobs, made_of, &root_digest)?;
    let mut initramfs = scratch_file().map_err(VmError::part("the initial RAM file system"))?;
    initramfs::write(made_of.program, made_of.boot, &boot, &mut initramfs)?;
    let made = || -> io::Result<Disk> {
        let initramfs_bytes = initramfs.metadata()?.len();
        (&initramfs).rewind()?;
        let foreign = File::open(&made_of.boot.kernel)?.chain(File::open(&made_of.boot.loader)?);
        let seed = digest_of(&mut root_digest.to_string().as_bytes().chain(&initramfs).chain(foreign))?;
        let parts = disk::Parts {
            title: &made_of.image.name,
            loader: &made_of.boot.loader,
            kernel: &made_of.boot.kernel,
            initramfs: &initramfs,
            options: OPTIONS,
            root: &root,
            root_name: &boot.root,
            seed: &seed,
        };
        let mut file = scratch_file()?;
        let size_bytes = disk::write(&parts, &mut file)?;
        Ok(Disk { file, size_bytes, root_bytes, initramfs_bytes })
    };
    made().map_err(VmError::part("the disk"))
}

/// Wraps a disk, and writes it to `path` in place of what is there.
///
/// # Errors
/// [`VmError::Part`]; what was there stays.
pub fn export(disk: &Disk, container: Container, hardware: &Hardware, path: &Path) -> Result<Written, VmError> {
    let wrap = |file: &mut File| {
        container::write(container, &disk.file, hardware, file)?;
        facts(file)
    };
    Written::whole(path, wrap).map_err(VmError::part("the disk"))
}

/// What the first process is told, by the configuration of the image.
fn document(blobs: &Blobs, made_of: &Ingredients<'_>, root: &Digest) -> Result<Boot, VmError> {
    let bytes = blobs.read(&made_of.image.config.digest, MOST_CONFIG_BYTES)?;
    let whole: Value = serde_json::from_slice(&bytes)
        .map_err(|error| VmError::Layer { layer: "configuration".to_owned(), why: error.to_string() })?;
    let config = &whole["config"];
    let list = |key: &str| -> Vec<String> {
        config[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let user = config["User"].as_str().unwrap_or("0:0");
    let (user, group) = user.split_once(':').unwrap_or((user, user));
    let number = |text: &str| {
        let why = format!("its user `{text}` is no number");
        text.parse().map_err(|_| VmError::Layer { layer: "configuration".to_owned(), why })
    };
    Ok(Boot {
        version: VERSION,
        name: made_of.image.name.clone(),
        package: *made_of.package,
        hostname: made_of.hostname.to_owned(),
        modules: made_of.boot.modules.iter().map(|driver| driver.module.clone()).collect(),
        root: format!("modelyard-{}", &root.hex()[..16]),
        program: Program {
            arguments: list("Entrypoint").into_iter().chain(list("Cmd")).collect(),
            environment: list("Env"),
            folder: config["WorkingDir"].as_str().unwrap_or("/").to_owned(),
            user: number(user)?,
            group: number(group)?,
        },
    })
}
