//! `modelyard package [DIR|FILE]`: a model folder or a bare model becomes an immutable package. Also how every command packages one.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use modelyard_core::package::{Package as Document, Runtime};
use modelyard_core::{EnvironmentName, ModelName, Version};
use modelyard_package::vm::container::Container;
use modelyard_package::{BuildOptions, Built, DESCRIPTION, Named, is_model};
use modelyard_registry::Store;
use serde_json::{Map, Value, json};

use super::standalone::{self, Exported};
use super::{image, measure, vm};
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Busy, Paint, say, table};

/// Says the revision of the source to every command that packages a folder.
const SOURCE_REVISION: &str = "MODELYARD_SOURCE_REVISION";

/// What a package can be exported as today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One tar file that holds program, package and engine: unpack it and start `./run`.
    Standalone,
    /// A Python package, wheel and source distribution, that loads and asks the model.
    Wheel,
    /// A container image, made without Docker: an archive that Docker, skopeo and any OCI runtime take.
    Image,
    /// A disk that a virtual machine boots and serves from: KVM, vSphere, VirtualBox, Hyper-V.
    Vm,
}

/// Arguments of `package`.
#[derive(Debug, Args)]
pub struct Package {
    /// The model folder, with its `modelyard.toml`; or a bare model: an ONNX file, a SavedModel, a Core ML, PyTorch, safetensors or GGUF file.
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    what: PathBuf,
    /// What a bare model is called. Default: its own name, at version 1.
    #[arg(long = "as", value_name = "NAME:VERSION")]
    named: Option<Called>,
    /// Export it as this, besides keeping it in the local registry. May be repeated.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Vec<Format>,
    /// Folder for what is exported.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// The image that a container image is put on: a reference (`registry.example/debian:13`), an OCI layout or an archive of one. Default: what
    /// `[image] base` of modelyard.toml says; else none, and the image stands alone.
    #[arg(long, value_name = "REF|PATH")]
    base: Option<String>,
    /// For a disk: where its kernel, drivers and boot loader are: Debian packages (linux-image-…, systemd-boot-efi), or a folder that is laid out like a
    /// system's root. May be repeated. This machine itself is looked at last.
    #[arg(long, value_name = "DEB|DIR")]
    boot: Vec<PathBuf>,
    /// For a disk: what it is wrapped in: raw, qcow2, vhdx, vmdk, or ova, an appliance with a description of the machine.
    #[arg(long, value_name = "KIND", default_value = "qcow2")]
    disk: Container,
    /// The environment that the image is for: its policy says what it may be put on.
    #[arg(long, value_name = "E")]
    env: Option<EnvironmentName>,
    /// Speak plain HTTP with the registry of the base, though it is not on this machine.
    #[arg(long, requires = "base")]
    plain_http: bool,
    /// Start each format once, ask it a sample, and tell how long it takes to answer correctly. What cannot be started here is not measured.
    #[arg(long, requires = "format")]
    measure: bool,
    /// Package a Python function even if its dependencies are not all pinned in `modelyard.lock`.
    #[arg(long)]
    allow_unlocked: bool,
    /// Revision of the source that it is built from, in place of `[lineage] revision`.
    #[arg(long, value_name = "TEXT", env = SOURCE_REVISION, value_parser = line)]
    source_revision: Option<String>,
}

/// One line, as `[lineage]` takes it.
fn line(text: &str) -> Result<String, String> {
    match text.is_empty() || text.len() > 500 || text.chars().any(char::is_control) {
        true => Err("write one line of 1 to 500 bytes".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// What somebody calls a bare model.
#[derive(Clone, Debug)]
pub struct Called(Named);

impl Called {
    /// Its name.
    pub const fn name(&self) -> &ModelName {
        &self.0.name
    }

    /// Its version.
    pub const fn version(&self) -> &Version {
        &self.0.version
    }
}

impl FromStr for Called {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = text.split_once(':').ok_or("write a name and a version, such as wine:2")?;
        let name = ModelName::new(name).map_err(|error| error.to_string())?;
        let version = Version::new(version).map_err(|error| error.to_string())?;
        Ok(Self(Named { name, version }))
    }
}

/// Refuses to run what nothing runs.
pub fn not_run(package: &Document) -> Usage {
    let kinds: Vec<&str> = package.models.values().map(|model| model.kind.title()).collect();
    let what = match kinds.first() {
        Some(kind) => format!("{}:{} is a bare {kind} model, which nothing here runs", package.name, package.version),
        None => format!("{}:{} says that nothing runs it", package.name, package.version),
    };
    let help = "it is kept, moved and compared as it is; `modelyard new DIR` makes a model folder; put the model there, and a `command` or a `python` \
                function serves it (docs/guide/kinds.md)";
    Usage::new(what, help)
}

/// How the environment says that a folder is packaged: the same for every command, so that they give the same digest.
pub(super) fn options() -> Result<BuildOptions, Usage> {
    let wrong = |why| Usage::new(format!("{SOURCE_REVISION} is no revision: {why}"), "set it right, or unset it");
    let said = std::env::var(SOURCE_REVISION).ok().map(|text| line(&text)).transpose().map_err(wrong)?;
    Ok(BuildOptions { source_revision: said, ..BuildOptions::default() })
}

/// The moment that everything made is stamped with, in seconds since 1970, if `SOURCE_DATE_EPOCH` says one.
pub(super) fn moment() -> miette::Result<Option<u64>> {
    let text = std::env::var("SOURCE_DATE_EPOCH").ok();
    Ok(BuildOptions::from_source_date_epoch(text.as_deref())?.source_date_epoch)
}

/// Packages a folder, or a bare model, into the local registry. What the environment says of its source does not count.
pub fn build(context: &Context, what: &Path, called: Option<&Called>) -> miette::Result<Built> {
    build_into(&super::inspect::store(context)?, what, called, BuildOptions::default())
}

/// Packages a folder, or a bare model, into `store`, and says what is probably not meant.
pub fn build_into(store: &Store, what: &Path, called: Option<&Called>, options: BuildOptions) -> miette::Result<Built> {
    let options = BuildOptions { source_date_epoch: moment()?, ..options };
    let built = {
        let _busy = Busy::with(&format!("packaging {}", what.display()));
        match is_model(what) {
            true => {
                let named = called.map_or_else(|| Named::after(what), |called| Ok(called.0.clone()))?;
                modelyard_package::build_model(what, &named, store, &options)?
            }
            false => modelyard_package::build(&folder(what, called)?, store, &options)?,
        }
    };
    let paint = Paint::stderr();
    built.warnings.iter().for_each(|warning| say(&format!("{}: {warning}", paint.warn("warning"))));
    Ok(built)
}

/// The folder that a bare model lies in: where the paths of its package begin.
pub(super) fn folder_of_model(model: &Path) -> Result<PathBuf, Failed> {
    let unknown =
        |error| Failed::from(error, format!("could not find {}", model.display()), "name it by its whole path");
    // `.` has no parent of its own.
    let path = std::path::absolute(model).map_err(unknown)?;
    Ok(path.parent().unwrap_or(Path::new("/")).to_owned())
}

/// The model folder that is meant: itself, or where its description lies.
pub(super) fn folder(what: &Path, called: Option<&Called>) -> Result<PathBuf, Usage> {
    if what.is_file() && what.file_name().is_none_or(|name| name != DESCRIPTION) {
        let help = "a bare file must be a model of a kind that is known (docs/guide/kinds.md); for anything else `modelyard new DIR` makes a \
                    model folder, whose program serves it";
        return Err(Usage::new(format!("{} is no model folder and no model file", what.display()), help));
    }
    if called.is_some() {
        let help = "change `name` and `version` there";
        return Err(Usage::new("`--as` is for a bare model: a folder's modelyard.toml says what it is called", help));
    }
    let beside = || what.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(if what.is_file() { beside().to_owned() } else { what.to_owned() })
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
    /// What a container image is to be put on.
    fn wanted(&self) -> image::Wanted<'_> {
        let (base, environment) = (self.base.as_deref(), self.env.as_ref());
        image::Wanted { what: &self.what, base, environment, plain_http: self.plain_http }
    }

    /// Builds it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let store = super::inspect::store(context)?;
        let (allow_unlocked, source_revision) = (self.allow_unlocked, self.source_revision.clone());
        let options = BuildOptions { allow_unlocked, source_revision, ..BuildOptions::default() };
        let built = build_into(&store, &self.what, self.named.as_ref(), options)?;
        let mut exported = Vec::new();
        for format in &self.format {
            let folder = super::inspect::store(context)?.unpack(&built.digest)?;
            match format {
                Format::Standalone => {
                    exported.push(("standalone", standalone::export(context, &built.package, &folder, &self.out)?));
                }
                Format::Wheel => exported.extend(wheel(&built.package, &folder, &self.out)?),
                Format::Image => {
                    exported.push(("image", image::export(context, &built, &folder, &self.out, &self.wanted())?));
                }
                Format::Vm => {
                    let disk = vm::Disk { boot: &self.boot, container: self.disk };
                    exported.push(("vm", vm::export(context, &built, &folder, &self.out, (&self.wanted(), disk))?));
                }
            }
        }
        if self.measure {
            exported.iter_mut().for_each(|(format, done)| measured(format, &built.package, done));
        }
        let formats: Vec<Value> = exported
            .iter()
            .map(|(format, done)| {
                let mut told = done.more.clone();
                for (key, value) in [
                    ("format", json!(format)),
                    ("path", json!(done.path)),
                    ("digest", json!(done.digest)),
                    ("size_bytes", json!(done.size_bytes)),
                    ("seconds", json!(done.seconds)),
                ] {
                    told.insert(key.to_owned(), value);
                }
                Value::Object(told)
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

/// Starts what was written, and notes how long it takes until the first correct answer.
fn measured(format: &str, package: &Document, done: &mut Exported) {
    // A source distribution is not started, but built.
    if format == "sdist" {
        return;
    }
    let found = {
        let _busy = Busy::with(&format!("starting {}", done.path.display()));
        measure::start_seconds(format, package, &done.path)
    };
    match found {
        Ok(seconds) => done.more.insert("start_seconds".to_owned(), json!(seconds)),
        Err(why) => {
            say(&format!("{format}: not measured: {why}"));
            done.more.insert("start_seconds".to_owned(), Value::Null);
            done.more.insert("not_measured".to_owned(), json!(why))
        }
    };
}

/// Writes wheel and source distribution, and says what they are called.
fn wheel(package: &Document, folder: &Path, out: &Path) -> miette::Result<Vec<(&'static str, Exported)>> {
    let options = BuildOptions { source_date_epoch: moment()?, ..BuildOptions::default() };
    let written = modelyard_package::wheel::export(package, folder, out, &options)?;
    written.notes.iter().for_each(|note| say(note));
    let done = written.files.into_iter().map(|file| {
        let exported = Exported {
            path: file.path,
            digest: file.digest,
            size_bytes: file.size_bytes,
            seconds: file.seconds,
            more: Map::new(),
        };
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
    let mut head = vec!["package", "digest", "size", "took"];
    if exported.iter().any(|(_, done)| done.more.contains_key("start_seconds")) {
        head.push("starts in");
        let starts = exported.iter().map(|(_, done)| done.more.get("start_seconds").and_then(Value::as_f64));
        for (row, starts) in rows.iter_mut().zip([None].into_iter().chain(starts)) {
            row.push(starts.map_or_else(|| "-".to_owned(), took));
        }
    }
    table(&head, rows, Paint::stdout())
}
