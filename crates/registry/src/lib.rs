//! The local registry: every version of every model, as an OCI image layout on disk.
//!
//! Promises: a version names one digest for ever; a blob is written whole or not at all and is checked against its digest whenever
//! it leaves; several processes may use one store at once.
//! The network is in [`listen`], [`distribution`], [`client`], [`artefacts`], [`hub`] and [`python`] alone.

pub mod access;
mod address;
pub mod alias;
pub mod artefacts;
pub mod blob;
pub mod bundle;
pub mod card;
pub mod catalog;
pub mod client;
mod copying;
pub mod digest;
pub mod distribution;
mod error;
mod found_image;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod hub;
mod layout;
mod leftovers;
pub mod listen;
pub mod manifest;
pub mod names;
pub mod partial;
pub mod paths;
pub mod python;
mod reference;
mod remote;
pub mod seen;
pub mod storage;
mod store;
mod there;
pub mod trust;
mod unpack;

pub use error::Error;
pub use reference::{Reference, ReferenceError, Selector};
pub use store::{Listed, MAX_DOCUMENT_BYTES, Store};
