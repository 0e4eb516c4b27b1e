//! Why one request was not answered: a status and a sentence for the caller.
//!
//! Promises: the sentence names what is wrong and what would be right, and never holds elements of the caller's data.

use std::fmt;

/// What kind of refusal; each edge (HTTP, gRPC) maps it to its own status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request does not fit the protocol or the signature.
    Invalid,
    /// No such model, version or path.
    NotFound,
    /// The body came too slowly.
    TooSlow,
    /// The body is too large.
    TooLarge,
    /// The body is in a form that is not understood.
    Unsupported,
    /// Not ready yet, or more waits for the engine than may.
    Unavailable,
    /// The engine failed.
    Engine,
    /// The engine did not answer in time.
    EngineTooSlow,
}

/// Why one request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn starting() -> Self {
        Self::new(Kind::Unavailable, "the model is still being loaded; try again in a moment")
    }

    pub(crate) fn failing() -> Self {
        Self::new(Kind::Unavailable, "the model's workers end again and again; see the log of this instance")
    }

    pub(crate) fn busy(queue: usize) -> Self {
        Self::new(
            Kind::Unavailable,
            format!("{queue} requests are waiting for the model already; try again in a moment"),
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A name from a request, cut to 80 characters and quoted, as error sentences show it.
pub(crate) fn shown(name: &str) -> String {
    let short: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    let cut = if name.chars().nth(80).is_some() { "…" } else { "" };
    format!("`{short}{cut}`")
}
