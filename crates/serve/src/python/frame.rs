//! Frames between the server and a worker: a head in JSON, then raw tensors.
//!
//! Promises: whatever bytes a worker sends, they are read or refused with a sentence; no length is believed before it was held against a limit,
//! and what passes fits the signature.
//! Source: docs/reference/python-runtime.md; tensors as in the binary extension of the Open Inference Protocol.

use std::io::{self, Read, Write};

use modelyard_core::signature::{Datatype, Signature, TensorSpec, shape_fits};
use serde::{Deserialize, Serialize};

use crate::codec::raw;
use crate::engine::{Output, Scored};
use crate::tensor::{Tensor, elements, shape_text};

const MAGIC: [u8; 4] = *b"MYD1";
const HEADER: usize = 16;
/// Largest head in bytes: 4096 outputs with long names fit.
const MOST_HEAD: usize = 1 << 20;
/// Most tensor bytes of one frame.
const MOST_BODY: u64 = 1 << 30;

/// One tensor of a head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<Scored>,
}

#[derive(Serialize)]
struct Run {
    kind: &'static str,
    tensors: Vec<Part>,
}

/// What a worker says.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Head {
    Ready { python: String, numpy: Option<String> },
    Answer { tensors: Vec<Part> },
    Failed { what: String },
    Refused { what: String },
}

/// What a worker said, read and found right.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// It has loaded its function.
    Ready { python: String, numpy: Option<String> },
    /// The outputs, in the signature's order.
    Answer(Vec<Output>),
    /// The function failed, or gave what the signature does not say.
    Failed(String),
    /// The inputs cannot be used.
    Refused(String),
}

/// Writes a frame without tensors.
pub(super) fn write_head(socket: &mut impl Write, head: &impl Serialize) -> io::Result<()> {
    write(socket, head, &[])
}

fn write(socket: &mut impl Write, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head).map_err(io::Error::other)?;
    let (Ok(length), true) = (u32::try_from(head.len()), body.len() as u64 <= MOST_BODY) else {
        return Err(io::Error::other("the frame is too large"));
    };
    let mut start = Vec::with_capacity(HEADER + head.len());
    start.extend_from_slice(&MAGIC);
    start.extend_from_slice(&length.to_le_bytes());
    start.extend_from_slice(&(body.len() as u64).to_le_bytes());
    start.extend_from_slice(&head);
    socket.write_all(&start)?;
    socket.write_all(body)
}

/// Writes the inputs of one call; what was left out is not in it.
pub(super) fn write_inputs(
    socket: &mut impl Write,
    specs: &[TensorSpec],
    inputs: &[Option<&Tensor>],
) -> io::Result<()> {
    let (mut tensors, mut body) = (Vec::with_capacity(inputs.len()), Vec::new());
    for (spec, tensor) in specs.iter().zip(inputs) {
        let Some(tensor) = tensor else { continue };
        let start = body.len();
        raw::encode(&tensor.data, 0, tensor.data.len(), &mut body);
        let bytes = (body.len() - start) as u64;
        tensors.push(Part {
            name: spec.name.clone(),
            datatype: spec.datatype,
            shape: tensor.shape.clone(),
            bytes,
            form: None,
        });
    }
    write(socket, &Run { kind: "run", tensors }, &body)
}

/// Reads one frame of a worker.
///
/// # Errors
/// `InvalidData` with a sentence for what is no frame, or one that does not fit the signature; otherwise what the socket said.
pub(super) fn read(socket: &mut impl Read, signature: &Signature) -> io::Result<Said> {
    let mut header = [0; HEADER];
    socket.read_exact(&mut header)?;
    let (head, body) = lengths(&header).ok_or_else(|| odd("the worker sent no frame"))?;
    // Read piece by piece: a length alone does not make us take memory.
    let head = exactly(socket, head as u64)?;
    let body = exactly(socket, body)?;
    said(&head, &body, signature).map_err(odd)
}

fn odd(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn exactly(socket: &mut impl Read, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match socket.take(count).read_to_end(&mut bytes)? as u64 == count {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn lengths(header: &[u8; HEADER]) -> Option<(usize, u64)> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (head, rest) = rest.split_first_chunk::<4>()?;
    let body = u64::from_le_bytes(*rest.first_chunk()?);
    let head = u32::from_le_bytes(*head) as usize;
    (*magic == MAGIC && head <= MOST_HEAD && body <= MOST_BODY).then_some((head, body))
}

fn said(head: &[u8], body: &[u8], signature: &Signature) -> Result<Said, String> {
    let head: Head = serde_json::from_slice(head).map_err(|_| "the worker sent a head that is not understood")?;
    match head {
        Head::Ready { python, numpy } => {
            Ok(Said::Ready { python: sentence(&python), numpy: numpy.map(|it| sentence(&it)) })
        }
        Head::Failed { what } => Ok(Said::Failed(sentence(&what))),
        Head::Refused { what } => Ok(Said::Refused(sentence(&what))),
        Head::Answer { tensors } => outputs(&tensors, body, signature).map(Said::Answer),
    }
}

/// A worker's words as one line of at most 400 characters.
fn sentence(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(400).collect()
}

fn outputs(parts: &[Part], body: &[u8], signature: &Signature) -> Result<Vec<Output>, String> {
    if parts.len() != signature.outputs.len() {
        return Err(format!("the worker sent {} outputs instead of {}", parts.len(), signature.outputs.len()));
    }
    let (mut rest, mut outputs) = (body, Vec::with_capacity(parts.len()));
    for (part, spec) in parts.iter().zip(&signature.outputs) {
        let name = &spec.name;
        if part.name != *name || part.datatype != spec.datatype || !shape_fits(&spec.shape, &part.shape) {
            return Err(format!(
                "the worker sent something else than {} {} as `{name}`",
                spec.datatype,
                shape_text(&spec.shape)
            ));
        }
        let count = elements(&part.shape).ok_or_else(|| format!("`{name}` has an impossible shape"))?;
        let bytes = usize::try_from(part.bytes).ok();
        let (own, after) =
            bytes.and_then(|bytes| rest.split_at_checked(bytes)).ok_or_else(|| format!("`{name}` is cut off"))?;
        let data = raw::decode(own, spec.datatype, count)
            .map_err(|_| format!("the bytes of `{name}` do not fit its shape"))?;
        let tensor = Tensor { shape: part.shape.clone(), data };
        outputs.push(Output { tensor, shared: false, form: part.form.clone() });
        rest = after;
    }
    if rest.is_empty() { Ok(outputs) } else { Err("the worker sent more than its outputs".to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::Data;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional: false,
        };
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[-1, 2]), spec("word", Datatype::Bytes, &[])],
            outputs: vec![spec("y", Datatype::Fp32, &[-1, 2]), spec("n", Datatype::Int64, &[])],
        }
    }

    fn frame(head: &str, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, &serde_json::from_str::<serde_json::Value>(head).unwrap(), body).unwrap();
        out
    }

    const RIGHT: &str = r#"{"kind": "answer", "tensors": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "bytes": 8},
        {"name": "n", "datatype": "INT64", "shape": [], "bytes": 8}]}"#;

    fn right_body() -> Vec<u8> {
        [1.0_f32.to_le_bytes().to_vec(), 2.0_f32.to_le_bytes().to_vec(), 7_i64.to_le_bytes().to_vec()].concat()
    }

    #[test]
    fn an_answer_is_read_into_tensors() {
        let Said::Answer(outputs) = read(&mut frame(RIGHT, &right_body()).as_slice(), &signature()).unwrap() else {
            panic!()
        };
        assert_eq!(outputs[0].tensor, Tensor { shape: vec![1, 2], data: Data::Fp32(vec![1.0, 2.0]) });
        assert_eq!(outputs[1].tensor, Tensor { shape: vec![], data: Data::Int64(vec![7]) });
        let formed = RIGHT.replacen("\"bytes\": 8", "\"bytes\": 8, \"form\": {\"column\": \"z\"}", 1);
        let formed = frame(&formed.replace("\"shape\": []", "\"shape\": [], \"form\": \"list\""), &right_body());
        let Said::Answer(outputs) = read(&mut formed.as_slice(), &signature()).unwrap() else { panic!() };
        let forms: Vec<_> = outputs.into_iter().map(|output| output.form.unwrap()).collect();
        assert_eq!(forms, [Scored::Column("z".into()), Scored::List]);
        let refused = frame(r#"{"kind": "refused", "what": "no date"}"#, &[]);
        assert_eq!(read(&mut refused.as_slice(), &signature()).unwrap(), Said::Refused("no date".into()));
    }

    #[test]
    fn what_is_no_right_answer_is_refused_with_a_sentence() {
        for (from, to, what) in [
            ("\"y\"", "\"z\"", "as `y`"),
            ("FP32", "FP64", "as `y`"),
            ("[1, 2]", "[1, 3]", "as `y`"),
            ("[1, 2]", "[-1, 2]", "impossible shape"),
            ("[1, 2]", "[2, 2]", "do not fit its shape"),
            ("\"bytes\": 8}]", "\"bytes\": 9}]", "`n` is cut off"),
            ("\"shape\": [1, 2], \"bytes\": 8", "\"shape\": [0, 2], \"bytes\": 0", "more than its outputs"),
            ("answer", "guess", "not understood"),
        ] {
            let error = read(&mut frame(&RIGHT.replace(from, to), &right_body()).as_slice(), &signature()).unwrap_err();
            assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains(what), "{error} / {what}");
        }
    }

    #[test]
    fn lengths_past_the_limits_are_refused_unread() {
        let with =
            |head: u32, body: u64| [MAGIC.to_vec(), head.to_le_bytes().to_vec(), body.to_le_bytes().to_vec()].concat();
        for header in [with(u32::MAX, 0), with(2, u64::MAX), with(2, MOST_BODY + 1)] {
            assert_eq!(read(&mut header.as_slice(), &signature()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(read(&mut with(9, 0).as_slice(), &signature()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn words_of_a_worker_are_one_short_line() {
        let head = format!(r#"{{"kind": "failed", "what": "a\nb{}"}}"#, "c".repeat(900));
        let Said::Failed(what) = read(&mut frame(&head, b"").as_slice(), &signature()).unwrap() else { panic!() };
        assert!(what.starts_with("a bc") && what.len() == 400);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&mut bytes.as_slice(), &signature());
            let _ = read(&mut [MAGIC.to_vec(), bytes].concat().as_slice(), &signature());
        }

        #[test]
        fn any_change_of_a_right_frame_is_read_or_refused(at in 0usize..250, with in any::<u8>()) {
            let mut bytes = frame(RIGHT, &right_body());
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = read(&mut bytes.as_slice(), &signature());
        }
    }
}
