//! Policy of an environment: what a package must fulfil before anything of it starts there.
//!
//! Promises: every reason is told at once; a policy that cannot be read lets nothing in; what is checked stands in the home folder, where a caller
//! who only deploys cannot change it.
//! Absent on purpose: how policies are written (`environments/NAME.toml`), which the command line reads.

mod bases;
mod images;
pub mod packages;

use modelyard_core::package::Package;
use modelyard_core::{Digest, EnvironmentName};
use modelyard_registry::catalog::FromPattern;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::trust::{
    Attested, CheckedPolicy, Promotion, Provenance, VerifyingKey, attestations, check_package, signatures, why_not,
    why_not_promoted,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::bases::{BaseImage, Bases};
pub use self::images::ImageChoice;

/// What a package must fulfil.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Public keys in PEM; one of them must have signed the package. Nothing is demanded when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<String>,
    /// How many samples it must carry, at least.
    #[serde(default)]
    pub samples: u64,
    /// Bounds of the metrics that it states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluation: Vec<Bound>,
    /// Which provenance it must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Origin>,
    /// Whether it must say of every input and output what it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub meanings: bool,
    /// Whether no file of it may do anything to whoever loads it, as a pickle may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_risks: bool,
    /// From which environment it must have been promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promoted>,
    /// Which images its container images may be put on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bases: Option<Bases>,
    /// Where packages may come from, by what was noted when they came; anywhere when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages_from: Vec<FromPattern>,
}

/// The way on which a package must come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promoted {
    /// The environment before.
    pub from: EnvironmentName,
    /// Public keys in PEM; one of them must have signed the promotion.
    pub keys: Vec<String>,
}

/// Where a package must come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Public keys in PEM; one of them must have signed the statement.
    pub keys: Vec<String>,
    /// Patterns of repositories, in which `*` stands for any letters; any one when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<String>,
    /// Patterns of builders; any one when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builder: Vec<String>,
}

/// A bound of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bound {
    metric: String,
    comparison: Comparison,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
}

impl Comparison {
    // Longer signs first: `>` begins `>=` too.
    const ALL: [(&'static str, Self); 4] =
        [(">=", Self::AtLeast), ("<=", Self::AtMost), (">", Self::Above), ("<", Self::Below)];

    const fn sign(self) -> &'static str {
        match self {
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::Below => "<",
        }
    }

    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::AtLeast => value >= limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::Below => value < limit,
        }
    }
}

impl TryFrom<String> for Bound {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no bound; write `accuracy >= 0.9`, with >=, <=, > or <");
        let found = Comparison::ALL.iter().find_map(|(sign, comparison)| Some((text.split_once(sign)?, *comparison)));
        let ((metric, limit), comparison) = found.ok_or_else(refuse)?;
        let limit: f64 = limit.trim().parse().map_err(|_| refuse())?;
        let metric = metric.trim();
        if metric.is_empty() || !limit.is_finite() || metric.contains(['<', '>', '=']) {
            return Err(refuse());
        }
        Ok(Self { metric: metric.to_owned(), comparison, limit })
    }
}

impl From<Bound> for String {
    fn from(bound: Bound) -> Self {
        bound.to_string()
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.metric, self.comparison.sign(), self.limit)
    }
}

impl Policy {
    /// Why a package of the local registry does not fulfil the policy: every reason. Every byte of it is read for this when a signature or provenance is
    /// demanded.
    pub fn reasons(
        &self,
        distribution: &Distribution,
        environment: &EnvironmentName,
        digest: &Digest,
        package: &Package,
    ) -> Vec<String> {
        let mut reasons = self.stated(package);
        reasons.extend(packages::why_not(&self.packages_from, distribution.store(), digest));
        if self.signed_by.is_empty() && self.provenance.is_none() && self.promoted.is_none() {
            return reasons;
        }
        let changed = check_package(distribution.store(), digest).faults;
        reasons.extend(changed.iter().map(|fault| format!("{}: {}", fault.what, fault.why)));
        if !self.signed_by.is_empty() {
            reasons.extend(self.unsigned(distribution, digest, package));
        }
        if let Some(origin) = &self.provenance {
            reasons.extend(origin.reasons(distribution, digest, package));
        }
        if let Some(promoted) = &self.promoted {
            reasons.extend(promoted.reasons(distribution, environment, digest, package));
        }
        reasons
    }

    /// The policy as a promotion checks it: what the promotion itself is to give is not demanded before.
    #[must_use]
    pub fn before_promotion(&self) -> Self {
        Self { promoted: None, ..self.clone() }
    }

    /// What it demands and how its document is found again, for those who look at a promotion later.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn checked(&self) -> Result<CheckedPolicy, serde_json::Error> {
        let digest = Digest::from_sha256(Sha256::digest(serde_json::to_vec(self)?).into());
        let mut demands = Vec::new();
        if !self.signed_by.is_empty() {
            demands.push(format!("signed by one of {} keys", self.signed_by.len()));
        }
        if self.samples > 0 {
            demands.push(format!("at least {} samples", self.samples));
        }
        demands.extend(self.evaluation.iter().map(ToString::to_string));
        if let Some(origin) = &self.provenance {
            let or = |patterns: &[String]| if patterns.is_empty() { "any".to_owned() } else { patterns.join(" or ") };
            demands.push(format!("provenance: source {}, builder {}", or(&origin.source), or(&origin.builder)));
        }
        demands.extend(self.meanings.then(|| "a description of every input and output".to_owned()));
        demands.extend(self.no_risks.then(|| "no file that is a risk".to_owned()));
        if let Some(promoted) = &self.promoted {
            demands.push(format!("promoted from `{}`", promoted.from));
        }
        if !self.packages_from.is_empty() {
            demands.push(format!("from {}", packages::told(&self.packages_from)));
        }
        Ok(CheckedPolicy { digest, demands })
    }

    /// Why no signature is one that is demanded.
    fn unsigned(&self, distribution: &Distribution, digest: &Digest, package: &Package) -> Vec<String> {
        let keys = match keys(&self.signed_by) {
            Ok(keys) => keys,
            Err(why) => return vec![why],
        };
        match signatures(distribution, &package.name, digest, &keys) {
            Ok((found, faults)) if found.iter().all(|signature| signature.key.is_none()) => {
                let others = found.len();
                let why = format!("it is signed by none of the {} keys ({others} other signatures)", keys.len());
                let faults = faults.iter().map(|fault| format!("{}: {}", fault.what, fault.why));
                [why].into_iter().chain(faults).collect()
            }
            Ok(_) => Vec::new(),
            Err(error) => vec![format!("its signatures cannot be read: {error}")],
        }
    }

    /// What the package's own document shows.
    fn stated(&self, package: &Package) -> Vec<String> {
        let mut reasons = Vec::new();
        let samples = package.samples.len() as u64;
        if samples < self.samples {
            reasons.push(format!("it carries {samples} samples, and at least {} are demanded", self.samples));
        }
        if self.meanings {
            let unsaid = package.meanings.unsaid(&package.signature);
            if !unsaid.is_empty() {
                let few: Vec<String> = unsaid.iter().take(8).cloned().collect();
                let more = if unsaid.len() > few.len() { " and others" } else { "" };
                reasons.push(format!("it does not say what {}{more} is", few.join(", ")));
            }
        }
        if self.no_risks {
            reasons.extend(package.risks.iter().map(|(path, risk)| format!("`{path}` is {risk}")));
        }
        for bound in &self.evaluation {
            match package.metrics.get(&bound.metric) {
                None => reasons.push(format!("it states no metric `{}`, and `{bound}` is demanded", bound.metric)),
                Some(&value) if !bound.comparison.holds(value, bound.limit) => {
                    reasons.push(format!("its `{}` is {value}, and `{bound}` is demanded", bound.metric));
                }
                Some(_) => {}
            }
        }
        reasons
    }
}

/// Why nothing that was stated of the package is what is demanded, as `why_not` has it, and what is wrong with the statements themselves.
fn unstated(
    what: &str,
    signers: &[String],
    distribution: &Distribution,
    digest: &Digest,
    package: &Package,
    why_not: impl FnOnce(&[Attested]) -> Option<String>,
) -> Vec<String> {
    let keys = match keys(signers) {
        Ok(keys) => keys,
        Err(why) => return vec![why],
    };
    match attestations(distribution, &package.name, digest, &keys) {
        Ok((stated, faults)) => {
            let Some(why) = why_not(&stated) else { return Vec::new() };
            let faults = faults.iter().map(|fault| format!("{}: {}", fault.what, fault.why));
            [why].into_iter().chain(faults).collect()
        }
        Err(error) => vec![format!("its {what} cannot be read: {error}")],
    }
}

impl Origin {
    /// Why no statement of provenance is one that is demanded.
    fn reasons(&self, distribution: &Distribution, digest: &Digest, package: &Package) -> Vec<String> {
        unstated("provenance", &self.keys, distribution, digest, package, |stated| {
            let found: Vec<Provenance> = stated.iter().filter_map(Provenance::of).collect();
            why_not(&found, &self.source, &self.builder)
        })
    }
}

impl Promoted {
    /// Why no promotion is the one that is demanded.
    fn reasons(
        &self,
        distribution: &Distribution,
        environment: &EnvironmentName,
        digest: &Digest,
        package: &Package,
    ) -> Vec<String> {
        unstated("promotions", &self.keys, distribution, digest, package, |stated| {
            let found: Vec<Promotion> = stated.iter().filter_map(Promotion::of).collect();
            why_not_promoted(&found, &self.from, environment)
        })
    }

    /// Why a promotion would not count here; none when it would.
    pub fn why_not(&self, from: &EnvironmentName, key: &VerifyingKey) -> Vec<String> {
        let mut reasons = Vec::new();
        if *from != self.from {
            reasons.push(format!("packages come from `{}` here, not from `{from}`", self.from));
        }
        match keys(&self.keys) {
            Ok(keys) if keys.iter().any(|known| known.id() == key.id()) => {}
            Ok(keys) => reasons.push(format!("the key is none of the {} whose promotions count here", keys.len())),
            Err(why) => reasons.push(why),
        }
        reasons
    }
}

/// The keys of a policy.
pub fn keys(pems: &[String]) -> Result<Vec<VerifyingKey>, String> {
    let read: Result<Vec<VerifyingKey>, _> = pems.iter().map(|pem| VerifyingKey::from_pem(pem)).collect();
    read.map_err(|error| format!("a key of the policy cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Result<Bound, String> {
        Bound::try_from(text.to_owned())
    }

    #[test]
    fn bounds_are_read_and_hold_where_they_should() {
        for (text, value, holds) in [
            ("accuracy >= 0.9", 0.9, true),
            ("accuracy>=0.9", 0.89, false),
            ("error < 1e-2", 0.01, false),
            ("error <= 0.01", 0.01, true),
            ("f1 > 0.5", f64::NAN, false),
        ] {
            let bound = bound(text).unwrap();
            assert_eq!(bound.comparison.holds(value, bound.limit), holds, "{text}");
        }
        for text in ["", "accuracy", "accuracy = 1", ">= 1", "a >= b", "a >= inf", "a => 1", "a >> 1"] {
            assert!(bound(text).is_err(), "{text}");
        }
        assert_eq!(bound("a>=1").unwrap().to_string(), "a >= 1");
    }
}
