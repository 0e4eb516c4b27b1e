//! Following a rollout to its end: events are told as they come, the end is an exit code.
//!
//! Promises: waits on the log (a long poll), never on a clock; a control plane that restarts meanwhile is waited for.

use std::time::{Duration, Instant};

use modelyard_core::RolloutId;
use modelyard_core::event::Event;
use serde_json::Value;

use crate::api::{RolloutEnd, waits};
use crate::client::{self, Client};
use crate::exit::{Exit, Failed};
use crate::narrate::Narrator;

/// How long one long poll waits for news, in milliseconds. Short enough to notice that a person is waited for.
const POLL_MS: u64 = 1_000;
/// How long a control plane may be out of reach before following gives up: a restart takes about a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a wait that goes on is told again, when its figures moved.
const REMIND: Duration = Duration::from_secs(15);

/// A rollout that is being followed.
#[derive(Debug)]
pub struct Follower<'a> {
    client: &'a Client,
    rollout: RolloutId,
    after: u64,
    lost: Option<Instant>,
}

impl<'a> Follower<'a> {
    /// Follows from the rollout's first event.
    pub fn new(client: &'a Client, rollout: RolloutId) -> Self {
        Self { client, rollout, after: 0, lost: None }
    }

    /// The next events; an empty list when nothing happened for `wait_ms`.
    ///
    /// # Errors
    /// The last error, once the control plane was out of reach for [`PATIENCE`].
    pub fn next(&mut self, wait_ms: u64) -> Result<Vec<Event>, client::Error> {
        let path = format!("/api/events?rollout={}&after={}&wait_ms={wait_ms}", self.rollout, self.after);
        match self.client.get::<Vec<Event>>(&path) {
            Ok(events) => {
                self.lost = None;
                self.after = events.last().map_or(self.after, |event| event.seq);
                Ok(events)
            }
            Err(error @ client::Error::Unreachable { .. }) => {
                if self.lost.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(error);
                }
                // Not a wait for a condition: the pace of reconnecting.
                std::thread::park_timeout(Duration::from_millis(100));
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Where the rollout stands: the document as it came, and what this program reads of it.
    pub fn stands(&self) -> Result<(Value, RolloutEnd), client::Error> {
        let document: Value = self.client.get(&format!("/api/rollouts/{}", self.rollout))?;
        let end = serde_json::from_value(document.clone()).map_err(|source| client::Error::Garbled {
            base: self.client.base().to_owned(),
            path: format!("/api/rollouts/{}", self.rollout),
            source,
        })?;
        Ok((document, end))
    }

    /// Follows until the rollout ends or waits for a person, handing each event, and where it stands meanwhile, to `tell`.
    pub fn until_end(
        &mut self,
        timeout: Option<Duration>,
        mut tell: impl FnMut(Seen<'_>),
    ) -> miette::Result<(Value, RolloutEnd)> {
        let started = Instant::now();
        loop {
            self.next(POLL_MS)?.iter().for_each(|event| tell(Seen::Event(event)));
            match self.stands() {
                Ok((document, end)) if end.outcome != "running" => {
                    self.next(0)?.iter().for_each(|event| tell(Seen::Event(event)));
                    return Ok((document, end));
                }
                Ok((_, end)) if timeout.is_some_and(|timeout| started.elapsed() > timeout) => {
                    return Err(late(&end, started.elapsed()).into());
                }
                Ok((_, end)) => tell(Seen::Stands(&end)),
                Err(client::Error::Unreachable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What is seen of a rollout that is being followed.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// Something happened.
    Event(&'a Event),
    /// Where it stands.
    Stands(&'a RolloutEnd),
}

/// Tells why a rollout waits: when the reason is another one, and now and then when only its figures moved.
#[derive(Debug, Default)]
struct Waits {
    told: Option<(String, String, Instant)>,
}

impl Waits {
    fn news(&mut self, end: &RolloutEnd) -> Option<String> {
        let waiting = end.waiting.as_ref()?;
        // The others are told by events, and are over in a moment.
        let kind = waiting.get("for")?.as_str().filter(|kind| ["evidence", "gateway"].contains(kind))?;
        let (phase, why) = (format!("{kind} {}", end.phase.as_deref().unwrap_or_default()), waits(Some(waiting))?);
        let is_known = self
            .told
            .as_ref()
            .is_some_and(|(told, text, at)| *told == phase && (*text == why || at.elapsed() < REMIND));
        if is_known {
            return None;
        }
        // What a person can do is said once.
        let way_out = match self.told {
            None => format!(" (`modelyard promote {}` goes on without)", end.service),
            Some(_) => String::new(),
        };
        self.told = Some((phase, why.clone(), Instant::now()));
        Some(why + &way_out)
    }
}

fn late(end: &RolloutEnd, after: Duration) -> Failed {
    let phase = end.phase.clone().unwrap_or_else(|| "in an unknown phase".to_owned());
    let service = &end.service;
    let why = waits(end.waiting.as_ref()).map_or_else(String::new, |why| format!("; {why}"));
    Failed::new(
        format!("the rollout of `{service}` had not ended after {:.0} s: {phase}{why}", after.as_secs_f64()),
        format!("it goes on; see it with `modelyard watch {service}`, end it with `modelyard abort {service}`"),
    )
}

/// Follows a rollout on stderr until it ends or waits for a person.
pub fn narrated(client: &Client, rollout: RolloutId, timeout: Option<Duration>) -> miette::Result<(Value, RolloutEnd)> {
    let paint = crate::terminal::Paint::stderr();
    let (mut narrator, mut waits) = (Narrator::new(paint), Waits::default());
    Follower::new(client, rollout).until_end(timeout, |seen| {
        let line = match seen {
            Seen::Event(event) => narrator.tell(event),
            Seen::Stands(end) => waits.news(end).map(|why| paint.dim(&format!("          waits: {why}"))),
        };
        line.iter().for_each(|line| crate::terminal::say(line));
    })
}

/// The exit code of a rollout that ended so.
pub fn exit_of(end: &RolloutEnd) -> Exit {
    match end.outcome.as_str() {
        "rolled-back" | "aborted" => Exit::RolledBack,
        "waiting" => Exit::Waiting,
        _ => Exit::Done,
    }
}

/// The end of a rollout for people.
pub fn end_text(end: &RolloutEnd, paint: crate::terminal::Paint) -> String {
    let name = end.rollout.as_ref().map_or_else(|| end.service.to_string(), ToString::to_string);
    let outcome = match end.outcome.as_str() {
        "promoted" => paint.good("promoted"),
        "rolled-back" | "aborted" => paint.bad(&end.outcome),
        other => paint.warn(other),
    };
    let mut text = format!("{} {outcome}", paint.bold(&name));
    if let Some(cause) = end.cause {
        text.push_str(&format!(" ({cause}, {})", cause.class()));
    }
    for line in end.evidence_lines() {
        text.push_str(&format!("\n  {line}"));
    }
    if let Some(why) = waits(end.waiting.as_ref()) {
        text.push_str(&format!("\n  {why}"));
    }
    if let (Some(preview), "waiting") = (&end.preview, end.outcome.as_str()) {
        text.push_str(&format!("\n  preview  {preview}"));
    }
    text
}
