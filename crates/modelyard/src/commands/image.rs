//! The format `image`: a container image, kept in the local registry beside its package and written as an archive.

use std::path::Path;
use std::time::Instant;

use modelyard_core::package::Package;
use modelyard_core::{Digest, EnvironmentName};
use modelyard_package::image::{self, Base, Image, Ingredients, Written};
use modelyard_package::{BuildOptions, Built};
use modelyard_registry::distribution::Distribution;
use serde_json::{Map, Value, json};

use super::base;
use super::standalone::Exported;
use crate::context::Context;
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
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let options = BuildOptions::from_source_date_epoch(epoch.as_deref())?;
    let moment = options.source_date_epoch;
    let made_of = (package, &built.digest, folder);
    let (image, written) = make(context, &distribution, made_of, base.as_ref(), moment, out)?;
    let parts = image.parts();
    let tag =
        distribution.keep_image(&package.name, package.version.as_str(), &built.digest, &image.manifest, &parts)?;
    let paint = Paint::stderr();
    image.notes.iter().for_each(|note| say(&format!("{}: {note}", paint.warn("warning"))));
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

/// Makes an image of a package (its document, its digest, its files), and writes it to `out`; nothing names it yet.
pub fn make(
    context: &Context,
    distribution: &Distribution,
    (package, digest, folder): (&Package, &Digest, &Path),
    base: Option<&Base>,
    source_date_epoch: Option<u64>,
    out: &Path,
) -> miette::Result<(Image, Written)> {
    let engine = match super::package::is_onnx(package) {
        true => Some(super::serve::library(&context.home.cache())?),
        false => None,
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
        base,
        source_date_epoch,
        known: Some(&known),
    };
    let image = image::build(blobs, &made_of)?;
    let path = out.join(format!("{}-{}-image.tar", package.name, package.version));
    let written = image::archive(blobs, &image, &path)?;
    Ok((image, written))
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
