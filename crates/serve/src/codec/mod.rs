//! Tensors as they travel: JSON lists and little-endian bytes, in both directions.
//!
//! Promises: at most one pass over the data after its JSON was checked, straight into typed elements; a broken element is
//! named by its index, never by its value.

pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod raw;
pub(crate) mod write;
