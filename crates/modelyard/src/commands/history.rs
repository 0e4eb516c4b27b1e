//! `modelyard history [S]`: every revision and every rollout of a service, what served at a moment, whether the log was changed.

use clap::Args;
use modelyard_control::{Anchor, Walked, walk_file};
use modelyard_core::{Digest, ServiceName, Timestamp};
use serde_json::{Value, json};

use crate::api;
use crate::cli::Connect;
use crate::context::{Context, running};
use crate::exit::{Exit, Failed};
use crate::terminal::{Paint, columns, table};

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct History {
    /// The service.
    #[arg(required_unless_present = "verify")]
    service: Option<ServiceName>,
    /// What served at this moment, and who decided it: `2026-11-23T17:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "verify")]
    at: Option<Timestamp>,
    /// Whether the log is as it was written: walks the chain of hashes and names the first event that does not fit.
    #[arg(long)]
    verify: bool,
    /// A position and its hash that were written down earlier, `SEQ@sha256:…`: the log must still lead to it.
    #[arg(long, value_name = "SEQ@HASH", value_parser = anchor, requires = "verify")]
    anchor: Option<Anchor>,
    #[command(flatten)]
    connect: Connect,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let read: jiff::Timestamp = text.parse().map_err(|_| "write it as 2026-11-23T17:00:00Z".to_owned())?;
    u64::try_from(read.as_millisecond()).map(Timestamp).map_err(|_| "nothing served before 1970".to_owned())
}

fn anchor(text: &str) -> Result<Anchor, String> {
    let (seq, link) = text.split_once('@').ok_or("write the position and the hash, such as 120@sha256:…")?;
    let seq = seq.parse().map_err(|_| "the position is a whole number".to_owned())?;
    Ok(Anchor { seq, link: link.parse::<Digest>().map_err(|error| error.to_string())? })
}

impl History {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let Some(service) = self.service.as_ref().filter(|_| !self.verify) else { return self.verify(context) };
        let client = context.client(&self.connect)?;
        if let Some(at) = self.at {
            let document: Value = client.get(&format!("/api/services/{service}/at?time={}", at.0))?;
            context.print(&document, || served(&document, Paint::stdout()))?;
            return Ok(Exit::Done);
        }
        let path = format!("/api/services/{service}/history");
        let document: Value = client.get(&path)?;
        let history: api::History = client.get(&path)?;
        context.print(&document, || text(&history))?;
        Ok(Exit::Done)
    }

    /// Walks the chain: of the control plane that runs, or of the home's file when none does.
    fn verify(&self, context: &Context) -> miette::Result<Exit> {
        let remote = self.connect.control.is_some() || running(&context.home, "control").is_some();
        let document: Value = if remote {
            let anchor = self.anchor.map(|anchor| format!("?seq={}&hash={}", anchor.seq, anchor.link));
            let path = format!("/api/history/verify{}", anchor.unwrap_or_default());
            context.client(&self.connect)?.get(&path)?
        } else {
            json!(self.walk_home(context)?)
        };
        context.print(&document, || walked(&document))?;
        Ok(if document["broken"].is_null() { Exit::Done } else { Exit::Failed })
    }

    fn walk_home(&self, context: &Context) -> Result<Walked, Failed> {
        let path = context.home.store();
        walk_file(&path, self.anchor).map_err(|error| {
            let help =
                "`modelyard up` makes one; name another home with `--home DIR`, or a control plane with `--control URL`";
            Failed::from(error, format!("the log {} cannot be read", path.display()), help)
        })
    }
}

fn walked(document: &Value) -> String {
    let events = document["events"].as_u64().unwrap_or_default();
    let Some(seq) = document["broken"]["seq"].as_u64() else {
        let anchor = document["head"].as_str().map_or_else(String::new, |head| {
            format!(
                "\n{events}@{head}\nwrite this down elsewhere: `--anchor` with it finds a log that was computed anew"
            )
        });
        return format!("{events} events, each as it was written{anchor}");
    };
    let why = document["broken"]["why"].as_str().unwrap_or_default();
    format!("event {seq} does not fit: {why}\n{events} events before it are as they were written")
}

fn served(document: &Value, paint: Paint) -> String {
    let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let time = |value: &Value| value.as_u64().map_or_else(|| "–".to_owned(), |at| when(Timestamp(at)));
    let share = |share: &Value| {
        let percent = share["weight"].as_f64().unwrap_or_default() / 100.0;
        let version = format!("{}:{}", word(share, "model"), word(share, "version"));
        vec![format!("r{}", share["revision"]), format!("{percent} %"), version, word(share, "digest")]
    };
    let shares: Vec<_> = document["serving"].as_array().into_iter().flatten().map(share).collect();
    let (service, at) = (word(document, "service"), time(&document["at"]));
    let mut lines = match shares.is_empty() {
        true => vec![format!("nothing served {service} at {at}")],
        false => vec![
            format!("{service} at {at}, unchanged since {}", time(&document["since"])),
            table(&["revision", "share", "version", "package"], shares, paint),
        ],
    };
    let decided = &document["decided"];
    if let Some(rollout) = decided["rollout"].as_str() {
        let (strategy, outcome) = (word(decided, "strategy"), decided["outcome"].as_str().unwrap_or("running"));
        lines.push(format!("\nrollout {rollout}, {strategy}, {outcome}, started by {}", by(&decided["by"])));
        let decisions = decided["decisions"].as_array().into_iter().flatten();
        let row = |event: &Value| vec![paint.dim(&time(&event["at"])), by(&event["by"]), word(event, "what")];
        lines.extend(columns(&decisions.map(row).collect::<Vec<_>>()));
    }
    lines.join("\n")
}

/// An actor as the log has it.
fn by(actor: &Value) -> String {
    actor["person"].as_str().or(actor.as_str()).unwrap_or("nobody").to_owned()
}

fn text(history: &api::History) -> String {
    let paint = Paint::stdout();
    let revisions = history.revisions.iter().map(|revision| {
        vec![
            format!("r{}", revision.number),
            revision.version.clone(),
            api::short(&revision.package),
            when(revision.created),
        ]
    });
    let rollouts = history.rollouts.iter().map(|rollout| {
        let took = rollout.ended.map_or_else(|| "–".to_owned(), |ended| (ended - rollout.started).to_string());
        vec![
            rollout.rollout.to_string(),
            rollout.strategy.clone(),
            history.named(rollout.from),
            history.named(rollout.to),
            when(rollout.started),
            took,
            outcome(rollout.outcome.as_deref().unwrap_or("running"), paint),
            rollout.cause.clone().unwrap_or_else(|| "–".to_owned()),
        ]
    });
    let revisions = table(&["revision", "version", "package", "made"], revisions.collect(), paint);
    let heading = ["rollout", "strategy", "baseline", "candidate", "started", "took", "outcome", "cause"];
    let mut text = format!("{revisions}\n\n{}", table(&heading, rollouts.collect(), paint));
    if !history.noticed.is_empty() {
        let rows = history.noticed.iter().map(|notice| {
            vec![format!("r{}", notice.revision), when(notice.at), notice.cause.clone(), notice.why.clone()]
        });
        text.push_str(&format!("\n\n{}", table(&["noticed", "when", "cause", "why"], rows.collect(), paint)));
    }
    text
}

fn outcome(outcome: &str, paint: Paint) -> String {
    match outcome {
        "promoted" => paint.good(outcome),
        "rolled-back" | "aborted" => paint.bad(outcome),
        other => paint.warn(other),
    }
}

pub fn when(at: Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    let instant = jiff::Timestamp::from_millisecond(milliseconds);
    instant.map_or_else(|_| "–".to_owned(), |instant| instant.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
