//! What runs beside the arms of a rollout: shadows that a plan names, and alternatives that a person tries while a candidate is held.
//!
//! Absent on purpose: how they are looked after, and that they decide nothing (`modelyard-rollout`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Weight;
use crate::sample::Tolerance;
use crate::strategy::{Arm, Shadow, Strategy};
use crate::time::{Millis, human};

/// How a revision runs beside the arms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BesideKind {
    /// It gets copies of requests that stable answers; nobody sees its answers.
    #[default]
    Shadow,
    /// It answers a small share of the traffic.
    Canary,
}

impl BesideKind {
    /// The kind's name, as the CLI takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        }
    }
}

/// A shadow beside the arms of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ShadowArm {
    /// What it runs: a reference or a folder, as in `package`.
    pub package: String,
    /// Share of the requests that stable answers of which it gets a copy.
    #[serde(default = "Arm::default_share")]
    pub share: Weight,
    /// Values of its flags, when they differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, serde_json::Value>,
    /// Most copies in flight or waiting; what comes on top is shed. As the strategy has it when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Longest time that a copy may take; the same.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How close numbers must be to agree; the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// Of how many best classes the best must be among (scores); the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
}

impl ShadowArm {
    /// Its bounds; what it leaves open is as usual.
    pub fn bounds(&self, usual: &Bounds) -> Bounds {
        Bounds {
            limit: self.limit.unwrap_or(usual.limit),
            timeout: self.timeout.unwrap_or(usual.timeout),
            tolerance: self.tolerance.unwrap_or(usual.tolerance),
            top_k: self.top_k.unwrap_or(usual.top_k),
        }
    }
}

impl From<Arm> for ShadowArm {
    fn from(Arm { package, share, flags }: Arm) -> Self {
        Self { package, share, flags, limit: None, timeout: None, tolerance: None, top_k: None }
    }
}

/// Bounds of a shadow's copies, and how its answers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bounds {
    /// Most copies in flight or waiting at once.
    pub limit: u32,
    /// Longest time that a copy may take.
    #[serde(with = "human")]
    pub timeout: Millis,
    /// How close numbers must be to agree.
    pub tolerance: Tolerance,
    /// Of how many best classes the best must be among (scores).
    pub top_k: u32,
}

impl From<&Shadow> for Bounds {
    fn from(shadow: &Shadow) -> Self {
        Self { limit: shadow.limit, timeout: shadow.timeout, tolerance: shadow.tolerance, top_k: shadow.top_k }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::from(&Shadow::default())
    }
}

impl Strategy {
    /// Shadows beside the arms, of strategies that have arms which answer callers.
    pub fn shadows(&self) -> &[ShadowArm] {
        match self {
            Self::Canary(canary) => &canary.shadows,
            Self::Ab(ab) => &ab.shadows,
            Self::Recreate(_) | Self::Rolling(_) | Self::BlueGreen(_) | Self::Shadow(_) => &[],
        }
    }

    /// What runs beside stable and candidate: package and values of flags of each further arm, then of each shadow, in the order in which
    /// revisions are made for them.
    pub fn further(&self) -> Vec<(&str, &BTreeMap<String, serde_json::Value>)> {
        fn of(shadows: &[ShadowArm]) -> impl Iterator<Item = (&str, &BTreeMap<String, serde_json::Value>)> {
            shadows.iter().map(|one| (one.package.as_str(), &one.flags))
        }
        match self {
            Self::Ab(ab) => {
                ab.arms.iter().map(|arm| (arm.package.as_str(), &arm.flags)).chain(of(&ab.shadows)).collect()
            }
            Self::Shadow(shadow) => of(&shadow.arms).collect(),
            _ => of(self.shadows()).collect(),
        }
    }
}
