//! The catalogue's document, `catalog.json` beside the layout's own.

use std::collections::BTreeMap;

use modelyard_core::{AliasName, Digest, ModelName, Timestamp, Version};
use serde::{Deserialize, Serialize};

use super::{Arrival, Tags};

/// Everything that is said of models beside their packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// By model.
    #[serde(default)]
    pub models: BTreeMap<ModelName, Entry>,
}

/// What is said of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was first spoken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// One line or more about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
    /// Its versions, as far as anything is said of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<Version, Notes>,
    /// Every change, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// What is said of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// One line or more about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
    /// That it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yanked: Option<Yanked>,
    /// That it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
    /// On which ways it came here, the first one first; nobody knows of versions from before that was kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<Arrival>,
    /// Container images that were made of it here, by the digests of their manifests, the newest last. What was pushed is never among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Digest>,
}

/// A withdrawal: nothing new is deployed from the version; what runs goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yanked {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

/// A removal: the version names nothing any more, and no other package ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// The package that it named.
    pub digest: Digest,
    /// Its number among the model's versions; 0 of removals from before that was kept.
    #[serde(default)]
    pub number: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Kind {
    /// A tag was set, or taken away.
    Tagged {
        /// Version; none is the model itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
        /// Name of the tag.
        key: String,
        /// Its text from then on; none took it away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
    },
    /// The description was set.
    Described {
        /// Version; none is the model itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
    },
    /// A version was withdrawn.
    Yanked {
        /// Version.
        version: Version,
        /// Why.
        why: String,
    },
    /// A version may be deployed again.
    Unyanked {
        /// Version.
        version: Version,
    },
    /// A version was removed.
    Removed {
        /// Version.
        version: Version,
        /// The package that it named.
        digest: Digest,
    },
    /// An alias was moved, or taken away.
    AliasMoved {
        /// Alias.
        alias: AliasName,
        /// Where it pointed before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Version>,
        /// Where it points from then on; none took it away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Version>,
    },
}
