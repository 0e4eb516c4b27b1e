//! Tells which ONNX Runtime this environment gives, without loading it: for tests.
//!
//! `locate CACHE`. Prints the library's path, or fails with the reason.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(cache) = std::env::args_os().nth(1) else {
        eprintln!("which cache?");
        return ExitCode::from(2);
    };
    match modelyard_serve::onnxruntime::locate(Path::new(&cache)) {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
