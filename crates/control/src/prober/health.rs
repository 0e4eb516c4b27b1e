//! What a row of probes says of an instance.

use modelyard_core::Timestamp;
use modelyard_core::failure::Cause;
use modelyard_monitor::time::time_of_day;

use super::ask::{LIMIT, Reply};

// One lost probe is a hiccup of a loaded machine, two a coincidence.
const SILENT_LIMIT: u32 = 3;
// Twice in a row: a sample that is answered wrongly once is asked again before the instance is judged by it.
const WRONG_LIMIT: u32 = 2;

/// What a row of probes says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The last probe found it ready and right.
    pub live: bool,
    /// Probes without an answer, or without readiness, since the last good one.
    pub silent: u32,
    /// Probes with a wrong answer since the last good one.
    pub wrong: u32,
    /// When each of the last bad probes was, and what it said.
    pub trail: Vec<(Timestamp, String)>,
}

impl Health {
    /// Counts one more probe.
    pub fn count(&mut self, at: Timestamp, reply: Reply) {
        let why = match reply {
            Reply::Live => {
                *self = Self { live: true, ..Self::default() };
                return;
            }
            Reply::NotReady(why) | Reply::Silent(why) => {
                self.silent += 1;
                why
            }
            Reply::Wrong(why) => {
                self.wrong += 1;
                self.silent = 0;
                why
            }
        };
        self.live = false;
        self.trail.push((at, why));
        // The last few are evidence; the rest only says the same again.
        let surplus = self.trail.len().saturating_sub(5);
        self.trail.drain(..surplus);
    }

    /// What the row amounts to for an instance that was live before, or that never was.
    ///
    /// One that never was may be silent for as long as its start may take: that limit is the caller's.
    pub fn failure(&self, was_live: bool) -> Option<(Cause, String)> {
        let last = self.trail.last().map_or("", |(_, why)| why.as_str());
        if self.wrong >= WRONG_LIMIT {
            return Some((Cause::WrongAnswers, format!("{} probes in a row found wrong answers: {last}", self.wrong)));
        }
        if was_live && self.silent >= SILENT_LIMIT {
            let limit = LIMIT.as_secs();
            let count = self.silent;
            return Some((
                Cause::Unresponsive,
                format!("{count} probes in a row failed (limit {limit} s each): {last}"),
            ));
        }
        None
    }

    /// The last bad probes as evidence.
    pub fn evidence(&self) -> Vec<String> {
        self.trail.iter().map(|(at, why)| format!("probe at {}: {why}", time_of_day(*at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(replies: &[Reply]) -> Health {
        let mut health = Health::default();
        replies.iter().for_each(|reply| health.count(Timestamp(1), reply.clone()));
        health
    }

    #[test]
    fn a_single_bad_probe_condemns_nobody() {
        let (silent, wrong) = (Reply::Silent("gone".into()), Reply::Wrong("y".into()));
        assert_eq!(after(&[silent.clone(), silent.clone()]).failure(true), None);
        assert_eq!(after(&[wrong.clone(), Reply::Live, wrong.clone()]).failure(true), None);
        assert_eq!(after(&vec![silent.clone(); 3]).failure(true).unwrap().0, Cause::Unresponsive);
        assert_eq!(after(&vec![wrong; 2]).failure(false).unwrap().0, Cause::WrongAnswers);
        assert_eq!(after(&vec![silent; 300]).failure(false), None, "a start takes as long as it may");
    }

    #[test]
    fn a_good_probe_forgets_the_bad_ones() {
        let health = after(&[Reply::Silent("a".into()), Reply::Wrong("b".into()), Reply::Live]);
        assert_eq!(health, Health { live: true, ..Health::default() });
        assert_eq!(after(&vec![Reply::NotReady("x".into()); 9]).evidence().len(), 5);
    }
}
