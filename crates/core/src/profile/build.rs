//! A profile made from rows.
//!
//! Promises: bounded memory: of a field at most [`KEPT`] values are kept, evenly spaced over all rows; the same rows give the same profile.

use std::collections::{BTreeMap, BTreeSet};

use super::{BINS, CATEGORIES, COLUMNS, Field, MAX_BYTES, MAX_FIELDS, Profile, Scalar, Side, Tensor, Values};
use crate::signature::Datatype;

/// Values of a field that are kept, at most.
const KEPT: usize = 1 << 16;
/// Different whole numbers up to which a field of whole numbers is one of categories: labels, not amounts.
const LABELS: usize = 20;

/// Collects rows.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    rows: u64,
    /// In the order in which they were met.
    columns: Vec<Column>,
}

/// A column of a tensor, or all of a wide tensor.
#[derive(Clone, Debug)]
struct Column {
    side: Side,
    name: String,
    at: Option<u32>,
    /// Columns that its tensor has.
    width: usize,
    /// Whether it holds whole numbers only, as far as is known.
    is_whole: bool,
    kept: Vec<Kept>,
    /// Every how many-th value is kept.
    stride: u64,
    met: u64,
}

#[derive(Clone, Debug)]
enum Kept {
    Missing,
    Number(f64),
    Category(String),
}

impl Builder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Counts one row more; what it holds is told by [`Self::observe`].
    pub const fn row(&mut self) {
        self.rows += 1;
    }

    /// Looks at tensors. Fields come in the order in which they are met first; those past [`MAX_FIELDS`] are left out.
    pub fn observe(&mut self, side: Side, tensors: &[Tensor<'_>]) {
        for tensor in tensors {
            let Some(range) = self.columns_of(side, tensor) else { continue };
            for (at, value) in tensor.elements.iter().enumerate() {
                self.columns[range.start + at % range.len()].keep(value);
            }
        }
    }

    fn columns_of(&mut self, side: Side, tensor: &Tensor<'_>) -> Option<std::ops::Range<usize>> {
        let is_of = |column: &Column| column.side == side && column.name == tensor.name;
        if let Some(first) = self.columns.iter().position(is_of) {
            let known = &self.columns[first];
            // Another width is another thing: it cannot be counted by column.
            let count = if known.at.is_some() { known.width } else { 1 };
            return (known.at.is_none() || known.width == tensor.width).then_some(first..first + count);
        }
        let count = if tensor.width > COLUMNS { 1 } else { tensor.width };
        if self.columns.len() + count > MAX_FIELDS {
            return None;
        }
        let first = self.columns.len();
        for at in 0..count {
            let at = (count > 1).then_some(at as u32);
            self.columns.push(Column::new(side, tensor, at));
        }
        Some(first..first + count)
    }

    /// The profile of what was looked at: as fine as fits into [`MAX_BYTES`].
    pub fn build(&self) -> Profile {
        // Fewer bins first, then wide tensors as a whole: an image's pixels matter less one by one than a table's columns do.
        let plans = [(BINS, COLUMNS), (5, COLUMNS), (5, 32), (5, 8), (5, 1)];
        let sizes = plans.iter().map(|&(bins, columns)| self.planned(bins, columns));
        let mut coarsest = Profile::default();
        for profile in sizes {
            if bytes(&profile) <= MAX_BYTES {
                return profile;
            }
            coarsest = profile;
        }
        while bytes(&coarsest) > MAX_BYTES {
            coarsest.fields.pop();
        }
        coarsest
    }

    fn planned(&self, bins: usize, columns: usize) -> Profile {
        let mut whole: BTreeSet<(Side, &str)> = BTreeSet::new();
        let mut fields: Vec<Field> = Vec::new();
        for column in &self.columns {
            if column.at.is_none() || column.width <= columns {
                fields.push(column.field(bins));
            } else if whole.insert((column.side, &column.name)) {
                let all = || self.columns.iter().filter(|other| other.side == column.side && other.name == column.name);
                let kept: Vec<Kept> = all().flat_map(|other| other.kept.iter().cloned()).collect();
                let is_whole = all().all(|other| other.is_whole);
                fields.push(Column { at: None, is_whole, kept, ..column.clone() }.field(bins));
            }
        }
        fields.sort_by_key(|field| field.side);
        Profile { rows: self.rows, fields }
    }
}

fn bytes(profile: &Profile) -> usize {
    serde_json::to_vec(profile).map_or(usize::MAX, |text| text.len())
}

impl Column {
    fn new(side: Side, tensor: &Tensor<'_>, at: Option<u32>) -> Self {
        use Datatype::{Bf16, Fp16, Fp32, Fp64};
        let is_whole = !matches!(tensor.datatype, Some(Fp16 | Bf16 | Fp32 | Fp64));
        let (name, width) = (tensor.name.to_owned(), tensor.width);
        Self { side, name, at, width, is_whole, kept: Vec::new(), stride: 1, met: 0 }
    }

    fn keep(&mut self, value: &Scalar<'_>) {
        let is_next = self.met.is_multiple_of(self.stride);
        self.met += 1;
        if !is_next {
            return;
        }
        self.kept.push(match (value, value.number()) {
            (Scalar::Bool(_) | Scalar::Text(_), _) => {
                value.category().map_or(Kept::Missing, |text| Kept::Category(text.into_owned()))
            }
            (_, Some(number)) => {
                self.is_whole &= number.fract() == 0.0;
                Kept::Number(number)
            }
            (_, None) => Kept::Missing,
        });
        if self.kept.len() == KEPT {
            let mut at = 0;
            self.kept.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.stride *= 2;
        }
    }

    fn field(&self, bins: usize) -> Field {
        let (side, name, column) = (self.side, self.name.clone(), self.at);
        let mut field = Field { side, name, column, missing: 0, values: self.values(bins) };
        for value in &self.kept {
            field.observe(&match value {
                Kept::Missing => Scalar::Missing,
                Kept::Number(number) => Scalar::Number(*number),
                Kept::Category(text) => Scalar::Text(text),
            });
        }
        field
    }

    /// Bins without counts.
    fn values(&self, bins: usize) -> Values {
        let is_text = self.kept.iter().any(|value| matches!(value, Kept::Category(_)));
        let mut numbers: Vec<f64> = self.kept.iter().filter_map(Kept::number).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        let mut different = numbers.clone();
        different.dedup();
        if is_text || self.is_whole && !different.is_empty() && different.len() <= LABELS {
            return Values::Categories { counts: self.categories(), other: 0 };
        }
        let edges = edges(&numbers, &different, bins);
        let counts = vec![0; edges.len() + 1];
        Values::Numbers { edges, counts }
    }

    /// The most frequent ones; of equally frequent ones those that come first in the alphabet.
    fn categories(&self) -> BTreeMap<String, u64> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for value in &self.kept {
            let text = match value {
                Kept::Missing => continue,
                Kept::Number(number) => Scalar::Number(*number).category().map(|text| text.into_owned()),
                Kept::Category(text) => Some(text.clone()),
            };
            text.into_iter().for_each(|text| *counts.entry(text).or_default() += 1);
        }
        let mut ranked: Vec<(String, u64)> = counts.into_iter().collect();
        ranked.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        // What was met once among many is a name, not a category: it will hardly come again.
        if ranked.len() > CATEGORIES {
            ranked.retain(|(_, count)| *count > 1);
        }
        ranked.into_iter().take(CATEGORIES).map(|(text, _)| (text, 0)).collect()
    }
}

impl Kept {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Missing | Self::Category(_) => None,
        }
    }
}

/// Ends of at most `bins` bins that hold about equally many of the sorted `numbers`.
///
/// An edge lies half-way between two neighbouring values, so that a value which comes back in another precision stays in its bin.
fn edges(numbers: &[f64], different: &[f64], bins: usize) -> Vec<f64> {
    let mut edges: Vec<f64> = match different {
        [] => Vec::new(),
        // Of a constant every change matters, up as well as down.
        [constant] => {
            let room = (constant.abs() * 1e-6).max(1e-9);
            vec![short(constant - room), short(constant + room)]
        }
        few if few.len() <= bins => few.windows(2).map(|pair| between(pair[0], pair[1])).collect(),
        _ => (1..bins).filter_map(|part| edge_near(numbers, part * numbers.len() / bins)).collect(),
    };
    edges.retain(|edge| edge.is_finite());
    edges.dedup();
    edges
}

/// The edge that is nearest to the gap before the value of that rank; equal values are never parted.
fn edge_near(numbers: &[f64], rank: usize) -> Option<f64> {
    let value = *numbers.get(rank)?;
    let first = numbers.partition_point(|number| *number < value);
    let after = numbers.partition_point(|number| *number <= value);
    let below = || Some(between(*numbers.get(first.checked_sub(1)?)?, value));
    let above = || Some(between(value, *numbers.get(after)?));
    if rank - first <= after - rank { below().or_else(above) } else { above().or_else(below) }
}

/// The middle; of neighbours that are too close for that, the lower one: a bin holds its end.
fn between(low: f64, high: f64) -> f64 {
    let middle = short(low / 2.0 + high / 2.0);
    if low <= middle && middle < high { middle } else { low }
}

/// Twelve digits: enough for any data, and shorter in the document.
fn short(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::profile::tensors;

    fn profile(side: Side, bodies: impl IntoIterator<Item = Value>) -> Profile {
        let mut builder = Builder::new();
        for body in bodies {
            builder.row();
            builder.observe(side, &tensors(side, &body));
        }
        builder.build()
    }

    fn numbers(name: &str, values: &[f64]) -> Profile {
        profile(
            Side::Input,
            values
                .iter()
                .map(|value| json!({"inputs": [{"name": name, "datatype": "FP64", "shape": [1], "data": [value]}]})),
        )
    }

    #[test]
    fn numbers_are_binned_by_deciles() {
        let values: Vec<f64> = (0..1_000).map(|n| f64::from(n * 37 % 1_000) / 10.0).collect();
        let profile = numbers("x", &values);
        assert_eq!((profile.rows, profile.fields.len()), (1_000, 1));
        let Values::Numbers { edges, counts } = &profile.fields[0].values else { panic!("numbers") };
        assert_eq!(counts[..], [100; 10]);
        assert_eq!(edges[..2], [9.95, 19.95]);
    }

    #[test]
    fn equal_values_are_never_parted_and_few_have_a_bin_each() {
        let mut values = vec![0.0; 900];
        values.extend((1..=100).map(f64::from));
        let Values::Numbers { edges, counts } = &numbers("x", &values).fields[0].values else { panic!("numbers") };
        assert_eq!((edges[..].to_vec(), counts[..].to_vec()), (vec![0.5], vec![900, 100]));
        let Values::Numbers { edges, counts } = &numbers("x", &[0.5, 0.5, 2.5, 1.5]).fields[0].values else {
            panic!("numbers")
        };
        assert_eq!((edges[..].to_vec(), counts[..].to_vec()), (vec![1.0, 2.0], vec![2, 1, 1]));
    }

    #[test]
    fn a_constant_notices_any_change() {
        let field = &numbers("x", &[7.25; 40]).fields[0];
        let bins: Vec<usize> = [7.0, 7.25, 7.5].map(|value| field.bin(&Scalar::Number(value))).to_vec();
        assert_eq!((field.counts(), bins), (vec![0, 40, 0, 0], vec![0, 1, 2]));
        let nothing = &numbers("x", &[]).fields;
        assert!(nothing.is_empty());
    }

    #[test]
    fn labels_texts_and_truths_are_categories() {
        let label = |value: Value| json!({"outputs": {"y": [value]}});
        let profile = profile(Side::Output, [label(json!(3)), label(json!(1)), label(json!(3)), label(Value::Null)]);
        let counts = BTreeMap::from([("1".to_owned(), 1), ("3".to_owned(), 2)]);
        assert_eq!(profile.fields[0].values, Values::Categories { counts, other: 0 });
        assert_eq!(profile.fields[0].missing, 1);
        let truths = super::tests::profile(Side::Output, [label(json!(true)), label(json!(false))]);
        assert_eq!(truths.fields[0].counts(), [1, 1, 0, 0]);
        let amounts = super::tests::profile(Side::Output, (0..100).map(|n| label(json!(n))));
        assert!(matches!(amounts.fields[0].values, Values::Numbers { .. }), "a hundred different ones are amounts");
    }

    #[test]
    fn names_are_no_categories() {
        let row = |n: u32| json!({"inputs": {"id": [format!("user-{n}")], "kind": [if n.is_multiple_of(5) { "rare" } else { "usual" }]}});
        let profile = profile(Side::Input, (0..500).map(row));
        assert_eq!(profile.fields[0].counts(), [500, 0], "all of them are others");
        assert_eq!(profile.fields[1].counts(), [100, 400, 0, 0]);
    }

    #[test]
    fn wide_tensors_are_one_field_and_too_many_fields_are_left_out() {
        let image = json!({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": vec![0.5; 3 * 64 * 64]}]});
        let wide = profile(Side::Input, [image]);
        assert_eq!((wide.fields.len(), wide.fields[0].column, wide.fields[0].seen()), (1, None, 12_288));
        let many: serde_json::Map<String, Value> = (0..400).map(|n| (format!("x{n:03}"), json!([0.5]))).collect();
        assert_eq!(profile(Side::Input, [json!({"inputs": many})]).fields.len(), MAX_FIELDS);
    }

    #[test]
    fn a_profile_that_would_be_too_long_gets_coarser() {
        let value =
            |row: u32, column: u32| f64::from(row * 7_919 % 1_009) * 1.000_000_7 + f64::from(column) * 1e6 / 3.0;
        let body = |row: u32| {
            let tensor = |name: String| {
                let data: Vec<f64> = (0..120).map(|column| value(row, column)).collect();
                json!({"name": name, "datatype": "FP64", "shape": [1, 120], "data": data})
            };
            json!({"inputs": [tensor("a".repeat(90)), tensor("b".repeat(90))]})
        };
        let profile = profile(Side::Input, (0..300).map(body));
        assert!(bytes(&profile) <= MAX_BYTES, "{} bytes", bytes(&profile));
        assert!(!profile.fields.is_empty());
    }

    #[test]
    fn many_rows_are_thinned_evenly() {
        let values: Vec<f64> = (0..200_000).map(|n| f64::from(n) + 0.5).collect();
        let profile = numbers("x", &values);
        let field = &profile.fields[0];
        assert!(profile.rows == 200_000 && field.seen() as usize <= KEPT, "{}", field.seen());
        let Values::Numbers { edges, .. } = &field.values else { panic!("numbers") };
        assert!((edges[4] - 100_000.0).abs() < 50.0, "{edges:?}");
    }

    proptest! {
        #[test]
        fn every_value_has_a_bin_and_edges_ascend(values in prop::collection::vec(prop_oneof![any::<f64>(), -3.0..3.0f64], 0..200)) {
            let profile = numbers("x", &values);
            prop_assert_eq!(profile.problem(), None);
            for field in &profile.fields {
                prop_assert_eq!(field.seen(), values.len() as u64);
            }
            let read: Profile = serde_json::from_str(&serde_json::to_string(&profile).unwrap()).unwrap();
            prop_assert_eq!(read.problem(), None);
        }

        #[test]
        fn what_is_written_is_read_as_it_was(values in prop::collection::vec(-1e9..1e9f64, 0..200)) {
            let profile = numbers("x", &values);
            prop_assert_eq!(serde_json::from_str::<Profile>(&serde_json::to_string(&profile).unwrap()).unwrap(), profile);
        }
    }
}
