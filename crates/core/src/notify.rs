//! Whom to tell of what becomes of a service's rollouts, and what they are told.

use serde::{Deserialize, Serialize};

use crate::failure::Cause;
use crate::{EnvironmentName, RevisionNumber, RolloutId, ServiceName, Timestamp};

/// A web hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hook {
    /// Where notices are posted, http or https.
    pub url: String,
    /// Which notices; all when left out.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub on: Vec<NoticeKind>,
    /// Where its bearer token is: `env:NAME` or `file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// File of certificates (PEM) that an https server's is held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

fn all() -> Vec<NoticeKind> {
    NoticeKind::ALL.to_vec()
}

fn is_all(kinds: &[NoticeKind]) -> bool {
    kinds == NoticeKind::ALL
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    /// Quality has dropped or inputs have moved: a rollout is held for it, or what serves between rollouts is noticed.
    Quality,
    /// A rollout waits for a person for another reason.
    Waiting,
    /// A candidate was taken back: by itself or by a person.
    RolledBack,
    /// A candidate carries everything.
    Promoted,
}

impl NoticeKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Quality, Self::Waiting, Self::RolledBack, Self::Promoted];

    /// Name as documents have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quality => "quality",
            Self::Waiting => "waiting",
            Self::RolledBack => "rolled-back",
            Self::Promoted => "promoted",
        }
    }
}

/// The document that is posted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Version of this form: 1. Keys may be added to it.
    pub version: u32,
    /// What it is about.
    pub kind: NoticeKind,
    /// Position of the event in the log. A notice that comes twice, after a crash, has the same.
    pub seq: u64,
    /// When it happened, in milliseconds since 1970.
    pub at: Timestamp,
    /// Service.
    pub service: ServiceName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The rollout, if one is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Strategy, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// The candidate; between rollouts what serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionNumber>,
    /// The stable revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionNumber>,
    /// Why, classified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Why, for people, with what can be done.
    pub why: String,
    /// Lines of evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}
