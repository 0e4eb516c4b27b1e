//! Model files of every kind, under names that say nothing and under those that promise something.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for name in ["blob", "x.safetensors", "x.mlmodel", "saved_model.pb"] {
        let _ = modelyard_package::kinds::read(bytes, name);
    }
});
