//! `modelyard deploy REF|DIR|FILE`: start a rollout, from a package, a model folder, an ONNX file or a `service.toml`.
//!
//! Promises: a folder or bare file is packaged first; nothing is started before the whole description was checked; with `--wait` the exit code tells
//! the end: 0 promoted, 3 rolled back or aborted, 4 waits for a person.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::package::{Package, Runtime};
use modelyard_core::service::{ServiceSpec, TargetKind};
use modelyard_core::strategy::{Recreate, Strategy};
use modelyard_core::{Digest, EnvironmentName, Millis, RolloutId, ServiceName};
use modelyard_package::is_model;
use serde_json::{Value, json};

use super::flags::{given, kept};
use super::foreseen::foresee;
use super::package::Called;
use crate::cli::{Connect, span};
use crate::client::Client;
use crate::context::{Context, person};
use crate::exit::{Exit, Failed, Usage};
use crate::follow;
use crate::service_file::{Draft, steps_value};
use crate::terminal::{Paint, say};

/// Arguments of `deploy`.
#[derive(Debug, Args)]
pub struct Deploy {
    /// A package (`wine:2.1.0`, `wine@champion`, `wine@sha256:…`), a model folder, an ONNX file, or a `service.toml`.
    #[arg(value_name = "REF|DIR|FILE")]
    what: String,
    /// What a bare model is called. Default: its own name, at version 1.
    #[arg(long = "as", value_name = "NAME:VERSION")]
    named: Option<Called>,
    /// Name under which the model is served. Default: what the file says, else the model's name.
    #[arg(long, value_name = "S")]
    service: Option<ServiceName>,
    /// Environment that the service belongs to.
    #[arg(long, value_name = "E")]
    env: Option<EnvironmentName>,
    /// How the service goes from stable to candidate.
    #[arg(long, value_name = "K", value_parser = clap::builder::PossibleValuesParser::new(Strategy::NAMES))]
    strategy: Option<String>,
    /// How many instances carry the whole traffic.
    #[arg(long, value_name = "N")]
    instances: Option<u32>,
    /// Shares of the candidate in percent, growing (canary, blue-green): `10,50,100`.
    #[arg(long, value_name = "LIST")]
    steps: Option<String>,
    /// How long each step is watched (canary, blue-green).
    #[arg(long, value_name = "SPAN", value_parser = span)]
    bake: Option<Millis>,
    /// Value of a flag that the package declares, such as `threshold=0.7`. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    flag: Vec<String>,
    /// Any key of a `service.toml`, such as `analysis.min-requests=20`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Check everything, and say what would be done: the planned size of a test, the room that is needed. Nothing is started.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait for the end: exit code 0 promoted, 3 rolled back or aborted, 4 waits for a person.
    #[arg(long)]
    wait: bool,
    /// Deploy packages that were withdrawn, too.
    #[arg(long)]
    yanked: bool,
    /// Deploy although codes, units or columns mean something else than before: those who call the service know. It goes into the log.
    #[arg(long)]
    new_meanings: bool,
    /// How long to wait, at most; the rollout goes on afterwards.
    #[arg(long, value_name = "SPAN", value_parser = span, requires = "wait")]
    timeout: Option<Millis>,
    #[command(flatten)]
    connect: Connect,
}

/// What is to run.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    model: String,
    pub(super) digest: Digest,
    pub(super) package: Package,
    needs_onnxruntime: bool,
}

impl Deploy {
    /// Starts the rollout, and follows it with `--wait`.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let file = service_file(&self.what)?;
        let client = context.client(&self.connect)?;
        let mut from_file = Draft::default();
        if let Some(path) = &file {
            from_file.file(path)?;
        }
        let what = self.package(file.as_deref(), &from_file)?;
        let chosen = choose(context, &what, self.named.as_ref())?;
        let named = self.service.as_ref().map(ToString::to_string).or_else(|| from_file.name().map(str::to_owned));
        let name = named.unwrap_or_else(|| chosen.model.clone());
        let is_there = present(&client, &name)?.is_some();
        let spec = self.spec(&client, file.as_deref(), &name, &chosen.package)?;
        let folder = file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        super::env::demand(context, &spec.environment, folder, &chosen.digest, &chosen.package)?;
        if self.connect.control.is_none() {
            make_ready(context, &chosen, &spec, Path::new(&what))?;
        }
        if let Some(warning) = outage(&spec).filter(|_| is_there) {
            say(&Paint::stderr().warn(&warning));
        }
        let arms = arms(context, file.as_deref(), &spec, self.connect.control.is_none())?;
        let (document, foreseen) = foresee(&client, &spec, chosen.digest, &arms)?;
        if self.dry_run {
            let refused = foreseen.room.refused.is_some();
            context.print(&document, || foreseen.text().join("\n"))?;
            return Ok(if refused { Exit::Failed } else { Exit::Done });
        }
        foreseen.talk().iter().for_each(|line| say(line));
        let rollout = order(&client, &spec, chosen.digest, &arms, (self.yanked, self.new_meanings), &person())?;
        if !self.wait {
            let (document, end) = follow::Follower::new(&client, rollout).stands()?;
            context.print(&document, || {
                say(&format!("follow it with `modelyard watch {}`", end.service));
                follow::end_text(&end, Paint::stdout())
            })?;
            return Ok(Exit::Done);
        }
        let (document, end) = follow::narrated(&client, rollout, self.timeout.map(Millis::as_duration))?;
        context.print(&document, || follow::end_text(&end, Paint::stdout()))?;
        Ok(follow::exit_of(&end))
    }

    /// What to run: the argument itself, or what the file names, relative to the file.
    fn package(&self, file: Option<&Path>, draft: &Draft) -> Result<String, Usage> {
        let Some(file) = file else { return Ok(self.what.clone()) };
        let named = draft.package().ok_or_else(|| {
            Usage::new(
                format!("{} does not say what to run", file.display()),
                "add `package = \"NAME:VERSION\"`, or the path of a model folder relative to the file",
            )
        })?;
        Ok(beside(Some(file), named))
    }

    /// The whole description: what the service already is, the file, flags, `--set`.
    fn spec(&self, client: &Client, file: Option<&Path>, name: &str, package: &Package) -> miette::Result<ServiceSpec> {
        let mut draft = match present(client, name)? {
            Some(mut spec) => {
                spec.flags = kept(client, name, &spec.flags, &package.flags)?;
                Draft::from_spec(&spec)
            }
            None => Draft::default(),
        };
        if let Some(path) = file {
            draft.file(path)?;
        }
        draft.set(&format!("name={name}"))?;
        let flags = [
            self.strategy.as_ref().map(|kind| format!("strategy.kind={kind}")),
            self.env.as_ref().map(|environment| format!("environment={environment}")),
            self.instances.map(|count| format!("instances={count}")),
            self.steps.as_ref().map(|list| format!("strategy.steps={}", steps_value(list))),
            self.bake.map(|bake| format!("strategy.bake={}ms", bake.0)),
        ];
        // JSON's keys and scalars are TOML's too.
        let values = given(package, &self.flag)?;
        let values = values.iter().map(|(name, value)| format!("flags.{}={value}", Value::from(name.as_str())));
        for assignment in flags.into_iter().flatten().chain(values).chain(self.set.iter().cloned()) {
            draft.set(&assignment)?;
        }
        Ok(draft.finish(name)?)
    }
}

/// The rules of the service as it is; `None` when there is no such service yet.
pub(super) fn present(client: &Client, name: &str) -> miette::Result<Option<ServiceSpec>> {
    let Ok(name) = ServiceName::new(name) else { return Ok(None) };
    let path = format!("/api/services/{name}");
    let status: Value = match client.get(&path) {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let spec = status.get("spec").cloned().unwrap_or_default();
    let spec = serde_json::from_value(spec).map_err(|error| {
        Failed::from(
            error,
            format!("the rules of `{name}` are not understood"),
            "is the control plane of another version?",
        )
    })?;
    Ok(Some(spec))
}

/// The path if `what` is a service description.
fn service_file(what: &str) -> Result<Option<PathBuf>, Usage> {
    let path = Path::new(what);
    let is_package_file = path.file_name().is_some_and(|name| name == "modelyard.toml");
    if path.is_file() && !is_package_file && !is_model(path) {
        return Ok(Some(path.to_owned()));
    }
    let looks_like_a_path = what.starts_with(['.', '/', '~'])
        || what.ends_with('/')
        || [".toml", ".onnx"].iter().any(|end| what.ends_with(end));
    if looks_like_a_path && !path.exists() {
        let help = "name a model folder, an ONNX file, a `service.toml`, or a package such as wine:2.1.0 (`modelyard models` lists them)";
        return Err(Usage::new(format!("there is no file or folder {what}"), help));
    }
    Ok(None)
}

/// The package that `what` names; a folder or bare file is packaged first.
pub(super) fn choose(context: &Context, what: &str, called: Option<&Called>) -> miette::Result<Chosen> {
    let path = Path::new(what);
    let (digest, package) = match path.exists() {
        true => {
            let store = super::inspect::store(context)?;
            let built = super::package::build_into(&store, path, called, super::package::options()?)?;
            say(&format!("packaged {}:{} sha256:{}", built.package.name, built.package.version, built.digest.short()));
            (built.digest, built.package)
        }
        false if called.is_some() => {
            return Err(Usage::new(format!("`--as` is for a bare model, and {what} is none"), "leave it out").into());
        }
        false => super::inspect::find(context, what)?,
    };
    if let Runtime::None {} = package.runtime {
        return Err(super::package::not_run(&package).into());
    }
    let needs_onnxruntime = super::package::is_onnx(&package);
    Ok(Chosen { model: package.name.to_string(), digest, package, needs_onnxruntime })
}

/// What callers will notice of a strategy that stops everything first.
fn outage(spec: &ServiceSpec) -> Option<String> {
    let Strategy::Recreate(Recreate { park, .. }) = spec.strategy else { return None };
    let meanwhile = match park {
        true => format!("requests wait for at most {}, then get 503 with `Retry-After`", spec.routing.park),
        false => "requests get 503 with `Retry-After`".to_owned(),
    };
    Some(format!(
        "recreate stops `{}` before the new version starts: {meanwhile}. A caller in the middle of a sequence of requests may \
         get answers of both versions; each answer names its revision in `modelyard-revision`.",
        spec.name
    ))
}

/// A package that a file names: a folder or an ONNX file relative to the file, or a reference.
fn beside(file: Option<&Path>, named: &str) -> String {
    let path = file.and_then(Path::parent).unwrap_or(Path::new("")).join(named);
    if path.is_dir() || is_model(&path) { path.display().to_string() } else { named.to_owned() }
}

/// The packages of the further arms and shadows, in the order of the plan.
fn arms(context: &Context, file: Option<&Path>, spec: &ServiceSpec, here: bool) -> miette::Result<Vec<Value>> {
    let resolve = |(package, flags): (&str, &BTreeMap<String, Value>)| {
        let what = beside(file, package);
        let chosen = choose(context, &what, None)?;
        if here && spec.target == TargetKind::Docker {
            image(context, &chosen, spec, Path::new(&what))?;
        }
        Ok(json!({ "package": chosen.digest, "flags": flags }))
    };
    spec.strategy.further().into_iter().map(resolve).collect()
}

/// What is asked for.
pub fn body(spec: &ServiceSpec, digest: Digest, arms: &[Value], by: &str) -> Value {
    let mut body = json!({ "spec": spec, "package": digest, "by": by });
    if !arms.is_empty() {
        body["arms"] = json!(arms);
    }
    body
}

/// Asks for a rollout; its id.
pub fn start(
    client: &Client,
    spec: &ServiceSpec,
    digest: Digest,
    arms: &[Value],
    by: &str,
) -> miette::Result<RolloutId> {
    order(client, spec, digest, arms, (false, false), by)
}

/// The same; `yanked` takes packages that were withdrawn, too, and `new_meanings` those that callers may misread.
fn order(
    client: &Client,
    spec: &ServiceSpec,
    digest: Digest,
    arms: &[Value],
    (yanked, new_meanings): (bool, bool),
    by: &str,
) -> miette::Result<RolloutId> {
    let mut body = body(spec, digest, arms, by);
    if yanked {
        body["yanked"] = json!(true);
    }
    if new_meanings {
        body["new_meanings"] = json!(true);
    }
    let started: Value = client.post(&format!("/api/services/{}/rollouts", spec.name), &body)?;
    let id = started.get("rollout").and_then(Value::as_str).and_then(|id| RolloutId::new(id).ok());
    Ok(id.ok_or_else(|| {
        Failed::new(format!("the control plane named no rollout: {started}"), "`modelyard status` shows what runs")
    })?)
}

/// Makes sure that what instances run with is there before the first one needs it, and is fetched with the settings of whoever deploys.
pub(super) fn make_ready(context: &Context, chosen: &Chosen, spec: &ServiceSpec, what: &Path) -> miette::Result<()> {
    if spec.target == TargetKind::Docker {
        // Everything that its instances need is in the image.
        return image(context, chosen, spec, what);
    }
    if chosen.needs_onnxruntime {
        onnxruntime(context)?;
    }
    if matches!(chosen.package.runtime, Runtime::Python { .. }) {
        let folder = super::inspect::store(context)?.unpack(&chosen.digest)?;
        super::serve::python(&chosen.package, &folder, &context.home.cache())?;
    }
    Ok(())
}

fn image(context: &Context, chosen: &Chosen, spec: &ServiceSpec, what: &Path) -> miette::Result<()> {
    super::image::ensure(context, (&chosen.package, &chosen.digest), what, &spec.environment)
}

/// Makes sure that the ONNX Runtime library is there before an instance needs it: fetching takes a while, once.
pub fn onnxruntime(context: &Context) -> miette::Result<PathBuf> {
    super::serve::library(&context.home.cache())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recreate_announces_an_outage() {
        let spec = |strategy: &str| {
            let mut draft = Draft::default();
            draft.set(&format!("strategy.kind={strategy}")).unwrap();
            draft.finish("wine").unwrap()
        };
        let told = outage(&spec("recreate")).unwrap();
        assert!(told.contains("wait for at most 30 s") && told.contains("both versions"), "{told}");
        assert_eq!(["rolling", "blue-green", "canary"].map(|name| outage(&spec(name))), [None, None, None]);
    }
}
