//! Just enough HTTP/1.1 for a load generator: request bytes made once, answers found in a buffer.
//!
//! Absent on purpose: pipelining, 1xx answers, trailers. A benchmark's servers send none.

use anyhow::{Result, bail};
use bytes::Bytes;

/// The largest answer that is read.
const LARGEST: usize = 256 * 1024 * 1024;

/// What a request is made of.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Method; `POST` when there is a body, else `GET`.
    pub path: String,
    /// Extra headers.
    pub headers: Vec<(String, String)>,
    /// Body; none sends a `GET`.
    pub body: Option<Bytes>,
}

impl Request {
    /// A `GET` of `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// A `POST` of JSON.
    pub fn json(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { path: path.into(), headers, body: Some(body.into()) }
    }

    /// The bytes on the wire; `close` asks the server to end the connection afterwards.
    pub fn encode(&self, host: &str, close: bool) -> Bytes {
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let mut head = format!("{method} {} HTTP/1.1\r\nHost: {host}\r\n", self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str(if close { "Connection: close\r\n\r\n" } else { "\r\n" });
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes.into()
    }
}

/// A complete answer at the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Where the body starts.
    pub body_at: usize,
    /// Length of the whole answer.
    pub length: usize,
    /// The server will end the connection.
    pub close: bool,
    /// The body is in chunks (still encoded in the buffer).
    pub chunked: bool,
}

/// Finds a complete answer at the start of `buffer`; `None` while bytes are missing.
pub fn parse(buffer: &[u8]) -> Result<Option<Answer>> {
    let Some(body_at) = find(buffer, b"\r\n\r\n").map(|at| at + 4) else {
        if buffer.len() > 64 * 1024 {
            bail!("an answer's head is longer than 64 KiB");
        }
        return Ok(None);
    };
    let head = &buffer[..body_at];
    let status = head
        .get(9..12)
        .filter(|_| head.starts_with(b"HTTP/1."))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let Some(status) = status else { bail!("this is no HTTP/1 answer") };
    let (mut length, mut close, mut chunked) = (None, head.starts_with(b"HTTP/1.0"), false);
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value).ok().and_then(|value| value.parse::<usize>().ok());
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = value.eq_ignore_ascii_case(b"chunked");
        }
    }
    let end = match (chunked, length) {
        (true, _) => chunks_end(buffer, body_at)?,
        (false, Some(length)) if length <= LARGEST => Some(body_at + length),
        (false, Some(length)) => bail!("an answer of {length} bytes is more than this reads"),
        (false, None) if matches!(status, 204 | 304) => Some(body_at),
        (false, None) => bail!("an answer has neither Content-Length nor chunks"),
    };
    Ok(end.filter(|&end| end <= buffer.len()).map(|length| Answer { status, body_at, length, close, chunked }))
}

/// Where a chunked body ends; `None` while bytes are missing.
fn chunks_end(buffer: &[u8], mut at: usize) -> Result<Option<usize>> {
    loop {
        let Some((size, data_at)) = chunk_head(buffer, at)? else { return Ok(None) };
        at = data_at + size + 2;
        if size == 0 {
            return Ok(Some(at));
        }
        if at > buffer.len() {
            return Ok(None);
        }
    }
}

/// Size of the chunk at `at`, and where its data starts.
fn chunk_head(buffer: &[u8], at: usize) -> Result<Option<(usize, usize)>> {
    let Some(line) = find(&buffer[at.min(buffer.len())..], b"\r\n") else { return Ok(None) };
    let digits = std::str::from_utf8(&buffer[at..at + line])?.split(';').next().unwrap_or_default();
    match usize::from_str_radix(digits.trim(), 16) {
        Ok(size) if size <= LARGEST => Ok(Some((size, at + line + 2))),
        _ => bail!("a chunk's size is no sensible number"),
    }
}

impl Answer {
    /// The body without its chunks' frames.
    pub fn body(&self, buffer: &[u8]) -> Vec<u8> {
        if !self.chunked {
            return buffer[self.body_at..self.length].to_vec();
        }
        let (mut body, mut at) = (Vec::new(), self.body_at);
        while let Ok(Some((size, data_at))) = chunk_head(buffer, at) {
            if size == 0 {
                break;
            }
            body.extend_from_slice(&buffer[data_at..data_at + size]);
            at = data_at + size + 2;
        }
        body
    }
}

/// First place of `needle` in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_only_when_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-length: 5\r\nConnection: close\r\n\r\nhello";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let answer = parse(whole).unwrap().unwrap();
        assert_eq!((answer.status, answer.length, answer.close), (200, whole.len(), true));
        assert_eq!(answer.body(whole), b"hello");
    }

    #[test]
    fn chunks_are_followed_to_their_end() {
        let whole =
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let answer = parse(whole).unwrap().unwrap();
        assert_eq!((answer.status, answer.length), (503, whole.len()));
        assert_eq!(answer.body(whole), b"abc0123456789");
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_with_a_body_is_a_post() {
        let bytes = Request::json("/x", "{}").encode("h", true);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text.starts_with("POST /x HTTP/1.1\r\nHost: h\r\n") && text.ends_with("Connection: close\r\n\r\n{}"),
            "{text}"
        );
    }
}
