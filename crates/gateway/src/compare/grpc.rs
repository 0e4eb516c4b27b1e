//! `ModelInferResponse`, read by hand: names, shapes and elements of the outputs, nothing else.
//!
//! Source: Open Inference Protocol v2, `grpc_service.proto`; Protocol Buffers encoding; gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`).

use super::raw;
use super::tensor::{Tensor, Values};
use crate::grpc::varint;

/// A field's value.
#[derive(Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

/// Reads the one message of a call's body; `None` when it is compressed, more than one, or no such message.
pub fn response(body: &[u8]) -> Option<Vec<Tensor>> {
    let ([0, length @ ..], message) = body.split_first_chunk::<5>()? else { return None };
    if u32::from_be_bytes(*length) as usize != message.len() {
        return None;
    }
    let (mut outputs, mut raws) = (Vec::new(), Vec::new());
    each(message, |number, field| {
        match (number, field) {
            (5, Field::Bytes(output)) => outputs.push(output),
            (6, Field::Bytes(raw)) => raws.push(raw),
            _ => {}
        }
        Some(())
    })?;
    // Raw contents are for all outputs, in their order, or for none.
    if !raws.is_empty() && raws.len() != outputs.len() {
        return None;
    }
    outputs.iter().enumerate().map(|(index, output)| tensor(output, raws.get(index).copied())).collect()
}

fn tensor(message: &[u8], raw: Option<&[u8]>) -> Option<Tensor> {
    let (mut name, mut datatype, mut shape, mut contents) = ("", "", Vec::new(), None);
    each(message, |number, field| {
        match (number, field) {
            (1, Field::Bytes(text)) => name = std::str::from_utf8(text).ok()?,
            (2, Field::Bytes(text)) => datatype = std::str::from_utf8(text).ok()?,
            (3, field) => varints(field, |axis| shape.push(axis as usize))?,
            (5, Field::Bytes(typed)) => contents = Some(typed),
            _ => {}
        }
        Some(())
    })?;
    let values = match raw {
        Some(raw) => raw::decode(datatype, raw)?,
        None => typed(datatype, contents.unwrap_or_default())?,
    };
    Tensor::new(name.to_owned(), shape, values)
}

/// `InferTensorContents`: the one list that the datatype's elements are in.
fn typed(datatype: &str, contents: &[u8]) -> Option<Values> {
    let (mut whole, mut floats, mut labels) = (Vec::<i128>::new(), Vec::new(), Vec::new());
    each(contents, |number, field| {
        match number {
            // bool, int32 and int64: negative numbers have all 64 bits set.
            1..=3 => varints(field, |value| whole.push(i128::from(value as i64)))?,
            4 | 5 => varints(field, |value| whole.push(i128::from(value)))?,
            6 => match field {
                Field::Four(raw) => floats.push(f64::from(f32::from_le_bytes(raw))),
                Field::Bytes(packed) => {
                    let (all, []) = packed.as_chunks() else { return None };
                    floats.extend(all.iter().map(|&raw| f64::from(f32::from_le_bytes(raw))));
                }
                _ => return None,
            },
            7 => match field {
                Field::Eight(raw) => floats.push(f64::from_le_bytes(raw)),
                Field::Bytes(packed) => {
                    let (all, []) = packed.as_chunks() else { return None };
                    floats.extend(all.iter().map(|&raw| f64::from_le_bytes(raw)));
                }
                _ => return None,
            },
            8 => match field {
                Field::Bytes(text) => labels.push(Box::from(text)),
                _ => return None,
            },
            _ => {}
        }
        Some(())
    })?;
    match datatype {
        "BYTES" => Some(Values::Labels(labels)),
        _ if datatype.starts_with("FP") || datatype == "BF16" => Some(Values::Floats(floats)),
        _ => Some(Values::Integers(whole)),
    }
}

/// One number, or a packed list of them.
fn varints(field: Field<'_>, mut take: impl FnMut(u64)) -> Option<()> {
    match field {
        Field::Varint(value) => take(value),
        Field::Bytes(mut packed) => {
            while !packed.is_empty() {
                let (value, rest) = varint(packed)?;
                take(value);
                packed = rest;
            }
        }
        Field::Eight(_) | Field::Four(_) => return None,
    }
    Some(())
}

/// Calls `take` for each field; `None` when the message is malformed, or `take` wants no more.
fn each<'a>(mut message: &'a [u8], mut take: impl FnMut(u64, Field<'a>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let (tag, rest) = varint(message)?;
        let (field, rest) = match tag & 7 {
            0 => varint(rest).map(|(value, rest)| (Field::Varint(value), rest))?,
            1 => rest.split_first_chunk().map(|(raw, rest)| (Field::Eight(*raw), rest))?,
            2 => {
                let (length, rest) = varint(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Field::Bytes(bytes), rest)
            }
            5 => rest.split_first_chunk().map(|(raw, rest)| (Field::Four(*raw), rest))?,
            _ => return None,
        };
        take(tag >> 3, field)?;
        message = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::frame;
    use proptest::prelude::*;

    fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, value.len() as u8], value].concat()
    }

    fn output(datatype: &str, contents: &[u8]) -> Vec<u8> {
        let tensor = [bytes(1, b"y"), bytes(2, datatype.as_bytes()), bytes(3, &[1, 2]), bytes(5, contents)].concat();
        bytes(5, &tensor)
    }

    #[test]
    fn raw_and_typed_contents_are_read() {
        let scores = [0.25f32.to_le_bytes(), 0.75f32.to_le_bytes()].concat();
        let expected = Tensor::new("y".into(), vec![1, 2], Values::Floats(vec![0.25, 0.75])).unwrap();
        let head = [bytes(1, b"wine"), bytes(2, b"1"), vec![0x50, 7]].concat();
        let raw = [head.clone(), output("FP32", b""), bytes(6, &scores)].concat();
        assert_eq!(response(&frame(&raw)), Some(vec![expected.clone()]));
        let typed = [head, output("FP32", &bytes(6, &scores))].concat();
        assert_eq!(response(&frame(&typed)), Some(vec![expected]));
        let unpacked = output("INT32", &[0x10, 5, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        assert_eq!(response(&frame(&unpacked)).unwrap()[0].values, Values::Integers(vec![5, -1]));
        let labels = output("BYTES", &[bytes(8, b"red"), bytes(8, b"white")].concat());
        let expected = vec![b"red".as_slice().into(), b"white".as_slice().into()];
        assert_eq!(response(&frame(&labels)).unwrap()[0].values, Values::Labels(expected));
    }

    #[test]
    fn what_does_not_fit_is_not_read() {
        assert_eq!(response(&[1, 0, 0, 0, 0]), None, "compressed");
        assert_eq!(response(&[frame(b""), frame(b"")].concat()), None, "two messages");
        assert_eq!(response(&frame(&output("FP32", &bytes(6, &[0; 4])))), None, "one element for a shape of two");
        assert_eq!(response(&frame(&[output("FP32", b""), bytes(6, &[0; 8]), bytes(6, b"")].concat())), None);
        assert_eq!(response(&frame(&[0x2a, 0x7f])), None, "shorter than it says");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = response(&message);
            let _ = response(&frame(&message));
            let _ = response(&frame(&output("FP32", &message[..message.len().min(100)])));
        }
    }
}
