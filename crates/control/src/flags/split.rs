//! Which revision answers a session: the gateway's rule, applied to a key that somebody names. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use modelyard_core::affinity::{self, Affinity, KeySource, owner, stretches};
use modelyard_core::measure::GatewayReport;
use modelyard_core::{RevisionNumber, Weight};

use crate::store::fold::ServiceState;

/// Header by which gateways tell each other a session: its value is the hash itself.
const CARRIED: &str = "modelyard-session";

/// How sessions are spread over revisions now.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Revisions that get traffic, with their share.
    pub shares: BTreeMap<RevisionNumber, Weight>,
    starts: BTreeMap<RevisionNumber, u16>,
    salt: String,
    rule: Option<Affinity>,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Nobody: no revision carries the service.
    Nobodys,
    /// One revision answers everybody.
    Everybodys(RevisionNumber),
    /// The revision that owns the session's point.
    Sessions {
        /// Revision.
        revision: RevisionNumber,
        /// Point of the session, 0 to 9 999.
        point: u16,
    },
    /// Several revisions answer, and no session was named.
    Unnamed,
    /// Several revisions answer, and each request is spread by itself.
    Unassigned,
}

impl Split {
    /// The split as the gateway applies it, or applied it when it was last heard of.
    pub fn new(state: &ServiceState, report: Option<&GatewayReport>) -> Self {
        let reported = report.and_then(|report| report.services.get(&state.name));
        let applied =
            reported.map(|service| service.pools.iter().map(|(&number, pool)| (number, pool.weight)).collect());
        let mut shares: BTreeMap<RevisionNumber, Weight> = applied.unwrap_or_else(|| state.applied.clone());
        shares.retain(|_, share| *share > Weight::NONE);
        // Before the first table nobody is answered, but it is known by whom they will be.
        if shares.is_empty() {
            shares.extend(state.stable.map(|stable| (stable, Weight::ALL)));
        }
        Self {
            shares,
            starts: state.open.as_ref().map(|open| open.machine.starts().clone()).unwrap_or_default(),
            salt: state.salt(),
            rule: state.spec.as_ref().and_then(|spec| spec.routing.affinity.clone()),
        }
    }

    /// Who answers the session of this key; without a key, what can be said without one.
    pub fn whose(&self, key: Option<&str>) -> Whose {
        let mut revisions = self.shares.keys();
        match (revisions.next(), revisions.next()) {
            (None, _) => return Whose::Nobodys,
            (Some(&single), None) => return Whose::Everybodys(single),
            (Some(_), Some(_)) => {}
        }
        let Some(rule) = &self.rule else { return Whose::Unassigned };
        let Some(key) = key.filter(|key| !key.is_empty()) else { return Whose::Unnamed };
        let point = affinity::point(self.hash(rule, key));
        match owner(&stretches(&self.shares, &self.starts), point) {
            Some(revision) => Whose::Sessions { revision, point },
            None => Whose::Nobodys,
        }
    }

    fn hash(&self, rule: &Affinity, key: &str) -> u64 {
        let carries =
            rule.by == KeySource::Header && rule.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(CARRIED));
        if let Some(hash) = digits(key).filter(|_| carries) {
            return hash;
        }
        affinity::hash(&self.salt, &session_key(rule.by, key))
    }
}

/// The bytes that the gateway takes for the key: of an address its bytes (of IPv6 the network's), of an issued cookie its id.
fn session_key(by: KeySource, key: &str) -> Cow<'_, [u8]> {
    match by {
        KeySource::Header | KeySource::Cookie => key.as_bytes().into(),
        KeySource::Address => match key.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(IpAddr::V4(address)) => address.octets().to_vec().into(),
            Ok(IpAddr::V6(address)) => address.octets()[..8].to_vec().into(),
            Err(_) => key.as_bytes().into(),
        },
        KeySource::Issued => {
            let id = key.strip_prefix("v1.").and_then(|rest| rest.split('.').next());
            id.unwrap_or(key).as_bytes().into()
        }
    }
}

/// A hash as gateways write it: 16 hexadecimal digits.
fn digits(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(text, 16).ok().filter(|_| plain)
}
