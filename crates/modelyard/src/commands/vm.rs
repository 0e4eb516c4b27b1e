//! The format `vm`: a disk that a machine boots and serves from.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_package::vm::container::{self, Container, Hardware};
use modelyard_package::vm::{self, BootFiles, Ingredients};
use modelyard_package::{BuildOptions, Built};
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};

use super::image::{self, Wanted};
use super::standalone::Exported;
use super::{base, registry};
use crate::context::Context;
use crate::exit::Failed;
use crate::terminal::{Busy, Paint, say};

/// Processors of a machine that nobody said more of.
const CPUS: u32 = 2;

/// What a disk is to be.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// Where kernel, drivers and boot loader are looked for before this machine itself.
    pub boot: &'a [PathBuf],
    /// What it is wrapped in.
    pub container: Container,
}

/// Makes the disk of a package that is laid out in `folder`, and writes `NAME-VERSION-vm.…` to `out`.
pub fn export(
    context: &Context,
    built: &Built,
    folder: &Path,
    out: &Path,
    (wanted, disk): (&Wanted<'_>, Disk<'_>),
) -> miette::Result<Exported> {
    let began = Instant::now();
    let boot = boot_files(context, disk.boot)?;
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let moment = BuildOptions::from_source_date_epoch(epoch.as_deref())?.source_date_epoch;
    let distribution = registry::open(context)?;
    let base = base::choose(context, &distribution, wanted)?;
    let image = image::build(context, &distribution, (&built.package, &built.digest, folder), base.as_ref(), moment)?;
    image::keep(&distribution, built, &image)?;
    let paint = Paint::stderr();
    image.notes.iter().for_each(|note| say(&format!("{}: {note}", paint.warn("warning"))));
    say(&format!("booting Linux {} ({})", boot.release, boot.kernel.display()));
    let _busy = Busy::with("making the disk");
    let program = super::up::program()?;
    let made_of = Ingredients {
        image: &image,
        package: &built.digest,
        hostname: built.package.name.as_str(),
        program: &program,
        boot: &boot,
        source_date_epoch: moment,
    };
    let full = |error| {
        let help = "choose another folder with `--out DIR`, and check that the disk has room";
        Failed::from(error, format!("could not write to {}", out.display()), help)
    };
    std::fs::create_dir_all(out).map_err(full)?;
    let made = vm::build(distribution.store().blobs(), &made_of, out)?;
    let name = machine_name(&built.package);
    let path = out.join(format!("{name}-vm.{}", disk.container));
    let hardware = Hardware {
        name,
        title: image.name.clone(),
        cpus: CPUS,
        memory_bytes: memory_bytes(&built.package),
        source_date_epoch: moment.unwrap_or(0),
    };
    let write = || -> io::Result<(Digest, u64)> {
        let mut temporary = tempfile::Builder::new().prefix(".incoming-").tempfile_in(out)?;
        container::write(disk.container, &made.file, &hardware, temporary.as_file_mut())?;
        temporary.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        let size_bytes = temporary.as_file().metadata()?.len();
        let digest = digest_of(temporary.as_file_mut())?;
        temporary.persist(&path).map_err(|error| error.error)?;
        Ok((digest, size_bytes))
    };
    let (digest, size_bytes) = write().map_err(full)?;
    let mut more = Map::new();
    for (key, value) in [
        ("container", json!(disk.container.name())),
        ("image", json!(image.digest)),
        ("kernel", json!(boot.release)),
        ("disk_bytes", json!(made.size_bytes)),
        ("root_bytes", json!(made.root_bytes)),
        ("initramfs_bytes", json!(made.initramfs_bytes)),
    ] {
        more.insert(key.to_owned(), value);
    }
    Ok(Exported { path, digest, size_bytes, seconds: began.elapsed().as_secs_f64(), more })
}

/// What a machine should have for a package, in bytes: the server and its system, and the model twice, as it lies and as the engine holds it.
pub fn memory_bytes(package: &Package) -> u64 {
    let files: u64 = package.files.values().map(|file| file.size_bytes).sum();
    (512 << 20) + 2 * files
}

/// What the machine's files are called: `wine-2.1.0`. A version may hold what no file of a machine does.
fn machine_name(package: &Package) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || ".-_".contains(letter) { letter } else { '-' };
    format!("{}-{}", package.name, package.version).chars().map(plain).take(80).collect()
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    file.rewind()?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest::from_sha256(hash.finalize().into())),
            length => hash.update(&piece[..length]),
        }
    }
}

/// What the disk boots with.
fn boot_files(context: &Context, said: &[PathBuf]) -> miette::Result<BootFiles> {
    let mut roots = Vec::new();
    for path in said {
        match path.is_dir() {
            true => roots.push(path.clone()),
            false => roots.push(vm::unpacked(path, &context.home.cache().join("boot"))?),
        }
    }
    roots.push(PathBuf::from("/"));
    Ok(BootFiles::find(&roots)?)
}
