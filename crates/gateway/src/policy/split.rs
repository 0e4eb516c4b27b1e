//! Weighted choice between the pools of one API version.
//!
//! Promises: O(pools), no allocation; of the points 0..10_000 each pool owns exactly as many as its weight in basis points, and with affinity
//! always the same ones.
//! Absent on purpose: health (an instance is chosen afterwards) and where a request's point comes from (`affinity`).

use std::collections::BTreeMap;

use modelyard_core::affinity::stretches;
use modelyard_core::{RevisionNumber, Weight};

/// Points run from 0 to one below this.
pub const DRAWS: u16 = 10_000;

/// Pools with weight, by the position where their stretches end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split<T> {
    ends: Vec<(u16, T)>,
    /// Each pool once, in the order in which they stand in for one another.
    pools: Vec<T>,
}

impl<T: Clone> Split<T> {
    /// A split from weights and where stretches begin; `pool` finds what stands for a revision. Those without weight are left out.
    ///
    /// The weights sum to the whole or there are none: `RouteTable::check` saw to it.
    pub fn new(
        weights: &BTreeMap<RevisionNumber, Weight>,
        starts: &BTreeMap<RevisionNumber, u16>,
        pool: impl Fn(RevisionNumber) -> Option<T>,
    ) -> Self {
        let laid = stretches(weights, starts);
        let ends = laid.iter().filter_map(|stretch| Some((stretch.until, pool(stretch.revision)?))).collect();
        // Stable has no stretch of its own: it answers for arms that cannot.
        let weighted = || weights.iter().filter(|&(_, &weight)| weight > Weight::NONE).map(|(&revision, _)| revision);
        let stable = weighted().filter(|revision| !starts.contains_key(revision));
        let arms = weighted().filter(|revision| starts.contains_key(revision));
        Self { ends, pools: stable.chain(arms).filter_map(pool).collect() }
    }

    /// The pool that owns `point` (0..10_000); `None` when nothing has weight.
    pub fn pick(&self, point: u16) -> Option<&T> {
        self.ends.iter().find(|(end, _)| point < *end).map(|(_, pool)| pool)
    }

    /// All pools with weight, those first that answer for the others.
    pub fn pools(&self) -> impl Iterator<Item = &T> {
        self.pools.iter()
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

    fn split(weights: &BTreeMap<RevisionNumber, Weight>, starts: &BTreeMap<RevisionNumber, u16>) -> Split<u32> {
        Split::new(weights, starts, |revision| Some(revision.0))
    }

    proptest! {
        #[test]
        fn each_pool_gets_exactly_its_weight(
            shares in prop::collection::vec(0u64..1_000, 1..12),
            starts in prop::collection::btree_map(1u32..13, 0u16..12_000, 0..6),
        ) {
            let weights: BTreeMap<_, _> = (1..).map(RevisionNumber).zip(apportion(&shares)).collect();
            let starts = starts.into_iter().map(|(revision, start)| (RevisionNumber(revision), start)).collect();
            let split = split(&weights, &starts);
            let mut counted: BTreeMap<RevisionNumber, u16> = weights.keys().map(|&revision| (revision, 0)).collect();
            for point in 0..DRAWS {
                if let Some(&pool) = split.pick(point) {
                    *counted.entry(RevisionNumber(pool)).or_default() += 1;
                }
            }
            let expected: BTreeMap<_, _> = weights.iter().map(|(&r, weight)| (r, weight.basis_points())).collect();
            prop_assert_eq!(counted, expected);
        }
    }

    #[test]
    fn stable_answers_for_the_arms() {
        let weight = |share| Weight::new(share).unwrap();
        let (one, two, three) = (RevisionNumber(1), RevisionNumber(2), RevisionNumber(3));
        let weights = BTreeMap::from([(one, weight(3_000)), (two, weight(4_000)), (three, weight(3_000))]);
        let split = split(&weights, &BTreeMap::from([(one, 0), (three, 5_000)]));
        assert_eq!(split.pools().copied().collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(
            [0, 2_999, 3_000, 4_999, 5_000, 7_999, 8_000].map(|point| *split.pick(point).unwrap()),
            [1, 1, 2, 2, 3, 3, 2]
        );
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        assert_eq!(Split::<u32>::default().pick(0), None);
        let nothing = BTreeMap::from([(RevisionNumber(1), Weight::NONE)]);
        assert!(split(&nothing, &BTreeMap::new()).is_empty());
    }
}
