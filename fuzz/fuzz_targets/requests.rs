//! Bodies of inference requests: JSON, binary tensors, the plain form, gRPC.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|given: (&[u8], Option<u16>)| modelyard_serve::fuzz::bodies(given.0, given.1.map(usize::from)));
