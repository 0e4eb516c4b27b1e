//! Affinity: which arm of a split a session belongs to. Stateless and monotone.
//!
//! Promises: the same key under the same salt always has the same point; while an arm's share grows, whoever had it keeps it; gateways that
//! share a table agree without talking.
//! Absent on purpose: how a key is taken from a request, and how a cookie is signed (the gateway does both).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

    fn split(shares: &[(u32, u16)]) -> BTreeMap<RevisionNumber, Weight> {
        shares.iter().map(|&(revision, weight)| (RevisionNumber(revision), Weight::new(weight).unwrap())).collect()
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
