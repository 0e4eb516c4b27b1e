//! Comparing a shadow's answer with the one that the caller got: output by output, within tolerance.
//!
//! Open Inference Protocol (JSON, binary data, gRPC), the plain form, any other JSON by its structure, and bytes at last.
//! Promises: whatever a shadow answers, comparing ends, in time and memory bounded by the bodies' length (at most [`BODY`] each), and never
//! panics. NaN equals NaN and infinities equal themselves, as in [`Tolerance`]. An output that only the shadow has does not count.
//! Absent on purpose: what follows from disagreement (the control plane decides).

mod grpc;
mod json;
mod raw;
mod read;
mod score;
mod sum;
mod tensor;

use bytes::Bytes;
use modelyard_core::sample::Tolerance;

pub use sum::absorb;

use read::Content;
use score::Score;

/// Longest body that is compared, in bytes.
// 1 MiB: 65 000 float scores as text, twice over; beyond it one pair would cost more than a thousand usual ones.
pub const BODY: usize = 1 << 20;

/// An answer, as far as it is compared.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// HTTP status; 0 when the connection broke.
    pub status: u16,
    /// Status of a gRPC call.
    pub grpc_status: Option<u16>,
    /// Content type, in lower case.
    pub content_type: String,
    /// Whether the body has a content coding, so that equal content may have unequal bytes.
    pub encoded: bool,
    /// Length of the JSON part when the body is JSON followed by binary tensors.
    pub header_length: Option<usize>,
    /// The whole body; none when it was too long or broke off.
    pub body: Option<Bytes>,
}

impl Said {
    /// The HTTP status; of a gRPC call that failed, the HTTP status that says the same.
    pub const fn told_status(&self) -> u16 {
        match self.grpc_status {
            None | Some(0) => self.status,
            Some(3 | 9 | 11) => 400,
            Some(4) => 504,
            Some(5) => 404,
            Some(6 | 10) => 409,
            Some(7) => 403,
            Some(8) => 429,
            Some(12) => 501,
            Some(14) => 503,
            Some(16) => 401,
            Some(1) => 499,
            Some(_) => 500,
        }
    }

    /// The error that it is, as a number: HTTP status, or 1000 and the gRPC status. `None` when it is none.
    fn error(&self) -> Option<u16> {
        match self.grpc_status {
            Some(0) => None,
            Some(status) => Some(1_000_u16.saturating_add(status)),
            None => (!(200..400).contains(&self.status)).then_some(self.status),
        }
    }
}

/// How close is close.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// For numbers.
    pub tolerance: Tolerance,
    /// Among how many best classes stable's best must be.
    pub top_k: u32,
}

/// What came of a pair.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Another kind, another shape, one of them an error or not whole.
    Incomparable,
    /// Compared.
    Compared(Vec<(String, Score)>),
}

/// Compares stable's answer with the shadow's.
pub fn pair(stable: &Said, shadow: &Said, rules: &Rules) -> Outcome {
    match (stable.error(), shadow.error()) {
        (None, None) => {}
        // The same refusal of the same request is the same behaviour.
        (Some(one), Some(other)) if one == other => return Outcome::Compared(Vec::new()),
        _ => return Outcome::Incomparable,
    }
    let (Some(one), Some(other)) = (&stable.body, &shadow.body) else { return Outcome::Incomparable };
    if stable.encoded || shadow.encoded {
        let same = one == other && stable.encoded == shadow.encoded;
        return if same { Outcome::Compared(vec![score::bytes(one, other)]) } else { Outcome::Incomparable };
    }
    match (read::content(stable, one), read::content(shadow, other)) {
        (Content::Tensors(one), Content::Tensors(other)) => tensors(&one, &other, rules),
        (Content::Json(one), Content::Json(other)) => Outcome::Compared(json::compare(&one, &other, rules)),
        (Content::Bytes, Content::Bytes) => Outcome::Compared(vec![score::bytes(one, other)]),
        _ => Outcome::Incomparable,
    }
}

fn tensors(stable: &[tensor::Tensor], shadow: &[tensor::Tensor], rules: &Rules) -> Outcome {
    let scores = stable.iter().map(|one| {
        let other = shadow.iter().find(|other| other.name == one.name)?;
        Some((one.name.clone(), one.compare(other, rules)?))
    });
    scores.collect::<Option<_>>().map_or(Outcome::Incomparable, Outcome::Compared)
}

#[cfg(test)]
mod tests;
