//! A rehearsal for a terminal: a table per case, then the timeline of one of them.

use modelyard_rehearse::play::{Entry, Kind, Notice, Played, PlayedCase, Rehearsal};

use super::{Shown, broken, chosen, clock, count, ending, noticed, span};
use crate::terminal::{Paint, columns};

/// The whole text.
pub fn render(told: &Rehearsal, shown: &Shown, paint: Paint) -> String {
    let instances = if told.instances == 1 { "1 instance".to_owned() } else { format!("{} instances", told.instances) };
    let begins = clock(told.starts_at_second, modelyard_core::Millis(0));
    let mut lines = vec![format!(
        "{}  {}, {instances}; {}; the rollout starts at {begins}; seed {}",
        paint.bold(&told.service),
        told.strategy,
        shown.traffic,
        told.seed
    )];
    lines.extend(told.left_out.iter().map(|left| paint.dim(&format!("left out: {left}"))));
    let tables: Vec<Vec<Vec<String>>> = told.cases.iter().map(|case| rows(case, told, paint)).collect();
    // All tables share their columns, so that cases can be compared.
    let aligned = columns(&tables.concat());
    let mut rest = aligned.into_iter();
    for (case, table) in told.cases.iter().zip(&tables) {
        lines.push(String::new());
        lines.push(title(case, paint));
        lines.extend(rest.by_ref().take(table.len()));
        lines.extend(case.advice.iter().map(|advice| format!("    {} {advice}", paint.warn("!"))));
    }
    lines.push(String::new());
    lines.push(paint.dim(
        "* the service's own strategy. met: requests that a bad revision answered. not whole: until nothing bad answers, every instance lives and nobody waits.",
    ));
    if let Some((case, play)) = told.cases.get(shown.case).and_then(|case| Some((case, chosen(case, &shown.strategy)?)))
    {
        lines.push(String::new());
        lines.push(format!("{}  {}", paint.bold(&play.strategy), case.name));
        lines.extend(timeline(play, told.starts_at_second, paint));
    }
    lines.join("\n")
}

fn title(case: &PlayedCase, paint: Paint) -> String {
    let faults = case.faults.join(", ");
    let same = case.faults.is_empty() || faults == case.name;
    let told = if same { String::new() } else { format!("  {}", paint.dim(&faults)) };
    format!("{}{told}", paint.bold(&case.name))
}

fn rows(case: &PlayedCase, told: &Rehearsal, paint: Paint) -> Vec<Vec<String>> {
    let heading =
        ["", "ends", "decided after", "noticed after", "met", "failed", "waited", "not whole for", "instances"];
    let mut rows = vec![heading.map(|head| paint.dim(head)).to_vec()];
    for play in &case.plays {
        let own = if play.strategy == told.strategy { "*" } else { " " };
        let best = case.best.as_deref() == Some(play.strategy.as_str());
        let by = if play.noticed_by == Some(Notice::Person) { " (a person)" } else { "" };
        let worry = |number: u64| match number {
            0 => paint.dim("0"),
            number => count(number),
        };
        let mut row = vec![
            format!("  {own} {}", if best { paint.good(&play.strategy) } else { play.strategy.clone() }),
            painted(play, paint),
            play.decided.map_or_else(|| "–".to_owned(), span),
            format!("{}{by}", noticed(play)),
            worry(play.met),
            worry(play.failed),
            worry(play.waited),
            broken(play),
            format!("{}", play.most_instances),
        ];
        if best {
            row.push(paint.good("← best"));
        }
        rows.push(row);
    }
    rows
}

fn painted(play: &Played, paint: Paint) -> String {
    let told = ending(play);
    match (play.noticed_by, play.met) {
        (Some(Notice::Person), _) => paint.warn(&told),
        (None, 0) | (Some(Notice::Rollout), _) => told,
        (None, _) => paint.bad(&told),
    }
}

fn timeline(play: &Played, start: u64, paint: Paint) -> Vec<String> {
    let line = |entry: &Entry| {
        let what = match entry.kind {
            Kind::Failure | Kind::Bad => paint.bad(&entry.what),
            Kind::Good => paint.good(&entry.what),
            Kind::Person => paint.bold(&entry.what),
            Kind::Verdict | Kind::Move => entry.what.clone(),
            Kind::World => paint.warn(&entry.what),
        };
        let since = format!("+{:.2} s", entry.at.as_seconds());
        format!("  {}  {since:>12}  {what}", paint.dim(&clock(start, entry.at)))
    };
    let mut lines: Vec<String> = play.timeline.iter().map(line).collect();
    if play.outcome.is_none() {
        lines.push(format!("  {}  {}", paint.dim("at the end"), paint.warn(&play.stands)));
    }
    lines
}
