//! Why something failed: the cause, its class, and the evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{InstanceId, RevisionNumber, Timestamp};

/// Classified cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// An instance ended by itself.
    Crash,
    /// Instances ended by themselves again and again.
    CrashLoop,
    /// An instance went past its memory limit.
    OutOfMemory,
    /// An instance runs but does not answer.
    Unresponsive,
    /// The machine of an instance cannot be reached: no fault of the model's.
    MachineLost,
    /// An instance never became ready in time.
    StartupTimeout,
    /// An instance could not be started at all.
    StartFailed,
    /// An instance answers its samples wrongly.
    WrongAnswers,
    /// Too large a share of answers are errors.
    ErrorRate,
    /// Latency is past its objective.
    Latency,
    /// A metric of quality is worse than stable's, or past its limit.
    Quality,
    /// Inputs or outputs have moved away from their reference.
    Drift,
    /// A shadow's answers differ from stable's more than is allowed.
    Disagreement,
    /// Arms do not get the shares that they were assigned: the split, or what counts it, is broken.
    SampleRatioMismatch,
    /// The candidate did not outperform stable within the test's time or size.
    NotBetter,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 15] = [
        Self::Crash,
        Self::CrashLoop,
        Self::OutOfMemory,
        Self::Unresponsive,
        Self::MachineLost,
        Self::StartupTimeout,
        Self::StartFailed,
        Self::WrongAnswers,
        Self::ErrorRate,
        Self::Latency,
        Self::Quality,
        Self::Drift,
        Self::Disagreement,
        Self::SampleRatioMismatch,
        Self::NotBetter,
    ];

    /// The cause's name, as events, metrics and JSON have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::CrashLoop => "crash-loop",
            Self::OutOfMemory => "out-of-memory",
            Self::Unresponsive => "unresponsive",
            Self::MachineLost => "machine-lost",
            Self::StartupTimeout => "startup-timeout",
            Self::StartFailed => "start-failed",
            Self::WrongAnswers => "wrong-answers",
            Self::ErrorRate => "error-rate",
            Self::Latency => "latency",
            Self::Quality => "quality",
            Self::Drift => "drift",
            Self::Disagreement => "disagreement",
            Self::SampleRatioMismatch => "sample-ratio-mismatch",
            Self::NotBetter => "not-better",
        }
    }

    /// Whether it is only how something else shows: what callers notice of an instance that crashes, hangs or runs out of memory.
    pub const fn is_symptom(self) -> bool {
        matches!(self, Self::ErrorRate | Self::Latency | Self::Unresponsive)
    }

    /// The class that decides whether a rollback may be automatic.
    pub const fn class(self) -> Class {
        match self {
            Self::Crash
            | Self::CrashLoop
            | Self::OutOfMemory
            | Self::Unresponsive
            | Self::MachineLost
            | Self::StartupTimeout
            | Self::StartFailed
            | Self::WrongAnswers
            | Self::ErrorRate
            | Self::Latency => Class::Infrastructure,
            Self::Quality | Self::Drift | Self::Disagreement | Self::SampleRatioMismatch | Self::NotBetter => {
                Class::Quality
            }
        }
    }
}

/// In JSON, a cause and its class side by side. The class follows from the cause, so it is told and never read.
mod classified {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Cause, Class};

    #[derive(Serialize)]
    struct Told {
        cause: Cause,
        class: Class,
    }

    #[derive(Deserialize)]
    struct Read {
        cause: Cause,
    }

    pub(super) fn serialize<S: Serializer>(cause: &Cause, serializer: S) -> Result<S::Ok, S::Error> {
        Told { cause: *cause, class: cause.class() }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cause, D::Error> {
        Read::deserialize(deserializer).map(|read| read.cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Class of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Hardware or software under the model: rolled back automatically.
    Infrastructure,
    /// The data or the model's quality: a person decides, unless policy says otherwise.
    Quality,
}

impl Class {
    /// The class's name, as JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Quality => "quality",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that went wrong, with what was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What it was; in JSON with its class beside it.
    #[serde(flatten, with = "classified")]
    pub cause: Cause,
    /// Which revision.
    pub revision: RevisionNumber,
    /// Which instance, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// When it was seen.
    pub at: Timestamp,
    /// What was seen, for people: one sentence with figures.
    pub detail: String,
    /// Further lines: the error chain, the last lines of the log, the figures behind the sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_tells_the_class_and_older_lines_without_it_are_read() {
        let failure = Failure {
            cause: Cause::OutOfMemory,
            revision: RevisionNumber(2),
            instance: None,
            at: Timestamp(7),
            detail: "past its limit".into(),
            evidence: vec!["line".into()],
        };
        let mut json = serde_json::to_value(&failure).unwrap();
        assert_eq!((&json["cause"], &json["class"]), (&"out-of-memory".into(), &"infrastructure".into()), "{json}");
        assert_eq!(serde_json::from_value::<Failure>(json.clone()).unwrap(), failure);
        json.as_object_mut().unwrap().remove("class");
        assert_eq!(
            serde_json::from_value::<Failure>(json).unwrap(),
            failure,
            "a line of a log that an older build wrote"
        );
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause.class()).unwrap(), cause.class().name());
        }
    }
}
