//! Readings of the gateway's counters.

use serde::{Deserialize, Serialize};

/// Readings of the gateway's counters that windows are measured from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Readings {}
