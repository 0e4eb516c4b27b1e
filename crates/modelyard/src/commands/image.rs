//! The format `image`: a container image, kept in the local registry beside its package and written as an archive.

use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_control::policy::ImageChoice;
use modelyard_core::package::{Package, Runtime};
use modelyard_core::{Digest, EnvironmentName};
use modelyard_package::Built;
use modelyard_package::image::{self, Base, Dependencies, Image, Ingredients};
use modelyard_registry::distribution::Distribution;
use modelyard_serve::python;
use serde_json::{Map, Value, json};

use super::base;
use super::standalone::Exported;
use crate::context::Context;
use crate::exit::Failed;
use crate::terminal::{Busy, Paint, say};

/// What an image is to be put on, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The model folder, whose description may name a base.
    pub what: &'a Path,
    /// The base by name or path.
    pub base: Option<&'a str>,
    /// The environment whose policy holds.
    pub environment: Option<&'a EnvironmentName>,
    /// Whether plain HTTP is spoken.
    pub plain_http: bool,
}

/// Makes the image of a package that is laid out in `folder`, and writes `NAME-VERSION-image.tar` to `out`.
pub fn export(
    context: &Context,
    built: &Built,
    folder: &Path,
    out: &Path,
    wanted: &Wanted<'_>,
) -> miette::Result<Exported> {
    let began = Instant::now();
    let package = &built.package;
    let distribution = super::registry::open(context)?;
    let base = base::choose(context, &distribution, wanted)?;
    let (image, tag) = kept(context, &distribution, (package, &built.digest, folder), base.as_ref())?;
    let written = image::archive(distribution.store().blobs(), &image, &path(package, out))?;
    let mut more = Map::new();
    more.insert("file_digest".to_owned(), json!(written.digest));
    more.insert("tag".to_owned(), json!(tag));
    more.insert("layers".to_owned(), layers(&image));
    if let Some(base) = &base {
        more.insert("base".to_owned(), json!({ "name": base.name, "digest": base.digest }));
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Exported { path: written.path, digest: image.digest, size_bytes: written.size_bytes, seconds, more })
}

/// Makes the image of a package and keeps it in the local registry, unless that has one which the environment takes: for services that run in containers.
/// `what` is where the package came from, whose description may name a base.
pub fn ensure(
    context: &Context,
    (package, digest): (&Package, &Digest),
    what: &Path,
    environment: &EnvironmentName,
) -> miette::Result<()> {
    let distribution = super::registry::open(context)?;
    if let ImageChoice::Taken(_) = super::env::policy(context, environment)?.image(&distribution, digest, package)? {
        return Ok(());
    }
    let wanted = Wanted { what, base: None, environment: Some(environment), plain_http: false };
    let base = base::choose(context, &distribution, &wanted)?;
    if base.is_none() && matches!(package.runtime, Runtime::Python { .. }) {
        let what = format!(
            "{}:{} is a Python function, and its container image needs a base with Python",
            package.name, package.version
        );
        let help = "write `base = \"docker.io/library/python:3.12-slim\"` under [image] in modelyard.toml and deploy the folder, or make the image first: `modelyard package DIR --format image --base …`";
        return Err(Failed::new(what, help).into());
    }
    let folder = distribution.store().unpack(digest)?;
    let (image, _) = kept(context, &distribution, (package, digest, &folder), base.as_ref())?;
    say(&format!("made the container image {} {}", image.name, image.digest));
    Ok(())
}

/// Makes an image of a package (its document, its digest, its files), keeps it in the local registry beside the package, and says what people should know;
/// with the tag that names it.
pub fn kept(
    context: &Context,
    distribution: &Distribution,
    (package, digest, folder): (&Package, &Digest, &Path),
    base: Option<&Base>,
) -> miette::Result<(Image, Option<String>)> {
    let image = build(context, distribution, (package, digest, folder), base, super::package::moment()?)?;
    let paint = Paint::stderr();
    image.notes.iter().for_each(|note| say(&format!("{}: {note}", paint.warn("warning"))));
    let parts = image.parts();
    let tag = distribution.keep_image(&package.name, &package.version, digest, &image.manifest, &parts)?;
    Ok((image, tag))
}

/// Where the archive of an image is written.
pub fn path(package: &Package, out: &Path) -> PathBuf {
    out.join(format!("{}-{}-image.tar", package.name, package.version))
}

/// Makes an image of a package; its blobs are stored, and nothing names it yet.
pub fn build(
    context: &Context,
    distribution: &Distribution,
    (package, digest, folder): (&Package, &Digest, &Path),
    base: Option<&Base>,
    source_date_epoch: Option<u64>,
) -> miette::Result<Image> {
    let engine = match super::package::is_onnx(package) {
        true => Some(super::serve::library(&context.home.cache())?),
        false => None,
    };
    let site = tempfile::tempdir()
        .map_err(|error| Failed::from(error, "could not make a folder for dependencies", "does the disk have room?"))?;
    let (worker, text) = python::worker();
    let needs = match base.filter(|_| matches!(package.runtime, Runtime::Python { .. })) {
        Some(base) => {
            let (minor, interpreter) = dependencies(package, folder, base, site.path())?;
            Some(Dependencies { site: site.path(), interpreter, minor, worker: (&worker, text) })
        }
        None => None,
    };
    let blobs = distribution.store().blobs();
    let known = context.home.cache().join("layers");
    let _busy = Busy::with("making the container image");
    let made_of = Ingredients {
        package,
        digest,
        manifest_bytes: blobs.size(digest)?.unwrap_or_default(),
        folder,
        program: &super::up::program()?,
        engine: engine.as_deref(),
        python: needs,
        base,
        source_date_epoch,
        known: Some(&known),
    };
    Ok(image::build(blobs, &made_of)?)
}

/// Gathers what a Python function needs for an interpreter of the base; that interpreter, by minor version and path.
fn dependencies<'a>(package: &Package, folder: &Path, base: &'a Base, site: &Path) -> miette::Result<(u32, &'a str)> {
    if matches!(&package.runtime, Runtime::Python { requirements: Some(_), locked: false, .. }) {
        let what =
            format!("{}:{} is not locked: two images of it could hold different things", package.name, package.version);
        return Err(Failed::new(what, "run `modelyard lock`, and package it again").into());
    }
    let fits = |minor: u32| python::is_for(package, &format!("3.{minor}"));
    let Some((&minor, interpreter)) = base.pythons.iter().rev().find(|(minor, _)| fits(**minor)) else {
        let there: Vec<String> = base.pythons.keys().map(|minor| format!("3.{minor}")).collect();
        let there =
            if there.is_empty() { "has no Python".to_owned() } else { format!("has Python {}", there.join(", ")) };
        let wanted = modelyard_core::package::python_versions(&package.annotations);
        let what = format!("the base {} {there}, and {} needs {wanted}", base.name, package.name);
        return Err(
            Failed::new(what, "choose a base with such a Python: `--base docker.io/library/python:3.12-slim`").into()
        );
    };
    let _busy = Busy::with("gathering what the function needs");
    let glibc = base.glibc.map_or(17, |(_, minor)| minor);
    python::install(package, folder, site, &format!("3.{minor}"), glibc).map_err(|error| {
        Failed::from(
            error,
            "what the function needs cannot be gathered",
            "every dependency must be there as a wheel for Linux",
        )
    })?;
    Ok((minor, interpreter))
}

fn layers(image: &Image) -> Value {
    let layers = image.layers.iter().map(|layer| {
        json!({
            "what": layer.what, "digest": layer.descriptor.digest, "size_bytes": layer.descriptor.size,
            "reused": layer.reused,
        })
    });
    layers.collect()
}
