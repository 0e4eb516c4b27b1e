//! The report as Markdown.

use std::fmt::Write;

use modelyard_core::RevisionNumber;

use super::{Report, offset};
use crate::text::{count, counted, fenced, latency, markdown, percent};
use crate::time;

/// Rows of the table of figures over time.
const ROWS: usize = 12;

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    let facts = &report.facts;
    let _ = writeln!(
        out,
        "# {}: {}\n\n**{}**\n",
        markdown(&facts.title()),
        facts.outcome_name(),
        markdown(&report.headline())
    );
    facts_table(&mut out, report);
    figures(&mut out, report);
    evidence(&mut out, report);
    over_time(&mut out, report);
    failures(&mut out, report);
    timeline(&mut out, report);
    out
}

fn facts_table(out: &mut String, report: &Report) {
    let _ = writeln!(out, "| | |\n| --- | --- |");
    for (name, value) in report.fact_rows() {
        let _ = writeln!(out, "| {name} | {} |", markdown(&value));
    }
}

impl Report {
    /// The facts as rows, for both forms.
    pub(super) fn fact_rows(&self) -> Vec<(&'static str, String)> {
        let facts = &self.facts;
        let revision = |number: Option<RevisionNumber>| {
            number.map_or("none".to_owned(), |number| match facts.details(number) {
                Some(details) => {
                    format!("revision {number}, {} {}, {}", details.model, details.version, details.package)
                }
                None => format!("revision {number}"),
            })
        };
        let mut rows = vec![
            ("Service", facts.service.as_ref().map_or("unknown".to_owned(), ToString::to_string)),
            ("Rollout", facts.rollout.as_ref().map_or("unknown".to_owned(), ToString::to_string)),
            ("From", revision(facts.stable)),
            ("To", revision(facts.candidate)),
            ("Strategy", facts.strategy.clone()),
            ("Started", format!("{} by {}", time::rfc3339(facts.started), facts.by)),
        ];
        let until = if facts.outcome.is_some() { "Ended" } else { "Last event" };
        rows.push((until, format!("{}, {} later", time::rfc3339(facts.until), facts.duration())));
        if let Some(cause) = facts.cause {
            let why = facts.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            rows.push(("Cause", format!("{cause} ({}){why}", cause.class())));
        }
        if let Some(exposure) = &self.exposure {
            let told = format!(
                "{}, {}, {}",
                exposure.span,
                counted(exposure.requests, "request"),
                counted(exposure.errors, "error")
            );
            let hidden = if exposure.retried > 0 {
                format!(", {} of them answered by another instance", count(exposure.retried))
            } else {
                String::new()
            };
            rows.push(("Exposure", format!("{told}{hidden}")));
        }
        if let Some(reaction) = facts.reaction {
            rows.push(("Verdict to zero traffic", reaction.to_string()));
        }
        rows
    }

    /// The table of figures, for both forms.
    pub(super) fn figure_rows(&self) -> Vec<Vec<String>> {
        let shown = |micros: Option<f64>| micros.map_or("–".to_owned(), latency);
        let row = |figures: &super::Figures| {
            let counters = &figures.counters;
            vec![
                format!("{} ({})", self.facts.name(figures.revision), figures.role.name()),
                count(counters.requests),
                count(counters.errors),
                counters.error_rate().map_or("–".to_owned(), percent),
                shown(figures.latency(0.5)),
                shown(figures.latency(0.95)),
                shown(figures.latency(0.99)),
                format!("{} → {}, at most {}", figures.first_share, figures.last_share, figures.peak_share),
            ]
        };
        self.figures.iter().map(row).collect()
    }
}

/// Heads of the table of figures.
pub(super) const FIGURE_HEADS: [&str; 8] =
    ["Revision", "Requests", "Errors", "Error rate", "p50", "p95", "p99", "Share of traffic"];

fn figures(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "\n## Figures\n\n| {} |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        FIGURE_HEADS.join(" | ")
    );
    for row in report.figure_rows() {
        let cells: Vec<String> = row.iter().map(|cell| markdown(cell)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

fn evidence(out: &mut String, report: &Report) {
    for table in report.known.tables(&report.facts) {
        let heads: Vec<String> = table.heads.iter().map(|head| markdown(head)).collect();
        let _ = writeln!(out, "\n## {}\n\n{}\n\n| {} |", table.title, table.words, heads.join(" | "));
        let _ = writeln!(out, "| --- {}|", "| ---: ".repeat(heads.len() - 1));
        for row in &table.rows {
            let cells: Vec<String> = row.iter().map(|cell| markdown(cell)).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        if !table.notes.is_empty() {
            out.push('\n');
        }
        for note in &table.notes {
            let _ = writeln!(out, "- {}", markdown(note));
        }
    }
}

fn over_time(out: &mut String, report: &Report) {
    let series = &report.series;
    if series.windows.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n## Over time\n\n| Since start | Revision | Share | Requests/s | Errors | p50 | p95 |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    let step = series.windows.len().div_ceil(ROWS);
    for window in series.windows.iter().skip(step - 1).step_by(step) {
        for &revision in window.counters.keys() {
            let shown =
                |value: Option<f64>, unit: &str| value.map_or("–".to_owned(), |value| format!("{value:.1}{unit}"));
            let share =
                series.weights.get(&revision).and_then(|points| points.iter().rev().find(|(at, _)| *at <= window.end));
            let _ = writeln!(
                out,
                "| {:.1} s | {revision} | {} | {} | {} | {} | {} |",
                window.end,
                shown(share.map(|&(_, share)| share), " %"),
                shown(window.rate(revision), ""),
                shown(window.error_percent(revision), " %"),
                shown(window.latency_ms(revision, 0.5), " ms"),
                shown(window.latency_ms(revision, 0.95), " ms"),
            );
        }
    }
}

fn failures(out: &mut String, report: &Report) {
    if report.failures.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n## What went wrong");
    for failure in &report.failures {
        let whose = failure.instance.as_ref().map_or(String::new(), |instance| format!(", instance {instance}"));
        let _ = writeln!(
            out,
            "\n### {} ({}): revision {}{}\n\n{} ({})\n",
            failure.cause,
            failure.cause.class(),
            failure.revision,
            markdown(&whose),
            markdown(&failure.detail),
            time::rfc3339(failure.at)
        );
        if !failure.evidence.is_empty() {
            out.push_str(&fenced(&failure.evidence.join("\n")));
        }
    }
    if !report.retries.is_empty() {
        let _ = writeln!(
            out,
            "\n{} tried again; the timeline tells of each.",
            counted(report.retries.len() as u64, "step")
        );
    }
}

fn timeline(out: &mut String, report: &Report) {
    let _ = writeln!(out, "\n## Timeline\n\n| Time (UTC) | Since start | By | What |\n| --- | ---: | --- | --- |");
    for entry in &report.timeline {
        let (at, since) = (time::time_of_day(entry.at), offset(report.facts.started, entry.at));
        let _ = writeln!(out, "| {at} | {since} | {} | {} |", markdown(&entry.by), markdown(&entry.what));
    }
}
