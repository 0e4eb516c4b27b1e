//! Constant load on one service: kept and fresh connections, REST and gRPC. Nothing is tried again; every failure is kept.
//!
//! Promises: an answer counts only if it names the label that is known to be right.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use modelyard_core::measure::Histogram;
use serde_json::Value;
use tokio::net::TcpStream;

/// How many callers of each kind, and how long each waits from one request to the next.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// REST, one connection kept for ever.
    pub kept: usize,
    /// REST, a fresh connection per request.
    pub fresh: usize,
    /// gRPC, one connection kept for ever.
    pub grpc: usize,
    /// gRPC, a fresh connection per request.
    pub grpc_fresh: usize,
    /// Time between two requests of one caller; none asks as fast as it can.
    pub pace: Duration,
}

impl Default for Mix {
    fn default() -> Self {
        Self { kept: 3, fresh: 2, grpc: 2, grpc_fresh: 1, pace: Duration::from_millis(8) }
    }
}

impl Mix {
    /// REST only, for programs that speak no gRPC.
    pub fn rest() -> Self {
        Self { grpc: 0, grpc_fresh: 0, ..Self::default() }
    }
}

/// What callers saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by revision.
    pub answered: BTreeMap<u32, u64>,
    /// How many requests failed.
    pub failed: u64,
    /// The first failures.
    pub failures: Vec<String>,
    /// How long answers took, in microseconds.
    pub latency: Histogram,
}

impl Tally {
    /// All answers.
    pub fn total(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Panics if a request failed, or if there was next to no load.
    #[track_caller]
    pub fn nothing_failed(&self) {
        assert_eq!(
            self.failed,
            0,
            "{} of {} requests failed:\n{}",
            self.failed,
            self.total(),
            self.failures.join("\n")
        );
        assert!(self.total() > 50, "hardly any load: {self:?}");
    }
}

/// Load that is being made.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

struct Target {
    gateway: SocketAddr,
    service: String,
    rows: Vec<Row>,
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    pace: Duration,
}

struct Row {
    rest: Bytes,
    grpc: Bytes,
    label: i64,
}

/// Held-out rows of breast-cancer that version 1 gets wrong; later versions get some of them wrong. Every version answers all others
/// with their label, so a wrong answer is never the model's.
const HARD: [usize; 15] = [3, 34, 38, 57, 94, 95, 104, 107, 112, 126, 128, 145, 151, 156, 209];

/// The load has as many threads as the smallest machine that we test on has cores.
const THREADS: usize = 2;

impl Load {
    /// Starts load on `service` with the held-out rows of `example`.
    pub fn start(gateway: SocketAddr, service: &str, example: &str, mix: Mix) -> Self {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let target = Arc::new(Target {
            gateway,
            service: service.to_owned(),
            rows: rows(service, example),
            stop: stop.clone(),
            tally: tally.clone(),
            pace: mix.pace,
        });
        let threads = (0..THREADS).map(|thread| {
            let target = target.clone();
            // Callers are dealt out in turn, so that each thread has some of each kind.
            let mine =
                move |first: usize, count: usize| (first..first + count).filter(|at| at % THREADS == thread).count();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut callers = tokio::task::JoinSet::new();
                    let Mix { kept, fresh, grpc: both, grpc_fresh, .. } = mix;
                    (0..mine(0, kept)).for_each(|_| drop(callers.spawn(rest(target.clone(), true))));
                    (0..mine(kept, fresh)).for_each(|_| drop(callers.spawn(rest(target.clone(), false))));
                    (0..mine(kept + fresh, both)).for_each(|_| drop(callers.spawn(grpc(target.clone(), true))));
                    (0..mine(kept + fresh + both, grpc_fresh))
                        .for_each(|_| drop(callers.spawn(grpc(target.clone(), false))));
                    while callers.join_next().await.is_some() {}
                });
            })
        });
        Self { stop, tally, threads: threads.collect() }
    }

    /// Keeps every core busy besides, until the load ends: with work of the lowest priority, which takes what nobody else wants and
    /// makes everybody wait for a core now and then.
    #[must_use]
    pub fn on_busy_cores(mut self) -> Self {
        let cores = std::thread::available_parallelism().map_or(THREADS, usize::from);
        self.threads.extend((0..cores).map(|_| {
            let stop = self.stop.clone();
            std::thread::spawn(move || {
                // Of the calling thread alone, on Linux.
                rustix::process::setpriority_process(None, 19).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    (0..10_000).for_each(|_| std::hint::spin_loop());
                }
            })
        }));
        self
    }

    /// How long answers took since the last call, in microseconds.
    pub fn lap(&self) -> Histogram {
        std::mem::take(&mut self.tally.lock().unwrap().latency)
    }

    /// What callers saw so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Waits until `more` further requests were answered.
    #[track_caller]
    pub fn flow(&self, more: u64) {
        let from = self.tally().total();
        super::until("load flows", 30, || match self.tally() {
            tally if tally.total() >= from + more => Ok(()),
            tally => Err(format!("{tally:?}")),
        });
    }

    /// Stops and tells what callers saw.
    pub fn finish(mut self) -> Tally {
        self.halt();
        self.tally()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.halt();
    }
}

fn rows(service: &str, example: &str) -> Vec<Row> {
    let text = std::fs::read(super::examples().join(example).join("traffic.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let hard = |at: &usize| example == "breast-cancer" && HARD.contains(at);
    let easy = rows.iter().enumerate().filter(|(at, _)| !hard(at));
    easy.map(|(_, row)| Row {
        rest: row["request"].to_string().into(),
        grpc: grpc_frame(&grpc_request(service, &row["request"]["inputs"][0])),
        label: row["label"].as_i64().unwrap(),
    })
    .collect()
}

impl Target {
    async fn turn(&self, round: &mut usize) -> Option<&Row> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
        *round += 1;
        Some(&self.rows[*round % self.rows.len()])
    }

    fn note(&self, kind: &str, began: Instant, result: Result<u32, String>) {
        let mut tally = self.tally.lock().unwrap();
        match result {
            Ok(revision) => {
                *tally.answered.entry(revision).or_default() += 1;
                tally.latency.record(u64::try_from(began.elapsed().as_micros()).unwrap());
            }
            Err(why) => {
                tally.failed += 1;
                if tally.failures.len() < 12 {
                    tally.failures.push(format!("{kind} after {:?}: {why}", began.elapsed()));
                }
            }
        }
    }
}

/// An answer that takes longer than this has failed: longer than requests may be parked.
const PATIENCE: Duration = Duration::from_secs(40);

fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        text.push_str(&format!(": {error}"));
        inner = error.source();
    }
    text
}

fn revision<B>(answer: &Response<B>) -> Result<u32, String> {
    let header = answer.headers().get("modelyard-revision").and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).ok_or_else(|| "the answer names no revision".to_owned())
}

async fn connect(gateway: SocketAddr) -> Result<TokioIo<TcpStream>, String> {
    let stream = TcpStream::connect(gateway).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
    Ok(TokioIo::new(stream))
}

type Rest = http1::SendRequest<Full<Bytes>>;

async fn rest(target: Arc<Target>, keep: bool) {
    let kind = if keep { "rest, kept" } else { "rest, fresh" };
    let (mut connection, mut round) = (None, fastrand::usize(..1_000));
    while let Some(row) = target.turn(&mut round).await {
        let began = Instant::now();
        let asked = ask_rest(&target, &mut connection, row);
        let result =
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        target.note(kind, began, result);
        if !keep {
            connection = None;
        }
    }
}

async fn ask_rest(target: &Target, kept: &mut Option<Rest>, row: &Row) -> Result<u32, String> {
    let request = Request::post(format!("/v2/models/{}/infer", target.service))
        .header("host", target.gateway.to_string())
        .header("content-type", "application/json")
        .body(Full::new(row.rest.clone()))
        .map_err(|error| said(&error))?;
    let (answer, mut sender) = match kept.take() {
        Some(mut sender) => match sender.try_send_request(request).await {
            Ok(answer) => (answer, sender),
            Err(error) => send_rest(target, unsent(error)?).await?,
        },
        None => send_rest(target, request).await?,
    };
    let close = answer.headers().get("connection").is_some_and(|value| value == "close");
    let (status, revision) = (answer.status(), revision(&answer));
    let body = answer.into_body().collect().await.map_err(|error| format!("body: {}", said(&error)))?.to_bytes();
    if status != 200 {
        return Err(format!("status {status}: {}", String::from_utf8_lossy(&body)));
    }
    let document: Value = serde_json::from_slice(&body).map_err(|error| format!("no JSON: {error}"))?;
    let outputs = document["outputs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = outputs.iter().find(|output| output["name"] == "label").map(|output| &output["data"]);
    if named != Some(&serde_json::json!([row.label])) {
        return Err(format!("the label should be {}: {document}", row.label));
    }
    if !close && sender.ready().await.is_ok() {
        *kept = Some(sender);
    }
    revision
}

/// Sends over a fresh connection.
async fn send_rest(target: &Target, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Rest), String> {
    let io = connect(target.gateway).await?;
    let (mut sender, connection) = http1::handshake(io).await.map_err(|error| said(&error))?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
    Ok((answer, sender))
}

/// The request, if nothing of it left this process: the kept connection had been closed in good order before. Every client takes a fresh
/// connection then (RFC 9113, section 6.8; gRPC, "transparent retries"). Anything else is a failure.
fn unsent<R>(mut error: TrySendError<R>) -> Result<R, String> {
    error.take_message().ok_or_else(|| said(error.error()))
}

type Grpc = http2::SendRequest<Full<Bytes>>;

async fn grpc(target: Arc<Target>, keep: bool) {
    let kind = if keep { "grpc, kept" } else { "grpc, fresh" };
    let (mut connection, mut round) = (None, fastrand::usize(..1_000));
    while let Some(row) = target.turn(&mut round).await {
        let began = Instant::now();
        let asked = ask_grpc(&target, &mut connection, row);
        let result =
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        target.note(kind, began, result);
        if !keep {
            connection = None;
        }
    }
}

async fn ask_grpc(target: &Target, kept: &mut Option<Grpc>, row: &Row) -> Result<u32, String> {
    let request = Request::post(format!("http://{}/inference.GRPCInferenceService/ModelInfer", target.gateway))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(row.grpc.clone()))
        .map_err(|error| said(&error))?;
    let (answer, sender) = match kept.take() {
        Some(mut sender) => match sender.try_send_request(request).await {
            Ok(answer) => (answer, sender),
            Err(error) => send_grpc(target, unsent(error)?).await?,
        },
        None => send_grpc(target, request).await?,
    };
    let (status, revision) = (answer.status(), revision(&answer));
    let early = answer.headers().clone();
    let collected = answer.into_body().collect().await.map_err(|error| format!("body: {}", said(&error)))?;
    let trailers = collected.trailers().cloned().unwrap_or(early);
    let code = trailers.get("grpc-status").map(|value| value.to_str().unwrap_or("?").to_owned());
    if status != 200 || code.as_deref() != Some("0") {
        let message = trailers.get("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        return Err(format!("status {status}, grpc-status {code:?}: {message:?}"));
    }
    let message = collected.to_bytes();
    let named = message.get(5..).and_then(grpc_label);
    if named != Some(row.label) {
        return Err(format!("the label should be {}, not {named:?}", row.label));
    }
    *kept = Some(sender);
    revision
}

/// Sends over a fresh connection.
async fn send_grpc(target: &Target, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Grpc), String> {
    let io = connect(target.gateway).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(|error| said(&error))?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
    Ok((answer, sender))
}

/// `ModelInferRequest` with one FP32 input and raw contents, as bytes (fields 1, 5 and 7).
fn grpc_request(service: &str, input: &Value) -> Vec<u8> {
    let numbers = |key: &str| input[key].as_array().unwrap().iter();
    let shape: Vec<u8> = numbers("shape").flat_map(|axis| varint(axis.as_u64().unwrap())).collect();
    let raw: Vec<u8> = numbers("data").flat_map(|value| (value.as_f64().unwrap() as f32).to_le_bytes()).collect();
    let tensor = [
        field(1, input["name"].as_str().unwrap().as_bytes()),
        field(2, input["datatype"].as_str().unwrap().as_bytes()),
        field(3, &shape),
    ]
    .concat();
    [field(1, service.as_bytes()), field(5, &tensor), field(7, &raw)].concat()
}

/// The first value of the output `label` of a `ModelInferResponse` with raw contents: fields 5 (outputs, each with its name in field 1)
/// and 6 (their values, in the same order).
fn grpc_label(message: &[u8]) -> Option<i64> {
    let fields = fields(message)?;
    let of = |number: u64| fields.iter().filter(move |(this, _)| *this == number).map(|&(_, bytes)| bytes);
    let is_label = |output: &[u8]| self::fields(output).is_some_and(|inner| inner.contains(&(1, b"label".as_slice())));
    let at = of(5).position(is_label)?;
    Some(i64::from_le_bytes(of(6).nth(at)?.get(..8)?.try_into().ok()?))
}

/// The length-delimited fields of a message, by number; others are skipped.
fn fields(mut message: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let value = read_varint(&mut message)?;
        match tag & 7 {
            0 => {}
            2 => {
                let (bytes, rest) = message.split_at_checked(usize::try_from(value).ok()?)?;
                fields.push((tag >> 3, bytes));
                message = rest;
            }
            _ => return None,
        }
    }
    Some(fields)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn grpc_frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), message].concat().into()
}

fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
