//! The Engine's API over its socket: one connection a call.
//!
//! Promises: every call has a deadline, and what comes back is bounded; a call whose caller gave up leaves no connection behind.
//! Absent on purpose: engines of other machines, and TLS.
//!
//! Source: Docker Engine API 1.41 (Docker 20.10) and later; what is used of it is the same in all of them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use modelyard_core::machine::Socket;
use modelyard_core::url::encoded;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Largest answer that is read: a thousand containers stay far below it.
const MOST_BYTES: usize = 16 << 20;
/// Longest line of a pull's progress.
const MOST_LINE: usize = 256 << 10;
/// Nothing is heard of a pull for so long: it hangs. Unpacking a large layer on a slow disk is silent.
const SILENCE: Duration = Duration::from_secs(300);
/// The oldest API that has what is used.
const OLDEST: (u32, u32) = (1, 41);

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not reached, or did not answer: nobody knows whether it did what it was asked.
    #[error("{0}")]
    Away(String),
    /// It answered that it will not.
    #[error("the engine refuses (status {status}): {why}")]
    Refused {
        /// Status of the answer.
        status: u16,
        /// What it says.
        why: String,
    },
}

impl Error {
    /// Whether it answered with this status.
    pub fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted.as_u16())
    }
}

/// What a pull did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Layers that were moved.
    pub layers: usize,
    /// Layers that were there already.
    pub reused: usize,
}

/// An engine.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: Socket,
}

/// A connection that ends with whoever uses it.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    /// The engine that listens there.
    pub fn at(socket: Socket) -> Self {
        Self { socket }
    }

    /// Asks whether it is there, and new enough.
    pub async fn greet(&self, limit: Duration) -> Result<(), Error> {
        let (answer, _connection) = within(limit, self.send(Method::GET, "/_ping", None, None)).await?;
        let version = answer.headers().get("api-version").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let numbers =
            version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        match numbers {
            Some(numbers) if numbers >= OLDEST => Ok(()),
            _ => Err(Error::Away(format!(
                "what answers at {} speaks version {:?} of the Engine API, and {}.{} is needed: Docker 20.10 or later",
                self.place(),
                version.escape_debug().to_string(),
                OLDEST.0,
                OLDEST.1
            ))),
        }
    }

    /// Calls it; what it answers, as a document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, Error> {
        let bytes = self.bytes(Method::GET, path, None, limit).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Away(format!("what it answers to {path} is not understood: {error}")))
    }

    /// Calls it; what it answers.
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Bytes, Error> {
        let call = async {
            let (answer, _connection) = self.send(method, path, body, None).await?;
            let status = answer.status();
            let bytes = match Limited::new(answer.into_body(), MOST_BYTES).collect().await {
                Ok(collected) => collected.to_bytes(),
                Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
                    return Err(Error::Away(format!("it answers with more than {MOST_BYTES} bytes")));
                }
                Err(error) => return Err(Error::Away(format!("its answer broke off: {error}"))),
            };
            // 304: it is so already.
            match status.is_success() || status == StatusCode::NOT_MODIFIED {
                true => Ok(bytes),
                false => Err(refused(status, &bytes)),
            }
        };
        within(limit, call).await
    }

    /// Fetches an image, with a token for its registry if one is needed.
    pub async fn pull(
        &self,
        repository: &str,
        digest: &str,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Pulled, Error> {
        let path = format!("/images/create?fromImage={}&tag={}", encoded(repository), encoded(digest));
        let pass = token.map(|token| URL_SAFE.encode(json!({ "registrytoken": token }).to_string()));
        let pull = async {
            let (answer, _connection) = self.send(Method::POST, &path, None, pass.as_deref()).await?;
            let status = answer.status();
            if !status.is_success() {
                let bytes = Limited::new(answer.into_body(), MOST_LINE).collect().await;
                return Err(refused(status, &bytes.map(|all| all.to_bytes()).unwrap_or_default()));
            }
            follow(answer.into_body()).await
        };
        within(limit, pull).await
    }

    fn place(&self) -> String {
        match &self.socket {
            Socket::Unix(path) => path.display().to_string(),
            Socket::Tcp(address) => address.to_string(),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        pass: Option<&str>,
    ) -> Result<(Response<Incoming>, Connection), Error> {
        let away = |error: std::io::Error| Error::Away(self.advice(&error));
        match &self.socket {
            Socket::Unix(file) => {
                self.speak(UnixStream::connect(file).await.map_err(away)?, method, path, body, pass).await
            }
            Socket::Tcp(address) => {
                self.speak(TcpStream::connect(address).await.map_err(away)?, method, path, body, pass).await
            }
        }
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        body: Option<&Value>,
        pass: Option<&str>,
    ) -> Result<(Response<Incoming>, Connection), Error> {
        let broken = |error: &dyn std::fmt::Display| Error::Away(format!("the engine does not answer: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let connection = Connection(tokio::spawn(async move {
            let _ = connection.await; // whoever waits for the answer is told
        }));
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "docker");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(pass) = pass {
            request = request.header("x-registry-auth", pass);
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(bytes)).map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok((answer, connection))
    }

    /// Why it cannot be connected to, and what to do.
    fn advice(&self, error: &std::io::Error) -> String {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                "no Docker Engine listens there; start it, or correct `docker` in the environment's file"
            }
            std::io::ErrorKind::PermissionDenied => {
                "this user may not use it; add it to the engine's group (often `docker`), or name the socket of a rootless engine"
            }
            _ => "look at the engine's log",
        };
        format!("{}: {error}; {what}", self.place())
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Err(Error::Away(format!("the engine does not answer within {} s", limit.as_secs_f64())));
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| late())
}

fn refused(status: StatusCode, bytes: &[u8]) -> Error {
    let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let why = said["message"].as_str().map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
    Error::Refused { status: status.as_u16(), why: shown(&why) }
}

fn shown(why: &str) -> String {
    why.trim().chars().take(1_000).collect::<String>().escape_debug().to_string()
}

/// Reads a pull's progress, a line of JSON after the other, to its end.
async fn follow(mut body: Incoming) -> Result<Pulled, Error> {
    let (mut rest, mut pulled) = (Vec::new(), Pulled::default());
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return note(&rest, &mut pulled).map(|()| pulled),
            Ok(Some(Err(error))) => return Err(Error::Away(format!("the pull broke off: {error}"))),
            Err(_) => return Err(Error::Away(format!("nothing was heard of the pull for {} s", SILENCE.as_secs()))),
        };
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            note(&line, &mut pulled)?;
        }
        if rest.len() > MOST_LINE {
            return Err(Error::Away(format!("a line of its progress is longer than {MOST_LINE} bytes")));
        }
    }
}

/// Takes up one line of a pull's progress.
fn note(line: &[u8], pulled: &mut Pulled) -> Result<(), Error> {
    let said: Value = serde_json::from_slice(line).unwrap_or_default();
    if let Some(why) = said["error"].as_str().or_else(|| said["errorDetail"]["message"].as_str()) {
        return Err(Error::Refused { status: 200, why: shown(why) });
    }
    match said["status"].as_str() {
        Some("Pull complete") => pulled.layers += 1,
        Some("Already exists") => pulled.reused += 1,
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_by_its_lines() {
        let mut pulled = Pulled::default();
        for line in [
            r#"{"status":"Already exists","progressDetail":{},"id":"a"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":1},"id":"b"}"#,
            r#"{"status":"Pull complete","id":"b"}"#,
            "no JSON",
            "",
        ] {
            note(line.as_bytes(), &mut pulled).unwrap();
        }
        assert_eq!(pulled, Pulled { layers: 1, reused: 1 });
        let told = note(br#"{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}"#, &mut pulled);
        assert!(told.unwrap_err().to_string().contains("manifest unknown"));
    }

    #[test]
    fn refusals_are_read_and_bounded() {
        let told = refused(StatusCode::CONFLICT, br#"{"message":"name in use\u001b[2J"}"#);
        assert!(told.is(StatusCode::CONFLICT) && !told.to_string().contains('\u{1b}'), "{told}");
        let long = refused(StatusCode::BAD_GATEWAY, &vec![b'x'; 1 << 20]).to_string();
        assert!(long.len() < 2_000, "{}", long.len());
    }
}
