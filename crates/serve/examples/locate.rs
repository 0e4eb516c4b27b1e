//! Tells which ONNX Runtime this environment gives, without loading it: for tests.
//!
//! `locate CACHE`. Prints the library's path, or fails with the reason.

use std::io::Write;
use std::path::Path;

type Failure = Box<dyn std::error::Error>;

/// Says the failure as it is shown to people.
struct Said(Failure);

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

fn main() -> Result<(), Said> {
    run().map_err(Said)
}

fn run() -> Result<(), Failure> {
    let cache = std::env::args_os().nth(1).ok_or("which cache?")?;
    let found = modelyard_serve::onnxruntime::locate(Path::new(&cache))?;
    Ok(writeln!(std::io::stdout(), "{}", found.display())?)
}
