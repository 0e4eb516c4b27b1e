//! Weighted choice between the pools of one API version.
//!
//! Promises: O(pools), no allocation; of the draws 0..10_000 each pool is picked exactly as often as its weight in basis points.
//! Absent on purpose: health (an instance is chosen afterwards) and randomness (the caller brings the draw).

use modelyard_core::Weight;

/// Draws run from 0 to one below this.
pub const DRAWS: u16 = 10_000;

/// Pools with weight, by the position where their draws end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split<T> {
    ends: Vec<(u16, T)>,
}

impl<T> Split<T> {
    /// A split from pools and weights. Those without weight are left out.
    ///
    /// The weights sum to the whole or there are none: `RouteTable::check` saw to it.
    pub fn new(shares: impl IntoIterator<Item = (T, Weight)>) -> Self {
        let mut sum = 0u16;
        let with_weight = shares.into_iter().filter(|(_, weight)| *weight > Weight::NONE);
        let ends = with_weight.map(|(pool, weight)| {
            sum = sum.saturating_add(weight.basis_points());
            (sum, pool)
        });
        Self { ends: ends.collect() }
    }

    /// The pool that owns `draw` (0..10_000); `None` when nothing has weight.
    pub fn pick(&self, draw: u16) -> Option<&T> {
        self.ends.iter().find(|(end, _)| draw < *end).map(|(_, pool)| pool)
    }

    /// All pools with weight.
    pub fn pools(&self) -> impl Iterator<Item = &T> {
        self.ends.iter().map(|(_, pool)| pool)
    }

    /// Whether nothing has weight.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelyard_core::weight::apportion;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_pool_gets_exactly_its_weight(shares in prop::collection::vec(0u64..1_000, 1..12)) {
            let weights = apportion(&shares);
            let split = Split::new(weights.iter().copied().enumerate());
            let mut counted = vec![0u16; weights.len()];
            for draw in 0..DRAWS {
                if let Some(&pool) = split.pick(draw) {
                    counted[pool] += 1;
                }
            }
            let expected: Vec<u16> = weights.iter().map(|weight| weight.basis_points()).collect();
            prop_assert_eq!(counted, expected);
        }
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        assert_eq!(Split::<u8>::new([]).pick(0), None);
        assert!(Split::new([('a', Weight::NONE)]).is_empty());
    }
}
