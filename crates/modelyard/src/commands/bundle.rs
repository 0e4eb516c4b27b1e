//! `modelyard bundle`: packages in one file, to where no network leads, and back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use modelyard_registry::bundle::{self, Contents, Item, Kind, What};
use modelyard_registry::catalog::Way;
use modelyard_registry::names::{is_repository, is_tag};
use serde_json::json;

use super::env::notice;
use super::package::size;
use super::transfer::Progress;
use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, say, table};

/// What to do with a bundle.
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Write packages, their signatures and wheels, and images into one file: an OCI archive.
    Create(Create),
    /// Show what a bundle holds.
    List(File),
    /// Take everything of a bundle into the local registry; each byte is checked first.
    Load(File),
}

/// Arguments of `bundle create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Packages: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF", required_unless_present = "images")]
    packages: Vec<String>,
    /// An image or another artefact that was pushed to this registry.
    #[arg(long = "image", value_name = "NAME:TAG", value_parser = image)]
    images: Vec<(String, String)>,
    /// The file.
    #[arg(long, short = 'f', value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `bundle list` and `bundle load`.
#[derive(Debug, Args)]
pub struct File {
    /// The bundle, or an OCI archive of another tool.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

fn image(text: &str) -> Result<(String, String), String> {
    let found = text.rsplit_once(':').filter(|(name, tag)| is_repository(name) && is_tag(tag));
    let (name, tag) = found.ok_or("write NAME:TAG, such as wine-server:2.1.0")?;
    Ok((name.to_owned(), tag.to_owned()))
}

impl Bundle {
    /// Does it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        match self {
            Self::Create(create) => create.run(context),
            Self::List(File { file }) => {
                let contents = bundle::list(&file)?;
                context.print(&contents, || shown(&contents))?;
                Ok(Exit::Done)
            }
            Self::Load(File { file }) => load(context, &file),
        }
    }
}

impl Create {
    fn run(self, context: &Context) -> miette::Result<Exit> {
        let mut what = What { packages: Vec::new(), images: self.images };
        for reference in &self.packages {
            let (digest, package) = super::inspect::find(context, reference)?;
            what.packages.push((package.name, digest));
        }
        let registry = super::registry::open(context)?;
        let progress = Progress::default();
        let made = bundle::create(&registry, &what, &self.file, &|done, all| progress.tell(done, all));
        progress.end();
        let contents = made?;
        let mut document = json!(contents);
        document["file"] = json!(self.file);
        context.print(&document, || format!("{}\nwrote {}", shown(&contents), self.file.display()))?;
        Ok(Exit::Done)
    }
}

fn load(context: &Context, file: &std::path::Path) -> miette::Result<Exit> {
    notice(context, &Way::bundle(&file.file_name().unwrap_or_default().to_string_lossy()));
    let registry = super::registry::open(context)?;
    let progress = Progress::default();
    let loaded = bundle::load(&registry, file, &|done, all| progress.tell(done, all));
    progress.end();
    let loaded = loaded?;
    for skipped in &loaded.skipped {
        say(&format!("{} was left out: {}", skipped.name, skipped.why));
    }
    context.print(&loaded, || {
        let moved = size(loaded.bytes);
        format!("{}\n{} blobs copied ({moved}), {} were there", rows(&loaded.items), loaded.blobs, loaded.reused)
    })?;
    Ok(if loaded.items.is_empty() { Exit::Failed } else { Exit::Done })
}

fn shown(contents: &Contents) -> String {
    format!("{}\n{} blobs, {}", rows(&contents.items), contents.blobs, size(contents.bytes))
}

fn rows(items: &[Item]) -> String {
    let kind = |kind: Kind| match kind {
        Kind::Package => "package",
        Kind::Attached => "what was said of it",
        Kind::Wheel => "wheel",
        Kind::Image => "image",
    };
    let row = |item: &Item| {
        vec![kind(item.kind).to_owned(), item.name.clone(), item.digest.to_string(), size(item.size_bytes)]
    };
    table(&["kind", "name", "digest", "size"], items.iter().map(row).collect(), Paint::stdout())
}
