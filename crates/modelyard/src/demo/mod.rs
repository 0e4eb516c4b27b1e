//! The main job, start to end, on the examples: package, serve, replace under traffic, take a bad version back.
//!
//! Promises: uses the same doors as everybody else (packages, `up`, the API, the gateway); leaves no process behind;
//! one failed request is a failed demo.

mod examples;
mod show;
mod stage;
mod summary;

use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_core::service::ServiceSpec;
use modelyard_core::{Digest, RolloutId};

use crate::api::RolloutEnd;
use crate::commands::{deploy, package};
use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::service_file::Draft;
use crate::terminal::{Paint, say};
use crate::traffic::{self, Plan, Tally, Traffic};
use show::{heading, rows};
use stage::{Interrupt, Stage};

/// Callers per service: more than one per core, so that requests meet each other.
const CALLERS: u32 = 4;
/// Requests per second of a service, which two busy cores manage with room for instances to start.
const RATE: f64 = 240.0;
/// Every so many requests a caller takes a fresh connection.
const FRESH_EVERY: u64 = 25;

/// What the demo is asked.
#[derive(Debug)]
pub struct Options {
    /// Folder of the examples.
    pub examples: Option<PathBuf>,
    /// Keep the temporary home.
    pub keep: bool,
}

/// A package of the demo.
#[derive(Clone, Debug)]
struct Built {
    service: &'static str,
    version: String,
    digest: Digest,
}

/// One change of a service, as it went.
#[derive(Debug)]
struct Act {
    from: String,
    to: Built,
    /// How it should end.
    wanted: &'static str,
    end: RolloutEnd,
    /// What the last verdict said.
    why: String,
    rollout: RolloutId,
    seconds: f64,
}

/// What happened, for the summary.
#[derive(Debug)]
struct Story {
    began: Instant,
    canary: Act,
    ab: Act,
    shadow: Act,
    bad: Act,
    /// What the callers of wine, breast-cancer and digits saw.
    tallies: [Tally; 3],
    reports: PathBuf,
}

impl Story {
    fn acts(&self) -> [&Act; 4] {
        [&self.canary, &self.ab, &self.shadow, &self.bad]
    }
}

/// Plays the demo.
pub fn play(context: &Context, options: Options) -> miette::Result<Exit> {
    let began = Instant::now();
    let interrupt = Interrupt::listen()?;
    let examples = examples::find(options.examples)?;
    let onnxruntime = deploy::onnxruntime(context)?;
    let (folder, home) = stage::folder()?;

    heading(1, "Package: a model folder becomes an immutable package, named by its digest");
    let [wine1, wine2, cancer1, cancer2, cancer3, digits1, digits2] = packages(&home, &examples)?;
    interrupt.check()?;

    heading(2, "Up: control plane, gateway and instances, each its own process, on free loopback ports");
    let mut stage = Stage::open(folder, home, onnxruntime)?;
    rows(&[
        vec!["gateway".to_owned(), format!("http://{}", stage.started.gateway)],
        vec!["control".to_owned(), format!("http://{}", stage.started.control)],
    ]);
    let kept = if options.keep { stage.keep() } else { None };
    for built in [&wine1, &cancer1, &digits1] {
        first(&stage, built, &interrupt)?;
    }
    let play = |service: &str, labels: bool| -> Result<Traffic, traffic::Error> {
        let rows = traffic::read(&examples.join(service).join("traffic.json"))?;
        Ok(Traffic::play(Plan {
            address: stage.started.gateway,
            path: format!("/v2/models/{service}/infer"),
            prefix: String::new(),
            rows: rows.into(),
            callers: CALLERS,
            rate: Some(RATE),
            span: None,
            requests: None,
            fresh_every: Some(FRESH_EVERY),
            feedback: labels.then(|| format!("/{service}/feedback")),
        }))
    };

    heading(3, "Canary: wine 2.0.0 takes over, step by step, while held-out rows are asked");
    let rows_of_wine = play("wine", false)?;
    let canary = change(&stage, &wine1.version, wine2, CANARY, "promoted", &interrupt)?;

    heading(4, "A/B test: breast-cancer 2.0.0 takes over if and only if it is more often right; true labels come late");
    let rows_of_cancer = play("breast-cancer", true)?;
    let ab = change(&stage, &cancer1.version, cancer2, AB, "promoted", &interrupt)?;

    heading(5, "Shadow: digits 2.0.0 gets copies of the requests, and its answers are compared with those of 1.0.0");
    let rows_of_digits = play("digits", false)?;
    let shadow = change(&stage, &digits1.version, digits2, SHADOW, "compared", &interrupt)?;
    let digits = rows_of_digits.finish();

    heading(6, "A bad version: breast-cancer 3.0.0-crash aborts under load, and is taken back by itself");
    let bad = change(&stage, &ab.to.version, cancer3, CANARY, "rolled-back", &interrupt)?;

    let tallies = [rows_of_wine.finish(), rows_of_cancer.finish(), digits];
    let reports = reports(context, &stage, [&canary, &ab, &shadow, &bad])?;
    let processes = stage.close()?;
    let story = Story { began, canary, ab, shadow, bad, tallies, reports };
    heading(7, "What happened");
    rows(&summary::lines(&story, processes));
    summary::next(kept.as_deref()).iter().for_each(|line| say(line));
    judge(&story)
}

fn packages(home: &Context, examples: &Path) -> miette::Result<[Built; 7]> {
    let folders = [
        ("wine", "v1"),
        ("wine", "v2"),
        ("breast-cancer", "v1"),
        ("breast-cancer", "v2"),
        ("breast-cancer", "v3-crash"),
        ("digits", "v1"),
        ("digits", "v2"),
    ];
    let mut lines = Vec::new();
    let mut built = Vec::new();
    for (service, version) in folders {
        let done = package::build(home, &examples.join(service).join(version), None)?;
        let number = done.package.version.to_string();
        lines.push(vec![
            service.to_owned(),
            number.clone(),
            format!("sha256:{}", done.digest.short()),
            package::size(done.size_bytes),
            format!("{:.0} ms", done.seconds * 1e3),
        ]);
        built.push(Built { service, version: number, digest: done.digest });
    }
    rows(&lines);
    built.try_into().map_err(|_| Failed::new("the demo has seven packages", "report this as a bug").into())
}

/// The usual rules, with short steps.
const CANARY: &[&str] = &[
    "strategy.steps=[\"10%\", \"50%\", \"100%\"]",
    "strategy.bake=4s",
    "analysis.window=4s",
    "analysis.min-requests=30",
];

/// True labels are posted as feedback: a drop of this is noticed by any strategy.
const ACCURACY: &str = "metrics=[{ name = \"accuracy\", kind = \"accuracy\", from = \"feedback\" }]";

/// Promoted if it is right more often, which would be wrong in at most 5 of 100 tests.
const AB: &[&str] =
    &["strategy={ kind = \"ab\", metric = \"accuracy\", effect = 0.04, error = 0.05, longest = \"50s\" }"];

/// Compared until the share of answers that name another digit is known well enough.
const SHADOW: &[&str] = &[
    "strategy={ kind = \"shadow\", agree-on = \"labels\", max-disagreement = 0.15, least-pairs = 400, bake = \"3s\", then = \"end\" }",
];

fn rules(service: &str, own: &[&str]) -> miette::Result<ServiceSpec> {
    let mut draft = Draft::default();
    let labels = (service == "breast-cancer").then_some(ACCURACY);
    for rule in labels.iter().chain(own).chain(&["routing.drain=5s"]) {
        draft.set(rule)?;
    }
    Ok(draft.finish(service)?)
}

/// The first revision of a service: nothing to compare it with, so it takes everything once it is live.
fn first(stage: &Stage, built: &Built, interrupt: &Interrupt) -> miette::Result<()> {
    let began = Instant::now();
    let started = deploy::start(&stage.client, &rules(built.service, CANARY)?, built.digest, &[], "the demo")?;
    let mut follower = crate::follow::Follower::new(&stage.client, started);
    loop {
        interrupt.check()?;
        follower.next(200)?;
        let (_, end) = follower.stands()?;
        match end.outcome.as_str() {
            "promoted" => break,
            "running" if began.elapsed().as_secs() < 60 => {}
            other => {
                let why = end.evidence_lines().join("; ");
                return Err(
                    Failed::new(format!("{} did not start: {other} {why}", built.service), "see its log").into()
                );
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    rows(&[vec![built.service.to_owned(), built.version.clone(), format!("live after {seconds:.1} s")]]);
    Ok(())
}

/// A change of a service, shown until it ends.
fn change(
    stage: &Stage,
    from: &str,
    to: Built,
    own: &[&str],
    wanted: &'static str,
    interrupt: &Interrupt,
) -> miette::Result<Act> {
    let began = Instant::now();
    let rollout = deploy::start(&stage.client, &rules(to.service, own)?, to.digest, &[], "the demo")?;
    let end = show::rollout(&stage.client, &rollout, interrupt)?;
    let seconds = began.elapsed().as_secs_f64();
    let events: Vec<serde_json::Value> = stage.client.get(&format!("/api/events?rollout={rollout}"))?;
    let verdict = events.iter().rev().find(|event| event["event"] == "verdict");
    let why = verdict.and_then(|event| event["why"].as_str()).unwrap_or_default().to_owned();
    Ok(Act { from: from.to_owned(), to, wanted, end, why, rollout, seconds })
}

/// Writes the reports where they stay; their folder.
fn reports(context: &Context, stage: &Stage, acts: [&Act; 4]) -> miette::Result<PathBuf> {
    let folder = context.home.reports().join("demo");
    let write = |path: &Path, text: &str| -> miette::Result<()> {
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(path, text));
        Ok(written.map_err(|error| {
            Failed::from(error, format!("could not write {}", path.display()), "choose a home with `--home`")
        })?)
    };
    for act in acts {
        for (form, ending) in [("html", "html"), ("markdown", "md")] {
            let report = stage.client.text(&format!("/api/rollouts/{}/report?format={form}", act.rollout))?;
            write(&folder.join(format!("{}.{ending}", act.rollout)), &report)?;
        }
    }
    Ok(folder)
}

/// Whether everything went as promised.
fn judge(story: &Story) -> miette::Result<Exit> {
    let (paint, wrong) = (Paint::stderr(), wrong(story));
    wrong.iter().for_each(|line| say(&paint.bad(line)));
    Ok(if wrong.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Everything that did not go as promised: one failed request is enough.
fn wrong(story: &Story) -> Vec<String> {
    let mut wrong = Vec::new();
    let failed: u64 = story.tallies.iter().map(|tally| tally.failed).sum();
    if failed > 0 {
        wrong.push(format!("{failed} requests failed"));
        wrong.extend(story.tallies.iter().flat_map(|tally| tally.failures.clone()));
    }
    for act in story.acts().into_iter().filter(|act| act.end.outcome != act.wanted) {
        let (what, evidence) = (&act.to, act.end.evidence_lines().join("; "));
        wrong
            .push(format!("{} {} was {}, not {}: {evidence}", what.service, what.version, act.end.outcome, act.wanted));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(wanted: &'static str) -> Act {
        let end = serde_json::json!({ "service": "wine", "outcome": wanted });
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        Act {
            from: "1.0.0".into(),
            to: Built { service: "wine", version: "2.0.0".into(), digest },
            wanted,
            end: serde_json::from_value(end).unwrap(),
            why: "it was better".into(),
            rollout: RolloutId::new("wine-2").unwrap(),
            seconds: 1.0,
        }
    }

    fn story() -> Story {
        Story {
            began: Instant::now(),
            canary: act("promoted"),
            ab: act("promoted"),
            shadow: act("compared"),
            bad: act("rolled-back"),
            tallies: Default::default(),
            reports: PathBuf::from("reports"),
        }
    }

    #[test]
    fn one_failed_request_or_another_end_than_promised_is_a_failed_demo() {
        assert_eq!(judge(&story()).unwrap(), Exit::Done);
        let mut lost = story();
        lost.tallies[1].fail("status 503: busy".into());
        assert_eq!(wrong(&lost), ["1 requests failed", "status 503: busy"]);
        assert_eq!(judge(&lost).unwrap(), Exit::Failed);
        let mut other = story();
        other.bad.end.outcome = "promoted".into();
        assert_eq!(judge(&other).unwrap(), Exit::Failed);
    }

    #[test]
    fn what_happened_is_told_in_ten_lines() {
        assert_eq!(summary::lines(&story(), 9).len(), 10);
    }
}
