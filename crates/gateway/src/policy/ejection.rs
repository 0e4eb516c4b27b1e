//! Outlier ejection: an instance that fails in a row is left alone for a while, longer each time.
//!
//! Promises: a refused connection ejects at once; an answered request forgets; the time away grows and is bounded.
//! Absent on purpose: how many may be away at once (the chooser sees to it that somebody is left) and the clock (time is an input).

/// Failures in a row that eject.
// 5: chance makes five failures in a row of a 10 % faulty model once in 100 000 requests; a dead one shows in milliseconds.
const IN_A_ROW: u32 = 5;
/// Time away after the first ejection.
// 1 s: a restart of a small model takes about that long; probes of the control plane take over from there.
const FIRST_MS: u64 = 1_000;
/// Longest time away.
const LONGEST_MS: u64 = 30_000;

/// How an attempt ended, as far as the instance's health is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with a server error.
    Good,
    /// It answered with a server error, broke the connection, or took too long.
    Bad,
    /// Nobody listens at its address.
    Refused,
}

/// What is remembered of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    bad_in_a_row: u32,
    ejections: u32,
    away_until_ms: u64,
}

impl Health {
    /// Notes how an attempt ended at `now_ms`. Returns whether the instance was ejected by it.
    pub fn note(&mut self, outcome: Outcome, now_ms: u64) -> bool {
        match outcome {
            Outcome::Good => {
                // Answers to requests that were sent before the ejection do not end it.
                if !self.is_ejected(now_ms) {
                    *self = Self::default();
                }
                false
            }
            Outcome::Bad => {
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
                // After a time away one failure is enough: it was on trial.
                (self.bad_in_a_row >= IN_A_ROW || self.ejections > 0) && self.eject(now_ms)
            }
            Outcome::Refused => self.eject(now_ms),
        }
    }

    fn eject(&mut self, now_ms: u64) -> bool {
        if self.is_ejected(now_ms) {
            return false;
        }
        let away = FIRST_MS.saturating_mul(1 << self.ejections.min(10)).min(LONGEST_MS);
        *self = Self { bad_in_a_row: 0, ejections: self.ejections.saturating_add(1), away_until_ms: now_ms + away };
        true
    }

    /// Whether requests are kept away from it at `now_ms`.
    pub const fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.away_until_ms
    }
}

/// Whether one more of `all` instances may be ejected while `away` are: never more than half, and never the last.
pub const fn may_eject(away: usize, all: usize) -> bool {
    (away + 1) * 2 <= all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_a_row_eject_and_a_good_answer_forgets() {
        let mut health = Health::default();
        assert!(!(0..4).any(|_| health.note(Outcome::Bad, 0)));
        health.note(Outcome::Good, 0);
        assert!(!(0..4).any(|_| health.note(Outcome::Bad, 0)));
        assert!(health.note(Outcome::Bad, 0));
        assert!(health.is_ejected(FIRST_MS - 1) && !health.is_ejected(FIRST_MS));
    }

    #[test]
    fn the_time_away_grows_and_is_bounded() {
        let (mut health, mut now) = (Health::default(), 0);
        let mut times = Vec::new();
        for _ in 0..8 {
            assert!(health.note(Outcome::Refused, now));
            times.push(health.away_until_ms - now);
            now = health.away_until_ms;
        }
        assert_eq!(times, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn on_trial_one_failure_is_enough_and_one_success_clears() {
        let mut health = Health::default();
        health.note(Outcome::Refused, 0);
        assert!(health.note(Outcome::Bad, FIRST_MS));
        let back = health.away_until_ms;
        health.note(Outcome::Good, back);
        assert_eq!(health, Health { away_until_ms: 0, ..Health::default() });
    }

    #[test]
    fn answers_from_before_the_ejection_do_not_end_it() {
        let mut health = Health::default();
        health.note(Outcome::Refused, 0);
        health.note(Outcome::Good, 10);
        assert!(health.is_ejected(20));
    }

    #[test]
    fn at_most_half_and_never_the_last() {
        let most = |all| (0..all).take_while(|&away| may_eject(away, all)).count();
        assert_eq!([1, 2, 3, 4, 5].map(most), [0, 1, 1, 2, 2]);
    }
}
