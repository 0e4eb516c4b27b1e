//! Where instances run: adapters of the port [`modelyard_core::ports::Target`].
//!
//! - [`process`]: processes of this machine, each under its own small supervisor.
//! - [`ssh`]: processes of another machine, each machine a target of its own.
//! - [`docker`]: containers of a Docker Engine of this machine, each engine a target of its own.
//! - [`fleet`]: this machine and all others as one target; [`place`] is what it sees of each.
//! - [`identity`]: telling one process from another that got the same pid, and ending exactly that one.
//! - `fake` (feature `fake`): a target in memory, for the tests of those who call a target.
//!
//! Promises: an instance id is started at most once, whoever asks and however often; nothing of an instance outlives it.
//! Absent on purpose: what should run (the control plane decides), probing (a target sees processes, not answers), restarts
//! (an instance that ended stays ended; another id takes its place).

pub mod docker;
#[cfg(feature = "fake")]
pub mod fake;
pub mod fleet;
pub mod identity;
pub mod place;
pub mod process;
pub mod ssh;

pub use docker::DockerMachine;
pub use process::ProcessTarget;
pub use ssh::SshMachine;
