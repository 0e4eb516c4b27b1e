//! What a run gives, as plain tensors.

use half::{bf16, f16};
use modelyard_core::signature::Datatype;
use ort::Result;
use ort::value::{DynMapValueType, DynTensorValueType, DynValue, Value};

use super::{Form, Output};
use crate::tensor::{Data, Tensor};

/// Appends what `value` holds.
pub(super) fn take(form: Form, value: &DynValue, into: &mut Vec<Output>) -> Result<()> {
    match form {
        Form::Tensor(datatype) => into.push(Output { tensor: tensor(value, datatype)?, shared: false, form: None }),
        Form::Map { key, value: kind, sequence: true } => {
            maps(value.try_extract_sequence::<DynMapValueType>()?.as_slice(), key, kind, into)?;
        }
        Form::Map { key, value: kind, sequence: false } => {
            let from = into.len();
            maps(std::slice::from_ref(value), key, kind, into)?;
            into[from].tensor.shape.remove(0);
        }
        Form::Sequence(datatype) => into.push(Output { tensor: stacked(value, datatype)?, shared: false, form: None }),
    }
    Ok(())
}

fn tensor<K: ort::value::TensorValueTypeMarker>(value: &Value<K>, datatype: Datatype) -> Result<Tensor> {
    macro_rules! copied {
        ($variant:ident, $type:ty) => {{
            let (shape, elements) = value.try_extract_tensor::<$type>()?;
            Tensor { shape: shape.to_vec(), data: Data::$variant(elements.to_vec()) }
        }};
    }
    Ok(match datatype {
        Datatype::Bool => copied!(Bool, bool),
        Datatype::Uint8 => copied!(Uint8, u8),
        Datatype::Uint16 => copied!(Uint16, u16),
        Datatype::Uint32 => copied!(Uint32, u32),
        Datatype::Uint64 => copied!(Uint64, u64),
        Datatype::Int8 => copied!(Int8, i8),
        Datatype::Int16 => copied!(Int16, i16),
        Datatype::Int32 => copied!(Int32, i32),
        Datatype::Int64 => copied!(Int64, i64),
        Datatype::Fp16 => copied!(Fp16, f16),
        Datatype::Bf16 => copied!(Bf16, bf16),
        Datatype::Fp32 => copied!(Fp32, f32),
        Datatype::Fp64 => copied!(Fp64, f64),
        Datatype::Bytes => {
            let (shape, strings) = value.try_extract_strings()?;
            Tensor { shape: shape.to_vec(), data: Data::Bytes(strings) }
        }
    })
}

/// A sequence of tensors of one shape as one tensor.
fn stacked(value: &DynValue, datatype: Datatype) -> Result<Tensor> {
    let parts = value.try_extract_sequence::<DynTensorValueType>()?;
    let mut data = Data::with_capacity(datatype, 0);
    let mut inner: Option<Vec<i64>> = None;
    for part in &parts {
        let part = tensor(part, datatype)?;
        if inner.get_or_insert_with(|| part.shape.clone()) != &part.shape || !data.append(&part.data) {
            return Err(ort::Error::new("the tensors of a sequence have several shapes, which one tensor cannot hold"));
        }
    }
    let length = i64::try_from(parts.len()).unwrap_or(i64::MAX);
    Ok(Tensor { shape: [length].into_iter().chain(inner.unwrap_or_default()).collect(), data })
}

/// Maps as a table of values, one row each, and the keys.
fn maps<K>(maps: &[Value<K>], key: Datatype, kind: Datatype, into: &mut Vec<Output>) -> Result<()>
where
    K: ort::value::MapValueTypeMarker,
{
    macro_rules! with {
        ($key:ty, $keys:ident, $value:ty, $values:ident, $absent:expr) => {{
            let rows =
                maps.iter().map(|map| map.try_extract_key_values::<$key, $value>()).collect::<Result<Vec<_>>>()?;
            let (keys, table) = table(rows, $absent);
            (Data::$keys(keys), Data::$values(table))
        }};
    }
    let (keys, values) = match (key, kind) {
        (Datatype::Bytes, Datatype::Fp32) => with!(String, Bytes, f32, Fp32, f32::NAN),
        (Datatype::Bytes, Datatype::Fp64) => with!(String, Bytes, f64, Fp64, f64::NAN),
        (Datatype::Bytes, _) => with!(String, Bytes, i64, Int64, 0),
        (_, Datatype::Fp32) => with!(i64, Int64, f32, Fp32, f32::NAN),
        (_, Datatype::Fp64) => with!(i64, Int64, f64, Fp64, f64::NAN),
        (_, _) => with!(i64, Int64, i64, Int64, 0),
    };
    let (rows, columns) =
        (i64::try_from(maps.len()).unwrap_or(i64::MAX), i64::try_from(keys.len()).unwrap_or(i64::MAX));
    into.push(Output { tensor: Tensor { shape: vec![rows, columns], data: values }, shared: false, form: None });
    into.push(Output { tensor: Tensor { shape: vec![columns], data: keys }, shared: true, form: None });
    Ok(())
}

/// Rows of (key, value) as keys and a table; `absent` stands where a row lacks a key that another has.
fn table<K: Clone + Ord, V: Copy>(rows: Vec<Vec<(K, V)>>, absent: V) -> (Vec<K>, Vec<V>) {
    let keys: Vec<K> = rows.first().map(|row| row.iter().map(|(key, _)| key.clone()).collect()).unwrap_or_default();
    let alike =
        rows.iter().all(|row| row.len() == keys.len() && row.iter().zip(&keys).all(|((key, _), same)| key == same));
    if alike {
        return (keys, rows.into_iter().flatten().map(|(_, value)| value).collect());
    }
    let all: std::collections::BTreeSet<K> = rows.iter().flatten().map(|(key, _)| key.clone()).collect();
    let keys: Vec<K> = all.into_iter().collect();
    let mut values = vec![absent; keys.len() * rows.len()];
    for (index, row) in rows.into_iter().enumerate() {
        for (key, value) in row {
            // Every key stands in `keys`: it was collected from these rows.
            if let Ok(column) = keys.binary_search(&key) {
                values[index * keys.len() + column] = value;
            }
        }
    }
    (keys, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No operator of ONNX gives a map by itself from tensors, so it is made here.
    #[test]
    #[ignore = "needs ONNX Runtime"]
    fn a_map_by_itself_is_one_row_and_its_keys() {
        let cache = tempfile::tempdir().unwrap();
        crate::engine::load_library(&crate::onnxruntime::locate(cache.path()).unwrap()).unwrap();
        let map = ort::value::Map::<i64, f32>::new([(7, 0.5), (-3, 0.25)]).unwrap().into_dyn();
        let mut outputs = Vec::new();
        take(Form::Map { key: Datatype::Int64, value: Datatype::Fp32, sequence: false }, &map, &mut outputs).unwrap();
        let row = Tensor { shape: vec![2], data: Data::Fp32(vec![0.25, 0.5]) };
        let keys = Tensor { shape: vec![2], data: Data::Int64(vec![-3, 7]) };
        assert_eq!(
            outputs,
            [Output { tensor: row, shared: false, form: None }, Output { tensor: keys, shared: true, form: None }]
        );
    }

    #[test]
    fn maps_become_a_table() {
        let same = vec![vec![("a", 1), ("b", 2)], vec![("a", 3), ("b", 4)]];
        assert_eq!(table(same, 0), (vec!["a", "b"], vec![1, 2, 3, 4]));
        let other = vec![vec![("b", 2)], vec![("a", 3), ("b", 4)]];
        assert_eq!(table(other, 0), (vec!["a", "b"], vec![0, 2, 3, 4]));
    }
}
