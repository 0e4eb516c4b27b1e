//! What machines boot with: Debian packages, and the drivers in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelyard_package::fuzz::boot(bytes));
