//! GGUF: metadata by key, then where each tensor lies, then the tensors.
//!
//! Promises: counts, lengths, types and places are held against the file; vocabularies are walked over, not kept; memory is a few dozen bytes per
//! tensor.
//! Source: ggml, `docs/gguf.md`, versions 2 and 3; sizes of quantised blocks as in `gguf-py`, `GGML_QUANT_SIZES`.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use modelyard_core::model_file::ModelKind;
use serde_json::{Value, json};

use super::{Found, KindError, Source, broken, told};

/// Metadata and places of tensors: hundreds of times what real vocabularies have is refused.
const MAX_HEADER_BYTES: u64 = 256 << 20;
const MOST_KEYS: u64 = 1 << 16;
const MOST_TENSORS: u64 = 1 << 20;
const MOST_AXES: u32 = 4;
/// Longest name or key, as the format says.
const MAX_NAME_BYTES: u64 = 65_535;
/// Words about the model that are kept.
const MOST_TEXTS: usize = 24;
/// Arrays within arrays.
const MAX_DEPTH: u32 = 4;

/// Reads the file if it begins like one.
pub(super) fn attempt(source: &mut dyn Source, length: u64, start: &[u8]) -> Result<Option<Found>, KindError> {
    if !start.starts_with(b"GGUF") {
        return Ok(None);
    }
    let mut tape = Tape { source: BufReader::with_capacity(64 << 10, source), at: 0, length, big_endian: false };
    read(&mut tape).map(Some)
}

fn fault(why: impl Into<String>) -> KindError {
    broken(ModelKind::Gguf)(why.into())
}

fn read(tape: &mut Tape<'_>) -> Result<Found, KindError> {
    let _magic = tape.bytes::<4>()?;
    let version = tape.u32()?;
    // A version that is only large when read this way was written by a big-endian machine.
    tape.big_endian = version & 0xffff == 0 && version != 0;
    let version = if tape.big_endian { version.swap_bytes() } else { version };
    if !(2..=3).contains(&version) {
        return Err(fault(format!("it has the version {version}, and 2 and 3 are known: convert it again")));
    }
    let (tensors, keys) = (tape.u64()?, tape.u64()?);
    if tensors > MOST_TENSORS || keys > MOST_KEYS {
        return Err(fault(format!("it has {tensors} tensors and {keys} keys, more than any model")));
    }
    let mut metadata = Metadata { alignment: 32, texts: BTreeMap::new() };
    for _ in 0..keys {
        let key = tape.text(MAX_NAME_BYTES)?;
        let kind = tape.u32()?;
        let value = tape.value(kind, MAX_DEPTH)?;
        metadata.note(&key, &value)?;
    }
    let (mut places, mut elements, mut types) = (Vec::new(), 0_u64, BTreeMap::<String, u64>::new());
    for _ in 0..tensors {
        let tensor = tape.tensor()?;
        elements = elements.saturating_add(tensor.elements);
        *types.entry(tensor.type_name).or_default() += 1;
        places.push((tensor.offset, tensor.bytes));
    }
    check(&mut places, tape, metadata.alignment)?;
    let facts = [
        ("version", json!(version)),
        ("tensors", json!(tensors)),
        ("parameters", json!(elements)),
        ("types", json!(types)),
        ("metadata", json!(metadata.texts)),
        ("byte_order", if tape.big_endian { json!("big") } else { Value::Null }),
    ];
    Ok(Found::new(ModelKind::Gguf, facts))
}

/// Each tensor begins where it may, ends before the next one, and within the file.
fn check(places: &mut [(u64, Option<u64>)], tape: &Tape<'_>, alignment: u64) -> Result<(), KindError> {
    let data = tape.at.next_multiple_of(alignment);
    let room = tape.length.saturating_sub(data);
    places.sort_unstable();
    let mut free = 0;
    for &(offset, bytes) in places.iter() {
        let end = offset.checked_add(bytes.unwrap_or(0)).filter(|&end| end <= room);
        let end = end.ok_or_else(|| {
            fault(format!("a tensor begins at byte {offset} of the {room} bytes of data, and ends behind them"))
        })?;
        if offset % alignment != 0 || offset < free {
            return Err(fault(format!("a tensor begins at byte {offset} of the data, where none may begin")));
        }
        free = end;
    }
    Ok(())
}

struct Metadata {
    /// Tensors begin at multiples of this.
    alignment: u64,
    texts: BTreeMap<String, Value>,
}

impl Metadata {
    fn note(&mut self, key: &str, value: &Value) -> Result<(), KindError> {
        if key == "general.alignment" {
            let alignment = value.as_u64().filter(|alignment| alignment.is_power_of_two() && *alignment <= 1 << 20);
            self.alignment = alignment.ok_or_else(|| fault("its alignment is no small power of two"))?;
        }
        let is_general = key.starts_with("general.");
        let is_size = [".context_length", ".embedding_length", ".block_count"].iter().any(|end| key.ends_with(end));
        let is_known = is_general || is_size || key == "tokenizer.ggml.model";
        if is_known && key.len() <= 64 && self.texts.len() < MOST_TEXTS && !super::is_empty(value) {
            self.texts.insert(key.to_owned(), value.clone());
        }
        Ok(())
    }
}

struct Tensor {
    offset: u64,
    /// Length; not known of types that are newer than this reader.
    bytes: Option<u64>,
    elements: u64,
    type_name: String,
}

struct Tape<'a> {
    source: BufReader<&'a mut dyn Source>,
    at: u64,
    length: u64,
    big_endian: bool,
}

impl Tape<'_> {
    fn advance(&mut self, by: u64) -> Result<(), KindError> {
        let cut = || fault(format!("it ends at byte {}, in the middle of its header", self.length));
        self.at = self.at.checked_add(by).filter(|&at| at <= self.length).ok_or_else(cut)?;
        if self.at > MAX_HEADER_BYTES { Err(fault("its header has more than 256 MiB")) } else { Ok(()) }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], KindError> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(super::unreadable)?;
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, KindError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, KindError> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn skip(&mut self, by: u64) -> Result<(), KindError> {
        self.advance(by)?;
        let by = i64::try_from(by).map_err(|_| fault("a length is impossible"))?;
        self.source.seek_relative(by).map_err(super::unreadable)
    }

    fn text(&mut self, most: u64) -> Result<String, KindError> {
        let length = self.u64()?;
        if length > most {
            return Err(fault(format!("a name at byte {} has {length} bytes, and {most} are allowed", self.at)));
        }
        self.advance(length)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| fault("a length is impossible"))?];
        self.source.read_exact(&mut bytes).map_err(super::unreadable)?;
        String::from_utf8(bytes).map_err(|_| fault(format!("the name before byte {} is not UTF-8", self.at)))
    }

    /// A value of that type; null for what is too long to be kept.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, KindError> {
        Ok(match kind {
            0 => json!(u8::from_le_bytes(self.bytes()?)),
            1 => json!(i8::from_le_bytes(self.bytes()?)),
            2 => json!(u16::from_le_bytes(self.bytes()?)),
            3 => json!(i16::from_le_bytes(self.bytes()?)),
            4 => json!(self.u32()?),
            5 => json!(self.u32()?.cast_signed()),
            6 => json!(f32::from_le_bytes(self.bytes()?)),
            7 => match u8::from_le_bytes(self.bytes()?) {
                flag @ 0..=1 => json!(flag == 1),
                other => return Err(fault(format!("the flag before byte {} is {other}", self.at))),
            },
            8 => self.long_text()?,
            9 => {
                let depth = depth.checked_sub(1).ok_or_else(|| fault("its arrays lie too deep within each other"))?;
                self.array(depth)?;
                Value::Null
            }
            10 => json!(self.u64()?),
            11 => json!(self.u64()?.cast_signed()),
            12 => json!(f64::from_le_bytes(self.bytes()?)),
            other => return Err(fault(format!("a value before byte {} has the unknown type {other}", self.at))),
        })
    }

    fn long_text(&mut self) -> Result<Value, KindError> {
        const KEPT: u64 = 1 << 10;
        let length = self.u64()?;
        if length > KEPT {
            return self.skip(length).map(|()| Value::Null);
        }
        self.advance(length)?;
        let mut bytes = Vec::new();
        self.source.by_ref().take(length).read_to_end(&mut bytes).map_err(super::unreadable)?;
        Ok(told(&String::from_utf8_lossy(&bytes)))
    }

    fn array(&mut self, depth: u32) -> Result<(), KindError> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            _ => {
                for _ in 0..count {
                    match kind {
                        8 => {
                            let length = self.u64()?;
                            self.skip(length)?;
                        }
                        other => drop(self.value(other, depth)?),
                    }
                }
                return Ok(());
            }
        };
        self.skip(count.checked_mul(size).ok_or_else(|| fault("an array is longer than any file"))?)
    }

    fn tensor(&mut self) -> Result<Tensor, KindError> {
        let name = self.text(MAX_NAME_BYTES)?;
        let name: String = name.escape_debug().take(80).collect();
        let axes = self.u32()?;
        if axes > MOST_AXES {
            return Err(fault(format!("tensor `{name}` has {axes} axes, and {MOST_AXES} are allowed")));
        }
        let (mut elements, mut row) = (Some(1_u64), 1);
        for axis in 0..axes {
            let length = self.u64()?;
            row = if axis == 0 { length } else { row };
            elements = elements.and_then(|elements| elements.checked_mul(length));
        }
        let elements = elements.ok_or_else(|| fault(format!("tensor `{name}` is larger than any file")))?;
        let kind = self.u32()?;
        let offset = self.u64()?;
        let (type_name, bytes) = match block(kind) {
            None => (format!("type {kind}"), None),
            Some((type_name, per_block, block_bytes)) => {
                if row % per_block != 0 {
                    return Err(fault(format!("rows of the tensor `{name}` are no whole blocks of {type_name}")));
                }
                let bytes = (elements / per_block).checked_mul(block_bytes);
                let too_large = || fault(format!("tensor `{name}` is larger than any file"));
                (type_name.to_owned(), Some(bytes.ok_or_else(too_large)?))
            }
        };
        Ok(Tensor { offset, bytes, elements, type_name })
    }
}

/// Name, elements per block and bytes per block of a type.
fn block(kind: u32) -> Option<(&'static str, u64, u64)> {
    Some(match kind {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        10 => ("Q2_K", 256, 84),
        11 => ("Q3_K", 256, 110),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        15 => ("Q8_K", 256, 292),
        16 => ("IQ2_XXS", 256, 66),
        17 => ("IQ2_XS", 256, 74),
        18 => ("IQ3_XXS", 256, 98),
        19 => ("IQ1_S", 256, 50),
        20 => ("IQ4_NL", 32, 18),
        21 => ("IQ3_S", 256, 110),
        22 => ("IQ2_S", 256, 82),
        23 => ("IQ4_XS", 256, 136),
        24 => ("I8", 1, 1),
        25 => ("I16", 1, 2),
        26 => ("I32", 1, 4),
        27 => ("I64", 1, 8),
        28 => ("F64", 1, 8),
        29 => ("IQ1_M", 256, 56),
        30 => ("BF16", 1, 2),
        34 => ("TQ1_0", 256, 54),
        35 => ("TQ2_0", 256, 66),
        39 => ("MXFP4", 32, 17),
        _ => return None,
    })
}
