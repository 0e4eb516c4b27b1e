//! HTTP for the object store, through the client that the registry has anyway: one TLS for everything.
//!
//! Promises: bodies stream both ways without being copied whole; nobody waits longer than a minute for an answer to begin.
//! Each request has a thread while it lasts, of the runtime that the stores have to themselves.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Method, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use tokio::sync::{mpsc, oneshot};

/// Bytes of an answer that are handed over at once.
const PIECE: usize = 256 << 10;

/// Makes [`Client`]s.
#[derive(Debug)]
pub struct Connector;

#[derive(Debug)]
struct Client(ureq::Agent);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let configuration = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .max_redirects(0)
            .allow_non_standard_methods(true)
            .build();
        Ok(HttpClient::new(Client(configuration.new_agent())))
    }
}

#[async_trait::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.aggregate();
        let (agent, length) = (self.0.clone(), body.remaining());
        let (answered, answer) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let sent = match parts.method {
                Method::PUT | Method::POST => {
                    parts.headers.insert(header::CONTENT_LENGTH, length.into());
                    agent.run(http::Request::from_parts(parts, ureq::SendBody::from_owned_reader(body.reader())))
                }
                _ => agent.run(http::Request::from_parts(parts, ())),
            };
            match sent {
                Err(error) => drop(answered.send(Err(failed(error)))),
                Ok(answer) => {
                    let (parts, body) = answer.into_parts();
                    let (sender, receiver) = mpsc::channel(1);
                    let stream = http_body_util::StreamBody::new(Pieces(receiver));
                    let response = HttpResponse::from_parts(parts, HttpResponseBody::new(stream));
                    if answered.send(Ok(response)).is_ok() {
                        forward(body, &sender);
                    }
                }
            }
        });
        answer.await.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?
    }
}

type Piece = Result<Frame<Bytes>, HttpError>;

/// Hands an answer's body over, piece by piece, until nobody wants it any more.
fn forward(body: ureq::Body, sender: &mpsc::Sender<Piece>) {
    let mut body = body.into_reader();
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let piece = match body.by_ref().take(PIECE as u64).read_to_end(&mut piece) {
            Ok(0) => return,
            Ok(_) => Ok(Frame::data(Bytes::from(piece))),
            Err(error) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
        };
        let stop = piece.is_err();
        if sender.blocking_send(piece).is_err() || stop {
            return;
        }
    }
}

fn failed(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(source) if source.kind() == io::ErrorKind::ConnectionRefused => HttpErrorKind::Connect,
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

struct Pieces(mpsc::Receiver<Piece>);

impl futures_util::Stream for Pieces {
    type Item = Piece;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
