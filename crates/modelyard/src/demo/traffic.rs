//! Held-out rows played as traffic: several callers with kept and fresh connections, every answer checked.
//!
//! Promises: a request that fails in any way is counted, with what was seen; nothing is tried again. True labels, where they are asked for,
//! are posted late and in heaps, as they come in real life.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use miette::Diagnostic;
use modelyard_core::measure::Histogram;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{Answer, Caller};

/// Callers per service: more than one per core, so that requests meet each other.
const CALLERS: u64 = 4;
/// How often each caller asks. 4 callers make 240 requests per second, which two busy cores manage with room for instances to start.
const PACE: Duration = Duration::from_micros(16_667);
/// Every so many requests a caller takes a fresh connection.
const FRESH_EVERY: u64 = 25;
/// How long after its answer the true label of a row is known.
const LABEL_DELAY: Duration = Duration::from_millis(1_500);
/// How many labels are posted at once.
const LABELS_AT_ONCE: usize = 20;

/// One held-out row.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    request: Value,
    label: Value,
}

/// Why the rows cannot be played.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("could not read the held-out rows of {path}")]
#[diagnostic(code(modelyard::demo::traffic), help("the folder `examples` must be the one of this version"))]
pub struct Error {
    path: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What callers of one revision saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers.
    pub answers: u64,
    /// Answers that named the true class.
    pub right: u64,
    /// Time from the first byte sent to the last one read.
    pub latency: Histogram,
}

/// What callers saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By revision.
    pub revisions: BTreeMap<u32, Seen>,
    /// Labels that were posted.
    pub labels: u64,
    /// Requests that failed: no answer, an error, or an answer that makes no sense.
    pub failed: u64,
    /// The first few failures, for people.
    pub failures: Vec<String>,
}

impl Tally {
    fn fail(&mut self, why: String) {
        self.failed += 1;
        if self.failures.len() < 5 {
            self.failures.push(why);
        }
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.revisions.values().map(|seen| seen.answers).sum()
    }
}

/// Traffic that is being played.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    callers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Plays the rows of `file` against `service` behind the gateway until stopped.
    /// `labels` says whether to post the true label of each answer to the service's feedback.
    pub fn play(gateway: SocketAddr, service: &str, file: &Path, labels: bool) -> Result<Self, Error> {
        let path = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|source| Error { path: path.clone(), source: source.into() })?;
        let rows: Vec<Row> =
            serde_json::from_slice(&bytes).map_err(|e| Error { path: path.clone(), source: e.into() })?;
        if rows.is_empty() {
            return Err(Error { path, source: "there are none".into() });
        }
        let rows: Arc<Vec<(Vec<u8>, Value)>> =
            Arc::new(rows.into_iter().map(|row| (row.request.to_string().into_bytes(), row.label)).collect());
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let callers = (0..CALLERS).map(|number| {
            let (rows, stop, tally) = (rows.clone(), stop.clone(), tally.clone());
            let path = format!("/v2/models/{service}/infer");
            let feedback = labels.then(|| Feedback::new(format!("/{service}/feedback")));
            std::thread::spawn(move || call(Caller::new(gateway), number, &path, &rows, feedback, &stop, &tally))
        });
        let callers = callers.collect();
        Ok(Self { stop, tally, callers })
    }

    /// What callers saw so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops and tells what callers saw.
    pub fn finish(mut self) -> Tally {
        self.halt();
        self.tally()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            let _ = caller.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.halt();
    }
}

fn call(
    mut caller: Caller,
    number: u64,
    path: &str,
    rows: &[(Vec<u8>, Value)],
    mut feedback: Option<Feedback>,
    stop: &AtomicBool,
    tally: &Mutex<Tally>,
) {
    let began = Instant::now() + PACE * u32::try_from(number).unwrap_or(0) / 4;
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Requests come when they come, however long the answers take: a pace, not a pause.
        let due = began + PACE * u32::try_from(round).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if round % FRESH_EVERY == FRESH_EVERY - 1 {
            caller.hang_up();
        }
        let (body, label) = &rows[usize::try_from(round * CALLERS + number).unwrap_or(0) % rows.len()];
        let asked = Instant::now();
        let answer = caller.post(path, body);
        let took = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        let id = answer.as_ref().ok().and_then(|answer| answer.id.clone());
        note(&mut tally.lock().unwrap_or_else(PoisonError::into_inner), answer, label, took);
        if let (Some(feedback), Some(id)) = (&mut feedback, id) {
            feedback.waiting.push_back((asked, json!({ "id": id, "label": label })));
            if let Some(posted) = feedback.post(&mut caller) {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                match posted {
                    Ok(count) => tally.labels += count,
                    Err(why) => tally.fail(format!("labels were not taken: {why}")),
                }
            }
        }
    }
}

/// True labels that are not known yet.
struct Feedback {
    path: String,
    waiting: VecDeque<(Instant, Value)>,
}

impl Feedback {
    const fn new(path: String) -> Self {
        Self { path, waiting: VecDeque::new() }
    }

    /// Posts the labels that are known by now, once there are enough.
    fn post(&mut self, caller: &mut Caller) -> Option<Result<u64, String>> {
        let known = self.waiting.iter().take_while(|(asked, _)| asked.elapsed() >= LABEL_DELAY).count();
        if known < LABELS_AT_ONCE {
            return None;
        }
        let labels: Vec<Value> = self.waiting.drain(..known).map(|(_, label)| label).collect();
        let answer = caller.post(&self.path, Value::from(labels).to_string().as_bytes());
        Some(match answer {
            Ok(answer) if answer.status == 202 => Ok(known as u64),
            Ok(answer) => Err(format!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body))),
            Err(error) => Err(error.to_string()),
        })
    }
}

fn note(tally: &mut Tally, answer: std::io::Result<Answer>, label: &Value, took_micros: u64) {
    let understood = match answer {
        Ok(answer) => understand(&answer).map(|said| (answer.revision.unwrap_or(0), said)),
        Err(error) => Err(format!("no answer: {error}")),
    };
    match understood {
        Ok((revision, said)) => {
            let seen = tally.revisions.entry(revision).or_default();
            seen.answers += 1;
            seen.right += u64::from(said == *label);
            seen.latency.record(took_micros);
        }
        Err(why) => tally.fail(why),
    }
}

/// The class that the answer names.
fn understand(answer: &Answer) -> Result<Value, String> {
    if answer.status != 200 {
        let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
        return Err(format!("status {}: {body}", answer.status));
    }
    let document: Value = serde_json::from_slice(&answer.body).map_err(|error| format!("no JSON: {error}"))?;
    let output = document["outputs"].as_array().and_then(|all| all.iter().find(|output| output["name"] == "label"));
    let class = output.and_then(|output| output["data"].get(0)).cloned();
    class.ok_or_else(|| "the answer has no output `label`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> std::io::Result<Answer> {
        Ok(Answer { status, revision: Some(2), body: body.as_bytes().to_vec(), ..Answer::default() })
    }

    #[test]
    fn right_wrong_and_failed_answers_are_told_apart() {
        let mut tally = Tally::default();
        let label = serde_json::json!(1);
        note(&mut tally, answer(200, r#"{"outputs":[{"name":"label","data":[1]}]}"#), &label, 900);
        note(&mut tally, answer(200, r#"{"outputs":[{"name":"label","data":[0]}]}"#), &label, 900);
        note(&mut tally, answer(200, "{}"), &label, 900);
        note(&mut tally, answer(503, "busy"), &label, 900);
        note(&mut tally, Err(std::io::ErrorKind::ConnectionReset.into()), &label, 900);
        let seen = &tally.revisions[&2];
        assert_eq!((seen.answers, seen.right, tally.failed), (2, 1, 3));
        assert!(tally.failures[1].contains("status 503: busy"), "{:?}", tally.failures);
    }
}
