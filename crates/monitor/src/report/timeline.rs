//! The timeline: every event told in a sentence.

use modelyard_core::Timestamp;
use modelyard_core::event::{Event, EventBody};

use super::facts::{Facts, actor};
use crate::narrate;

/// Most entries that are shown; of more, the first and the last.
const ENTRIES: usize = 600;

/// One line of the timeline.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub at: Timestamp,
    pub by: String,
    pub what: String,
    pub tone: Tone,
}

/// How an entry is set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Person,
}

impl Tone {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Person => "person",
        }
    }
}

pub(super) fn timeline(facts: &Facts, events: &[&Event]) -> Vec<Entry> {
    let mut phase = "";
    let mut told = Vec::new();
    for event in events {
        match &event.body {
            // Figures have charts and a table of their own.
            EventBody::Measured { .. } => continue,
            EventBody::RolloutStepped { phase: new, .. } => {
                // The state machine steps more often than its phase changes.
                if phase == new {
                    continue;
                }
                phase = new;
            }
            _ => {}
        }
        told.push(entry(event));
    }
    if told.len() <= ENTRIES {
        return told;
    }
    let left_out = told.len() - ENTRIES;
    let half = ENTRIES / 2;
    let at = told.get(half).map_or(facts.started, |entry| entry.at);
    let gap = Entry {
        at,
        by: String::new(),
        what: format!("{left_out} events are left out here; the event log has them."),
        tone: Tone::Plain,
    };
    let tail = told.split_off(told.len() - half);
    told.truncate(half);
    told.push(gap);
    told.extend(tail);
    told
}

pub(super) fn retries(events: &[&Event]) -> Vec<Entry> {
    events.iter().filter(|event| matches!(event.body, EventBody::Retried { .. })).map(|event| entry(event)).collect()
}

fn entry(event: &Event) -> Entry {
    Entry { at: event.at, by: actor(event), what: narrate(event), tone: tone(event) }
}

fn tone(event: &Event) -> Tone {
    use modelyard_core::event::Outcome;
    match &event.body {
        EventBody::Failed { .. }
        | EventBody::GatewayLost { .. }
        | EventBody::MachineLost { .. }
        | EventBody::Retried { .. } => Tone::Bad,
        EventBody::Verdict { verdict, .. } => match verdict.as_str() {
            "pass" => Tone::Good,
            "fail" => Tone::Bad,
            _ => Tone::Plain,
        },
        EventBody::RolloutFinished { outcome: Outcome::Promoted, .. } | EventBody::InstanceLive { .. } => Tone::Good,
        EventBody::RolloutFinished { outcome: Outcome::RolledBack, .. } => Tone::Bad,
        EventBody::Ordered { .. } | EventBody::ServiceSet { .. } | EventBody::RolloutFinished { .. } => Tone::Person,
        _ => Tone::Plain,
    }
}
