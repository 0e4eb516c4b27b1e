//! The format `image`: a container image, kept in the local registry beside its package and written as an archive.

use std::path::Path;
use std::time::Instant;

use modelyard_package::image::{self, Image, Ingredients};
use modelyard_package::{BuildOptions, Built};
use serde_json::{Map, Value, json};

use super::standalone::Exported;
use crate::context::Context;
use crate::terminal::{Busy, Paint, say};

/// Makes the image of a package that is laid out in `folder`, and writes `NAME-VERSION-image.tar` to `out`.
pub fn export(context: &Context, built: &Built, folder: &Path, out: &Path) -> miette::Result<Exported> {
    let began = Instant::now();
    let package = &built.package;
    let engine = match super::package::is_onnx(package) {
        true => Some(super::serve::library(&context.home.cache())?),
        false => None,
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let options = BuildOptions::from_source_date_epoch(epoch.as_deref())?;
    let distribution = super::registry::open(context)?;
    let blobs = distribution.store().blobs();
    let known = context.home.cache().join("layers");
    let path = out.join(format!("{}-{}-image.tar", package.name, package.version));
    let _busy = Busy::with("making the container image");
    let made_of = Ingredients {
        package,
        digest: &built.digest,
        manifest_bytes: blobs.size(&built.digest)?.unwrap_or_default(),
        folder,
        program: &super::up::program()?,
        engine: engine.as_deref(),
        base: None,
        source_date_epoch: options.source_date_epoch,
        known: Some(&known),
    };
    let image = image::build(blobs, &made_of)?;
    let parts = image.parts();
    let tag =
        distribution.keep_image(&package.name, package.version.as_str(), &built.digest, &image.manifest, &parts)?;
    let written = image::archive(blobs, &image, &path)?;
    let paint = Paint::stderr();
    image.notes.iter().for_each(|note| say(&format!("{}: {note}", paint.warn("warning"))));
    let mut more = Map::new();
    more.insert("file_digest".to_owned(), json!(written.digest));
    more.insert("tag".to_owned(), json!(tag));
    more.insert("layers".to_owned(), layers(&image));
    let seconds = began.elapsed().as_secs_f64();
    Ok(Exported { path: written.path, digest: image.digest, size_bytes: written.size_bytes, seconds, more })
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
