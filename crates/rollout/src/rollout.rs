//! A rollout.
