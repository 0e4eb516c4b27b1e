//! Whether an exported file is what its package makes: what a file says that it was made of, and where two files differ.
//!
//! Promises: nothing of a file is unpacked or run; everything that is read of it is bounded.
//! Absent on purpose: building. Whoever asks builds the file anew from the package in the registry, and both are compared here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use modelyard_core::Digest;
use modelyard_core::image::PACKAGE;
use modelyard_core::package::{DOCUMENT, Package};
use modelyard_registry::MAX_DOCUMENT_BYTES;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::image::digest_of;

/// Most entries of an archive.
const MOST_ENTRIES: usize = 1_000_000;

/// How far a layer may swell: so many times its own length, and [`SWELL_BYTES`] more.
const SWELL: u64 = 100;

/// What a small layer may hold in any case, in bytes.
const SWELL_BYTES: u64 = 64 << 20;

/// Files that are named of each difference.
const NAMED: usize = 8;

/// What a file is, and what it says that it was made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// A container image.
    Image {
        /// Digest of the package.
        package: Digest,
        /// Name and digest of the image below.
        base: Option<(String, Digest)>,
        /// Seconds since 1970 that it is stamped with.
        moment: u64,
    },
    /// A wheel.
    Wheel {
        /// The package's own document.
        package: Box<Package>,
        /// Seconds since 1970 that it is stamped with.
        moment: u64,
    },
    /// A standalone program.
    Standalone {
        /// The package's own document.
        package: Box<Package>,
    },
}

/// Why a file cannot be looked at.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{} cannot be compared: {why}", path.display())]
#[diagnostic(
    code(modelyard::rebuild),
    help(
        "name a file that `modelyard package --format image`, `wheel` or `standalone` wrote: NAME-VERSION-image.tar, NAME-VERSION-….whl, NAME-VERSION-standalone.tar"
    )
)]
pub struct RebuildError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What a member of an archive is.
type Members = BTreeMap<String, (u64, Digest)>;

/// Finds out what a file is.
///
/// # Errors
/// [`RebuildError`] when it is none of what Modelyard writes.
pub fn recognise(path: &Path) -> Result<Made, RebuildError> {
    recognised(path).map_err(|why| RebuildError { path: path.to_owned(), why })
}

fn recognised(path: &Path) -> Result<Made, String> {
    let mut start = Vec::new();
    open(path)?.take(4).read_to_end(&mut start).map_err(told)?;
    match &start[..] {
        b"PK\x03\x04" => wheel(path),
        [0x1f, 0x8b, ..] => {
            Err("it is compressed, as source distributions are; the wheel beside it can be compared".to_owned())
        }
        _ => tar_file(path),
    }
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    File::open(path).map(|file| BufReader::with_capacity(256 << 10, file)).map_err(told)
}

fn told(error: io::Error) -> String {
    error.to_string()
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{what}: {error}"))
}

fn small(source: impl Read, what: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    source.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(told)?;
    match bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        true => Err(format!("{what} is longer than {MAX_DOCUMENT_BYTES} bytes")),
        false => Ok(bytes),
    }
}

fn wheel(path: &Path) -> Result<Made, String> {
    let mut archive = zip::ZipArchive::new(open(path)?).map_err(|error| error.to_string())?;
    let ending = format!("/package/{DOCUMENT}");
    let mut names = archive.file_names().filter_map(|name| name.ok().map(|name| name.into_owned()));
    let name = names.find(|name| name.ends_with(&ending));
    drop(names);
    let name = name.ok_or("there is no package of Modelyard's in it")?;
    let member = archive.by_name(&name).map_err(|error| error.to_string())?;
    // Zip archives know the time to two seconds, and nothing else of a wheel depends on it.
    let moment = member.last_modified().and_then(seconds).ok_or("its members carry no time")?;
    let package = json(&small(member, &name)?, &name)?;
    Ok(Made::Wheel { package, moment })
}

fn seconds(time: zip::DateTime) -> Option<u64> {
    let part = |value: u8| i8::try_from(value).ok();
    let at = jiff::civil::DateTime::new(
        i16::try_from(time.year()).ok()?,
        part(time.month())?,
        part(time.day())?,
        part(time.hour())?,
        part(time.minute())?,
        part(time.second())?,
        0,
    );
    let at = jiff::tz::Offset::UTC.to_timestamp(at.ok()?).ok()?;
    u64::try_from(at.as_second()).ok()
}

fn tar_file(path: &Path) -> Result<Made, String> {
    let places = places(path)?;
    if places.contains_key("oci-layout") {
        return image(path, &places);
    }
    let ending = format!("/package/{DOCUMENT}");
    let found = places.keys().find(|name| name.strip_suffix(&ending).is_some_and(|folder| !folder.contains('/')));
    let name = found.ok_or("there is no package of Modelyard's in it")?;
    Ok(Made::Standalone { package: json(&member(path, &places, name)?, name)? })
}

/// Where the members of a tar file stand: start and length.
fn places(path: &Path) -> Result<BTreeMap<String, (u64, u64)>, String> {
    let mut archive = tar::Archive::new(File::open(path).map_err(told)?);
    let mut found = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(told)? {
        let entry = entry.map_err(|error| format!("it is no archive: {error}"))?;
        if found.len() >= MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} members"));
        }
        if entry.header().entry_type().is_file() {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            found.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(found)
}

fn section(path: &Path, places: &BTreeMap<String, (u64, u64)>, name: &str) -> Result<io::Take<File>, String> {
    let (start, length) = places.get(name).ok_or_else(|| format!("it has no {name}"))?;
    let mut file = File::open(path).map_err(told)?;
    file.seek(SeekFrom::Start(*start)).map_err(told)?;
    Ok(file.take(*length))
}

fn member(path: &Path, places: &BTreeMap<String, (u64, u64)>, name: &str) -> Result<Vec<u8>, String> {
    small(section(path, places, name)?, name)
}

fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[derive(Deserialize)]
struct Part {
    digest: Digest,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Part>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Part,
    layers: Vec<Part>,
}

/// Manifest and configuration of the one image of a layout.
fn documents(path: &Path, places: &BTreeMap<String, (u64, u64)>) -> Result<(Manifest, Value), String> {
    let index: Index = json(&member(path, places, "index.json")?, "index.json")?;
    let [one] = &index.manifests[..] else { return Err("it does not hold one image".to_owned()) };
    let manifest: Manifest = json(&member(path, places, &place(&one.digest))?, "its manifest")?;
    let config = json(&member(path, places, &place(&manifest.config.digest))?, "its configuration")?;
    Ok((manifest, config))
}

fn image(path: &Path, places: &BTreeMap<String, (u64, u64)>) -> Result<Made, String> {
    let (_, config) = documents(path, places)?;
    let label = |name: &str| config["config"]["Labels"][name].as_str();
    let digest = |text: &str| text.parse::<Digest>().map_err(|error| error.to_string());
    let package = label(PACKAGE).ok_or_else(|| format!("it has no label {PACKAGE}: it is no image of a package"))?;
    let base = label("org.opencontainers.image.base.name").zip(label("org.opencontainers.image.base.digest"));
    let base = base.map(|(name, of)| Ok::<_, String>((name.to_owned(), digest(of)?))).transpose()?;
    let created: Option<jiff::Timestamp> = config["created"].as_str().and_then(|text| text.parse().ok());
    let moment = created.and_then(|at| u64::try_from(at.as_second()).ok()).ok_or("it does not say when it was made")?;
    Ok(Made::Image { package: digest(package)?, base, moment })
}

/// Where a file differs from the one that was built anew; empty when both have the same bytes.
///
/// # Errors
/// [`RebuildError`] when one of them cannot be read.
pub fn differences(given: &Path, anew: &Path) -> Result<Vec<String>, RebuildError> {
    let whole = |path: &Path| -> Result<Digest, RebuildError> {
        let digest = open(path).and_then(|mut file| digest_of(&mut file).map_err(told));
        digest.map_err(|why| RebuildError { path: path.to_owned(), why })
    };
    if whole(given)? == whole(anew)? {
        return Ok(Vec::new());
    }
    let found = differing(given, anew).map_err(|why| RebuildError { path: given.to_owned(), why })?;
    let form =
        || vec!["the same contents stand there in another form: order, names, modes, times or padding".to_owned()];
    Ok(if found.is_empty() { form() } else { found })
}

fn differing(given: &Path, anew: &Path) -> Result<Vec<String>, String> {
    let mut start = [0; 2];
    open(anew)?.read_exact(&mut start).map_err(told)?;
    if start == *b"PK" {
        return Ok(between(&zip_members(given)?, &zip_members(anew)?));
    }
    let (here, there) = (places(given)?, places(anew)?);
    match there.contains_key("oci-layout") {
        true => layers(given, &here, anew, &there),
        false => Ok(between(&tar_members(open(given)?)?, &tar_members(open(anew)?)?)),
    }
}

/// Differences of two images, layer by layer.
fn layers(
    given: &Path,
    here: &BTreeMap<String, (u64, u64)>,
    anew: &Path,
    there: &BTreeMap<String, (u64, u64)>,
) -> Result<Vec<String>, String> {
    let ((one, config), (other, wanted)) = (documents(given, here)?, documents(anew, there)?);
    let mut found = Vec::new();
    if one.layers.len() != other.layers.len() {
        found.push(format!("it has {} layers, and {} are built", one.layers.len(), other.layers.len()));
    }
    for (index, (layer, expected)) in one.layers.iter().zip(&other.layers).enumerate() {
        let name = wanted["history"][index]["created_by"].as_str().unwrap_or("of the base");
        let mut hashed = section(given, here, &place(&layer.digest))?;
        let actual = digest_of(&mut hashed).map_err(told)?;
        if actual != layer.digest {
            found.push(format!(
                "layer {index} ({name}) is damaged: its bytes have digest {actual}, not {}",
                layer.digest
            ));
        } else if layer.digest != expected.digest {
            let files = between(
                &unpacked(section(given, here, &place(&layer.digest))?)?,
                &unpacked(section(anew, there, &place(&expected.digest))?)?,
            );
            let files = if files.is_empty() { String::new() } else { format!(": {}", files.join("; ")) };
            found.push(format!("layer {index} ({name}) is {}, and {} is built{files}", layer.digest, expected.digest));
        }
    }
    if found.is_empty() && config != wanted {
        let keys = ["config", "created", "history", "architecture", "os"];
        let differ: Vec<&str> = keys.into_iter().filter(|key| config[key] != wanted[key]).collect();
        found.push(format!("its configuration differs in {}", differ.join(", ")));
    }
    Ok(found)
}

/// The files of a layer, compressed or not.
fn unpacked(mut layer: io::Take<File>) -> Result<Members, String> {
    let most = layer.limit().saturating_mul(SWELL).saturating_add(SWELL_BYTES);
    let mut start = [0; 2];
    layer.read_exact(&mut start).map_err(told)?;
    let source = BufReader::with_capacity(256 << 10, io::Cursor::new(start).chain(layer));
    match start {
        [0x1f, 0x8b] => tar_members(MultiGzDecoder::new(source).take(most)),
        _ => tar_members(source),
    }
}

fn tar_members(source: impl Read) -> Result<Members, String> {
    let mut archive = tar::Archive::new(source);
    let mut found = Members::new();
    for entry in archive.entries().map_err(told)? {
        let mut entry = entry.map_err(|error| format!("it is damaged: {error}"))?;
        if found.len() >= MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} members"));
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let size = entry.size();
        found.insert(name, (size, digest_of(&mut entry).map_err(told)?));
    }
    Ok(found)
}

fn zip_members(path: &Path) -> Result<Members, String> {
    let mut archive = zip::ZipArchive::new(open(path)?).map_err(|error| error.to_string())?;
    let mut found = Members::new();
    for index in 0..archive.len().min(MOST_ENTRIES) {
        let member = archive.by_index(index).map_err(|error| error.to_string())?;
        let (name, size) = (member.name().map_err(|error| error.to_string())?.to_string(), member.size());
        let mut hashed = Hashing { hash: Sha256::new() };
        // What cannot be read whole, by its checksum, has other bytes than any that can.
        let size = io::copy(&mut member.take(size), &mut hashed).unwrap_or(u64::MAX);
        found.insert(name, (size, Digest::from_sha256(hashed.hash.finalize().into())));
    }
    Ok(found)
}

struct Hashing {
    hash: Sha256,
}

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Members that one has and the other has not, or has otherwise; the first of them.
fn between(given: &Members, anew: &Members) -> Vec<String> {
    let shown = |name: &str| name.chars().take(120).collect::<String>().escape_debug().to_string();
    let mut found: Vec<String> = Vec::new();
    for (name, wanted) in anew {
        match given.get(name) {
            None => found.push(format!("`{}` is missing", shown(name))),
            Some(there) if there != wanted => found.push(format!("`{}` has other bytes", shown(name))),
            Some(_) => {}
        }
    }
    let more = given.keys().filter(|name| !anew.contains_key(*name));
    found.extend(more.map(|name| format!("`{}` is too much", shown(name))));
    let left = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    if left > 0 {
        found.push(format!("and {left} more"));
    }
    found
}
