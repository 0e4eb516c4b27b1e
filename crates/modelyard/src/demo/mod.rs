//! The main job, start to end, on the examples: package, serve, replace under traffic, take a bad version back.
//!
//! Promises: uses the same doors as everybody else (packages, `up`, the API, the gateway); leaves no process behind;
//! one failed request is a failed demo.

mod examples;
mod show;
mod stage;
mod summary;
mod traffic;

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
use show::{heading, rows};
use stage::{Interrupt, Stage};
use traffic::{Tally, Traffic};

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

/// What happened, for the summary.
#[derive(Debug)]
struct Story {
    began: Instant,
    good: (Built, Built, RolloutEnd, f64),
    bad: (Built, Built, RolloutEnd, f64),
    wine: Tally,
    cancer: Tally,
    reports: Vec<PathBuf>,
}

/// Plays the demo.
pub fn play(context: &Context, options: Options) -> miette::Result<Exit> {
    let began = Instant::now();
    let interrupt = Interrupt::listen()?;
    let examples = examples::find(options.examples)?;
    let onnxruntime = deploy::onnxruntime(context)?;
    let (folder, home) = stage::folder()?;

    heading(1, "Package: a model folder becomes an immutable package, named by its digest");
    let [wine1, wine2, cancer1, cancer3] = packages(&home, &examples)?;
    interrupt.check()?;

    heading(2, "Up: control plane, gateway and instances, each its own process, on free loopback ports");
    let mut stage = Stage::open(folder, home, onnxruntime)?;
    rows(&[
        vec!["gateway".to_owned(), format!("http://{}", stage.started.gateway)],
        vec!["control".to_owned(), format!("http://{}", stage.started.control)],
    ]);
    let kept = if options.keep { stage.keep() } else { None };
    for built in [&wine1, &cancer1] {
        first(&stage, built, &interrupt)?;
    }

    heading(3, "Canary: wine 2.0.0 takes over, step by step, while held-out rows are asked");
    let wine_rows = Traffic::play(stage.started.gateway, "wine", &examples.join("wine/traffic.json"))?;
    let (good_rollout, good, good_seconds) = change(&stage, &wine2, &interrupt)?;

    heading(4, "A bad version: breast-cancer 3.0.0-crash aborts under load, and is taken back by itself");
    let cancer_rows =
        Traffic::play(stage.started.gateway, "breast-cancer", &examples.join("breast-cancer/traffic.json"))?;
    let (bad_rollout, bad, bad_seconds) = change(&stage, &cancer3, &interrupt)?;

    let (wine, cancer) = (wine_rows.finish(), cancer_rows.finish());
    let reports = reports(context, &stage, [&good_rollout, &bad_rollout])?;
    let processes = stage.close()?;
    let story = Story {
        began,
        good: (wine1, wine2, good, good_seconds),
        bad: (cancer1, cancer3, bad, bad_seconds),
        wine,
        cancer,
        reports,
    };
    heading(5, "What happened");
    rows(&summary::lines(&story, processes));
    summary::next(kept.as_deref()).iter().for_each(|line| say(line));
    judge(&story)
}

fn packages(home: &Context, examples: &Path) -> miette::Result<[Built; 4]> {
    let folders = [("wine", "v1"), ("wine", "v2"), ("breast-cancer", "v1"), ("breast-cancer", "v3-crash")];
    let mut lines = Vec::new();
    let mut built = Vec::new();
    for (service, version) in folders {
        let done = package::build(home, &examples.join(service).join(version))?;
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
    built.try_into().map_err(|_| Failed::new("the demo has four packages", "report this as a bug").into())
}

/// The rules of the demo: the usual ones, with short steps.
fn rules(service: &str) -> miette::Result<ServiceSpec> {
    let mut draft = Draft::default();
    for rule in [
        "strategy.steps=[\"10%\", \"50%\", \"100%\"]",
        "strategy.bake=4s",
        "analysis.window=4s",
        "analysis.min-requests=30",
        "routing.drain=5s",
    ] {
        draft.set(rule)?;
    }
    Ok(draft.finish(service)?)
}

/// The first revision of a service: nothing to compare it with, so it takes everything once it is live.
fn first(stage: &Stage, built: &Built, interrupt: &Interrupt) -> miette::Result<()> {
    let began = Instant::now();
    let started = deploy::start(&stage.client, &rules(built.service)?, built.digest, &[], "the demo")?;
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
fn change(stage: &Stage, built: &Built, interrupt: &Interrupt) -> miette::Result<(RolloutId, RolloutEnd, f64)> {
    let began = Instant::now();
    let started = deploy::start(&stage.client, &rules(built.service)?, built.digest, &[], "the demo")?;
    let end = show::rollout(&stage.client, &started, interrupt)?;
    Ok((started, end, began.elapsed().as_secs_f64()))
}

/// Writes both reports where they stay.
fn reports(context: &Context, stage: &Stage, rollouts: [&RolloutId; 2]) -> miette::Result<Vec<PathBuf>> {
    let folder = context.home.reports().join("demo");
    let write = |path: &Path, text: &str| -> miette::Result<()> {
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(path, text));
        Ok(written.map_err(|error| {
            Failed::from(error, format!("could not write {}", path.display()), "choose a home with `--home`")
        })?)
    };
    let mut written = Vec::new();
    for rollout in rollouts {
        for (form, ending) in [("html", "html"), ("markdown", "md")] {
            let report = stage.client.text(&format!("/api/rollouts/{rollout}/report?format={form}"))?;
            let path = folder.join(format!("{rollout}.{ending}"));
            write(&path, &report)?;
            written.push(path);
        }
    }
    Ok(written)
}

/// Whether everything went as promised.
fn judge(story: &Story) -> miette::Result<Exit> {
    let paint = Paint::stderr();
    let mut wrong = Vec::new();
    let failed = story.wine.failed + story.cancer.failed;
    if failed > 0 {
        wrong.push(format!("{failed} requests failed"));
        wrong.extend(story.wine.failures.iter().chain(&story.cancer.failures).cloned());
    }
    if story.good.2.outcome != "promoted" {
        wrong.push(format!("wine 2.0.0 was not promoted but {}", story.good.2.outcome));
    }
    if story.bad.2.outcome != "rolled-back" {
        wrong.push(format!("breast-cancer 3.0.0-crash was not taken back but {}", story.bad.2.outcome));
    }
    wrong.iter().for_each(|line| say(&paint.bad(line)));
    Ok(if wrong.is_empty() { Exit::Done } else { Exit::Failed })
}
