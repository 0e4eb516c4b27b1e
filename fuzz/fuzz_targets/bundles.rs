//! A bundle: the archive, its index, and every manifest in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| modelyard_registry::fuzz::bundle(bytes));
