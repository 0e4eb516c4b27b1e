//! Exported files: there whole, or as they were before.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_core::Digest;

use crate::image::digest_of;

/// A file that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Written {
    /// Writes beside `path` and renames, for everybody to read. `write` gives digest and length of what it wrote; see [`facts`].
    pub(crate) fn whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<(Digest, u64)>) -> io::Result<Self> {
        let began = Instant::now();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::Builder::new().prefix(".incoming-").tempfile_in(folder)?;
        let (digest, size_bytes) = write(temporary.as_file_mut())?;
        temporary.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(Self { path: path.to_owned(), digest, size_bytes, seconds: began.elapsed().as_secs_f64() })
    }
}

/// Digest and length of a file that was written.
pub(crate) fn facts(file: &mut File) -> io::Result<(Digest, u64)> {
    file.rewind()?;
    let size = file.metadata()?.len();
    Ok((digest_of(file)?, size))
}
