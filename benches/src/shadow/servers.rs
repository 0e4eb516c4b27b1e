//! Shadows that behave as told, each on a thread of its own.
//!
//! Promises: they yield to everything else on their core: a real shadow has a machine of its own, and what it uses of ours must not be read as
//! the gateway's.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http1::find;

/// How a shadow behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Answers a constant at once.
    Healthy,
    /// Reads, and never answers.
    Hung,
    /// Answers without end.
    Flooding,
}

/// A shadow that runs until the process ends.
pub struct Shadow {
    /// Where it listens.
    pub address: SocketAddr,
    /// Requests that it read.
    pub requests: Arc<AtomicU64>,
}

/// Starts one on `core`.
pub fn start(mood: Mood, answer: &[u8], core: Option<usize>) -> Result<Shadow> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let shadow = Shadow { address: listener.local_addr()?, requests: Arc::default() };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
    let answer: Arc<[u8]> = [head.as_bytes(), answer].concat().into();
    let requests = shadow.requests.clone();
    std::thread::Builder::new().name("shadow".to_owned()).spawn(move || {
        if let Err(error) = serve(listener, mood, &answer, &requests, core) {
            eprintln!("shadow: {error:#}");
        }
    })?;
    Ok(shadow)
}

fn serve(
    listener: TcpListener,
    mood: Mood,
    answer: &Arc<[u8]>,
    requests: &Arc<AtomicU64>,
    core: Option<usize>,
) -> Result<()> {
    crate::process::pin(core)?;
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (answer, requests) = (answer.clone(), requests.clone());
            tokio::spawn(async move { connection(stream, mood, &answer, &requests).await });
        }
    })
}

async fn connection(mut stream: TcpStream, mood: Mood, answer: &[u8], requests: &AtomicU64) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        while let Some(length) = request(&buffer) {
            buffer.drain(..length);
            requests.fetch_add(1, Ordering::Relaxed);
            let going_on = match mood {
                Mood::Healthy => stream.write_all(answer).await.is_ok(),
                Mood::Hung => true,
                Mood::Flooding => flood(&mut stream).await.is_ok(),
            };
            if !going_on {
                return;
            }
        }
    }
}

/// Sends chunks until nobody takes them.
async fn flood(stream: &mut TcpStream) -> std::io::Result<()> {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    stream.write_all(head).await?;
    loop {
        stream.write_all(&chunk).await?;
    }
}

/// Length of the whole request at the start of `buffer`.
fn request(buffer: &[u8]) -> Option<usize> {
    let body_at = find(buffer, b"\r\n\r\n")? + 4;
    let mut length = 0;
    for line in buffer[..body_at].split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        if line[..colon].eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(line[colon + 1..].trim_ascii()).ok()?.parse().ok()?;
        }
    }
    (buffer.len() >= body_at + length).then_some(body_at + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Request;
    use std::io::{Read as _, Write as _};

    #[test]
    fn each_behaves_as_told() {
        let healthy = start(Mood::Healthy, b"{}", None).unwrap();
        let (status, body) = crate::process::ask(healthy.address, &Request::json("/", "{}")).unwrap();
        assert_eq!((status, body.as_slice(), healthy.requests.load(Ordering::Relaxed)), (200, b"{}".as_slice(), 1));
        let flooding = start(Mood::Flooding, b"", None).unwrap();
        let mut stream = std::net::TcpStream::connect(flooding.address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        stream.read_exact(&mut vec![0; 4 << 20]).unwrap();
        let hung = start(Mood::Hung, b"", None).unwrap();
        let mut stream = std::net::TcpStream::connect(hung.address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        while hung.requests.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
