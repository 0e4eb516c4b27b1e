//! The words of Modelyard: names, digests, weights, signatures, packages, services, the route table, events.
//!
//! Promises: everything here is a value. No file, socket, clock, runtime or randomness; the dependency list proves it.
//! Absent on purpose: how a rollout advances (`modelyard-rollout`) and how anything is carried out (the adapters).

pub mod affinity;
pub mod api;
pub mod beside;
pub mod boot;
pub mod digest;
mod entry;
pub mod event;
pub mod evidence;
pub mod exposition;
pub mod failure;
pub mod feedback;
pub mod flags;
pub mod home;
pub mod image;
pub mod instance;
pub mod machine;
pub mod meaning;
pub mod measure;
pub mod metric;
pub mod mirror;
pub mod model_file;
pub mod names;
mod near;
pub mod notify;
pub mod package;
pub mod ports;
pub mod profile;
pub mod route;
pub mod sample;
pub mod service;
pub mod signature;
pub mod strategy;
pub mod time;
pub mod tracking;
pub mod url;
pub mod weight;

pub use digest::Digest;
pub use names::{
    AliasName, EnvironmentName, InstanceId, MachineName, ModelName, RevisionNumber, RolloutId, ServiceName, Version,
};
pub use near::nearest;
pub use time::{Millis, Timestamp};
pub use weight::Weight;
