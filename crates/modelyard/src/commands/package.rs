//! `modelyard package [DIR]`: a model folder becomes an immutable package. Also how every command packages a folder.

use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::package::{Package as Document, Runtime};
use modelyard_package::{BuildOptions, Built};
use modelyard_registry::Store;
use serde_json::{Value, json};

use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, say, table};

/// Arguments of `package`.
#[derive(Debug, Args)]
pub struct Package {
    /// The model folder, with its `modelyard.toml`.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

/// Packages a folder into the local registry.
pub fn build(context: &Context, folder: &Path) -> miette::Result<Built> {
    build_into(&super::inspect::store(context)?, folder)
}

/// Packages a folder into `store`, and says what is probably not meant.
pub fn build_into(store: &Store, folder: &Path) -> miette::Result<Built> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let options = BuildOptions::from_source_date_epoch(epoch.as_deref())?;
    let built = modelyard_package::build(folder, store, &options)?;
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
        let formats: Vec<Value> = Vec::new();
        let document = json!({
            "name": built.package.name, "version": built.package.version, "digest": built.digest, "formats": formats,
        });
        context.print(&document, || {
            let row = vec![
                format!("{}:{}", built.package.name, built.package.version),
                built.digest.to_string(),
                size(built.size_bytes),
                format!("{:.0} ms", built.seconds * 1e3),
            ];
            table(&["package", "digest", "size", "took"], vec![row], Paint::stdout())
        })?;
        Ok(Exit::Done)
    }
}
