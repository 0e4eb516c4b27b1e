//! `modelyard package [DIR]`: a model folder becomes an immutable package. Also how every command packages a folder.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use modelyard_core::package::{Package as Document, Runtime};
use modelyard_package::{BuildOptions, Built};
use modelyard_registry::Store;
use serde_json::{Value, json};

use super::standalone::{self, Exported};
use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Busy, Paint, say, table};

/// What a package can be exported as today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One tar file that holds program, package and engine: unpack it and start `./run`.
    Standalone,
    /// A Python package, wheel and source distribution, that loads and asks the model.
    Wheel,
}

/// Arguments of `package`.
#[derive(Debug, Args)]
pub struct Package {
    /// The model folder, with its `modelyard.toml`.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Export it as this, besides keeping it in the local registry. May be repeated.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Vec<Format>,
    /// Folder for what is exported.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

/// Packages a folder into the local registry.
pub fn build(context: &Context, folder: &Path) -> miette::Result<Built> {
    build_into(&super::inspect::store(context)?, folder)
}

/// Packages a folder into `store`, and says what is probably not meant.
pub fn build_into(store: &Store, folder: &Path) -> miette::Result<Built> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let options = BuildOptions::from_source_date_epoch(epoch.as_deref())?;
    let built = {
        let _busy = Busy::with(&format!("packaging {}", folder.display()));
        modelyard_package::build(folder, store, &options)?
    };
    let paint = Paint::stderr();
    built.warnings.iter().for_each(|warning| say(&format!("{}: {warning}", paint.warn("warning"))));
    Ok(built)
}

/// Whether an instance of the package needs ONNX Runtime.
pub const fn is_onnx(package: &Document) -> bool {
    matches!(package.runtime, Runtime::Onnx { .. })
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

impl Package {
    /// Builds it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let built = build(context, &self.folder)?;
        let mut exported = Vec::new();
        for format in &self.format {
            let folder = super::inspect::store(context)?.unpack(&built.digest)?;
            match format {
                Format::Standalone => {
                    exported.push(("standalone", standalone::export(context, &built.package, &folder, &self.out)?));
                }
                Format::Wheel => exported.extend(wheel(&built.package, &folder, &self.out)?),
            }
        }
        let formats: Vec<Value> = exported
            .iter()
            .map(|(format, done)| {
                json!({
                    "format": format, "path": done.path, "digest": done.digest,
                    "size_bytes": done.size_bytes, "seconds": done.seconds,
                })
            })
            .collect();
        let document = json!({
            "name": built.package.name, "version": built.package.version, "digest": built.digest,
            "size_bytes": built.size_bytes, "seconds": built.seconds, "formats": formats,
        });
        context.print(&document, || text(&built, &exported))?;
        Ok(Exit::Done)
    }
}

/// Writes wheel and source distribution, and says what they are called.
fn wheel(package: &Document, folder: &Path, out: &Path) -> miette::Result<Vec<(&'static str, Exported)>> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let options = BuildOptions::from_source_date_epoch(epoch.as_deref())?;
    let written = modelyard_package::wheel::export(package, folder, out, &options)?;
    written.notes.iter().for_each(|note| say(note));
    let done = written.files.into_iter().map(|file| {
        let exported =
            Exported { path: file.path, digest: file.digest, size_bytes: file.size_bytes, seconds: file.seconds };
        (file.format, exported)
    });
    Ok(done.collect())
}

fn text(built: &Built, exported: &[(&'static str, Exported)]) -> String {
    let took = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
    let name = format!("{}:{}", built.package.name, built.package.version);
    let mut rows = vec![vec![name, built.digest.to_string(), size(built.size_bytes), took(built.seconds)]];
    rows.extend(exported.iter().map(|(_, done)| {
        vec![done.path.display().to_string(), done.digest.to_string(), size(done.size_bytes), took(done.seconds)]
    }));
    table(&["package", "digest", "size", "took"], rows, Paint::stdout())
}
