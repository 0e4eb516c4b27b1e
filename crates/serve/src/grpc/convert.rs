//! Messages of the protocol to and from tensors.

use bytes::Bytes;
use half::{bf16, f16};
use modelyard_core::signature::{Datatype, TensorSpec};

use crate::batch::{Part, Slice};
use crate::body::bad_raw;
use crate::codec::raw;
use crate::generated::infer_parameter::ParameterChoice;
use crate::generated::model_infer_request::InferInputTensor;
use crate::generated::model_infer_response::InferOutputTensor;
use crate::generated::model_metadata_response::TensorMetadata;
use crate::generated::{InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataResponse};
use crate::model::{Inputs, Model, Question, Wanted};
use crate::refusal::{Refusal, shown};
use crate::tensor::Data;

/// Reads a request.
pub(crate) fn question(model: &Model, request: ModelInferRequest) -> Result<Question, Refusal> {
    let raw_contents = request.raw_input_contents;
    if !raw_contents.is_empty() && raw_contents.len() != request.inputs.len() {
        let (raw, inputs) = (raw_contents.len(), request.inputs.len());
        return Err(Refusal::invalid(format!(
            "there are {raw} raw_input_contents for {inputs} inputs; there must be one each, or none"
        )));
    }
    let mut inputs = Inputs::new(&model.signature);
    for (index, input) in request.inputs.into_iter().enumerate() {
        let slot = inputs.place(&input.name, &input.datatype, &input.shape)?;
        let data = match raw_contents.get(index) {
            Some(_) if input.contents.is_some() => {
                return Err(Refusal::invalid(format!(
                    "input `{}` has both contents and raw_input_contents",
                    input.name
                )));
            }
            Some(bytes) => raw::decode(bytes, slot.datatype, slot.elements)
                .map_err(|error| bad_raw(&input.name, slot.elements, &error))?,
            None => typed(&input, slot.datatype, slot.elements)?,
        };
        inputs.fill(slot, input.shape, data)?;
    }
    let id = Some(request.id).filter(|id| !id.is_empty());
    let mut wanted = Wanted { id, outputs: Vec::with_capacity(request.outputs.len()) };
    for output in &request.outputs {
        let index = model.output(&output.name)?;
        let classified =
            output.parameters.get("classification").and_then(|parameter| parameter.parameter_choice.as_ref());
        if matches!(classified, Some(ParameterChoice::Int64Param(1..))) {
            return Err(Refusal::invalid(format!(
                "output {}: the parameter `classification` is not supported",
                shown(&output.name)
            )));
        }
        if wanted.outputs.iter().any(|&(other, _)| other == index) {
            return Err(Refusal::invalid(format!("output {} is asked for twice", shown(&output.name))));
        }
        wanted.outputs.push((index, true));
    }
    if wanted.outputs.is_empty() {
        wanted = Wanted::all(model, wanted.id, true);
    }
    Ok(Question { inputs: inputs.finish()?, wanted })
}

/// Reads the typed contents of an input.
fn typed(input: &InferInputTensor, datatype: Datatype, expected: usize) -> Result<Data, Refusal> {
    let name = &input.name;
    let Some(contents) = &input.contents else {
        return Err(Refusal::invalid(format!("input `{name}` has no data: neither contents nor raw_input_contents")));
    };
    fn narrow<T: Copy, U: TryFrom<T>>(name: &str, list: &[T], datatype: Datatype) -> Result<Vec<U>, Refusal> {
        let convert = |(index, &value)| {
            U::try_from(value)
                .map_err(|_| Refusal::invalid(format!("input `{name}`: element {index} does not fit {datatype}")))
        };
        list.iter().enumerate().map(convert).collect()
    }
    let data = match datatype {
        Datatype::Bool => Data::Bool(contents.bool_contents.clone()),
        Datatype::Int8 => Data::Int8(narrow(name, &contents.int_contents, datatype)?),
        Datatype::Int16 => Data::Int16(narrow(name, &contents.int_contents, datatype)?),
        Datatype::Int32 => Data::Int32(contents.int_contents.clone()),
        Datatype::Int64 => Data::Int64(contents.int64_contents.clone()),
        Datatype::Uint8 => Data::Uint8(narrow(name, &contents.uint_contents, datatype)?),
        Datatype::Uint16 => Data::Uint16(narrow(name, &contents.uint_contents, datatype)?),
        Datatype::Uint32 => Data::Uint32(contents.uint_contents.clone()),
        Datatype::Uint64 => Data::Uint64(contents.uint64_contents.clone()),
        // The protocol has no field for half precision, but single precision holds every value of it.
        Datatype::Fp16 => Data::Fp16(contents.fp32_contents.iter().map(|&value| f16::from_f32(value)).collect()),
        Datatype::Bf16 => Data::Bf16(contents.fp32_contents.iter().map(|&value| bf16::from_f32(value)).collect()),
        Datatype::Fp32 => Data::Fp32(contents.fp32_contents.clone()),
        Datatype::Fp64 => Data::Fp64(contents.fp64_contents.clone()),
        Datatype::Bytes => {
            let text = |(index, bytes): (usize, &Bytes)| {
                let not_text = |_| {
                    Refusal::invalid(format!(
                        "input `{name}`: element {index} is not UTF-8, which ONNX strings must be"
                    ))
                };
                std::str::from_utf8(bytes).map(str::to_owned).map_err(not_text)
            };
            Data::Bytes(contents.bytes_contents.iter().enumerate().map(text).collect::<Result<_, _>>()?)
        }
    };
    match data.len() == expected {
        true => Ok(data),
        false => {
            let found = data.len();
            Err(Refusal::invalid(format!(
                "input `{name}` has {found} elements in the contents for {datatype}; its shape needs {expected}"
            )))
        }
    }
}

/// Writes an answer, raw if the request was, or if an output has no typed form.
pub(super) fn answer(model: &Model, wanted: Wanted, slice: &Slice, raw: bool) -> ModelInferResponse {
    let specs = &model.signature.outputs;
    let untyped = |&(index, _): &(usize, bool)| matches!(specs[index].datatype, Datatype::Fp16 | Datatype::Bf16);
    let raw = raw || wanted.outputs.iter().any(untyped);
    let mut response = ModelInferResponse {
        model_name: model.name.clone(),
        model_version: model.version.clone(),
        id: wanted.id.unwrap_or_default(),
        ..ModelInferResponse::default()
    };
    for (index, _) in wanted.outputs {
        let part = slice.output(index);
        let mut output = InferOutputTensor {
            name: specs[index].name.clone(),
            datatype: specs[index].datatype.name().to_owned(),
            shape: part.shape.clone(),
            ..InferOutputTensor::default()
        };
        if raw {
            let mut bytes = Vec::new();
            raw::encode(part.data, part.start, part.end, &mut bytes);
            response.raw_output_contents.push(bytes.into());
        } else {
            output.contents = Some(contents(&part));
        }
        response.outputs.push(output);
    }
    response
}

fn contents(part: &Part<'_>) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    let range = part.start..part.end;
    fn widened<T: Copy + Into<U>, U>(list: &[T]) -> Vec<U> {
        list.iter().map(|&value| value.into()).collect()
    }
    match part.data {
        Data::Bool(list) => contents.bool_contents = list[range].to_vec(),
        Data::Int8(list) => contents.int_contents = widened(&list[range]),
        Data::Int16(list) => contents.int_contents = widened(&list[range]),
        Data::Int32(list) => contents.int_contents = list[range].to_vec(),
        Data::Int64(list) => contents.int64_contents = list[range].to_vec(),
        Data::Uint8(list) => contents.uint_contents = widened(&list[range]),
        Data::Uint16(list) => contents.uint_contents = widened(&list[range]),
        Data::Uint32(list) => contents.uint_contents = list[range].to_vec(),
        Data::Uint64(list) => contents.uint64_contents = list[range].to_vec(),
        Data::Fp16(list) => contents.fp32_contents = list[range].iter().map(|value| value.to_f32()).collect(),
        Data::Bf16(list) => contents.fp32_contents = list[range].iter().map(|value| value.to_f32()).collect(),
        Data::Fp32(list) => contents.fp32_contents = list[range].to_vec(),
        Data::Fp64(list) => contents.fp64_contents = list[range].to_vec(),
        Data::Bytes(list) => contents.bytes_contents = list[range].iter().map(|text| text.clone().into()).collect(),
    }
    contents
}

/// Model metadata.
pub(super) fn metadata(model: &Model) -> ModelMetadataResponse {
    let tensors = |specs: &[TensorSpec]| {
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.name().to_owned(),
            shape: spec.shape.clone(),
        };
        specs.iter().map(tensor).collect()
    };
    ModelMetadataResponse {
        name: model.name.clone(),
        versions: vec![model.version.clone()],
        platform: model.platform.to_owned(),
        inputs: tensors(&model.signature.inputs),
        outputs: tensors(&model.signature.outputs),
        properties: Default::default(),
    }
}
