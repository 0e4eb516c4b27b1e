//! The decisions of the data plane as pure values: which pool, whether to retry, whom to leave alone.

pub mod budget;
pub mod ejection;
pub mod split;
