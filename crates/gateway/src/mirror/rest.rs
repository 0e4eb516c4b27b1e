//! When an instance of a shadow is left alone: it cannot be reached, breaks off, does not answer, or answers without end.
//!
//! Promises: an instance that answers is never held back; one that does not costs a few copies, then one each time that it is tried again, at
//! growing distances of at most [`LONGEST_MS`]. Pure: times are handed in.

use std::cell::Cell;

// 100 ms at first: what is only being restarted is soon met again. 2 s at most, so that one that comes back is met while people still look.
const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 2_000;
// Three in a row: a single long answer or time-out says little. Where nobody listens, one says it all.
const IN_A_ROW: u32 = 3;

/// What became of a copy, as far as it says whether to go on asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered, whatever it was.
    Answered,
    /// It did not answer in time, broke off, or answered without end.
    Troubled,
    /// Nobody listens.
    Gone,
}

/// Whether an instance is left alone, and for how long.
#[derive(Default)]
pub struct Rest {
    troubles: Cell<u32>,
    rests: Cell<u32>,
    until_ms: Cell<u64>,
}

impl Rest {
    /// Until when it is left alone; in the past when it is not.
    pub const fn until_ms(&self) -> u64 {
        self.until_ms.get()
    }

    /// Takes note of what became of a copy.
    pub fn note(&self, sign: Sign, now_ms: u64) {
        if sign == Sign::Answered {
            self.troubles.set(0);
            return self.rests.set(0);
        }
        if self.until_ms.get() > now_ms {
            return; // a copy that was under way already
        }
        self.troubles.set(self.troubles.get().saturating_add(1));
        if sign == Sign::Gone || self.troubles.get() >= IN_A_ROW {
            self.until_ms.set(now_ms + (FIRST_MS << self.rests.get().min(10)).min(LONGEST_MS));
            self.rests.set(self.rests.get().saturating_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_asked_ever_more_rarely_and_what_answers_at_once() {
        let rest = Rest::default();
        (0..2).for_each(|_| rest.note(Sign::Troubled, 1_000));
        assert_eq!(rest.until_ms(), 0, "two say little");
        rest.note(Sign::Answered, 1_000);
        (0..70).for_each(|_| rest.note(Sign::Troubled, 1_000));
        assert_eq!(rest.until_ms(), 1_100, "copies that were under way count once");
        let mut distances = Vec::new();
        for _ in 0..6 {
            let now = rest.until_ms();
            rest.note(Sign::Troubled, now);
            distances.push(rest.until_ms() - now);
        }
        assert_eq!(distances, [200, 400, 800, 1_600, 2_000, 2_000]);
        let now = rest.until_ms();
        rest.note(Sign::Answered, now);
        rest.note(Sign::Troubled, now);
        assert_eq!(rest.until_ms(), now, "one that answers again begins anew");
        rest.note(Sign::Gone, now);
        assert_eq!(rest.until_ms(), now + 100, "where nobody listens one says it all");
    }
}
