//! Chunked transfer coding, read as it comes.
//!
//! Promises: never panics, never holds more than one line or the trailers. Source: RFC 9112, section 7.1.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limits;

/// Longest line with a chunk's size and extensions.
const SIZE_LINE: usize = 1024;

/// What comes next of a chunked body.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// Data.
    Data(Bytes),
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
}

/// Where in a chunked body the reader is.
#[derive(Debug, Default)]
pub enum Chunks {
    /// Before a chunk's size.
    #[default]
    Size,
    /// Within a chunk: bytes left.
    Data(u64),
    /// After a chunk's data: its line end.
    LineEnd,
    /// After the last chunk.
    Trailers,
}

impl Chunks {
    /// Reads on.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, &'static str> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = line(buffer, SIZE_LINE)? else { return Ok(Step::More) };
                    *self = match size(&line)? {
                        0 => Self::Trailers,
                        size => Self::Data(size),
                    };
                }
                Self::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Step::More);
                    }
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    *left -= length as u64;
                    if *left == 0 {
                        *self = Self::LineEnd;
                    }
                    return Ok(Step::Data(buffer.split_to(length).freeze()));
                }
                Self::LineEnd => match buffer.first_chunk::<2>() {
                    None => return Ok(Step::More),
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err("a chunk is longer than its size"),
                },
                Self::Trailers => return trailers(buffer),
            }
        }
    }
}

/// The next line without its end; `None` while it is not whole.
fn line(buffer: &mut BytesMut, most: usize) -> Result<Option<BytesMut>, &'static str> {
    match buffer.iter().take(most).position(|&byte| byte == b'\n') {
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => {
            let line = buffer.split_to(end - 1);
            buffer.advance(2);
            Ok(Some(line))
        }
        Some(_) => Err("a chunk's size line does not end in CR LF"),
        None if buffer.len() >= most => Err("a chunk's size line is too long"),
        None => Ok(None),
    }
}

/// A chunk's size: 1 to 16 hexadecimal digits; extensions are dropped.
fn size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("a chunk's size is no hexadecimal number");
    }
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.ok_or("a chunk's size is no hexadecimal number")
}

fn trailers(buffer: &mut BytesMut) -> Result<Step, &'static str> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Step::End(None));
    }
    let mut fields = [httparse::EMPTY_HEADER; 32];
    match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a trailer's name is invalid")?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| "a trailer's value is invalid")?;
                trailers.append(name, value);
            }
            buffer.advance(length);
            Ok(Step::End(Some(trailers)))
        }
        Ok(httparse::Status::Partial) if buffer.len() < limits::HEAD => Ok(Step::More),
        Ok(httparse::Status::Partial) => Err("the trailers are too long"),
        Err(_) => Err("the trailers are malformed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that comes of `pieces`: data, trailers, whether the end came.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, bool), &'static str> {
        let (mut chunks, mut buffer, mut data) = (Chunks::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match chunks.step(&mut buffer)? {
                    Step::More => break,
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::End(trailers) => return Ok((data, trailers, true)),
                }
            }
        }
        Ok((data, None, false))
    }

    const WHOLE: &[u8] = b"4\r\nwine\r\nA;note=\"x\"\r\n0123456789\r\n0\r\nx-sum: 1\r\nx-end: 2\r\n\r\n";

    proptest! {
        #[test]
        fn any_cut_reads_the_same(cut in 0..WHOLE.len(), other in 0..WHOLE.len()) {
            let (a, b) = (cut.min(other), cut.max(other));
            let (data, trailers, ended) = read(&[&WHOLE[..a], &WHOLE[a..b], &WHOLE[b..]]).unwrap();
            prop_assert_eq!(data, b"wine0123456789");
            prop_assert!(ended);
            prop_assert_eq!(trailers.unwrap().len(), 2);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[&bytes]);
        }
    }

    #[test]
    fn ambiguous_sizes_are_refused() {
        for bad in
            ["-1\r\n", "0x4\r\n", "+4\r\n", " 4\r\n", "\r\n", "4\nwine", "00000000000000001\r\n", "4\r\nwine0\r\n"]
        {
            assert!(read(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        assert!(read(&[&[b'0'; 2000]]).is_err(), "a size line has a limit");
    }
}
