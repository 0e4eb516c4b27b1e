//! Reads a response as JSON, whatever form it came in: JSON, binary tensors, gRPC.
//!
//! Promises: binary tensors and gRPC show as the JSON form of the same answer, so one pointer fits all; hostile bytes give nothing.
//! Source: Open Inference Protocol v2 (REST, binary data extension, gRPC); protobuf encoding.

use modelyard_core::mirror::ToldAnswer;
use serde_json::{Value, json};

/// The response as JSON; nothing when it is none of the known forms.
pub fn read(answer: &ToldAnswer, body: &[u8]) -> Option<Value> {
    let kind = answer.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.starts_with("application/grpc") {
        return grpc(body, Message::Response);
    }
    match answer.header_length {
        Some(length) => binary(body.get(..length)?, body.get(length..)?, "outputs"),
        None if kind.is_empty() || kind.ends_with("json") => serde_json::from_slice(body).ok(),
        None => None,
    }
}

/// The request of an answer as JSON; nothing when it is none of the known forms.
pub fn read_request(answer: &ToldAnswer, body: &[u8]) -> Option<Value> {
    // Of a request no type is told; a call by gRPC is answered by gRPC.
    if answer.content_type.starts_with("application/grpc") {
        return grpc(body, Message::Request);
    }
    // Tensors in binary follow the JSON part: where that ends is where the first value does.
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let first = values.next()?.ok()?;
    let (header, rest) = body.split_at_checked(values.byte_offset())?;
    if rest.trim_ascii().is_empty() { Some(first) } else { binary(header, rest, "inputs") }
}

/// The first element of the first output: `{"outputs": [{"data": [...]}]}`, or `{"outputs": {name: ...}}`.
pub fn first(body: &Value) -> Option<&Value> {
    let outputs = body.get("outputs")?;
    let output = match outputs {
        Value::Array(outputs) => outputs.first()?.get("data")?,
        Value::Object(outputs) => outputs.values().next()?,
        _ => return None,
    };
    let mut leaf = output;
    while let Value::Array(items) = leaf {
        leaf = items.first()?;
    }
    Some(leaf)
}

fn binary(header: &[u8], mut rest: &[u8], side: &str) -> Option<Value> {
    let mut document: Value = serde_json::from_slice(header).ok()?;
    for output in document.get_mut(side)?.as_array_mut()? {
        let Some(size) = output.pointer("/parameters/binary_data_size").and_then(Value::as_u64) else { continue };
        let (bytes, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        let datatype = output.get("datatype").and_then(Value::as_str).unwrap_or_default().to_owned();
        output["data"] = Value::Array(elements(&datatype, bytes)?);
        rest = after;
    }
    Some(document)
}

/// The elements of a raw tensor, little-endian; numbers that are not finite are null.
fn elements(datatype: &str, bytes: &[u8]) -> Option<Vec<Value>> {
    macro_rules! numbers {
        ($kind:ty) => {{
            let (chunks, left) = bytes.as_chunks::<{ size_of::<$kind>() }>();
            left.is_empty().then(|| chunks.iter().map(|chunk| json!(<$kind>::from_le_bytes(*chunk))).collect())
        }};
    }
    match datatype {
        "BOOL" => Some(bytes.iter().map(|&byte| json!(byte != 0)).collect()),
        "INT8" => numbers!(i8),
        "INT16" => numbers!(i16),
        "INT32" => numbers!(i32),
        "INT64" => numbers!(i64),
        "UINT8" => numbers!(u8),
        "UINT16" => numbers!(u16),
        "UINT32" => numbers!(u32),
        "UINT64" => numbers!(u64),
        "FP32" => numbers!(f32),
        "FP64" => numbers!(f64),
        "BYTES" => strings(bytes),
        _ => None,
    }
}

/// Each string after its length in four bytes.
fn strings(mut bytes: &[u8]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (text, after) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        all.push(Value::from(String::from_utf8_lossy(text)));
        bytes = after;
    }
    Some(all)
}

/// Which message is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    /// `ModelInferRequest`: inputs in field 5, raw contents in field 7.
    Request,
    /// `ModelInferResponse`: outputs in field 5, raw contents in field 6.
    Response,
}

/// The first message of a gRPC stream, as its JSON form. Compressed messages are not read.
fn grpc(body: &[u8], kind: Message) -> Option<Value> {
    let (&[compressed, a, b, c, d], rest) = body.split_first_chunk::<5>()?;
    if compressed != 0 {
        return None;
    }
    let message = rest.get(..usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?)?;
    let (side, raw_field) = if kind == Message::Request { ("inputs", 7) } else { ("outputs", 6) };
    let (mut tensors, mut raw) = (Vec::new(), Vec::new());
    for field in Fields(message) {
        match field? {
            (5, Wire::Bytes(bytes)) => tensors.push(tensor(bytes)?),
            (field, Wire::Bytes(bytes)) if field == raw_field => raw.push(bytes),
            _ => {}
        }
    }
    for (tensor, bytes) in tensors.iter_mut().zip(raw) {
        let datatype = tensor.get("datatype").and_then(Value::as_str).unwrap_or_default().to_owned();
        tensor["data"] = Value::Array(elements(&datatype, bytes)?);
    }
    Some(json!({ side: tensors }))
}

fn tensor(bytes: &[u8]) -> Option<Value> {
    let mut tensor = json!({ "name": "", "datatype": "", "shape": [], "data": [] });
    let mut shape = Vec::new();
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(name)) => tensor["name"] = String::from_utf8_lossy(name).into(),
            (2, Wire::Bytes(datatype)) => tensor["datatype"] = String::from_utf8_lossy(datatype).into(),
            (3, Wire::Varint(axis)) => shape.push(integer(3, axis)),
            (3, Wire::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    shape.push(integer(3, varint(&mut packed)?));
                }
            }
            (5, Wire::Bytes(contents)) => tensor["data"] = Value::Array(typed(contents)?),
            _ => {}
        }
    }
    tensor["shape"] = Value::Array(shape);
    Some(tensor)
}

/// `InferTensorContents`: one repeated field by type, packed or not.
fn typed(contents: &[u8]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for field in Fields(contents) {
        match field? {
            (6, Wire::Bytes(packed)) => all.extend(elements("FP32", packed)?),
            (7, Wire::Bytes(packed)) => all.extend(elements("FP64", packed)?),
            (6, Wire::Four(bytes)) => all.push(json!(f32::from_le_bytes(bytes))),
            (7, Wire::Eight(bytes)) => all.push(json!(f64::from_le_bytes(bytes))),
            (8, Wire::Bytes(text)) => all.push(Value::from(String::from_utf8_lossy(text))),
            (number @ 1..=5, Wire::Varint(value)) => all.push(integer(number, value)),
            (number @ 1..=5, Wire::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    all.push(integer(number, varint(&mut packed)?));
                }
            }
            _ => {}
        }
    }
    Some(all)
}

/// Fields 1 `bool`, 2 `int32`, 3 `int64` (two's complement), 4 `uint32`, 5 `uint64`.
fn integer(field: u64, value: u64) -> Value {
    match field {
        1 => json!(value != 0),
        2 | 3 => json!(value.cast_signed()),
        _ => json!(value),
    }
}

enum Wire<'a> {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

/// The fields of a protobuf message; ends with `None` inside where the bytes are none.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let key = varint(bytes)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => {
            let (eight, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Wire::Eight(*eight)
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (inside, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Wire::Bytes(inside)
        }
        5 => {
            let (four, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Wire::Four(*four)
        }
        _ => return None,
    };
    Some((key >> 3, wire))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(content_type: &str, header_length: Option<usize>) -> ToldAnswer {
        serde_json::from_value(json!({
            "id": "a", "at_ms": 1, "revision": 1, "status": 200, "micros": 5, "path": "/",
            "content_type": content_type, "header_length": header_length,
        }))
        .unwrap()
    }

    #[test]
    fn the_first_element_of_the_first_output() {
        let oip = json!({"outputs": [{"name": "y", "data": [[7, 8], [9, 1]]}, {"name": "z", "data": [5]}]});
        assert_eq!(first(&oip), Some(&json!(7)));
        assert_eq!(first(&json!({"outputs": {"y": [["red"]]}})), Some(&json!("red")));
        for none in
            [json!({}), json!({"outputs": []}), json!({"outputs": [{"data": []}]}), json!([1]), json!({"outputs": 3})]
        {
            assert_eq!(first(&none), None, "{none}");
        }
    }

    #[test]
    fn binary_tensors_read_as_their_json_form() {
        let header = json!({"outputs": [
            {"name": "s", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}},
            {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "z", "datatype": "INT64", "shape": [1], "data": [4]},
        ]})
        .to_string();
        let mut body = header.clone().into_bytes();
        body.extend(b"\x03\0\0\0red");
        body.extend([0.5f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
        let told = answer("application/octet-stream", Some(header.len()));
        let read = super::read(&told, &body).unwrap();
        assert_eq!(read.pointer("/outputs/0/data"), Some(&json!(["red"])));
        assert_eq!(read.pointer("/outputs/1/data/1"), Some(&json!(2.0)));
        assert_eq!(read.pointer("/outputs/2/data/0"), Some(&json!(4)));
        body.truncate(body.len() - 1);
        assert_eq!(super::read(&told, &body), None, "a torn tensor");
    }

    #[test]
    fn grpc_answers_read_as_their_json_form() {
        // ModelInferResponse { outputs: [{ name "y", datatype "INT64", contents { int64_contents [3, -1] } }] }
        let contents = [0x1a, 11, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let mut tensor =
            vec![0x0a, 1, b'y', 0x12, 5, b'I', b'N', b'T', b'6', b'4', 0x1a, 1, 2, 0x2a, contents.len() as u8];
        tensor.extend(contents);
        let mut message = vec![0x2a, tensor.len() as u8];
        message.extend(&tensor);
        let frame = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
        let read = read(&answer("application/grpc+proto", None), &frame(&message)).unwrap();
        assert_eq!(read, json!({"outputs": [{"name": "y", "datatype": "INT64", "shape": [2], "data": [3, -1]}]}));
        // Raw contents: the tensor has none of its own.
        let tensor = [0x0a, 1, b'y', 0x12, 4, b'F', b'P', b'3', b'2'];
        let mut message = vec![0x2a, tensor.len() as u8];
        message.extend(tensor);
        message.extend([0x32, 4]);
        message.extend(0.25f32.to_le_bytes());
        let read = super::read(&answer("application/grpc", None), &frame(&message)).unwrap();
        assert_eq!(first(&read), Some(&json!(0.25)));
    }

    #[test]
    fn requests_read_as_their_json_form() {
        let rest = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 2.0]}]});
        let told = answer("application/json", None);
        assert_eq!(read_request(&told, format!(" {rest}\n").as_bytes()), Some(rest.clone()));
        let header = json!({"inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
        ]});
        let mut body = header.to_string().into_bytes();
        body.extend([0.5f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
        assert_eq!(read_request(&told, &body).unwrap().pointer("/inputs/0/data"), rest.pointer("/inputs/0/data"));
        body.pop();
        assert_eq!(read_request(&told, &body), None, "a torn tensor");
        // ModelInferRequest { inputs: [{ name "x", datatype "FP32", shape 1, 2 }], raw_input_contents }
        let tensor = [0x0a, 1, b'x', 0x12, 4, b'F', b'P', b'3', b'2', 0x18, 1, 0x18, 2];
        let mut message = vec![0x0a, 1, b'm', 0x2a, tensor.len() as u8];
        message.extend(tensor);
        message.extend([0x3a, 8]);
        message.extend([0.5f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
        let frame = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
        assert_eq!(read_request(&answer("application/grpc", None), &frame), Some(rest));
        assert_eq!(read_request(&told, b"no JSON"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), length in 0usize..140) {
            for told in [answer("application/grpc", None), answer("", Some(length)), answer("application/json", None)] {
                let _ = read(&told, &bytes).as_ref().and_then(first);
                let _ = read_request(&told, &bytes);
            }
            for datatype in ["BYTES", "FP64", "BOOL", "?"] {
                let _ = elements(datatype, &bytes);
            }
        }
    }
}
