//! Aliases: movable names of versions, every move kept.

use std::collections::BTreeMap;

use modelyard_core::{AliasName, Timestamp, Version};
use serde::{Deserialize, Serialize};

/// One move of an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Where it pointed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Version>,
    /// Where it points from then on; none when it was taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Version>,
}

/// Every alias of one model with its moves, oldest first.
pub type Aliases = BTreeMap<AliasName, Vec<Move>>;

/// Where an alias points now.
pub fn current<'a>(aliases: &'a Aliases, alias: &AliasName) -> Option<&'a Version> {
    aliases.get(alias)?.last().and_then(|step| step.to.as_ref())
}
