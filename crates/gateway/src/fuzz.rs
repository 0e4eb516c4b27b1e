//! Doors for the fuzz targets to parsers that nobody else calls from outside. Compiled for fuzzing only.

use crate::affinity::issued::Issuer;
use crate::{grpc, path, trace, upstream};

/// What comes from callers and instances, read as each of the things that it may be.
pub fn read(bytes: &[u8]) {
    upstream::h1::fuzz(bytes);
    if let grpc::Peek::Name(name) = grpc::peek_name(bytes) {
        assert!(!name.is_empty());
    }
    let _ = (grpc::blame(bytes), grpc::varint(bytes), trace::is_request_id(bytes));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = path::wanted(text);
    }
    if let Some(issuer) = Issuer::new("s", &"0f".repeat(32), None) {
        // Nobody guesses a signature.
        assert!(matches!(issuer.read(bytes, 0), crate::affinity::issued::Read::Not));
    }
}
