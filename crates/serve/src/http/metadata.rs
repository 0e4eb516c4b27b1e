//! What the server and the model say of themselves.
//!
//! Source of the statistics' form: Triton's statistics extension.

use std::sync::atomic::Ordering::Relaxed;

use modelyard_core::signature::TensorSpec;
use serde_json::{Value, json};

use crate::model::Model;
use crate::server::{Loaded, Shared};

/// Name of this server in the protocol.
pub(crate) const SERVER: &str = "modelyard";

/// Extensions of the protocol that this server has.
pub(crate) const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "statistics"];

/// Server metadata.
pub(super) fn server() -> Value {
    json!({"name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS})
}

/// Model metadata.
pub(super) fn model(model: &Model) -> Value {
    let tensors = |specs: &[TensorSpec]| -> Vec<Value> {
        let tensor = |spec: &TensorSpec| {
            let mut tensor = json!({"name": spec.name, "datatype": spec.datatype, "shape": spec.shape});
            if spec.optional {
                tensor["optional"] = json!(true);
            }
            tensor
        };
        specs.iter().map(tensor).collect()
    };
    json!({
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": tensors(&model.signature.inputs),
        "outputs": tensors(&model.signature.outputs),
    })
}

/// Statistics since the start.
pub(super) fn stats(shared: &Shared, loaded: &Loaded) -> Value {
    let totals = shared.totals();
    let duration = |count: u64, ns: u64| json!({"count": count, "ns": ns});
    let (successes, failures) = (totals.successes(), totals.failures());
    let executions: u64 = loaded.runs().map(|runs| runs.ended.load(Relaxed)).sum();
    json!({"model_stats": [{
        "name": loaded.model.name,
        "version": loaded.model.version,
        "last_inference": totals.last_ms,
        "inference_count": totals.rows,
        "execution_count": executions,
        "inference_stats": {
            "success": duration(successes, totals.success_ns),
            "fail": duration(failures, totals.fail_ns),
            "queue": duration(successes, totals.queue_ns),
            "compute_input": duration(successes, 0),
            "compute_infer": duration(successes, totals.engine_ns),
            "compute_output": duration(successes, 0),
        },
        "batch_stats": [],
    }]})
}
