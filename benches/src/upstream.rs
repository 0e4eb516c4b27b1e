//! A trivial server that answers a constant as fast as a socket allows: what gateways are measured in front of.
//!
//! Promises: it reads each request's head and body before it answers. Absent on purpose: everything else.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http1::find;

/// Answers on a free loopback port from a thread of its own (pinned to `core` if given) until the process ends.
pub fn start(body: &[u8], core: Option<usize>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let answer = answer(body);
    std::thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        if let Err(error) = crate::process::pin(core).and_then(|()| serve(listener, &answer)) {
            eprintln!("upstream: {error:#}");
        }
    })?;
    Ok(address)
}

/// Answers at `address` on the calling thread until the process ends.
pub fn serve_at(address: SocketAddr, body: &[u8]) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("could not listen on {address}"))?;
    serve(listener, &answer(body))
}

/// The bytes of the constant answer.
fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn serve(listener: TcpListener, answer: &[u8]) -> Result<()> {
    listener.set_nonblocking(true)?;
    let answer: std::sync::Arc<[u8]> = answer.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            tokio::spawn(async move { connection(stream, &answer).await });
        }
    })
}

async fn connection(mut stream: TcpStream, answer: &[u8]) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        while let Some((length, close)) = request(&buffer) {
            buffer.drain(..length);
            if stream.write_all(answer).await.is_err() || close {
                return;
            }
        }
    }
}

/// Length of the whole request at the start of `buffer`, and whether its sender wants the connection closed.
fn request(buffer: &[u8]) -> Option<(usize, bool)> {
    let body_at = find(buffer, b"\r\n\r\n")? + 4;
    let (mut length, mut close) = (0, false);
    for line in buffer[..body_at].split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value).ok()?.parse().ok()?;
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        }
    }
    (buffer.len() >= body_at + length).then_some((body_at + length, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_only_when_it_is_whole() {
        let whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}GET";
        assert_eq!(request(&whole[..whole.len() - 4]), None);
        assert_eq!(request(whole), Some((whole.len() - 3, false)));
    }
}
