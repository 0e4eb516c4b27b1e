//! Telling the target where the server listens.

use std::io::Write;
use std::path::Path;

use modelyard_core::home::Announcement;

use crate::Error;

/// Writes the announcement: a reader sees all of it or nothing.
pub(crate) fn write(path: &Path, announcement: &Announcement) -> Result<(), Error> {
    let failed = |source| Error::Announce { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    serde_json::to_writer(&mut file, announcement).map_err(|error| failed(error.into()))?;
    file.flush().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("announce.json");
        let announcement = Announcement { address: "127.0.0.1:1".parse().unwrap(), probe: None };
        write(&path, &announcement).unwrap();
        let read: Announcement = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, announcement);
        assert!(write(&folder.path().join("no/such/folder"), &announcement).is_err());
    }
}
