//! Tells web hooks what becomes of rollouts.
//!
//! Promises: nothing waits for a hook: it follows the log by itself. Each notice is tried up to [`ATTEMPTS`] times with growing pauses, and what became of it
//! is an event. After a crash what was under way is told again, with the same `seq`: at least once, never silently not at all. At most [`MOST`] notices are
//! under way; the log holds the others until there is room.
//! Absent on purpose: what is worth a notice (`Hook::on`), and answers: a hook is told, never asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::event::{Event, EventBody, Outcome};
use modelyard_core::failure::Class;
use modelyard_core::notify::{Hook, Notice, NoticeKind};
use modelyard_core::{RolloutId, ServiceName};
use modelyard_rollout::{Rollout, Waiting};
use tokio::task::JoinSet;

use crate::evidence::fetch::{host_of, tell};
use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::store::fold::ServiceState;
use crate::store::{self, Query};

/// Attempts for each notice and hook.
const ATTEMPTS: u32 = 6;
/// Pause after the first attempt; each further one is twice as long: a quarter of a minute in all.
const PAUSE: Duration = Duration::from_millis(500);
/// Notices under way at once.
const MOST: usize = 64;
/// Events that are read at once.
const PAGE: u32 = 256;
/// Where the position is kept up to which everything was told.
const CURSOR: &str = "notify/cursor";

/// Follows the log and tells.
pub struct Notifier {
    /// The log.
    pub ledger: Arc<Ledger>,
}

/// What a rollout was last told to wait for, so that each wait is told once.
type Waits = BTreeMap<ServiceName, (RolloutId, NoticeKind)>;

/// What became of telling one hook.
struct Told {
    service: ServiceName,
    body: EventBody,
}

impl Notifier {
    /// Runs until dropped.
    pub async fn run(self) {
        let mut head = self.ledger.head();
        let mut cursor = self.recall().await;
        let (mut waits, mut pending, mut under_way) = (Waits::new(), BTreeSet::new(), JoinSet::new());
        loop {
            if let Err(error) = self.read(&mut cursor, &mut waits, &mut pending, &mut under_way).await {
                tracing::error!(error = %chain(&error), "hooks cannot be told of what the log holds; tried again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                Some(told) = under_way.join_next() => self.record(told, cursor, &mut pending).await,
            }
        }
    }

    /// Where to go on; a log that no notifier has read yet begins at its end: the past is no news.
    async fn recall(&self) -> u64 {
        let kept = self.ledger.store().recall(CURSOR.to_owned()).await.ok().flatten();
        kept.and_then(|text| text.parse().ok()).unwrap_or_else(|| *self.ledger.head().borrow())
    }

    /// Takes in what is new, as far as there is room.
    async fn read(
        &self,
        cursor: &mut u64,
        waits: &mut Waits,
        pending: &mut BTreeSet<(u64, usize)>,
        under_way: &mut JoinSet<(u64, usize, Told)>,
    ) -> Result<(), store::Error> {
        while under_way.len() < MOST {
            let query = Query { after: *cursor, limit: Some(PAGE), kinds: KINDS, ..Query::default() };
            let events = self.ledger.read(query).await?;
            let Some(last) = events.last().map(|event| event.seq) else { return Ok(()) };
            for event in &events {
                let Some(name) = &event.service else { continue };
                let state = self.ledger.service(name);
                let Some(notice) = notice(event, &state, waits) else { continue };
                let hooks = state.spec.iter().flat_map(|spec| &spec.notify).enumerate();
                for (index, hook) in hooks.filter(|(_, hook)| hook.on.contains(&notice.kind)) {
                    pending.insert((event.seq, index));
                    under_way.spawn(deliver(hook.clone(), notice.clone(), index));
                }
            }
            *cursor = last;
            self.keep(*cursor, pending).await;
        }
        Ok(())
    }

    /// Writes down what became of one delivery, and how far everything was told.
    async fn record(
        &self,
        told: Result<(u64, usize, Told), tokio::task::JoinError>,
        cursor: u64,
        pending: &mut BTreeSet<(u64, usize)>,
    ) {
        let Ok((seq, index, Told { service, body })) = told else { return };
        if let Err(error) = self.ledger.note(Some(&service), vec![body]).await {
            tracing::error!(%service, error = %chain(&error), "cannot record what became of a notice");
        }
        pending.remove(&(seq, index));
        self.keep(cursor, pending).await;
    }

    async fn keep(&self, cursor: u64, pending: &BTreeSet<(u64, usize)>) {
        let safe = pending.first().map_or(cursor, |&(seq, _)| seq.saturating_sub(1).min(cursor));
        if let Err(error) = self.ledger.store().remember(CURSOR.to_owned(), safe.to_string()).await {
            tracing::warn!(error = %chain(&error), "cannot keep how far hooks were told");
        }
    }
}

/// Events that a notice may come of.
const KINDS: &[&str] = &["rollout-stepped", "quality-dropped", "rollout-finished"];

/// The notice that an event is worth, if it is.
fn notice(event: &Event, state: &ServiceState, waits: &mut Waits) -> Option<Notice> {
    let spec = state.spec.as_ref().filter(|spec| !spec.notify.is_empty())?;
    let record = event.rollout.as_ref().and_then(|id| state.rollouts.iter().find(|record| record.id == *id));
    let draft = |kind, why: String| Notice {
        version: 1,
        kind,
        seq: event.seq,
        at: event.at,
        service: state.name.clone(),
        environment: spec.environment.clone(),
        rollout: event.rollout.clone(),
        strategy: record.map(|record| record.strategy.clone()),
        revision: record.map(|record| record.to),
        stable: record.and_then(|record| record.from),
        cause: None,
        why,
        evidence: Vec::new(),
    };
    match &event.body {
        EventBody::QualityDropped { revision, cause, why, evidence } => Some(Notice {
            rollout: None,
            strategy: None,
            revision: Some(*revision),
            stable: Some(*revision),
            cause: Some(*cause),
            evidence: evidence.clone(),
            ..draft(NoticeKind::Quality, why.clone())
        }),
        EventBody::RolloutFinished { outcome, cause, failure, stable } => {
            let (kind, what) = match outcome {
                Outcome::Promoted => (NoticeKind::Promoted, "carries everything"),
                Outcome::RolledBack => (NoticeKind::RolledBack, "was taken back"),
                Outcome::Aborted => (NoticeKind::RolledBack, "was taken back by a person"),
                Outcome::Compared => return None,
            };
            let revision = record.map(|record| format!("revision {}", record.to)).unwrap_or_default();
            let why = failure.as_ref().map(|failure| format!(": {}", failure.detail)).unwrap_or_default();
            let evidence = failure.as_ref().map(|failure| failure.evidence.clone()).unwrap_or_default();
            Some(Notice { cause: *cause, stable: *stable, evidence, ..draft(kind, format!("{revision} {what}{why}")) })
        }
        EventBody::RolloutStepped { state: machine, .. } => {
            let (machine, id) = (serde_json::from_value::<Rollout>(machine.clone()).ok()?, event.rollout.clone()?);
            let Some(Waiting::Person { why }) = machine.waiting() else {
                waits.remove(&state.name);
                return None;
            };
            let failure = machine.failure().filter(|_| machine.is_held());
            let of_quality = failure.is_some_and(|failure| failure.cause.class() == Class::Quality);
            let kind = if of_quality { NoticeKind::Quality } else { NoticeKind::Waiting };
            let told = (id, kind);
            if waits.insert(state.name.clone(), told.clone()) == Some(told) {
                return None;
            }
            let evidence = failure.map(|failure| failure.evidence.clone()).unwrap_or_default();
            let (cause, revision) = (failure.map(|failure| failure.cause), Some(machine.candidate));
            Some(Notice { cause, evidence, revision, ..draft(kind, why.clone()) })
        }
        _ => None,
    }
}

/// Tells one hook, again and again for a while.
async fn deliver(hook: Hook, notice: Notice, index: usize) -> (u64, usize, Told) {
    let document = serde_json::to_value(&notice).unwrap_or_default();
    let (mut attempts, mut pause) = (0, PAUSE);
    let why = loop {
        attempts += 1;
        match tell(&hook, document.clone()).await {
            Ok(()) => break None,
            Err(untold) if untold.may_pass && attempts < ATTEMPTS => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(untold) => break Some(untold.why),
        }
    };
    let body = EventBody::Notified { kind: notice.kind, of: notice.seq, host: host_of(&hook.url), attempts, why };
    (notice.seq, index, Told { service: notice.service, body })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use modelyard_core::Timestamp;

    use super::*;

    fn a_notice() -> Notice {
        Notice {
            version: 1,
            kind: NoticeKind::Promoted,
            seq: 7,
            at: Timestamp(1),
            service: ServiceName::new("wine").unwrap(),
            environment: modelyard_core::EnvironmentName::new("dev").unwrap(),
            rollout: None,
            strategy: None,
            revision: None,
            stable: None,
            cause: None,
            why: "revision 2 carries everything".into(),
            evidence: vec![],
        }
    }

    /// A server that answers each connection with the next status, and hands out what it was sent.
    fn server(statuses: &'static [&'static str]) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret-path", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut part = [0; 4096];
                loop {
                    let read = stream.read(&mut part).unwrap();
                    request.extend_from_slice(&part[..read]);
                    let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
                    let head = text.find("\r\n\r\n");
                    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                    let whole = head
                        .zip(length)
                        .is_some_and(|(head, length)| request.len() >= head + 4 + length.parse::<usize>().unwrap());
                    if whole || read == 0 {
                        break;
                    }
                }
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                bodies.push(String::from_utf8(request).unwrap());
            }
            bodies
        });
        (url, thread)
    }

    fn hook(url: String) -> Hook {
        serde_json::from_value(serde_json::json!({ "url": url })).unwrap()
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_the_rest_is_given_up() {
        let (url, thread) = server(&["503 Service Unavailable", "429 Too Many Requests", "204 No Content"]);
        let (_, _, Told { body, .. }) = deliver(hook(url), a_notice(), 0).await;
        let EventBody::Notified { attempts, why, host, of, .. } = body else { panic!("{body:?}") };
        assert_eq!((attempts, why, host.as_str(), of), (3, None, "127.0.0.1", 7), "the path is nobody's business");
        let bodies = thread.join().unwrap();
        let document = bodies[2].split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(serde_json::from_str::<Notice>(document).unwrap(), a_notice());

        let (url, thread) = server(&["400 Bad Request"]);
        let (_, _, Told { body, .. }) = deliver(hook(url), a_notice(), 0).await;
        let EventBody::Notified { attempts: 1, why: Some(why), .. } = body else { panic!("{body:?}") };
        assert!(why.contains("answered 400") && !why.contains("secret-path"), "{why}");
        thread.join().unwrap();
    }
}
