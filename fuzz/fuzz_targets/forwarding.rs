//! What the gateway reads of callers and instances: paths, model names in gRPC messages, cookies, answers and chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| modelyard_gateway::fuzz::read(bytes));
