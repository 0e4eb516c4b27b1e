//! Python pickles: recognised and looked through, never loaded.
//!
//! A pickle is a program; loading it runs it. The operations are told apart and stepped over, so that what the program names (`posix.system`) can
//! be told to whoever decides whether to trust it. What is found is no proof of harmlessness, and is never said to be one.
//!
//! Promises: at most [`MAX_BYTES`] are read of one; memory stays under a megabyte or two.
//! Source: CPython, `Lib/pickletools.py`, protocols 0 to 5; NumPy, "NEP 1: a simple file format"; joblib, `numpy_pickle_utils.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind, Read};

use flate2::read::{GzDecoder, ZlibDecoder};
use modelyard_core::model_file::ModelKind;
use serde_json::{Value, json};

use super::{Found, KindError, Source, unreadable};

/// What is looked through of one file: what it names stands near its beginning.
const MAX_BYTES: u64 = 64 << 20;
const MOST_NAMES: usize = 20;
const MAX_NAME_BYTES: usize = 200;
const MOST_MEMOS: usize = 4_096;
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Endings of files that Python programs unpickle.
const ENDINGS: [&str; 5] = [".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle"];

/// Reads the file if it is a pickle, or holds one.
pub(super) fn attempt(source: &mut dyn Source, _length: u64, start: &[u8]) -> Result<Option<Found>, KindError> {
    let source = BufReader::new(source);
    let (seen, within) = match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => return objects(source),
        [0x1f, 0x8b, ..] => (packed(GzDecoder::new(source)), Some("gzip")),
        // The first two bytes of a zlib stream, as one number, are a multiple of 31.
        [0x78, flags, ..] if (0x7800 + u32::from(*flags)) % 31 == 0 => (packed(ZlibDecoder::new(source)), Some("zlib")),
        _ => (look_through(source), None),
    };
    Ok(seen.map_err(unreadable)?.map(|seen| {
        let within = match (within, seen.names.iter().any(|name| name.starts_with("joblib."))) {
            (None, true) => Some("joblib"),
            (within, _) => within,
        };
        let mut facts = seen.facts();
        facts.push(("within", json!(within)));
        Found::new(ModelKind::Pickle, facts).at_risk(format!("a pickle: {}", seen.risk()))
    }))
}

/// A file that is called like a pickle, whatever is in it.
pub(super) fn by_name(name: &str) -> Option<Found> {
    let risk = "called like a pickle: loading it as one runs whatever code is in it";
    let found = || Found::new(ModelKind::Pickle, [("recognised", json!("by its name"))]).at_risk(risk);
    is_called_like_a_pickle(name).then(found)
}

/// Whether a file of that name is loaded by unpickling, which runs whatever code is in it.
pub fn is_called_like_a_pickle(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// A NumPy array of Python objects, which is a pickle behind a header.
fn objects(source: impl Read) -> Result<Option<Found>, KindError> {
    let held = holds_objects(source).map_err(unreadable)?;
    let risk = "a NumPy array of Python objects, which is a pickle: loading it with `allow_pickle=True` runs whatever code is in it";
    Ok(held.then(|| Found::new(ModelKind::Pickle, [("within", json!("npy"))]).at_risk(risk)))
}

/// Whether the elements of a NumPy file are Python objects.
pub(super) fn holds_objects(source: impl Read) -> std::io::Result<bool> {
    let mut header = Vec::new();
    source.take(MAX_LINE_BYTES).read_to_end(&mut header)?;
    let Some(rest) = header.strip_prefix(b"\x93NUMPY") else { return Ok(false) };
    let (skip, length): (usize, usize) = match rest {
        [1, _, one, two, ..] => (4, usize::from(u16::from_le_bytes([*one, *two]))),
        [2 | 3, _, one, two, three, four, ..] => (6, u32::from_le_bytes([*one, *two, *three, *four]) as usize),
        _ => return Ok(false),
    };
    let text = String::from_utf8_lossy(&rest[skip..rest.len().min(skip.saturating_add(length))]);
    // The type is written `|O`, alone or within a list of fields.
    Ok(["'|O", "\"|O", "'O'", "\"O\""].iter().any(|object| text.contains(object)))
}

/// A compressed pickle; joblib writes them so.
fn packed(mut source: impl Read) -> std::io::Result<Option<Seen>> {
    let mut start = [0; 2];
    match source.read_exact(&mut start) {
        Ok(()) if start[0] == 0x80 && (2..=5).contains(&start[1]) => {
            match look_through(BufReader::new((&start[..]).chain(source.take(MAX_BYTES)))) {
                // It is damaged, not out of reach.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                    ) =>
                {
                    Ok(None)
                }
                looked => looked,
            }
        }
        // Nothing that was compressed, or something else.
        _ => Ok(None),
    }
}

/// What was seen of a pickle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    protocol: u8,
    /// Functions and classes that it names, the first few.
    pub(super) names: BTreeSet<String>,
    /// Whether it was followed to its end.
    whole: bool,
    /// Whether something that it names is called.
    calls: bool,
}

impl Seen {
    pub(super) fn facts(&self) -> Vec<(&'static str, Value)> {
        let whole = if self.whole { Value::Null } else { json!(false) };
        vec![("protocol", json!(self.protocol)), ("names", json!(self.names)), ("whole", whole)]
    }

    /// What loading it does.
    pub(super) fn risk(&self) -> String {
        const SHOWN: usize = 5;
        let shown: Vec<&str> = self.names.iter().take(SHOWN).map(String::as_str).collect();
        let more = match self.names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = if shown.is_empty() { String::new() } else { format!(" (it names {}{more})", shown.join(", ")) };
        format!("loading it runs whatever code is in it{names}")
    }
}

/// Looks through what may be a pickle; `None` when it is none.
pub(super) fn look_through(source: impl BufRead) -> std::io::Result<Option<Seen>> {
    let mut walk = Walk {
        source: source.take(MAX_BYTES),
        seen: Seen::default(),
        recent: [None, None],
        memo: BTreeMap::new(),
        memos: 0,
    };
    let start = walk.source.fill_buf()?.first_chunk::<2>().copied();
    let has_protocol = start.is_some_and(|[first, second]| first == 0x80 && (1..=5).contains(&second));
    let mut tuple = false;
    while let Some(operation) = walk.byte()? {
        let Some(step) = walk.step(operation)? else { break };
        match step {
            Step::End => {
                walk.seen.whole = true;
                // Several may follow each other, as in files of old PyTorch.
                if walk.source.fill_buf()?.first() != Some(&0x80) {
                    break;
                }
                walk.seen.whole = false;
            }
            Step::Note => continue,
            Step::Call => walk.seen.calls |= tuple,
            Step::Push(text) => walk.recent = [walk.recent[1].take(), text],
        }
        tuple = matches!(operation, b't' | b')' | 0x85..=0x87);
    }
    let seen = walk.seen;
    let known = match has_protocol {
        true => seen.whole || !seen.names.is_empty(),
        // Much begins like protocol 0, which is text.
        false => !seen.names.is_empty() && (seen.whole || seen.calls),
    };
    Ok(known.then_some(seen))
}

/// What an operation does, as far as it matters here.
enum Step {
    /// The pickle ends.
    End,
    /// Something is noted, the stack stays.
    Note,
    /// Something is called.
    Call,
    /// Something comes on top of the stack: a text if it is one.
    Push(Option<String>),
}

struct Walk<R> {
    source: std::io::Take<R>,
    seen: Seen,
    /// The two latest things on the stack, if they are texts: module and name of what is looked up.
    recent: [Option<String>; 2],
    /// Texts that were noted by their number.
    memo: BTreeMap<u64, String>,
    memos: u64,
}

impl<R: BufRead> Walk<R> {
    fn byte(&mut self) -> std::io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.source.read(&mut byte)? == 1).then_some(byte[0]))
    }

    /// A little-endian number of that many bytes.
    fn number(&mut self, bytes: usize) -> std::io::Result<Option<u64>> {
        let mut number = [0; 8];
        for byte in number.iter_mut().take(bytes) {
            let Some(read) = self.byte()? else { return Ok(None) };
            *byte = read;
        }
        Ok(Some(u64::from_le_bytes(number)))
    }

    fn skip(&mut self, bytes: u64) -> std::io::Result<bool> {
        Ok(std::io::copy(&mut self.source.by_ref().take(bytes), &mut std::io::sink())? == bytes)
    }

    /// A text of that length; one that is too long to be a name is stepped over.
    fn text(&mut self, length: Option<u64>) -> std::io::Result<Option<Step>> {
        let Some(length) = length else { return Ok(None) };
        if length > MAX_NAME_BYTES as u64 {
            return Ok(self.skip(length)?.then_some(Step::Push(None)));
        }
        let mut bytes = Vec::new();
        self.source.by_ref().take(length).read_to_end(&mut bytes)?;
        let whole = bytes.len() as u64 == length;
        Ok(whole.then(|| Step::Push(String::from_utf8(bytes).ok())))
    }

    fn data(&mut self, length: Option<u64>) -> std::io::Result<Option<Step>> {
        let Some(length) = length else { return Ok(None) };
        Ok(self.skip(length)?.then_some(Step::Push(None)))
    }

    fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut bytes = Vec::new();
        self.source.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes)?;
        Ok(bytes.strip_suffix(b"\n").and_then(|line| String::from_utf8(line.to_vec()).ok()))
    }

    fn note(&mut self, number: Option<u64>) -> Option<Step> {
        let number = number?;
        self.memos = self.memos.saturating_add(1);
        if let (Some(text), true) = (&self.recent[1], self.memo.len() < MOST_MEMOS) {
            self.memo.insert(number, text.clone());
        }
        Some(Step::Note)
    }

    fn noted(&self, number: Option<u64>) -> Option<Step> {
        Some(Step::Push(self.memo.get(&number?).cloned()))
    }

    fn named(&mut self, module: Option<String>, name: Option<String>) -> Option<Step> {
        let (module, name) = (module.unwrap_or_else(|| "?".to_owned()), name.unwrap_or_else(|| "?".to_owned()));
        let is_name = |c: char| c.is_alphanumeric() || "_.<>?".contains(c);
        let fits = |part: &str| !part.is_empty() && part.len() <= MAX_NAME_BYTES && part.chars().all(is_name);
        if !fits(&module) || !fits(&name) {
            return None;
        }
        if self.seen.names.len() < MOST_NAMES {
            self.seen.names.insert(format!("{module}.{name}"));
        }
        Some(Step::Push(None))
    }

    /// Steps over one operation; `None` when there is no such one, or it is cut short.
    fn step(&mut self, operation: u8) -> std::io::Result<Option<Step>> {
        let nothing = Some(Step::Push(None));
        Ok(match operation {
            b'.' => Some(Step::End),
            b'('
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'Q'
            | b'a'
            | b'd'
            | b'}'
            | b'e'
            | b'l'
            | b']'
            | b's'
            | b't'
            | b')'
            | b'u'
            | 0x85..=0x89
            | 0x8f..=0x91
            | 0x97
            | 0x98 => nothing,
            b'R' | b'b' | b'o' | 0x81 | 0x92 => Some(Step::Call),
            b'F' | b'I' | b'L' | b'P' => self.line()?.map(|_| Step::Push(None)),
            b'S' => self.line()?.map(|line| Step::Push(Some(line.trim_matches(['\'', '"']).to_owned()))),
            b'V' => self.line()?.map(|line| Step::Push(Some(line))),
            b'K' | 0x82 => self.data(Some(1))?,
            b'M' | 0x83 => self.data(Some(2))?,
            b'J' | 0x84 => self.data(Some(4))?,
            b'G' => self.data(Some(8))?,
            b'U' | b'T' | b'X' | 0x8c | 0x8d => {
                let length = self.number(if matches!(operation, b'U' | 0x8c) {
                    1
                } else if operation == 0x8d {
                    8
                } else {
                    4
                })?;
                self.text(length)?
            }
            b'C' | 0x8a | b'B' | 0x8b | 0x8e | 0x96 => {
                let length = self.number(if matches!(operation, b'C' | 0x8a) {
                    1
                } else if operation >= 0x8e {
                    8
                } else {
                    4
                })?;
                self.data(length)?
            }
            b'c' | b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.seen.calls |= operation == b'i';
                if module.is_none() || name.is_none() { None } else { self.named(module, name) }
            }
            0x93 => {
                let [module, name] = std::mem::take(&mut self.recent);
                self.named(module, name)
            }
            b'p' => {
                let line = self.line()?.and_then(|line| line.trim().parse().ok());
                self.note(line)
            }
            b'q' => {
                let number = self.number(1)?;
                self.note(number)
            }
            b'r' => {
                let number = self.number(4)?;
                self.note(number)
            }
            0x94 => self.note(Some(self.memos)),
            b'g' => {
                let line = self.line()?.and_then(|line| line.trim().parse().ok());
                self.noted(line)
            }
            b'h' => {
                let number = self.number(1)?;
                self.noted(number)
            }
            b'j' => {
                let number = self.number(4)?;
                self.noted(number)
            }
            0x80 => self.number(1)?.and_then(|protocol| {
                self.seen.protocol = self.seen.protocol.max(u8::try_from(protocol).ok().filter(|&known| known <= 5)?);
                Some(Step::Note)
            }),
            0x95 => self.number(8)?.map(|_| Step::Note),
            _ => None,
        })
    }
}
