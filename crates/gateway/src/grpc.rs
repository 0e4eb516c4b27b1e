//! gRPC as a router sees it: the model's name inside the first message, and how to refuse.
//!
//! Promises: reads no more of the message than is needed to find the name; never decodes tensors.
//! Source: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`), Protocol Buffers encoding; field 1 of every request of `inference.GRPCInferenceService`
//! that names a model is its name.

/// gRPC status codes that are used here. Source: `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// Unknown error.
    Unknown = 2,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// Took too long.
    DeadlineExceeded = 4,
    /// No such model.
    NotFound = 5,
    /// Too large.
    ResourceExhausted = 8,
    /// Not offered.
    Unimplemented = 12,
    /// The server's fault.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
}

/// How a gRPC status counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody.
    None,
    /// The caller.
    Caller,
    /// The model.
    Model,
}

/// Who is to blame for an answer with this `grpc-status`.
pub fn blame(status: &[u8]) -> Blame {
    match status {
        b"0" => Blame::None,
        b"2" | b"4" | b"13" | b"14" | b"15" => Blame::Model,
        _ => Blame::Caller,
    }
}

/// What the first bytes of a call say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek<'a> {
    /// The model's name.
    Name(&'a str),
    /// The message has no name, or an empty one.
    Nameless,
    /// More bytes are needed.
    More,
    /// The message is compressed, so its name cannot be read.
    Compressed,
    /// The bytes are no message.
    Malformed,
}

/// Looks for the model's name in the first message of a call.
pub fn peek_name(bytes: &[u8]) -> Peek<'_> {
    let [flag, length @ ..] = match bytes.first_chunk::<5>() {
        Some(prefix) => prefix,
        None => return Peek::More,
    };
    match flag {
        0 => {}
        1 => return Peek::Compressed,
        _ => return Peek::Malformed,
    }
    let length = u32::from_be_bytes(*length) as usize;
    let rest = &bytes[5..];
    let whole = rest.len() >= length;
    let message = &rest[..length.min(rest.len())];
    match find_name(message) {
        Found::Name(name) => match std::str::from_utf8(name) {
            Ok("") => Peek::Nameless,
            Ok(name) => Peek::Name(name),
            Err(_) => Peek::Malformed,
        },
        Found::End if whole => Peek::Nameless,
        Found::End | Found::Short if !whole => Peek::More,
        _ => Peek::Malformed,
    }
}

enum Found<'a> {
    Name(&'a [u8]),
    End,
    Short,
    Malformed,
}

/// Walks the fields of a message until field 1.
fn find_name(message: &[u8]) -> Found<'_> {
    let mut rest = message;
    loop {
        if rest.is_empty() {
            return Found::End;
        }
        let Some((tag, after)) = varint(rest) else { return short_or_malformed(rest) };
        let (field, kind) = (tag >> 3, tag & 7);
        let skip = match kind {
            0 => match varint(after) {
                Some((_, next)) => after.len() - next.len(),
                None => return short_or_malformed(after),
            },
            1 => 8,
            2 => match varint(after) {
                Some((length, value)) => {
                    let Ok(length) = usize::try_from(length) else { return Found::Malformed };
                    if field == 1 {
                        return value.get(..length).map_or(Found::Short, Found::Name);
                    }
                    match (after.len() - value.len()).checked_add(length) {
                        Some(skip) => skip,
                        None => return Found::Malformed,
                    }
                }
                None => return short_or_malformed(after),
            },
            5 => 4,
            _ => return Found::Malformed,
        };
        rest = match after.get(skip..) {
            Some(rest) => rest,
            None => return Found::Short,
        };
    }
}

fn short_or_malformed(rest: &[u8]) -> Found<'static> {
    if rest.len() < 10 { Found::Short } else { Found::Malformed }
}

/// A base-128 number and what follows it.
pub fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// The body of one message: not compressed, with its length before it.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// A text as `grpc-message` has it: everything but printable ASCII, and `%`, percent-encoded.
pub fn encode_message(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(name: &str) -> Vec<u8> {
        let mut message = vec![0x0a, name.len() as u8];
        message.extend_from_slice(name.as_bytes());
        message
    }

    #[test]
    fn the_name_is_found_before_the_message_is_whole() {
        let mut message = named("wine");
        message.extend_from_slice(&[0x2a, 0xff, 0x7f]); // field 5, 16 383 bytes that are not here yet
        message.resize(20_000, 0);
        let framed = frame(&message);
        assert_eq!(peek_name(&framed[..11]), Peek::Name("wine"));
        for short in 0..11 {
            assert_eq!(peek_name(&framed[..short]), Peek::More, "{short}");
        }
    }

    #[test]
    fn fields_before_the_name_are_skipped() {
        let mut message = vec![0x12, 1, b'1', 0x18, 0x96, 0x01, 0x25, 0, 0, 0, 0, 0x31, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend(named("wine"));
        assert_eq!(peek_name(&frame(&message)), Peek::Name("wine"));
    }

    #[test]
    fn what_cannot_be_routed_is_told_apart() {
        assert_eq!(peek_name(&frame(&[])), Peek::Nameless);
        assert_eq!(peek_name(&frame(&[0x0a, 0])), Peek::Nameless);
        assert_eq!(peek_name(&frame(&[0x0a, 9, b'x'])), Peek::Malformed);
        assert_eq!(peek_name(&frame(&[0x0b])), Peek::Malformed);
        assert_eq!(peek_name(&[1, 0, 0, 0, 0]), Peek::Compressed);
        assert_eq!(peek_name(&[7, 0, 0, 0, 0]), Peek::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = peek_name(&bytes);
            let _ = peek_name(&frame(&bytes));
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(encode_message("a %\nü"), "a %25%0A%C3%BC");
    }
}
