//! `modelyard env`: environments, what each demands of a package, its machines, and the way from one to the next.

mod promote;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use modelyard_control::environments::{Environment, Environments};
use modelyard_control::policy::Policy;
use modelyard_control::policy::packages::{allowed, told};
use modelyard_core::package::Package;
use modelyard_core::{Digest, EnvironmentName};
use modelyard_registry::catalog::Way;

use crate::context::Context;
use crate::environment_file::environment;
use crate::exit::{Exit, Failed};
use crate::terminal::{Paint, say, table};

/// Arguments of `env`.
#[derive(Debug, Args)]
pub struct Env {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Let what these files say count from now on: `environments/prod.toml`.
    Set {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the environments of which something was said.
    List,
    /// Let an environment demand nothing and have no machines from now on.
    Remove {
        /// Its name.
        environment: EnvironmentName,
    },
    /// Let a package go from one environment to the next: checked, copied by digest, with a signed record.
    Promote(promote::Promote),
}

fn environments(context: &Context) -> Environments {
    Environments::at(context.home.environments())
}

fn unreadable(why: String) -> Failed {
    Failed::new(why, "set it again with `modelyard env set FILE`; until then nothing is deployed there")
}

impl Env {
    /// Does it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        match self.what {
            What::Set { files } => {
                let read: Vec<(EnvironmentName, Environment)> =
                    files.iter().map(|file| environment(file)).collect::<Result<_, _>>()?;
                for (name, said) in &read {
                    environments(context).set(name, Some(said)).map_err(|error| not_written(error, name))?;
                }
                list(context)
            }
            What::List => list(context),
            What::Remove { environment } => {
                environments(context).set(&environment, None).map_err(|error| not_written(error, &environment))?;
                list(context)
            }
            What::Promote(promote) => promote.run(context),
        }
    }
}

fn not_written(error: std::io::Error, name: &EnvironmentName) -> Failed {
    Failed::from(
        error,
        format!("could not change what counts for `{name}`"),
        "`modelyard env list` shows those there are",
    )
}

fn list(context: &Context) -> miette::Result<Exit> {
    let all = environments(context).list().map_err(unreadable)?;
    context.print(&all, || {
        let row = |(name, said): (&EnvironmentName, &Environment)| {
            let policy = &said.policy;
            let bounds: Vec<String> = policy.evaluation.iter().map(ToString::to_string).collect();
            let from = policy.provenance.as_ref().map_or("", |_| "demanded").to_owned();
            vec![
                name.to_string(),
                policy.signed_by.len().to_string(),
                policy.samples.to_string(),
                bounds.join(", "),
                from,
                policy.promoted.as_ref().map_or_else(String::new, |promoted| promoted.from.to_string()),
                said.registry.as_ref().map_or_else(|| "local".to_owned(), |place| place.url.clone()),
                said.machines.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            ]
        };
        table(
            &["environment", "keys", "samples", "evaluation", "provenance", "promoted from", "registry", "machines"],
            all.iter().map(row).collect(),
            Paint::stdout(),
        )
    })?;
    Ok(Exit::Done)
}

/// Why a package does not fulfil what an environment demands: by the policy that counts in this home, and by the file
/// `environments/NAME.toml` in `folder`, if there is one.
pub fn reasons(
    context: &Context,
    name: &EnvironmentName,
    folder: &Path,
    digest: &Digest,
    package: &Package,
) -> miette::Result<Vec<String>> {
    let distribution = super::registry::open(context)?;
    let mut reasons = Vec::new();
    for said in said(context, name, folder)? {
        for reason in said.policy.reasons(&distribution, name, digest, package) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    Ok(reasons)
}

/// What an environment says of itself: in the home, and in its file below `folder`.
pub fn said(context: &Context, name: &EnvironmentName, folder: &Path) -> miette::Result<Vec<Environment>> {
    let file = folder.join("environments").join(format!("{name}.toml"));
    let of_file = if file.is_file() { Some(environment(&file)?.1) } else { None };
    let of_home = environments(context).read(name).map_err(unreadable)?;
    Ok(of_home.into_iter().chain(of_file).collect())
}

/// What the home says that an environment demands; nothing where it says nothing.
pub fn policy(context: &Context, name: &EnvironmentName) -> miette::Result<Policy> {
    let said = environments(context).read(name).map_err(unreadable)?;
    Ok(said.unwrap_or_default().policy)
}

/// Warns of each environment that takes no packages that come on this way.
pub fn notice(context: &Context, way: &Way) {
    // What cannot be read refuses every deploy, and says so there.
    let all = environments(context).list().unwrap_or_default();
    for (name, said) in all.iter().filter(|(_, said)| !allowed(&said.policy.packages_from, way)) {
        let only = told(&said.policy.packages_from);
        let warning = Paint::stderr().warn("warning");
        say(&format!("{warning}: `{name}` takes only packages from {only}, and this one is {way}"));
    }
}

/// Refuses a package that does not fulfil what an environment demands.
pub fn demand(
    context: &Context,
    name: &EnvironmentName,
    folder: &Path,
    digest: &Digest,
    package: &Package,
) -> miette::Result<()> {
    let reasons = reasons(context, name, folder, digest, package)?;
    if reasons.is_empty() {
        return Ok(());
    }
    let what = format!("{}:{} may not go to `{name}`: {}", package.name, package.version, reasons.join("; "));
    let help = "nothing was started; `modelyard sign` signs it, `modelyard verify REF --env NAME` says the same without deploying";
    Err(Failed::new(what, help).into())
}
