//! What happened in ten lines, and what to type next.

use std::path::Path;

use modelyard_core::measure::Histogram;

use super::{Act, Story};
use crate::terminal::Paint;
use crate::traffic::Tally;
use crate::view::latency;

/// What happened.
pub fn lines(story: &Story, processes: usize) -> Vec<Vec<String>> {
    let paint = Paint::stderr();
    let line = |title: &str, text: String| vec![paint.dim(title), text];
    let sum = |count: fn(&Tally) -> u64| story.tallies.iter().map(count).sum::<u64>();
    let failed = sum(|tally| tally.failed);
    let count = format!("{} answered, {failed} failed", sum(Tally::answered));
    let all = latencies(&story.tallies);
    let seen = format!("p50 {}, p95 {} as callers saw it", latency(all.quantile(0.5)), latency(all.quantile(0.95)));
    let [wine, cancer, _] = &story.tallies;
    let count = if failed == 0 { paint.good(&count) } else { paint.bad(&count) };
    vec![
        line("requests", format!("{count}; {seen}")),
        line("wine", change(&story.canary, paint)),
        line("", format!("right on held-out rows: {}", accuracy(wine, &story.canary))),
        line("breast-cancer", change(&story.ab, paint)),
        line(
            "",
            format!("right on held-out rows: {}; {} labels came late", accuracy(cancer, &story.ab), cancer.labels),
        ),
        line("digits", format!("{}; {}", change(&story.shadow, paint), why(&story.shadow))),
        line("breast-cancer", format!("{}; {}", change(&story.bad, paint), exposure(cancer))),
        line("", why(&story.bad)),
        line(
            "took",
            format!("{:.0} s in all; {processes} processes ran, none is left", story.began.elapsed().as_secs_f64()),
        ),
        line("reports", story.reports.join("*.html").display().to_string()),
    ]
}

fn change(act: &Act, paint: Paint) -> String {
    let outcome = match act.end.outcome.as_str() {
        "promoted" => paint.good("promoted"),
        "rolled-back" => paint.warn("taken back by itself"),
        other if other == act.wanted => paint.good(other),
        other => paint.bad(other),
    };
    let cause = act.end.cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    format!("{} to {}: {outcome}{cause} after {:.1} s", act.from, act.to.version, act.seconds)
}

/// What decided it.
fn why(act: &Act) -> String {
    act.why.chars().take(140).collect()
}

/// How few callers met the bad version.
fn exposure(tally: &Tally) -> String {
    let on_bad = tally.revisions.get(&3).map_or(0, |seen| seen.answers);
    format!("it answered {on_bad} of {} requests", tally.answered())
}

fn accuracy(tally: &Tally, act: &Act) -> String {
    let share = |(revision, version): (u32, &String)| {
        let seen = tally.revisions.get(&revision)?;
        Some(format!("{version} {:.1} %", 100.0 * seen.right as f64 / seen.answers.max(1) as f64))
    };
    [(1, &act.from), (2, &act.to.version)].into_iter().filter_map(share).collect::<Vec<_>>().join(", ")
}

fn latencies(tallies: &[Tally]) -> Histogram {
    let mut all = Histogram::default();
    tallies.iter().for_each(|tally| all.add(&tally.latency()));
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
