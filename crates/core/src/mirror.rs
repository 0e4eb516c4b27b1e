//! Mirrors: copies of requests for shadows, what becomes of them, and what is told of each answer for later judgement.
//!
//! Absent on purpose: how answers are compared (`modelyard-gateway`) and what follows from it (`modelyard-rollout`).

use serde::{Deserialize, Serialize};

use crate::evidence::Moments;
use crate::measure::Histogram;
use crate::sample::Tolerance;
use crate::{RevisionNumber, Weight};

/// Copies of a service's requests for one shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The shadow; its pool is in the route's pools, without weight.
    pub revision: RevisionNumber,
    /// Share of requests that are copied.
    pub share: Weight,
    /// Most copies in flight or waiting at once; what comes on top is shed and counted.
    pub limit: u32,
    /// Longest time that a copy may take, in milliseconds.
    pub timeout_ms: u64,
    /// How close numbers must be to agree.
    pub tolerance: Tolerance,
    /// For outputs that are scores: of how many best classes the first must be among; 1 compares the best alone.
    pub top_k: u32,
    /// Whose answers are compared: only requests that this revision answers are copied; none copies all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<RevisionNumber>,
}

/// What the gateway keeps of each answer for the control plane (labels that come late, drift, capture): lines in a bounded spool on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Share of requests that are told.
    pub share: Weight,
    /// Whether request and response bodies are told too, each up to this many bytes; 0 tells the response's alone up to 64 KiB (predictions).
    pub body_bytes: u64,
    /// Bytes of spool that may lie unread; what comes on top is shed and counted.
    pub limit_bytes: u64,
}

/// What became of a shadow's copies, cumulative.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Copies that were sent.
    pub sent: u64,
    /// Copies that were shed: too many in flight, or the body was too large to keep.
    pub shed: u64,
    /// Copies that the shadow failed to answer (5xx, broken connection, time-out).
    pub failed: u64,
    /// Pairs of answers that were compared.
    pub compared: u64,
    /// Pairs whose every output is equal, bit for bit or letter for letter.
    pub exact: u64,
    /// Pairs whose every output agrees within tolerance.
    pub agreed: u64,
    /// Pairs that could not be compared: not JSON or tensors, another shape, one of them an error.
    pub incomparable: u64,
    /// By output.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub outputs: std::collections::BTreeMap<String, OutputComparison>,
    /// Latency of the shadow's answers.
    #[serde(default)]
    pub latency: Histogram,
    /// Latency of stable's answers to the same requests.
    #[serde(default)]
    pub stable_latency: Histogram,
    /// The pairs that differ most, worst first, at most eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<Example>,
}

/// Agreement of one output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputComparison {
    /// Elements that were compared.
    pub elements: u64,
    /// Elements that agree within tolerance.
    pub agreed: u64,
    /// Rows (first axis) whose label or best class is the same; of outputs that are no classes, rows within tolerance.
    pub same_label: u64,
    /// Rows whose best class of stable is among the shadow's k best; of outputs without scores, as `same_label`.
    pub in_top_k: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// Largest absolute difference.
    pub largest: f64,
    /// Signed differences shadow − stable of all numbers.
    pub difference: Moments,
    /// Jensen-Shannon distance of rows that are distributions (non-negative, sum 1), 0 to 1.
    pub distance: Moments,
}

/// One pair of answers that differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The request's id.
    pub request_id: String,
    /// Where they differ most, and by how much; values are rounded, the request is not shown.
    pub what: String,
    /// The absolute difference, or 1 for different labels; the largest finite number where one of the two is no number.
    pub difference: f64,
}

/// One line of the spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Told {
    /// An answer that a caller (or, for a shadow, nobody) got.
    Answer(Box<ToldAnswer>),
    /// Feedback that was posted.
    Feedback(ToldFeedback),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldAnswer {
    /// The request's id.
    pub id: String,
    /// When it was answered, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who answered.
    pub revision: RevisionNumber,
    /// Whether it was a shadow's copy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// The session's point as 16 hexadecimal digits, when there is a session; never the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// HTTP status; 0 when the connection broke. Of a gRPC call that failed, the HTTP status that says the same.
    pub status: u16,
    /// Time to the answer in µs.
    pub micros: u64,
    /// Path as the instance saw it.
    pub path: String,
    /// Content type of the response.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// Length of the JSON part when the response is binary tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_length: Option<usize>,
    /// Length of the request's body, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Length of the response's body, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// Request body, base64; none unless it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Response body, base64; none when it was too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

/// Feedback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldFeedback {
    /// The answer's request id.
    pub id: String,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was posted: an object with `id`, and `label`, `reward` or whatever the metrics point at.
    pub body: serde_json::Value,
}
