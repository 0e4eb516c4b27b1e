//! `modelyard.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = modelyard_package::Description::parse(text) {
        assert!(!mistakes.is_empty(), "refused without a reason");
    }
});
