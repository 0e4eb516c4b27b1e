//! safetensors: a header in JSON, then the tensors' bytes one after another.
//!
//! Promises: the whole header is held against the format's rules (its length, each type, shape and place, no hole, no overlap, nothing behind the
//! last tensor); memory is a few dozen bytes per tensor.
//! Source: the format's description in safetensors' README, and its validation (`Metadata::validate`).

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{BufReader, Read};

use modelyard_core::model_file::ModelKind;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::{Found, KindError, Source, broken, told, unreadable};

/// Longest header that readers of the format take.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Free texts of the author that are kept.
const MOST_TEXTS: usize = 16;

/// Reads the file if it begins like one: the header's length, then its brace.
pub(super) fn attempt(source: &mut dyn Source, length: u64, start: &[u8]) -> Result<Option<Found>, KindError> {
    let Some((size, rest)) = start.split_first_chunk::<8>() else { return Ok(None) };
    let header = u64::from_le_bytes(*size);
    if rest.first() != Some(&b'{') || header > MAX_HEADER_BYTES {
        return Ok(None);
    }
    read(source, length, header).map(Some)
}

fn read(source: &mut dyn Source, length: u64, header: u64) -> Result<Found, KindError> {
    let broken = broken(ModelKind::Safetensors);
    let data = length
        .checked_sub(8 + header)
        .ok_or_else(|| broken(format!("its header has {header} bytes, and {} are left", length.saturating_sub(8))))?;
    source.seek(std::io::SeekFrom::Start(8)).map_err(unreadable)?;
    let read: Result<Header, _> = serde_json::from_reader(BufReader::new(source.take(header)));
    let header = read.map_err(|error| match error.is_io() {
        true => KindError::Unreadable(error.to_string()),
        false => broken(format!("its header: {error}")),
    })?;
    header.check(data).map_err(broken)?;
    let facts = [
        ("tensors", json!(header.places.len())),
        ("parameters", json!(header.elements)),
        ("datatypes", json!(header.datatypes)),
        ("metadata", json!(header.metadata)),
    ];
    Ok(Found::new(ModelKind::Safetensors, facts))
}

/// What is kept of a header.
#[derive(Default)]
struct Header {
    /// Begin and end of each tensor.
    places: Vec<(u64, u64)>,
    /// A hash of each name: a name may stand there once.
    names: Vec<u64>,
    /// How many tensors have which type.
    datatypes: BTreeMap<&'static str, u64>,
    elements: u64,
    metadata: BTreeMap<String, Value>,
}

impl Header {
    /// Tensors lie one after another, from the first byte of the data to the last.
    fn check(&self, data: u64) -> Result<(), String> {
        let mut names = self.names.clone();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two of its tensors have the same name".to_owned());
        }
        let mut places = self.places.clone();
        places.sort_unstable();
        let mut at = 0;
        for (begin, end) in places {
            match begin.cmp(&at) {
                std::cmp::Ordering::Less => return Err(format!("two of its tensors share the byte {begin}")),
                std::cmp::Ordering::Greater => return Err(format!("bytes {at} to {begin} are of no tensor")),
                std::cmp::Ordering::Equal => at = end,
            }
        }
        match at == data {
            true => Ok(()),
            false => Err(format!("its tensors have {at} bytes, and {data} are there")),
        }
    }

    fn add(&mut self, name: &str, tensor: &Tensor) -> Result<(), String> {
        let name: String = name.escape_debug().take(80).collect();
        let (label, bits) = datatype(&tensor.dtype)
            .ok_or_else(|| format!("tensor `{name}` has an unknown type `{:.20}`", tensor.dtype.escape_debug()))?;
        let bits = tensor.shape.0.and_then(|elements| elements.checked_mul(bits)).filter(|bits| bits % 8 == 0);
        let (begin, end) = tensor.data_offsets;
        if bits.is_none_or(|bits| end.checked_sub(begin) != Some(bits / 8)) {
            return Err(format!("tensor `{name}` does not have as many bytes as its shape says"));
        }
        self.places.push((begin, end));
        *self.datatypes.entry(label).or_default() += 1;
        self.elements = self.elements.saturating_add(tensor.shape.0.unwrap_or(0));
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    let mut hash = DefaultHasher::new();
                    name.hash(&mut hash);
                    header.names.push(hash.finish());
                    if name == "__metadata__" {
                        header.metadata = map.next_value::<Texts>()?.0;
                    } else {
                        header.add(&name, &map.next_value()?).map_err(A::Error::custom)?;
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Elements,
    data_offsets: (u64, u64),
}

/// How many elements a shape has; none when that is past all numbers.
struct Elements(Option<u64>);

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Axes;
        impl<'de> Visitor<'de> for Axes {
            type Value = Elements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of lengths")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Elements, A::Error> {
                let mut product = Some(1_u64);
                while let Some(axis) = list.next_element::<u64>()? {
                    product = product.and_then(|product| product.checked_mul(axis));
                }
                Ok(Elements(product))
            }
        }
        deserializer.deserialize_seq(Axes)
    }
}

/// The author's free texts, the first few of them.
struct Texts(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if texts.len() == MOST_TEXTS || name.len() > 64 {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    texts.insert(name, told(&map.next_value::<String>()?));
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The type of that name, and its bits.
fn datatype(name: &str) -> Option<(&'static str, u64)> {
    const KNOWN: [(&str, u64); 23] = [
        ("BOOL", 8),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("U16", 16),
        ("I16", 16),
        ("F16", 16),
        ("BF16", 16),
        ("U32", 32),
        ("I32", 32),
        ("F32", 32),
        ("C64", 64),
        ("U64", 64),
        ("I64", 64),
        ("F64", 64),
        ("C128", 128),
    ];
    KNOWN.into_iter().find(|(known, _)| *known == name)
}
