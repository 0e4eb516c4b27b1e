//! A small HTTP/1.1 caller for traffic that we make: one connection, kept alive, every failure visible.
//!
//! Promises: nothing is tried again behind the caller's back, so that a failed request is counted as one.
//! Absent on purpose: redirects, proxies, TLS, pipelining.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer that is read, in bytes.
const LARGEST: usize = 16 << 20;
/// How long an answer may take: longer than the gateway's own limit for a parked request.
const PATIENCE: Duration = Duration::from_secs(35);

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header `modelyard-revision`.
    pub revision: Option<u32>,
    /// Header `x-request-id`.
    pub id: Option<String>,
    /// Body.
    pub body: Vec<u8>,
    /// Whether the other side closes the connection.
    pub close: bool,
}

/// A caller that keeps its connection while the other side does.
#[derive(Debug)]
pub struct Caller {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Caller {
    /// A caller without a connection yet.
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Lets go of the connection; the next call opens a fresh one.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// One `POST` of a JSON body.
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Answer> {
        self.ask("POST", path, body)
    }

    /// One `GET`.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask("GET", path, b"")
    }

    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        connection.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let answer = read(&mut connection)?;
        if !answer.close {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    // 64 KiB: no honest line of a head is longer.
    connection.by_ref().take(64 << 10).read_line(&mut line)?;
    match line.pop() {
        Some('\n') => Ok(line.trim_end_matches('\r').to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the answer was whole")),
    }
}

fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let status_line = line(connection)?;
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut answer = Answer { status: status.ok_or_else(|| garbled("no status line"))?, ..Answer::default() };
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(connection)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| garbled("a header without a colon"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse::<usize>().map_err(|_| garbled("no content length"))?),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => answer.close = value.eq_ignore_ascii_case("close"),
            "x-request-id" => answer.id = Some(value.to_owned()),
            "modelyard-revision" => answer.revision = value.parse().ok(),
            _ => {}
        }
    }
    match length {
        _ if chunked => read_chunks(connection, &mut answer.body)?,
        Some(length) => append(connection, length, &mut answer.body)?,
        None => return Err(garbled("an answer of unknown length")),
    }
    Ok(answer)
}

fn append(connection: &mut BufReader<TcpStream>, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len().saturating_add(length) > LARGEST {
        return Err(garbled("the answer is too large"));
    }
    let from = body.len();
    body.resize(from + length, 0);
    connection.read_exact(&mut body[from..])
}

fn read_chunks(connection: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let head = line(connection)?;
        let size = head.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| garbled("no chunk length"))?;
        if size > 0 {
            append(connection, size, body)?;
        }
        // After a chunk comes an empty line; after the last one trailers, and then an empty line.
        while !line(connection)?.is_empty() {}
        if size == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered_with(answers: &'static [&'static str]) -> Caller {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let caller = Caller::new(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        caller
    }

    #[test]
    fn a_connection_is_kept_over_both_kinds_of_body() {
        let mut caller = answered_with(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nModelyard-Revision: 7\r\nX-Request-Id: a-1\r\n\r\nok",
            "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        ]);
        let first = caller.post("/", b"{}").unwrap();
        assert_eq!((first.status, first.revision, first.body.as_slice()), (200, Some(7), b"ok".as_slice()));
        assert_eq!(first.id.as_deref(), Some("a-1"));
        let second = caller.post("/", b"{}").unwrap();
        assert_eq!((second.status, second.body.as_slice()), (503, b"abcde".as_slice()));
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let mut caller = answered_with(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"]);
        assert_eq!(caller.post("/", b"{}").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
