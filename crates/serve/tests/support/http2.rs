//! A caller that speaks HTTP/2 from its first byte, for REST and gRPC.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Http2(SendRequest<Full<Bytes>>);

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `grpc-status`, from wherever it is.
    pub fn grpc_status(&self) -> &str {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.map_or("none", |status| status.to_str().unwrap())
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

    pub async fn send(&mut self, method: &str, path: &str, kind: &str, body: Bytes) -> Result<Reply, hyper::Error> {
        let request = Request::builder().method(method).uri(format!("http://model.test{path}"));
        let request = request.header("content-type", kind).header("te", "trailers").body(Full::new(body)).unwrap();
        self.0.ready().await?;
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }

    pub async fn post(&mut self, path: &str, body: &serde_json::Value) -> Result<Reply, hyper::Error> {
        self.send("POST", path, "application/json", body.to_string().into()).await
    }

    /// A gRPC call with one message.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Result<Reply, hyper::Error> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        self.send("POST", path, "application/grpc", [&[0], &length[..], message].concat().into()).await
    }
}

/// A request of the inference protocol with one FP32 input `x`, as a message.
pub fn infer(model: &str, shape: &[u8], values: &[f32]) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    };
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let input = [field(1, b"x"), field(2, b"FP32"), field(3, shape)].concat();
    [field(1, model.as_bytes()), field(5, &input), field(7, &raw)].concat()
}
