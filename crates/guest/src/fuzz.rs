//! Doors for the fuzz targets to parsers that nobody else calls from outside. Compiled for fuzzing only.

use crate::network::dhcp;
use crate::uevent::Event;

/// What comes from the network and from the kernel, read as each of the things that it may be.
pub fn read(bytes: &[u8]) {
    dhcp::fuzz(bytes);
    let _ = Event::parse(bytes);
}
