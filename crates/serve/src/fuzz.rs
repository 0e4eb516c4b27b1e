//! Doors for the fuzz targets to parsers that nobody else calls from outside. Compiled for fuzzing only.

use modelyard_core::signature::{Datatype, Signature, TensorSpec};

use crate::body::{infer, plain};
use crate::contract::{self, Media, Route};
use crate::generated::ModelInferRequest;
use crate::grpc;
use crate::model::Model;

/// A body in every form that a request may have, for a model that takes one tensor of each kind.
pub fn bodies(bytes: &[u8], json_length: Option<usize>) {
    let model = model();
    let _ = infer::read(&model, bytes, json_length);
    let _ = plain::read(&model, bytes);
    for route in [Route::Invocations, Route::Predict, Route::Score] {
        let _ = contract::read(&model, route, Media::Json, bytes);
    }
    for headed in [true, false] {
        let _ = contract::read(&model, Route::Invocations, Media::Csv { headed }, bytes);
    }
    if let Ok(request) = <ModelInferRequest as prost::Message>::decode(bytes) {
        let _ = grpc::question(&model, request);
    }
}

fn model() -> Model {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        optional: true,
    };
    let inputs = vec![
        spec("f", Datatype::Fp32, &[-1, 4]),
        spec("h", Datatype::Fp16, &[-1, 2]),
        spec("i", Datatype::Int64, &[-1, -1]),
        spec("b", Datatype::Bool, &[-1]),
        spec("s", Datatype::Bytes, &[-1, 1]),
    ];
    let outputs = vec![spec("label", Datatype::Int64, &[-1])];
    Model::new("m", "1.0.0", Signature { inputs, outputs })
}
