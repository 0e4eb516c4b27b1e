//! The head of an instance's answer.
//!
//! Promises: an answer with two framings, with contradicting lengths, or beyond the limits is refused, so that no two readers of it
//! can disagree. Hop-by-hop fields end here. Source: RFC 9112 sections 6 and 9, RFC 9110 section 7.6.1.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::headers;
use crate::limits;

/// How the body that follows is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes.
    Close,
}

/// An answer's head.
#[derive(Debug)]
pub struct AnswerHead {
    /// Its status, never 1xx.
    pub status: StatusCode,
    /// Its fields, end-to-end ones only.
    pub headers: HeaderMap,
    /// How its body is delimited.
    pub framing: Framing,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

/// What the fields say about the connection.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    coded: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    /// Fields that `Connection` names: they end here as well.
    named: Vec<HeaderName>,
}

/// Takes the head of the answer to a `method` request from the buffer; `None` while it is not whole. Interim answers (1xx) are dropped.
///
/// # Errors
/// What is wrong with it.
pub fn take(buffer: &mut BytesMut, method: &Method) -> Result<Option<AnswerHead>, &'static str> {
    while let Some((length, version, status, fields)) = parse(buffer)? {
        let bytes = buffer.split_to(length).freeze();
        let status = StatusCode::from_u16(status).map_err(|_| "its status is no number from 100 to 999")?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("it switches protocols unasked");
        }
        if !status.is_informational() {
            return build(&bytes, version, status, fields, method).map(Some);
        }
    }
    Ok(None)
}

type Field = (HeaderName, Range<usize>);

/// Length of a head, minor version, status, and where the fields' values are.
type Parsed = (usize, u8, u16, Vec<Field>);

fn parse(buffer: &BytesMut) -> Result<Option<Parsed>, &'static str> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut room = [const { MaybeUninit::uninit() }; limits::HEADERS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, buffer, &mut room);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() <= limits::HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("its head is too long"),
        Err(httparse::Error::TooManyHeaders) => return Err("it has too many header fields"),
        Err(_) => return Err("its head is malformed"),
    };
    let start = buffer.as_ptr() as usize;
    let mut fields = Vec::with_capacity(answer.headers.len());
    for field in &*answer.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a header field's name is invalid")?;
        let at = field.value.as_ptr() as usize - start;
        fields.push((name, at..at + field.value.len()));
    }
    Ok(Some((length, answer.version.unwrap_or(0), answer.code.unwrap_or(0), fields)))
}

fn build(
    bytes: &Bytes,
    version: u8,
    status: StatusCode,
    fields: Vec<Field>,
    method: &Method,
) -> Result<AnswerHead, &'static str> {
    let mut said = Said::default();
    // Room for what the gateway adds, so that the map does not grow later.
    let mut map = HeaderMap::with_capacity(fields.len() + 4);
    for (name, range) in fields {
        let value =
            HeaderValue::from_maybe_shared(bytes.slice(range)).map_err(|_| "a header field's value is invalid")?;
        if said.listen(&name, &value)? && !headers::is_hop_by_hop(&name) {
            map.append(name, value);
        }
    }
    for name in &said.named {
        map.remove(name);
    }
    let framing = said.framing(status, method)?;
    let keep_alive = framing != Framing::Close && !said.close && (version >= 1 || said.keep_alive);
    Ok(AnswerHead { status, headers: map, framing, keep_alive })
}

impl Said {
    /// Notes what a field says about the connection. Returns whether it is worth keeping.
    fn listen(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, &'static str> {
        if *name == header::CONTENT_LENGTH {
            let length = content_length(value.as_bytes()).ok_or("its content-length is no number")?;
            if self.length.is_some_and(|other| other != length) {
                return Err("it has two different content-lengths");
            }
            return Ok(self.length.replace(length).is_none());
        }
        if *name == header::TRANSFER_ENCODING {
            self.coded = true;
            let last = value.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
            self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        } else if *name == header::CONNECTION {
            for token in headers::tokens(value) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                self.named.extend(headers::named(token));
            }
        }
        Ok(true)
    }

    fn framing(&self, status: StatusCode, method: &Method) -> Result<Framing, &'static str> {
        if self.coded && self.length.is_some() {
            return Err("it has both a transfer-encoding and a content-length");
        }
        if method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Ok(Framing::None);
        }
        Ok(match (self.coded, self.chunked, self.length) {
            (true, true, _) => Framing::Chunked,
            (true, false, _) => Framing::Close,
            (false, _, Some(0)) => Framing::None,
            (false, _, Some(length)) => Framing::Length(length),
            (false, _, None) => Framing::Close,
        })
    }
}

/// Digits only: no sign, no list, no blank.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() < 20 && value.iter().all(u8::is_ascii_digit);
    digits.then(|| value.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<AnswerHead>, &'static str> {
        take(&mut BytesMut::from(text), &Method::POST)
    }

    fn framing(fields: &str) -> Result<Framing, &'static str> {
        read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|head| head.unwrap().framing)
    }

    #[test]
    fn bodies_are_delimited_as_the_rules_say() {
        assert_eq!(framing("content-length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("content-length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("transfer-encoding: gzip, chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing("transfer-encoding: gzip\r\n"), Ok(Framing::Close));
        assert_eq!(framing(""), Ok(Framing::Close));
        let head = take(&mut BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), &Method::HEAD);
        assert_eq!(head.unwrap().unwrap().framing, Framing::None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: +5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding : chunked\r\n",
        ] {
            assert!(framing(bad).is_err(), "{bad}");
        }
        assert!(read("HTTP/1.1 101 Switching\r\n\r\n").is_err());
        assert!(read("SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_interim_answers_are_dropped() {
        let text = "HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nconnection: x-mine, keep-alive\r\nx-mine: 1\r\n\
            keep-alive: 5\r\nupgrade: h2c\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\nrest";
        let mut buffer = BytesMut::from(text);
        let head = take(&mut buffer, &Method::GET).unwrap().unwrap();
        let mut names: Vec<_> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "set-cookie", "set-cookie"]);
        assert!(head.keep_alive && head.framing == Framing::None);
        assert_eq!(&buffer[..], b"rest");
    }

    #[test]
    fn old_and_closing_connections_are_not_kept() {
        let keep = |text: &str| read(text).unwrap().unwrap().keep_alive;
        assert!(!keep("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n"));
        assert!(keep("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n"));
        assert!(!keep("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: foo, Close\r\n\r\n"));
    }

    #[test]
    fn heads_have_limits() {
        let many = "x: 1\r\n".repeat(limits::HEADERS + 1);
        assert!(framing(&many).is_err());
        assert!(read(&format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(limits::HEAD))).is_err());
        assert!(read("HTTP/1.1 200 OK\r\nx: 1\r\n").unwrap().is_none());
    }
}
