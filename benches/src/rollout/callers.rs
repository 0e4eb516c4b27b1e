//! Callers during a rollout: kept connections at a steady rate, every answer noted with its revision and its moments.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bytes::Bytes;

use crate::http1::Request;
use crate::options::bodies;
use crate::process::read_answer;

const CALLERS: usize = 4;

/// One good answer. Times in milliseconds since 1970, as the event log has them.
pub struct Answered {
    /// Which revision answered.
    pub revision: u32,
    /// When the request was sent.
    pub began_ms: f64,
    /// When the whole answer was there.
    pub ended_ms: f64,
}

/// What all callers saw.
#[derive(Default)]
pub struct Seen {
    /// Good answers.
    pub answers: Vec<Answered>,
    /// Everything else.
    pub failed: u64,
}

/// Callers at work.
pub struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Callers {
    /// Starts to send the example's held-out rows to `service`.
    pub fn start(gateway: SocketAddr, service: &str, rate: f64) -> Result<Self> {
        let file = super::world::example(&format!("{service}/traffic.json"));
        let rows = std::fs::read(&file).with_context(|| format!("could not read {file}"))?;
        let path = format!("/v2/models/{service}/infer");
        let encode = |body| Request::json(&path, body).encode(&gateway.to_string(), false);
        let requests: Arc<[Bytes]> = bodies(&rows).into_iter().map(encode).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs_f64(CALLERS as f64 / rate);
        let caller = |number| {
            let (stop, requests) = (stop.clone(), requests.clone());
            std::thread::spawn(move || call(gateway, &requests, number, every, &stop))
        };
        Ok(Self { threads: (0..CALLERS).map(caller).collect(), stop })
    }

    /// Ends the calls; what was seen.
    pub fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
            all.failed += seen.failed;
            all.answers.extend(seen.answers);
        }
        Ok(all)
    }
}

fn call(gateway: SocketAddr, requests: &[Bytes], number: usize, every: Duration, stop: &AtomicBool) -> Seen {
    let (mut seen, mut stream, mut due) = (Seen::default(), None, Instant::now());
    for request in requests.iter().cycle().skip(number * requests.len() / CALLERS) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += every;
        let began_ms = now_ms();
        match exchange(gateway, &mut stream, request) {
            Ok(revision) => seen.answers.push(Answered { revision, began_ms, ended_ms: now_ms() }),
            Err(error) => {
                eprintln!("a request failed: {error:#}");
                seen.failed += 1;
                stream = None;
            }
        }
    }
    seen
}

/// Sends one request; the revision that answered it.
fn exchange(gateway: SocketAddr, stream: &mut Option<TcpStream>, request: &[u8]) -> Result<u32> {
    if stream.is_none() {
        let fresh = TcpStream::connect(gateway)?;
        fresh.set_nodelay(true)?;
        fresh.set_read_timeout(Some(Duration::from_secs(30)))?;
        *stream = Some(fresh);
    }
    let connection = stream.as_mut().context("there is no connection")?;
    connection.write_all(request)?;
    let (answer, buffer) = read_answer(connection)?;
    if answer.close {
        *stream = None;
    }
    let head = String::from_utf8_lossy(&buffer[..answer.body_at]).to_ascii_lowercase();
    anyhow::ensure!(
        answer.status == 200,
        "status {}: {}",
        answer.status,
        String::from_utf8_lossy(&answer.body(&buffer))
    );
    let line = head.lines().find_map(|line| line.strip_prefix("modelyard-revision:"));
    line.and_then(|value| value.trim().trim_start_matches('r').parse().ok()).context("the answer names no revision")
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
