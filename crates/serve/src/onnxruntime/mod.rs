//! Finding the ONNX Runtime library on this machine, or fetching it.
//!
//! Order: `MODELYARD_ONNXRUNTIME`, Modelyard's own cache, a Python environment, a pinned wheel through the user's pip or uv
//! (so that mirrors, proxies and indexes that the user configured work).
//! Promises: what is fetched is checked against a SHA-256 that is part of this program before anything of it is used; the
//! cache is filled atomically; a library that is too old is passed over with its reason.
//! Absent on purpose: loading (see `engine`), and any download of our own.

mod fetch;
mod python;

use std::path::{Path, PathBuf};

/// The version that is fetched when none is found.
pub const PINNED: &str = modelyard_core::package::ONNXRUNTIME;

/// Environment variable that names the library.
pub const VARIABLE: &str = "MODELYARD_ONNXRUNTIME";

/// Oldest usable minor version of ONNX Runtime 1.x.
pub const OLDEST_MINOR: u32 = ort::MINOR_VERSION;

/// Why no library could be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// `MODELYARD_ONNXRUNTIME` names nothing usable.
    #[error(
        "MODELYARD_ONNXRUNTIME is set to {path}, but {reason}; point it at a libonnxruntime shared library, or unset it"
    )]
    Variable {
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no wheel for this kind of machine.
    #[error("there is no pinned ONNX Runtime for this platform ({platform}); install onnxruntime and set MODELYARD_ONNXRUNTIME to its libonnxruntime{}", passed_over(.skipped))]
    Platform {
        /// Operating system and architecture.
        platform: String,
        /// Libraries that were found and passed over.
        skipped: Vec<String>,
    },
    /// Neither pip nor uv is there.
    #[error(
        "ONNX Runtime was not found, and neither pip nor uv is there to fetch it; install Python's onnxruntime ({PINNED}) or set MODELYARD_ONNXRUNTIME to a libonnxruntime{}",
        passed_over(.skipped)
    )]
    NoFetcher {
        /// Libraries that were found and passed over.
        skipped: Vec<String>,
    },
    /// pip or uv failed.
    #[error("ONNX Runtime was not found, and fetching the onnxruntime {PINNED} wheel failed: {reason}; check the network and the index that pip uses, or set MODELYARD_ONNXRUNTIME{}", passed_over(.skipped))]
    Fetch {
        /// What they said, shortened.
        reason: String,
        /// Libraries that were found and passed over.
        skipped: Vec<String>,
    },
    /// The wheel is not the pinned one.
    #[error(
        "the fetched {wheel} has the SHA-256 {found} instead of the pinned {pinned}; it was thrown away. Does the index that pip uses carry the official wheel?"
    )]
    Digest {
        /// File name.
        wheel: String,
        /// Its digest.
        found: String,
        /// The pinned digest.
        pinned: &'static str,
    },
    /// The cache could not be written.
    #[error("could not keep ONNX Runtime in {path}")]
    Cache {
        /// The cache's folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn passed_over(skipped: &[String]) -> String {
    match skipped {
        [] => String::new(),
        some => format!(" (passed over: {})", some.join("; ")),
    }
}

/// Finds the ONNX Runtime library, fetching it into `cache` if there is none.
///
/// # Errors
/// [`LocateError`] if none can be had, with what was tried.
pub fn locate(cache: &Path) -> Result<PathBuf, LocateError> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return named(PathBuf::from(path));
    }
    let kept = fetch::cached(cache);
    if kept.is_file() {
        return Ok(kept);
    }
    let (found, skipped) = python::search();
    if let Some(path) = found {
        tracing::debug!(path = %path.display(), "ONNX Runtime found in a Python environment");
        return Ok(path);
    }
    fetch::fetch(&kept, skipped)
}

fn named(path: PathBuf) -> Result<PathBuf, LocateError> {
    let reason = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => match too_old(&path) {
            Some(reason) => reason,
            None => return std::path::absolute(&path).map_err(|source| LocateError::Cache { path, source }),
        },
        Ok(_) => "that is no file".to_owned(),
        Err(error) => format!("it cannot be read ({error})"),
    };
    Err(LocateError::Variable { path, reason })
}

/// Why a library is too old, told from its file name (`libonnxruntime.so.1.32.0`); a name without a version says nothing.
fn too_old(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (_, version) = name.split_once(".so.")?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next()??, parts.next()??) {
        (1, minor) if minor >= OLDEST_MINOR => None,
        _ => Some(format!("{} is version {version}, and 1.{OLDEST_MINOR} or newer is needed", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_libraries_are_told_by_their_name() {
        assert!(too_old(Path::new("/x/libonnxruntime.so.1.4.0")).unwrap().contains("1.4.0"));
        assert_eq!(too_old(Path::new("/x/libonnxruntime.so.1.32.0")), None);
        assert_eq!(too_old(Path::new("/x/libonnxruntime.so")), None);
    }

    #[test]
    fn a_named_library_that_is_missing_is_an_error_with_its_path() {
        let error = named(PathBuf::from("/nowhere/libonnxruntime.so")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libonnxruntime.so") && error.contains("unset it"), "{error}");
    }
}
