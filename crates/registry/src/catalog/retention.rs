//! Which versions may go: decided from what is listed alone, and carried out.
//!
//! Promises: what an alias points to, what a service runs or could go back to, and the newest version always stay.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::{Digest, Millis, ModelName, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::By;
use crate::{Error, Listed, Store};

/// Rules of what stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest versions of each model stay.
    pub keep_last: usize,
    /// Versions with one of these tags stay.
    pub keep_tags: BTreeSet<String>,
    /// Versions younger than this stay, and those of which it is not known.
    pub older_than: Millis,
    /// Only versions of these models go; all when empty.
    pub models: BTreeSet<ModelName>,
}

/// Why a version stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// It is one of the newest.
    Newest,
    /// An alias points to it.
    Aliased,
    /// It has a tag that keeps it.
    Tagged,
    /// A service runs it, or could go back to it.
    Served,
    /// It is not old enough, or nobody knows how old it is.
    Young,
    /// The rules do not speak of its model.
    Other,
}

/// What becomes of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The version.
    pub listed: Listed,
    /// Why it stays; none when it goes.
    pub kept: Option<Kept>,
}

impl Retention {
    /// What becomes of each version; `served` are the packages that services need. Versions come in the order in which they were added.
    pub fn judge(&self, listed: Vec<Listed>, served: &BTreeSet<Digest>, now: Timestamp) -> Vec<Verdict> {
        let mut newer: BTreeMap<&ModelName, usize> = BTreeMap::new();
        let mut kept: Vec<Option<Kept>> = listed
            .iter()
            .rev()
            .map(|one| {
                let newer = newer.entry(&one.model).or_default();
                *newer += 1;
                let young = one.added.is_none_or(|added| now - added < self.older_than);
                let reasons = [
                    (!self.models.is_empty() && !self.models.contains(&one.model), Kept::Other),
                    (*newer <= self.keep_last.max(1), Kept::Newest),
                    (!one.aliases.is_empty(), Kept::Aliased),
                    (served.contains(&one.digest), Kept::Served),
                    (one.tags.keys().any(|key| self.keep_tags.contains(key)), Kept::Tagged),
                    (self.older_than > Millis(0) && young, Kept::Young),
                ];
                reasons.into_iter().find(|(applies, _)| *applies).map(|(_, kept)| kept)
            })
            .collect();
        kept.reverse();
        listed.into_iter().zip(kept).map(|(listed, kept)| Verdict { listed, kept }).collect()
    }
}

impl Verdict {
    /// As documents have it.
    pub fn document(&self) -> Value {
        let Listed { model, version, digest, .. } = &self.listed;
        json!({ "model": model, "version": version, "digest": digest, "kept": self.kept })
    }
}

impl Store {
    /// Removes the versions that the rules do not keep; with `dry_run` none. What becomes of each.
    ///
    /// # Errors
    /// As [`Store::remove_version`], but for versions that somebody else pointed an alias to or removed meanwhile.
    pub fn retain(
        &self,
        rules: &Retention,
        served: &BTreeSet<Digest>,
        by: &By,
        dry_run: bool,
    ) -> Result<Vec<Verdict>, Error> {
        let verdicts = rules.judge(self.list()?, served, by.at);
        for going in verdicts.iter().filter(|verdict| verdict.kept.is_none() && !dry_run) {
            let Listed { model, version, .. } = &going.listed;
            match self.remove_version(model, version, by) {
                // An alias was pointed to it just now, or somebody else removed it: either way it is as they want it.
                Ok(()) | Err(Error::Refused { .. } | Error::NoVersion { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use modelyard_core::{AliasName, Version};

    use super::*;

    fn listed(model: &str, number: u8, change: impl FnOnce(&mut Listed)) -> Listed {
        let mut listed = Listed {
            model: ModelName::new(model).unwrap(),
            version: Version::new(format!("{number}")).unwrap(),
            digest: Digest::from_sha256([number; 32]),
            aliases: Vec::new(),
            tags: BTreeMap::new(),
            yanked: None,
            number: u64::from(number),
            added: Some(Timestamp(u64::from(number) * 1_000)),
            arrivals: Vec::new(),
        };
        change(&mut listed);
        listed
    }

    #[test]
    fn only_what_nobody_needs_goes() {
        let all = vec![
            listed("wine", 1, |_| {}),
            listed("wine", 2, |one| one.aliases.push(AliasName::new("champion").unwrap())),
            listed("wine", 3, |one| drop(one.tags.insert("audit".into(), String::new()))),
            listed("wine", 4, |one| drop(one.tags.insert("team".into(), "x".into()))),
            listed("wine", 5, |_| {}),
            listed("wine", 6, |one| one.added = None),
            listed("beer", 7, |_| {}),
            listed("wine", 8, |_| {}),
            listed("wine", 9, |_| {}),
        ];
        let rules = Retention {
            keep_last: 2,
            keep_tags: BTreeSet::from(["audit".to_owned()]),
            older_than: Millis(1),
            models: BTreeSet::new(),
        };
        let served = BTreeSet::from([Digest::from_sha256([5; 32])]);
        let kept = |rules: &Retention, now| {
            rules.judge(all.clone(), &served, Timestamp(now)).into_iter().map(|v| v.kept).collect::<Vec<_>>()
        };
        let (newest, aliased) = (Some(Kept::Newest), Some(Kept::Aliased));
        let wanted = [
            None,
            aliased,
            Some(Kept::Tagged),
            None,
            Some(Kept::Served),
            Some(Kept::Young),
            newest.clone(),
            newest.clone(),
            newest,
        ];
        assert_eq!(kept(&rules, 1_000_000), wanted);
        let patient = Retention { older_than: Millis(2_500), ..rules.clone() };
        assert_eq!(kept(&patient, 6_000)[3], Some(Kept::Young), "4 is two seconds old");
        assert_eq!(kept(&patient, 6_000)[0], None, "1 is five seconds old");
        let others = Retention { models: BTreeSet::from([ModelName::new("beer").unwrap()]), keep_last: 0, ..rules };
        let judged = kept(&others, 1_000_000);
        assert!(
            judged[0] == Some(Kept::Other) && judged[6] == Some(Kept::Newest),
            "the newest of a model always stays"
        );
    }
}
