//! Doors for the fuzz targets to parsers that nobody else calls from outside. Compiled for fuzzing only.

/// The tar file of a layer of a container image: laid out as the root of a machine, and looked through for what programs need.
pub fn layer(bytes: &[u8]) {
    crate::vm::fuzz_layer(bytes);
    crate::image::fuzz_base(bytes);
}

/// What a machine boots with: a Debian package, a driver.
pub fn boot(bytes: &[u8]) {
    crate::vm::fuzz_boot(bytes);
}
