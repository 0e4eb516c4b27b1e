//! The report as a page of its own.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use modelyard_core::RevisionNumber;
use modelyard_core::event::Outcome;

use super::chart::{Chart, Line};
use super::markdown::FIGURE_HEADS;
use super::series::Window;
use super::{Report, Role, offset};
use crate::text::{counted, lines, one_line};
use crate::time;

/// Nothing but this page's own style may be loaded, whatever slipped into it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

pub(super) fn render(report: &Report) -> String {
    let facts = &report.facts;
    let title = format!("{}: {}", facts.title(), facts.outcome_name());
    page(
        &title,
        &html! {
            (head(report))
            (figures(report))
            (failures(report))
            (evidence(report))
            (charts(report))
            (timeline(report))
            footer { "Told from the event log of Modelyard. All times are UTC; latency is measured at the gateway." }
        },
    )
}

/// A page of its own in the reports' style: no scripts, nothing from elsewhere.
pub fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (one_line(title, 200)) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

fn head(report: &Report) -> Markup {
    let tone = match report.facts.outcome {
        Some(Outcome::Promoted) => "good",
        Some(Outcome::RolledBack) => "bad",
        Some(Outcome::Aborted | Outcome::Compared) | None => "quiet",
    };
    html! {
        header {
            p.kicker { (report.facts.title()) " " span class=(format!("badge {tone}")) { (report.facts.outcome_name()) } }
            h1 { (report.headline()) }
            dl.facts {
                @for (name, value) in report.fact_rows() {
                    div { dt { (name) } dd { (one_line(&value, 600)) } }
                }
            }
        }
    }
}

fn figures(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Figures" }
            div.scroll {
                table.figures {
                    thead { tr { @for (index, name) in FIGURE_HEADS.iter().enumerate() { th.number[(1..7).contains(&index)] scope="col" { (name) } } } }
                    tbody {
                        @for (figures, row) in report.figures.iter().zip(report.figure_rows()) {
                            tr {
                                @for (index, cell) in row.iter().enumerate() {
                                    @if index == 0 {
                                        th scope="row" { span class=(format!("dot {}", figures.role.name())) {} (cell) }
                                    } @else {
                                        td.number[(1..7).contains(&index)] { (cell) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn evidence(report: &Report) -> Markup {
    html! {
        @for table in report.known.tables(&report.facts) {
            section {
                h2 { (table.title) }
                p.when { (table.words) }
                div.scroll {
                    table.figures {
                        thead { tr { @for (index, head) in table.heads.iter().enumerate() { th.number[index > 0] scope="col" { (head) } } } }
                        tbody {
                            @for row in &table.rows {
                                tr { @for (index, cell) in row.iter().enumerate() {
                                    @if index == 0 { th scope="row" { (cell) } } @else { td.number { (cell) } }
                                } }
                            }
                        }
                    }
                }
                @if !table.notes.is_empty() { ul { @for note in &table.notes { li { (note) } } } }
            }
        }
    }
}

fn failures(report: &Report) -> Markup {
    html! {
        @if !report.failures.is_empty() {
            section {
                h2 { "What went wrong" }
                @for failure in &report.failures {
                    article.failure {
                        h3 {
                            span.cause { (failure.cause) }
                            " (" (failure.cause.class()) ")"
                            ": revision " (failure.revision)
                            @if let Some(instance) = &failure.instance { ", instance " (instance) }
                        }
                        p { (one_line(&failure.detail, 2_000)) }
                        @if !failure.evidence.is_empty() { pre { (lines(&failure.evidence.join("\n"))) } }
                        p.when { (time::rfc3339(failure.at)) " (" (offset(report.facts.started, failure.at)) ")" }
                    }
                }
                @if !report.retries.is_empty() {
                    details {
                        summary { (counted(report.retries.len() as u64, "step")) " tried again" }
                        ul { @for retry in &report.retries { li { (offset(report.facts.started, retry.at)) " " (retry.what) } } }
                    }
                }
            }
        }
    }
}

fn charts(report: &Report) -> Markup {
    if report.series.is_empty() {
        return html! { section { h2 { "Over time" } p.when { "Nothing was measured: no request came while this rollout ran." } } };
    }
    html! {
        section {
            h2 { "Over time" }
            div.charts { @for chart in report.charts() { (chart.render()) } }
        }
    }
}

/// Stands for one revision in every chart.
#[derive(Clone, Copy)]
struct Drawn {
    revision: RevisionNumber,
    role: Role,
    nth: usize,
}

impl Report {
    fn charts(&self) -> Vec<Chart<'_>> {
        let series = &self.series;
        let chart = |id: String, title: String, unit, top, lines: Vec<Line>| {
            let summary = summary(&lines, unit);
            Chart { id, title, unit, summary, top, close: false, lines, marks: &series.marks, end: series.end }
        };
        let weights = self.drawn().map(|drawn| {
            let points = series.weights.get(&drawn.revision).into_iter().flatten();
            self.line(drawn, "", true, points.map(|&(at, share)| (at, Some(share))).collect())
        });
        let mut charts =
            vec![chart("weight".to_owned(), "Share of traffic".to_owned(), "%", Some(100.0), weights.collect())];
        if series.windows.is_empty() {
            return charts;
        }
        let rates =
            self.drawn().map(|drawn| self.line(drawn, "", false, self.points(|window| window.rate(drawn.revision))));
        charts.push(chart("rate".to_owned(), "Requests".to_owned(), "per second", None, rates.collect()));
        let errors = self
            .drawn()
            .map(|drawn| self.line(drawn, "", false, self.points(|window| window.error_percent(drawn.revision))));
        charts.push(chart("errors".to_owned(), "Errors".to_owned(), "% of requests", None, errors.collect()));
        let latency = self.drawn().flat_map(|drawn| {
            [(0.5, " p50"), (0.95, " p95")].map(|(quantile, suffix)| {
                let points = self.points(|window| window.latency_ms(drawn.revision, quantile));
                Line { dashed: quantile > 0.5, ..self.line(drawn, suffix, false, points) }
            })
        });
        charts.push(chart("latency".to_owned(), "Latency".to_owned(), "ms", None, latency.collect()));
        for (index, (name, unit)) in self.known.metric_names().into_iter().enumerate() {
            let lines = self.drawn().map(|drawn| {
                let key = (name.clone(), drawn.revision);
                let points = self.known.history.iter().map(|(at, values)| (*at, values.get(&key).copied())).collect();
                self.line(drawn, "", false, points)
            });
            let chart = chart(format!("metric-{index}"), one_line(&name, 60), unit, None, lines.collect());
            charts.push(Chart { close: true, ..chart });
        }
        charts
    }

    fn drawn(&self) -> impl Iterator<Item = Drawn> + '_ {
        let others = |number: &RevisionNumber| self.facts.role(*number) == Role::Other;
        self.series.revisions.iter().map(move |&revision| {
            let nth = self
                .series
                .revisions
                .iter()
                .filter(|number| others(number))
                .position(|&number| number == revision)
                .unwrap_or(0);
            Drawn { revision, role: self.facts.role(revision), nth }
        })
    }

    fn line(&self, drawn: Drawn, suffix: &str, steps: bool, points: Vec<(f64, Option<f64>)>) -> Line {
        let name = format!("revision {}, {}{suffix}", drawn.revision, drawn.role.name());
        Line { role: drawn.role, nth: drawn.nth, name, dashed: false, steps, points }
    }

    fn points(&self, value: impl Fn(&Window) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
        self.series.windows.iter().map(|window| (window.end, value(window))).collect()
    }
}

/// What a chart shows, in words: for each line its first, largest and last value.
fn summary(lines: &[Line], unit: &str) -> String {
    let told = lines.iter().map(|line| {
        let values: Vec<f64> = line.points.iter().filter_map(|&(_, value)| value).collect();
        let largest = values.iter().copied().fold(0.0, f64::max);
        match (values.first(), values.last()) {
            (Some(first), Some(last)) => {
                format!("{}: from {first:.1} to {last:.1}, at most {largest:.1} {unit}.", line.name)
            }
            _ => format!("{}: no figures.", line.name),
        }
    });
    told.collect::<Vec<_>>().join(" ")
}

fn timeline(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Timeline" }
            div.scroll {
                table.timeline {
                    thead { tr { th scope="col" { "Time (UTC)" } th.number scope="col" { "Since start" } th scope="col" { "By" } th scope="col" { "What" } } }
                    tbody {
                        @for entry in &report.timeline {
                            tr class=(entry.tone.name()) {
                                td.time { time datetime=(time::rfc3339(entry.at)) { (time::time_of_day(entry.at)) } }
                                td.number { (offset(report.facts.started, entry.at)) }
                                td.by { (entry.by) }
                                td.what { (entry.what) }
                            }
                        }
                    }
                }
            }
        }
    }
}
