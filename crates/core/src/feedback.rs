//! Feedback as it is posted: true labels, rewards and whatever else is learnt of an answer later, by request id.
//!
//! One JSON object, a list of them, or one object a line (NDJSON). The gateway and the control plane read it by this one definition.
//! Promises: all or nothing; an error names the line or the item, and what to do. Bounded in length and number.
//! Absent on purpose: whether an answer with that id is known. Feedback may come before its answer is read.

use std::fmt;

use serde_json::{Map, Value};

/// Longest body, in bytes.
// 8 MiB: a day's labels of a busy service in a few posts.
pub const LIMIT: usize = 8 << 20;
/// Most items in one body.
pub const ITEMS: usize = 100_000;
/// Longest item, in bytes.
// 64 KiB: a label or a reward, not a document; each becomes a line of the spool.
pub const ITEM: usize = 64 << 10;
/// Longest request id, in bytes: what the gateway accepts as `x-request-id`.
pub const ID: usize = 128;

/// One item.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// The answer's request id.
    pub id: String,
    /// What was posted, the id included.
    pub body: Value,
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The body itself.
    Body,
    /// An item of the list, from 1.
    Item(usize),
    /// A line, from 1.
    Line(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("the body"),
            Self::Item(number) => write!(f, "item {number}"),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}

/// Why feedback is refused; nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not JSON.
    #[error("{place} is no JSON: {why}{}", hint(*.place))]
    NotJson {
        /// Where.
        place: Place,
        /// Why.
        why: String,
    },
    /// Not an object.
    #[error("{place} is no object; feedback looks like {{\"id\": \"<x-request-id of the answer>\", \"label\": …}}")]
    NotAnObject {
        /// Where.
        place: Place,
    },
    /// No usable id.
    #[error("{place} {why}; `id` is the x-request-id of the answer, 1 to {ID} visible ASCII characters")]
    Id {
        /// Where.
        place: Place,
        /// What is wrong.
        why: &'static str,
    },
    /// Nothing but an id.
    #[error("{place} says nothing but its id; add a `label`, a `reward` or what the service's metrics point at")]
    SaysNothing {
        /// Where.
        place: Place,
    },
    /// An item is too long.
    #[error("{place} has {length} bytes; at most {ITEM} are taken")]
    TooLong {
        /// Where.
        place: Place,
        /// How long it is.
        length: usize,
    },
    /// The body is too long.
    #[error("the body is longer than {} MiB; send it in parts", LIMIT >> 20)]
    TooLarge,
    /// Too many items.
    #[error("the body has more than {ITEMS} items; send it in parts")]
    TooMany,
    /// Nothing at all.
    #[error("the body has no feedback")]
    Empty,
}

const fn hint(place: Place) -> &'static str {
    match place {
        Place::Body => "; for one object a line, send the content type application/x-ndjson",
        Place::Item(_) | Place::Line(_) => "",
    }
}

/// Whether a content type says that there is one object a line.
pub fn is_lines(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"]
        .contains(&kind.as_str())
}

/// Reads feedback; `lines` says that there is one object a line.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(bytes: &[u8], lines: bool) -> Result<Vec<Feedback>, Refused> {
    if bytes.len() > LIMIT {
        return Err(Refused::TooLarge);
    }
    let items = if lines { parse_lines(bytes)? } else { parse_body(bytes)? };
    if items.is_empty() { Err(Refused::Empty) } else { Ok(items) }
}

fn parse_lines(bytes: &[u8]) -> Result<Vec<Feedback>, Refused> {
    let mut items = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let (line, place) = (line.trim_ascii(), Place::Line(index + 1));
        if line.is_empty() {
            continue;
        }
        if items.len() == ITEMS {
            return Err(Refused::TooMany);
        }
        if line.len() > ITEM {
            return Err(Refused::TooLong { place, length: line.len() });
        }
        items.push(item(place, json(place, line)?)?);
    }
    Ok(items)
}

fn parse_body(bytes: &[u8]) -> Result<Vec<Feedback>, Refused> {
    if bytes.trim_ascii().is_empty() {
        return Err(Refused::Empty);
    }
    let check = |place, value: Value| {
        let item = item(place, value)?;
        let length = item.body.to_string().len();
        if length > ITEM { Err(Refused::TooLong { place, length }) } else { Ok(item) }
    };
    match json(Place::Body, bytes)? {
        Value::Array(items) if items.len() > ITEMS => Err(Refused::TooMany),
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(index, value)| check(Place::Item(index + 1), value)).collect()
        }
        single => check(Place::Body, single).map(|item| vec![item]),
    }
}

fn json(place: Place, bytes: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(bytes).map_err(|error| Refused::NotJson { place, why: error.to_string() })
}

fn item(place: Place, value: Value) -> Result<Feedback, Refused> {
    let Value::Object(object) = value else { return Err(Refused::NotAnObject { place }) };
    let id = id(place, &object)?.to_owned();
    if object.len() < 2 {
        return Err(Refused::SaysNothing { place });
    }
    Ok(Feedback { id, body: Value::Object(object) })
}

fn id(place: Place, object: &Map<String, Value>) -> Result<&str, Refused> {
    let wrong = |why| Err(Refused::Id { place, why });
    match object.get("id") {
        None => wrong("has no `id`"),
        Some(Value::String(id)) if id.is_empty() => wrong("has an empty `id`"),
        Some(Value::String(id)) if id.len() > ID => wrong("has an `id` that is too long"),
        Some(Value::String(id)) if id.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(id),
        Some(Value::String(_)) => wrong("has an `id` with spaces or other than visible ASCII characters"),
        Some(_) => wrong("has an `id` that is no string"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn ids(bytes: &[u8], lines: bool) -> Vec<String> {
        parse(bytes, lines).unwrap().into_iter().map(|item| item.id).collect()
    }

    #[test]
    fn one_a_list_or_a_line_each() {
        assert_eq!(ids(br#"{"id": "a", "label": 1}"#, false), ["a"]);
        assert_eq!(ids(br#"[{"id": "a", "label": 1}, {"id": "b", "reward": 0.5}]"#, false), ["a", "b"]);
        assert_eq!(ids(b"{\"id\": \"a\", \"label\": 1}\r\n\n{\"id\":\"b\",\"label\":2}", true), ["a", "b"]);
        let whole = parse(br#"{"id": "a", "label": [1, 2]}"#, false).unwrap();
        assert_eq!(whole[0].body, json!({"id": "a", "label": [1, 2]}));
        assert!(is_lines("Application/X-NDJSON; charset=utf-8") && !is_lines("application/json"));
    }

    #[test]
    fn errors_name_the_place_and_the_way_out() {
        let told = |bytes: &[u8], lines| parse(bytes, lines).unwrap_err().to_string();
        let two_lines = b"{\"id\":\"a\",\"label\":1}\n{\"id\":\"b\",\"label\":2}";
        assert!(told(two_lines, false).contains("application/x-ndjson"), "{}", told(two_lines, false));
        assert!(told(b"{\"id\":\"a\",\"label\":1}\nnot json", true).starts_with("line 2 is no JSON"));
        assert!(told(br#"[{"id": "a", "label": 1}, 7]"#, false).starts_with("item 2 is no object"));
        assert!(told(br#"[{"id": "a", "label": 1}, {"label": 1}]"#, false).starts_with("item 2 has no `id`"));
        assert!(told(br#"{"id": 7, "label": 1}"#, false).contains("no string"));
        assert!(told(br#"{"id": "a b", "label": 1}"#, false).contains("spaces"));
        assert!(told(br#"{"id": "a"}"#, false).contains("nothing but its id"));
        assert!(told(b"  ", false).contains("no feedback") && told(b"[]", false).contains("no feedback"));
        let long = json!({"id": "a", "label": "x".repeat(ITEM)}).to_string();
        assert!(
            told(long.as_bytes(), true).starts_with("line 1 has ") && told(long.as_bytes(), false).contains("bytes")
        );
        assert!(told(&vec![b' '; LIMIT + 1], true).contains("8 MiB"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), lines: bool) {
            let _ = parse(&bytes, lines);
        }
    }
}
