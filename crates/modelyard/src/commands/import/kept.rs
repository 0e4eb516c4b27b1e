//! What was fetched from a public place becomes a model folder and a package.
//!
//! Promises: the folder appears whole or not at all; what came is looked at by its content before it is kept, whatever it is called.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use modelyard_core::{ModelName, Version};
use modelyard_package::choice::pickle_in;
use modelyard_package::foreign::{Said, describe};
use modelyard_package::{BuildOptions, Built};
use modelyard_registry::catalog::Way;

use super::{free, scratch, settle, unusable};
use crate::commands::env::notice;
use crate::commands::inspect;
use crate::commands::package::build_into;
use crate::context::Context;
use crate::exit::Failed;
use crate::terminal::say;

/// Files on their way into a model folder.
pub(super) struct Kept {
    /// Where each lies, and its path in the folder.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What was said of them.
    pub(super) said: Said,
    pub(super) name: ModelName,
    pub(super) version: Version,
    /// From where they came.
    pub(super) came: Way,
}

/// Refuses what would run code when it is loaded.
pub(super) fn harmless(path: &Path, called: &str) -> Result<(), Failed> {
    let Some(kind) = pickle_in(path) else { return Ok(()) };
    let what = format!("`{called}` is a {kind}, whatever it is called: loading it may run code");
    Err(Failed::new(
        what,
        "nothing was kept. If you trust its makers, take it with `--allow-pickle`; Modelyard itself never loads it",
    ))
}

/// Makes the folder `out` and packages it.
pub(super) fn keep(context: &Context, kept: Kept, out: &Path) -> miette::Result<Built> {
    let scratch = scratch(Some(out))?;
    let paths: Vec<String> = kept.files.iter().map(|(_, path)| path.clone()).collect();
    for (from, path) in &kept.files {
        let target = scratch.path().join(path);
        placed(from, &target).map_err(|error| unusable(error, &target))?;
    }
    let described = describe(&kept.said, scratch.path(), &paths, &kept.name, &kept.version);
    let described =
        described.map_err(|why| Failed::new(format!("it cannot be packaged: {why}"), "nothing was kept"))?;
    if let Some(text) = described {
        let path = scratch.path().join(modelyard_package::DESCRIPTION);
        fs::write(&path, text).map_err(|error| unusable(error, &path))?;
    }
    notice(context, &kept.came);
    let options = BuildOptions { came: Some(kept.came), ..BuildOptions::default() };
    let built = build_into(&inspect::store(context)?, scratch.path(), None, options)?;
    free(out)?;
    settle(scratch, out).map_err(|error| unusable(error, out))?;
    for (from, _) in &kept.files {
        let _ = fs::remove_file(from); // what cannot be removed now, `gc` removes
    }
    say(&format!(
        "the model folder is {}: add samples there, so that an instance can be told to answer rightly",
        out.display()
    ));
    Ok(built)
}

/// Lets a file lie in a second place, until all went well: what was long in coming is not thrown away because a version is taken.
fn placed(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}
