//! The tap's thread: lines into spools, many at a time.
//!
//! Promises: everything that waits is taken at once and written per service in one write; feedback of that time shares one flush of the disk.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use modelyard_core::ServiceName;
use modelyard_core::mirror::{Told, ToldAnswer, ToldFeedback};
use tokio::sync::oneshot;

use super::spool::{AGE, Spool, finish_leftovers};
use super::{Answer, Counts, Message, NotKept, Route};

/// Messages that are taken before anything is written.
const BATCH: usize = 256;
// 10 s: what a dead predecessor left is of no hurry.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// Writes until all senders are gone.
pub fn run(folder: PathBuf, messages: &Receiver<Message>, waiting: &AtomicUsize) {
    let mut writer = Writer { folder, services: HashMap::new() };
    let mut looked = Instant::now();
    finish_leftovers(&writer.folder);
    loop {
        let patience = if writer.turn() { AGE / 4 } else { LEFTOVERS };
        match messages.recv_timeout(patience) {
            Ok(message) => {
                writer.take(message, waiting);
                messages.try_iter().take(BATCH).for_each(|message| writer.take(message, waiting));
                writer.write();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if looked.elapsed() >= LEFTOVERS {
            looked = Instant::now();
            finish_leftovers(&writer.folder);
        }
    }
    writer.services.values_mut().for_each(|service| service.spool.finish());
}

struct Writer {
    folder: PathBuf,
    services: HashMap<ServiceName, Service>,
}

/// A service's spool and what is to be written to it.
struct Service {
    spool: Spool,
    counts: Arc<Counts>,
    /// Answers' lines.
    lines: Vec<u8>,
    count: u64,
    /// Who waits for feedback to be on the disk.
    acknowledge: Vec<oneshot::Sender<Result<(), NotKept>>>,
    /// Whether the last write failed: told once, not per line.
    is_failing: bool,
}

impl Writer {
    fn service(&mut self, route: &Route) -> &mut Service {
        let folder = &self.folder;
        self.services.entry(route.service.clone()).or_insert_with(|| Service {
            spool: Spool::new(folder.join(route.service.as_str())),
            counts: route.counts.clone(),
            lines: Vec::new(),
            count: 0,
            acknowledge: Vec::new(),
            is_failing: false,
        })
    }

    fn take(&mut self, message: Message, waiting: &AtomicUsize) {
        match message {
            Message::Answer(route, answer) => {
                waiting.fetch_sub(answer.bytes(), Ordering::Relaxed);
                let service = self.service(&route);
                service.counts = route.counts.clone();
                service.answer(&route, &answer);
            }
            Message::Feedback(route, feedback, done) => {
                let service = self.service(&route);
                service.counts = route.counts.clone();
                service.feedback(&route, feedback, done);
            }
        }
    }

    fn write(&mut self) {
        self.services.values_mut().for_each(Service::write);
    }

    /// Completes segments whose time has come. Returns whether any is open.
    fn turn(&mut self) -> bool {
        self.services.retain(|_, service| service.spool.turn() || service.is_failing || service.counts_are_used());
        self.services.values_mut().any(|service| service.spool.turn())
    }
}

impl Service {
    /// Whether the service is still in the table: then its counts are known elsewhere as well.
    fn counts_are_used(&self) -> bool {
        Arc::strong_count(&self.counts) > 1
    }

    fn answer(&mut self, route: &Route, answer: &Answer) {
        let Ok(mut line) = serde_json::to_vec(&Told::Answer(Box::new(told(route, answer)))) else {
            return self.counts.shed(1); // cannot be: texts and numbers have a form
        };
        line.push(b'\n');
        let more = (self.lines.len() + line.len()) as u64;
        if self.spool.has_room(more, route.rule.limit_bytes) {
            self.lines.extend_from_slice(&line);
            self.count += 1;
        } else {
            self.counts.shed(1);
        }
    }

    fn feedback(&mut self, route: &Route, feedback: Vec<ToldFeedback>, done: oneshot::Sender<Result<(), NotKept>>) {
        let (mut lines, count) = (Vec::new(), feedback.len() as u64);
        for item in feedback {
            if let Err(error) = serde_json::to_writer(&mut lines, &Told::Feedback(item)) {
                let _ = done.send(Err(NotKept::Disk(error.to_string())));
                return;
            }
            lines.push(b'\n');
        }
        let more = (self.lines.len() + lines.len()) as u64;
        let kept = match self.spool.has_room(more, route.rule.limit_bytes) {
            true => self.spool.append(&lines).map_err(|error| NotKept::Disk(error.to_string())),
            false => Err(NotKept::Full),
        };
        match kept {
            Ok(()) => {
                self.counts.told(count);
                self.acknowledge.push(done);
            }
            Err(why) => {
                self.counts.shed(count);
                let _ = done.send(Err(why)); // who no longer waits does not mind
            }
        }
    }

    fn write(&mut self) {
        if !self.lines.is_empty() {
            let written = self.spool.append(&self.lines);
            let count = std::mem::take(&mut self.count);
            self.lines.clear();
            match &written {
                Ok(()) => self.counts.told(count),
                Err(error) => {
                    self.counts.shed(count);
                    if !self.is_failing {
                        tracing::warn!(%error, "the tap cannot write; what is not written is counted as shed");
                    }
                }
            }
            self.is_failing = written.is_err();
        }
        if !self.acknowledge.is_empty() {
            let synced = self.spool.sync().map_err(|error| NotKept::Disk(error.to_string()));
            for done in self.acknowledge.drain(..) {
                let _ = done.send(synced.clone());
            }
        }
    }
}

fn told(route: &Route, answer: &Answer) -> ToldAnswer {
    let fitting = |body: &Option<Bytes>, limit: u64| {
        body.as_ref().filter(|body| body.len() as u64 <= limit).map(|body| STANDARD.encode(body))
    };
    let length = |body: &Option<Bytes>| body.as_ref().map(|body| body.len() as u64);
    let digits = answer.session.map(|session| session.digits());
    ToldAnswer {
        id: answer.id.clone(),
        at_ms: answer.at_ms,
        revision: answer.revision,
        shadow: answer.shadow,
        unit: digits.map(|digits| digits.iter().copied().map(char::from).collect()),
        status: answer.said.told_status(),
        micros: answer.micros,
        path: answer.path.clone(),
        content_type: answer.said.content_type.clone(),
        header_length: answer.said.header_length,
        request_bytes: length(&answer.request),
        response_bytes: length(&answer.said.body),
        // A limit of 0 asks for no requests, not even for empty ones.
        request: if route.rule.body_bytes == 0 { None } else { fitting(&answer.request, route.rule.body_bytes) },
        response: fitting(&answer.said.body, route.response_bytes()),
    }
}
