//! Generic artefact registries: packages in GitLab's generic packages, in Nexus raw repositories, in releases on GitHub.
//!
//! A version lies there as two files: the package as a bundle, and a small document that says what it is, its length and its digest. The
//! document goes last, so nobody takes half a package.
//!
//! Promises: files are streamed with their length and digest announced, and what the other side says of them is held against that; a download that breaks off goes on
//! where it stood, in the next call too; nothing is loaded before its digest was compared; who we are goes to the host that was named, and nowhere else.
//! Absent on purpose: deleting and listing. What lies there belongs to whoever runs that registry.
//!
//! Source: GitLab "Generic packages repository" API; Sonatype Nexus Repository "Raw repositories" (HTTP PUT, GET, HEAD); GitHub REST API
//! 2022-11-28 "Releases" and "Release assets"; RFC 9530 (`Content-Digest`).

pub(crate) mod content;
mod error;
pub(crate) mod fetch;
mod github;
pub(crate) mod http;
mod place;
mod shelf;

pub use self::error::ArtefactError;
pub use self::place::{Kind, Login, Place, PlaceError};

use std::fs::File;
use std::path::Path;

use modelyard_core::{Digest, ModelName, Version};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::content::Content;
use self::shelf::Shelf;
use crate::bundle::{self, Loaded, What};
use crate::catalog::Way;
use crate::client::Tell;
use crate::distribution::Distribution;
use crate::leftovers;

/// Longest document that says what a bundle is, in bytes.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// What lies beside a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Name of the model.
    pub name: ModelName,
    /// Version of the package.
    pub version: Version,
    /// Digest of the package.
    pub digest: Digest,
    /// Digest of the bundle.
    pub bundle: Digest,
    /// Length of the bundle.
    pub size_bytes: u64,
}

/// One version at a place.
#[derive(Clone, Debug)]
pub struct Whereabouts<'a> {
    /// Where.
    pub place: &'a Place,
    /// Name of the model.
    pub name: &'a ModelName,
    /// Version of the package.
    pub version: &'a Version,
    /// Who we are there.
    pub login: &'a Login,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// What lies there now.
    pub note: Note,
    /// Bytes that had to move; 0 when it was there.
    pub bytes: u64,
}

impl Whereabouts<'_> {
    fn bundle(&self) -> String {
        format!("{}-{}.tar", self.name, self.version)
    }

    fn note(&self) -> String {
        format!("{}-{}.json", self.name, self.version)
    }
}

/// Pushes a package with whatever was said of it; `scratch` is a folder for the bundle.
///
/// # Errors
/// [`ArtefactError`]; [`ArtefactError::Taken`] when another package lies there under that name and version.
#[tracing::instrument(name = "registry.push_artefact", skip_all, fields(%digest, place = %at.place), err)]
pub fn push(
    distribution: &Distribution,
    digest: &Digest,
    at: &Whereabouts<'_>,
    scratch: &Path,
    tell: Tell<'_>,
) -> Result<Pushed, ArtefactError> {
    let shelf = Shelf::new(at)?;
    let (folder, _lock) = scratch_in(scratch)?;
    let path = folder.path().join(at.bundle());
    let what = What { packages: vec![(at.name.clone(), *digest)], images: Vec::new() };
    bundle::create(distribution, &what, &path, &|_, _| {})?;
    let content = Content::of_file(&path)?;
    let (name, version) = (at.name.clone(), at.version.clone());
    let note = Note { name, version, digest: *digest, bundle: content.digest, size_bytes: content.size_bytes };
    match read_note(&shelf, at)? {
        Some(there) if there == note => return Ok(Pushed { note, bytes: 0 }),
        Some(there) if there.digest != note.digest => {
            return Err(ArtefactError::Taken { what: format!("{}:{}", at.name, at.version), there: there.digest });
        }
        // The same package, of which more is said now than then.
        _ => {}
    }
    shelf.put(&at.bundle(), &content, tell)?;
    let document = serde_json::to_vec_pretty(&note).map_err(|error| shelf.garbled(error.to_string()))?;
    shelf.put(&at.note(), &Content::of_bytes(document), &|_, _| {})?;
    Ok(Pushed { note, bytes: content.size_bytes })
}

/// Pulls a package; `scratch` is a folder in which a download that broke off stays for the next call.
///
/// # Errors
/// [`ArtefactError`]; nothing got a name.
#[tracing::instrument(name = "registry.pull_artefact", skip_all, fields(place = %at.place), err)]
pub fn pull(
    distribution: &Distribution,
    at: &Whereabouts<'_>,
    scratch: &Path,
    tell: Tell<'_>,
) -> Result<(Note, Loaded), ArtefactError> {
    let shelf = Shelf::new(at)?;
    let what = || format!("{}:{}", at.name, at.version);
    let note = read_note(&shelf, at)?;
    let note = note.ok_or_else(|| ArtefactError::NotFound { what: what(), place: at.place.to_string() })?;
    if note.name != *at.name || note.version != *at.version {
        return Err(shelf.garbled(format!("what lies there says that it is {}:{}", note.name, note.version)));
    }
    let path = fetch::fetch(&shelf, &at.bundle(), &note, scratch, tell)?;
    let way = Way::pulled_from(&at.place.to_string());
    let loaded = checked(&path, &note).and_then(|()| Ok(bundle::load_from(distribution, &path, &way, &|_, _| {})?));
    let _ = std::fs::remove_file(&path); // it is loaded, or useless
    Ok((note, loaded?))
}

/// A bundle that was asked for one package holds that one, and nothing else but what was said of it.
fn checked(path: &Path, note: &Note) -> Result<(), ArtefactError> {
    let contents = bundle::list(path)?;
    let packages: Vec<_> = contents.items.iter().filter(|item| item.kind == bundle::Kind::Package).collect();
    let images = contents.items.iter().any(|item| item.kind == bundle::Kind::Image);
    match packages.as_slice() {
        [one] if one.digest == note.digest && !images => Ok(()),
        _ => Err(ArtefactError::Other { what: format!("{}:{}", note.name, note.version), digest: note.digest }),
    }
}

fn read_note(shelf: &Shelf<'_>, at: &Whereabouts<'_>) -> Result<Option<Note>, ArtefactError> {
    let Some(bytes) = shelf.small(&at.note(), MAX_NOTE_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| shelf.garbled(format!("{}: {error}", at.note())))
}

/// A folder for a bundle, gone with the call, and the lock that says that it is in use.
fn scratch_in(folder: &Path) -> Result<(TempDir, File), ArtefactError> {
    std::fs::create_dir_all(folder).map_err(scratch_failed(folder))?;
    leftovers::sweep(folder);
    leftovers::folder_in(folder).map_err(scratch_failed(folder))
}

/// For `map_err`: that there is no writing there.
pub(crate) fn scratch_failed(path: &Path) -> impl FnOnce(std::io::Error) -> ArtefactError {
    let path = path.to_owned();
    move |source| ArtefactError::File { doing: "could not write", path, source }
}
