//! Tensors in memory: a shape and typed elements, row-major.

use half::{bf16, f16};
use modelyard_core::signature::Datatype;

/// Elements of one datatype.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Bf16(Vec<bf16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    /// ONNX strings are UTF-8, so `BYTES` that are not are refused at the edge.
    Bytes(Vec<String>),
}

/// Runs one expression for whichever typed list of elements `data` holds.
macro_rules! each {
    ($data:expr, $list:ident => $body:expr) => {{
        use $crate::tensor::Data::*;
        match $data {
            Bool($list) => $body,
            Uint8($list) => $body,
            Uint16($list) => $body,
            Uint32($list) => $body,
            Uint64($list) => $body,
            Int8($list) => $body,
            Int16($list) => $body,
            Int32($list) => $body,
            Int64($list) => $body,
            Fp16($list) => $body,
            Bf16($list) => $body,
            Fp32($list) => $body,
            Fp64($list) => $body,
            Bytes($list) => $body,
        }
    }};
}
pub(crate) use each;

impl Data {
    /// No elements of a datatype, with room for `capacity`.
    pub(crate) fn with_capacity(datatype: Datatype, capacity: usize) -> Self {
        match datatype {
            Datatype::Bool => Self::Bool(Vec::with_capacity(capacity)),
            Datatype::Uint8 => Self::Uint8(Vec::with_capacity(capacity)),
            Datatype::Uint16 => Self::Uint16(Vec::with_capacity(capacity)),
            Datatype::Uint32 => Self::Uint32(Vec::with_capacity(capacity)),
            Datatype::Uint64 => Self::Uint64(Vec::with_capacity(capacity)),
            Datatype::Int8 => Self::Int8(Vec::with_capacity(capacity)),
            Datatype::Int16 => Self::Int16(Vec::with_capacity(capacity)),
            Datatype::Int32 => Self::Int32(Vec::with_capacity(capacity)),
            Datatype::Int64 => Self::Int64(Vec::with_capacity(capacity)),
            Datatype::Fp16 => Self::Fp16(Vec::with_capacity(capacity)),
            Datatype::Bf16 => Self::Bf16(Vec::with_capacity(capacity)),
            Datatype::Fp32 => Self::Fp32(Vec::with_capacity(capacity)),
            Datatype::Fp64 => Self::Fp64(Vec::with_capacity(capacity)),
            Datatype::Bytes => Self::Bytes(Vec::with_capacity(capacity)),
        }
    }

    /// `count` elements of value zero, or empty strings.
    pub(crate) fn zeros(datatype: Datatype, count: usize) -> Self {
        let mut data = Self::with_capacity(datatype, count);
        each!(&mut data, list => list.resize(count, Default::default()));
        data
    }

    /// The first element, `count` times.
    pub(crate) fn repeated(&self, count: usize) -> Self {
        macro_rules! same {
            ($($variant:ident),*) => {
                match self {
                    $(Self::$variant(list) => Self::$variant(list.iter().take(1).cycle().take(count).cloned().collect()),)*
                }
            };
        }
        same!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes)
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        each!(self, list => list.len())
    }

    /// Appends the elements of `other`; false, and nothing appended, if they are of another datatype.
    #[must_use]
    pub(crate) fn append(&mut self, other: &Self) -> bool {
        macro_rules! same {
            ($($variant:ident),*) => {
                match (self, other) {
                    $((Self::$variant(mine), Self::$variant(theirs)) => mine.extend_from_slice(theirs),)*
                    _ => return false,
                }
            };
        }
        same!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes);
        true
    }
}

/// A shape and its elements. Every axis is at least 0 and their product is the number of elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<i64>,
    pub(crate) data: Data,
}

/// The number of elements of a shape; `None` if an axis is negative or the product overflows.
pub(crate) fn elements(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(usize::try_from(axis).ok()?))
}

/// A shape as people read it: `[-1,4]`.
pub(crate) fn shape_text(shape: &[i64]) -> String {
    let axes: Vec<String> = shape.iter().map(i64::to_string).collect();
    format!("[{}]", axes.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_overflow_are_no_shape() {
        assert_eq!(elements(&[2, 3]), Some(6));
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[-1, 3]), None);
        assert_eq!(elements(&[i64::MAX, i64::MAX]), None);
        assert_eq!(elements(&[i64::MAX, 0]), Some(0));
    }

    #[test]
    fn only_the_same_datatype_is_appended() {
        let mut data = Data::Fp32(vec![1.0]);
        assert!(data.append(&Data::Fp32(vec![2.0])));
        assert!(!data.append(&Data::Int64(vec![2])));
        assert_eq!(data, Data::Fp32(vec![1.0, 2.0]));
    }
}
