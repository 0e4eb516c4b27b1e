//! Policy of an environment: what a package must fulfil before anything of it starts there.
//!
//! Promises: every reason is told at once; a policy that cannot be read lets nothing in; what is checked stands in the home folder, where a caller
//! who only deploys cannot change it.
//! Absent on purpose: how policies are written (`environments/NAME.toml`), which the command line reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use modelyard_core::package::Package;
use modelyard_core::{Digest, EnvironmentName};
use modelyard_registry::distribution::Distribution;
use modelyard_registry::trust::{Provenance, VerifyingKey, attestations, check_package, signatures, why_not};
use serde::{Deserialize, Serialize};

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
    pub fn reasons(&self, distribution: &Distribution, digest: &Digest, package: &Package) -> Vec<String> {
        let mut reasons = self.stated(package);
        if self.signed_by.is_empty() && self.provenance.is_none() {
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
        reasons
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

impl Origin {
    /// Why no statement of provenance is one that is demanded.
    fn reasons(&self, distribution: &Distribution, digest: &Digest, package: &Package) -> Vec<String> {
        let keys = match keys(&self.keys) {
            Ok(keys) => keys,
            Err(why) => return vec![why],
        };
        match attestations(distribution, &package.name, digest, &keys) {
            Ok((stated, faults)) => {
                let found: Vec<Provenance> = stated.iter().filter_map(Provenance::of).collect();
                let Some(why) = why_not(&found, &self.source, &self.builder) else { return Vec::new() };
                let faults = faults.iter().map(|fault| format!("{}: {}", fault.what, fault.why));
                [why].into_iter().chain(faults).collect()
            }
            Err(error) => vec![format!("its provenance cannot be read: {error}")],
        }
    }
}

/// The keys of a policy.
fn keys(pems: &[String]) -> Result<Vec<VerifyingKey>, String> {
    let read: Result<Vec<VerifyingKey>, _> = pems.iter().map(|pem| VerifyingKey::from_pem(pem)).collect();
    read.map_err(|error| format!("a key of the policy cannot be read: {error}"))
}

/// The policies of a home: a document per environment.
#[derive(Clone, Debug)]
pub struct Policies {
    folder: PathBuf,
}

impl Policies {
    /// The policies kept in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self, environment: &EnvironmentName) -> PathBuf {
        self.folder.join(format!("{environment}.json"))
    }

    /// The policy of an environment; none when nothing is demanded there.
    ///
    /// # Errors
    /// When it cannot be read, in words.
    pub fn read(&self, environment: &EnvironmentName) -> Result<Option<Policy>, String> {
        let path = self.path(environment);
        let wrong = |error: &dyn std::fmt::Display| format!("the policy {} cannot be read: {error}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| wrong(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(&error)),
        }
    }

    /// Every environment that has a policy.
    ///
    /// # Errors
    /// When one cannot be read, in words.
    pub fn list(&self) -> Result<BTreeMap<EnvironmentName, Policy>, String> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(Ok(name)) = name.strip_suffix(".json").map(EnvironmentName::new) else { continue };
            if let Some(policy) = self.read(&name)? {
                all.insert(name, policy);
            }
        }
        Ok(all)
    }

    /// Sets the policy of an environment, or takes it away.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, environment: &EnvironmentName, policy: Option<&Policy>) -> std::io::Result<()> {
        let path = self.path(environment);
        let Some(policy) = policy else {
            return std::fs::remove_file(&path);
        };
        std::fs::create_dir_all(&self.folder)?;
        let bytes = serde_json::to_vec_pretty(policy)?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, bytes)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(Path::new(&self.folder))?.sync_all()
    }
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

    #[test]
    fn a_policy_that_cannot_be_read_is_an_error_and_none_is_none() {
        let home = tempfile::tempdir().unwrap();
        let (policies, prod) = (Policies::at(home.path()), EnvironmentName::new("prod").unwrap());
        assert_eq!(policies.read(&prod), Ok(None));
        let policy = Policy { samples: 2, evaluation: vec![bound("a >= 1").unwrap()], ..Policy::default() };
        policies.set(&prod, Some(&policy)).unwrap();
        assert_eq!(policies.read(&prod), Ok(Some(policy)));
        std::fs::write(home.path().join("prod.json"), r#"{"sampels":1}"#).unwrap();
        assert!(policies.read(&prod).is_err() && policies.list().is_err());
    }
}
