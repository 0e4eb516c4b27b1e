//! What the first process of a machine reads: replies of DHCP servers, and events of the kernel.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| modelyard_guest::fuzz::read(bytes));
