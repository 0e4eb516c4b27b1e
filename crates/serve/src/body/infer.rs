//! The inference form: an envelope, and behind it the binary data of inputs that have any.

use modelyard_core::signature::Datatype;

use super::envelope::{Envelope, Input, Output, Parameters};
use super::{bad_data, bad_raw, not_json};
use crate::codec::{json, raw};
use crate::model::{Inputs, Model, Question, Wanted};
use crate::refusal::{Refusal, shown};
use crate::tensor::Data;

/// Reads a request. `json_length` is what the header `Inference-Header-Content-Length` says, if it is there.
pub(crate) fn read(model: &Model, body: &[u8], json_length: Option<usize>) -> Result<Question, Refusal> {
    let (text, mut binary) = match json_length {
        None => (body, &[][..]),
        Some(length) => body.split_at_checked(length).ok_or_else(|| {
            Refusal::invalid(format!(
                "Inference-Header-Content-Length is {length}, but the body has only {} bytes",
                body.len()
            ))
        })?,
    };
    let envelope: Envelope<'_> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
    let mut inputs = Inputs::new(&model.signature);
    for input in envelope.inputs {
        take(&mut inputs, input, &mut binary, json_length.is_some())?;
    }
    if !binary.is_empty() {
        let rest = binary.len();
        return Err(Refusal::invalid(format!(
            "{rest} bytes remain after the binary data of all inputs; check each binary_data_size"
        )));
    }
    let wanted = wanted(model, envelope.id, envelope.parameters, envelope.outputs)?;
    Ok(Question { inputs: inputs.finish()?, wanted })
}

/// Reads one input, and its bytes off the front of `binary`.
fn take(inputs: &mut Inputs<'_>, input: Input<'_>, binary: &mut &[u8], has_binary: bool) -> Result<(), Refusal> {
    let slot = inputs.place(&input.name, &input.datatype, &input.shape)?;
    let size = input.parameters.and_then(|parameters| parameters.binary_data_size);
    let data = match (input.data, size) {
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid(format!("input `{}` has both data and binary_data_size", input.name)));
        }
        (None, None) => return Err(Refusal::invalid(format!("input `{}` has no data", input.name))),
        (Some(data), None) => from_json(&input, data.get(), slot.datatype, slot.elements)?,
        (None, Some(_)) if !has_binary => {
            return Err(Refusal::invalid(format!(
                "input `{}` has a binary_data_size, but the header Inference-Header-Content-Length is missing",
                input.name
            )));
        }
        (None, Some(size)) => {
            let split = usize::try_from(size).ok().and_then(|size| binary.split_at_checked(size));
            let Some((bytes, rest)) = split else {
                let (name, left) = (&input.name, binary.len());
                return Err(Refusal::invalid(format!(
                    "input `{name}` has the binary_data_size {size}, but only {left} bytes are left in the body"
                )));
            };
            *binary = rest;
            raw::decode(bytes, slot.datatype, slot.elements)
                .map_err(|error| bad_raw(&input.name, slot.elements, &error))?
        }
    };
    inputs.fill(slot, input.shape, data)
}

fn from_json(input: &Input<'_>, text: &str, datatype: Datatype, elements: usize) -> Result<Data, Refusal> {
    let nested = text.starts_with('[') && text[1..].trim_start().starts_with('[');
    if nested {
        let outline = json::outline(text).map_err(|error| bad_data(&input.name, elements, &error))?;
        if outline != input.shape {
            return Err(Refusal::invalid(format!(
                "input `{}`: its nested lists do not have the shape that it says",
                input.name
            )));
        }
    }
    json::elements(text, datatype, elements).map_err(|error| bad_data(&input.name, elements, &error))
}

fn wanted(
    model: &Model,
    id: Option<String>,
    parameters: Option<Parameters>,
    outputs: Option<Vec<Output<'_>>>,
) -> Result<Wanted, Refusal> {
    let binary = parameters.unwrap_or_default().binary_data_output.unwrap_or(false);
    let Some(outputs) = outputs.filter(|outputs| !outputs.is_empty()) else {
        return Ok(Wanted::all(model, id, binary));
    };
    let mut wanted = Wanted { id, outputs: Vec::with_capacity(outputs.len()) };
    for output in outputs {
        let index = model.output(&output.name)?;
        let parameters = output.parameters.unwrap_or_default();
        if parameters.classification {
            return Err(Refusal::invalid(format!(
                "output {}: the parameter `classification` is not supported",
                shown(&output.name)
            )));
        }
        if wanted.outputs.iter().any(|&(other, _)| other == index) {
            return Err(Refusal::invalid(format!("output {} is asked for twice", shown(&output.name))));
        }
        wanted.outputs.push((index, parameters.binary_data.unwrap_or(binary)));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;

    fn refused(body: &str) -> String {
        read(&model(), body.as_bytes(), None).unwrap_err().message
    }

    #[test]
    fn keys_may_stand_in_any_order_and_data_nested_or_flat() {
        for data in ["[1,2,3,4,5,6,7,8]", "[[1,2,3,4],[5,6,7,8]]"] {
            let body = format!(
                r#"{{"outputs":[{{"name":"p"}}],"id":"7","inputs":[{{"data":{data},"x-extra":{{}},"datatype":"FP32","shape":[2,4],"name":"x"}}]}}"#
            );
            let question = read(&model(), body.as_bytes(), None).unwrap();
            let tensor = question.inputs[0].as_ref().unwrap();
            assert_eq!(tensor.data, Data::Fp32((1..=8).map(|v| v as f32).collect()));
            assert_eq!(question.wanted, Wanted { id: Some("7".into()), outputs: vec![(1, false)] });
        }
    }

    #[test]
    fn refusals_are_precise_and_never_echo_data() {
        let body = |data: &str, shape: &str| {
            format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":{data}}}]}}"#)
        };
        assert_eq!(refused(&body("[1,2,3]", "[1,4]")), "input `x` has 3 elements; its shape needs 4");
        assert!(
            refused(&body("[1,2,3,\"secret\"]", "[1,4]"))
                .ends_with("element 3 is not a number within single precision")
        );
        assert!(refused(&body("[[1,2],[3,4]]", "[1,4]")).contains("do not have the shape"));
        assert!(refused("{\"inputs\":\"secret\"}").contains("expected a sequence"));
        assert!(refused("{}").contains("missing field `inputs`"));
        assert!(refused("{\"inputs\":[{\"name\":\"x\"").contains("EOF"));
        assert!(refused("").contains("EOF"));
        assert!(refused(&body("[NaN,1,2,3]", "[1,4]")).contains("expected value"));
        for hostile in ["secret", "\"secret\"", "{\"secret\":1}"] {
            let text = refused(&format!(
                "{{\"inputs\":[{{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":{hostile},\"data\":{hostile}}}]}}"
            ));
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn binary_data_follows_the_json() {
        let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}"#;
        let mut body = json.as_bytes().to_vec();
        body.extend([1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()));
        let question = read(&model(), &body, Some(json.len())).unwrap();
        assert_eq!(question.inputs[0].as_ref().unwrap().data, Data::Fp32(vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(question.wanted.outputs, [(0, true), (1, true)]);
        let message = |body: &[u8], length| read(&model(), body, length).unwrap_err().message;
        assert!(message(&body[..body.len() - 1], Some(json.len())).contains("only 15 bytes are left"));
        assert!(message(&[&body[..], b"x"].concat(), Some(json.len())).contains("1 bytes remain"));
        assert!(message(&body, Some(body.len() + 1)).contains("only"));
        assert!(message(json.as_bytes(), None).contains("Inference-Header-Content-Length is missing"));
    }
}
