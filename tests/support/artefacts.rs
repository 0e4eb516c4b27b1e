//! A stand-in for three generic artefact registries, as strict as they are: GitLab's generic packages, a raw repository of Nexus, releases on a
//! GitHub server.
//!
//! Promises: wrong methods, paths, logins and headers are refused as the real ones do it; a digest or length that is announced must fit what came;
//! every request is kept for the test to look at.
//!
//! Source: GitLab "Generic packages repository" API; Sonatype Nexus Repository "Raw repositories"; GitHub REST API 2022-11-28 "Releases", "Release assets".

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The token or password that everything here wants.
pub const SECRET: &str = "s3cret";

/// The stand-in, served until it is dropped.
pub struct Artefacts {
    /// Where the APIs are.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

/// What is there, and what it does wrong.
#[derive(Default)]
pub struct State {
    /// Files by path; assets by `assets/ID`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Method, path with its query, and headers of every request.
    pub seen: Vec<(Method, String, HeaderMap)>,
    /// Downloads that break off in the middle.
    pub breaks: usize,
    /// The next file that is taken is kept with a flipped bit.
    pub flips: bool,
    releases: Vec<(u64, String)>,
    assets: BTreeMap<u64, (u64, String)>,
    storage: Option<SocketAddr>,
}

/// A body that may break off.
pub struct Piece {
    /// What comes.
    pub bytes: Option<Bytes>,
    /// Whether the connection breaks behind it.
    pub breaks: bool,
    flushed: bool,
}

impl Piece {
    /// A whole body, or one that breaks off.
    pub fn new(bytes: Bytes, breaks: bool) -> Self {
        Self { bytes: Some(bytes), breaks, flushed: false }
    }
}

impl Body for Piece {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.bytes.take() {
            Some(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // What came before is sent first.
            None if self.breaks && !std::mem::replace(&mut self.flushed, true) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None if self.breaks => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            _ => Poll::Ready(None),
        }
    }
}

type Answer = Response<Piece>;

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let bytes = body.into();
    let response = Response::builder().status(status).header(header::CONTENT_LENGTH, bytes.len());
    response.body(Piece { bytes: Some(bytes), breaks: false, flushed: false }).unwrap()
}

fn message(status: u16, text: &str) -> Answer {
    answer(status, json!({ "message": text }).to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha1(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref())
}

impl Artefacts {
    /// Starts it.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let serve = |storage: bool| {
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
            let (address, state) = (listener.local_addr().unwrap(), Arc::clone(&state));
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = Arc::clone(&state);
                    let service = hyper::service::service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, io::Error>(handle(&state, request, storage).await) }
                    });
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
            address
        };
        let (address, storage) = (serve(false), serve(true));
        state.lock().unwrap().storage = Some(storage);
        Self { address, state, _runtime: runtime }
    }

    /// What is there.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Methods and paths of all requests since the last call.
    pub fn calls(&self) -> Vec<String> {
        let seen = std::mem::take(&mut self.state().seen);
        seen.into_iter().map(|(method, path, _)| format!("{method} {path}")).collect()
    }
}

async fn handle(state: &Mutex<State>, request: Request<Incoming>, storage: bool) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let state = &mut *state.lock().unwrap();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    state.seen.push((head.method.clone(), path.clone(), head.headers.clone()));
    if let Err(why) = announced(&head.method, &head.headers, &body) {
        return message(400, why);
    }
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    if storage {
        return from_storage(state, path, &head.headers);
    }
    if let Some(rest) = path.strip_prefix("/api/v4/") {
        gitlab(state, &head.method, rest, query, &head.headers, &body)
    } else if let Some(rest) = path.strip_prefix("/repository/") {
        nexus(state, &head.method, rest, &head.headers, &body)
    } else if path.starts_with("/api/v3/repos/own/models/") || path.starts_with("/api/uploads/repos/own/models/") {
        github(state, &head.method, path, query, &head.headers, &body)
    } else {
        message(404, "404 Not Found")
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What is announced of a body must fit it, and of files it must be announced.
fn announced(method: &Method, headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
    let is_file = text(headers, "content-type") == "application/octet-stream";
    if matches!(*method, Method::PUT | Method::POST) && text(headers, "content-length") != body.len().to_string() {
        return Err("the length is not announced");
    }
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)));
    match is_file && text(headers, "content-digest") != digest {
        true => Err("the digest is not announced, or another one"),
        false => Ok(()),
    }
}

impl State {
    fn keep(&mut self, path: String, body: &[u8]) {
        let mut bytes = body.to_vec();
        if std::mem::take(&mut self.flips) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        self.files.insert(path, bytes);
    }

    /// A file, or the part of it that is asked for.
    fn give(&mut self, path: &str, headers: &HeaderMap) -> Answer {
        let Some(bytes) = self.files.get(path) else { return message(404, "404 Not Found") };
        let from = text(headers, "range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        let from: usize = from.and_then(|from| from.parse().ok()).unwrap_or(0);
        if from >= bytes.len() {
            return message(416, "Range Not Satisfiable");
        }
        let (part, all) = (Bytes::copy_from_slice(&bytes[from..]), bytes.len());
        let mut response = answer(if from > 0 { 206 } else { 200 }, part.clone());
        if from > 0 {
            let range = format!("bytes {from}-{}/{all}", all - 1);
            response.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
        }
        // Documents of a few bytes come whole.
        if self.breaks > 0 && part.len() > 1_024 {
            self.breaks -= 1;
            *response.body_mut() = Piece { bytes: Some(part.slice(..512)), breaks: true, flushed: false };
        }
        response
    }
}

fn gitlab(state: &mut State, method: &Method, path: &str, query: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    if text(headers, "private-token") != SECRET {
        return message(401, "401 Unauthorized");
    }
    let parts: Vec<&str> = path.split('/').collect();
    // The project is one part: its slashes are escaped.
    let ["projects", "ml%2Fmodels", "packages", "generic", name, version, file] = parts.as_slice() else {
        return message(404, "404 Project Not Found");
    };
    let key = format!("{name}/{version}/{file}");
    match *method {
        Method::PUT => {
            state.keep(key.clone(), body);
            if query != "select=package_file" {
                return message(201, "201 Created");
            }
            let sha256 = hex(&Sha256::digest(&state.files[&key]));
            let there =
                json!({ "id": 1, "package_id": 1, "size": body.len(), "file_sha256": sha256, "file_name": file });
            answer(201, there.to_string())
        }
        Method::GET => state.give(&key, headers),
        _ => message(405, "405 Not Allowed"),
    }
}

fn nexus(state: &mut State, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    if text(headers, "authorization") != format!("Basic {}", STANDARD.encode(format!("ada:{SECRET}"))) {
        return answer(401, "");
    }
    if !path.starts_with("raw-models/") {
        return answer(404, "");
    }
    match *method {
        Method::PUT => {
            state.keep(path.to_owned(), body);
            answer(201, "")
        }
        Method::GET => state.give(path, headers),
        Method::HEAD => {
            let Some(bytes) = state.files.get(path) else { return answer(404, "") };
            let head = Response::builder().header(header::CONTENT_LENGTH, bytes.len());
            let head = head.header(header::ETAG, format!("\"{{SHA1{{{}}}}}\"", sha1(bytes)));
            head.body(Piece { bytes: None, breaks: false, flushed: false }).unwrap()
        }
        _ => answer(405, ""),
    }
}

fn github(state: &mut State, method: &Method, path: &str, query: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    if text(headers, "user-agent").is_empty() {
        return message(403, "Request forbidden by administrative rules.");
    }
    if text(headers, "authorization") != format!("Bearer {SECRET}") {
        return message(401, "Bad credentials");
    }
    if text(headers, "x-github-api-version") != "2022-11-28" {
        return message(400, "The version is not the documented one");
    }
    let host = text(headers, "host");
    let octets = text(headers, "accept") == "application/octet-stream";
    if !octets && text(headers, "accept") != "application/vnd.github+json" {
        return message(415, "Must accept 'application/json'");
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, &parts[1], &parts[5..]) {
        (&Method::GET, &"v3", ["releases", "tags", tag]) => {
            let found = state.releases.iter().find(|(_, name)| name == tag).map(|(id, _)| *id);
            found.map_or_else(|| message(404, "Not Found"), |id| answer(200, release(state, host, id).to_string()))
        }
        (&Method::POST, &"v3", ["releases"]) => {
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            let Some(tag) = asked["tag_name"].as_str() else { return message(422, "Validation Failed") };
            if state.releases.iter().any(|(_, name)| name == tag) {
                return message(422, "Validation Failed");
            }
            let id = state.releases.len() as u64 + 1;
            state.releases.push((id, tag.to_owned()));
            answer(201, release(state, host, id).to_string())
        }
        (&Method::POST, &"uploads", ["releases", id, "assets"]) => {
            let (Ok(id), Some(name)) = (id.parse::<u64>(), query.strip_prefix("name=")) else {
                return message(422, "Validation Failed");
            };
            let taken = state.assets.values().any(|(release, there)| *release == id && there == name);
            if taken || !state.releases.iter().any(|(release, _)| *release == id) {
                return message(422, "Validation Failed");
            }
            let asset = state.assets.keys().max().copied().unwrap_or(0) + 1;
            state.assets.insert(asset, (id, name.to_owned()));
            state.keep(format!("assets/{asset}"), body);
            answer(201, shown(state, host, asset).to_string())
        }
        (&Method::GET, &"v3", ["releases", "assets", id]) if octets => {
            let mut response = answer(302, "");
            let to = format!("http://{}/assets/{id}?signature=x", state.storage.unwrap());
            response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
            response
        }
        (&Method::DELETE, &"v3", ["releases", "assets", id]) => {
            let gone = id.parse().ok().and_then(|id: u64| state.assets.remove(&id));
            state.files.remove(&format!("assets/{id}"));
            gone.map_or_else(|| message(404, "Not Found"), |_| answer(StatusCode::NO_CONTENT.as_u16(), ""))
        }
        _ => message(404, "Not Found"),
    }
}

/// The storage behind GitHub: its addresses are signed, and it refuses whoever says who they are besides.
fn from_storage(state: &mut State, path: &str, headers: &HeaderMap) -> Answer {
    if headers.contains_key("authorization") {
        return message(400, "Only one auth mechanism allowed");
    }
    state.give(path.trim_start_matches('/'), headers)
}

fn release(state: &State, host: &str, id: u64) -> Value {
    let base = format!("http://{host}");
    let assets = state.assets.iter().filter(|(_, (release, _))| *release == id);
    json!({
        "id": id, "tag_name": state.releases.iter().find(|(release, _)| *release == id).map(|(_, tag)| tag),
        "upload_url": format!("{base}/api/uploads/repos/own/models/releases/{id}/assets{{?name,label}}"),
        "assets": assets.map(|(asset, _)| shown(state, host, *asset)).collect::<Vec<_>>(),
    })
}

fn shown(state: &State, host: &str, asset: u64) -> Value {
    let bytes = &state.files[&format!("assets/{asset}")];
    json!({
        "url": format!("http://{host}/api/v3/repos/own/models/releases/assets/{asset}"), "id": asset,
        "name": state.assets[&asset].1, "state": "uploaded", "size": bytes.len(),
        "digest": format!("sha256:{}", hex(&Sha256::digest(bytes))),
    })
}
