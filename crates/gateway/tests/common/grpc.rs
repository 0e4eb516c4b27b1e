//! A gRPC instance that echoes, and a gRPC caller.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

pub use super::http2::{Channel, channel, whole};
use super::http2::{Http2, Reply};

/// What the echo does with the next calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Echo,
    /// Trailers only, with this status.
    Refuse(u16),
}

/// An instance that sends every frame back and ends with status 0.
pub struct Echo {
    pub address: SocketAddr,
    pub calls: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    pub seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    pub mood: Arc<Mutex<Mood>>,
    pub label: &'static str,
}

impl Echo {
    pub async fn start(label: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let echo = Self {
            address: listener.local_addr().unwrap(),
            calls: Arc::default(),
            connections: Arc::default(),
            seen: Arc::default(),
            mood: Arc::new(Mutex::new(Mood::Echo)),
            label,
        };
        let (calls, connections, seen, mood) =
            (echo.calls.clone(), echo.connections.clone(), echo.seen.clone(), echo.mood.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (calls, seen, mood) = (calls.clone(), seen.clone(), mood.clone());
                let answer = service_fn(move |request: Request<Incoming>| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    seen.lock().unwrap().push((request.uri().path().to_owned(), request.headers().clone()));
                    let mood = *mood.lock().unwrap();
                    async move { Ok::<_, Infallible>(answer(request, mood, label)) }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
            }
        });
        echo
    }

    pub fn count(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn answer(request: Request<Incoming>, mood: Mood, label: &'static str) -> Response<Channel> {
    let (sender, body) = channel();
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-label", HeaderValue::from_static(label));
    if let Mood::Refuse(status) = mood {
        response.headers_mut().insert("grpc-status", HeaderValue::from(status));
        return response;
    }
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        while let Some(Ok(frame)) = incoming.frame().await {
            // An empty frame only says that the end is near; peers count those as an attack.
            let is_empty = frame.data_ref().is_some_and(Bytes::is_empty);
            if !is_empty && sender.send(frame).is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = sender.send(Frame::trailers(trailers)); // the caller may have left
    });
    response
}

/// A caller with one connection. Clones share it.
#[derive(Clone)]
pub struct GrpcCaller(Http2);

/// A whole answer.
#[derive(Debug)]
pub struct GrpcReply(Reply);

impl std::ops::Deref for GrpcReply {
    type Target = Reply;
    fn deref(&self) -> &Reply {
        &self.0
    }
}

impl GrpcReply {
    /// `grpc-status` from wherever it is.
    pub fn status(&self) -> &str {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.map_or("none", |status| status.to_str().unwrap())
    }

    pub fn message(&self) -> &str {
        self.header("grpc-message")
    }
}

impl GrpcCaller {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(Http2::connect(address).await)
    }

    /// Whether a call could be begun and came to its end.
    pub async fn try_call(&mut self, path: &str, bytes: Vec<u8>) -> bool {
        match self.0.start(path, "application/grpc", &HashMap::new(), whole(bytes)).await {
            Ok(response) => finish(response).await.status() == "0",
            Err(_) => false,
        }
    }

    /// Starts a call; the answer's head.
    pub async fn start(&mut self, path: &str, body: Channel) -> Response<Incoming> {
        self.start_with(path, body, &HashMap::new()).await
    }

    pub async fn start_with(
        &mut self,
        path: &str,
        body: Channel,
        fields: &HashMap<&'static str, &'static str>,
    ) -> Response<Incoming> {
        self.0.start(path, "application/grpc", fields, body).await.unwrap()
    }

    /// A call with one message, to its end.
    pub async fn call(&mut self, path: &str, bytes: Vec<u8>) -> GrpcReply {
        finish(self.start(path, whole(bytes)).await).await
    }
}

pub async fn finish(response: Response<Incoming>) -> GrpcReply {
    GrpcReply(super::http2::finish(response).await.unwrap())
}
