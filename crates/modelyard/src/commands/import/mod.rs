//! `modelyard import`: models of other tools become model folders and packages.

mod hf;
mod kept;
mod mlflow;
mod oci;
mod url;

use std::fs;
use std::io;
use std::path::Path;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::exit::{Exit, Failed};

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    #[command(subcommand)]
    from: Source,
}

/// Where a model comes from.
#[derive(Debug, Subcommand)]
enum Source {
    /// A model of an MLflow server, or a folder with an `MLmodel` file.
    Mlflow(mlflow::Mlflow),
    /// A `ModelKit` of `KitOps`, or another tool's `ModelPack` artefact, in an OCI registry.
    Oci(oci::Oci),
    /// A model of the Hugging Face Hub, or of a mirror of it.
    Hf(hf::Hf),
    /// A model file behind an address, held against its SHA-256.
    Url(url::Url),
}

impl Import {
    /// Imports it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        match self.from {
            Source::Mlflow(asked) => asked.run(context),
            Source::Oci(asked) => asked.run(context),
            Source::Hf(asked) => asked.run(context),
            Source::Url(asked) => asked.run(context),
        }
    }
}

/// Refuses a folder that holds a model folder already.
fn occupied(folder: &Path) -> Result<(), Failed> {
    if folder.join(modelyard_package::DESCRIPTION).exists() {
        let what = format!("{} holds a model folder already", folder.display());
        return Err(Failed::new(what, "name another folder with `--out DIR`, or remove that one"));
    }
    Ok(())
}

fn unusable(error: io::Error, path: &Path) -> Failed {
    Failed::from(error, format!("could not use {}", path.display()), "choose another folder with `--out DIR`")
}

/// Refuses a folder in which something lies.
fn free(folder: &Path) -> Result<(), Failed> {
    occupied(folder)?;
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            let what = format!("{} is not empty", folder.display());
            Err(Failed::new(what, "name another folder with `--out DIR`, or remove what lies there"))
        }
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unusable(error, folder)),
    }
}

/// Moves the folder to its place; an empty one there gives way.
fn settle(scratch: tempfile::TempDir, folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // A scratch folder is its owner's alone; a model folder is an ordinary one.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
    fs::rename(scratch.path(), folder)?;
    let _gone = scratch.keep();
    Ok(())
}

/// A folder beside where the model folder will lie, so that moving it there is one step.
fn scratch(out: Option<&Path>) -> Result<tempfile::TempDir, Failed> {
    let beside = out.and_then(Path::parent).filter(|path| !path.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    let made = fs::create_dir_all(beside).and_then(|()| tempfile::Builder::new().prefix(".import-").tempdir_in(beside));
    made.map_err(|error| unusable(error, beside))
}
