//! Which events are told to a person as they come, and how they look: the sentences are those of `modelyard_monitor::narrate`.
//!
//! Absent on purpose: what repeats without news (measurements, route tables without a change of shares).

use std::collections::BTreeMap;

use modelyard_core::event::{Event, EventBody, Outcome};
use modelyard_core::{RevisionNumber, Timestamp, Weight};

use crate::terminal::Paint;

/// Tells events, and remembers what was told so that nothing is told twice.
#[derive(Debug)]
pub struct Narrator {
    paint: Paint,
    began: Option<Timestamp>,
    phase: String,
    weights: BTreeMap<RevisionNumber, Weight>,
}

impl Narrator {
    /// A narrator who has told nothing yet.
    pub const fn new(paint: Paint) -> Self {
        Self { paint, began: None, phase: String::new(), weights: BTreeMap::new() }
    }

    /// The event as a line with the time since the first one, if it is news.
    pub fn tell(&mut self, event: &Event) -> Option<String> {
        let began = *self.began.get_or_insert(event.at);
        let time = self.paint.dim(&format!("{:>6.1} s", (event.at - began).as_seconds()));
        let line = self.line(event)?;
        Some(format!("{time}  {line}"))
    }

    fn line(&mut self, event: &Event) -> Option<String> {
        let paint = self.paint;
        match &event.body {
            EventBody::Measured { .. }
            | EventBody::EvidenceSeen { .. }
            | EventBody::DesiredSet { .. }
            | EventBody::ServiceSet { .. } => None,
            // What it wants in full is in the report; a person who watches sees it in the next lines.
            EventBody::RolloutStepped { phase, .. } if *phase != self.phase => {
                phase.clone_into(&mut self.phase);
                Some(paint.candidate(phase))
            }
            EventBody::RolloutStepped { .. } => None,
            EventBody::RouteApplied { weights, .. } if *weights != self.weights => {
                weights.clone_into(&mut self.weights);
                Some(format!("traffic: {}", shares(weights)))
            }
            EventBody::RouteApplied { .. } => None,
            body => Some(tint(body, paint)(&modelyard_monitor::narrate(event))),
        }
    }
}

fn tint(body: &EventBody, paint: Paint) -> impl Fn(&str) -> String {
    let bad = |verdict: &str| verdict == "fail";
    let colour = match body {
        EventBody::Failed { .. }
        | EventBody::GatewayLost { .. }
        | EventBody::MachineLost { .. }
        | EventBody::QualityDropped { .. } => Paint::bad,
        EventBody::Verdict { verdict, .. } if bad(verdict) => Paint::bad,
        EventBody::RolloutFinished { outcome: Outcome::Promoted, .. } => Paint::good,
        EventBody::RolloutFinished { .. } => Paint::bad,
        EventBody::InstanceStarting { .. } | EventBody::InstanceDraining { .. } | EventBody::InstanceStopped { .. } => {
            Paint::dim
        }
        EventBody::Notified { why: Some(_), .. } | EventBody::Retried { .. } | EventBody::Ordered { .. } => Paint::warn,
        _ => |_: Paint, text: &str| text.to_owned(),
    };
    move |text| colour(paint, text)
}

/// Shares for people: `r1 90 %, r2 10 %`.
pub fn shares(weights: &BTreeMap<RevisionNumber, Weight>) -> String {
    if weights.is_empty() {
        return "none, nothing can serve".to_owned();
    }
    weights.iter().map(|(revision, weight)| format!("r{revision} {weight}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use modelyard_core::event::Actor;

    use super::*;

    fn event(at: u64, body: EventBody) -> Event {
        Event { seq: 1, at: Timestamp(at), service: None, rollout: None, actor: Actor::Controller, body }
    }

    #[test]
    fn the_same_shares_are_told_once() {
        let mut narrator = Narrator::new(Paint::plain());
        let weights = BTreeMap::from([(RevisionNumber(1), Weight::ALL)]);
        let applied = |generation| EventBody::RouteApplied { generation, weights: weights.clone() };
        assert_eq!(narrator.tell(&event(1_000, applied(1))).unwrap(), "   0.0 s  traffic: r1 100 %");
        assert_eq!(narrator.tell(&event(2_000, applied(2))), None);
        let live = EventBody::ControlStopped;
        assert!(narrator.tell(&event(2_500, live)).unwrap().starts_with("   1.5 s  The control plane ended"));
    }
}
