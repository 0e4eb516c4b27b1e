//! The inference form of an answer: JSON, and behind it the binary data of outputs that were wanted so.

use crate::batch::Slice;
use crate::codec::{raw, write};
use crate::model::{Model, Wanted};

/// A written answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    /// Length of the JSON at the front, if binary data follows.
    pub(crate) json_length: Option<usize>,
}

/// Writes an answer.
pub(crate) fn write(model: &Model, wanted: &Wanted, slice: &Slice) -> Answer {
    let mut body = Vec::with_capacity(256);
    let mut binary = Vec::new();
    let mut any_binary = false;
    body.extend_from_slice(&model.answer_head);
    if let Some(id) = &wanted.id {
        body.extend_from_slice(b",\"id\":");
        write::string(id, &mut body);
    }
    body.extend_from_slice(b",\"outputs\":[");
    for (position, &(index, as_binary)) in wanted.outputs.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        let part = slice.output(index);
        body.extend_from_slice(&model.output_heads[index]);
        shape(&part.shape, &mut body);
        if as_binary {
            let before = binary.len();
            raw::encode(part.data, part.start, part.end, &mut binary);
            body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            write::integer(binary.len() - before, &mut body);
            body.extend_from_slice(b"}}");
            any_binary = true;
        } else {
            body.extend_from_slice(b",\"data\":");
            write::flat(part.data, part.start, part.end, &mut body);
            body.push(b'}');
        }
    }
    body.extend_from_slice(b"]}");
    let json_length = any_binary.then_some(body.len());
    body.append(&mut binary);
    Answer { body, json_length }
}

fn shape(axes: &[i64], out: &mut Vec<u8>) {
    out.push(b'[');
    for (position, &axis) in axes.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write::integer(axis, out);
    }
    out.push(b']');
}
