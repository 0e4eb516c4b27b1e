//! A package written as a ModelKit of KitOps: Kitfile, and one archive for the model, for its card and for each further file.
//!
//! Promises: the same package gives the same bytes; archives are streamed, and uncompressed as weights are best left.
//! Absent on purpose: what only Modelyard knows (samples, flags, profile): `push` carries the package itself, whose layout is ModelPack's.
//!
//! Source: KitOps' Kitfile reference and its `modelkit` media types; POSIX.1-1988 (ustar).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

use modelyard_core::Digest;
use modelyard_core::package::{Package, Runtime};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::foreign::KITFILE;
use super::http::Http;
use super::{ClientError, Moved, Remote, Tell, moved, parts, transfer};
use crate::Store;
use crate::blob::digest_of;
use crate::manifest::{Descriptor, MANIFEST, Manifest};

/// What a part of a kit is, in the words of its media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Model,
    Code,
    Docs,
}

impl Part {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Model => "application/vnd.kitops.modelkit.model.v1.tar",
            Self::Code => "application/vnd.kitops.modelkit.code.v1.tar",
            Self::Docs => "application/vnd.kitops.modelkit.docs.v1.tar",
        }
    }
}

/// Pushes a package of the local registry as a ModelKit.
///
/// # Errors
/// [`ClientError`]; blobs that arrived stay there and are not sent again.
#[tracing::instrument(name = "registry.push_kit", skip_all, fields(%digest, %remote), err)]
pub fn push_kit(store: &Store, digest: &Digest, remote: &Remote, tell: Tell<'_>) -> Result<Moved, ClientError> {
    let http = Http::new(remote)?;
    let package = store.package(digest)?;
    let mut layers = Vec::new();
    let mut said = Vec::new();
    for (part, path, files) in grouped(&package) {
        let blob = store.blobs().store(&mut archive(store, &package, &files)?)?.blob;
        layers.push(Descriptor::new(part.media_type(), blob.digest, blob.size_bytes));
        // Uncompressed, a layer is what it holds: both digests are one.
        said.push((part, json!({"path": path, "digest": blob.digest, "diffId": blob.digest})));
    }
    let config = kitfile(&package, said).to_string();
    let config = store.blobs().put(config.as_bytes())?.blob;
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        artifact_type: None,
        config: Descriptor::new(KITFILE, config.digest, config.size_bytes),
        layers,
        annotations: BTreeMap::new(),
    };
    let bytes = json!(manifest).to_string().into_bytes();
    let all = parts(&manifest);
    let missing = transfer::missing(&http, &all)?;
    transfer::send(&http, store, &missing, tell)?;
    let kit = digest_of(&bytes);
    http.put_manifest(&remote.reference(), MANIFEST, &bytes, &kit)?;
    Ok(moved(kit, &all, &missing))
}

/// The parts of a kit, in the order in which KitOps has them: what each is, its path, and its files.
fn grouped(package: &Package) -> Vec<(Part, String, Vec<String>)> {
    let model = match &package.runtime {
        Runtime::Onnx { model, .. } => Some(model.clone()),
        _ => package.model.clone().or_else(|| package.models.keys().next().cloned()),
    };
    let below = |path: &str| model.as_ref().is_some_and(|model| path.starts_with(&format!("{model}/")));
    let mut groups: Vec<(Part, String, Vec<String>)> = Vec::new();
    if let Some(model) = &model {
        let files = package.files.keys().filter(|path| *path == model || below(path)).cloned().collect();
        groups.push((Part::Model, model.clone(), files));
    }
    for path in package.files.keys().filter(|path| Some(*path) != model.as_ref() && !below(path)) {
        let part = if Some(path) == package.model_card.as_ref() { Part::Docs } else { Part::Code };
        groups.push((part, path.clone(), vec![path.clone()]));
    }
    groups.sort_by_key(|(part, ..)| *part);
    groups
}

fn kitfile(package: &Package, said: Vec<(Part, Value)>) -> Value {
    let mut told = json!({
        "manifestVersion": "1.0.0",
        "package": {"name": package.name, "version": package.version},
    });
    for (part, mut entry) in said {
        match part {
            Part::Model => {
                entry["name"] = json!(package.name);
                entry["version"] = json!(package.version);
                entry["framework"] = json!(package.runtime.name());
                if !package.parameters.is_empty() {
                    entry["parameters"] = json!(package.parameters);
                }
                told["model"] = entry;
            }
            Part::Code | Part::Docs => {
                let list = if part == Part::Code { "code" } else { "docs" };
                match told[list].as_array_mut() {
                    Some(entries) => entries.push(entry),
                    None => told[list] = json!([entry]),
                }
            }
        }
    }
    if !package.description.is_empty() {
        told["package"]["description"] = json!(package.description);
    }
    if !package.authors.is_empty() {
        told["package"]["authors"] = json!(package.authors);
    }
    if let Some(license) = &package.license {
        told["package"]["license"] = json!(license);
    }
    told
}

/// The bytes of an archive, as they are read.
struct Pieces(VecDeque<Box<dyn Read>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.0.front_mut() {
            let length = piece.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            self.0.pop_front();
        }
        Ok(0)
    }
}

/// An archive of these files; the folders that they lie in go before them, as KitOps wants it.
fn archive(store: &Store, package: &Package, files: &[String]) -> Result<Pieces, ClientError> {
    let mut pieces: VecDeque<Box<dyn Read>> = VecDeque::new();
    let mut folders = BTreeSet::new();
    for path in files {
        for (at, _) in path.match_indices('/') {
            if folders.insert(&path[..at]) {
                pieces.push_back(Box::new(Cursor::new(header(&path[..=at], 0, EntryType::Directory)?)));
            }
        }
        let Some(entry) = package.files.get(path) else { continue };
        store.blobs().verify(&entry.digest)?;
        let blob = store.blobs().path(&entry.digest);
        let file = File::open(&blob).map_err(crate::Error::file("could not open", &blob))?;
        pieces.push_back(Box::new(Cursor::new(header(path, entry.size_bytes, EntryType::Regular)?)));
        pieces.push_back(Box::new(file.take(entry.size_bytes)));
        let padding = entry.size_bytes.next_multiple_of(BLOCK) - entry.size_bytes;
        pieces.push_back(Box::new(io::repeat(0).take(padding)));
    }
    pieces.push_back(Box::new(io::repeat(0).take(2 * BLOCK)));
    Ok(Pieces(pieces))
}

/// Length of a block of an archive, in bytes.
const BLOCK: u64 = 512;

fn header(path: &str, size: u64, kind: EntryType) -> Result<Vec<u8>, ClientError> {
    let mut header = Header::new_ustar();
    header.set_path(path).map_err(crate::Error::file("could not put into an archive", Path::new(path)))?;
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}
