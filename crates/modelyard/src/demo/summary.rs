//! What happened in ten lines, and what to type next.

use std::path::Path;

use modelyard_core::measure::Histogram;

use super::{Built, Story, Tally};
use crate::api::RolloutEnd;
use crate::terminal::Paint;
use crate::view::latency;

/// What happened.
pub fn lines(story: &Story, processes: usize) -> Vec<Vec<String>> {
    let paint = Paint::stderr();
    let line = |title: &str, text: String| vec![paint.dim(title), text];
    let failed = story.wine.failed + story.cancer.failed;
    let answered = story.wine.answered() + story.cancer.answered();
    let count = format!("{answered} answered, {failed} failed");
    let all = latencies(&[&story.wine, &story.cancer]);
    vec![
        line("requests", if failed == 0 { paint.good(&count) } else { paint.bad(&count) }),
        line(
            "latency",
            format!("p50 {}, p95 {}, as callers saw it", latency(all.quantile(0.5)), latency(all.quantile(0.95))),
        ),
        line("wine", change(&story.good, paint)),
        line("", format!("right on held-out rows: {}", accuracy(&story.wine, &[&story.good.0, &story.good.1]))),
        line("breast-cancer", change(&story.bad, paint)),
        line("", why(&story.bad.2)),
        line("", exposure(&story.cancer)),
        line("took", format!("{:.0} s in all", story.began.elapsed().as_secs_f64())),
        line("left behind", format!("nothing: {processes} processes ran, none is left")),
        line(
            "reports",
            story
                .reports
                .iter()
                .find(|path| path.extension().is_some_and(|end| end == "html"))
                .map(|path| path.with_file_name("*.html").display().to_string())
                .unwrap_or_default(),
        ),
    ]
}

fn change((from, to, end, seconds): &(Built, Built, RolloutEnd, f64), paint: Paint) -> String {
    let outcome = match end.outcome.as_str() {
        "promoted" => paint.good("promoted"),
        "rolled-back" => paint.warn("taken back by itself"),
        other => paint.bad(other),
    };
    let cause = end.cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    format!("{} to {}: {outcome}{cause} after {seconds:.1} s", from.version, to.version)
}

fn why(end: &RolloutEnd) -> String {
    end.evidence_lines().into_iter().next().map_or_else(String::new, |line| line.chars().take(140).collect())
}

/// How few callers met the bad version.
fn exposure(tally: &Tally) -> String {
    let on_bad = tally.revisions.get(&2).map_or(0, |seen| seen.answers);
    let rest = if tally.failed == 0 { "; those that it dropped were answered by 1.0.0" } else { "" };
    format!("it answered {on_bad} of {} requests{rest}", tally.answered())
}

fn accuracy(tally: &Tally, built: &[&Built]) -> String {
    let share = |(revision, seen): (&u32, &super::traffic::Seen)| {
        let version = built.get(*revision as usize - 1).map_or_else(String::new, |built| built.version.clone());
        format!("{version} {:.1} %", 100.0 * seen.right as f64 / seen.answers.max(1) as f64)
    };
    let known = tally.revisions.iter().filter(|(revision, _)| (1..=built.len() as u32).contains(revision));
    known.map(share).collect::<Vec<_>>().join(", ")
}

fn latencies(tallies: &[&Tally]) -> Histogram {
    let mut all = Histogram::default();
    tallies.iter().flat_map(|tally| tally.revisions.values()).for_each(|seen| all.add(&seen.latency));
    all
}

/// What to type next.
pub fn next(kept: Option<&Path>) -> Vec<String> {
    let paint = Paint::stderr();
    let mut lines = vec![
        String::new(),
        paint.bold("Next, with a model of your own"),
        "   modelyard up --detach".to_owned(),
        "   modelyard new my-model --from model.onnx".to_owned(),
        "   modelyard deploy my-model --wait".to_owned(),
    ];
    if let Some(folder) = kept {
        lines.push(format!("\nThe demo's own folder was kept: {}", folder.display()));
    }
    lines
}
