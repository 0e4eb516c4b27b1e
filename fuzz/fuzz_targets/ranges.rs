//! Ranges of blobs and of uploads: nothing outside of the blob is ever given.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|given: (&[u8], u64)| modelyard_registry::fuzz::range(given.0, given.1));
