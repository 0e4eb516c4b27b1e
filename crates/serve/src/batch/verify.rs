//! Whether rows of several requests may share a run: seen, not believed.
//!
//! A free first axis need not be a batch: a model may sort, normalise or pad over it. So a few different rows are run alone,
//! together, and together in another order. Only if every row gets the same answer each time are requests merged.

use modelyard_core::signature::{Datatype, Signature};

use super::{merge, rows, splits};
use crate::engine::{Engine, Output};
use crate::tensor::{Data, Tensor};

/// Rows of real requests that are tried at most: enough to tell a pair apart, few enough for a quick start.
const TRIED: usize = 4;

/// Made-up rows that are tried at most until two get different answers.
const VARIATIONS: i32 = 12;

/// Whether requests to this model may be merged. `known` are inputs of real requests.
pub(crate) fn mergeable(engine: &mut Engine, signature: &Signature, known: &[Vec<Option<Tensor>>]) -> bool {
    // What a flag fills is the same for all: it has no rows of its own.
    let filled = |index: &usize| engine.fills(*index);
    let free = signature.inputs.iter().enumerate().all(|(i, spec)| filled(&i) || spec.shape.first() == Some(&-1));
    if !free || signature.inputs.is_empty() {
        return false;
    }
    let left_out = |request: &Vec<Option<Tensor>>| -> Vec<Option<Tensor>> {
        request.iter().enumerate().map(|(i, tensor)| tensor.clone().filter(|_| !filled(&i))).collect()
    };
    let known: Vec<_> = known.iter().map(left_out).collect();
    let mut tried = Tried::default();
    let real = known_rows(&known);
    real.iter().for_each(|row| tried.add(engine, row.clone()));
    let first = real.into_iter().next().unwrap_or_else(|| made_up(signature));
    for step in 1..=VARIATIONS {
        // Rows that all get one answer prove nothing.
        if tried.differ {
            break;
        }
        tried.add(engine, first.iter().map(|tensor| tensor.as_ref().map(|tensor| varied(tensor, step))).collect());
    }
    tried.differ && agrees(engine, tried.rows.iter()) && agrees(engine, tried.rows.iter().rev())
}

/// A row with the answer that it gets alone.
type Answered = (Vec<Option<Tensor>>, Vec<Output>);

/// Rows that were run alone.
#[derive(Default)]
struct Tried {
    rows: Vec<Answered>,
    /// Whether two of them got different answers.
    differ: bool,
}

impl Tried {
    fn add(&mut self, engine: &mut Engine, row: Vec<Option<Tensor>>) {
        let Ok(outputs) = engine.run(&row) else { return };
        if splits(&outputs, 1) {
            self.differ |= self.rows.iter().any(|(_, other)| !same(&outputs, 0, other));
            self.rows.push((row, outputs));
        }
    }
}

fn agrees<'a>(engine: &mut Engine, alone: impl ExactSizeIterator<Item = &'a Answered> + Clone) -> bool {
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

/// A few different single rows of real requests, all of the first one's kind.
fn known_rows(known: &[Vec<Option<Tensor>>]) -> Vec<Vec<Option<Tensor>>> {
    let kind = |row: &[Option<Tensor>]| -> Vec<Option<Vec<i64>>> {
        row.iter().map(|tensor| tensor.as_ref().map(|tensor| tensor.shape.clone())).collect()
    };
    let mut found: Vec<Vec<Option<Tensor>>> = Vec::new();
    for row in known.iter().flat_map(|request| single_rows(request)) {
        let alike = found.first().is_none_or(|first| kind(first) == kind(&row));
        if alike && found.len() < TRIED && !found.contains(&row) {
            found.push(row);
        }
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

/// The same row with other floats, further away with each step and in another direction for each element. Whole numbers
/// stay: they are often indices, and others may be out of range.
fn varied(tensor: &Tensor, step: i32) -> Tensor {
    let other = |index: usize, value: f64| {
        let sign = if (index as i32 + step) % 3 == 0 { -1.0 } else { 1.0 };
        value * (1.0 + 0.5 * f64::from(step)) + sign * 0.3 * f64::from(step * step)
    };
    let data = match &tensor.data {
        Data::Fp32(list) => {
            Data::Fp32(list.iter().enumerate().map(|(index, &value)| other(index, f64::from(value)) as f32).collect())
        }
        Data::Fp64(list) => Data::Fp64(list.iter().enumerate().map(|(index, &value)| other(index, value)).collect()),
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
