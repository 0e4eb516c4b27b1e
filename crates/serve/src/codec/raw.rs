//! Tensor data as raw little-endian bytes: the binary extension of REST, and `raw_*_contents` of gRPC.
//!
//! `BYTES` elements carry a 4-byte length each.
//! Source: Triton's binary tensor data extension; Open Inference Protocol v2, gRPC.

use half::{bf16, f16};
use modelyard_core::signature::Datatype;

use crate::tensor::Data;

/// What is wrong with raw data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RawError {
    /// Another number of bytes than the shape needs.
    Length { found: usize, needed: usize },
    /// A length prefix runs past the end, or bytes remain.
    Elements { found: usize },
    /// Element `index` is not UTF-8.
    Utf8 { index: usize },
}

fn numbers<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = raw.as_chunks::<N>();
    chunks.iter().map(|chunk| read(*chunk)).collect()
}

/// Reads `expected` elements.
pub(crate) fn decode(raw: &[u8], datatype: Datatype, expected: usize) -> Result<Data, RawError> {
    if let Some(size) = datatype.size() {
        let needed = expected.saturating_mul(size);
        if raw.len() != needed {
            return Err(RawError::Length { found: raw.len(), needed });
        }
    }
    Ok(match datatype {
        Datatype::Bool => Data::Bool(raw.iter().map(|&byte| byte != 0).collect()),
        Datatype::Uint8 => Data::Uint8(raw.to_vec()),
        Datatype::Uint16 => Data::Uint16(numbers(raw, u16::from_le_bytes)),
        Datatype::Uint32 => Data::Uint32(numbers(raw, u32::from_le_bytes)),
        Datatype::Uint64 => Data::Uint64(numbers(raw, u64::from_le_bytes)),
        Datatype::Int8 => Data::Int8(numbers(raw, i8::from_le_bytes)),
        Datatype::Int16 => Data::Int16(numbers(raw, i16::from_le_bytes)),
        Datatype::Int32 => Data::Int32(numbers(raw, i32::from_le_bytes)),
        Datatype::Int64 => Data::Int64(numbers(raw, i64::from_le_bytes)),
        Datatype::Fp16 => Data::Fp16(numbers(raw, f16::from_le_bytes)),
        Datatype::Bf16 => Data::Bf16(numbers(raw, bf16::from_le_bytes)),
        Datatype::Fp32 => Data::Fp32(numbers(raw, f32::from_le_bytes)),
        Datatype::Fp64 => Data::Fp64(numbers(raw, f64::from_le_bytes)),
        Datatype::Bytes => Data::Bytes(strings(raw, expected)?),
    })
}

fn strings(raw: &[u8], expected: usize) -> Result<Vec<String>, RawError> {
    // Each element has a 4-byte length, so a short body cannot claim much memory.
    let mut found = Vec::with_capacity(expected.min(raw.len() / 4));
    let mut rest = raw;
    while let Some((prefix, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*prefix) as usize;
        let Some((element, next)) = after.split_at_checked(length) else {
            return Err(RawError::Elements { found: found.len() });
        };
        let text = std::str::from_utf8(element).map_err(|_| RawError::Utf8 { index: found.len() })?;
        found.push(text.to_owned());
        rest = next;
    }
    match rest.is_empty() && found.len() == expected {
        true => Ok(found),
        false => Err(RawError::Elements { found: found.len() }),
    }
}

/// Appends elements `start..end` of `data` to `out`.
pub(crate) fn encode(data: &Data, start: usize, end: usize, out: &mut Vec<u8>) {
    fn put<const N: usize, T: Copy>(list: &[T], out: &mut Vec<u8>, write: impl Fn(T) -> [u8; N]) {
        out.reserve(list.len() * N);
        list.iter().for_each(|&value| out.extend_from_slice(&write(value)));
    }
    match data {
        Data::Bool(list) => out.extend(list[start..end].iter().map(|&value| u8::from(value))),
        Data::Uint8(list) => out.extend_from_slice(&list[start..end]),
        Data::Uint16(list) => put(&list[start..end], out, u16::to_le_bytes),
        Data::Uint32(list) => put(&list[start..end], out, u32::to_le_bytes),
        Data::Uint64(list) => put(&list[start..end], out, u64::to_le_bytes),
        Data::Int8(list) => put(&list[start..end], out, i8::to_le_bytes),
        Data::Int16(list) => put(&list[start..end], out, i16::to_le_bytes),
        Data::Int32(list) => put(&list[start..end], out, i32::to_le_bytes),
        Data::Int64(list) => put(&list[start..end], out, i64::to_le_bytes),
        Data::Fp16(list) => put(&list[start..end], out, f16::to_le_bytes),
        Data::Bf16(list) => put(&list[start..end], out, bf16::to_le_bytes),
        Data::Fp32(list) => put(&list[start..end], out, f32::to_le_bytes),
        Data::Fp64(list) => put(&list[start..end], out, f64::to_le_bytes),
        Data::Bytes(list) => list[start..end].iter().for_each(|text| {
            // A request is far below 4 GiB, and so is every string that a graph makes of it.
            out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(decode(&[0; 7], Datatype::Fp32, 2), Err(RawError::Length { found: 7, needed: 8 }));
        assert_eq!(decode(&[5, 0, 0, 0, b'a'], Datatype::Bytes, 1), Err(RawError::Elements { found: 0 }));
        assert_eq!(decode(&[1, 0, 0, 0, 0xff], Datatype::Bytes, 1), Err(RawError::Utf8 { index: 0 }));
        assert_eq!(decode(&[0, 0, 0, 0, 9], Datatype::Bytes, 1), Err(RawError::Elements { found: 1 }));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..64), texts in proptest::collection::vec(".*", 0..5)) {
            for datatype in Datatype::ALL {
                let data = match datatype.size() {
                    Some(size) => {
                        let whole = bytes.len() / size;
                        decode(&bytes[..whole * size], datatype, whole).unwrap()
                    }
                    None => Data::Bytes(texts.clone()),
                };
                let mut out = Vec::new();
                encode(&data, 0, data.len(), &mut out);
                let mut again = Vec::new();
                encode(&decode(&out, datatype, data.len()).unwrap(), 0, data.len(), &mut again);
                prop_assert_eq!(out, again);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64), expected in 0usize..9) {
            for datatype in Datatype::ALL {
                let _ = decode(&bytes, datatype, expected);
            }
        }
    }
}
