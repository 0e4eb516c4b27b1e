//! Inputs that flags fill when a caller leaves them out.
//!
//! Promises: what is filled fits the model's datatype and shape. An input with a free first axis gets one element for each row.

use half::{bf16, f16};
use modelyard_core::flags::Values;
use modelyard_core::package::Flag;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use serde_json::Value;

use crate::tensor::{Data, Tensor, elements};

/// What fills one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fill {
    /// One element.
    element: Data,
    /// The input's shape; a free first axis is one of rows, other free axes are 1.
    shape: Vec<i64>,
}

impl Fill {
    /// The tensor for a run of `rows` rows.
    pub(crate) fn tensor(&self, rows: i64) -> Tensor {
        let axis = |(index, &axis): (usize, &i64)| match axis {
            fixed @ 0.. => fixed,
            _ if index == 0 => rows,
            _ => 1,
        };
        let shape: Vec<i64> = self.shape.iter().enumerate().map(axis).collect();
        let data = self.element.repeated(elements(&shape).unwrap_or(0));
        Tensor { shape, data }
    }
}

/// What fills each input of the signature, in its order.
///
/// # Errors
/// Why a flag cannot fill the input that it names.
pub(crate) fn fills<'a>(
    flags: impl IntoIterator<Item = (&'a String, &'a Flag)>,
    values: &Values,
    signature: &Signature,
) -> Result<Vec<Option<Fill>>, String> {
    let mut fills = vec![None; signature.inputs.len()];
    for (name, flag) in flags {
        let Some(input) = flag.input() else { continue };
        let found = signature.inputs.iter().position(|spec| spec.name == input);
        let index =
            found.ok_or_else(|| format!("the flag `{name}` fills the input `{input}`, which the model has not"))?;
        let spec = &signature.inputs[index];
        let value = values.get(name).cloned().unwrap_or_else(|| flag.default_value());
        let unfit = |why| format!("the flag `{name}`: {why}");
        if let Some(why) = flag.misfit(name, &value).or_else(|| flag.misfit_with(spec)) {
            return Err(unfit(why));
        }
        fills[index] = Some(fill(spec, &value).ok_or_else(|| unfit(format!("{value} is no {}", spec.datatype)))?);
    }
    Ok(fills)
}

fn fill(spec: &TensorSpec, value: &Value) -> Option<Fill> {
    Some(Fill { element: element(spec.datatype, value)?, shape: spec.shape.clone() })
}

/// One element of a datatype. The value was held against the datatype's range already.
fn element(datatype: Datatype, value: &Value) -> Option<Data> {
    if let (Datatype::Bytes, Value::String(text)) = (datatype, value) {
        return Some(Data::Bytes(vec![text.clone()]));
    }
    let number = value.as_bool().map(f64::from).or_else(|| value.as_f64())?;
    let within = |low: f64, high: f64| (low..=high).contains(&number);
    macro_rules! whole {
        ($variant:ident, $kind:ty) => {
            within(<$kind>::MIN as f64, <$kind>::MAX as f64).then(|| Data::$variant(vec![number as $kind]))
        };
    }
    match datatype {
        Datatype::Bool => within(0.0, 1.0).then(|| Data::Bool(vec![number != 0.0])),
        Datatype::Uint8 => whole!(Uint8, u8),
        Datatype::Uint16 => whole!(Uint16, u16),
        Datatype::Uint32 => whole!(Uint32, u32),
        Datatype::Uint64 => whole!(Uint64, u64),
        Datatype::Int8 => whole!(Int8, i8),
        Datatype::Int16 => whole!(Int16, i16),
        Datatype::Int32 => whole!(Int32, i32),
        Datatype::Int64 => whole!(Int64, i64),
        Datatype::Fp16 => Some(Data::Fp16(vec![f16::from_f64(number)])),
        Datatype::Bf16 => Some(Data::Bf16(vec![bf16::from_f64(number)])),
        Datatype::Fp32 => Some(Data::Fp32(vec![number as f32])),
        Datatype::Fp64 => Some(Data::Fp64(vec![number])),
        Datatype::Bytes => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(datatype: Datatype, shape: &[i64], value: Value) -> Option<Tensor> {
        let spec = TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), optional: false };
        fill(&spec, &value).map(|fill| fill.tensor(3))
    }

    #[test]
    fn one_element_or_one_for_each_row() {
        for (shape, becomes, count) in
            [(&[][..], &[][..], 1), (&[1], &[1], 1), (&[-1], &[3], 3), (&[-1, 1], &[3, 1], 3), (&[1, -1], &[1, 1], 1)]
        {
            let tensor = filled(Datatype::Fp32, shape, json!(0.5)).unwrap();
            assert_eq!((tensor.shape.as_slice(), tensor.data), (becomes, Data::Fp32(vec![0.5; count])), "{shape:?}");
        }
    }

    #[test]
    fn values_take_the_datatype_of_the_input() {
        let of = |datatype, value| filled(datatype, &[], value).map(|tensor| tensor.data);
        assert_eq!(of(Datatype::Int8, json!(-5)), Some(Data::Int8(vec![-5])));
        assert_eq!(of(Datatype::Int8, json!(300)), None);
        assert_eq!(of(Datatype::Bool, json!(true)), Some(Data::Bool(vec![true])));
        assert_eq!(of(Datatype::Fp32, json!(true)), Some(Data::Fp32(vec![1.0])));
        assert_eq!(of(Datatype::Bytes, json!("a")), Some(Data::Bytes(vec!["a".into()])));
        assert_eq!(of(Datatype::Fp32, json!("a")), None);
        assert_eq!(of(Datatype::Fp16, json!(0.5)), Some(Data::Fp16(vec![f16::from_f64(0.5)])));
    }

    #[test]
    fn a_flag_that_cannot_fill_its_input_says_why() {
        let signature = Signature {
            inputs: vec![TensorSpec {
                name: "x".into(),
                datatype: Datatype::Fp32,
                shape: vec![-1, 4],
                optional: false,
            }],
            outputs: vec![],
        };
        let ask = |input: &str| {
            let flag =
                Flag::Number { default: 1.0, minimum: None, maximum: None, whole: false, input: Some(input.into()) };
            fills([(&"t".to_owned(), &flag)], &Values::new(), &signature).unwrap_err()
        };
        assert!(ask("y").contains("which the model has not"), "{}", ask("y"));
        assert!(ask("x").contains("one element, or one for each row"), "{}", ask("x"));
    }
}
