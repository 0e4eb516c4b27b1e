//! Constant load on one service: kept and fresh connections, REST and gRPC. Nothing is tried again; every failure is kept.

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
    /// Time between two requests of one caller; none asks as fast as it can.
    pub pace: Duration,
}

impl Default for Mix {
    fn default() -> Self {
        Self { kept: 3, fresh: 2, grpc: 2, pace: Duration::from_millis(8) }
    }
}

impl Mix {
    /// REST only, for programs that speak no gRPC.
    pub fn rest() -> Self {
        Self { grpc: 0, ..Self::default() }
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
    thread: Option<JoinHandle<()>>,
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
}

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
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut callers = tokio::task::JoinSet::new();
                (0..mix.kept).for_each(|_| drop(callers.spawn(rest(target.clone(), true))));
                (0..mix.fresh).for_each(|_| drop(callers.spawn(rest(target.clone(), false))));
                (0..mix.grpc).for_each(|_| drop(callers.spawn(grpc(target.clone()))));
                while callers.join_next().await.is_some() {}
            });
        });
        Self { stop, tally, thread: Some(thread) }
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
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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
    rows.iter()
        .map(|row| Row {
            rest: row["request"].to_string().into(),
            grpc: grpc_frame(&grpc_request(service, &row["request"]["inputs"][0])),
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
            Ok(revision) => *tally.answered.entry(revision).or_default() += 1,
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
        let asked = ask_rest(&target, &mut connection, row.rest.clone());
        let result =
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        target.note(kind, began, result);
        if !keep {
            connection = None;
        }
    }
}

async fn ask_rest(target: &Target, kept: &mut Option<Rest>, body: Bytes) -> Result<u32, String> {
    let request = Request::post(format!("/v2/models/{}/infer", target.service))
        .header("host", target.gateway.to_string())
        .header("content-type", "application/json")
        .body(Full::new(body))
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
    if document["outputs"].as_array().is_none_or(Vec::is_empty) {
        return Err("an answer without outputs".to_owned());
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

async fn grpc(target: Arc<Target>) {
    let (mut connection, mut round) = (None, fastrand::usize(..1_000));
    while let Some(row) = target.turn(&mut round).await {
        let began = Instant::now();
        let asked = ask_grpc(&target, &mut connection, row.grpc.clone());
        let result =
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        target.note("grpc", began, result);
    }
}

async fn ask_grpc(target: &Target, kept: &mut Option<Grpc>, body: Bytes) -> Result<u32, String> {
    let request = Request::post(format!("http://{}/inference.GRPCInferenceService/ModelInfer", target.gateway))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
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
    if collected.to_bytes().len() <= 5 {
        return Err("an empty answer".to_owned());
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
