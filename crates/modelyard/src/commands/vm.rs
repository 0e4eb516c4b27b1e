//! The format `vm`: a disk that a machine boots and serves from.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_package::image::Image;
use modelyard_package::vm::{self, BootFiles, Ingredients};
use modelyard_package::{BuildOptions, Built};
use serde_json::{Map, json};

use super::image::{self, Wanted};
use super::standalone::Exported;
use super::{base, registry};
use crate::context::Context;
use crate::exit::Failed;
use crate::terminal::{Busy, Paint, say};

/// What a disk is to be.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// Where kernel, drivers and boot loader are looked for before this machine itself.
    pub boot: &'a [PathBuf],
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
    let image: Image =
        image::build(context, &distribution, (&built.package, &built.digest, folder), base.as_ref(), moment)?;
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
    let lacks_room = |error| {
        Failed::from(
            error,
            format!("could not write to {}", out.display()),
            "choose another folder with `--out DIR`, and check that the disk has room",
        )
    };
    std::fs::create_dir_all(out).map_err(lacks_room)?;
    let made = vm::build(distribution.store().blobs(), &made_of, out)?;
    let path = out.join(vm::file_name(&image, "raw"));
    let mut temporary = tempfile::Builder::new().prefix(".incoming-").tempfile_in(out).map_err(lacks_room)?;
    let mut source = &made.file;
    std::io::Seek::rewind(&mut source).map_err(lacks_room)?;
    std::io::copy(&mut source, &mut temporary).map_err(lacks_room)?;
    temporary.flush().map_err(lacks_room)?;
    let written = temporary.persist(&path).map_err(|error| lacks_room(error.error))?;
    let size_bytes = written.metadata().map_err(lacks_room)?.len();
    let digest = built.digest;
    let mut more = Map::new();
    more.insert("image".to_owned(), json!(image.digest));
    more.insert("kernel".to_owned(), json!(boot.release));
    more.insert("disk_bytes".to_owned(), json!(made.size_bytes));
    more.insert("root_bytes".to_owned(), json!(made.root_bytes));
    more.insert("initramfs_bytes".to_owned(), json!(made.initramfs_bytes));
    Ok(Exported { path, digest, size_bytes, seconds: began.elapsed().as_secs_f64(), more })
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
