//! Events: the append-only log of everything that happened. The log is the truth; state is folded from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::beside::BesideKind;
use crate::evidence::Evidence;
use crate::failure::{Cause, Failure};
use crate::machine::MachineId;
use crate::measure::Counters;
use crate::notify::NoticeKind;
use crate::service::{Desired, Revision, ServiceSpec};
use crate::{
    AliasName, Digest, EnvironmentName, InstanceId, ModelName, RevisionNumber, RolloutId, ServiceName, Timestamp,
    Version, Weight,
};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the log, from 1, without gaps.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Service that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Rollout that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Who did it.
    pub actor: Actor,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// The controller, by policy.
    Controller,
    /// A person or script, by the name that their token or login gives.
    Person(String),
}

/// What a person may ask of a rollout or a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Go on at once: to the next step, or out of a wait for a person; `all` goes to the end.
    Promote {
        /// Straight to the whole.
        #[serde(default)]
        all: bool,
    },
    /// Hold where it is. Failures still take the candidate back.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Return to stable.
    Abort,
    /// Try a revision beside a candidate that is held, or a rollout that is paused; at no share, take it away.
    Try {
        /// Which.
        revision: RevisionNumber,
        /// Share of the traffic (canary), or of the requests that stable answers (shadow).
        share: Weight,
        /// How.
        #[serde(default)]
        kind: BesideKind,
    },
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The candidate carries everything and is stable now.
    Promoted,
    /// The candidate failed and was taken back.
    RolledBack,
    /// A person asked to return to stable.
    Aborted,
    /// The candidate was a shadow, compared as was asked, and is gone again.
    Compared,
}

impl Outcome {
    /// The outcome's name, as JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled-back",
            Self::Aborted => "aborted",
            Self::Compared => "compared",
        }
    }
}

/// Figures of one revision at one moment, for charts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Applied share.
    pub weight: Weight,
    /// Instances that are ready and live.
    pub live: u32,
    /// What was counted since the measurement before.
    pub window: Counters,
    /// Requests being answered.
    pub in_flight: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventBody {
    /// The control plane started.
    ControlStarted {
        /// Its process.
        pid: u32,
        /// Version of the program.
        version: String,
    },
    /// The control plane was asked to end and did.
    ControlStopped,
    /// A gateway was started by this control plane.
    GatewayStarted {
        /// Its process.
        pid: u32,
    },
    /// A gateway that was already running was adopted.
    GatewayAdopted {
        /// Its process.
        pid: u32,
    },
    /// The gateway did not answer.
    GatewayLost {
        /// The error chain.
        why: String,
    },
    /// A machine of an environment cannot be reached.
    MachineLost {
        /// Which.
        machine: MachineId,
        /// Why: what ssh said.
        why: String,
    },
    /// A machine that was lost is reached again.
    MachineBack {
        /// Which.
        machine: MachineId,
        /// For how long it was lost, in milliseconds.
        after_ms: u64,
    },
    /// A machine that its environment names no more, and where nothing of ours is left, was let go.
    MachineLeft {
        /// Which.
        machine: MachineId,
    },
    /// The rules of a service were set.
    ServiceSet {
        /// The rules.
        spec: Box<ServiceSpec>,
    },
    /// A revision was made.
    RevisionCreated {
        /// The revision.
        revision: Box<Revision>,
    },
    /// A rollout started.
    RolloutStarted {
        /// Strategy, by name.
        strategy: String,
        /// Where it starts from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stable: Option<RevisionNumber>,
        /// Where it goes to.
        candidate: RevisionNumber,
        /// First state of the state machine (`modelyard-rollout`).
        state: serde_json::Value,
    },
    /// The state machine advanced.
    RolloutStepped {
        /// Phase, for people.
        phase: String,
        /// State after the step.
        state: serde_json::Value,
        /// What should be true now.
        desired: Desired,
    },
    /// An analysis said something new.
    Verdict {
        /// `pass`, `fail` or `inconclusive`.
        verdict: String,
        /// Why, for people, with figures.
        why: String,
        /// Cause, when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// A person asked for something.
    Ordered {
        /// What.
        #[serde(flatten)]
        order: Order,
    },
    /// An order changed nothing.
    OrderRefused {
        /// What was asked.
        #[serde(flatten)]
        order: Order,
        /// Why it was not done, and what can be done instead.
        why: String,
    },
    /// What should be true of a service changed outside a rollout.
    DesiredSet {
        /// What should be true now.
        desired: Desired,
    },
    /// An instance was asked for.
    InstanceStarting {
        /// Which.
        instance: InstanceId,
        /// Of which revision.
        revision: RevisionNumber,
        /// On which machine, on targets that have several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        machine: Option<MachineId>,
    },
    /// An instance accepts requests and answers its samples correctly.
    InstanceLive {
        /// Which.
        instance: InstanceId,
        /// Of which revision.
        revision: RevisionNumber,
        /// From being asked for until live, in milliseconds.
        after_ms: u64,
    },
    /// Something went wrong with an instance or a revision.
    Failed {
        /// What.
        failure: Box<Failure>,
    },
    /// An instance is no longer sent requests and finishes those that it has.
    InstanceDraining {
        /// Which.
        instance: InstanceId,
        /// Of which revision.
        revision: RevisionNumber,
    },
    /// An instance ended.
    InstanceStopped {
        /// Which.
        instance: InstanceId,
        /// Of which revision.
        revision: RevisionNumber,
        /// How, for people.
        how: String,
    },
    /// A running instance was found and taken over after a restart of the control plane.
    InstanceAdopted {
        /// Which.
        instance: InstanceId,
        /// Of which revision.
        revision: RevisionNumber,
    },
    /// The gateway applied a route table.
    RouteApplied {
        /// Its generation.
        generation: u64,
        /// The split of the default API version.
        weights: BTreeMap<RevisionNumber, Weight>,
    },
    /// Something was tried again.
    Retried {
        /// What was tried.
        what: String,
        /// Why it did not work before: the error chain.
        why: String,
        /// How many times so far.
        attempt: u32,
    },
    /// Figures during a rollout.
    Measured {
        /// By revision.
        revisions: BTreeMap<RevisionNumber, Measurement>,
    },
    /// What was known of the arms, of shadows and of drift when something was decided or said.
    EvidenceSeen {
        /// What was known.
        evidence: Box<Evidence>,
    },
    /// What serves has become worse, or what it is asked has moved from its reference, and no rollout is open that could act on it.
    QualityDropped {
        /// The revision that serves.
        revision: RevisionNumber,
        /// `quality` or `drift`.
        cause: Cause,
        /// Why, for people, with figures.
        why: String,
        /// A line for each metric, or for each field that moved.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        evidence: Vec<String>,
    },
    /// Somebody elsewhere was told, or could not be.
    Notified {
        /// Of what.
        kind: NoticeKind,
        /// Position of the event that was told.
        of: u64,
        /// The host that was told; the rest of an address may be secret.
        host: String,
        /// Attempts that it took.
        attempts: u32,
        /// Why it was given up, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A rollout ended.
    RolloutFinished {
        /// How.
        outcome: Outcome,
        /// Cause of the end, when the candidate failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// The failure behind it, with evidence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Box<Failure>>,
        /// Stable revision from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stable: Option<RevisionNumber>,
    },
    /// The service's flag definition was set, or taken away.
    FlagsSet {
        /// The document, in flagd's format; none takes it away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        definition: Option<serde_json::Value>,
    },
    /// Deploys of the service were barred: what runs goes on, and may be taken back.
    Frozen {
        /// Why, for people.
        why: String,
    },
    /// Deploys of the service are let in again.
    Unfrozen,
    /// A service was removed.
    ServiceRemoved,
    /// An alias of the registry was moved, or taken away.
    AliasMoved {
        /// Model.
        model: ModelName,
        /// Alias.
        alias: AliasName,
        /// Where it pointed before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Version>,
        /// Where it points from now on; none takes it away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Version>,
    },
    /// A tag of a model or of a version was set, or taken away.
    Tagged {
        /// Model.
        model: ModelName,
        /// Version; none is the model itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
        /// Name of the tag.
        key: String,
        /// Its text from now on; none takes it away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
    },
    /// A version was withdrawn: nothing new is deployed from it.
    Yanked {
        /// Model.
        model: ModelName,
        /// Version.
        version: Version,
        /// Why, for people.
        why: String,
    },
    /// A withdrawn version may be deployed again.
    Unyanked {
        /// Model.
        model: ModelName,
        /// Version.
        version: Version,
    },
    /// A package went from one environment to the next, by a signed record.
    PackagePromoted {
        /// What the record says.
        promotion: Box<PackagePromotion>,
    },
    /// A person deployed although callers of stable may misread the candidate.
    MeaningsAccepted {
        /// The package.
        package: Digest,
        /// What they may misread.
        changes: Vec<String>,
    },
    /// A token was made.
    TokenMade {
        /// Which, and what it grants.
        token: Box<TokenGrant>,
    },
    /// A token counts no longer.
    TokenRevoked {
        /// Its id.
        token: String,
        /// Whose it was.
        name: String,
        /// Since when.
        revoked: Timestamp,
    },
    /// A token was shown, and refused.
    TokenRefused {
        /// Its id; none when it is no token of this home.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// Whose it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Why.
        why: String,
        /// What was asked, the last time: method and path.
        asked: String,
        /// How often, since the last event of its kind.
        times: u32,
    },
}

/// A package that went from one environment to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackagePromotion {
    /// Model.
    pub model: ModelName,
    /// Version.
    pub version: Version,
    /// The package.
    pub package: Digest,
    /// Where it came from.
    pub from: EnvironmentName,
    /// Where it may run now.
    pub to: EnvironmentName,
    /// The signed envelope with the record.
    pub record: Digest,
    /// Id of the key that signed it, where the environment names keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// SHA-256 of the policies that were checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// The rollout that the record names as passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<RolloutId>,
    /// The registry that the copy went to, if it went to another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGrant {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What its holder may do: `viewer`, `deployer`, `approver`, `admin`.
    pub role: String,
    /// The environment in which it counts; every one when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// Patterns of repositories; every one when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// When it was made.
    pub made: Timestamp,
    /// When it expires by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_with_maps_survive_json() {
        let weights = BTreeMap::from([(RevisionNumber(1), Weight::ALL)]);
        let event = Event {
            seq: 7,
            at: Timestamp(1),
            service: ServiceName::new("wine").ok(),
            rollout: None,
            actor: Actor::Person("ada".into()),
            body: EventBody::RouteApplied { generation: 3, weights },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
        let order = Event { body: EventBody::Ordered { order: Order::Promote { all: true } }, ..event };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), order, "{text}");
    }
}
