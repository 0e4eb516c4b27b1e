//! `modelyard verify --rebuild FILE`: whether an exported file is what its package makes, byte for byte.

use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_package::BuildOptions;
use modelyard_package::image::Base;
use modelyard_package::rebuild::{Made, differences, recognise};
use modelyard_registry::{Reference, Selector, Store};
use serde_json::json;

use super::{image, standalone};
use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::terminal::{Busy, Paint};

/// Builds the file anew from the package in the local registry, and compares.
pub fn run(context: &Context, file: &Path) -> miette::Result<Exit> {
    let made = recognise(file)?;
    let scratch = tempfile::tempdir()
        .map_err(|error| Failed::from(error, "could not make a folder to build in", "does the disk have room?"))?;
    let distribution = super::registry::open(context)?;
    let store = distribution.store();
    let (digest, package) = package(store, &made)?;
    let folder = store.unpack(&digest)?;
    let anew = {
        let _busy = Busy::with(&format!("building {} anew", file.display()));
        match &made {
            Made::Image { base, moment, .. } => {
                let base = base.as_ref().map(|(name, digest)| below(store, name, digest)).transpose()?;
                let made_of = (&package, &digest, folder.as_path());
                let anew = image::build(context, &distribution, made_of, base.as_ref(), Some(*moment))?;
                let to = image::path(&package, scratch.path());
                modelyard_package::image::archive(store.blobs(), &anew, &to)?.path
            }
            Made::Wheel { moment, .. } => wheel(&package, &folder, scratch.path(), *moment)?,
            Made::Standalone { .. } => standalone::export(context, &package, &folder, scratch.path())?.path,
        }
    };
    let found = differences(file, &anew)?;
    let document = json!({
        "file": file, "name": package.name, "version": package.version, "digest": digest,
        "verified": found.is_empty(), "differences": found,
    });
    context.print(&document, || {
        let paint = Paint::stdout();
        let name = format!("{}:{}, {digest}", package.name, package.version);
        match found.is_empty() {
            true => format!("{}: the package {name} makes these very bytes", paint.good("verified")),
            false => {
                let told: String = found.iter().map(|one| format!("{}: {one}\n", paint.bad("differs"))).collect();
                format!(
                    "{told}{}: the package {name}, this Modelyard and this machine make other bytes",
                    paint.bad("not verified")
                )
            }
        }
    })?;
    Ok(if found.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The package that the file says that it was made of, as the registry has it.
fn package(store: &Store, made: &Made) -> miette::Result<(Digest, Package)> {
    let digest = match made {
        Made::Image { package, .. } => *package,
        Made::Wheel { package, .. } | Made::Standalone { package } => {
            let selector = Selector::Version(package.version.clone());
            store.resolve(&Reference { model: package.name.clone(), selector })?
        }
    };
    Ok((digest, store.package(&digest)?))
}

/// The image below, which must be here.
fn below(store: &Store, name: &str, digest: &Digest) -> miette::Result<Base> {
    if store.blobs().size(digest)?.is_none() {
        let what = format!("the image was built on {name:.200}, {digest}, which is not in this registry");
        return Err(Failed::new(what, "package once with `--format image --base NAME@DIGEST`, which fetches it").into());
    }
    Ok(Base::read(store.blobs(), name, digest)?)
}

fn wheel(package: &Package, folder: &Path, out: &Path, moment: u64) -> miette::Result<PathBuf> {
    let options = BuildOptions { source_date_epoch: Some(moment), ..BuildOptions::default() };
    let written = modelyard_package::wheel::export(package, folder, out, &options)?;
    let wheel = written.files.into_iter().find(|file| file.format == "wheel");
    Ok(wheel.map(|file| file.path).ok_or_else(|| Failed::new("no wheel was built", "report this as a bug"))?)
}
