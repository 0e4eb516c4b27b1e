//! How much longer a verdict takes at today's traffic.
//!
//! Promises: a forecast is either a time, or a plain word that none can be told; it looks at recent traffic, so that a night or a stop shows.
//! Absent on purpose: how much is still needed; whoever judges says that.

use modelyard_core::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// Shortest and longest distance of two marks: traffic is measured over one to two of them.
// 15 s: shorter ones tell more of chance than of traffic; 1 h: longer ones would not notice that a day is over.
const SHORTEST: u64 = 15_000;
const LONGEST: u64 = 3_600_000;

/// Past this a forecast says no more than that it takes very long.
const YEAR: f64 = 365.0 * 86_400.0;

/// What a count was at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    at: Timestamp,
    count: u64,
}

/// How fast something is counted: at most three marks, the newest last, further apart the longer it lasts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// When the first was counted.
    began: Timestamp,
    marks: Vec<Mark>,
}

impl Pace {
    /// Notes what has been counted so far. A count that shrinks, or a clock that is set back, begins anew.
    pub(crate) fn note(&mut self, at: Timestamp, count: u64) {
        if self.marks.last().is_some_and(|last| at < last.at || count < last.count) {
            self.marks.clear();
        }
        let mark = Mark { at, count };
        if self.marks.is_empty() {
            self.began = at;
        }
        if self.marks.len() < 2 {
            return self.marks.push(mark);
        }
        let last = self.marks.len() - 1;
        let spacing = ((at - self.began).0 / 4).clamp(SHORTEST, LONGEST);
        // The newest moves along until it is far enough from the one before it.
        match self.marks[last].at - self.marks[last - 1].at < Millis(spacing) {
            true => self.marks[last] = mark,
            false => self.marks.push(mark),
        }
        if self.marks.len() > 3 {
            self.marks.remove(0);
        }
    }

    /// Counted per second; none before a second has passed.
    pub(crate) fn per_second(&self) -> Option<f64> {
        let (first, last) = (self.marks.first()?, self.marks.last()?);
        let seconds = (last.at - first.at).as_seconds();
        (seconds >= 1.0).then(|| (last.count - first.count) as f64 / seconds)
    }

    /// Whether nothing is counted at present.
    pub(crate) fn is_still(&self) -> bool {
        self.per_second() == Some(0.0)
    }

    /// `; about 40 min more at today's traffic`, for so many that are still needed.
    pub(crate) fn in_words(&self, needed: Option<u64>) -> String {
        match (self.per_second(), needed) {
            (Some(rate), _) if rate <= 0.0 => "; no traffic: cannot tell when".to_owned(),
            (Some(rate), Some(needed)) => match needed as f64 / rate {
                seconds if seconds > YEAR => "; more than a year at today's traffic".to_owned(),
                seconds => format!("; about {} more at today's traffic", rounded(seconds)),
            },
            (None, Some(_)) => "; too early to tell when".to_owned(),
            (_, None) => String::new(),
        }
    }
}

/// Seconds to about two digits: nobody waits for the odd second of an hour.
pub(crate) fn rounded(seconds: f64) -> Millis {
    let step = match seconds {
        s if s < 60.0 => 1.0,
        s if s < 600.0 => 10.0,
        s if s < 36_000.0 => 60.0,
        _ => 3_600.0,
    };
    Millis(((seconds / step).ceil().max(1.0) * step * 1e3).min(1e15) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_follows_from_recent_traffic() {
        let mut pace = Pace::default();
        assert_eq!(pace.in_words(Some(10)), "; too early to tell when");
        (0..=240).for_each(|tick| pace.note(Timestamp(tick * 250), tick * 5));
        assert_eq!(pace.in_words(Some(48_000)), "; about 40 min more at today's traffic");
        assert_eq!(pace.in_words(Some(1)), "; about 1 s more at today's traffic");
        assert_eq!(pace.in_words(None), "", "nobody can tell how much is needed");
        assert_eq!(pace.in_words(Some(u64::MAX)), "; more than a year at today's traffic");
        // Traffic stops: after a while nothing can be told.
        (241..=1_200).for_each(|tick| pace.note(Timestamp(tick * 250), 1_200));
        assert!(pace.is_still());
        assert_eq!(pace.in_words(Some(10)), "; no traffic: cannot tell when");
        pace.note(Timestamp(301_000), 7);
        assert_eq!(pace.per_second(), None, "a count that shrinks begins anew");
    }

    #[test]
    fn marks_stay_few_and_spread() {
        let mut pace = Pace::default();
        for tick in 0..40_000_u64 {
            pace.note(Timestamp(tick * 250), tick);
            assert!(pace.marks.len() <= 3);
        }
        let span = (pace.marks[pace.marks.len() - 1].at - pace.marks[0].at).as_seconds();
        assert!((900.0..=7_200.0).contains(&span), "{span} s");
        assert!((pace.per_second().unwrap() - 4.0).abs() < 0.1);
    }
}
