//! `modelyard env promote REF --from E --to E`: a package goes to the next environment, by digest and by a signed record.
//!
//! Promises: everything that the environment demands is checked before anything is signed or copied, and every reason is told; what is copied is the
//! same digest, with everything that was said of it; the log tells of it where a control plane runs.

use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_control::environments::{Environment, Place};
use modelyard_control::policy::Policy;
use modelyard_core::package::Package;
use modelyard_core::{Digest, EnvironmentName};
use modelyard_registry::access::now;
use modelyard_registry::client::{Moved, Remote, RemoteError, pull, pull_referrers, push, push_referrers};
use modelyard_registry::distribution::Distribution;
use modelyard_registry::trust::{
    CheckedPolicy, PROMOTION, Passed, Promote as Statement, Promotion, SigningKey, attest, attestations,
};
use modelyard_registry::{Reference, Selector};
use serde_json::{Value, json};

use super::{environments, unreadable};
use crate::cli::Connect;
use crate::client::{self, Client};
use crate::commands::package::size;
use crate::commands::sign::{short, signing_key};
use crate::commands::transfer::{Progress, chosen};
use crate::commands::{inspect, registry, tag};
use crate::context::{Context, person};
use crate::environment_file::environment;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::say;

/// Arguments of `env promote`.
#[derive(Debug, Args)]
pub struct Promote {
    /// The package: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF")]
    package: String,
    /// The environment that it comes from.
    #[arg(long, value_name = "E")]
    from: EnvironmentName,
    /// The environment that it goes to.
    #[arg(long, value_name = "E")]
    to: EnvironmentName,
    /// The private key that signs the record, as `sign` takes it.
    #[arg(long, value_name = "FILE", env = "MODELYARD_SIGNING_KEY")]
    key: PathBuf,
    /// Check everything, and say what would be done. Nothing is signed or copied.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

/// One promotion.
struct Way<'a> {
    from: &'a EnvironmentName,
    to: &'a EnvironmentName,
    digest: Digest,
    package: Package,
    /// What demands something of packages in `to`: the home, the file.
    policies: Vec<Policy>,
    /// The rollout that the package went through in `from`.
    passed: Option<Passed>,
    /// Where the copy goes.
    remote: Option<Remote>,
}

impl Promote {
    /// Checks, signs, copies, and has the log tell of it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        if self.from == self.to {
            let what = format!("`{}` is where the package is already", self.from);
            return Err(Usage::new(what, "name two environments: `--from test --to prod`").into());
        }
        let key = signing_key(&self.key)?;
        let plane = tag::plane(context, &self.connect)?;
        let (digest, package) = self.find(context)?;
        let (known, of_file) = (known(context, &self.to)?, in_folder(&self.to)?);
        let place = [&known, &of_file].into_iter().flatten().find_map(|one| one.registry.clone());
        let remote = place.map(|place| remote(&place, &package)).transpose()?;
        let policies = [known, of_file].into_iter().flatten().map(|one| one.policy).collect();
        let passed = match &plane {
            Some(client) => passed(client, &self.from, &digest)?,
            None => None,
        };
        let way = Way { from: &self.from, to: &self.to, digest, package, policies, passed, remote };
        let distribution = registry::open(context)?;
        refuse(&way, way.reasons(&distribution, &key))?;
        if self.dry_run {
            return way.foresee(context);
        }
        let record = way.sign(&distribution, &key)?;
        let copied = way.remote.as_ref().map(|remote| copy(context, &distribution, &way, remote)).transpose()?;
        let event = plane.map(|client| way.tell(&client, &record)).transpose()?;
        way.print(context, &record, copied.as_ref(), event.as_ref())
    }

    /// The package: of the registry of `from`, if that has one of its own, else of the local one.
    fn find(&self, context: &Context) -> miette::Result<(Digest, Package)> {
        let place = known(context, &self.from)?.or(in_folder(&self.from)?).and_then(|known| known.registry);
        let Some(place) = place else { return inspect::find(context, &self.package) };
        let reference: Reference = self.package.parse().map_err(|error: modelyard_registry::ReferenceError| {
            Usage::new(error.to_string(), "write wine:2.1.0, wine@champion or wine@sha256:…")
        })?;
        let store = inspect::store(context)?;
        let here = store.resolve(&reference).ok();
        let named = match (&reference.selector, here) {
            (Selector::Version(version), _) => format!("{}/{}:{version}", place.url, reference.model),
            (Selector::Digest(digest), _) => format!("{}/{}@{digest}", place.url, reference.model),
            (_, Some(digest)) => format!("{}/{}@{digest}", place.url, reference.model),
            (_, None) => return inspect::find(context, &self.package),
        };
        let remote = chosen(named.parse().map_err(|error| no_place(&place, &error))?, place.plain_http);
        let (moved, model, _) = pull(&store, &remote, &|_, _| {})?;
        if let Some(here) = here.filter(|here| *here != moved.digest) {
            let what = format!("{remote} is {}, and {} here is {here}", moved.digest, self.package);
            return Err(Failed::new(what, "name the one that is meant by its digest: wine@sha256:…").into());
        }
        pull_referrers(&registry::open(context)?, &model, &moved.digest, &remote)?;
        Ok((moved.digest, store.package(&moved.digest)?))
    }
}

/// What the home says of an environment.
fn known(context: &Context, name: &EnvironmentName) -> miette::Result<Option<Environment>> {
    Ok(environments(context).read(name).map_err(unreadable)?)
}

/// What the file `environments/NAME.toml` of the folder says.
fn in_folder(name: &EnvironmentName) -> miette::Result<Option<Environment>> {
    let file = Path::new("environments").join(format!("{name}.toml"));
    if file.is_file() { Ok(Some(environment(&file)?.1)) } else { Ok(None) }
}

fn no_place(place: &Place, error: &RemoteError) -> Failed {
    let help = "correct `registry.url` in the file of the environment, and `modelyard env set` it again";
    Failed::new(format!("the registry {} cannot be named: {error}", place.url), help)
}

/// Where the copy of a package goes.
fn remote(place: &Place, package: &Package) -> Result<Remote, Failed> {
    let text = format!("{}/{}:{}", place.url.trim_end_matches('/'), package.name, package.version);
    Ok(chosen(text.parse().map_err(|error| no_place(place, &error))?, place.plain_http))
}

/// The rollout that the package went through; none too when the caller may not look there.
fn passed(client: &Client, from: &EnvironmentName, digest: &Digest) -> miette::Result<Option<Passed>> {
    let answer: Value = match client.get(&format!("/api/environments/{from}/passed?package={digest}")) {
        Ok(answer) => answer,
        Err(client::Error::Refused { status: 403, error, .. }) => {
            say(&format!("the record names no rollout: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let passed = serde_json::from_value(answer["passed"].clone());
    Ok(passed.map_err(|error| {
        Failed::from(error, "the rollout cannot be read", "is the control plane of another version?")
    })?)
}

/// Copies by digest, with everything that was said of the package.
fn copy(context: &Context, distribution: &Distribution, way: &Way<'_>, remote: &Remote) -> miette::Result<Moved> {
    let progress = Progress::default();
    let moved = push(&inspect::store(context)?, &way.digest, remote, &|done, all| progress.tell(done, all));
    progress.end();
    let moved = moved?;
    push_referrers(distribution, &way.package.name, &way.digest, remote)?;
    Ok(moved)
}

fn refuse(way: &Way<'_>, reasons: Vec<String>) -> Result<(), Failed> {
    if reasons.is_empty() {
        return Ok(());
    }
    let what = format!("{} may not go to `{}`: {}", way.name(), way.to, reasons.join("; "));
    Err(Failed::new(what, "nothing was signed or copied; `modelyard verify REF --env NAME` tells what is missing"))
}

impl Way<'_> {
    fn name(&self) -> String {
        format!("{}:{}", self.package.name, self.package.version)
    }

    /// Why the package may not go there: every reason, each once.
    fn reasons(&self, distribution: &Distribution, key: &SigningKey) -> Vec<String> {
        let mut reasons = Vec::new();
        for policy in &self.policies {
            let mut of_policy = policy.before_promotion().reasons(distribution, self.to, &self.digest, &self.package);
            if let Some(promoted) = &policy.promoted {
                of_policy.extend(promoted.why_not(self.from, key.public()));
            }
            of_policy.retain(|reason| !reasons.contains(reason));
            reasons.append(&mut of_policy);
        }
        reasons
    }

    fn checked(&self) -> Result<Vec<CheckedPolicy>, Failed> {
        let checked: Result<Vec<CheckedPolicy>, _> = self.policies.iter().map(Policy::checked).collect();
        checked.map_err(|error| Failed::from(error, "the policy is no JSON", "report this as a bug"))
    }

    /// Signs the record; the one that was signed before, if it says the same.
    fn sign(&self, distribution: &Distribution, key: &SigningKey) -> miette::Result<Promotion> {
        let (by, registry) = (person(), self.remote.as_ref().map(ToString::to_string));
        let statement = Statement {
            from: self.from,
            to: self.to,
            by: &by,
            at: now(),
            checked: &self.checked()?,
            rollout: self.passed.as_ref(),
            registry: registry.as_deref(),
        };
        let model = &self.package.name;
        attest(distribution, model, &self.digest, (PROMOTION, statement.predicate()), key)?;
        let (found, _) = attestations(distribution, model, &self.digest, std::slice::from_ref(key.public()))?;
        let mut promotions: Vec<Promotion> = found.iter().filter_map(Promotion::of).collect();
        promotions.retain(|one| one.leads(self.from, self.to) && one.by == by && one.registry == registry);
        let rollout = self.passed.as_ref().map(|passed| &passed.rollout);
        promotions.retain(|one| one.rollout.as_ref() == rollout);
        let last = promotions.pop();
        Ok(last.ok_or_else(|| Failed::new("the record that was signed is not there", "`modelyard verify` tells why"))?)
    }

    /// Has the control plane's log tell of it.
    fn tell(&self, client: &Client, record: &Promotion) -> Result<Value, client::Error> {
        let body = json!({ "package": self.digest, "from": self.from, "record": record.record, "by": person() });
        client.post(&format!("/api/environments/{}/promotions", self.to), &body)
    }

    fn foresee(&self, context: &Context) -> miette::Result<Exit> {
        let demands: Vec<String> = self.checked()?.into_iter().flat_map(|policy| policy.demands).collect();
        let document = json!({
            "package": self.name(), "digest": self.digest, "from": self.from, "to": self.to, "dry_run": true, "checked": demands,
            "rollout": self.passed, "registry": self.remote.as_ref().map(ToString::to_string),
        });
        context.print(&document, || {
            let copy = self.remote.as_ref().map(|remote| format!("\nwould be copied to {remote}")).unwrap_or_default();
            format!("{} {} may go from {} to {}{copy}", self.name(), self.digest, self.from, self.to)
        })?;
        Ok(Exit::Done)
    }

    fn print(
        &self,
        context: &Context,
        record: &Promotion,
        copied: Option<&Moved>,
        event: Option<&Value>,
    ) -> miette::Result<Exit> {
        let remote = self.remote.as_ref().map(ToString::to_string);
        let document = json!({
            "package": self.name(), "digest": self.digest, "from": self.from, "to": self.to, "record": record.record,
            "key": record.key, "policies": record.policies, "rollout": self.passed, "registry": remote,
            "copied": copied.map(|moved| json!({ "blobs": moved.blobs, "bytes": moved.bytes, "reused": moved.reused })),
            "event": event.map(|event| &event["seq"]),
        });
        if event.is_none() {
            say("no control plane runs here: the record is signed and kept with the package, and no log tells of it");
        }
        if self.passed.is_none() {
            say(&format!("nothing says that the package ever served everybody in `{}`", self.from));
        }
        context.print(&document, || {
            let key = record.key.as_deref().map_or("?", short);
            let after =
                self.passed.as_ref().map(|passed| format!(", after rollout {}", passed.rollout)).unwrap_or_default();
            let copy = remote.zip(copied).map(|(remote, moved)| {
                format!(
                    "\ncopied to {remote}: {} blobs ({}), {} were there",
                    moved.blobs,
                    size(moved.bytes),
                    moved.reused
                )
            });
            format!(
                "promoted {} from {} to {}{after}\n{}\nsigned by key {key}{}",
                self.name(),
                self.from,
                self.to,
                self.digest,
                copy.unwrap_or_default()
            )
        })?;
        Ok(Exit::Done)
    }
}
