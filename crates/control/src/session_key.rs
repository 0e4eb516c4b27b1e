//! The key of the session cookies' signature: made once, kept in the home, given to gateways in the route table.
//!
//! Promises: 32 random bytes; readable by the owner alone; the same for the life of the home, so that restarts sign nobody out.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

/// Hexadecimal digits of a key.
const DIGITS: usize = 64;

/// Reads the key, or makes it.
///
/// # Errors
/// The file system's; [`io::ErrorKind::InvalidData`] when the file holds no key.
pub fn read_or_make(path: &Path) -> io::Result<Arc<str>> {
    match File::open(path) {
        Ok(file) => read(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error),
    }
}

fn read(file: File) -> io::Result<Arc<str>> {
    let mut text = String::new();
    file.take(DIGITS as u64 + 2).read_to_string(&mut text)?;
    let key = text.trim();
    if key.len() == DIGITS && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(key.into());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it holds no key of 64 hexadecimal digits; remove it, and sessions are issued anew",
    ))
}

/// Written beside and renamed: a kill leaves a whole key or none.
fn make(path: &Path) -> io::Result<Arc<str>> {
    let mut bytes = [0; DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let key = bytes.iter().fold(String::new(), |mut key, byte| {
        let _ = write!(key, "{byte:02x}");
        key
    });
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    Ok(key.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_the_owner_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home/session.key");
        let key = read_or_make(&path).unwrap();
        assert_eq!((key.len(), std::fs::metadata(&path).unwrap().permissions().mode() & 0o777), (64, 0o600));
        assert_eq!(read_or_make(&path).unwrap(), key);
        assert_ne!(read_or_make(&folder.path().join("other.key")).unwrap(), key);
        std::fs::write(&path, "short").unwrap();
        assert!(read_or_make(&path).unwrap_err().to_string().contains("64 hexadecimal"));
    }
}
