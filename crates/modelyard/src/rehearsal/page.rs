//! A rehearsal as a page of its own, in the style of the activity reports: no scripts, nothing from elsewhere.

use maud::{Markup, html};
use modelyard_core::Millis;
use modelyard_monitor::report::{Chart, Line, Mark, Role, page};
use modelyard_rehearse::play::{Notice, Played, PlayedCase, Rehearsal, Shares, Window};

use super::{Shown, broken, chosen, clock, count, ending, noticed, span};

const STYLE: &str = "
.best { color: var(--good); } td.cell { min-width: 8.5rem; } .cell small { display: block; color: var(--soft); }
.bar { display: block; height: .3rem; margin-top: .25rem; border-radius: 2px; background: var(--candidate); }
.advice { margin: .8rem 0 0; padding: .7rem 1rem; background: var(--card); border: 1px solid var(--rule); border-left: 3px solid var(--candidate); border-radius: 6px; font-size: .92rem; }
.charts { margin-top: 1.25rem; } a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .2em; }
.three { grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); } details { margin-top: 1rem; }
.timeline tr.failure .what { color: var(--bad); } .timeline tr.world .what { color: var(--candidate); }
tr.own th { font-weight: 700; }
";

/// The page.
pub fn render(told: &Rehearsal, shown: &Shown) -> String {
    let title = format!("Rehearsal of {}", told.service);
    page(
        &title,
        &html! {
            style { (STYLE) }
            header {
                p.kicker { (title) " " span.badge.quiet { "seed " (told.seed) } }
                h1 { (headline(told, shown)) }
                dl.facts {
                    div { dt { "Strategy" } dd { (told.strategy) } }
                    div { dt { "Instances" } dd { (told.instances) } }
                    div { dt { "Traffic" } dd { (shown.traffic) } }
                    div { dt { "Starts at" } dd { (clock(told.starts_at_second, Millis(0))) " UTC" } }
                }
                @for left in &told.left_out { p.when { "Left out: " (left) } }
            }
            (overview(told))
            @for (index, case) in told.cases.iter().enumerate() { (section(told, shown, case, index)) }
            footer {
                "Played under a virtual clock by the state machine that carries out real rollouts. Met: requests that a bad revision answered. \
                 Not whole: until nothing bad answers, every instance lives, and nobody waits. The same input gives the same page."
            }
        },
    )
}

/// The shown case in one sentence: the service's own strategy, and the best one.
fn headline(told: &Rehearsal, shown: &Shown) -> String {
    let Some((case, play)) = told.cases.get(shown.case).and_then(|case| Some((case, chosen(case, &shown.strategy)?)))
    else {
        return format!("{} has nothing to rehearse", told.service);
    };
    let hurt = match (play.met, play.harm) {
        (0, None) => "nobody meets a bad revision".to_owned(),
        (met, None) => format!("{} requests are hurt, and the service stays whole", count(met)),
        (met, Some(_)) => {
            format!(
                "{} requests meet the bad revision, and the service is less than whole for {}",
                count(met),
                broken(play)
            )
        }
    };
    let best = case.best.as_deref().filter(|best| *best != play.strategy);
    let better = best.map(|best| format!("; {best} would do better")).unwrap_or_default();
    format!("With “{}”, {} ends {}: {hurt}{better}.", case.name, play.strategy, ending(play))
}

/// Every case against every strategy.
fn overview(told: &Rehearsal) -> Markup {
    let strategies: Vec<&str> = told
        .cases
        .first()
        .map(|case| case.plays.iter().map(|play| play.strategy.as_str()).collect())
        .unwrap_or_default();
    html! {
        section {
            h2 { "At a glance" }
            div.scroll {
                table {
                    thead { tr { th scope="col" { "Case" } @for name in &strategies { th scope="col" { (name) @if *name == told.strategy { " (yours)" } } } } }
                    tbody {
                        @for (index, case) in told.cases.iter().enumerate() {
                            tr {
                                th scope="row" { a href=(format!("#case-{index}")) { (case.name) } }
                                @for play in &case.plays {
                                    td.cell.best[is_best(case, play)] {
                                        (ending(play))
                                        small { (in_short(play)) }
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

fn in_short(play: &Played) -> String {
    match (play.met.max(play.failed), play.harm) {
        (0, None) => "nobody hurt".to_owned(),
        (_, None) => format!("{} failed, always whole", count(play.failed)),
        _ => format!("{} met, {} failed, {}", count(play.met), count(play.failed), broken(play)),
    }
}

fn is_best(case: &PlayedCase, play: &Played) -> bool {
    case.best.as_deref() == Some(play.strategy.as_str())
}

fn section(told: &Rehearsal, shown: &Shown, case: &PlayedCase, index: usize) -> Markup {
    let most = case.plays.iter().map(|play| play.met.max(play.failed)).max().unwrap_or(0);
    let chosen = chosen(case, &shown.strategy);
    html! {
        section id=(format!("case-{index}")) {
            h2 { (case.name) }
            @if !case.faults.is_empty() { p.when { (case.faults.join(", ")) } }
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { "Strategy" } th scope="col" { "Ends" }
                        @for head in ["Decided after", "Noticed after", "Met or failed", "Failed", "Waited", "Not whole for", "Instances"] { th.number scope="col" { (head) } }
                    } }
                    tbody { @for play in &case.plays { (row(told, case, play, most)) } }
                }
            }
            @for advice in &case.advice { p.advice { (advice) } }
            div.charts.three {
                @for play in &case.plays { (shares(case, play, index)) }
            }
            @if let Some(play) = chosen {
                div.charts {
                    (requests(play, index))
                    @if is_slower(play) { (latency(play, index)) }
                }
                (timeline(told, play))
            }
        }
    }
}

fn row(told: &Rehearsal, case: &PlayedCase, play: &Played, most: u64) -> Markup {
    let hurt = play.met.max(play.failed);
    let width = if most == 0 { 0.0 } else { hurt as f64 / most as f64 * 100.0 };
    html! {
        tr.own[play.strategy == told.strategy] {
            th scope="row" { (play.strategy) @if is_best(case, play) { " " span.badge.good { "best" } } }
            td { (ending(play)) }
            td.number { (play.decided.map_or_else(|| "–".to_owned(), span)) }
            td.number { (noticed(play)) @if play.noticed_by == Some(Notice::Person) { " by a person" } }
            td.number { (count(hurt)) @if !case.faults.is_empty() { span.bar style=(format!("width:{width:.1}%")) {} } }
            td.number { (count(play.failed)) }
            td.number { (count(play.waited)) }
            td.number { (broken(play)) }
            td.number { (play.most_instances) }
        }
    }
}

fn marks(play: &Played) -> Vec<Mark> {
    let seconds = |at: Millis| at.as_seconds();
    let mut marks: Vec<Mark> = [
        (play.harm.filter(|at| at.0 > 0), "harm"),
        (play.noticed, "noticed"),
        (play.whole, "whole"),
        (play.decided.filter(|_| play.noticed.is_none()), "decided"),
    ]
    .into_iter()
    .filter_map(|(at, label)| at.map(|at| Mark { at: seconds(at), label }))
    .collect();
    marks.sort_by(|a, b| a.at.total_cmp(&b.at));
    marks
}

fn line(role: Role, name: &str, steps: bool, points: Vec<(f64, Option<f64>)>) -> Line {
    Line { role, nth: 0, name: name.to_owned(), dashed: false, steps, points }
}

/// Shares of traffic over time.
fn shares(case: &PlayedCase, play: &Played, index: usize) -> Markup {
    let points = |of: fn(&Shares) -> u16| {
        play.shares.iter().map(|share| (share.at.as_seconds(), Some(f64::from(of(share)) / 100.0))).collect()
    };
    let mut lines = vec![
        line(Role::Stable, "stable", true, points(|share| share.stable)),
        line(Role::Candidate, "candidate", true, points(|share| share.candidate)),
    ];
    if play.shares.iter().any(|share| share.others > 0) {
        lines.push(line(Role::Other, "further arms", true, points(|share| share.others)));
    }
    let summary = format!("Share of traffic of stable and candidate during `{}`: {}.", case.name, ending(play));
    draw(
        format!("case-{index}-{}", play.strategy),
        play.strategy.clone(),
        "% of traffic",
        summary,
        Some(100.0),
        lines,
        play,
    )
}

fn requests(play: &Played, index: usize) -> Markup {
    let per_second = |of: fn(&Window) -> u64| {
        let rate = |window: &Window| of(window) as f64 / window.span.as_seconds().max(0.001);
        play.windows.iter().map(|window| (window.end.as_seconds(), Some(rate(window)))).collect()
    };
    let mut lines = vec![
        line(Role::Stable, "all requests", false, per_second(|window| window.requests)),
        line(Role::Candidate, "met a bad revision", false, per_second(|window| window.met)),
        line(Role::Other, "failed", false, per_second(|window| window.failed)),
    ];
    lines[2].dashed = true;
    let summary =
        format!("{} requests, of which {} met a bad revision and {} failed.", play.requests, play.met, play.failed);
    let title = format!("Requests with {}", play.strategy);
    draw(format!("case-{index}-requests"), title, "per second", summary, None, lines, play)
}

/// Whether latencies differ enough for a chart of their own.
fn is_slower(play: &Played) -> bool {
    let of = |value: fn(&Window) -> f64| {
        let known = play.windows.iter().map(value).filter(|ms| *ms > 0.0);
        known.fold((f64::INFINITY, 0.0_f64), |(low, high), ms| (low.min(ms), high.max(ms)))
    };
    let (stable, candidate) = (of(|window| window.stable_latency_ms), of(|window| window.candidate_latency_ms));
    stable.1.max(candidate.1) > stable.0.min(candidate.0) * 1.01
}

fn latency(play: &Played, index: usize) -> Markup {
    let of = |value: fn(&Window) -> f64| {
        play.windows
            .iter()
            .map(|window| (window.end.as_seconds(), Some(value(window)).filter(|ms| *ms > 0.0)))
            .collect()
    };
    let lines = vec![
        line(Role::Stable, "stable", false, of(|window| window.stable_latency_ms)),
        line(Role::Candidate, "candidate", false, of(|window| window.candidate_latency_ms)),
    ];
    let summary = "Median latency of stable and candidate, as long as each answers.".to_owned();
    let title = format!("Median latency with {}", play.strategy);
    draw(format!("case-{index}-latency"), title, "ms", summary, None, lines, play)
}

fn draw(
    id: String,
    title: String,
    unit: &'static str,
    summary: String,
    top: Option<f64>,
    lines: Vec<Line>,
    play: &Played,
) -> Markup {
    let (marks, end) = (marks(play), play.played.as_seconds().max(1.0));
    Chart { id, title, unit, summary, top, close: false, lines, marks: &marks, end }.render()
}

fn timeline(told: &Rehearsal, play: &Played) -> Markup {
    html! {
        details open[play.timeline.len() <= 12] {
            summary { "Timeline with " (play.strategy) }
            div.scroll {
                table.timeline {
                    thead { tr { th scope="col" { "Time (UTC)" } th.number scope="col" { "Since start" } th scope="col" { "What" } } }
                    tbody {
                        @for entry in &play.timeline {
                            tr class=(entry.kind.name()) {
                                td.time { (clock(told.starts_at_second, entry.at)) }
                                td.number { (format!("+{:.2} s", entry.at.as_seconds())) }
                                td.what { (entry.what) }
                            }
                        }
                    }
                }
            }
        }
    }
}
