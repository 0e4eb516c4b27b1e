//! What an upload to the Python index claims: file names, versions, ranges, metadata, and the archives themselves.
#![no_main]

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use modelyard_registry::python::{Document, FileName, is_range, normalise, normalise_version};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (normalise(text), normalise_version(text), is_range(text), Document::parse(text));
        if let Some(name) = FileName::parse(text) {
            let _ = Document::parse(text).map(|document| document.check(&name));
        }
    }
    let Ok(mut file) = tempfile::tempfile() else { return };
    if file.write_all(bytes).is_ok() {
        modelyard_registry::fuzz::archive(&mut file);
    }
});
