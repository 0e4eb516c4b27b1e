//! A gRPC instance that echoes, and a gRPC caller, both on hyper.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

/// A body whose frames are sent as the test goes on; it ends when the sender is dropped.
pub struct Channel(mpsc::UnboundedReceiver<Frame<Bytes>>);
pub type Sender = mpsc::UnboundedSender<Frame<Bytes>>;

pub fn channel() -> (Sender, Channel) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Channel(receiver))
}

/// A body of these bytes.
pub fn whole(bytes: Vec<u8>) -> Channel {
    let (sender, body) = channel();
    sender.send(Frame::data(bytes.into())).unwrap();
    body
}

impl Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

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

/// A caller with one connection.
#[derive(Clone)]
pub struct GrpcCaller(SendRequest<Channel>);

/// A whole answer.
#[derive(Debug)]
pub struct GrpcReply {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl GrpcReply {
    /// `grpc-status` from wherever it is.
    pub fn status(&self) -> &str {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.map_or("none", |status| status.to_str().unwrap())
    }

    pub fn message(&self) -> &str {
        self.headers.get("grpc-message").map_or("", |message| message.to_str().unwrap())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl GrpcCaller {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Whether a call could be begun and came to its end.
    pub async fn try_call(&mut self, path: &str, bytes: Vec<u8>) -> bool {
        let request = Request::post(format!("http://grpc.test{path}")).header("content-type", "application/grpc");
        match self.0.send_request(request.body(whole(bytes)).unwrap()).await {
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
        let mut request = Request::post(format!("http://grpc.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.0.send_request(request.body(body).unwrap()).await.unwrap()
    }

    /// A call with one message, to its end.
    pub async fn call(&mut self, path: &str, bytes: Vec<u8>) -> GrpcReply {
        finish(self.start(path, whole(bytes)).await).await
    }
}

pub async fn finish(response: Response<Incoming>) -> GrpcReply {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    GrpcReply { headers: parts.headers, body: collected.to_bytes().to_vec(), trailers }
}
