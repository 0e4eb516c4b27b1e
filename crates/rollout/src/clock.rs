//! Time that counts towards something.
//!
//! Promises: only time between two observations counts, and of each gap at most [`LONGEST_GAP`]. A controller that was down for an hour,
//! or a clock that was set forward, has not watched anything meanwhile; neither finishes a bake or fails a start.

use modelyard_core::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// 2 s: eight looks. Longer gaps mean that nobody looked.
const LONGEST_GAP: Millis = Millis::seconds(2);

/// Time that counts towards something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clock {
    spent: Millis,
    running_since: Option<Timestamp>,
}

impl Clock {
    /// Credits the time since the observation before, if the clock ran then, and lets it run on.
    pub(crate) fn run(&mut self, now: Timestamp) {
        if let Some(last) = self.running_since {
            self.spent = Millis(self.spent.0.saturating_add((now - last).0.min(LONGEST_GAP.0)));
        }
        self.running_since = Some(now);
    }

    /// Holds the clock: the time until it runs again does not count.
    pub(crate) fn hold(&mut self) {
        self.running_since = None;
    }

    /// The time that counted so far.
    pub(crate) const fn spent(&self) -> Millis {
        self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watched_time_counts() {
        let mut clock = Clock::default();
        clock.run(Timestamp(1_000));
        clock.run(Timestamp(1_500));
        assert_eq!(clock.spent(), Millis(500));
        clock.hold();
        clock.run(Timestamp(9_000));
        assert_eq!(clock.spent(), Millis(500), "held time does not count");
        clock.run(Timestamp(9_000_000));
        assert_eq!(clock.spent(), Millis(2_500), "a gap counts as two seconds at most");
        clock.run(Timestamp(5));
        assert_eq!(clock.spent(), Millis(2_500), "a clock set back counts nothing");
    }
}
