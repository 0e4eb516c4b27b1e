//! The image below: which layers it has, and what a program on it finds there.

use std::collections::BTreeSet;

use modelyard_core::Digest;
use serde_json::Value;

use super::elf::Glibc;
use super::layer::Layer;

/// An image that others are put on. Its blobs are stored.
#[derive(Clone, Debug)]
pub struct Base {
    /// What it is called: `registry.example/python:3.12`.
    pub name: String,
    /// Digest of its manifest, for this platform.
    pub digest: Digest,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Its configuration.
    pub config: Value,
    /// Names of the shared libraries and loaders that it has.
    pub libraries: BTreeSet<String>,
    /// Which C library it has.
    pub glibc: Option<Glibc>,
}
