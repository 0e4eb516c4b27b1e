//! `modelyard attest REF [DIR]`: provenance, stated only after the folder was packaged again and gave the same digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_package::{BuildOptions, DESCRIPTION, Named, is_model};
use modelyard_registry::access::now;
use modelyard_registry::trust::{Build, PROVENANCE, attest};
use serde_json::json;

use super::sign::{short, signing_key};
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::source::source;
use crate::terminal::{Busy, say};

/// Longest name of a builder, in bytes.
const MAX_BUILDER_BYTES: usize = 500;

/// Arguments of `attest`.
#[derive(Debug, Args)]
pub struct Attest {
    /// The package: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF")]
    package: String,
    /// What it was built from: the model folder, or the bare model. It is packaged again, and must give the same digest.
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    from: PathBuf,
    /// The private key, as `sign` takes it.
    #[arg(long, value_name = "FILE", env = "MODELYARD_SIGNING_KEY")]
    key: PathBuf,
    /// Who builds: a URI, such as that of the CI's workflow. Default: the workflow that runs, on GitHub and GitLab.
    #[arg(long, value_name = "URI", env = "MODELYARD_BUILDER")]
    builder: Option<String>,
    /// Where others find the repository. Default: its remote `origin`.
    #[arg(long, value_name = "URL")]
    source: Option<String>,
}

impl Attest {
    /// Builds again, compares, states and signs.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let builder = self.builder.or_else(workflow).ok_or_else(no_builder)?;
        let is_uri = builder.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        if !is_uri || builder.len() > MAX_BUILDER_BYTES || builder.chars().any(|c| c.is_control() || c == ' ') {
            return Err(no_builder().into());
        }
        let key = signing_key(&self.key)?;
        let (digest, package) = super::inspect::find(context, &self.package)?;
        let begun = now();
        let folder = folder_of(&self.from)?;
        // Asked before and after: nothing may change while the folder is read.
        let source = source(&folder, self.source.as_deref())?;
        let inputs = built_again(context, &self.from, &folder, (&digest, &package))?;
        if source != crate::source::source(&folder, self.source.as_deref())? {
            let what = format!("{} was changed while it was packaged", folder.display());
            return Err(Failed::new(what, "nothing was signed; try again").into());
        }
        if source.is_none() {
            say(&format!("{} is in no git repository: no source is stated", folder.display()));
        }
        let build = Build {
            builder: &builder,
            version: env!("CARGO_PKG_VERSION"),
            source: source.as_ref(),
            inputs: &inputs,
            between: (begun, now()),
        };
        let distribution = super::registry::open(context)?;
        let stated = attest(&distribution, &package.name, &digest, (PROVENANCE, build.predicate(&package)), &key)?;
        let document = json!({
            "package": format!("{}:{}", package.name, package.version), "digest": digest, "builder": builder,
            "source": source.as_ref().map(|source| &source.uri), "commit": source.as_ref().map(|source| &source.commit),
            "inputs": inputs.len(), "key": stated.key, "object": stated.object, "tag": stated.tag, "before": stated.before,
        });
        context.print(&document, || {
            let done = if stated.before { "had attested" } else { "attested" };
            let from = source.map(|source| format!(" from {} at {}", source.uri, source.commit)).unwrap_or_default();
            format!(
                "key {} {done} {}:{} {digest}\nbuilt by {builder}{from} out of {} files",
                short(&stated.key),
                package.name,
                package.version,
                inputs.len()
            )
        })?;
        Ok(Exit::Done)
    }
}

fn no_builder() -> Usage {
    Usage::new(
        "who builds is not said, or is no URI",
        "`--builder https://ci.example/team/models/release` (or MODELYARD_BUILDER) names what an environment may demand as `builder`",
    )
}

/// The workflow that runs on a hosted CI, by the variables that it sets.
fn workflow() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let github = || Some(format!("{}/{}", set("GITHUB_SERVER_URL")?, set("GITHUB_WORKFLOW_REF")?));
    let gitlab = || Some(format!("{}/{}", set("CI_PROJECT_URL")?, set("CI_CONFIG_PATH")?));
    github().or_else(gitlab)
}

/// Where the paths of the package begin.
fn folder_of(from: &Path) -> miette::Result<PathBuf> {
    match is_model(from) {
        true => Ok(super::package::folder_of_model(from)?),
        false => Ok(super::package::folder(from, None)?),
    }
}

/// Packages what is named again, into nothing that stays, and compares; every file that went in.
fn built_again(
    context: &Context,
    from: &Path,
    folder: &Path,
    (digest, package): (&Digest, &Package),
) -> miette::Result<BTreeMap<String, Digest>> {
    let (_scratch, store) = super::inspect::passing_store()?;
    let is_bare = is_model(from);
    let mut options = BuildOptions {
        source_date_epoch: super::package::moment()?,
        allow_unlocked: true,
        // It may have been said on the command line then, and is stated as a parameter.
        source_revision: package.lineage.as_ref().and_then(|lineage| lineage.revision.clone()),
        ..BuildOptions::default()
    };
    let _busy = Busy::with(&format!("packaging {} again", from.display()));
    let built = if is_bare {
        let named = Named { name: package.name.clone(), version: package.version.clone() };
        modelyard_package::build_model(from, &named, &store, &options)?
    } else {
        options.ancestors = super::inspect::ancestors(context, folder)?;
        modelyard_package::build(folder, &store, &options)?
    };
    if built.digest != *digest {
        let what = format!(
            "{} gives {}:{} {}, not {digest}",
            from.display(),
            built.package.name,
            built.package.version,
            built.digest
        );
        let help = "nothing was signed: check out what the package was built from, with the same SOURCE_DATE_EPOCH if one was set";
        return Err(Failed::new(what, help).into());
    }
    let mut inputs: BTreeMap<String, Digest> =
        built.package.files.into_iter().map(|(path, entry)| (path, entry.digest)).collect();
    if !is_bare {
        let description = folder.join(DESCRIPTION);
        let stored = File::open(&description).map_err(|error| {
            Failed::from(error, format!("could not read {}", description.display()), "is it still there?")
        });
        inputs.insert(DESCRIPTION.to_owned(), store.blobs().store(&mut stored?)?.blob.digest);
    }
    Ok(inputs)
}
