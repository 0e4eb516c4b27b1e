//! How the stores are named: `storage.toml` in the registry's folder, `MODELYARD_BLOBS` and `MODELYARD_METADATA`, or the command line.

use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// Name of the file in the registry's folder.
const FILE: &str = "storage.toml";

/// Which stores, and what lets us in; nothing named is the folder and SQLite. No `Debug`: it may hold secrets.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// `s3://bucket/prefix`.
    pub blobs: Option<String>,
    /// Address of an S3-compatible store that is not Amazon's.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Name of the key; from the environment (`AWS_ACCESS_KEY_ID` and its like) if it is not here.
    pub access_key_id: Option<String>,
    /// The key.
    pub secret_access_key: Option<String>,
    /// `postgresql://user@host/database`.
    pub metadata: Option<String>,
}

impl Settings {
    /// Reads the file in the registry's folder, if there is one, then the environment, which wins.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read, [`Error::Document`] when it is wrong.
    pub fn read(registry: impl AsRef<Path>) -> Result<Self, Error> {
        let path = registry.as_ref().join(FILE);
        let mut settings: Self = match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| wrong(&path, error.message()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(source) => return Err(Error::File { doing: "could not read", path, source }),
        };
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        settings.blobs = set("MODELYARD_BLOBS").or(settings.blobs);
        settings.metadata = set("MODELYARD_METADATA").or(settings.metadata);
        Ok(settings)
    }
}

// The message alone: the text around it may hold a key.
fn wrong(path: &Path, message: &str) -> Error {
    Error::Document { what: format!("`{}`", path.display()), why: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_a_wrong_one_does_not_tell_its_keys() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            Settings::read(folder.path())
        };
        let settings = read("endpoint = \"http://127.0.0.1:9\"\nregion = \"eu-central-1\"").ok().unwrap();
        assert_eq!(settings.endpoint.as_deref(), Some("http://127.0.0.1:9"));
        let error = read("secret-access-key = \"hunter2\"\nblob = 1").err().unwrap().to_string();
        assert!(error.contains("blob") && !error.contains("hunter2"), "{error}");
        std::fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(Settings::read(folder.path()).ok().unwrap().endpoint.is_none());
    }
}
