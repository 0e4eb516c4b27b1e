//! `modelyard traffic TARGET`: play requests against a service, or against a package that is served for just that, and tell how it did.
//!
//! Promises: it ends by itself; what was started for it has ended, too. Exit code 1 when a request failed or an objective was missed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use modelyard_core::package::{Package, Runtime};
use modelyard_core::service::ServiceSpec;
use modelyard_core::{Millis, ServiceName};
use serde_json::{Value, json};

use crate::cli::{Connect, span};
use crate::context::{Context, running};
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Canvas, Paint, say, table};
use crate::traffic::alone::Alone;
use crate::traffic::{self as play, Plan, Row, Tally};
use crate::view::latency;

/// How often figures are shown while it plays.
const FRAME: Duration = Duration::from_millis(200);

/// Arguments of `traffic`.
#[derive(Debug, Args)]
pub struct Traffic {
    /// A service that runs, or a package to be served for just this: a model folder, `wine:2.1.0`, `wine@champion`.
    #[arg(value_name = "SERVICE|REF|DIR")]
    target: String,
    /// What is asked: a JSON list or one JSON object a line, each a request or `{"request": …, "label": …}`. Default: the package's samples.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Requests per second; 0: as fast as answers come.
    #[arg(long, value_name = "NUMBER", default_value_t = 50.0)]
    rate: f64,
    /// How long.
    #[arg(long = "for", value_name = "SPAN", value_parser = span, default_value = "10s")]
    span: Millis,
    /// End after this many requests.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Callers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    callers: u32,
    /// What must hold: `p99=50ms` (or p50, p90, p95, p99.9), `failed=0.1%`, `right=95%`. May be repeated. Default: the service's own
    /// latency objective, and that nothing fails.
    #[arg(long, value_name = "WHAT=LIMIT")]
    objective: Vec<Objective>,
    /// Post the labels of the rows to the service as feedback, late, as labels come.
    #[arg(long, requires = "rows")]
    feedback: bool,
    /// The gateway. Default: the one that runs in the home folder.
    #[arg(long, value_name = "ADDR")]
    gateway: Option<SocketAddr>,
    #[command(flatten)]
    connect: Connect,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Objective {
    /// Latency in µs at a percentile, at most.
    Latency { percent: f64, micros: f64 },
    /// Share of requests that fail, at most.
    Failed(f64),
    /// Share of labelled answers that are right, at least.
    Right(f64),
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write `p99=50ms`, `failed=0.1%` or `right=95%`".to_owned();
        let (what, limit) = text.split_once('=').ok_or_else(form)?;
        let share = || -> Option<f64> {
            let share = limit.strip_suffix('%')?.trim().parse::<f64>().ok()? / 100.0;
            (0.0..=1.0).contains(&share).then_some(share)
        };
        match what {
            "failed" => share().map(Self::Failed).ok_or_else(form),
            "right" => share().map(Self::Right).ok_or_else(form),
            _ => {
                let percent: Option<f64> = what.strip_prefix('p').and_then(|number| number.parse().ok());
                let percent = percent.filter(|percent| *percent > 0.0 && *percent < 100.0).ok_or_else(form)?;
                Ok(Self::Latency { percent, micros: micros(limit).ok_or_else(form)? })
            }
        }
    }
}

/// A latency with its unit; parts of a millisecond count.
fn micros(text: &str) -> Option<f64> {
    let units = [("µs", 1.0), ("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number > 0.0).then_some(number * unit)
}

impl Objective {
    /// What the service's own rules ask for.
    fn of(spec: &ServiceSpec) -> Option<Self> {
        let analysis = &spec.analysis;
        let micros = analysis.max_latency_ms? * 1e3;
        Some(Self::Latency { percent: analysis.latency_quantile * 100.0, micros })
    }

    /// What was seen, whether it holds, and both as a sentence.
    fn judge(self, tally: &Tally) -> Judged {
        let asked = tally.answered() + tally.failed;
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let (name, seen, limit, holds) = match self {
            Self::Latency { percent, micros } => {
                let seen = tally.latency().quantile(percent / 100.0);
                let holds = seen.is_some_and(|seen| seen <= micros);
                (format!("p{percent}"), latency(seen), format!("≤ {}", latency(Some(micros))), holds)
            }
            Self::Failed(most) => {
                let seen = share(tally.failed, asked);
                let holds = seen.is_some_and(|seen| seen <= most);
                ("failed".to_owned(), percent(seen), format!("≤ {}", percent(Some(most))), holds)
            }
            Self::Right(least) => {
                let sum = |count: fn(&play::Seen) -> u64| tally.revisions.values().map(count).sum::<u64>();
                let seen = share(sum(|seen| seen.right), sum(|seen| seen.labelled));
                let holds = seen.is_some_and(|seen| seen >= least);
                ("right".to_owned(), percent(seen), format!("≥ {}", percent(Some(least))), holds)
            }
        };
        Judged { name, seen, limit, holds }
    }
}

/// An objective, held against what was seen.
struct Judged {
    name: String,
    seen: String,
    limit: String,
    holds: bool,
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(
        || "–".to_owned(),
        |share| format!("{:.4}", share * 100.0).trim_end_matches('0').trim_end_matches('.').to_owned() + " %",
    )
}

/// Whom to ask, and what.
struct Target {
    name: String,
    address: SocketAddr,
    path: String,
    prefix: String,
    samples: Vec<Row>,
    own: Option<Objective>,
    /// A server that was started for this.
    alone: Option<Alone>,
}

impl Traffic {
    /// Plays, and tells.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        if !self.rate.is_finite() || self.rate < 0.0 || self.rate > 1e6 {
            return Err(Usage::new("the rate is no number of requests per second", "write `--rate 200`, or 0").into());
        }
        let given = self.rows.as_deref().map(play::read).transpose()?;
        let mut target = self.target(context)?;
        let rows = given.unwrap_or_else(|| std::mem::take(&mut target.samples));
        if rows.is_empty() {
            let help = "name a file of requests: `--rows FILE`";
            return Err(
                Usage::new(format!("nothing is known to ask: {} has no samples here", target.name), help).into()
            );
        }
        if self.feedback && target.alone.is_some() {
            return Err(
                Usage::new("a package has nobody to give feedback to", "deploy it, and name the service").into()
            );
        }
        let plan = Plan {
            address: target.address,
            path: target.path.clone(),
            prefix: target.prefix.clone(),
            rows: rows.into(),
            callers: self.callers,
            rate: (self.rate > 0.0).then_some(self.rate),
            span: Some(self.span.as_duration()),
            requests: self.requests,
            fresh_every: None,
            feedback: self.feedback.then(|| format!("/{}/feedback", target.name)),
        };
        let (tally, elapsed) = watch(plan);
        let mut objectives = self.objective.clone();
        if !objectives.iter().any(|objective| matches!(objective, Objective::Latency { .. })) {
            objectives.extend(target.own);
        }
        if !objectives.iter().any(|objective| matches!(objective, Objective::Failed(_))) {
            objectives.push(Objective::Failed(0.0));
        }
        let judged: Vec<Judged> = objectives.iter().map(|objective| objective.judge(&tally)).collect();
        let holds = judged.iter().all(|judged| judged.holds);
        context.print(&document(&target, &tally, elapsed, &judged), || text(&target, &tally, elapsed, &judged))?;
        Ok(if holds { Exit::Done } else { Exit::Failed })
    }

    fn target(&self, context: &Context) -> miette::Result<Target> {
        let is_package = Path::new(&self.target).exists() || self.target.contains([':', '@', '/']);
        match ServiceName::new(&self.target) {
            Ok(name) if !is_package => self.service(context, &name),
            _ => alone(context, &self.target),
        }
    }

    fn service(&self, context: &Context, name: &ServiceName) -> miette::Result<Target> {
        let client = context.client(&self.connect)?;
        let status: Value = client.get(&format!("/api/services/{name}"))?;
        let spec: Option<ServiceSpec> = status.get("spec").and_then(|spec| serde_json::from_value(spec.clone()).ok());
        let here = || running(&context.home, "gateway").map(|gateway| gateway.address);
        let address = self.gateway.or_else(here).ok_or_else(|| {
            Failed::new("it is not known where the gateway is", "name it: `--gateway 127.0.0.1:8080`")
        })?;
        // Samples are in the package, if this home has it.
        let digest = status["stable"]["digest"].as_str().and_then(|digest| digest.parse().ok());
        let package: Option<Package> =
            digest.and_then(|digest| super::inspect::store(context).ok()?.package(&digest).ok());
        Ok(Target {
            name: name.to_string(),
            address,
            path: format!("/v2/models/{name}/infer"),
            prefix: format!("/{name}/v1"),
            samples: package.map(|package| play::of_samples(&package.samples)).unwrap_or_default(),
            own: spec.as_ref().and_then(Objective::of),
            alone: None,
        })
    }
}

/// Serves a package for just this.
fn alone(context: &Context, what: &str) -> miette::Result<Target> {
    let package = super::inspect::laid_out(context, what)?.package;
    let alone = Alone::start(context, what, &package)?;
    let path = match &package.runtime {
        Runtime::Command { .. } => "/predict".to_owned(),
        _ => format!("/v2/models/{}/infer", package.name),
    };
    Ok(Target {
        name: format!("{}:{}", package.name, package.version),
        address: alone.address,
        path,
        prefix: String::new(),
        samples: play::of_samples(&package.samples),
        own: None,
        alone: Some(alone),
    })
}

/// Plays the plan to its end, with figures for whoever looks on.
fn watch(plan: Plan) -> (Tally, Duration) {
    let traffic = play::Traffic::play(plan);
    let mut canvas = Canvas::possible().then(Canvas::default);
    while !traffic.wait(FRAME) {
        if let Some(canvas) = &mut canvas {
            let tally = traffic.tally();
            canvas.draw(&[line(&tally, traffic.elapsed())]);
        }
    }
    if let Some(canvas) = &mut canvas {
        canvas.draw(&[]);
    }
    let elapsed = traffic.elapsed();
    (traffic.finish(), elapsed)
}

fn line(tally: &Tally, elapsed: Duration) -> String {
    let (paint, all) = (Paint::stderr(), tally.latency());
    let failed = format!("{} failed", tally.failed);
    let failed = if tally.failed == 0 { failed } else { paint.bad(&failed) };
    let per_second = tally.answered() as f64 / elapsed.as_secs_f64().max(1e-3);
    let at = |quantile| latency(all.quantile(quantile));
    format!("{} answered, {failed}, {per_second:.0}/s, p50 {}, p99 {}", tally.answered(), at(0.5), at(0.99))
}

fn text(target: &Target, tally: &Tally, elapsed: Duration, judged: &[Judged]) -> String {
    let paint = Paint::stdout();
    let mut parts = vec![format!("{}  {}", paint.bold(&target.name), line(tally, elapsed))];
    if let Some(alone) = &target.alone {
        parts.push(paint.dim(&format!("ready {:.2} s after its start", alone.ready_after.as_secs_f64())));
    }
    let rows = tally.revisions.iter().map(|(revision, seen)| {
        let at = |quantile| latency(seen.latency.quantile(quantile));
        let right = (seen.labelled > 0).then(|| seen.right as f64 / seen.labelled as f64);
        let revision = if *revision == 0 { "–".to_owned() } else { format!("r{revision}") };
        vec![revision, seen.answers.to_string(), at(0.5), at(0.9), at(0.99), at(0.999), percent(right)]
    });
    parts.push(table(&["revision", "answers", "p50", "p90", "p99", "p99.9", "right"], rows.collect(), paint));
    let rows = judged.iter().map(|judged| {
        let verdict = if judged.holds { paint.good("holds") } else { paint.bad("missed") };
        vec![judged.name.clone(), judged.seen.clone(), judged.limit.clone(), verdict]
    });
    parts.push(table(&["objective", "seen", "limit", ""], rows.collect(), paint));
    parts.extend(tally.failures.iter().map(|why| paint.bad(why)));
    if tally.late > 0 {
        say(&format!(
            "{} {} requests were sent late since every caller was busy; they count from when they were due",
            paint.warn("note:"),
            tally.late
        ));
    }
    parts.join("\n")
}

fn document(target: &Target, tally: &Tally, elapsed: Duration, judged: &[Judged]) -> Value {
    let quantiles = |histogram: &modelyard_core::measure::Histogram| {
        let at = |quantile| histogram.quantile(quantile);
        json!({ "p50": at(0.5), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99), "p99.9": at(0.999) })
    };
    let revisions: Vec<Value> = tally
        .revisions
        .iter()
        .map(|(revision, seen)| {
            json!({
                "revision": revision, "answers": seen.answers, "labelled": seen.labelled, "right": seen.right,
                "latency_micros": quantiles(&seen.latency),
            })
        })
        .collect();
    let objectives: Vec<Value> = judged
        .iter()
        .map(|judged| json!({ "objective": judged.name, "seen": judged.seen, "limit": judged.limit, "holds": judged.holds }))
        .collect();
    json!({
        "target": target.name, "address": target.address.to_string(), "seconds": elapsed.as_secs_f64(),
        "answered": tally.answered(), "failed": tally.failed, "failures": tally.failures, "late": tally.late,
        "labels": tally.labels, "requests_per_second": tally.answered() as f64 / elapsed.as_secs_f64().max(1e-3),
        "ready_after_seconds": target.alone.as_ref().map(|alone| alone.ready_after.as_secs_f64()),
        "latency_micros": quantiles(&tally.latency()), "revisions": revisions, "objectives": objectives,
        "holds": judged.iter().all(|judged| judged.holds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_held_against_what_was_seen() {
        assert_eq!("p99=50ms".parse(), Ok(Objective::Latency { percent: 99.0, micros: 50_000.0 }));
        assert_eq!("p99.9=0.5ms".parse(), Ok(Objective::Latency { percent: 99.9, micros: 500.0 }));
        assert_eq!("failed=0.1%".parse(), Ok(Objective::Failed(0.001)));
        assert_eq!("right=95%".parse(), Ok(Objective::Right(0.95)));
        for wrong in ["p99", "p0=1ms", "p100=1ms", "p99=soon", "p99=-1ms", "failed=2", "right=101%", "speed=1ms"] {
            assert!(wrong.parse::<Objective>().is_err(), "{wrong}");
        }
        let mut tally = Tally::default();
        let answer = |body: &str| {
            Ok(crate::http::Answer { status: 200, body: body.as_bytes().to_vec(), ..crate::http::Answer::default() })
        };
        let label = json!(1);
        for class in [1, 1, 1, 0] {
            tally.note(answer(&format!("{{\"outputs\":[{{\"data\":[{class}]}}]}}")), Some(&label), 900);
        }
        tally.fail("no answer".to_owned());
        let holds = |text: &str| text.parse::<Objective>().unwrap().judge(&tally).holds;
        assert!(holds("p99=1.2ms") && !holds("p99=0.5ms"));
        assert!(holds("failed=20%") && !holds("failed=19%"));
        assert!(holds("right=75%") && !holds("right=76%"));
        let nothing = Tally::default();
        assert!(!"p99=1s".parse::<Objective>().unwrap().judge(&nothing).holds, "nothing seen proves nothing");
    }
}
