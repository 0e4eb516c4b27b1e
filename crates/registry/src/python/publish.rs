//! Uploading wheels and source distributions to an index: ours, or any other that takes what twine sends.
//!
//! Promises: the file is read while it is sent, so memory stays flat; the index is told both digests, so that it can check what came.
//! Absent on purpose: following redirects. A login that goes to another host than was meant is given away.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::Blake2b;
use blake2::digest::consts::U32;
use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};
use ureq::SendBody;
use ureq::http::header;

use super::document::{self, Document};
use super::{FileName, Kind};

/// Longest time that the index may think about a file that it has whole.
const PATIENCE: Duration = Duration::from_secs(300);
/// As much of an answer is shown.
const MAX_TOLD_BYTES: u64 = 64 << 10;

/// Who we are to the index.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// Name and password; the name `__token__` with a token is how PyPI wants it.
    Basic {
        /// Name.
        name: String,
        /// Password.
        secret: String,
    },
    /// A token of Modelyard.
    Bearer(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    fn header(&self) -> String {
        match self {
            Self::Basic { name, secret } => format!("Basic {}", STANDARD.encode(format!("{name}:{secret}"))),
            Self::Bearer(token) => format!("Bearer {token}"),
        }
    }
}

/// Why a file was not uploaded.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PublishError {
    /// The file cannot be read.
    #[error("could not read `{}`", path.display())]
    #[diagnostic(help("name the `.whl` and `.tar.gz` files that `modelyard package DIR --format wheel` wrote"))]
    File {
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// The file is no wheel and no source distribution.
    #[error("`{}` is no package: {why}", path.display())]
    #[diagnostic(help("name the `.whl` and `.tar.gz` files that `modelyard package DIR --format wheel` wrote"))]
    NoPackage {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The index cannot be reached, or the upload broke off.
    #[error("could not upload to {url}: {why}")]
    #[diagnostic(help(
        "is the address right, and does the index run? Nothing half is kept; run the same command again"
    ))]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// The index went away while it was being told, as some do that want a login.
    #[error("{url} ended the connection before it had the whole file: {why}")]
    #[diagnostic(help(
        "it may want a login (set TWINE_USERNAME and TWINE_PASSWORD), or not take files of this size; its log says which"
    ))]
    BrokeOff {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// The index says no.
    #[error("{url} refuses `{filename}` ({status}): {told}")]
    #[diagnostic(help("{}", help_for(*status)))]
    Refused {
        /// Where.
        url: String,
        /// Which file.
        filename: String,
        /// The status.
        status: u16,
        /// What it says.
        told: String,
    },
}

const fn help_for(status: u16) -> &'static str {
    match status {
        401 | 403 => "set TWINE_USERNAME and TWINE_PASSWORD (a token goes with the name `__token__`)",
        409 => "a file name means the same bytes for ever: raise the version in modelyard.toml and package again",
        300..=399 | 404 | 405 => "give the address for uploads; for Modelyard it ends in /legacy/",
        _ => "the answer says what the index expects",
    }
}

/// A file that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its name.
    pub filename: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// A file that can be uploaded.
struct Ready {
    filename: String,
    file: File,
    size_bytes: u64,
    digest: Digest,
    fields: Vec<(String, String)>,
}

/// Uploads one file.
///
/// # Errors
/// [`PublishError`]; the index then has what it had.
pub fn publish(url: &str, login: Option<&Login>, path: &Path) -> Result<Published, PublishError> {
    let ready = prepare(path)?;
    let boundary = format!("modelyard-{}", ready.digest.hex());
    let (head, tail) = (form(&ready, &boundary), format!("\r\n--{boundary}--\r\n"));
    let length = head.len() as u64 + ready.size_bytes + tail.len() as u64;
    let Ready { filename, file, size_bytes, digest, .. } = ready;
    let mut body = Cursor::new(head).chain(file.take(size_bytes)).chain(Cursor::new(tail.into_bytes()));
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(PATIENCE))
        .build()
        .new_agent();
    let mut request = agent
        .post(url)
        .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
        .header(header::CONTENT_LENGTH, length.to_string())
        .header(header::USER_AGENT, concat!("modelyard/", env!("CARGO_PKG_VERSION")));
    if let Some(login) = login {
        request = request.header(header::AUTHORIZATION, login.header());
    }
    let unreachable = |error: ureq::Error| {
        let (url, why) = (url.to_owned(), error.to_string());
        match error {
            ureq::Error::Io(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                PublishError::BrokeOff { url, why }
            }
            _ => PublishError::Unreachable { url, why },
        }
    };
    let mut answer = request.send(SendBody::from_reader(&mut body)).map_err(unreachable)?;
    let status = answer.status().as_u16();
    if answer.status().is_success() {
        return Ok(Published { filename, digest, size_bytes });
    }
    let told = answer.body_mut().with_config().limit(MAX_TOLD_BYTES).read_to_string().unwrap_or_default();
    let told: String = told.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect();
    Err(PublishError::Refused { url: url.to_owned(), filename, status, told })
}

fn prepare(path: &Path) -> Result<Ready, PublishError> {
    let failed = |source| PublishError::File { path: path.to_owned(), source };
    let wrong = |why: String| PublishError::NoPackage { path: path.to_owned(), why };
    let filename = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let name = FileName::parse(&filename)
        .ok_or_else(|| wrong("its name is not NAME-VERSION-TAGS.whl or NAME-VERSION.tar.gz".to_owned()))?;
    let mut file = File::open(path).map_err(failed)?;
    let text = document::read(&mut file, &name).map_err(wrong)?;
    let document = Document::parse(&text).map_err(wrong)?;
    document.check(&name).map_err(wrong)?;
    file.rewind().map_err(failed)?;
    let (mut sha256, mut blake2, mut piece, mut size_bytes) =
        (Sha256::new(), Blake2b::<U32>::new(), vec![0; 256 << 10], 0);
    loop {
        let length = file.read(&mut piece).map_err(failed)?;
        if length == 0 {
            break;
        }
        sha256.update(&piece[..length]);
        blake2.update(&piece[..length]);
        size_bytes += length as u64;
    }
    file.rewind().map_err(failed)?;
    let digest = Digest::from_sha256(sha256.finalize().into());
    let blake2: String = blake2.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = fields(&name, &document, &digest, blake2);
    Ok(Ready { filename, file, size_bytes, digest, fields })
}

/// The form's fields: what the metadata says, under the names of the form.
fn fields(name: &FileName, document: &Document, digest: &Digest, blake2: String) -> Vec<(String, String)> {
    let python = match name.kind {
        Kind::Wheel => name.python.clone().unwrap_or_default(),
        Kind::Sdist => "source".to_owned(),
    };
    let mut fields: Vec<(String, String)> = [
        (":action", "file_upload".to_owned()),
        ("protocol_version", "1".to_owned()),
        ("filetype", name.kind.filetype().to_owned()),
        ("pyversion", python),
        ("sha256_digest", digest.hex().to_string()),
        ("blake2_256_digest", blake2),
    ]
    .map(|(field, value)| (field.to_owned(), value))
    .into();
    fields.extend(document.fields().map(|(field, value)| {
        let field = match field {
            "classifier" => "classifiers".to_owned(),
            "project-url" => "project_urls".to_owned(),
            "license-file" => "license_files".to_owned(),
            other => other.replace('-', "_"),
        };
        (field, value.to_owned())
    }));
    if !document.body().is_empty() {
        fields.push(("description".to_owned(), document.body().to_owned()));
    }
    fields
}

/// Everything of the form that stands before the file's bytes.
fn form(ready: &Ready, boundary: &str) -> Vec<u8> {
    let mut text = String::new();
    // Names of fields come from the file's metadata: what could end a header line is not let through.
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
    for (name, value) in ready.fields.iter().filter(|(name, _)| plain(name)) {
        text.push_str(&format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    text.push_str(&format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"content\"; filename=\"{}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n",
        ready.filename
    ));
    text.into_bytes()
}
