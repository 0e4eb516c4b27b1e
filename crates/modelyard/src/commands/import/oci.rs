//! `modelyard import oci REMOTE`: a ModelKit of KitOps, a ModelPack artefact of another tool, or a plain image that carries a model becomes a model
//! folder and a package.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use modelyard_core::{ModelName, Version};
use modelyard_package::BuildOptions;
use modelyard_package::foreign::{Said, describe, image, kitfile, modelpack};
use modelyard_registry::catalog::Way;
use modelyard_registry::client::{Foreign, Layout, Remote, fetch_foreign};
use serde_json::json;

use super::{free, scratch, settle, unusable};
use crate::commands::env::notice;
use crate::commands::inspect;
use crate::commands::package::{Called, build_into};
use crate::commands::transfer::{Progress, chosen};
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::say;

/// Arguments of `import oci`.
#[derive(Debug, Args)]
pub struct Oci {
    /// What to fetch: `registry.example/team/wine:2.1.0`, or by digest.
    #[arg(value_name = "REMOTE")]
    remote: Remote,
    /// Folder of a plain image that holds the model; `/` for all of it.
    #[arg(long, value_name = "DIR", default_value = "/models")]
    path: String,
    /// What the package is called. Default: as the artefact says, or the repository and the tag.
    #[arg(long = "as", value_name = "NAME:VERSION")]
    named: Option<Called>,
    /// The model folder that is made. Default: the model's name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Speak plain HTTP with a registry that is not on this machine.
    #[arg(long)]
    plain_http: bool,
    /// Take a Python package that brings its own description without a complete `modelyard.lock`.
    #[arg(long)]
    allow_unlocked: bool,
}

impl Oci {
    /// Imports it. The folder appears whole or not at all.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let store = inspect::store(context)?;
        let remote = chosen(self.remote.clone(), self.plain_http);
        if let Some(folder) = &self.out {
            free(folder)?;
        }
        let scratch = scratch(self.out.as_deref())?;
        let progress = Progress::default();
        let within = self.path.trim_start_matches("./").trim_matches('/');
        let fetched = fetch_foreign(&store, &remote, within, scratch.path(), &|done, all| progress.tell(done, all));
        progress.end();
        let fetched = fetched?;
        let said = said(&fetched, &remote);
        let (name, version) = self.called(&said, &remote)?;
        let folder = self.out.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
        free(&folder)?;
        let described = describe(&said, scratch.path(), &fetched.files, &name, &version);
        let described =
            described.map_err(|why| Failed::new(format!("{remote} cannot be packaged: {why}"), "nothing was kept"))?;
        let brought = described.is_none();
        if let Some(text) = described {
            let path = scratch.path().join(modelyard_package::DESCRIPTION);
            fs::write(&path, text).map_err(|error| unusable(error, &path))?;
        }
        settle(scratch, &folder).map_err(|error| unusable(error, &folder))?;
        let came = Way::imported(&remote);
        notice(context, &came);
        let options = BuildOptions { allow_unlocked: self.allow_unlocked, came: Some(came), ..BuildOptions::default() };
        let built = build_into(&store, &folder, None, options)?;
        if !brought {
            say(&format!(
                "the model folder is {}: add samples there, so that an instance can be told to answer rightly",
                folder.display()
            ));
        }
        let document = json!({
            "name": built.package.name, "version": built.package.version, "digest": built.digest,
            "runtime": built.package.runtime.name(), "folder": folder, "source": remote.to_string(),
            "source_digest": fetched.digest,
        });
        context.print(&document, || format!("{}:{}  {}", built.package.name, built.package.version, built.digest))?;
        Ok(Exit::Done)
    }

    fn called(&self, said: &Said, remote: &Remote) -> Result<(ModelName, Version), Usage> {
        if let Some(called) = &self.named {
            return Ok((called.name().clone(), called.version().clone()));
        }
        let help = "say what it is to be called here: `--as NAME:VERSION`";
        let last = remote.repository().rsplit('/').next().unwrap_or_default();
        let name = said.name.as_deref().and_then(|name| ModelName::new(name).ok());
        let name =
            name.map_or_else(|| ModelName::new(last), Ok).map_err(|error| Usage::new(error.to_string(), help))?;
        let version = said.version.as_deref().or(remote.tag());
        let version = version.ok_or_else(|| Usage::new(format!("{remote} does not say its version"), help))?;
        let version = Version::new(version).map_err(|error| Usage::new(error.to_string(), help))?;
        Ok((name, version))
    }
}

/// What the artefact says, and where it comes from.
fn said(fetched: &Foreign, remote: &Remote) -> Said {
    let mut said = match fetched.layout {
        Layout::Kit => kitfile(&fetched.config),
        Layout::Pack => modelpack(&fetched.config),
        Layout::Image => image(&fetched.config),
    };
    said.notes.insert("oci.source".to_owned(), json!(remote.to_string()));
    said.notes.insert("oci.digest".to_owned(), json!(fetched.digest));
    said
}
