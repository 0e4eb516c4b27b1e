//! Profiles: how the values of a model's inputs and outputs are spread, small enough to travel inside a package.
//!
//! A profile fixes bins: quantiles of numbers, the most frequent categories, and one for what is missing. Whatever is seen later is counted in
//! those same bins, so two profiles of one field can be held against each other.
//!
//! Promises: bounded ([`MAX_FIELDS`], [`MAX_BYTES`], [`BINS`], [`CATEGORIES`]); the same rows in the same order give the same profile on any machine.
//! Absent on purpose: how far two profiles are from each other (`modelyard-monitor`).

mod build;
mod read;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use build::Builder;
pub use read::{Scalar, Tensor, tensors};

/// Fields that a profile has at most.
pub const MAX_FIELDS: usize = 256;
/// Bytes of JSON that a profile has at most.
pub const MAX_BYTES: usize = 64 << 10;
/// Bins of a field of numbers, if its values allow that many: deciles, as is usual for the population stability index.
pub const BINS: usize = 10;
/// Categories that are counted each by itself; all others are counted together.
pub const CATEGORIES: usize = 32;
/// Columns of a tensor that are fields of their own; a wider one (an image) is one field of all its elements.
pub const COLUMNS: usize = 128;

/// How the values of inputs and outputs were spread when they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Rows that were looked at.
    pub rows: u64,
    /// Inputs, then outputs; the columns of one tensor stand together, in their order.
    pub fields: Vec<Field>,
}

/// How the values of one field were spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Input or output.
    pub side: Side,
    /// The tensor's name.
    pub name: String,
    /// Which column of it; none stands for all its elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Values that were missing: null, not a number, an empty cell.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing: u64,
    /// All others.
    pub values: Values,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Which way values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// What the model takes.
    Input,
    /// What it gives.
    Output,
}

impl Side {
    /// The word for it, as in `input x[3]`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// Values by bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Values {
    /// Numbers: a bin ends with its edge, which belongs to it; what is above the last edge is in the last bin.
    Numbers {
        /// Ends of the bins, ascending.
        edges: Vec<f64>,
        /// Counts: one more than edges.
        counts: Vec<u64>,
    },
    /// Categories.
    Categories {
        /// How often each was seen.
        counts: BTreeMap<String, u64>,
        /// How often any other was.
        #[serde(default, skip_serializing_if = "is_zero")]
        other: u64,
    },
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, name) = (self.side.name(), &self.name);
        match self.column {
            Some(column) => write!(f, "{side} {name}[{column}]"),
            None => write!(f, "{side} {name}"),
        }
    }
}

impl Field {
    /// How many bins there are: those of the values, for categories one for all others, and the last one for what is missing.
    pub fn bins(&self) -> usize {
        match &self.values {
            Values::Numbers { edges, .. } => edges.len() + 2,
            Values::Categories { counts, .. } => counts.len() + 2,
        }
    }

    /// The bin of a value. What is no value of that kind counts as missing.
    pub fn bin(&self, value: &Scalar<'_>) -> usize {
        let missing = self.bins() - 1;
        match &self.values {
            Values::Numbers { edges, .. } => {
                value.number().map_or(missing, |number| edges.partition_point(|edge| *edge < number))
            }
            Values::Categories { counts, .. } => value.category().map_or(missing, |category| {
                counts.keys().position(|known| **known == *category).unwrap_or(counts.len())
            }),
        }
    }

    /// Counts by bin, in the order of [`Self::bin`].
    pub fn counts(&self) -> Vec<u64> {
        let mut all: Vec<u64> = match &self.values {
            Values::Numbers { counts, .. } => counts.clone(),
            Values::Categories { counts, other } => counts.values().copied().chain([*other]).collect(),
        };
        all.push(self.missing);
        all
    }

    /// Values that were seen, missing ones included.
    pub fn seen(&self) -> u64 {
        self.counts().iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Counts one value more.
    pub fn observe(&mut self, value: &Scalar<'_>) {
        let (bin, bins) = (self.bin(value), self.bins());
        if bin + 1 == bins {
            self.missing += 1;
            return;
        }
        match &mut self.values {
            Values::Numbers { counts, .. } => counts.get_mut(bin).into_iter().for_each(|count| *count += 1),
            Values::Categories { counts, other } => *counts.values_mut().nth(bin).unwrap_or(other) += 1,
        }
    }

    /// The same bins with nothing in them.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let mut field = Self { missing: 0, ..self.clone() };
        match &mut field.values {
            Values::Numbers { counts, .. } => counts.fill(0),
            Values::Categories { counts, other } => {
                counts.values_mut().for_each(|count| *count = 0);
                *other = 0;
            }
        }
        field
    }

    /// What is wrong with it, for whoever wrote it.
    fn problem(&self) -> Option<&'static str> {
        match &self.values {
            Values::Numbers { edges, counts } if counts.len() != edges.len() + 1 => {
                Some("has not one count more than edges")
            }
            Values::Numbers { edges, .. } if edges.iter().any(|edge| !edge.is_finite()) => {
                Some("has an edge that is no number")
            }
            Values::Numbers { edges, .. } if !edges.is_sorted_by(|one, two| one < two) => {
                Some("has edges that do not ascend")
            }
            Values::Numbers { .. } | Values::Categories { .. } => None,
        }
    }
}

impl Profile {
    /// Where each value of a tensor is counted: the fields that it has, by column; none when the profile does not know it in that width.
    pub fn fields_of(&self, side: Side, name: &str, width: usize) -> Option<std::ops::Range<usize>> {
        let is_of = |field: &Field| field.side == side && field.name == name;
        let first = self.fields.iter().position(is_of)?;
        let known = self.fields[first..].iter().take_while(|field| is_of(field)).count();
        let is_whole = self.fields[first].column.is_none();
        (is_whole || known == width).then_some(first..first + known)
    }

    /// Counts a row of tensors.
    pub fn observe(&mut self, side: Side, tensors: &[Tensor<'_>]) {
        for tensor in tensors {
            let Some(fields) = self.fields_of(side, tensor.name, tensor.width) else { continue };
            for (at, value) in tensor.elements.iter().enumerate() {
                self.fields[fields.start + at % fields.len()].observe(value);
            }
        }
    }

    /// The same bins with nothing in them.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { rows: 0, fields: self.fields.iter().map(Field::emptied).collect() }
    }

    /// What is wrong with a profile that came from elsewhere; `None` when it can be counted in.
    pub fn problem(&self) -> Option<String> {
        if self.fields.len() > MAX_FIELDS {
            return Some(format!("the profile has {} fields, and {MAX_FIELDS} are allowed", self.fields.len()));
        }
        let wrong = self.fields.iter().find_map(|field| Some((field, field.problem()?)));
        wrong.map(|(field, why)| format!("the profile of {field} {why}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn numbers() -> Field {
        let values = Values::Numbers { edges: vec![1.0, 2.0], counts: vec![0; 3] };
        Field { side: Side::Input, name: "x".into(), column: Some(3), missing: 0, values }
    }

    #[test]
    fn values_fall_into_the_bins_of_the_reference() {
        let mut field = numbers();
        for value in [1.0, 1.5, 2.0, 9.0, f64::NAN, f64::NEG_INFINITY] {
            field.observe(&Scalar::Number(value));
        }
        field.observe(&Scalar::Text("1.5"));
        field.observe(&Scalar::Missing);
        // Infinities are values: only what is no number is missing.
        assert_eq!(field.counts(), [2, 2, 1, 3]);
        assert_eq!((field.seen(), field.to_string().as_str()), (8, "input x[3]"));
        assert_eq!(field.emptied().counts(), [0; 4]);
    }

    #[test]
    fn categories_that_were_never_seen_count_together() {
        let counts = BTreeMap::from([("red".to_owned(), 3), ("2".to_owned(), 1), ("true".to_owned(), 1)]);
        let values = Values::Categories { counts, other: 0 };
        let mut field = Field { side: Side::Output, name: "y".into(), column: None, missing: 0, values };
        for value in [Scalar::Text("red"), Scalar::Number(2.0), Scalar::Bool(true), Scalar::Text("blue")] {
            field.observe(&value);
        }
        field.observe(&Scalar::Missing);
        assert_eq!(field.counts(), [2, 4, 2, 1, 1], "`2`, `red`, `true`, others, missing");
    }

    #[test]
    fn a_profile_reads_back_as_it_was_written() {
        let profile = Profile { rows: 7, fields: vec![numbers(), Field { column: None, ..numbers() }] };
        let text = serde_json::to_string(&profile).unwrap();
        assert!(
            text.contains(r#"{"side":"input","name":"x","column":3,"values":{"of":"numbers","edges":[1.0,2.0]"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile);
    }

    #[test]
    fn profiles_that_cannot_be_counted_in_are_named() {
        let with = |edges: Vec<f64>, counts: Vec<u64>| {
            let field = Field { values: Values::Numbers { edges, counts }, ..numbers() };
            Profile { rows: 1, fields: vec![field] }.problem()
        };
        assert_eq!(with(vec![1.0], vec![0, 1]), None);
        assert_eq!(with(vec![1.0], vec![0]).unwrap(), "the profile of input x[3] has not one count more than edges");
        assert!(with(vec![1.0, 1.0], vec![0; 3]).unwrap().contains("do not ascend"));
        assert!(Profile { rows: 1, fields: vec![numbers(); MAX_FIELDS + 1] }.problem().unwrap().contains("257 fields"));
    }

    #[test]
    fn rows_are_counted_by_column_and_other_widths_not_at_all() {
        let fields = (0..2).map(|column| Field { column: Some(column), ..numbers() }).collect();
        let mut profile = Profile { rows: 0, fields };
        let body = |width: usize| {
            let data: Vec<f64> = (0..2 * width).map(|n| n as f64).collect();
            json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, width], "data": data}]})
        };
        profile.observe(Side::Input, &tensors(Side::Input, &body(2)));
        profile.observe(Side::Input, &tensors(Side::Input, &body(3)));
        profile.observe(Side::Output, &tensors(Side::Input, &body(2)));
        let counts: Vec<_> = profile.fields.iter().map(Field::counts).collect();
        assert_eq!(counts, [[1, 1, 0, 0], [1, 0, 1, 0]], "0 and 2 in the first column, 1 and 3 in the second");
    }
}
