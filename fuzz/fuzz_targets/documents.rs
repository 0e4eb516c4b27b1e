//! Documents that cross processes: route tables, feedback, packages, and flag definitions with their evaluation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelyard_core::flags::{Context, Definition};
use modelyard_core::package::Package;
use modelyard_core::route::RouteTable;

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<RouteTable>(bytes).map(|table| table.check());
    let _ = serde_json::from_slice::<Package>(bytes);
    let _ = modelyard_core::feedback::parse(bytes, false);
    let _ = modelyard_core::feedback::parse(bytes, true);
    let Ok(document) = serde_json::from_slice(bytes) else { return };
    let Ok(definition) = Definition::parse(&document) else { return };
    let keys: Vec<String> = definition.keys().map(str::to_owned).collect();
    for key in keys {
        let given = serde_json::Map::from_iter([("targetingKey".to_owned(), "somebody".into())]);
        let _ = definition.evaluate(&key, &mut Context::new(given, 1_700_000_000));
    }
});
