//! Uploads as twine sends them, and yanking.
//!
//! Promises: a file is only named once its digests, its name and its own metadata agree; sending the same file again does nothing; another file under
//! a name that is taken is refused.

use std::collections::BTreeMap;
use std::fs::File;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use blake2::Blake2b;
use blake2::digest::consts::U32;
use http::{HeaderMap, StatusCode, header};
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use super::local;
use super::meta::Added;
use super::refusal::Refusal;
use super::{FileName, Index, normalise, normalise_version};
use crate::{Error, access, leftovers};

/// Largest file. PyPI takes 100 MiB by default; models are larger.
const MAX_FILE_BYTES: u64 = 8 << 30;
/// Longest field beside it: a description is one of them.
const MAX_FIELD_BYTES: u64 = super::MAX_METADATA_BYTES;
/// All of a request: the file, and the fields beside it.
const MAX_REQUEST_BYTES: u64 = MAX_FILE_BYTES + (32 << 20);
const MAX_FIELDS: usize = 2_000;

/// A file that came, not yet looked into.
struct Arrived {
    filename: String,
    file: NamedTempFile,
    sha256: String,
    blake2: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn too_much(error: &multer::Error) -> Refusal {
    match error {
        multer::Error::FieldSizeExceeded { field_name: Some(name), .. } if name == "content" => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the file is larger than {MAX_FILE_BYTES} bytes"))
        }
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the upload is larger than this index takes")
        }
        other => Refusal::wrong(format!("the upload cannot be read: {other}")),
    }
}

/// `POST /legacy/`.
pub async fn upload(State(index): State<Index>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(|_| {
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "an upload is a form of type multipart/form-data")
    })?;
    let limits = SizeLimit::new().whole_stream(MAX_REQUEST_BYTES).per_field(MAX_FIELD_BYTES);
    let limits = Constraints::new().size_limit(limits.for_field("content", MAX_FILE_BYTES));
    let mut form = Multipart::with_constraints(body.into_data_stream(), boundary, limits);
    let (mut fields, mut arrived, mut count, mut length) = (BTreeMap::new(), None, 0, 0);
    while let Some(field) = form.next_field().await.map_err(|error| too_much(&error))? {
        count += 1;
        let name = field.name().unwrap_or_default().to_owned();
        if name == "content" {
            if arrived.is_some() {
                return Err(Refusal::wrong("the form has the field `content` twice"));
            }
            arrived = Some(receive(&index, field).await?);
            continue;
        }
        let text = field.text().await.map_err(|error| too_much(&error))?;
        length += text.len() as u64;
        if count > MAX_FIELDS || length > 4 * MAX_FIELD_BYTES {
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the form has too many fields"));
        }
        fields.entry(name).or_insert(text);
    }
    if fields.get(":action").map(String::as_str) != Some("file_upload") {
        return Err(Refusal::wrong("the form's `:action` must be `file_upload`"));
    }
    let arrived = arrived.ok_or_else(|| Refusal::wrong("the form has no field `content`"))?;
    let name = agree(&fields, &arrived)?;
    if access::caller().is_some_and(|grant| !grant.covers(&name.project)) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, format!("this token is not for `{}`", name.project)));
    }
    let filename = arrived.filename.clone();
    let held = index.inner.gate.together().await?;
    let keep = move || (keep(&index, arrived, name), held).0;
    let added = tokio::task::spawn_blocking(keep).await;
    match added.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the upload ended early"))?? {
        Added::New => Ok((StatusCode::OK, format!("{filename} is in the index\n")).into_response()),
        Added::Same => Ok((StatusCode::OK, format!("{filename} was in the index\n")).into_response()),
        Added::Other(there) => Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("File already exists: `{filename}` is {there} for ever; raise the version and upload that"),
        )),
    }
}

async fn receive(index: &Index, mut field: Field<'_>) -> Result<Arrived, Refusal> {
    let filename = field.file_name().unwrap_or_default().to_owned();
    if FileName::parse(&filename).is_none() {
        let shown: String = filename.escape_default().take(80).collect();
        return Err(Refusal::wrong(format!("`{shown}` is no file name of a wheel or source distribution")));
    }
    let folder = &index.inner.incoming;
    let failed = |source| Error::File { doing: "could not write into", path: folder.clone(), source };
    let file = leftovers::file_in(folder).map_err(failed)?;
    let mut sink = tokio::fs::File::from_std(file.as_file().try_clone().map_err(failed)?);
    let (mut sha256, mut blake2) = (Sha256::new(), Blake2b::<U32>::new());
    while let Some(piece) = field.chunk().await.map_err(|error| too_much(&error))? {
        sha256.update(&piece);
        blake2.update(&piece);
        sink.write_all(&piece).await.map_err(failed)?;
    }
    sink.flush().await.map_err(failed)?;
    Ok(Arrived { filename, file, sha256: hex(&sha256.finalize()), blake2: hex(&blake2.finalize()) })
}

/// What the file's name says, once the form says the same.
fn agree(fields: &BTreeMap<String, String>, arrived: &Arrived) -> Result<FileName, Refusal> {
    for (field, actual) in [("sha256_digest", &arrived.sha256), ("blake2_256_digest", &arrived.blake2)] {
        if let Some(stated) = fields.get(field).filter(|stated| !stated.eq_ignore_ascii_case(actual)) {
            let shown: String = stated.chars().take(80).collect();
            return Err(Refusal::wrong(format!(
                "the file has another `{field}` ({actual}) than the form says ({shown})"
            )));
        }
    }
    let name = FileName::parse(&arrived.filename).ok_or_else(|| Refusal::wrong("the file's name cannot be read"))?;
    let field =
        |field: &str| fields.get(field).ok_or_else(|| Refusal::wrong(format!("the form has no field `{field}`")));
    if normalise(field("name")?).as_deref() != Some(&name.project) {
        return Err(Refusal::wrong(format!("the form's `name` is not that of `{}`", arrived.filename)));
    }
    if normalise_version(field("version")?).as_deref() != Some(&name.version) {
        return Err(Refusal::wrong(format!("the form's `version` is not that of `{}`", arrived.filename)));
    }
    match fields.get("filetype").map(String::as_str) {
        None => Ok(name),
        Some(kind) if kind == name.kind.filetype() => Ok(name),
        Some(_) => Err(Refusal::wrong(format!("the form's `filetype` is not `{}`", name.kind.filetype()))),
    }
}

/// Looks into the file, stores it, and names it.
fn keep(index: &Index, mut arrived: Arrived, name: FileName) -> Result<Added, Refusal> {
    let wrong = |why: String| Refusal::wrong(format!("`{}` is refused: {why}", arrived.filename));
    let said = local::look(arrived.file.as_file_mut(), &name).map_err(wrong)?;
    let mut whole = File::open(arrived.file.path()).map_err(Error::file("could not open", arrived.file.path()))?;
    let stored = index.inner.blobs.store(&mut whole)?;
    Ok(index.note(&arrived.filename, name, stored.blob, said)?)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    #[serde(default)]
    reason: String,
}

/// `POST /legacy/NAME/VERSION/yank`, with `{"reason": …}` or nothing.
pub async fn yank(
    State(index): State<Index>,
    Path((project, version)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let why = if body.is_empty() { Ok(Why::default()) } else { serde_json::from_slice::<Why>(&body) };
    let why = why.map_err(|error| Refusal::wrong(format!("the body is not {{\"reason\": \"…\"}}: {error}")))?.reason;
    if why.len() > 1_000 || why.chars().any(char::is_control) {
        return Err(Refusal::wrong("a reason is one line of at most 1000 bytes"));
    }
    change(&index, &project, &version, Some(&why))
}

/// `DELETE /legacy/NAME/VERSION/yank`.
pub async fn unyank(
    State(index): State<Index>,
    Path((project, version)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    change(&index, &project, &version, None)
}

fn change(index: &Index, project: &str, version: &str, why: Option<&str>) -> Result<Response, Refusal> {
    let names = normalise(project).zip(normalise_version(version));
    let (project, version) = names.ok_or_else(|| Refusal::unknown("that is no name and version of a project"))?;
    match index.inner.meta.yank(&project, &version, why)? {
        0 => Err(Refusal::unknown(format!("this index has no version {version} of `{project}`"))),
        files => Ok(axum::Json(json!({
            "project": project, "version": version, "files": files, "yanked": why.is_some(), "reason": why,
        }))
        .into_response()),
    }
}
