//! `modelyard rehearse`: the scenario that is read, and the rehearsal that is shown. What is played: `modelyard-rehearse`.

pub mod file;
mod keys;
mod page;
mod recorded;
mod text;

use modelyard_core::Millis;
use modelyard_core::event::Outcome;
use modelyard_rehearse::play::{Played, PlayedCase, Scenario, Traffic};

pub use page::render as page;
pub use text::render as text;

/// What is shown beside the figures.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Traffic, in words.
    pub traffic: String,
    /// The strategy whose timeline is shown.
    pub strategy: String,
    /// The case whose timeline is shown, by its place.
    pub case: usize,
}

/// Traffic, in words.
pub fn traffic(scenario: &Scenario, recorded: Option<&std::path::Path>) -> String {
    match &scenario.traffic {
        Traffic::Recorded(requests) => {
            let name = recorded.map_or_else(|| "a recording".to_owned(), |path| path.display().to_string());
            format!("{} recorded requests of {name}", requests.requests())
        }
        Traffic::Described(described) => {
            let begins = scenario.traffic.rate(scenario.start);
            let steady = described.hours.iter().all(|share| *share == described.hours[0]) && described.quiet.is_empty();
            match steady {
                true => format!("{} requests/s", number(begins)),
                false => {
                    format!("{} requests/s at the start, {} when it is busiest", number(begins), number(described.rate))
                }
            }
        }
    }
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// How a play ended, in a few words.
fn ending(play: &Played) -> String {
    let cause = play.cause.map(|cause| format!(" for {cause}")).unwrap_or_default();
    match play.outcome {
        _ if play.stands.starts_with("promoted;") => "promoted, rolled back by hand".to_owned(),
        Some(Outcome::RolledBack) => format!("rolled back{cause}"),
        Some(Outcome::Aborted) => format!("aborted by a person{cause}"),
        Some(outcome) => outcome.name().to_owned(),
        None => format!("still open{cause}"),
    }
}

/// A span as it is compared with others: `250 ms`, `2.3 s`, `27 s`, `12 min`.
fn span(span: Millis) -> String {
    match span.0 {
        0..1_000 => format!("{} ms", span.0),
        1_000..10_000 => format!("{:.1} s", span.as_seconds()),
        10_000..120_000 => format!("{:.0} s", span.as_seconds()),
        120_000..7_200_000 => format!("{:.0} min", span.as_seconds() / 60.0),
        _ => format!("{:.1} h", span.as_seconds() / 3_600.0),
    }
}

/// From the first request that was hurt to the notice; the moment itself, if none was.
fn noticed(play: &Played) -> String {
    match (play.noticed_after, play.noticed) {
        (Some(Millis(0)), _) => "at once".to_owned(),
        (Some(after), _) => span(after),
        (None, Some(at)) => format!("at {}", span(at)),
        (None, None) => "–".to_owned(),
    }
}

/// For how long the service was less than whole.
fn broken(play: &Played) -> String {
    match (play.harm, play.whole_after) {
        (None, _) => "always whole".to_owned(),
        (Some(_), Some(after)) => span(after),
        (Some(_), None) => "not by the end".to_owned(),
    }
}

/// A count with thin spaces between thousands.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

/// The play of a case with the strategy of that name; the service's own, if there is none.
fn chosen<'c>(case: &'c PlayedCase, strategy: &str) -> Option<&'c Played> {
    case.plays.iter().find(|play| play.strategy == strategy).or_else(|| case.plays.first())
}

/// Time of day to the second, some milliseconds after a second of the day.
fn clock(start: u64, at: Millis) -> String {
    let seconds = start + at.0 / 1_000;
    let day = match seconds / 86_400 {
        0 => String::new(),
        days => format!(" +{days} d"),
    };
    format!("{:02}:{:02}:{:02}{day}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let shown = [250, 2_345, 27_500, 133_750, 1_803_000, 86_400_000].map(|ms| span(Millis(ms)));
        assert_eq!(shown, ["250 ms", "2.3 s", "28 s", "2 min", "30 min", "24.0 h"]);
        assert_eq!(clock(36_000, Millis(3_250)), "10:00:03");
        assert_eq!(clock(86_399, Millis(2_000)), "00:00:01 +1 d");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
