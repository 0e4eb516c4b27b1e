//! What a token grants: a role, in one environment or all, for some repositories or all.

use std::fmt;
use std::str::FromStr;

use modelyard_core::{EnvironmentName, Timestamp};
use serde::{Deserialize, Serialize};

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look and pull.
    Viewer,
    /// Look, push, deploy, steer and roll back; not let a rollout go on that waits for a person.
    Deployer,
    /// Look, steer and roll back, and let a rollout go on that waits for a person.
    Approver,
    /// Everything, tokens included.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Deployer, Self::Approver, Self::Admin];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }

    /// Whether it may push and deploy.
    pub const fn may_deploy(self) -> bool {
        matches!(self, Self::Deployer | Self::Admin)
    }

    /// Whether it may steer rollouts.
    pub const fn may_steer(self) -> bool {
        !matches!(self, Self::Viewer)
    }

    /// Whether it may let a rollout go on that waits for a person.
    pub const fn may_approve(self) -> bool {
        matches!(self, Self::Approver | Self::Admin)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| "a role is viewer, deployer, approver or admin".to_owned())
    }
}

/// Where a grant counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The environment; every one when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// Patterns of repositories and Python projects (`wine`, `team/*`); every one when none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
}

/// What a token grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Whose token it is: the name that stands in events.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// Where.
    #[serde(default)]
    pub scope: Scope,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl Grant {
    /// Whether it has a name that can be shown: 1 to 100 bytes.
    pub fn has_name(&self) -> bool {
        !self.name.is_empty() && self.name.len() <= 100 && !self.name.chars().any(char::is_control)
    }

    /// Whether it counts for a repository or Python project.
    pub fn covers(&self, repository: &str) -> bool {
        self.covers_every_repository() || self.scope.repositories.iter().any(|pattern| fits(pattern, repository))
    }

    /// Whether it counts for all of them.
    pub fn covers_every_repository(&self) -> bool {
        self.scope.repositories.is_empty()
    }

    /// Whether it counts in an environment.
    pub fn counts_in(&self, environment: &EnvironmentName) -> bool {
        self.scope.environment.as_ref().is_none_or(|own| own == environment)
    }
}

/// Whether a name fits a pattern, in which `*` stands for any letters, `/` too.
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some((_, after)) = rest.split_once(part) else { return false };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |tail: &str| rest.ends_with(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_people_expect() {
        for (pattern, name) in [
            ("wine", "wine"),
            ("wine*", "wine-red"),
            ("*", "a/b"),
            ("team/*", "team/a/b"),
            ("a*c*e", "abcde"),
            ("a*", "a"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("wine", "wines"), ("wine*", "swine"), ("team/*", "team"), ("a*c*e", "abcd"), ("", "a"), ("a*a", "a")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_replaces_the_stars_fits(parts in proptest::collection::vec("[ab/]{0,3}", 1..4), fill in "[abc]{0,3}") {
            proptest::prop_assert!(fits(&parts.join("*"), &parts.join(&fill)) || parts.len() == 1);
        }
    }
}
