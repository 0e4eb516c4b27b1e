//! A caller that speaks HTTP/1.1 on one connection, and sees everything.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

pub struct Caller {
    pub stream: BufReader<TcpStream>,
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: BTreeMap<String, String>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Caller {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Reply> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: wine.test\r\n{headers}content-length: {length}\r\n\r\n");
        self.raw(&[head.as_bytes(), body].concat())?;
        self.reply()
    }

    pub fn post(&mut self, path: &str, body: &[u8]) -> Reply {
        self.send("POST", path, "", body).unwrap()
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, "", b"").unwrap()
    }

    /// Status and header fields of the next answer.
    pub fn head(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {line:?}")))?;
        Ok(Reply { status, headers: self.fields()?, body: Vec::new(), trailers: BTreeMap::new() })
    }

    fn fields(&mut self) -> io::Result<BTreeMap<String, String>> {
        let mut fields = BTreeMap::new();
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) => fields.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
                None => return Ok(fields),
            };
        }
    }

    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// The next answer, whole.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut reply = self.head()?;
        if reply.header("transfer-encoding") == "chunked" {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                reply.body.extend(chunk);
            }
            reply.trailers = self.fields()?;
        } else if let Some(length) = reply.headers.get("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut reply.body)?;
        }
        Ok(reply)
    }

    /// The next chunk of a chunked body; empty at the end.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        if length > 0 {
            self.line()?;
        }
        Ok(chunk)
    }

    /// Everything until the gateway closes.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset after the answer is an end as well.
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}
