//! Names, references and digests: what is accepted prints as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelyard_core::{AliasName, Digest, EnvironmentName, ModelName, ServiceName, Version};
use modelyard_registry::Reference;
use modelyard_registry::client::Remote;
use modelyard_registry::digest::AnyDigest;
use modelyard_registry::names::{is_repository, is_tag};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(digest) = text.parse::<AnyDigest>() {
        assert_eq!(digest.to_string(), text);
    }
    let _ = text.parse::<Remote>();
    let _ = (is_repository(text), is_tag(text));
    let _ = (ModelName::new(text), AliasName::new(text), EnvironmentName::new(text), ServiceName::new(text));
    let _ = Version::new(text);
    if modelyard_registry::paths::fault(text).is_none() {
        assert!(!text.split(['/', '\\']).any(|part| part == ".."), "leaves its folder: {text}");
        assert!(!text.starts_with('/'), "is absolute: {text}");
    }
});
