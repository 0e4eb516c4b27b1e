//! Affinity: which arm of a split a session belongs to. Stateless and monotone.
//!
//! Promises: the same key under the same salt always has the same point; while an arm's share grows, whoever had it keeps it; gateways that
//! share a table agree without talking.
//! Absent on purpose: how a key is taken from a request, and how a cookie is signed (the gateway does both).
//! Source of the hash: XXH3, 64 bits, seed 0 (the xxHash specification).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::time::{Millis, human};
use crate::{RevisionNumber, Weight};

/// By what the requests of one session are known, as `service.toml` says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Affinity {
    /// Where the session key is.
    pub by: KeySource,
    /// Name of the header or cookie; of the cookie that the gateway issues, `modelyard-session` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long an issued cookie lives; none ends with the browser's session.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "human::option")]
    pub lifetime: Option<Millis>,
}

impl Affinity {
    /// What is wrong with the rule, for whoever wrote it; `None` when it can be applied.
    pub fn problem(&self) -> Option<&'static str> {
        // What header fields and cookies may be called (RFC 9110, section 5.6.2; RFC 6265, section 4.1.1).
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_named = self.name.as_ref().is_some_and(|name| !name.is_empty() && name.bytes().all(token));
        match self.by {
            KeySource::Header if !is_named => Some("affinity by `header` needs the header's `name`, such as x-user"),
            KeySource::Cookie if !is_named => Some("affinity by `cookie` needs the cookie's `name`, such as sid"),
            KeySource::Issued if self.name.is_some() && !is_named => {
                Some("the `name` of an issued cookie may hold letters, digits, - and _ only")
            }
            KeySource::Header | KeySource::Cookie | KeySource::Address | KeySource::Issued => None,
        }
    }
}

/// Where the session key is. A request without one is spread by a draw of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// In a request header (for gRPC: in its metadata).
    Header,
    /// In a cookie that the application sets.
    Cookie,
    /// The caller's address.
    Address,
    /// In a signed cookie that the gateway issues on first contact.
    Issued,
}

/// Affinity as the gateway applies it: one service's part of the route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityRoute {
    /// By what sessions are known.
    pub rule: Affinity,
    /// What the key is hashed with: another rollout shuffles anew, so that the same people are not first every time.
    pub salt: String,
    /// Key of the issued cookie's signature, 64 hexadecimal digits; all gateways of a control plane share it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// Where each arm's stretch of [0, 10 000) begins; a revision that is not listed takes what the others leave. The control plane leaves each
    /// arm room up to the largest share of its plan, so that a growing arm never moves another one's stretch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starts: BTreeMap<RevisionNumber, u16>,
}

/// The session's hash: XXH3-64 of the salt, a zero byte and the key.
///
/// One definition for the gateway and for whoever else says which arm a session has.
pub fn hash(salt: &str, key: &[u8]) -> u64 {
    // Usual salts (a rollout's id) and keys fit the stack.
    let mut room = [0; 256];
    let length = salt.len() + 1 + key.len();
    match room.get_mut(..length) {
        Some(joined) => {
            joined[..salt.len()].copy_from_slice(salt.as_bytes());
            joined[salt.len() + 1..].copy_from_slice(key);
            XxHash3_64::oneshot(joined)
        }
        None => XxHash3_64::oneshot(&[salt.as_bytes(), &[0], key].concat()),
    }
}

/// The point in 0 to 9 999 that a hash stands for: its high bits, scaled.
pub const fn point(hash: u64) -> u16 {
    ((hash as u128 * 10_000) >> 64) as u16
}

/// One stretch of [0, 10 000) and who owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First point.
    pub from: u16,
    /// One past the last point.
    pub until: u16,
    /// Owner.
    pub revision: RevisionNumber,
}

/// Cuts [0, 10 000) into stretches, in order and without gaps; empty when nothing has weight.
///
/// Revisions with a start take `start..start + weight`; what they leave goes to the others, lowest revision first. Where stretches would overlap (a
/// table made by hand), the lower start wins and the rest moves on.
pub fn stretches(split: &BTreeMap<RevisionNumber, Weight>, starts: &BTreeMap<RevisionNumber, u16>) -> Vec<Stretch> {
    let mut fixed: Vec<(u16, RevisionNumber, u16)> = split
        .iter()
        .filter(|&(_, &weight)| weight > Weight::NONE)
        .filter_map(|(&revision, weight)| Some((*starts.get(&revision)?, revision, weight.basis_points())))
        .collect();
    fixed.sort_unstable();
    let mut rest: Vec<(RevisionNumber, u16)> = split
        .iter()
        .filter(|&(revision, &weight)| weight > Weight::NONE && !starts.contains_key(revision))
        .map(|(&revision, weight)| (revision, weight.basis_points()))
        .collect();
    let mut laid = Vec::with_capacity(split.len() * 2);
    let mut at = 0u16;
    let mut fill = |laid: &mut Vec<Stretch>, from: u16, until: u16| {
        let mut from = from;
        while from < until {
            let Some((revision, left)) = rest.first_mut() else { return from };
            let take = (*left).min(until - from);
            laid.push(Stretch { from, until: from + take, revision: *revision });
            (from, *left) = (from + take, *left - take);
            if *left == 0 {
                rest.remove(0);
            }
        }
        from
    };
    for (start, revision, weight) in fixed {
        at = fill(&mut laid, at, start.min(10_000).max(at));
        let until = at.saturating_add(weight).min(10_000);
        laid.push(Stretch { from: at, until, revision });
        at = until;
    }
    fill(&mut laid, at, 10_000);
    laid
}

/// The owner of a point, 0 to 9 999.
pub fn owner(stretches: &[Stretch], point: u16) -> Option<RevisionNumber> {
    let index = stretches.partition_point(|stretch| stretch.until <= point);
    stretches.get(index).map(|stretch| stretch.revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::apportion;
    use proptest::prelude::*;

    /// A plan's rooms (the largest share of each arm, arms numbered from 2) and, step by step, the shares of the arms; stable is revision 1.
    fn plans() -> impl Strategy<Value = (BTreeMap<RevisionNumber, u16>, Vec<BTreeMap<RevisionNumber, Weight>>)> {
        let rooms = prop::collection::vec(1u64..1_000, 1..5).prop_flat_map(|shares| (Just(shares), 0u64..2_000));
        (rooms, prop::collection::vec(prop::collection::vec(0.0..1.0f64, 4), 1..8)).prop_map(
            |((arms, stable), steps)| {
                let rooms = apportion(&[arms, vec![stable]].concat());
                let arms = &rooms[..rooms.len() - 1];
                let (mut starts, mut from) = (BTreeMap::new(), 0);
                for (number, room) in (2..).zip(arms) {
                    starts.insert(RevisionNumber(number), from);
                    from += room.basis_points();
                }
                let mut reached = vec![0u16; arms.len()];
                let mut splits = Vec::new();
                for step in steps {
                    for ((share, room), grown) in reached.iter_mut().zip(arms).zip(step) {
                        *share = (*share).max((f64::from(room.basis_points()) * grown) as u16);
                    }
                    let rest = 10_000 - reached.iter().sum::<u16>();
                    let shares = [rest].into_iter().chain(reached.iter().copied());
                    splits
                        .push((1..).map(RevisionNumber).zip(shares.map(|share| Weight::new(share).unwrap())).collect());
                }
                (starts, splits)
            },
        )
    }

    proptest! {
        #[test]
        fn no_unit_leaves_its_arm_while_shares_grow((starts, splits) in plans()) {
            for pair in splits.windows(2) {
                let (before, after) = (stretches(&pair[0], &starts), stretches(&pair[1], &starts));
                for point in 0..10_000 {
                    let (was, is) = (owner(&before, point).unwrap(), owner(&after, point).unwrap());
                    prop_assert!(was == is || was == RevisionNumber(1), "point {point} went from {was} to {is}");
                }
            }
        }

        #[test]
        fn each_arm_owns_exactly_its_share((starts, splits) in plans()) {
            for split in splits {
                let mut counted: BTreeMap<RevisionNumber, u16> = BTreeMap::new();
                for stretch in stretches(&split, &starts) {
                    *counted.entry(stretch.revision).or_default() += stretch.until - stretch.from;
                }
                let expected: BTreeMap<_, _> =
                    split.into_iter().map(|(r, w)| (r, w.basis_points())).filter(|&(_, share)| share > 0).collect();
                prop_assert_eq!(counted, expected);
            }
        }

        #[test]
        fn an_arm_that_comes_back_has_its_own_again((starts, splits) in plans(), lost in 2u32..6) {
            // While an arm has no instance stable answers for it; nobody else's unit moves.
            for whole in splits {
                let Some(&share) = whole.get(&RevisionNumber(lost)) else { continue };
                let mut without = whole.clone();
                without.remove(&RevisionNumber(lost));
                let stable = without[&RevisionNumber(1)].basis_points() + share.basis_points();
                without.insert(RevisionNumber(1), Weight::new(stable).unwrap());
                let (before, meanwhile) = (stretches(&whole, &starts), stretches(&without, &starts));
                for point in 0..10_000 {
                    let (was, is) = (owner(&before, point).unwrap(), owner(&meanwhile, point).unwrap());
                    let expected = if was == RevisionNumber(lost) { RevisionNumber(1) } else { was };
                    prop_assert_eq!(is, expected);
                }
            }
        }
    }

    fn split(shares: &[(u32, u16)]) -> BTreeMap<RevisionNumber, Weight> {
        shares.iter().map(|&(revision, weight)| (RevisionNumber(revision), Weight::new(weight).unwrap())).collect()
    }

    #[test]
    fn a_rule_without_a_usable_name_is_refused() {
        let problem = |by, name: Option<&str>| Affinity { by, name: name.map(str::to_owned), lifetime: None }.problem();
        for by in [KeySource::Header, KeySource::Cookie] {
            for bad in [None, Some(""), Some("a b"), Some("a=b"), Some("a;b"), Some("\u{e4}"), Some("a\"b")] {
                assert!(problem(by, bad).is_some(), "{by:?} {bad:?}");
            }
            assert_eq!(problem(by, Some("__Host-sid.1")), None);
        }
        assert_eq!((problem(KeySource::Address, None), problem(KeySource::Issued, None)), (None, None));
        assert!(problem(KeySource::Issued, Some("a;b")).is_some());
    }

    #[test]
    fn hashes_are_those_of_the_specification() {
        // XXH3_64bits of an empty input and of "\0" "a" with seed 0, by the reference implementation.
        assert_eq!(XxHash3_64::oneshot(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash("", b"a"), XxHash3_64::oneshot(b"\0a"));
        let long = vec![b'k'; 1_000];
        assert_eq!(hash("salt", &long), XxHash3_64::oneshot(&[b"salt\0".as_slice(), &long].concat()));
        assert_ne!(hash("a", b"key"), hash("b", b"key"), "another rollout shuffles anew");
    }

    #[test]
    fn points_cover_their_range_evenly() {
        assert_eq!((point(0), point(u64::MAX)), (0, 9_999));
        let mut tenths = [0u32; 10];
        for key in 0..100_000u32 {
            tenths[usize::from(point(hash("rollout-1", &key.to_le_bytes())) / 1_000)] += 1;
        }
        // 10 000 expected in each; five standard deviations are 474.
        assert!(tenths.iter().all(|count| count.abs_diff(10_000) < 474), "{tenths:?}");
    }

    #[test]
    fn every_point_has_an_owner_and_shares_are_exact() {
        let starts = BTreeMap::from([(RevisionNumber(2), 0), (RevisionNumber(3), 5_000)]);
        for shares in [
            vec![(1, 10_000)],
            vec![(1, 9_000), (2, 1_000)],
            vec![(1, 4_000), (2, 3_000), (3, 3_000)],
            vec![(2, 5_000), (3, 5_000)],
            vec![(1, 1_000), (4, 4_000), (2, 5_000)],
        ] {
            let split = split(&shares);
            let laid = stretches(&split, &starts);
            let mut counted: BTreeMap<RevisionNumber, u16> = BTreeMap::new();
            for point in 0..10_000 {
                *counted.entry(owner(&laid, point).unwrap()).or_default() += 1;
            }
            let expected: BTreeMap<_, _> = split.iter().map(|(&r, w)| (r, w.basis_points())).collect();
            assert_eq!(counted, expected, "{shares:?}");
        }
        assert!(stretches(&split(&[(1, 0)]), &starts).is_empty());
    }
}
