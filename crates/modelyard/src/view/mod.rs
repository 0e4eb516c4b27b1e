//! The live view of one service: what runs, how traffic is spread, how each revision does, what happened last.
//!
//! Promises: figures are those of the last five seconds, so that a change shows at once and noise does not.

mod render;
mod window;

use std::collections::{BTreeMap, VecDeque};

use modelyard_core::event::{Event, EventBody};
use modelyard_core::measure::ServiceReport;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, RevisionNumber, RolloutId, ServiceName, Timestamp};
use modelyard_rollout::{Phase, Rollout};

use crate::api;
use crate::client::{self, Client};
use crate::narrate::Narrator;
use crate::terminal::Paint;
pub use render::{latency, lines};
pub use window::Figures;

/// Lines of the past that are kept on screen.
const RECENT: usize = 8;

/// What is seen of a service at one moment.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The service as the control plane has it.
    pub status: api::Status,
    /// How each revision does.
    pub figures: BTreeMap<RevisionNumber, Figures>,
    /// What happened last, oldest first.
    pub recent: Vec<String>,
    /// How far the rollout's present step is, 0 to 1, if it is one that takes time.
    pub progress: Option<f64>,
}

/// A service that is being looked at.
#[derive(Debug)]
pub struct Live<'a> {
    client: &'a Client,
    service: ServiceName,
    after: u64,
    window: window::Readings,
    narrator: Narrator,
    recent: VecDeque<String>,
    step: Option<Step>,
    of: Option<RolloutId>,
}

/// The step that a rollout is in, if it is one that takes time.
#[derive(Clone, Copy, Debug)]
struct Step {
    phase: Phase,
    since: Timestamp,
    takes: Millis,
}

impl<'a> Live<'a> {
    /// Looks at `service`, events after `after` only.
    pub fn new(client: &'a Client, service: ServiceName, after: u64, paint: Paint) -> Self {
        Self {
            client,
            service,
            after,
            window: window::Readings::default(),
            narrator: Narrator::new(paint),
            recent: VecDeque::new(),
            step: None,
            of: None,
        }
    }

    /// Looks at the events of one rollout only.
    pub fn of(mut self, rollout: RolloutId) -> Self {
        self.of = Some(rollout);
        self
    }

    /// The events since the last call, waited for up to `wait_ms`, with their line if they are news.
    pub fn events(&mut self, wait_ms: u64) -> Result<Vec<(Event, Option<String>)>, client::Error> {
        let of = self.of.as_ref().map_or_else(String::new, |rollout| format!("&rollout={rollout}"));
        let path = format!("/api/events?service={}{of}&after={}&wait_ms={wait_ms}", self.service, self.after);
        let events: Vec<Event> = self.client.get(&path)?;
        self.after = events.last().map_or(self.after, |event| event.seq);
        Ok(events.into_iter().map(|event| self.note(event)).collect())
    }

    fn note(&mut self, event: Event) -> (Event, Option<String>) {
        match &event.body {
            EventBody::RolloutStarted { state, .. } | EventBody::RolloutStepped { state, .. } => {
                self.enter(state, event.at);
            }
            EventBody::RolloutFinished { .. } => self.step = None,
            _ => {}
        }
        let line = self.narrator.tell(&event);
        if let Some(line) = &line {
            self.recent.push_back(line.clone());
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        (event, line)
    }

    /// The service as it is now.
    pub fn scene(&mut self) -> Result<Scene, client::Error> {
        let status: api::Status = self.client.get(&format!("/api/services/{}", self.service))?;
        // The gateway may be out of reach for a moment; figures are then those of before.
        if let Ok(report) = self.client.get::<ServiceReport>(&format!("/api/services/{}/figures", self.service)) {
            self.window.add(report);
        }
        Ok(Scene {
            status,
            figures: self.window.figures(),
            recent: self.recent.iter().cloned().collect(),
            progress: self.progress(),
        })
    }

    fn enter(&mut self, state: &serde_json::Value, at: Timestamp) {
        let Ok(rollout) = serde_json::from_value::<Rollout>(state.clone()) else { return };
        if self.step.is_some_and(|step| step.phase == rollout.phase) {
            return;
        }
        let takes = match (rollout.phase, &rollout.plan.strategy) {
            (Phase::Baking { .. }, Strategy::Canary(canary)) => Some(canary.bake),
            (Phase::Baking { .. }, Strategy::BlueGreen(blue_green)) => Some(blue_green.bake),
            (Phase::Preview, Strategy::BlueGreen(blue_green)) => Some(blue_green.preview),
            (Phase::Pausing { .. }, Strategy::Rolling(rolling)) => Some(rolling.pause),
            _ => None,
        };
        self.step = takes.filter(|takes| takes.0 > 0).map(|takes| Step { phase: rollout.phase, since: at, takes });
    }

    fn progress(&self) -> Option<f64> {
        self.step.map(|step| ((now() - step.since).as_seconds() / step.takes.as_seconds()).min(1.0))
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}
