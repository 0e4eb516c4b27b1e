//! A bundle that is read: its index, its manifests, and where every blob is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use modelyard_core::package::DOCUMENT;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::BundleError;
use super::tape::{self, Place, Refused};
use super::tree::{self, Node, Tree, walk};
use super::{Contents, Item, Kind, PYTHON_FILE, REPOSITORY};
use crate::blob::digest_of;
use crate::manifest::{Descriptor, FILEPATH, MODEL, MODEL_CONFIG, REF_NAME, TITLE, VERSION};
use crate::names::{is_repository, is_tag};
use crate::trust::object::ENDINGS;

/// Longest index, in bytes.
const LONGEST_INDEX: u64 = 8 << 20;
/// All manifests together, in bytes: they are kept in memory.
const ALL_MANIFESTS: u64 = 64 << 20;

/// A bundle that is read.
pub struct Bundle<R> {
    path: PathBuf,
    source: R,
    places: BTreeMap<String, Place>,
    /// What its index lists.
    pub roots: Vec<Root>,
}

/// One thing that the index lists.
#[derive(Clone, Debug)]
pub struct Root {
    /// What it is.
    pub kind: Kind,
    /// What people call it.
    pub name: String,
    /// The repository in which it stands, and its tag there, as far as the index says so.
    pub stands: (Option<String>, Option<String>),
    /// Its manifests, and what they refer to.
    pub tree: Tree,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct List {
    manifests: Vec<Descriptor>,
}

impl Bundle<File> {
    /// Reads the bundle at `path`.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let source = File::open(path).map_err(BundleError::file("could not open", path))?;
        Self::read(source, path)
    }
}

impl<R: Read + Seek> Bundle<R> {
    /// Reads a bundle from `source`, which errors call `path`.
    pub fn read(mut source: R, path: &Path) -> Result<Self, BundleError> {
        let places = tape::scan(&mut source).map_err(|refused| match refused {
            Refused::Read(source) => BundleError::File { doing: "could not read", path: path.to_owned(), source },
            Refused::Archive(why) => BundleError::None { path: path.to_owned(), why },
            Refused::Entry(entry, why) => BundleError::Entry { path: path.to_owned(), entry, why },
        })?;
        let mut bundle = Self { path: path.to_owned(), source, places, roots: Vec::new() };
        let marker: Marker = bundle.document("oci-layout")?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(bundle.none("its layout has a version that is not read here"));
        }
        let list: List = bundle.document("index.json")?;
        let mut left = ALL_MANIFESTS;
        for listed in &list.manifests {
            let root = bundle.root(listed, &mut left)?;
            bundle.roots.push(root);
        }
        match bundle.roots.is_empty() {
            true => Err(bundle.none("its index lists nothing")),
            false => Ok(bundle),
        }
    }

    fn none(&self, why: impl Into<String>) -> BundleError {
        BundleError::None { path: self.path.clone(), why: why.into() }
    }

    fn document<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, BundleError> {
        let place = self.places.get(name).copied().ok_or_else(|| self.none(format!("it has no `{name}`")))?;
        if place.size > LONGEST_INDEX {
            return Err(self.none(format!("its `{name}` is longer than {LONGEST_INDEX} bytes")));
        }
        let bytes = tape::read(&mut self.source, place).map_err(BundleError::file("could not read", &self.path))?;
        serde_json::from_slice(&bytes).map_err(|error| self.none(format!("its `{name}` cannot be read: {error}")))
    }

    /// Where a part is, once it is there and as long as it should be.
    fn place(&self, part: &Descriptor, of: &str) -> Result<Place, BundleError> {
        let place = self.places.get(&format!("blobs/sha256/{}", part.digest.hex()));
        let what = || tree::called(part, of);
        match place {
            None => Err(BundleError::Lacks { path: self.path.clone(), what: what(), digest: part.digest }),
            Some(place) if place.size != part.size => {
                let why = format!("it has {} bytes, and {} are announced", place.size, part.size);
                Err(BundleError::Manifest { what: what(), why })
            }
            Some(place) => Ok(*place),
        }
    }

    fn root(&mut self, listed: &Descriptor, left: &mut u64) -> Result<Root, BundleError> {
        let name = listed.annotations.get(REF_NAME).cloned().unwrap_or_else(|| listed.digest.to_string());
        let name: String = name.chars().filter(|letter| !letter.is_control()).take(400).collect();
        let tree = walk(listed, &mut |part| {
            let place = self.place(part, &name)?;
            *left = left.checked_sub(place.size).ok_or_else(|| self.none("its manifests are too long"))?;
            let bytes = tape::read(&mut self.source, place).map_err(BundleError::file("could not read", &self.path))?;
            match digest_of(&bytes) {
                actual if actual == part.digest => Ok(bytes),
                actual => Err(self.damaged(format!("the manifest of {name}"), part.digest, actual)),
            }
        })?;
        tree.blobs.iter().try_for_each(|blob| self.place(blob, &name).map(drop))?;
        let (node, named) = (&tree.root().node, split(&name));
        let repository = named.map(|(repository, _)| repository.to_owned());
        let stands = (
            repository.or_else(|| listed.annotations.get(REPOSITORY).filter(|name| is_repository(name)).cloned()),
            named.map(|(_, tag)| tag.to_owned()),
        );
        let kind = kind(node, stands.1.as_deref());
        let name = match (kind, node.note(TITLE).zip(node.note(VERSION))) {
            (Kind::Package, Some((title, version))) => format!("{title}:{version}"),
            (Kind::Wheel, _) => node.layers.first().and_then(file_name).unwrap_or(name),
            _ => name,
        };
        Ok(Root { kind, name, stands, tree })
    }

    /// That a part's bytes are not what they should be.
    pub fn damaged(&self, what: String, expected: Digest, actual: Digest) -> BundleError {
        BundleError::Damaged { path: self.path.clone(), what, expected, actual }
    }

    /// What it holds.
    pub fn contents(&self) -> Contents {
        let item = |root: &Root| Item {
            kind: root.kind,
            name: root.name.clone(),
            digest: root.tree.root().descriptor.digest,
            size_bytes: root.tree.size_bytes(),
        };
        let (mut seen, mut bytes) = (BTreeSet::new(), 0);
        for part in self.roots.iter().flat_map(|root| root.tree.parts()) {
            bytes += if seen.insert(part.digest) { part.size } else { 0 };
        }
        Contents { items: self.roots.iter().map(item).collect(), blobs: seen.len(), bytes }
    }

    /// The bytes of a part, as a source of their own.
    pub fn part(&mut self, part: &Descriptor, of: &str) -> Result<Window<'_, R>, BundleError> {
        let place = self.place(part, of)?;
        let mut window = Window { source: &mut self.source, place, at: 0 };
        window.seek(SeekFrom::Start(0)).map_err(BundleError::file("could not read", &self.path))?;
        Ok(window)
    }
}

/// The bytes of one entry.
pub struct Window<'a, R> {
    source: &'a mut R,
    place: Place,
    at: u64,
}

impl<R: Read + Seek> Read for Window<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.place.size - self.at;
        let most = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        let length = self.source.read(&mut buffer[..most])?;
        self.at += length as u64;
        Ok(length)
    }
}

impl<R: Read + Seek> Seek for Window<'_, R> {
    /// To a place from the start; nothing else is needed.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = at.min(self.place.size);
        self.source.seek(SeekFrom::Start(self.place.offset + self.at))?;
        Ok(self.at)
    }
}

/// `REPOSITORY:TAG`.
fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|(repository, tag)| is_repository(repository) && is_tag(tag))
}

fn file_name(layer: &Descriptor) -> Option<String> {
    layer.annotations.get(TITLE).map(|name| name.chars().filter(|letter| !letter.is_control()).take(250).collect())
}

fn kind(node: &Node, tag: Option<&str>) -> Kind {
    let is_document = |layer: &Descriptor| layer.annotations.get(FILEPATH).is_some_and(|path| path == DOCUMENT);
    match node.kind() {
        Some(PYTHON_FILE) => Kind::Wheel,
        Some(MODEL | MODEL_CONFIG) if node.layers.iter().any(is_document) => Kind::Package,
        _ if node.subject.is_some() || tag.is_some_and(|tag| about(tag).is_some()) => Kind::Attached,
        _ => Kind::Image,
    }
}

/// The package that cosign's tag `sha256-<hex>.sig` speaks of.
pub fn about(tag: &str) -> Option<Digest> {
    let (digest, ending) = tag.rsplit_once('.')?;
    digest.replacen('-', ":", 1).parse().ok().filter(|_| ENDINGS.contains(&ending))
}

/// Reads a bundle, and all that it lists.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(mut bundle) = Bundle::read(io::Cursor::new(bytes), Path::new("bundle")) else { return };
    let _ = bundle.contents();
    for root in bundle.roots.clone() {
        for part in root.tree.parts() {
            let mut window = bundle.part(part, &root.name).expect("every part was found");
            let length = io::copy(&mut window, &mut io::sink()).expect("bytes in memory can be read");
            assert_eq!(length, part.size);
        }
    }
}
