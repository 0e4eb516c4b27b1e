//! The layers of container images that come from elsewhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelyard_package::fuzz::layer(bytes));
