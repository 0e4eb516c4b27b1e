//! Manifests and indexes as registries push them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelyard_registry::manifest::{Index, Manifest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let again = serde_json::to_vec(&manifest).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Manifest>(&again).expect("and read again"), manifest);
    }
    let _ = serde_json::from_slice::<Index>(bytes);
    modelyard_registry::fuzz::pushed(bytes);
});
