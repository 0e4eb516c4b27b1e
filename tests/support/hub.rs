//! A stand-in for the Hugging Face Hub, as strict as it is, and for the storage that its answers lead to. `tests/peers/hub_client.py` lets the
//! Hub's own client download from it, so that it is known to be faithful.
//!
//! Promises: wrong methods and paths are refused as the real one does it; the storage refuses whoever says who they are, and addresses that
//! are not signed; every request is kept for the test to look at.
//!
//! Source: Hugging Face Hub API; the requests of `huggingface_hub`, its Python client.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::artefacts::Piece;

/// The repository that is there.
pub const REPOSITORY: &str = "cellar/Wine-2.1";
/// What it was called before.
pub const FORMER: &str = "cellar/wine-old";
/// The commit that `main` is at, and the tag `v2.1.0`.
pub const COMMIT: &str = "5f0abbc1d2e3f405162738495a6b7c8d9e0f1a2b";
/// The token of who may see it while it is gated.
pub const TOKEN: &str = "hf_s3cret";
/// Files from here on lie in the storage.
const LARGE: usize = 1_024;

/// The stand-in, served until it is dropped.
pub struct Hub {
    /// Where the API is.
    pub address: SocketAddr,
    /// Where large files are.
    pub storage: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

/// What is there, and what it does wrong.
#[derive(Default)]
pub struct State {
    /// Files of the repository by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Method, path with its query, and headers of every request.
    pub seen: Vec<(Method, String, HeaderMap)>,
    /// Downloads that break off in the middle.
    pub breaks: usize,
    /// How many bytes of each of them come.
    pub piece: usize,
    /// Files whose bytes are others than the API says.
    pub flipped: Vec<String>,
    /// Whether only those who say who they are may see it.
    pub gated: bool,
    /// Whether ranges are passed over.
    pub rangeless: bool,
}

type Answer = Response<Piece>;

fn answer(status: u16, headers: &[(&str, String)], body: impl Into<Bytes>) -> Answer {
    let bytes = body.into();
    let mut response = Response::builder().status(status).header(header::CONTENT_LENGTH, bytes.len());
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Piece::new(bytes, false)).unwrap()
}

fn refused(status: u16, code: &str, text: &str) -> Answer {
    let headers = [("x-error-code", code.to_owned()), ("x-error-message", text.to_owned())];
    answer(status, &headers, json!({"error": text}).to_string())
}

fn document(value: &Value) -> Answer {
    answer(200, &[("content-type", "application/json; charset=utf-8".to_owned())], value.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_id(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

/// The pointer that git keeps in place of a large file.
fn pointer(bytes: &[u8]) -> String {
    let sha256 = hex(&Sha256::digest(bytes));
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {}\n", bytes.len())
}

impl Hub {
    /// Starts it with some files.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { files, piece: 512, ..State::default() }));
        let listen = || runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (api, store) = (listen(), listen());
        let (address, storage) = (api.local_addr().unwrap(), store.local_addr().unwrap());
        for (listener, is_storage) in [(api, false), (store, true)] {
            let state = Arc::clone(&state);
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = Arc::clone(&state);
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let answer = handle(&mut state.lock().unwrap(), &request, is_storage.then_some(()), storage);
                        std::future::ready(Ok::<_, io::Error>(answer))
                    });
                    let served =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(served);
                }
            });
        }
        Self { address, storage, state, _runtime: runtime }
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

    /// Its address, as `HF_ENDPOINT` has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn handle(state: &mut State, request: &Request<Incoming>, is_storage: Option<()>, storage: SocketAddr) -> Answer {
    let (method, headers) = (request.method().clone(), request.headers());
    let path = request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned();
    state.seen.push((method.clone(), path.clone(), headers.clone()));
    if !matches!(method, Method::GET | Method::HEAD) {
        return refused(405, "", "Method Not Allowed");
    }
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let mut answer = match is_storage {
        Some(()) => from_storage(state, path, query, headers),
        None => from_api(state, path, query, headers, storage),
    };
    if method == Method::HEAD {
        answer.body_mut().bytes = None;
        answer.body_mut().breaks = false;
    }
    answer
}

fn from_api(state: &mut State, path: &str, query: &str, headers: &HeaderMap, storage: SocketAddr) -> Answer {
    // A repository that was renamed leads to its new name.
    if path.contains(FORMER) {
        let to = format!("{}{}{query}", path.replace(FORMER, REPOSITORY), if query.is_empty() { "" } else { "?" });
        return answer(307, &[("location", to)], "");
    }
    if state.gated && text(headers, "authorization") != format!("Bearer {TOKEN}") {
        return refused(
            401,
            "GatedRepo",
            "Access to model cellar/Wine-2.1 is restricted. You must be authenticated to access it.",
        );
    }
    if let Some(rest) = path.strip_prefix(&format!("/api/models/{REPOSITORY}")) {
        return match rest.trim_start_matches('/').splitn(2, '/').collect::<Vec<_>>().as_slice() {
            [""] => document(&about(state, query)),
            ["revision", revision] if is_there(revision) => document(&about(state, query)),
            ["tree", revision] if is_there(revision) => document(&tree(state)),
            ["revision" | "tree", revision] => refused(404, "RevisionNotFound", &format!("Invalid rev id: {revision}")),
            _ => refused(404, "", "Not Found"),
        };
    }
    if let Some(rest) = path.strip_prefix(&format!("/{REPOSITORY}/resolve/")) {
        let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
        return resolve(state, revision, file, storage);
    }
    // Where the real hub answers small files from.
    if let Some(file) = path.strip_prefix(&format!("/api/resolve-cache/models/{REPOSITORY}/{COMMIT}/")) {
        let file = file.to_owned();
        let Some(bytes) = state.files.get(&file) else { return refused(404, "EntryNotFound", "Entry not found") };
        let etag = format!("\"{}\"", git_id(bytes));
        let mut response = give(state, &file, headers);
        response.headers_mut().insert("x-repo-commit", HeaderValue::from_static(COMMIT));
        response.headers_mut().insert("etag", etag.parse().unwrap());
        return response;
    }
    if let Some(file) = path.strip_prefix("/plain/") {
        return give(state, file, headers);
    }
    if let Some(file) = path.strip_prefix("/elsewhere/") {
        return answer(302, &[("location", format!("http://{storage}/{file}?signature=x"))], "");
    }
    refused(401, "", "Invalid username or password.")
}

fn is_there(revision: &str) -> bool {
    ["main", "v2.1.0", COMMIT].contains(&revision)
}

fn about(state: &State, query: &str) -> Value {
    let sibling = |(path, bytes): (&String, &Vec<u8>)| match (query.contains("blobs="), bytes.len() < LARGE) {
        (false, _) => json!({"rfilename": path}),
        (true, true) => json!({"rfilename": path, "size": bytes.len(), "blobId": git_id(bytes)}),
        (true, false) => {
            let pointer = pointer(bytes);
            let lfs = json!({"sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": pointer.len()});
            json!({"rfilename": path, "size": bytes.len(), "blobId": git_id(pointer.as_bytes()), "lfs": lfs})
        }
    };
    json!({
        "_id": "66", "id": REPOSITORY, "modelId": REPOSITORY, "author": "cellar", "sha": COMMIT, "private": false, "gated": false,
        "disabled": false, "lastModified": "2026-01-02T03:04:05.000Z", "createdAt": "2026-01-01T00:00:00.000Z", "downloads": 7, "likes": 1,
        "tags": ["onnx", "tabular-classification", "license:apache-2.0"], "pipeline_tag": "tabular-classification", "library_name": "onnx",
        "cardData": {"license": "apache-2.0", "tags": ["onnx"]}, "spaces": [],
        "siblings": state.files.iter().map(sibling).collect::<Vec<_>>(),
    })
}

fn tree(state: &State) -> Value {
    let entry = |(path, bytes): (&String, &Vec<u8>)| match bytes.len() < LARGE {
        true => json!({"type": "file", "path": path, "size": bytes.len(), "oid": git_id(bytes)}),
        false => {
            let pointer = pointer(bytes);
            let lfs = json!({"oid": hex(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": pointer.len()});
            json!({"type": "file", "path": path, "size": bytes.len(), "oid": git_id(pointer.as_bytes()), "lfs": lfs})
        }
    };
    state.files.iter().map(entry).collect()
}

/// Small files lead to another path of the hub, large ones to the storage; the answer says what they are.
fn resolve(state: &State, revision: &str, file: &str, storage: SocketAddr) -> Answer {
    if !is_there(revision) {
        return refused(404, "RevisionNotFound", "Invalid rev id");
    }
    let Some(bytes) = state.files.get(file) else { return refused(404, "EntryNotFound", "Entry not found") };
    let etag = if bytes.len() < LARGE { git_id(bytes) } else { hex(&Sha256::digest(bytes)) };
    let (status, to) = match bytes.len() < LARGE {
        true => (307, format!("/api/resolve-cache/models/{REPOSITORY}/{COMMIT}/{file}")),
        false => (302, format!("http://{storage}/{file}?signature=x")),
    };
    let headers = [
        ("location", to),
        ("x-repo-commit", COMMIT.to_owned()),
        ("x-linked-etag", format!("\"{etag}\"")),
        ("x-linked-size", bytes.len().to_string()),
        ("etag", format!("\"{etag}\"")),
        ("accept-ranges", "bytes".to_owned()),
    ];
    answer(status, &headers, "")
}

/// The storage's addresses are signed, and it refuses whoever says who they are besides.
fn from_storage(state: &mut State, path: &str, query: &str, headers: &HeaderMap) -> Answer {
    if headers.contains_key("authorization") {
        return answer(400, &[], "<Error><Code>InvalidArgument</Code></Error>");
    }
    if query != "signature=x" {
        return answer(403, &[], "<Error><Code>AccessDenied</Code></Error>");
    }
    give(state, path.trim_start_matches('/'), headers)
}

/// A file, or the part of it that is asked for.
fn give(state: &mut State, file: &str, headers: &HeaderMap) -> Answer {
    let Some(mut bytes) = state.files.get(file).cloned() else { return answer(404, &[], "Not Found") };
    if state.flipped.iter().any(|flipped| flipped == file) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let all = bytes.len();
    let asked = text(headers, "range").strip_prefix("bytes=").filter(|_| !state.rangeless);
    let (from, to) = asked.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let (from, to): (usize, usize) = (from.parse().unwrap_or(0), to.parse().unwrap_or(all.saturating_sub(1)));
    if asked.is_some() && from >= all {
        return answer(416, &[("content-range", format!("bytes */{all}"))], "");
    }
    let part = Bytes::copy_from_slice(&bytes[from.min(all)..(to + 1).min(all)]);
    let mut response = match asked {
        Some(_) => answer(206, &[("content-range", format!("bytes {from}-{to}/{all}"))], part.clone()),
        None => answer(200, &[], part.clone()),
    };
    if state.breaks > 0 && part.len() > state.piece {
        state.breaks -= 1;
        *response.body_mut() = Piece::new(part.slice(..state.piece), true);
    }
    response
}
