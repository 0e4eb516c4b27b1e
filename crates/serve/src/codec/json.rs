//! Tensor data in JSON: flat or nested lists into typed elements.
//!
//! The text was checked to be JSON before (by `serde_json`, into a `RawValue`), so only what is a tensor is checked here.
//! `null` stands for NaN in floating-point tensors: JSON has no other word for it, and missing values are common.

use half::{bf16, f16};
use modelyard_core::signature::Datatype;

use super::number::{float, integer};
use crate::tensor::{Data, each};

/// What is wrong with a list of data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DataError {
    /// Element `index` is not of the datatype.
    Element { index: usize, wanted: &'static str },
    /// Another number of elements than the shape has.
    Count { found: usize },
    /// Lists of unequal length, or lists beside elements.
    Ragged,
}

/// A type of element that JSON text can hold.
pub(crate) trait Element: Sized {
    /// What an element must be, as errors say it.
    const WANTED: &'static str;

    /// Reads one leaf; `None` if it is something else.
    fn read(token: &[u8]) -> Option<Self>;
}

macro_rules! elements {
    ($($type:ty: $wanted:literal, $read:expr;)*) => {
        $(impl Element for $type {
            const WANTED: &'static str = $wanted;

            fn read(token: &[u8]) -> Option<Self> {
                let read: fn(&[u8]) -> Option<Self> = $read;
                read(token)
            }
        })*
    };
}

elements! {
    bool: "true or false", boolean;
    u8: "a whole number from 0 to 255", integer;
    u16: "a whole number from 0 to 65535", integer;
    u32: "a whole number from 0 to 2^32-1", integer;
    u64: "a whole number from 0 to 2^64-1", integer;
    i8: "a whole number from -128 to 127", integer;
    i16: "a whole number from -32768 to 32767", integer;
    i32: "a whole number from -2^31 to 2^31-1", integer;
    i64: "a whole number from -2^63 to 2^63-1", integer;
    f16: "a number within half precision", |token| finite(token, f16::from_f64, |half| half.is_infinite());
    bf16: "a number within bfloat16", |token| finite(token, bf16::from_f64, |half| half.is_infinite());
    f32: "a number within single precision", |token| finite(token, |value| value as f32, |single| single.is_infinite());
    f64: "a number within double precision", |token| finite(token, |value| value, |double| double.is_infinite());
    String: "a string", string;
}

/// Reads the elements of `text`, a JSON value, however nested.
pub(crate) fn elements(text: &str, datatype: Datatype, expected: usize) -> Result<Data, DataError> {
    // Two bytes per element at least: a shape that claims more than the text can hold reserves no memory for it.
    let mut data = Data::with_capacity(datatype, expected.min(text.len() / 2 + 1));
    append(text, &mut data)?;
    match data.len() == expected {
        true => Ok(data),
        false => Err(DataError::Count { found: data.len() }),
    }
}

/// Appends the elements of `text`, a JSON value, however nested.
pub(crate) fn append(text: &str, data: &mut Data) -> Result<(), DataError> {
    each!(data, list => leaves(text, list))
}

fn boolean(token: &[u8]) -> Option<bool> {
    match token {
        b"true" | b"1" => Some(true),
        b"false" | b"0" => Some(false),
        _ => None,
    }
}

fn finite<T>(token: &[u8], narrow: impl Fn(f64) -> T, infinite: impl Fn(&T) -> bool) -> Option<T> {
    let value = match float(token) {
        Some(value) => value,
        None if token == b"null" => f64::NAN,
        None => return None,
    };
    Some(narrow(value)).filter(|narrowed| !infinite(narrowed))
}

fn string(token: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(token).ok()?;
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        false => Some(inner.to_owned()),
        true => serde_json::from_str(text).ok(),
    }
}

/// Reads every leaf of nested lists.
fn leaves<T: Element>(text: &str, found: &mut Vec<T>) -> Result<(), DataError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if matches!(byte, b'[' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t') {
            at += 1;
            continue;
        }
        let end = token_end(bytes, at);
        let value = T::read(&bytes[at..end]).ok_or(DataError::Element { index: found.len(), wanted: T::WANTED })?;
        found.push(value);
        at = end;
    }
    Ok(())
}

/// The end of the leaf that starts at `at`. An object ends after its first byte: no reader takes it anyway.
fn token_end(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        b'"' => {
            let mut end = at + 1;
            while let Some(&byte) = bytes.get(end) {
                match byte {
                    b'\\' => end += 2,
                    b'"' => return end + 1,
                    _ => end += 1,
                }
            }
            bytes.len()
        }
        b'{' => at + 1,
        _ => {
            let is_end = |byte: &u8| matches!(byte, b'[' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t');
            bytes[at..].iter().position(is_end).map_or(bytes.len(), |length| at + length)
        }
    }
}

/// The shape of nested lists: `[[1,2],[3,4]]` is `[2,2]`, a bare value is `[]`.
///
/// # Errors
/// [`DataError::Ragged`] if lists of one depth differ in length, or stand beside elements.
pub(crate) fn outline(text: &str) -> Result<Vec<i64>, DataError> {
    let bytes = text.as_bytes();
    let mut shape: Vec<i64> = Vec::new(); // known length per depth, -1 while the first list of that depth is open
    let mut counts: Vec<i64> = Vec::new(); // elements so far of each open list
    let mut leaf_depth = None;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'[' => {
                if let Some(count) = counts.last_mut() {
                    *count += 1;
                }
                counts.push(0);
                if counts.len() > shape.len() {
                    shape.push(-1);
                }
                if leaf_depth.is_some_and(|depth| counts.len() > depth) {
                    return Err(DataError::Ragged);
                }
                at += 1;
            }
            b']' => {
                let (depth, count) = (counts.len() - 1, counts.pop().unwrap_or(0));
                match shape[depth] {
                    -1 => shape[depth] = count,
                    known if known == count => {}
                    _ => return Err(DataError::Ragged),
                }
                at += 1;
            }
            b',' | b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            _ => {
                if *leaf_depth.get_or_insert(counts.len()) != counts.len() || counts.len() < shape.len() {
                    return Err(DataError::Ragged);
                }
                if let Some(count) = counts.last_mut() {
                    *count += 1;
                }
                at = token_end(bytes, at);
            }
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_and_flat_lists_read_alike() {
        for text in ["[1,2,3,4]", "[[1, 2],\n [3,4]]"] {
            assert_eq!(elements(text, Datatype::Int32, 4), Ok(Data::Int32(vec![1, 2, 3, 4])));
        }
        let strings = elements(r#"["a,]b", "q\"\u00e9", ""]"#, Datatype::Bytes, 3);
        assert_eq!(strings, Ok(Data::Bytes(vec!["a,]b".into(), "q\"é".into(), String::new()])));
    }

    #[test]
    fn a_broken_element_is_named_by_its_index() {
        for (text, datatype) in
            [("[1, 1e39]", Datatype::Fp32), ("[1, {}]", Datatype::Fp32), ("[1, \"x\"]", Datatype::Fp64)]
        {
            assert!(matches!(elements(text, datatype, 2), Err(DataError::Element { index: 1, .. })), "{text}");
        }
        assert_eq!(elements("[1]", Datatype::Fp32, 2), Err(DataError::Count { found: 1 }));
        assert_eq!(
            elements("[1.5]", Datatype::Int64, 1).unwrap_err(),
            elements("[2e0]", Datatype::Int64, 1).unwrap_err()
        );
    }

    #[test]
    fn null_is_not_a_number() {
        let Ok(Data::Fp32(values)) = elements("[null]", Datatype::Fp32, 1) else { panic!() };
        assert!(values[0].is_nan());
        assert!(elements("[null]", Datatype::Int32, 1).is_err());
    }

    #[test]
    fn outlines_are_shapes() {
        for (text, shape) in
            [("[[1,2],[3,4],[5,6]]", vec![3, 2]), ("5", vec![]), ("[]", vec![0]), ("[[],[]]", vec![2, 0])]
        {
            assert_eq!(outline(text), Ok(shape), "{text}");
        }
        for ragged in ["[[1],[2,3]]", "[1,[2]]", "[[1],2]", "[[[1]],[2]]"] {
            assert_eq!(outline(ragged), Err(DataError::Ragged), "{ragged}");
        }
    }
}
