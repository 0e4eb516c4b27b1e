//! Files of the index as this process sees them: what a file says of itself, and giving it its name.

use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

use modelyard_core::Digest;

use super::document::{self, Document};
use super::meta::{Added, Entry};
use super::{FileName, Index};
use crate::Error;
use crate::blob::Blob;
use crate::names::python::Kind;

/// What a file says of itself.
pub(super) struct Said {
    /// Its metadata, as they stand in it.
    text: String,
    requires_python: Option<String>,
}

/// Reads what a file says of itself, once that agrees with its name.
pub(super) fn look(file: &mut File, name: &FileName) -> Result<Said, String> {
    let text = document::read(file, name)?;
    let document = Document::parse(&text).and_then(|document| document.check(name).map(|()| document))?;
    let requires_python = document.get("Requires-Python").map(str::to_owned);
    if requires_python.as_ref().is_some_and(|text| text.len() > 500 || text.chars().any(char::is_control)) {
        return Err("its `Requires-Python` is no range of versions".to_owned());
    }
    Ok(Said { text, requires_python })
}

impl Index {
    /// Gives a file that is stored already its name.
    pub(super) fn note(&self, filename: &str, name: FileName, blob: Blob, said: Said) -> Result<Added, Error> {
        let metadata = match name.kind {
            Kind::Wheel => Some(self.inner.blobs.put(said.text.as_bytes())?.blob.digest),
            Kind::Sdist => None,
        };
        self.inner.blobs.sync()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.inner.meta.add(&Entry {
            filename: filename.to_owned(),
            project: name.project,
            version: name.version,
            digest: blob.digest,
            size: blob.size_bytes,
            uploaded: i64::try_from(now).unwrap_or(i64::MAX),
            requires_python: said.requires_python,
            metadata,
            yanked: None,
        })
    }

    /// The files of one version of a project, both normalised; yanked ones are left out.
    pub(crate) fn of_version(&self, project: &str, version: &str) -> Result<Vec<Entry>, Error> {
        let files = self.inner.meta.files(project)?;
        Ok(files.into_iter().filter(|file| file.version == version && file.yanked.is_none()).collect())
    }

    /// Whether a file that is stored already can have this name; what it says of itself.
    fn looked(&self, filename: &str, blob: &Digest) -> Result<(FileName, Said), String> {
        let name = FileName::parse(filename).ok_or("its name is none of a wheel or source distribution")?;
        let there = self.inner.meta.file(filename).map_err(|error| error.to_string())?;
        if let Some(there) = there.filter(|there| there.digest != *blob) {
            return Err(format!("the index has another file of that name, {}", there.digest));
        }
        let mut file = self.inner.blobs.open_blob(blob).map_err(|error| error.to_string())?;
        let said = look(&mut file, &name)?;
        Ok((name, said))
    }

    /// Whether [`Index::take`] would take the file.
    pub(crate) fn may_take(&self, filename: &str, blob: Blob) -> Result<(), String> {
        self.looked(filename, &blob.digest).map(drop)
    }

    /// Takes a file that is stored already.
    pub(crate) fn take(&self, filename: &str, blob: Blob) -> Result<(), String> {
        let told = |error: Error| error.to_string();
        let _gate = self.inner.gate.together_here().map_err(told)?;
        let (name, said) = self.looked(filename, &blob.digest)?;
        match self.note(filename, name, blob, said).map_err(told)? {
            Added::Other(digest) => Err(format!("the index has another file of that name, {digest}")),
            Added::New | Added::Same => Ok(()),
        }
    }
}
