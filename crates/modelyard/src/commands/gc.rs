//! `modelyard gc`: blobs that nobody refers to, and before them the versions that no rule keeps.
//!
//! Promises: what an alias points to, what a service runs or could go back to, and the newest version of a model never go; what a service needs is
//! known to the control plane alone, so where there are services it is asked.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use clap::Args;
use modelyard_core::{Millis, ModelName};
use modelyard_registry::catalog::{Retention, Verdict};
use modelyard_registry::partial;
use serde_json::{Value, json};

use super::package::size;
use super::tag::{by, plane};
use crate::cli::{Connect, span};
use crate::context::{Context, person};
use crate::exit::{Exit, Failed};
use crate::terminal::say;

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// How old a blob must be: younger ones may be part of a push that goes on.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span)]
    older_than: Millis,
    /// Let versions go first, all but so many of the newest of each model. What an alias points to or a service may need stays.
    #[arg(long, value_name = "NUMBER")]
    keep_last: Option<NonZeroU32>,
    /// Versions with this tag stay. May be repeated.
    #[arg(long = "keep-tag", value_name = "KEY", requires = "keep_last")]
    keep_tags: Vec<String>,
    /// Versions that are younger stay.
    #[arg(long, value_name = "SPAN", requires = "keep_last", value_parser = span)]
    keep_younger_than: Option<Millis>,
    /// Only versions of this model go. May be repeated.
    #[arg(long = "model", value_name = "NAME", requires = "keep_last")]
    models: Vec<ModelName>,
    #[command(flatten)]
    connect: Connect,
}

impl Gc {
    /// Removes what may go.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let document = match self.keep_last {
            None => json!({ "versions": [], "dry_run": self.dry_run, "swept": self.sweep(context)? }),
            Some(keep_last) => match plane(context, &self.connect)? {
                Some(client) => {
                    let body = json!({
                        "keep_last": keep_last, "keep_tags": self.keep_tags, "models": self.models, "dry_run": self.dry_run,
                        "older_than_ms": self.keep_younger_than.unwrap_or_default(), "grace_ms": self.older_than, "by": person(),
                    });
                    client.post("/api/retention", &body)?
                }
                None => self.alone(context, keep_last)?,
            },
        };
        for damaged in document["swept"]["damaged"].as_array().into_iter().flatten() {
            let (manifest, why) = (text(&damaged["manifest"]), text(&damaged["why"]));
            say(&format!(
                "manifest {manifest} is damaged ({why}); what it refers to was left alone: store it anew with `modelyard package` or `pull`"
            ));
        }
        // What a sweep removed stands at the top, where it stood before versions could go as well.
        let mut told = document["swept"].clone();
        (told["versions"], told["dry_run"]) = (document["versions"].clone(), json!(self.dry_run));
        told["downloads"] = self.downloads(context)?;
        context.print(&told, || self.told(&told))?;
        Ok(Exit::Done)
    }

    fn sweep(&self, context: &Context) -> miette::Result<Value> {
        let swept = super::registry::open(context)?.sweep_blocking(self.older_than.as_duration(), self.dry_run);
        let help = "what was removed until then is gone; nothing else changed";
        let swept = swept.map_err(|error| Failed::from(error, "could not sweep the registry", help))?;
        Ok(swept.document())
    }

    /// Downloads that broke off and that nobody went on with.
    fn downloads(&self, context: &Context) -> Result<Value, Failed> {
        let folder = context.home.root().join(super::artefacts::SCRATCH);
        let left = partial::sweep(&folder, self.older_than.as_duration(), self.dry_run);
        let left = left.map_err(|error| {
            Failed::from(error, format!("could not look into {}", folder.display()), "may it be read?")
        })?;
        Ok(left.iter().map(|left| json!({ "path": left.path, "size_bytes": left.bytes })).collect())
    }

    /// Without a control plane, in a home that never had a service.
    fn alone(&self, context: &Context, keep_last: NonZeroU32) -> miette::Result<Value> {
        if context.home.store().exists() {
            let help =
                "start it with `modelyard up --detach`, then run this again; without `--keep-last` no version goes";
            let what = "no control plane runs, and only it knows which versions services need";
            return Err(Failed::new(what, help).into());
        }
        let rules = Retention {
            keep_last: usize::try_from(keep_last.get()).unwrap_or(usize::MAX),
            keep_tags: self.keep_tags.iter().cloned().collect(),
            older_than: self.keep_younger_than.unwrap_or_default(),
            models: self.models.iter().cloned().collect(),
        };
        let store = super::inspect::store(context)?;
        let verdicts = store.retain(&rules, &BTreeSet::new(), &by(), self.dry_run)?;
        let versions: Vec<Value> = verdicts.iter().map(Verdict::document).collect();
        Ok(json!({ "versions": versions, "dry_run": self.dry_run, "swept": self.sweep(context)? }))
    }

    fn told(&self, document: &Value) -> String {
        let done = if self.dry_run { "would be removed" } else { "removed" };
        let versions = document["versions"].as_array().into_iter().flatten();
        let gone = versions.filter(|one| one["kept"].is_null());
        let mut lines: Vec<String> = gone
            .map(|one| format!("{done}: {}:{} {}", text(&one["model"]), text(&one["version"]), text(&one["digest"])))
            .collect();
        let blobs = document["blobs"].as_array().map(Vec::as_slice).unwrap_or_default();
        lines.extend(blobs.iter().map(|digest| format!("{done}: {}", text(digest))));
        let downloads = document["downloads"].as_array().map(Vec::as_slice).unwrap_or_default();
        lines.extend(downloads.iter().map(|left| format!("{done}: {}, which broke off", text(&left["path"]))));
        let (bytes, kept) = (document["bytes"].as_u64().unwrap_or_default(), &document["kept"]);
        lines.push(format!("{} blobs, {} {done}; {kept} kept", blobs.len(), size(bytes)));
        lines.join("\n")
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
