//! Protocol Buffers' wire format as a stream: fields one by one, what is not wanted skipped without being read.
//!
//! Promises: never reads past the end of the enclosing message, whatever a length says; memory is bounded by what is asked for.
//! Source: protobuf.dev, "Encoding". Groups (wire types 3 and 4) are refused: no model format has them.

use std::io::{BufRead, BufReader, Read, Seek};

/// Why a stream of fields ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The bytes are no message.
    Broken(String),
    /// They cannot be read.
    Unreadable(String),
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A number.
    Varint(u64),
    /// Four or eight bytes; skipped.
    Fixed,
    /// Bytes or a message that ends at this position.
    Until(u64),
}

/// A stream of fields.
pub(crate) struct Wire<R> {
    source: BufReader<R>,
    at: u64,
}

fn broken(why: impl Into<String>) -> WireError {
    WireError::Broken(why.into())
}

impl<R: Read + Seek> Wire<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source: BufReader::with_capacity(64 << 10, source), at: 0 }
    }

    /// The first bytes, which stay to be read.
    pub(crate) fn peek(&mut self) -> Result<&[u8], WireError> {
        self.source.fill_buf().map_err(|error| WireError::Unreadable(error.to_string()))
    }

    /// The next field of the message that ends at `end`; `None` at its end. Content that is not taken must be skipped.
    pub(crate) fn field(&mut self, end: u64) -> Result<Option<(u64, Content)>, WireError> {
        if self.at == end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint(end)?;
        let content = match tag & 7 {
            0 => Content::Varint(self.varint(end)?),
            1 => self.fixed(8, end)?,
            5 => self.fixed(4, end)?,
            2 => {
                let length = self.varint(end)?;
                let left = end - self.at;
                if length > left {
                    return Err(broken(format!("the field at byte {start} has {length} bytes, and {left} are left")));
                }
                Content::Until(self.at + length)
            }
            other => return Err(broken(format!("byte {start} begins no field (wire type {other})"))),
        };
        match tag >> 3 {
            0 => Err(broken(format!("byte {start} begins no field (number 0)"))),
            number => Ok(Some((number, content))),
        }
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let mut byte = [0];
        self.source.read_exact(&mut byte).map_err(|error| WireError::Unreadable(error.to_string()))?;
        self.at += 1;
        Ok(byte[0])
    }

    fn varint(&mut self, end: u64) -> Result<u64, WireError> {
        let start = self.at;
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            if self.at == end {
                return Err(broken(format!("it ends within the number at byte {start}")));
            }
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken(format!("the number at byte {start} is too long")))
    }

    fn fixed(&mut self, length: u64, end: u64) -> Result<Content, WireError> {
        match self.at + length <= end {
            true => self.skip(self.at + length).map(|()| Content::Fixed),
            false => Err(broken(format!("it ends within the number at byte {}", self.at))),
        }
    }

    /// Goes on at `end` without reading what is before it.
    pub(crate) fn skip(&mut self, end: u64) -> Result<(), WireError> {
        let distance = i64::try_from(end - self.at).map_err(|_| broken("a length is impossible"))?;
        self.source.seek_relative(distance).map_err(|error| WireError::Unreadable(error.to_string()))?;
        self.at = end;
        Ok(())
    }

    /// Reads everything up to `end`; the caller has checked the length against its limit.
    pub(crate) fn bytes(&mut self, end: u64) -> Result<Vec<u8>, WireError> {
        let mut bytes = vec![0; usize::try_from(end - self.at).map_err(|_| broken("a length is impossible"))?];
        self.source.read_exact(&mut bytes).map_err(|error| WireError::Unreadable(error.to_string()))?;
        self.at = end;
        Ok(bytes)
    }

    /// Bytes left up to `end`.
    pub(crate) fn left(&self, end: u64) -> u64 {
        end - self.at
    }
}
