//! The load generator: keep-alive or fresh connections, as fast as they go or at a set rate.
//!
//! Promises: with a rate, a latency counts from the moment at which the request was due, so a stalled server cannot hide its stall
//! (no coordinated omission). Every request that does not end in a 2xx answer is counted as a failure of a named kind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::histogram::Histogram;
use crate::http1::{self, Request};

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// After this time, warm-up not counted.
    After(Duration),
    /// After this many requests, those of the warm-up included.
    Count(u64),
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub address: SocketAddr,
    /// Requests, sent in turn by each connection.
    pub requests: Vec<Request>,
    /// Connections at once.
    pub connections: usize,
    /// A new connection for each request.
    pub fresh: bool,
    /// When it ends.
    pub stop: Stop,
    /// Requests per second over all connections; none sends the next one when the last was answered.
    pub rate: Option<f64>,
    /// Time at the start that is not counted.
    pub warm_up: Duration,
    /// A request may take this long.
    pub timeout: Duration,
}

impl Plan {
    /// Closed loop on kept connections for `seconds` after a fifth of that as warm-up.
    pub fn steady(address: SocketAddr, requests: Vec<Request>, connections: usize, seconds: f64) -> Self {
        Self {
            address,
            requests,
            connections,
            fresh: false,
            stop: Stop::After(Duration::from_secs_f64(seconds)),
            rate: None,
            warm_up: Duration::from_secs_f64(seconds / 5.0),
            timeout: Duration::from_secs(30),
        }
    }
}

/// What a run measured. Latencies in µs.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Answered requests that were counted.
    pub requests: u64,
    /// Time over which they were counted, in seconds.
    pub seconds: f64,
    /// Answered requests per second.
    pub per_second: f64,
    /// Mean latency.
    pub mean_micros: f64,
    /// Median latency.
    pub p50_micros: f64,
    /// 90th percentile.
    pub p90_micros: f64,
    /// 99th percentile.
    pub p99_micros: f64,
    /// Largest latency.
    pub max_micros: f64,
    /// Requests that failed, by kind; warm-up included.
    pub failures: BTreeMap<String, u64>,
}

impl Summary {
    /// How many requests failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

struct Shared {
    plan: Plan,
    encoded: Vec<Bytes>,
    tickets: AtomicU64,
    start: Instant,
    count_from: Instant,
    end: Option<Instant>,
}

#[derive(Default)]
struct Tally {
    latencies: Histogram,
    failures: BTreeMap<String, u64>,
    last: Option<Instant>,
}

/// Runs a plan on the calling thread, pinned to `core` if one is given.
pub fn run(plan: Plan, core: Option<usize>) -> Result<Summary> {
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            crate::process::pin(core)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run_here(plan))
        });
        work.join().map_err(|_| anyhow::anyhow!("the load generator panicked"))?
    })
}

async fn run_here(plan: Plan) -> Result<Summary> {
    anyhow::ensure!(!plan.requests.is_empty() && plan.connections > 0, "a load needs a request and a connection");
    let host = plan.address.to_string();
    let encoded = plan.requests.iter().map(|request| request.encode(&host, plan.fresh)).collect();
    let start = Instant::now();
    let count_from = start + plan.warm_up;
    let end = match plan.stop {
        Stop::After(time) => Some(count_from + time),
        Stop::Count(_) => None,
    };
    let shared = Arc::new(Shared { encoded, tickets: AtomicU64::new(0), start, count_from, end, plan });
    let mut tasks: JoinSet<Tally> =
        (0..shared.plan.connections).map(|number| connection(shared.clone(), number)).collect();
    let mut total = Tally::default();
    while let Some(tally) = tasks.join_next().await {
        let tally = tally.context("a connection's task panicked")?;
        total.latencies.add(&tally.latencies);
        tally.failures.into_iter().for_each(|(kind, count)| *total.failures.entry(kind).or_default() += count);
        total.last = total.last.max(tally.last);
    }
    Ok(summarise(&shared, &total))
}

fn summarise(shared: &Shared, total: &Tally) -> Summary {
    let until = shared.end.or(total.last).unwrap_or(shared.count_from);
    let seconds = until.saturating_duration_since(shared.count_from).as_secs_f64().max(1e-9);
    let requests = total.latencies.count();
    Summary {
        requests,
        seconds,
        per_second: requests as f64 / seconds,
        mean_micros: total.latencies.mean_micros(),
        p50_micros: total.latencies.quantile_micros(0.5),
        p90_micros: total.latencies.quantile_micros(0.9),
        p99_micros: total.latencies.quantile_micros(0.99),
        max_micros: total.latencies.max_micros(),
        failures: total.failures.clone(),
    }
}

/// One connection's life: takes tickets until the run ends.
async fn connection(shared: Arc<Shared>, number: usize) -> Tally {
    let (mut tally, mut stream, mut buffer) = (Tally::default(), None, Vec::with_capacity(16 * 1024));
    loop {
        let ticket = shared.tickets.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let over = match shared.plan.stop {
            Stop::Count(limit) => ticket >= limit,
            Stop::After(_) => shared.end.is_some_and(|end| now >= end),
        };
        if over {
            return tally;
        }
        let mut due = now;
        if let Some(rate) = shared.plan.rate {
            due = shared.start + Duration::from_secs_f64(ticket as f64 / rate);
            if shared.end.is_some_and(|end| due >= end) {
                return tally;
            }
            tokio::time::sleep_until(due.into()).await;
        }
        let bytes = &shared.encoded[(ticket as usize + number) % shared.encoded.len()];
        let exchange = exchange(&shared, &mut stream, bytes, &mut buffer);
        let outcome = match tokio::time::timeout(shared.plan.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err("timeout".to_owned()),
        };
        let done = Instant::now();
        match outcome {
            Ok(()) if due >= shared.count_from && shared.end.is_none_or(|end| done <= end) => {
                tally.latencies.record(u64::try_from((done - due).as_nanos()).unwrap_or(u64::MAX));
                tally.last = Some(done);
            }
            Ok(()) => {}
            Err(kind) => {
                stream = None;
                *tally.failures.entry(kind).or_default() += 1;
                // A refused connection must not become a busy loop that starves the server under test.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Sends one request and reads its whole answer; the error is the kind of failure.
async fn exchange(
    shared: &Shared,
    stream: &mut Option<TcpStream>,
    bytes: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), String> {
    if stream.is_none() {
        let fresh =
            TcpStream::connect(shared.plan.address).await.map_err(|error| format!("connect: {}", error.kind()))?;
        fresh.set_nodelay(true).map_err(|error| format!("connect: {}", error.kind()))?;
        *stream = Some(fresh);
    }
    let Some(connection) = stream.as_mut() else { return Err("connect".to_owned()) };
    connection.write_all(bytes).await.map_err(|error| format!("write: {}", error.kind()))?;
    buffer.clear();
    loop {
        let read = connection.read_buf(buffer).await.map_err(|error| format!("read: {}", error.kind()))?;
        if read == 0 {
            return Err("closed before the answer was whole".to_owned());
        }
        if let Some(answer) = http1::parse(buffer).map_err(|error| format!("protocol: {error}"))? {
            if answer.close || shared.plan.fresh {
                *stream = None;
            }
            return if (200..300).contains(&answer.status) { Ok(()) } else { Err(format!("status {}", answer.status)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream;

    fn served(fresh: bool, rate: Option<f64>) -> Summary {
        let server = upstream::start(b"{\"ok\":true}", None).unwrap();
        let mut plan = Plan::steady(server, vec![Request::json("/", "{}")], 4, 0.5);
        plan.stop = Stop::Count(200);
        plan.warm_up = Duration::ZERO;
        (plan.fresh, plan.rate) = (fresh, rate);
        run(plan, None).unwrap()
    }

    #[test]
    fn every_request_is_counted_once() {
        for fresh in [false, true] {
            let summary = served(fresh, None);
            assert_eq!((summary.requests, summary.failed()), (200, 0), "{summary:?}");
            assert!(summary.p50_micros > 0.0 && summary.p50_micros <= summary.max_micros);
        }
    }

    #[test]
    fn a_rate_is_kept() {
        let summary = served(false, Some(1_000.0));
        assert!(summary.seconds >= 0.19, "{summary:?}");
    }

    #[test]
    fn a_refused_connection_is_a_named_failure() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut plan = Plan::steady(closed, vec![Request::get("/")], 1, 0.1);
        plan.stop = Stop::Count(3);
        let summary = run(plan, None).unwrap();
        assert_eq!((summary.requests, summary.failed()), (0, 3));
        assert!(summary.failures.keys().all(|kind| kind.starts_with("connect")), "{summary:?}");
    }
}
