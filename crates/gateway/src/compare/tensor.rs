//! Tensors, and how far two of them agree.

use super::Rules;
use super::score::{Score, shown};

/// Elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floating point, of any width.
    Floats(Vec<f64>),
    /// Whole numbers and booleans.
    Integers(Vec<i128>),
    /// Texts or bytes.
    Labels(Vec<Box<[u8]>>),
}

impl Values {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Labels(values) => values.len(),
        }
    }
}

/// One output.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Length of each axis, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, row by row.
    pub values: Values,
}

impl Tensor {
    /// A tensor; `None` unless it has as many elements as its shape says.
    pub fn new(name: String, shape: Vec<usize>, values: Values) -> Option<Self> {
        let elements = shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))?;
        (elements == values.len()).then_some(Self { name, shape, values })
    }

    /// Compares with the shadow's; `None` when that has another shape or kind.
    pub fn compare(&self, shadow: &Self, rules: &Rules) -> Option<Score> {
        if self.shape != shadow.shape {
            return None;
        }
        match (&self.values, &shadow.values) {
            (Values::Floats(one), Values::Floats(other)) => Some(self.floats(one, other, rules)),
            (Values::Integers(one), Values::Integers(other)) => Some(self.integers(one, other, rules)),
            (Values::Labels(one), Values::Labels(other)) => Some(self.labels(one, other)),
            // Another width or kind of number: compared as numbers.
            (Values::Floats(one), Values::Integers(other)) => Some(self.floats(one, &floats(other), rules)),
            (Values::Integers(one), Values::Floats(other)) => Some(self.floats(&floats(one), other, rules)),
            _ => None,
        }
    }

    /// Elements per row (first axis); a scalar is one row.
    fn width(&self) -> usize {
        self.shape.iter().skip(1).product::<usize>().max(1)
    }

    /// Length of the last axis if its elements are scores of classes.
    fn classes(&self) -> Option<usize> {
        self.shape.last().copied().filter(|&last| self.shape.len() >= 2 && last >= 2)
    }

    fn place(&self, index: usize) -> String {
        let (width, name) = (self.width(), &self.name);
        match self.shape.len() {
            0 => format!("`{name}`"),
            1 => format!("`{name}` row {index}"),
            _ => format!("`{name}` row {} column {}", index / width, index % width),
        }
    }

    fn floats(&self, stable: &[f64], shadow: &[f64], rules: &Rules) -> Score {
        let mut score = Score::default();
        for (index, (&one, &other)) in stable.iter().zip(shadow).enumerate() {
            score.number(one, other, &rules.tolerance, || self.place(index));
        }
        let width = self.width();
        for (one, other) in stable.chunks(width).zip(shadow.chunks(width)) {
            match self.classes() {
                Some(classes) => {
                    let (mut same, mut among) = (true, true);
                    for (one, other) in one.chunks(classes).zip(other.chunks(classes)) {
                        let (is_same, is_among) = best_classes(one, other, rules.top_k);
                        same &= is_same;
                        among &= is_among;
                        if let Some(distance) = distance(one, other) {
                            score.output.distance.add(distance);
                        }
                    }
                    score.row(same, among);
                }
                None => {
                    let close = one.iter().zip(other).all(|(&one, &other)| rules.tolerance.accepts(one, other));
                    score.row(close, close);
                }
            }
        }
        score
    }

    fn integers(&self, stable: &[i128], shadow: &[i128], rules: &Rules) -> Score {
        let mut score = Score::default();
        for (index, (&one, &other)) in stable.iter().zip(shadow).enumerate() {
            score.number(one as f64, other as f64, &rules.tolerance, || self.place(index));
        }
        score.exact = stable == shadow; // not all 64 bits fit a float
        self.rows(&mut score, stable, shadow);
        score
    }

    fn labels(&self, stable: &[Box<[u8]>], shadow: &[Box<[u8]>]) -> Score {
        let mut score = Score::default();
        for (index, (one, other)) in stable.iter().zip(shadow).enumerate() {
            score.label(one == other, || format!("{}: {} against {}", self.place(index), shown(one), shown(other)));
        }
        self.rows(&mut score, stable, shadow);
        score
    }

    fn rows<T: PartialEq>(&self, score: &mut Score, stable: &[T], shadow: &[T]) {
        let width = self.width();
        for (one, other) in stable.chunks(width).zip(shadow.chunks(width)) {
            score.row(one == other, one == other);
        }
    }
}

fn floats(values: &[i128]) -> Vec<f64> {
    values.iter().map(|&value| value as f64).collect()
}

/// Whether the best class is the same, and whether stable's best is among the shadow's `k` best. A class that ties with stable's best is as good.
fn best_classes(stable: &[f64], shadow: &[f64], k: u32) -> (bool, bool) {
    match (best(stable), best(shadow)) {
        (Some(one), Some(other)) => {
            let same = one == other || stable[one] == stable[other];
            let better = shadow.iter().filter(|&&score| score > shadow[one]).count();
            (same, same || (!shadow[one].is_nan() && better < k.max(1) as usize))
        }
        (None, None) => (true, true),
        _ => (false, false),
    }
}

/// The first of the best; NaN is never the best.
fn best(scores: &[f64]) -> Option<usize> {
    let mut best = None;
    for (index, &score) in scores.iter().enumerate().filter(|(_, score)| !score.is_nan()) {
        if best.is_none_or(|best: usize| score > scores[best]) {
            best = Some(index);
        }
    }
    best
}

/// Jensen-Shannon distance, 0 to 1, if both are distributions: non-negative, with sum 1 to within a thousandth.
///
/// Source: Endres and Schindelin 2003: the square root of the divergence, here in bits, is a metric.
fn distance(stable: &[f64], shadow: &[f64]) -> Option<f64> {
    let (one, other) = (total(stable)?, total(shadow)?);
    let half_divergence = |p: f64, middle: f64| if p > 0.0 { 0.5 * p * (p / middle).log2() } else { 0.0 };
    let divergence: f64 = stable
        .iter()
        .zip(shadow)
        .map(|(&p, &q)| {
            let (p, q) = (p / one, q / other);
            let middle = (p + q) / 2.0;
            half_divergence(p, middle) + half_divergence(q, middle)
        })
        .sum();
    Some(divergence.clamp(0.0, 1.0).sqrt())
}

fn total(scores: &[f64]) -> Option<f64> {
    let total: f64 = scores.iter().sum();
    (scores.iter().all(|&score| score >= 0.0) && (total - 1.0).abs() <= 1e-3).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelyard_core::sample::Tolerance;

    const RULES: Rules = Rules { tolerance: Tolerance { absolute: 1e-5, relative: 1e-4 }, top_k: 2 };

    fn floats(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::new("y".into(), shape.to_vec(), Values::Floats(values.to_vec())).unwrap()
    }

    #[test]
    fn scores_are_compared_by_class_and_by_distance() {
        let stable = floats(&[2, 3], &[0.1, 0.2, 0.7, 0.6, 0.3, 0.1]);
        let shadow = floats(&[2, 3], &[0.1, 0.2, 0.7, 0.4, 0.5, 0.1]);
        let score = stable.compare(&shadow, &RULES).unwrap();
        let output = &score.output;
        assert_eq!((output.elements, output.agreed, output.rows), (6, 4, 2));
        assert_eq!((output.same_label, output.in_top_k), (1, 2));
        assert_eq!((output.distance.count, output.difference.count), (2, 6));
        assert!((output.largest - 0.2).abs() < 1e-12 && output.difference.mean.abs() < 1e-12);
        // By scipy.spatial.distance.jensenshannon([.6, .3, .1], [.4, .5, .1], 2) / 2.
        assert!((output.distance.mean - 0.180_972_654_295_282_5 / 2.0).abs() < 1e-9);
        assert!(!score.exact && !score.agrees());
        assert_eq!(score.worst.unwrap().1, "`y` row 1 column 1: 0.3000 against 0.5000");
    }

    #[test]
    fn what_is_no_number_equals_only_itself() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0];
        let same = floats(&[4], &odd).compare(&floats(&[4], &odd), &RULES).unwrap();
        assert!(same.agrees() && same.worst.is_none());
        let other = floats(&[4], &odd).compare(&floats(&[4], &[1.0, 5.0, f64::INFINITY, f64::NAN]), &RULES).unwrap();
        assert_eq!(other.output.agreed, 0);
        assert_eq!(other.worst.unwrap().0, f64::MAX);
        assert_eq!((other.output.largest, other.output.difference.count), (0.0, 0));
        let all_nan = floats(&[1, 2], &[f64::NAN; 2]);
        assert_eq!(all_nan.compare(&all_nan, &RULES).unwrap().output.same_label, 1);
    }

    #[test]
    fn ties_labels_and_shapes() {
        let tie = floats(&[1, 2], &[0.5, 0.5]).compare(&floats(&[1, 2], &[0.499_999, 0.500_001]), &RULES).unwrap();
        assert_eq!(tie.output.same_label, 1);
        assert!(floats(&[2], &[1.0, 2.0]).compare(&floats(&[1, 2], &[1.0, 2.0]), &RULES).is_none());
        let whole =
            |values: &[i128]| Tensor::new("c".into(), vec![values.len()], Values::Integers(values.to_vec())).unwrap();
        let score =
            whole(&[1, 2, i128::from(u64::MAX)]).compare(&whole(&[1, 3, i128::from(u64::MAX) - 1]), &RULES).unwrap();
        assert_eq!((score.output.same_label, score.output.agreed, score.exact), (1, 2, false));
        let mixed = whole(&[1, 2]).compare(&floats(&[2], &[1.0, 2.0]), &RULES);
        assert!(mixed.unwrap().exact, "another kind of number");
    }

    #[test]
    fn differences_stay_finite() {
        let score = floats(&[2], &[f64::MAX, -1e200]).compare(&floats(&[2], &[f64::MIN, 1e200]), &RULES).unwrap();
        assert_eq!(score.output.difference.count, 0);
        assert!(score.output.largest.is_finite() && score.worst.unwrap().0.is_finite());
        assert!(Tensor::new("y".into(), vec![usize::MAX, 2], Values::Floats(vec![])).is_none());
    }
}
