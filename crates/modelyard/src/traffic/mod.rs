//! Traffic that we make: rows played against a service by several callers, every answer checked.
//!
//! Promises: a request that fails in any way is counted, with what was seen; nothing is tried again. At a rate, requests come when they
//! come, however long the answers take (open loop): one that had to wait for a free caller counts from when it was due.
//! True labels, where they are asked for, are posted late and in heaps, as they come in real life.
//!
//! Source of the rule for late requests: G. Tene, "How NOT to Measure Latency" (coordinated omission).

pub mod alone;
mod rows;
mod tally;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Answer, Caller};

pub use rows::{Error, Row, of_samples, read};
pub use tally::{Seen, Tally};

/// How long after its answer the true label of a row is known.
const LABEL_DELAY: Duration = Duration::from_millis(1_500);
/// How many labels are posted at once.
const LABELS_AT_ONCE: usize = 20;
/// A request sent later than this had to wait for a caller; anything less is how late a thread wakes.
const LATE: Duration = Duration::from_millis(2);

/// What is played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub address: SocketAddr,
    /// Where rows are posted that name no place.
    pub path: String,
    /// What stands before the place of rows that name one.
    pub prefix: String,
    /// What is asked, over and over.
    pub rows: Arc<[Row]>,
    /// Callers, each with a connection of its own.
    pub callers: u32,
    /// Requests per second of all callers together; none: as fast as answers come.
    pub rate: Option<f64>,
    /// No request is due later than this.
    pub span: Option<Duration>,
    /// Requests in all.
    pub requests: Option<u64>,
    /// Every so many requests a caller takes a fresh connection; none: connections are kept.
    pub fresh_every: Option<u64>,
    /// Where the true labels of answers are posted.
    pub feedback: Option<String>,
}

/// Traffic that is being played.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    began: Instant,
    alive: Receiver<()>,
    callers: Vec<JoinHandle<()>>,
}

/// What all callers share.
struct Shared {
    plan: Plan,
    began: Instant,
    next: AtomicU64,
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
}

impl Traffic {
    /// Plays until stopped, or until the plan is done.
    pub fn play(plan: Plan) -> Self {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let (began, count) = (Instant::now(), plan.callers.max(1));
        let shared =
            Arc::new(Shared { plan, began, next: AtomicU64::new(0), stop: stop.clone(), tally: tally.clone() });
        // Nothing is ever sent: the channel is closed once the last caller has gone.
        let (last, alive) = channel();
        let callers = (0..count).map(|_| {
            let (shared, last): (Arc<Shared>, Sender<()>) = (shared.clone(), last.clone());
            std::thread::spawn(move || {
                shared.call();
                drop(last);
            })
        });
        Self { stop, tally, began, alive, callers: callers.collect() }
    }

    /// What callers saw so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits at most `span` for the end; whether it has come.
    pub fn wait(&self, span: Duration) -> bool {
        matches!(self.alive.recv_timeout(span), Err(RecvTimeoutError::Disconnected))
    }

    /// Time since the first request was due.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
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

impl Shared {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next request and when it is due; `None` when there is none.
    fn take(&self) -> Option<(u64, Option<Instant>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.plan.rate.map(|rate| Duration::from_secs_f64(number as f64 / rate));
        let is_over = self.plan.requests.is_some_and(|most| number >= most)
            || self.plan.span.is_some_and(|span| due.unwrap_or_else(|| self.began.elapsed()) >= span);
        (!is_over).then(|| (number, due.map(|due| self.began + due)))
    }

    /// Sleeps until `due`; whether nobody asked to stop meanwhile.
    fn sleep(&self, due: Instant) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// One caller, until there is nothing left to ask.
    fn call(&self) {
        let plan = &self.plan;
        let mut caller = Caller::new(plan.address);
        let mut feedback = plan.feedback.as_deref().map(Feedback::new);
        let mut asked_before = 0_u64;
        while let Some((number, due)) = self.take() {
            let now = Instant::now();
            let waits = due.is_some_and(|due| due > now);
            if !self.sleep(due.unwrap_or(now)) {
                return;
            }
            asked_before += 1;
            if plan.fresh_every.is_some_and(|every| asked_before.is_multiple_of(every)) {
                caller.hang_up();
            }
            let row = &plan.rows[usize::try_from(number % plan.rows.len() as u64).unwrap_or(0)];
            let path = row.path.as_ref().map(|path| format!("{}{path}", plan.prefix));
            let asked = Instant::now();
            let answer = caller.post(path.as_deref().unwrap_or(&plan.path), &row.body);
            let from = due.filter(|_| !waits).unwrap_or(asked);
            let took = u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX);
            let id = answer.as_ref().ok().and_then(|answer: &Answer| answer.id.clone());
            {
                let mut tally = self.tally();
                tally.late += u64::from(!waits && asked.saturating_duration_since(from) > LATE);
                tally.note(answer, row.label.as_ref(), took);
            }
            if let (Some(feedback), Some(id), Some(label)) = (&mut feedback, id, &row.label) {
                feedback.waiting.push_back((asked, json!({ "id": id, "label": label })));
                self.post(feedback, &mut caller);
            }
        }
        if let Some(feedback) = &mut feedback {
            // What is known late is still known.
            while !feedback.waiting.is_empty() && self.sleep(Instant::now() + LABEL_DELAY) {
                self.note(feedback.post(&mut caller, 1));
            }
        }
    }

    fn post(&self, feedback: &mut Feedback<'_>, caller: &mut Caller) {
        self.note(feedback.post(caller, LABELS_AT_ONCE));
    }

    fn note(&self, posted: Option<Result<u64, String>>) {
        match posted {
            Some(Ok(count)) => self.tally().labels += count,
            Some(Err(why)) => self.tally().fail(format!("labels were not taken: {why}")),
            None => {}
        }
    }
}

/// True labels that are not known yet.
struct Feedback<'a> {
    path: &'a str,
    waiting: VecDeque<(Instant, Value)>,
}

impl<'a> Feedback<'a> {
    const fn new(path: &'a str) -> Self {
        Self { path, waiting: VecDeque::new() }
    }

    /// Posts the labels that are known by now, once there are at least `least`.
    fn post(&mut self, caller: &mut Caller, least: usize) -> Option<Result<u64, String>> {
        let known = self.waiting.iter().take_while(|(asked, _)| asked.elapsed() >= LABEL_DELAY).count();
        if known < least {
            return None;
        }
        let labels: Vec<Value> = self.waiting.drain(..known).map(|(_, label)| label).collect();
        let answer = caller.post(self.path, Value::from(labels).to_string().as_bytes());
        Some(match answer {
            Ok(answer) if answer.status == 202 => Ok(known as u64),
            Ok(answer) => Err(format!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body))),
            Err(error) => Err(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A server that answers every request after `delay`, one connection after another.
    fn server(delay: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).is_ok_and(|read| read > 0) {
                        std::thread::sleep(delay);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn plan(address: SocketAddr) -> Plan {
        Plan {
            address,
            path: "/v2/models/wine/infer".to_owned(),
            prefix: String::new(),
            rows: vec![Row { path: None, body: b"{}".to_vec(), label: None }].into(),
            callers: 2,
            rate: Some(200.0),
            span: None,
            requests: Some(60),
            fresh_every: Some(7),
            feedback: None,
        }
    }

    fn done(traffic: Traffic) -> (Tally, Duration) {
        assert!(traffic.wait(Duration::from_secs(60)), "the plan ends by itself");
        let elapsed = traffic.elapsed();
        (traffic.finish(), elapsed)
    }

    #[test]
    fn a_rate_is_kept_and_the_plan_ends_by_itself() {
        let (tally, elapsed) = done(Traffic::play(plan(server(Duration::ZERO))));
        assert_eq!((tally.answered(), tally.failed), (60, 0));
        assert!(elapsed >= Duration::from_millis(290), "60 requests at 200 per second take 0.3 s: {elapsed:?}");
        let span = Plan { requests: None, span: Some(Duration::from_millis(100)), ..plan(server(Duration::ZERO)) };
        assert_eq!(done(Traffic::play(span)).0.answered(), 20, "what is due within 0.1 s, and no more");
    }

    #[test]
    fn a_request_that_waited_for_a_caller_counts_from_when_it_was_due() {
        // One caller and 20 ms an answer: at 200 per second each request is 15 ms later than the one before.
        let slow = Plan { callers: 1, requests: Some(20), ..plan(server(Duration::from_millis(20))) };
        let (tally, _) = done(Traffic::play(slow));
        assert!(tally.latency().quantile(0.99).unwrap() > 200_000.0, "the last one is about 285 ms late");
        assert!(tally.late >= 15, "{}", tally.late);
        let free = Plan { rate: None, callers: 1, requests: Some(5), ..plan(server(Duration::from_millis(20))) };
        let (tally, _) = done(Traffic::play(free));
        assert_eq!(tally.late, 0, "without a rate nothing is due");
    }

    #[test]
    fn nobody_there_is_a_failure_for_each_request() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (tally, _) = done(Traffic::play(Plan { requests: Some(3), ..plan(closed) }));
        assert_eq!((tally.answered(), tally.failed, tally.failures.len()), (0, 3, 3));
    }
}
