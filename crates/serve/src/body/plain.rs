//! The plain form for people: `{"inputs": {name: nested list}}` → `{"outputs": {name: nested list}}`.
//!
//! The datatype is the signature's, the shape that of the lists.

use std::borrow::Cow;
use std::fmt;

use modelyard_core::signature::TensorSpec;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{bad_data, not_json};
use crate::batch::Slice;
use crate::codec::{json, write};
use crate::model::{Inputs, Model, Question, Wanted, slot};
use crate::refusal::Refusal;

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow)]
    inputs: Named<'a>,
}

/// Names and their data, in order; a name that stands twice is kept twice, to be refused.
pub(crate) struct Named<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a list for each input")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Named(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Reads a request.
pub(crate) fn read(model: &Model, body: &[u8]) -> Result<Question, Refusal> {
    let plain: Plain<'_> = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    let mut inputs = Inputs::new(&model.signature);
    for (name, text) in plain.inputs.0 {
        let named = inputs.spec(&name)?;
        take(&mut inputs, named, text.get())?;
    }
    Ok(Question { inputs: inputs.finish()?, wanted: Wanted::all(model, None, false) })
}

/// Reads one input, whose shape is that of its lists.
pub(crate) fn take(inputs: &mut Inputs<'_>, (index, spec): (usize, &TensorSpec), text: &str) -> Result<(), Refusal> {
    let shape = json::outline(text).map_err(|error| bad_data(&spec.name, 0, &error))?;
    let slot = slot(index, spec, &shape)?;
    let data = json::elements(text, slot.datatype, slot.elements);
    inputs.fill(slot, shape, data.map_err(|error| bad_data(&spec.name, slot.elements, &error))?)
}

/// Writes an answer.
pub(crate) fn write(model: &Model, wanted: &Wanted, slice: &Slice) -> Vec<u8> {
    let mut out = b"{\"outputs\":".to_vec();
    named(model, wanted, slice, &mut out);
    out.push(b'}');
    out
}

/// Appends an object with a nested list for each output.
pub(crate) fn named(model: &Model, wanted: &Wanted, slice: &Slice, out: &mut Vec<u8>) {
    out.push(b'{');
    for (position, &(index, _)) in wanted.outputs.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write::string(&model.signature.outputs[index].name, out);
        out.push(b':');
        let part = slice.output(index);
        write::nested(part.data, &part.shape, part.start, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;

    #[test]
    fn the_shape_is_that_of_the_lists() {
        let question = read(&model(), br#"{"inputs":{"x":[[1,2,3,4],[5,6,7,8]],"word":[["a"],["b"]]}}"#).unwrap();
        let shapes: Vec<_> = question.inputs.iter().map(|tensor| tensor.as_ref().unwrap().shape.clone()).collect();
        assert_eq!(shapes, [[2, 4], [2, 1]]);
    }

    #[test]
    fn ragged_lists_and_doubled_names_are_refused() {
        let refused = |body: &str| read(&model(), body.as_bytes()).unwrap_err().message;
        assert!(refused(r#"{"inputs":{"x":[[1,2,3,4],[5]]}}"#).contains("same length"));
        assert!(refused(r#"{"inputs":{"x":[[1,2,3,4]],"x":[[1,2,3,4]]}}"#).contains("twice"));
        assert!(refused(r#"{"inputs":[1,2]}"#).contains("expected an object with a list for each input"));
        assert!(refused(r#"{"inputs":{"x":[1,2,3,4]}}"#).contains("has the shape [4]"));
    }
}
