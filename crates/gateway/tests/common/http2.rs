//! A caller that speaks HTTP/2 from its first byte, for REST and gRPC, and bodies that are sent as a test goes on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
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

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Http2(SendRequest<Channel>);

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Reply {
    /// A header field; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Begins a request with a body of this content type; the answer's head.
    pub async fn start(
        &mut self,
        path: &str,
        kind: &str,
        fields: &HashMap<&'static str, &'static str>,
        body: Channel,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let mut request = Request::post(format!("http://wine.test{path}")).header("content-type", kind);
        request = request.header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.0.ready().await?;
        self.0.send_request(request.body(body).unwrap()).await
    }

    /// A request in JSON, to its end.
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Result<Reply, hyper::Error> {
        finish(self.start(path, "application/json", &HashMap::new(), whole(body.to_vec())).await?).await
    }
}

/// The rest of an answer.
pub async fn finish(response: Response<Incoming>) -> Result<Reply, hyper::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes().to_vec();
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}
