//! What callers saw: answers, failures and latencies by revision.

use std::collections::BTreeMap;

use modelyard_core::measure::Histogram;
use serde_json::Value;

use crate::http::Answer;

/// Failures that are kept with their words.
const KEPT: usize = 5;

/// What callers of one revision saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers.
    pub answers: u64,
    /// Answers to rows whose label is known.
    pub labelled: u64,
    /// Of these, answers that named the label.
    pub right: u64,
    /// Time from when the request was due, or from its first byte if a caller was free then, to the last byte of its answer.
    pub latency: Histogram,
}

/// What callers saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By revision; 0 stands for a server that names none.
    pub revisions: BTreeMap<u32, Seen>,
    /// Labels that were posted.
    pub labels: u64,
    /// Requests that failed: no answer, an error, or an answer that makes no sense.
    pub failed: u64,
    /// The first few failures, for people.
    pub failures: Vec<String>,
    /// Requests that were sent late because every caller was busy when they were due.
    pub late: u64,
}

impl Tally {
    /// Counts a failure.
    pub fn fail(&mut self, why: String) {
        self.failed += 1;
        if self.failures.len() < KEPT {
            self.failures.push(why);
        }
    }

    /// Counts an answer, or why there is none.
    pub fn note(&mut self, answer: std::io::Result<Answer>, label: Option<&Value>, took_micros: u64) {
        let understood = match answer {
            Ok(answer) => understand(&answer, label).map(|right| (answer.revision.unwrap_or(0), right)),
            Err(error) => Err(format!("no answer: {error}")),
        };
        match understood {
            Ok((revision, right)) => {
                let seen = self.revisions.entry(revision).or_default();
                seen.answers += 1;
                seen.labelled += u64::from(right.is_some());
                seen.right += u64::from(right == Some(true));
                seen.latency.record(took_micros);
            }
            Err(why) => self.fail(why),
        }
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.revisions.values().map(|seen| seen.answers).sum()
    }

    /// Latencies of all revisions together.
    pub fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        self.revisions.values().for_each(|seen| all.add(&seen.latency));
        all
    }
}

/// Whether the answer names the label, if there is one.
fn understand(answer: &Answer, label: Option<&Value>) -> Result<Option<bool>, String> {
    if !(200..300).contains(&answer.status) {
        let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
        return Err(format!("status {}: {body}", answer.status));
    }
    let Some(label) = label else { return Ok(None) };
    let document: Value = serde_json::from_slice(&answer.body).map_err(|error| format!("no JSON: {error}"))?;
    let outputs = document["outputs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = outputs.iter().find(|output| output["name"] == "label").or(match outputs {
        [only] => Some(only),
        _ => None,
    });
    let class = named.and_then(|output| output["data"].get(0));
    class.map(|class| Some(class == label)).ok_or_else(|| "the answer has no output `label`".to_owned())
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
        tally.note(answer(200, r#"{"outputs":[{"name":"label","data":[1]}]}"#), Some(&label), 900);
        tally.note(answer(200, r#"{"outputs":[{"name":"label","data":[0]}]}"#), Some(&label), 900);
        tally.note(answer(200, "anything"), None, 900);
        tally.note(answer(200, "{}"), Some(&label), 900);
        tally.note(answer(503, "busy"), Some(&label), 900);
        tally.note(Err(std::io::ErrorKind::ConnectionReset.into()), Some(&label), 900);
        let seen = &tally.revisions[&2];
        assert_eq!((seen.answers, seen.labelled, seen.right, tally.failed), (3, 2, 1, 3));
        assert!(tally.failures[1].contains("status 503: busy"), "{:?}", tally.failures);
        assert_eq!((tally.answered(), tally.latency().count()), (3, 3));
    }
}
