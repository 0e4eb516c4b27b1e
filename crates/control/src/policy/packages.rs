//! Where packages may come from: by what this home noted when each came.
//!
//! Promises: bytes that came on several ways are allowed when one of them is: they are the same bytes; what nobody noted is refused.

use modelyard_core::Digest;
use modelyard_registry::Store;
use modelyard_registry::catalog::{FromPattern, Way};

/// Whether a package that came on this way may be deployed; whatever may when there is no pattern.
pub fn allowed(patterns: &[FromPattern], way: &Way) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.takes(way))
}

/// The patterns in words.
pub fn told(patterns: &[FromPattern]) -> String {
    patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// Why a package does not come from where it must.
pub fn why_not(patterns: &[FromPattern], store: &Store, digest: &Digest) -> Option<String> {
    if patterns.is_empty() {
        return None;
    }
    let only = format!("only what comes from {} is allowed", told(patterns));
    let arrivals = match store.arrivals(digest) {
        Ok(arrivals) => arrivals,
        Err(error) => return Some(format!("where it came from cannot be read: {error}")),
    };
    if arrivals.is_empty() {
        return Some(format!("nobody knows where it came from, and {only}; bring it here again from there"));
    }
    if arrivals.iter().any(|arrival| allowed(patterns, &arrival.way)) {
        return None;
    }
    let ways: Vec<String> = arrivals.iter().map(|arrival| arrival.way.to_string()).collect();
    Some(format!("it was {}, and {only}; bring the same package from there", ways.join(", and ")))
}

#[cfg(test)]
mod tests {
    use modelyard_core::{ModelName, Version};
    use modelyard_registry::manifest::{Descriptor, MANIFEST, MODEL, MODEL_CONFIG, Manifest};

    use super::*;

    fn patterns(texts: &[&str]) -> Vec<FromPattern> {
        texts.iter().map(|text| FromPattern::try_from((*text).to_owned()).unwrap()).collect()
    }

    fn manifest(store: &Store) -> Manifest {
        let config = store.blobs().put(b"{}").unwrap().blob;
        Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: Some(MODEL.to_owned()),
            config: Descriptor::new(MODEL_CONFIG, config.digest, config.size_bytes),
            layers: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn one_way_that_is_allowed_is_enough_and_none_that_is_known_is_not() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path().join("registry"), home.path().join("unpacked")).unwrap();
        let (wine, one) = (ModelName::new("wine").unwrap(), Version::new("1").unwrap());
        let add = |way: &str| store.add_from(&wine, &one, &manifest(&store), &Way::pulled_from(way)).unwrap();
        let digest = add("evil.test/wine");
        let allowed = patterns(&["registry.example/*", "built-here"]);
        let told = why_not(&allowed, &store, &digest).unwrap();
        for word in ["pulled from evil.test/wine", "registry.example/* or built-here", "bring the same package"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert_eq!(why_not(&[], &store, &digest), None);
        assert_eq!(why_not(&patterns(&["*"]), &store, &digest), None);
        assert_eq!(add("registry.example/wine"), digest);
        assert_eq!(why_not(&allowed, &store, &digest), None, "the same bytes came from there, too");
        let ways: Vec<String> = store.arrivals(&digest).unwrap().iter().map(|one| one.way.source()).collect();
        assert_eq!(ways, ["evil.test/wine", "registry.example/wine"]);

        // As older homes have it: nothing was noted.
        std::fs::remove_file(home.path().join("registry/catalog.json")).unwrap();
        for patterns in [&allowed, &patterns(&["*"])] {
            let told = why_not(patterns, &store, &digest).unwrap();
            assert!(told.contains("nobody knows where it came from"), "{told}");
        }
    }
}
