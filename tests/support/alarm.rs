//! The fixture `threshold`, a service whose right answers are known: a mean above the flag `threshold` (0.5 by default) is an alarm.
//!
//! Two values of the flag are two models of known quality: of means drawn evenly between 0 and 1, thresholds 0.2 apart answer a fifth differently.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::World;

/// Where a fixture lies.
pub fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    folder.canonicalize().unwrap().display().to_string()
}

/// An answer as its caller sees it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who answered.
    pub revision: u32,
    /// The request's id.
    pub id: String,
    /// Mean of what was asked.
    pub mean: f64,
    /// What was answered.
    pub label: i64,
}

/// The `n`th mean of a sequence that covers 0 to 1 evenly however short it is cut (van der Corput, base 2), off the thresholds.
pub fn mean(n: u32) -> f64 {
    (f64::from(n.reverse_bits()) / f64::from(u32::MAX)).mul_add(0.98, 0.011)
}

/// Asks once; a session is named by the application's cookie.
pub fn ask(gateway: SocketAddr, mean: f64, session: Option<&str>) -> Result<Answer, String> {
    let body =
        json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [mean, mean, mean, mean]}]});
    let mut request = ureq::post(format!("http://{gateway}/v2/models/alarm/infer"));
    if let Some(session) = session {
        request = request.header("cookie", format!("theme=dark; sid={session}"));
    }
    let mut answer = request.send_json(body).map_err(|error| error.to_string())?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let revision = header("modelyard-revision").and_then(|text| text.parse().ok()).ok_or("no revision")?;
    let id = header("x-request-id").ok_or("no request id")?;
    let document: Value = answer.body_mut().read_json().map_err(|error| error.to_string())?;
    let outputs = document["outputs"].as_array().ok_or("no outputs")?;
    let label = outputs.iter().find(|output| output["name"] == "label").and_then(|output| output["data"][0].as_i64());
    Ok(Answer { revision, id, mean, label: label.ok_or("no label")? })
}

/// Callers that ask, and say what would have been right, until they are told to stop.
pub struct Callers {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Answer>>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Callers {
    /// Asks again and again; with a threshold, posts whether the mean was above it as the true label. `moved` shapes the means.
    pub fn start(world: &World, truth: Option<f64>, moved: fn(f64) -> f64) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (gateway, stopped, answers) = (world.gateway, stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let answer = ask(gateway, moved(mean(n)), None)?;
                if let Some(threshold) = truth {
                    let label = json!({"id": answer.id, "label": i64::from(answer.mean > threshold)});
                    let url = format!("http://{gateway}/alarm/feedback");
                    ureq::post(url).send_json(label).map_err(|error| format!("feedback: {error}"))?;
                }
                answers.lock().unwrap().push(answer);
            }
            Ok(())
        });
        Self { stop, seen, thread: Some(thread) }
    }

    /// How many were answered so far.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Waits for `more` further answers.
    #[track_caller]
    pub fn flow(&self, more: usize) {
        let from = self.count();
        super::until("callers are answered", 60, || match self.count() {
            count if count >= from + more => Ok(()),
            count => Err(count),
        });
    }

    /// Stops; every answer. Panics if a request failed.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join().unwrap();
        ended.unwrap_or_else(|error| panic!("a request failed after {} answers: {error}", self.count()));
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A `service.toml` of the fixture with further keys; its path.
pub fn service(world: &World, rules: &str) -> String {
    let path = world.scratch("alarm").join("service.toml");
    let text = format!(
        "name = \"alarm\"\npackage = {:?}\n\n[analysis]\nmin-requests = 10\nwindow = \"2s\"\n\n[routing]\ndrain = \"5s\"\n\n{rules}",
        fixture("threshold")
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
