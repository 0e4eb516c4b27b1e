//! What the black-box tests share: a home of their own, the program as a person calls it, load, a census of processes.
//!
//! Promises: every test owns its folder and its ports; whatever a test started is stopped when it ends, failed or not.
#![allow(dead_code, unused_imports, reason = "each scenario family uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

pub mod alarm;
pub mod artefacts;
pub mod base_image;
pub mod docker;
pub mod function;
pub mod hub;
pub mod load;
pub mod process;
pub mod registry;
pub mod sshd;
pub mod terminal;
pub mod wait;
pub mod world;

pub use load::{Load, Mix};
pub use wait::until;
pub use world::{Ran, World};

use std::path::{Path, PathBuf};

/// The folder `examples`.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").canonicalize().expect("the checkout has examples")
}
