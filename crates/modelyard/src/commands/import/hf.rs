//! `modelyard import hf ORG/NAME[@REVISION]`: a model of the Hugging Face Hub becomes a model folder and a package.

use std::path::PathBuf;

use clap::Args;
use modelyard_core::{ModelName, Version};
use modelyard_package::choice::{ChoiceError, Offered, choose};
use modelyard_package::foreign::huggingface;
use modelyard_package::slug;
use modelyard_registry::catalog::Way;
use modelyard_registry::hub::{Hub, Listed, Repository, RepositoryError, Snapshot};
use serde_json::json;

use super::free;
use super::kept::{Kept, harmless, keep};
use crate::commands::artefacts::SCRATCH;
use crate::commands::package::{Called, size};
use crate::commands::transfer::Progress;
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Busy, say};

/// Arguments of `import hf`.
#[derive(Debug, Args)]
pub struct Hf {
    /// `ORG/NAME`, or `ORG/NAME@REVISION` with a branch, a tag or a commit. A branch is pinned to the commit that it is at.
    #[arg(value_name = "ORG/NAME")]
    model: String,
    /// Files to take, such as `onnx/model.onnx` or `*.json`. May be repeated. Default: the only model, and what stands beside it.
    #[arg(long, value_name = "PATTERN")]
    file: Vec<String>,
    /// What the package is called. Default: the model's name, and the tag that was asked for, else the commit.
    #[arg(long = "as", value_name = "NAME:VERSION")]
    named: Option<Called>,
    /// The model folder that is made. Default: the model's name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take files, too, whose loading may run code: pickles, and what PyTorch and Keras save.
    #[arg(long)]
    allow_pickle: bool,
    /// The hub, or a mirror of it. HF_TOKEN says who asks.
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    endpoint: String,
}

impl Hf {
    /// Imports it. The folder appears whole or not at all; what broke off goes on in the next call.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let (repository, revision) = self.model.split_once('@').unwrap_or((&self.model, "main"));
        let help = "write ORG/NAME or ORG/NAME@REVISION";
        let repository: Repository =
            repository.parse().map_err(|error: RepositoryError| Usage::new(error.to_string(), help))?;
        if let Some(folder) = &self.out {
            free(folder)?;
        }
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let hub = Hub::new(&self.endpoint, token.as_deref())?;
        let snapshot = {
            let _busy = Busy::with(&format!("asking for {repository}"));
            hub.snapshot(&repository, revision)?
        };
        let (name, version) = self.called(&repository, revision, &snapshot)?;
        let folder = self.out.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
        free(&folder)?;
        let chosen = self.chosen(&snapshot)?;
        let all: u64 = chosen.iter().map(|file| file.size_bytes).sum();
        say(&format!("{repository} at {}: {} files, {}", &snapshot.commit[..12], chosen.len(), size(all)));
        let files = self.fetched(context, &hub, &snapshot, &chosen, all)?;
        let mut said = huggingface(&snapshot.about);
        said.source = Some((hub.page(&repository), snapshot.commit.clone()));
        let told = [("repository", repository.to_string()), ("revision", revision.to_owned())];
        for (key, value) in told {
            said.notes.insert(format!("huggingface.{key}"), json!(value));
        }
        let came = Way::imported_from(&hub.page(&repository));
        let built = keep(context, Kept { files, said, name, version, came }, &folder)?;
        let document = json!({
            "name": built.package.name, "version": built.package.version, "digest": built.digest,
            "runtime": built.package.runtime.name(), "folder": folder, "repository": repository.to_string(),
            "commit": snapshot.commit, "files": chosen.iter().map(|file| &file.path).collect::<Vec<_>>(),
        });
        context.print(&document, || format!("{}:{}  {}", built.package.name, built.package.version, built.digest))?;
        Ok(Exit::Done)
    }

    /// Fetches what was chosen. It lies in the home until all of it is there.
    fn fetched(
        &self,
        context: &Context,
        hub: &Hub,
        snapshot: &Snapshot,
        chosen: &[&Listed],
        all: u64,
    ) -> miette::Result<Vec<(PathBuf, String)>> {
        let scratch = context.home.root().join(SCRATCH);
        let (progress, mut before, mut files) = (Progress::default(), 0, Vec::with_capacity(chosen.len()));
        for file in chosen {
            let path = hub.fetch(snapshot, file, &scratch, &|done, _| progress.tell(before + done, all));
            let path = path.inspect_err(|_| progress.end())?;
            if !self.allow_pickle {
                harmless(&path, &file.path).inspect_err(|_| {
                    progress.end();
                    let _ = std::fs::remove_file(&path);
                })?;
            }
            before += file.size_bytes;
            files.push((path, file.path.clone()));
        }
        progress.end();
        Ok(files)
    }

    fn chosen<'s>(&self, snapshot: &'s Snapshot) -> Result<Vec<&'s Listed>, Failed> {
        let offered: Vec<Offered<'s>> =
            snapshot.files.iter().map(|file| Offered { path: &file.path, size_bytes: file.size_bytes }).collect();
        let chosen = choose(&offered, &self.file, self.allow_pickle).map_err(|error| {
            let help = match &error {
                ChoiceError::Several(_) => "say which: `--file PATH`, which may be repeated; the card and the licence come along",
                ChoiceError::Risky(_) | ChoiceError::Forbidden(_) => {
                    "look for the model as ONNX or safetensors. If you trust its makers, `--allow-pickle` takes them; Modelyard itself never loads them"
                }
                ChoiceError::None | ChoiceError::Nothing(_) => "look at the model's files on its page, and name what to take with `--file PATTERN`",
            };
            Failed::from(error, format!("nothing was taken from {}", self.model), help)
        })?;
        let is_chosen = |file: &&'s Listed| chosen.iter().any(|chosen| chosen.path == file.path);
        Ok(snapshot.files.iter().filter(is_chosen).collect())
    }

    fn called(
        &self,
        repository: &Repository,
        revision: &str,
        snapshot: &Snapshot,
    ) -> Result<(ModelName, Version), Usage> {
        if let Some(called) = &self.named {
            return Ok((called.name().clone(), called.version().clone()));
        }
        // A branch moves, so that it names no version; a tag that looks like one does.
        let tag = revision.trim_start_matches('v');
        let tag = Some(tag).filter(|tag| tag.contains('.') && tag.starts_with(|first: char| first.is_ascii_digit()));
        let commit = Version::new(&snapshot.commit[..12]);
        let version = tag.and_then(|tag| Version::new(tag).ok()).map_or(commit, Ok);
        let help = "say what it is to be called here: `--as NAME:VERSION`";
        Ok((slug(repository.name()), version.map_err(|error| Usage::new(error.to_string(), help))?))
    }
}
