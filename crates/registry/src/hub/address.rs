//! A single file behind an address.
//!
//! Without a digest nothing can be held against what came: it is fetched from the start and told, and it is the caller who says yes to it.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use modelyard_core::Digest;
use ureq::Body;
use ureq::http::{HeaderName, Response, StatusCode, header};

use super::{host, part};
use crate::artefacts::content::Content;
use crate::artefacts::http::{End, Http, PAUSE, TRIES};
use crate::artefacts::{ArtefactError, Login, scratch_failed};
use crate::client::Tell;
use crate::partial;
use crate::remote::is_loopback;

/// Largest file in bytes: 256 GiB.
const LARGEST: u64 = 256 << 30;

/// An address of a file, over TLS or in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    text: String,
    host: String,
    plain: bool,
}

/// The text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a file; write https://HOST/PATH, without a user name or password")]
pub struct AddressError(String);

impl Address {
    /// Whether it is another machine that is spoken to in the clear.
    pub fn is_exposed(&self) -> bool {
        self.plain && !is_loopback(&self.host)
    }

    /// The last part of its path, if that can be the name of a file.
    pub fn file_name(&self) -> Option<&str> {
        let path = self.text.split(['?', '#']).next()?.split_once("://")?.1.split_once('/')?.1;
        let name = path.rsplit('/').next()?;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
        (!name.is_empty() && name.len() <= 200 && name.bytes().all(letters) && !name.starts_with('.')).then_some(name)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError(text.chars().take(200).flat_map(char::escape_debug).collect());
        let printable = text.len() <= 4_096 && text.bytes().all(|byte| byte.is_ascii_graphic());
        let (host, plain) = host(text).filter(|_| printable).ok_or_else(refused)?;
        Ok(Self { text: text.to_owned(), host, plain })
    }
}

/// A file that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where it lies.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// Fetches what lies at an address into the folder `scratch`. With a digest it goes on where an earlier call stood, and asks nobody for what is there already.
///
/// # Errors
/// [`ArtefactError`]; [`ArtefactError::WrongBytes`] when it is another file than `expected`, which is then removed.
pub fn fetch_address(
    address: &Address,
    expected: Option<&Digest>,
    scratch: &Path,
    tell: Tell<'_>,
) -> Result<Fetched, ArtefactError> {
    let end = End {
        host: address.host.clone(),
        exposed: address.is_exposed(),
        help: "fetch it by hand, and package the file",
    };
    let http = Http::with(end, Login(Vec::new()), Vec::new())?;
    let path = scratch.join(part("url", &address.text));
    std::fs::create_dir_all(scratch).map_err(scratch_failed(scratch))?;
    let mut sink = partial::open(&path).map_err(scratch_failed(&path))?;
    let there = |path: &Path| -> Result<Fetched, ArtefactError> {
        let content = Content::of_file(path)?;
        Ok(Fetched { path: path.to_owned(), digest: content.digest, size_bytes: content.size_bytes })
    };
    if let Some(found) = expected.and_then(|expected| there(&path).ok().filter(|found| found.digest == *expected)) {
        return Ok(found);
    }
    let goes_on = expected.is_some();
    let mut broken = 0;
    loop {
        match once(&http, address, goes_on, &mut sink, &path, tell) {
            Ok(()) => break,
            Err(ArtefactError::Unreachable { .. }) if broken + 1 < TRIES => {
                broken += 1;
                std::thread::sleep(PAUSE * broken);
            }
            Err(error) => return Err(error),
        }
    }
    sink.sync_all().map_err(scratch_failed(&path))?;
    let found = there(&path)?;
    match expected {
        Some(expected) if *expected != found.digest => {
            let _ = std::fs::remove_file(&path); // nobody goes on from wrong bytes
            let (expected, actual) = (expected.to_string(), found.digest.to_string());
            Err(ArtefactError::WrongBytes { host: address.host.clone(), file: address.text.clone(), expected, actual })
        }
        _ => Ok(found),
    }
}

fn once(
    http: &Http,
    address: &Address,
    goes_on: bool,
    sink: &mut File,
    path: &Path,
    tell: Tell<'_>,
) -> Result<(), ArtefactError> {
    let failed = || scratch_failed(path);
    if !goes_on {
        sink.set_len(0).map_err(failed())?;
    }
    let mut at = sink.seek(SeekFrom::End(0)).map_err(failed())?;
    let range = format!("bytes={at}-");
    let headers: &[(HeaderName, &str)] = if at > 0 { &[(header::RANGE, &range)] } else { &[] };
    let answer = http.get(&address.text, headers)?;
    match answer.status() {
        StatusCode::PARTIAL_CONTENT if begins_at(&answer) == Some(at) => {}
        StatusCode::OK => {
            sink.set_len(0).map_err(failed())?;
            at = sink.seek(SeekFrom::Start(0)).map_err(failed())?;
        }
        // Either all of it is here, and the digest will tell, or something else lies there now.
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if at > 0 => {
            sink.set_len(0).map_err(failed())?;
            return Err(http.unreachable("what it has does not go on where the download stood; it begins again"));
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(ArtefactError::NotFound { what: address.text.clone(), place: http.host().to_owned() });
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(http.unreachable(status.to_string()));
        }
        _ => return Err(http.refused("give a file", answer)),
    }
    let left = answer.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let all = left.map(|left| at.saturating_add(left));
    let too_long = || ArtefactError::Refused {
        host: http.host().to_owned(),
        doing: "give a file",
        why: "it is longer than 256 GiB".to_owned(),
    };
    if all.is_some_and(|all| all > LARGEST) {
        return Err(too_long());
    }
    let mut body = answer.into_body().into_reader();
    let mut chunk = vec![0; 256 << 10];
    loop {
        let read = body.read(&mut chunk);
        let length = read.map_err(|error| http.unreachable(format!("it broke off after {at} bytes: {error}")))?;
        if length == 0 {
            break;
        }
        sink.write_all(&chunk[..length]).map_err(failed())?;
        at += length as u64;
        if at > LARGEST {
            return Err(too_long());
        }
        tell(at, all.unwrap_or(at));
    }
    match all {
        Some(all) if all != at => Err(http.unreachable(format!("it broke off after {at} of {all} bytes"))),
        _ => Ok(()),
    }
}

/// Where a part begins, by `Content-Range: bytes FIRST-LAST/ALL`.
fn begins_at(answer: &Response<Body>) -> Option<u64> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_name_their_file() {
        let name = |text: &str| text.parse::<Address>().unwrap().file_name().map(str::to_owned);
        assert_eq!(name("https://h.example/a/model.onnx?x=/y"), Some("model.onnx".to_owned()));
        for none in ["https://h.example", "https://h.example/", "https://h.example/..", "https://h.example/%2e%2e"] {
            assert_eq!(name(none), None, "{none}");
        }
        for bad in ["model.onnx", "file:///etc/passwd", "https://u:p@h/x", "https://h/a b", "https://h/\n", "ftp://h/x"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!("http://h.example/x".parse::<Address>().unwrap().is_exposed());
        assert!(!"http://127.0.0.1:1/x".parse::<Address>().unwrap().is_exposed());
    }
}
