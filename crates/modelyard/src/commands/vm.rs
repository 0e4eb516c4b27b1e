//! The format `vm`: a disk that a machine boots and serves from.

use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_core::package::Package;
use modelyard_package::Built;
use modelyard_package::image::Written;
use modelyard_package::vm::container::{Container, Hardware};
use modelyard_package::vm::{self, BootFiles, Ingredients};
use serde_json::{Map, json};

use super::image::{self, Wanted};
use super::standalone::Exported;
use super::{base, registry};
use crate::context::Context;
use crate::exit::Failed;
use crate::terminal::{Busy, say};

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
    let moment = super::package::moment()?;
    let distribution = registry::open(context)?;
    let base = base::choose(context, &distribution, wanted)?;
    let (image, _) = image::kept(context, &distribution, (&built.package, &built.digest, folder), base.as_ref())?;
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
    std::fs::create_dir_all(out).map_err(|error| {
        let help = "choose another folder with `--out DIR`, and check that the disk has room";
        Failed::from(error, format!("could not write to {}", out.display()), help)
    })?;
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
    let Written { path, digest, size_bytes, .. } = vm::export(&made, disk.container, &hardware, &path)?;
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
