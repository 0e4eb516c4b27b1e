//! Models that other tools put into OCI registries: ModelKits of KitOps, ModelPack artefacts, and plain images that carry a model in a folder. Their
//! files, laid out in a folder.
//!
//! Promises: every byte is checked against its digest before it is unpacked; nothing is written outside the folder; links and special files are
//! refused; an archive that swells beyond reason is given up.
//! Absent on purpose: zstd, which Modelyard does not read.
//!
//! Source: KitOps' `modelkit` media types and Kitfile; CNCF ModelPack specification (layer types, file path annotation).

mod plain;

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use modelyard_core::Digest;
use modelyard_core::package::DOCUMENT;
use serde_json::Value;
use tar::{Archive, EntryType};

use super::http::Http;
use super::{ClientError, Remote, Tell, lacking, parts, transfer};
use crate::found_image::FoundImage;
use crate::manifest::{ARCHITECTURE, DOCKER_CONFIG, Descriptor, FILEPATH, IMAGE_CONFIG, MODEL_CONFIG, Manifest};
use crate::{Store, paths};

/// Media type of a ModelKit's configuration: the Kitfile as JSON.
pub const KITFILE: &str = "application/vnd.kitops.modelkit.config.v1+json";

/// What the media types of layers begin with: those of models, and those of images.
const FAMILIES: [&str; 4] = [
    "application/vnd.kitops.modelkit.",
    "application/vnd.cncf.model.",
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
];

/// Most files of one artefact.
const MOST_FILES: usize = 100_000;

/// How far an archive may swell: so many times its own length, and [`SWELL_BYTES`] more. Weights shrink by half at best, texts tenfold.
const SWELL: u64 = 100;

/// What a small archive may hold in any case, in bytes.
const SWELL_BYTES: u64 = 64 << 20;

/// Longest configuration that is read, in bytes.
const MOST_CONFIG_BYTES: u64 = 4 << 20;

/// How an artefact says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A ModelKit; the configuration is its Kitfile.
    Kit,
    /// A ModelPack artefact; the configuration is that of the specification.
    Pack,
    /// A plain image with the model in one of its folders; the configuration is that of a container.
    Image,
}

/// What was fetched besides the files.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Whose layout it is.
    pub layout: Layout,
    /// The configuration as it is.
    pub config: Value,
    /// Paths of the files, sorted.
    pub files: Vec<String>,
}

/// Fetches an artefact and lays its files out in `folder`, which is there and empty; of a plain image those below the folder `within`, of an index the image
/// for this machine.
///
/// # Errors
/// [`ClientError`]; blobs that arrived stay in the local registry, and are not fetched again, until they are collected.
#[tracing::instrument(name = "registry.import", skip_all, fields(%remote), err)]
pub fn fetch_foreign(
    store: &Store,
    remote: &Remote,
    within: &str,
    folder: &Path,
    tell: Tell<'_>,
) -> Result<Foreign, ClientError> {
    let http = Http::new(remote)?;
    let (bytes, _) = http.manifest(&remote.reference())?;
    let wrong = |why: String| ClientError::NoModel { remote: remote.to_string(), why };
    let read = |digest: &Digest| http.manifest(&digest.to_string()).map(|(bytes, _)| bytes);
    let FoundImage { digest, manifest, .. } = FoundImage::choose(bytes, ARCHITECTURE, wrong, read)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| wrong(error.to_string()))?;
    let layout = match manifest.config.media_type.as_str() {
        KITFILE => Layout::Kit,
        MODEL_CONFIG => Layout::Pack,
        IMAGE_CONFIG | DOCKER_CONFIG => Layout::Image,
        other => return Err(wrong(format!("its configuration is of the type `{other:.100}`"))),
    };
    if manifest.layers.iter().any(|layer| layer.annotations.get(FILEPATH).is_some_and(|path| path == DOCUMENT)) {
        return Err(wrong("it is a package of Modelyard's, which `modelyard pull` fetches".to_owned()));
    }
    let forms = manifest.layers.iter().map(form).collect::<Result<Vec<Form>, String>>().map_err(wrong)?;
    let missing = lacking(store, &parts(&manifest))?;
    transfer::fetch(&http, store, &missing, tell)?;
    let config = store.blobs().read(&manifest.config.digest, MOST_CONFIG_BYTES)?;
    let config =
        serde_json::from_slice(&config).map_err(|error| wrong(format!("its configuration is no JSON: {error}")))?;
    let mut files = Vec::new();
    for (layer, form) in manifest.layers.iter().zip(forms) {
        // What came just now was compared as it came; what lay here before may have been damaged since.
        if missing.iter().all(|part| part.digest != layer.digest) {
            store.blobs().verify(&layer.digest)?;
        }
        let blob = store.blobs().path(&layer.digest);
        let laid = match layout {
            Layout::Image => opened(&blob, layer, form).and_then(|layer| plain::lay_over(layer, within, folder)),
            Layout::Kit | Layout::Pack => lay_out(&blob, layer, form, folder, &mut files),
        };
        laid.map_err(|why| wrong(format!("layer {}: {why}", layer.digest)))?;
    }
    if layout == Layout::Image {
        files = plain::files(folder).map_err(wrong)?;
        if files.is_empty() {
            return Err(wrong(format!("the image has no files in its folder `/{within}`: say where, with `--path`")));
        }
    }
    files.sort();
    if let Some((path, why)) = paths::clash(files.iter().map(String::as_str)) {
        return Err(wrong(format!("`{path:.200}`: {why}")));
    }
    Ok(Foreign { digest, layout, config, files })
}

/// How a layer holds its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Raw,
    Tar,
    Gzip,
}

fn form(layer: &Descriptor) -> Result<Form, String> {
    let kind = layer.media_type.as_str();
    let ours = FAMILIES.iter().any(|family| kind.starts_with(family));
    match kind.rsplit_once('.').map(|(_, form)| form) {
        Some("raw") if ours => Ok(Form::Raw),
        Some("tar") if ours => Ok(Form::Tar),
        Some("tar+gzip" | "tar+gzip-fastest" | "gzip") if ours => Ok(Form::Gzip),
        _ => Err(format!("layers of the type `{kind:.100}` are not read, but raw, tar and tar+gzip of models")),
    }
}

fn lay_out(blob: &Path, layer: &Descriptor, form: Form, folder: &Path, files: &mut Vec<String>) -> Result<(), String> {
    let mut source = opened(blob, layer, form)?;
    match form {
        Form::Raw => {
            let path = layer.annotations.get(FILEPATH).ok_or_else(|| format!("it has no annotation {FILEPATH}"))?;
            let path = path.strip_prefix("./").unwrap_or(path);
            write(&mut source, path, folder, files).map(drop)
        }
        Form::Tar | Form::Gzip => unpack(source, folder, files),
    }
}

/// What a layer holds, up to where it is given up.
fn opened(blob: &Path, layer: &Descriptor, form: Form) -> Result<Box<dyn Read>, String> {
    let file = File::open(blob).map_err(|error| error.to_string())?;
    let most = layer.size.saturating_mul(SWELL).saturating_add(SWELL_BYTES);
    let source = BufReader::with_capacity(256 << 10, file);
    Ok(match form {
        Form::Raw => Box::new(source.take(layer.size)),
        Form::Tar => Box::new(source.take(most)),
        Form::Gzip => Box::new(GzDecoder::new(source).take(most)),
    })
}

/// For `map_err`: that an archive cannot be read to its end.
fn damaged(error: io::Error) -> String {
    format!("the archive is damaged, or swells beyond reason: {error}")
}

fn unpack(source: impl Read, folder: &Path, files: &mut Vec<String>) -> Result<(), String> {
    let mut archive = Archive::new(source);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| "a path is not UTF-8".to_owned())?;
        let path = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/').to_owned();
        match entry.header().entry_type() {
            // Folders come with their files, and an empty one is of no use to a model.
            EntryType::Directory | EntryType::XGlobalHeader => {}
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                if write(&mut entry, &path, folder, files)? != size {
                    return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            other => return Err(format!("`{path:.200}` is neither a file nor a folder but {other:?}")),
        }
    }
    Ok(())
}

/// Writes one file; its length.
fn write(source: &mut impl Read, path: &str, folder: &Path, files: &mut Vec<String>) -> Result<u64, String> {
    if let Some(fault) = paths::fault(path) {
        return Err(format!("the path `{path:.200}` may not be: {fault}"));
    }
    if files.len() >= MOST_FILES {
        return Err(format!("there are more than {MOST_FILES} files"));
    }
    let target = folder.join(path);
    let failed = |error: io::Error| format!("could not write `{path:.200}`: {error}");
    fs::create_dir_all(target.parent().unwrap_or(folder)).map_err(failed)?;
    // Never over another file: two layers with one path would leave it to their order what the model is.
    let mut file = File::create_new(&target).map_err(failed)?;
    let length = io::copy(source, &mut file).map_err(failed)?;
    files.push(path.to_owned());
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn entry(archive: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &[u8], bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    }

    fn refused(entries: &[(EntryType, &str)]) -> String {
        let (folder, mut archive) = (tempfile::tempdir().unwrap(), tar::Builder::new(Vec::new()));
        for (kind, path) in entries {
            entry(&mut archive, *kind, path.as_bytes(), b"");
        }
        let within = folder.path().join("within");
        fs::create_dir(&within).unwrap();
        let why = unpack(&archive.into_inner().unwrap()[..], &within, &mut Vec::new()).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is written beside the folder");
        why
    }

    #[test]
    fn archives_that_reach_out_are_refused() {
        let file = EntryType::Regular;
        assert!(refused(&[(file, "../model.onnx")]).contains("leaves the folder"));
        assert!(refused(&[(file, "/tmp/model.onnx")]).contains("absolute"));
        assert!(refused(&[(EntryType::Symlink, "model.onnx")]).contains("neither a file nor a folder"));
        assert!(refused(&[(EntryType::Link, "model.onnx")]).contains("neither a file nor a folder"));
        assert!(refused(&[(EntryType::Char, "null")]).contains("neither a file nor a folder"));
        assert!(refused(&[(file, "model.onnx"), (file, "./model.onnx")]).contains("could not write"));
        assert!(refused(&[(file, "a"), (file, "a/b")]).contains("could not write"));
    }

    #[test]
    fn an_archive_that_swells_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("zeros").unwrap();
        header.set_size(4 << 20);
        header.set_cksum();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(header.as_bytes()).unwrap();
        gzip.write_all(&vec![0; 4 << 20]).unwrap();
        let bytes = gzip.finish().unwrap();
        let why = unpack(GzDecoder::new(&bytes[..]).take(1 << 20), folder.path(), &mut Vec::new()).unwrap_err();
        assert!(why.contains("beyond reason"), "{why}");
        assert!(fs::metadata(folder.path().join("zeros")).unwrap().len() <= 1 << 20);
    }

    #[test]
    fn layers_of_other_types_are_named() {
        let layer = |kind: &str| Descriptor::new(kind, crate::blob::digest_of(b""), 0);
        let known = [
            "application/vnd.kitops.modelkit.model.v1.tar+gzip",
            "application/vnd.cncf.model.weight.v1.raw",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ];
        assert_eq!(known.map(|kind| form(&layer(kind)).unwrap()), [Form::Gzip, Form::Raw, Form::Tar, Form::Gzip]);
        for other in
            ["application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.cncf.model.weight.v1.tar+zstd", "tar", ""]
        {
            assert!(form(&layer(other)).unwrap_err().contains(other));
        }
    }
}
