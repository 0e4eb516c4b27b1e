//! Whether rows of several requests may share a run: seen, not believed.
//!
//! A free first axis need not be a batch: a model may sort, normalise or pad over it. So a few different rows are run alone,
//! together, and together in another order. Only if every row gets the same answer each time are requests merged.

use modelyard_core::signature::{Datatype, Signature};

use super::{merge, rows, splits};
use crate::engine::{Engine, Output};
use crate::tensor::{Data, Tensor};

/// Rows that are tried at most: enough for a pair to be told apart, few enough for a quick start.
const TRIED: usize = 4;

/// Whether requests to this model may be merged. `known` are inputs of real requests.
pub(crate) fn mergeable(engine: &mut Engine, signature: &Signature, known: &[Vec<Option<Tensor>>]) -> bool {
    let free = signature.inputs.iter().all(|spec| spec.shape.first() == Some(&-1));
    if !free || signature.inputs.is_empty() {
        return false;
    }
    let candidates = candidates(signature, known);
    let alone: Vec<(&Vec<Option<Tensor>>, Vec<Output>)> = candidates
        .iter()
        .filter_map(|row| Some((row, engine.run(row).ok()?)))
        .filter(|(_, outputs)| splits(outputs, 1))
        .collect();
    // Rows that all get one answer prove nothing.
    let differ = alone.iter().any(|(_, outputs)| !same(outputs, 0, &alone[0].1));
    differ && agrees(engine, alone.iter()) && agrees(engine, alone.iter().rev())
}

fn agrees<'a>(
    engine: &mut Engine,
    alone: impl ExactSizeIterator<Item = &'a (&'a Vec<Option<Tensor>>, Vec<Output>)> + Clone,
) -> bool {
    let total = alone.len();
    let merged = merge(alone.clone().map(|(row, _)| row.as_slice()), total);
    let Ok(together) = engine.run(&merged) else { return false };
    splits(&together, total) && alone.enumerate().all(|(index, (_, expected))| same(&together, index, expected))
}

/// Whether row `index` of `outputs` is the answer `expected` that was given alone.
fn same(outputs: &[Output], index: usize, expected: &[Output]) -> bool {
    outputs.iter().zip(expected).all(|(output, expected)| {
        if output.shared || expected.shared {
            return output.tensor == expected.tensor;
        }
        let inner_alike = output.tensor.shape.get(1..) == expected.tensor.shape.get(1..);
        let step = expected.tensor.data.len();
        inner_alike && close(&output.tensor.data, index * step, &expected.tensor.data)
    })
}

/// Whether the elements from `start` on are `expected`. Other kernels may add up in another order, so floats may differ in
/// their last bits; everything else must be equal.
fn close(data: &Data, start: usize, expected: &Data) -> bool {
    fn floats<T: Copy + Into<f64>>(list: &[T], expected: &[T]) -> bool {
        list.iter().zip(expected).all(|(&one, &other)| {
            let (one, other): (f64, f64) = (one.into(), other.into());
            one == other || (one.is_nan() && other.is_nan()) || (one - other).abs() <= 1e-6 + 1e-5 * other.abs()
        })
    }
    macro_rules! compare {
        ($($exact:ident),*) => {
            match (data, expected) {
                (Data::Fp32(list), Data::Fp32(other)) => list.get(start..start + other.len()).is_some_and(|list| floats(list, other)),
                (Data::Fp64(list), Data::Fp64(other)) => list.get(start..start + other.len()).is_some_and(|list| floats(list, other)),
                $((Data::$exact(list), Data::$exact(other)) => list.get(start..start + other.len()) == Some(other.as_slice()),)*
                _ => false,
            }
        };
    }
    compare!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Bytes)
}

/// Single rows of one kind: those of real requests first, then variations of the first, then made-up ones.
fn candidates(signature: &Signature, known: &[Vec<Option<Tensor>>]) -> Vec<Vec<Option<Tensor>>> {
    let mut found: Vec<Vec<Option<Tensor>>> = known.iter().flat_map(|request| single_rows(request)).collect();
    if found.is_empty() {
        found.push(made_up(signature));
    }
    let first = found[0].clone();
    found.retain(|row| {
        row.iter().zip(&first).all(|(one, other)| one.as_ref().map(|t| &t.shape) == other.as_ref().map(|t| &t.shape))
    });
    found.dedup();
    found.truncate(TRIED);
    for step in 1..=2 {
        found.push(first.iter().map(|tensor| tensor.as_ref().map(|tensor| varied(tensor, step))).collect());
    }
    found
}

fn single_rows(request: &[Option<Tensor>]) -> Vec<Vec<Option<Tensor>>> {
    let Some(count) = rows(request) else { return Vec::new() };
    let row = |index: usize| request.iter().map(|tensor| tensor.as_ref().map(|tensor| row_of(tensor, index))).collect();
    (0..count.min(TRIED)).map(row).collect()
}

fn row_of(tensor: &Tensor, index: usize) -> Tensor {
    let step = tensor.data.len() / usize::try_from(tensor.shape[0]).unwrap_or(1).max(1);
    let mut shape = tensor.shape.clone();
    shape[0] = 1;
    let range = index * step..(index + 1) * step;
    macro_rules! cut {
        ($($variant:ident),*) => { match &tensor.data { $(Data::$variant(list) => Data::$variant(list[range].to_vec()),)* } };
    }
    let data = cut!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes);
    Tensor { shape, data }
}

/// The same row with other floats. Whole numbers stay: they are often indices, and others may be out of range.
fn varied(tensor: &Tensor, step: i32) -> Tensor {
    let (factor, offset) = (1.0 + 0.5 * f64::from(step), 0.25 * f64::from(step));
    let data = match &tensor.data {
        Data::Fp32(list) => Data::Fp32(list.iter().map(|&value| (f64::from(value) * factor + offset) as f32).collect()),
        Data::Fp64(list) => Data::Fp64(list.iter().map(|&value| value * factor + offset).collect()),
        same => same.clone(),
    };
    Tensor { shape: tensor.shape.clone(), data }
}

/// A request of the signature's smallest shape, all zeros.
pub(crate) fn made_up(signature: &Signature) -> Vec<Option<Tensor>> {
    let tensor = |datatype: Datatype, axes: &[i64]| {
        let shape: Vec<i64> = axes.iter().map(|&axis| axis.max(1)).collect();
        let count = crate::tensor::elements(&shape).unwrap_or(0);
        Tensor { data: Data::zeros(datatype, count), shape }
    };
    signature.inputs.iter().map(|spec| (!spec.optional).then(|| tensor(spec.datatype, &spec.shape))).collect()
}
