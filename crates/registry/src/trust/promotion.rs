//! Promotions: that a package went from one environment to the next, who let it, and what was checked.
//!
//! The statement is an attestation like any other (in-toto in DSSE, an object with the package as its subject), so it travels with the package.
//! Its predicate is described in docs/reference/promotion.md.

use modelyard_core::{Digest, EnvironmentName, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::attestation::Attested;
use crate::access::instant;

/// What a statement of promotion calls itself.
pub const PROMOTION: &str = "https://github.com/modelyard/modelyard/blob/main/docs/reference/promotion.md#v1";

/// What is stated of a promotion.
#[derive(Debug)]
pub struct Promote<'a> {
    /// Where the package comes from.
    pub from: &'a EnvironmentName,
    /// Where it goes to.
    pub to: &'a EnvironmentName,
    /// Who lets it: a person's or a script's name, as they say it.
    pub by: &'a str,
    /// When.
    pub at: Timestamp,
    /// What was checked: the policies of `to`, each with the digest of its document, and what they demand in words.
    pub checked: &'a [CheckedPolicy],
    /// The rollout that brought it to everybody in `from`, if it went through one.
    pub rollout: Option<&'a Passed>,
    /// Where the copy goes; none when it stays in the same registry.
    pub registry: Option<&'a str>,
}

/// A policy that a package fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedPolicy {
    /// SHA-256 of the policy's document, as compact JSON.
    pub digest: Digest,
    /// What it demands: a line each.
    pub demands: Vec<String>,
}

/// A rollout that a package went through.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Passed {
    /// Its id.
    pub rollout: String,
    /// The service.
    pub service: String,
    /// How it went.
    pub strategy: String,
    /// How it ended.
    pub outcome: String,
    /// When, in milliseconds since 1970.
    pub ended: Timestamp,
    /// Position of its last event in the log, and the hash that leads there: `SEQ@sha256:…`, as `history --verify --anchor` takes it. Everything that
    /// was measured and decided stands before it.
    pub log: String,
    /// SHA-256 of the rollout's events in their order, each as compact JSON and a line feed.
    pub evidence: Digest,
}

impl Promote<'_> {
    /// What is stated.
    pub fn predicate(&self) -> Value {
        let policy =
            |policy: &CheckedPolicy| json!({ "digest": { "sha256": policy.digest.hex() }, "demands": policy.demands });
        let mut predicate = json!({
            "from": { "environment": self.from }, "to": { "environment": self.to },
            "promotedBy": self.by, "promotedOn": instant(self.at),
            "policies": self.checked.iter().map(policy).collect::<Vec<_>>(),
        });
        if let Some(registry) = self.registry {
            predicate["to"]["registry"] = json!(registry);
        }
        if let Some(passed) = self.rollout {
            predicate["rollout"] = json!({
                "id": passed.rollout, "service": passed.service, "strategy": passed.strategy, "outcome": passed.outcome,
                "ended": instant(passed.ended), "log": passed.log, "evidence": { "digest": { "sha256": passed.evidence.hex() } },
            });
        }
        predicate
    }
}

/// A statement of promotion, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The envelope that holds it.
    pub record: Digest,
    /// Where the package came from.
    pub from: EnvironmentName,
    /// Where it went to.
    pub to: EnvironmentName,
    /// Who let it, as they say.
    pub by: String,
    /// When, as they say: RFC 3339.
    pub at: String,
    /// The registry that the copy went to, if it went to another one.
    pub registry: Option<String>,
    /// The rollout that it went through before, if one is named.
    pub rollout: Option<String>,
    /// Digests of the policies that were checked, in hexadecimal.
    pub policies: Vec<String>,
    /// Which of the keys signed it.
    pub key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    from: Place,
    to: Place,
    promoted_by: String,
    promoted_on: String,
    #[serde(default)]
    policies: Vec<Stated>,
    #[serde(default)]
    rollout: Option<Named>,
}

#[derive(Deserialize)]
struct Place {
    environment: EnvironmentName,
    #[serde(default)]
    registry: Option<String>,
}

#[derive(Deserialize)]
struct Stated {
    digest: Sha256,
}

#[derive(Deserialize)]
struct Sha256 {
    sha256: String,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

impl Promotion {
    /// Reads an attestation; none when it states something else.
    pub fn of(attested: &Attested) -> Option<Self> {
        if attested.predicate_type != PROMOTION {
            return None;
        }
        let stated = Predicate::deserialize(&attested.predicate).ok()?;
        Some(Self {
            record: attested.envelope,
            from: stated.from.environment,
            to: stated.to.environment,
            registry: stated.to.registry,
            by: stated.promoted_by,
            at: stated.promoted_on,
            rollout: stated.rollout.map(|rollout| rollout.id),
            policies: stated.policies.into_iter().map(|policy| policy.digest.sha256).collect(),
            key: attested.key.clone(),
        })
    }

    /// Whether one of the keys stands for it, and it leads from the one environment to the other.
    pub fn leads(&self, from: &EnvironmentName, to: &EnvironmentName) -> bool {
        self.key.is_some() && self.from == *from && self.to == *to
    }
}

/// Why none of the statements is a promotion from the one environment to the other; none when one is.
pub fn why_not_promoted(found: &[Promotion], from: &EnvironmentName, to: &EnvironmentName) -> Option<String> {
    if found.iter().any(|promotion| promotion.leads(from, to)) {
        return None;
    }
    let told = |promotion: &Promotion| match &promotion.key {
        None => format!("one from `{}` to `{}` signed by another key", promotion.from, promotion.to),
        Some(_) => format!("one from `{}` to `{}`", promotion.from, promotion.to),
    };
    let others: Vec<String> = found.iter().take(8).map(told).collect();
    let others = if others.is_empty() { "it has none".to_owned() } else { format!("it has {}", others.join(", ")) };
    Some(format!("a signed promotion from `{from}` to `{to}` is demanded, and {others}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EnvironmentName {
        EnvironmentName::new(text).unwrap()
    }

    fn promotion(key: Option<&str>, change: impl FnOnce(&mut Value)) -> Option<Promotion> {
        let digest = crate::blob::digest_of(b"policy");
        let passed = Passed {
            rollout: "wine-1".into(),
            service: "wine".into(),
            strategy: "canary".into(),
            outcome: "promoted".into(),
            ended: Timestamp(1000),
            log: format!("7@{digest}"),
            evidence: digest,
        };
        let checked = [CheckedPolicy { digest, demands: vec!["at least 1 samples".into()] }];
        let (from, to) = (name("test"), name("prod"));
        let promote = Promote {
            from: &from,
            to: &to,
            by: "ann",
            at: Timestamp(2000),
            checked: &checked,
            rollout: Some(&passed),
            registry: Some("registry.example/prod"),
        };
        let mut predicate = promote.predicate();
        change(&mut predicate);
        Promotion::of(&Attested {
            object: digest,
            envelope: digest,
            predicate_type: PROMOTION.to_owned(),
            predicate,
            key: key.map(str::to_owned),
        })
    }

    #[test]
    fn what_is_stated_is_read_again() {
        let read = promotion(Some("k"), |_| ()).unwrap();
        assert_eq!((read.by.as_str(), read.at.as_str()), ("ann", "1970-01-01T00:00:02Z"));
        assert_eq!(read.rollout.as_deref(), Some("wine-1"));
        assert_eq!(read.policies, [crate::blob::digest_of(b"policy").hex()]);
        assert_eq!(promotion(Some("k"), |stated| stated["to"] = json!("prod")), None);
        assert_eq!(promotion(Some("k"), |stated| stated["to"]["environment"] = json!("../x")), None);
    }

    #[test]
    fn only_a_signed_promotion_between_the_two_counts() {
        let (test, prod, dev) = (name("test"), name("prod"), name("dev"));
        let signed = promotion(Some("k"), |_| ()).unwrap();
        assert!(signed.leads(&test, &prod) && !signed.leads(&prod, &test) && !signed.leads(&dev, &prod));
        assert_eq!(why_not_promoted(std::slice::from_ref(&signed), &test, &prod), None);
        let unsigned = promotion(None, |_| ()).unwrap();
        assert!(why_not_promoted(&[unsigned], &test, &prod).unwrap().contains("another key"));
        assert!(why_not_promoted(&[], &test, &prod).unwrap().contains("it has none"));
        assert!(why_not_promoted(&[signed], &dev, &prod).unwrap().contains("one from `test` to `prod`"));
    }
}
