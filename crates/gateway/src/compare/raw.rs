//! Raw elements: the protocol's binary data and gRPC's `raw_output_contents`.
//!
//! Source: Open Inference Protocol v2, binary tensor data extension: little-endian, row by row; `BYTES` elements with their length (u32) before them.

use half::{bf16, f16};

use super::tensor::Values;

/// Reads all elements; `None` for a datatype that is not known, or a length that does not fit it.
pub fn decode(datatype: &str, bytes: &[u8]) -> Option<Values> {
    Some(match datatype {
        "FP64" => Values::Floats(each(bytes, f64::from_le_bytes)?),
        "FP32" => Values::Floats(each(bytes, |raw| f64::from(f32::from_le_bytes(raw)))?),
        "FP16" => Values::Floats(each(bytes, |raw| f16::from_le_bytes(raw).to_f64())?),
        "BF16" => Values::Floats(each(bytes, |raw| bf16::from_le_bytes(raw).to_f64())?),
        "BOOL" => Values::Integers(each(bytes, |[byte]| i128::from(byte != 0))?),
        "INT8" => Values::Integers(each(bytes, |raw| i128::from(i8::from_le_bytes(raw)))?),
        "INT16" => Values::Integers(each(bytes, |raw| i128::from(i16::from_le_bytes(raw)))?),
        "INT32" => Values::Integers(each(bytes, |raw| i128::from(i32::from_le_bytes(raw)))?),
        "INT64" => Values::Integers(each(bytes, |raw| i128::from(i64::from_le_bytes(raw)))?),
        "UINT8" => Values::Integers(each(bytes, |[byte]| i128::from(byte))?),
        "UINT16" => Values::Integers(each(bytes, |raw| i128::from(u16::from_le_bytes(raw)))?),
        "UINT32" => Values::Integers(each(bytes, |raw| i128::from(u32::from_le_bytes(raw)))?),
        "UINT64" => Values::Integers(each(bytes, |raw| i128::from(u64::from_le_bytes(raw)))?),
        "BYTES" => Values::Labels(texts(bytes)?),
        _ => return None,
    })
}

fn each<const SIZE: usize, T>(bytes: &[u8], read: impl Fn([u8; SIZE]) -> T) -> Option<Vec<T>> {
    let (elements, rest) = bytes.as_chunks::<SIZE>();
    rest.is_empty().then(|| elements.iter().map(|&raw| read(raw)).collect())
}

fn texts(mut bytes: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        texts.push(text.into());
        bytes = rest;
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datatypes_are_read() {
        assert_eq!(decode("FP32", &1.5f32.to_le_bytes()), Some(Values::Floats(vec![1.5])));
        assert_eq!(decode("FP16", &[0x00, 0x3c]), Some(Values::Floats(vec![1.0])));
        assert_eq!(decode("BF16", &[0x80, 0x3f]), Some(Values::Floats(vec![1.0])));
        assert_eq!(decode("INT16", &[0xff, 0xff, 2, 0]), Some(Values::Integers(vec![-1, 2])));
        assert_eq!(decode("UINT64", &[0xff; 8]), Some(Values::Integers(vec![i128::from(u64::MAX)])));
        assert_eq!(decode("BOOL", &[0, 1]), Some(Values::Integers(vec![0, 1])));
        let labels = [2, 0, 0, 0, b'o', b'k', 0, 0, 0, 0];
        assert_eq!(
            decode("BYTES", &labels),
            Some(Values::Labels(vec![b"ok".as_slice().into(), b"".as_slice().into()]))
        );
    }

    #[test]
    fn wrong_lengths_and_unknown_datatypes_are_not() {
        assert_eq!(decode("FP32", &[0; 6]), None);
        assert_eq!(decode("BYTES", &[9, 0, 0, 0, 1]), None);
        assert_eq!(decode("BYTES", &[9, 0]), None);
        assert_eq!(decode("FP128", &[0; 16]), None);
    }
}
