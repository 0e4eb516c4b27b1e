//! Shares of live traffic, in basis points.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Share of live traffic in basis points: 0 is none, 10 000 is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(u16);

/// The number is no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a weight: basis points run from 0 (none) to 10000 (all)")]
pub struct WeightError(pub u16);

impl Weight {
    /// No traffic.
    pub const NONE: Self = Self(0);
    /// All traffic.
    pub const ALL: Self = Self(10_000);

    /// Checks and wraps basis points.
    ///
    /// # Errors
    /// [`WeightError`] above 10 000.
    pub const fn new(basis_points: u16) -> Result<Self, WeightError> {
        if basis_points > 10_000 { Err(WeightError(basis_points)) } else { Ok(Self(basis_points)) }
    }

    /// The share that `part` is of `whole`, rounded down; [`Weight::ALL`] when `part` is at least `whole`.
    pub fn of(part: u32, whole: u32) -> Self {
        if part >= whole {
            return Self::ALL;
        }
        Self(u16::try_from(u64::from(part) * 10_000 / u64::from(whole)).unwrap_or(10_000))
    }

    /// Basis points, 0 to 10 000.
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// What is left of the whole.
    pub const fn rest(self) -> Self {
        Self(10_000 - self.0)
    }
}

impl fmt::Display for Weight {
    /// As people read it: `12.5 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole} %"),
            r if r % 10 == 0 => write!(f, "{whole}.{} %", r / 10),
            r => write!(f, "{whole}.{r:02} %"),
        }
    }
}

impl TryFrom<u16> for Weight {
    type Error = WeightError;
    fn try_from(basis_points: u16) -> Result<Self, WeightError> {
        Self::new(basis_points)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> u16 {
        weight.0
    }
}

/// Scales `shares` so that they sum to exactly the whole, largest remainder first; all zero stays all zero.
///
/// Source: the largest-remainder (Hamilton) method of apportionment.
pub fn apportion(shares: &[u64]) -> Vec<Weight> {
    let total: u128 = shares.iter().map(|&s| u128::from(s)).sum();
    if total == 0 {
        return vec![Weight::NONE; shares.len()];
    }
    let exact: Vec<u128> = shares.iter().map(|&s| u128::from(s) * 10_000).collect();
    let mut points: Vec<u16> = exact.iter().map(|e| u16::try_from(e / total).unwrap_or(10_000)).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(exact[i] % total), i));
    let missing = 10_000 - points.iter().map(|&p| usize::from(p)).sum::<usize>();
    for &i in order.iter().take(missing) {
        points[i] += 1;
    }
    points.into_iter().map(Weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_read_like_percentages() {
        let shown: Vec<_> = [0, 10, 1_250, 505, 10_000].map(|p| Weight::new(p).unwrap().to_string()).into();
        assert_eq!(shown, ["0 %", "0.1 %", "12.5 %", "5.05 %", "100 %"]);
        assert!(Weight::new(10_001).is_err());
    }

    #[test]
    fn apportioned_shares_sum_to_the_whole() {
        for shares in [vec![1, 1, 1], vec![7], vec![0, 3, 5, 9], vec![u64::MAX, 1]] {
            let sum: u32 = apportion(&shares).iter().map(|w| u32::from(w.basis_points())).sum();
            assert_eq!(sum, 10_000, "{shares:?}");
        }
        assert_eq!(apportion(&[0, 0]), vec![Weight::NONE; 2]);
    }
}
