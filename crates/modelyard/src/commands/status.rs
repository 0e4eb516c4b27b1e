//! `modelyard status [S]`: what runs, and how traffic is spread.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use modelyard_core::api::{Deprecation, Shown};
use modelyard_core::{RevisionNumber, ServiceName, Timestamp, Weight};
use serde_json::Value;

use crate::api;
use crate::cli::Connect;
use crate::context::Context;
use crate::exit::Exit;
use crate::narrate::shares;
use crate::terminal::{Paint, table};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The service; without one, all of them.
    service: Option<ServiceName>,
    #[command(flatten)]
    connect: Connect,
}

impl Status {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let path = match &self.service {
            Some(service) => format!("/api/services/{service}"),
            None => "/api/services".to_owned(),
        };
        let document: Value = client.get(&path)?;
        context.print(&document, || match self.service {
            Some(_) => one(&document),
            None => all(&document),
        })?;
        Ok(Exit::Done)
    }
}

fn all(document: &Value) -> String {
    let list = document.get("services").unwrap_or(document).as_array().cloned().unwrap_or_default();
    let services: Vec<api::Status> = list.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect();
    if services.is_empty() {
        return "no service yet; start one with `modelyard deploy DIR`".to_owned();
    }
    let rows = services.iter().map(|status| {
        let rollout = status.rollout.as_ref();
        vec![
            status.service.to_string(),
            status.environment.clone(),
            status
                .stable
                .as_ref()
                .map_or_else(|| "–".to_owned(), |pool| format!("r{} {}", pool.revision, pool.version)),
            shares(&status.weights),
            rollout.map_or_else(|| "–".to_owned(), |rollout| format!("{} {}", rollout.strategy, rollout.phase)),
        ]
    });
    table(&["service", "environment", "stable", "traffic", "rollout"], rows.collect(), Paint::stdout())
}

fn one(document: &Value) -> String {
    let Ok(status) = serde_json::from_value::<api::Status>(document.clone()) else { return document.to_string() };
    let paint = Paint::stdout();
    let mut lines = vec![format!("{}  {}", paint.bold(status.service.as_str()), paint.dim(&status.environment))];
    lines.push(format!("traffic  {}", shares(&status.weights)));
    if !status.mirrors.is_empty() {
        lines.push(format!("copies   {}", shares(&status.mirrors)));
    }
    if let Some(wanted) = wanted(&status) {
        lines.push(format!("wanted   {wanted}"));
    }
    let named = |pool: &api::Pool| format!("r{} {} {}", pool.revision, pool.version, api::short(&pool.digest));
    lines.extend(status.stable.as_ref().map(|pool| format!("stable   {}", named(pool))));
    lines.extend(status.apis.iter().map(|api| version(api, &status.service)));
    if let Some(rollout) = &status.rollout {
        lines.extend(status.candidate.as_ref().map(|pool| format!("to       {}", named(pool))));
        lines.push(format!("rollout  {} {}: {}", rollout.id, rollout.strategy, rollout.phase));
        if let Some(preview) = &rollout.preview {
            lines.push(format!("preview  {preview}"));
        }
        if let Some(why) = rollout.waits() {
            lines.push(if rollout.waits_for_person() {
                paint.warn(&format!("waits    {why}"))
            } else {
                format!("waits    {why}")
            });
        }
        if rollout.waits_for_person() {
            lines.push(
                paint.warn(&format!("decide   `modelyard promote {0}` or `modelyard abort {0}`", status.service)),
            );
        }
    }
    if let Some(why) = document.pointer("/frozen/why").and_then(Value::as_str) {
        let by = document.pointer("/frozen/by/person").and_then(Value::as_str).unwrap_or("somebody");
        lines.push(paint.warn(&format!("barred   deploys, by {by}: {why}")));
    }
    lines.extend(tracked(&document["tracking"], paint));
    for notice in &status.noticed {
        lines.push(paint.warn(&format!("noticed  {}: {}", notice.cause, notice.why)));
    }
    if !status.noticed.is_empty() {
        lines.push(paint.warn(&format!(
            "decide   another version, alternatives beside it (`--strategy shadow` or `canary`), or `modelyard rollback {}`",
            status.service
        )));
    }
    lines.push(String::new());
    let main = [("stable", &status.stable), ("candidate", &status.candidate)];
    let main = main.into_iter().filter_map(|(role, pool)| Some((role, pool.as_ref()?)));
    let rows = main
        .clone()
        .chain(status.arms.iter().map(|pool| ("arm", pool)))
        .chain(status.beside.iter().map(|pool| ("beside", pool)))
        .chain(status.others.iter().map(|pool| ("kept", pool)))
        .flat_map(|(role, pool)| {
            pool.instances.iter().map(move |instance| row(role, pool.revision, &pool.version, instance))
        })
        .collect();
    let pools = main.clone().map(|(_, pool)| pool).chain(&status.arms).chain(&status.beside).chain(&status.others);
    let instances: Vec<&api::Instance> = pools.flat_map(|pool| &pool.instances).collect();
    let mut titles = vec!["", "revision", "version", "instance", "state", "address", "pid"];
    let mut rows: Vec<Vec<String>> = rows;
    if instances.iter().any(|instance| instance.machine.is_some()) {
        titles.push("machine");
    } else {
        rows.iter_mut().for_each(|row| row.truncate(titles.len()));
    }
    lines.push(table(&titles, rows, paint));
    lines.extend(lost(&instances).into_iter().map(|line| paint.warn(&line)));
    lines.join("\n")
}

/// Machines that cannot be reached, and why.
fn lost(instances: &[&api::Instance]) -> BTreeSet<String> {
    let said = |one: &&api::Instance| {
        Some(format!("lost     machine {} is out of reach: {}", one.machine.as_ref()?, one.out_of_reach.as_ref()?))
    };
    instances.iter().filter_map(said).collect()
}

/// How the experiment tracking goes, if there is one.
fn tracked(tracking: &Value, paint: Paint) -> Option<String> {
    let server = tracking["server"].as_str()?;
    let behind = tracking["behind_ms"].as_u64().unwrap_or_default() / 1_000;
    Some(match tracking["error"].as_str() {
        Some(why) => paint.warn(&format!("tracking {server}, {behind} s behind: {why}")),
        None => {
            let run = tracking["run"].as_str().map(|run| format!(", run {run}")).unwrap_or_default();
            format!("tracking {server}{run}")
        }
    })
}

/// An API version, and whether its callers should move on.
fn version(api: &Shown, asked: &ServiceName) -> String {
    let who = if api.service == *asked { String::new() } else { format!(" (`{}`)", api.service) };
    let stands = match (&api.deprecated, api.stable) {
        (Some(Deprecation { since, sunset, successor }), _) => {
            let until = sunset.map(|at| format!(", there until {}", day(at))).unwrap_or_default();
            format!("deprecated since {}{until}, next is v{successor}", day(*since))
        }
        (None, Some(_)) => "serves".to_owned(),
        (None, None) => "does not serve yet".to_owned(),
    };
    format!("api      {}{who}: {stands}", api.path)
}

fn day(at: Timestamp) -> String {
    let instant = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    jiff::tz::Offset::UTC.to_datetime(instant.unwrap_or(jiff::Timestamp::MAX)).date().to_string()
}

/// What was asked for and is not yet so: shares, then instances.
fn wanted(status: &api::Status) -> Option<String> {
    let live = |revision: RevisionNumber| {
        let pools = [&status.stable, &status.candidate]
            .into_iter()
            .flatten()
            .chain(&status.arms)
            .chain(&status.beside)
            .chain(&status.others);
        let of = pools.filter(|pool| pool.revision == revision).flat_map(|pool| &pool.instances);
        of.filter(|instance| instance.state == "live").count()
    };
    let desired = &status.desired;
    let given = |weights: &BTreeMap<RevisionNumber, Weight>| -> BTreeMap<RevisionNumber, Weight> {
        weights
            .iter()
            .filter(|(_, share)| **share > Weight::NONE)
            .map(|(&revision, &share)| (revision, share))
            .collect()
    };
    let differs = !desired.weights.is_empty() && given(&desired.weights) != given(&status.weights);
    let split = differs.then(|| shares(&desired.weights));
    let instances = desired.instances.iter().filter_map(|(&revision, &count)| {
        let live = live(revision);
        (live != count as usize).then(|| format!("{count} of r{revision} live ({live} are)"))
    });
    let parts: Vec<String> = split.into_iter().chain(instances).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn row(role: &str, revision: RevisionNumber, version: &str, instance: &api::Instance) -> Vec<String> {
    vec![
        role.to_owned(),
        format!("r{revision}"),
        version.to_owned(),
        instance.id.to_string(),
        instance.state.clone(),
        instance.address.clone().unwrap_or_else(|| "–".to_owned()),
        instance.pid.map_or_else(|| "–".to_owned(), |pid| pid.to_string()),
        instance.machine.clone().unwrap_or_else(|| "–".to_owned()),
    ]
}
