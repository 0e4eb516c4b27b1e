//! A download that goes on where it stood: within a call, and from one call to the next.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ureq::Body;
use ureq::http::Response;

use super::content::Content;
use super::error::ArtefactError;
use super::http::{Http, PAUSE, TRIES};
use super::shelf::Shelf;
use super::{Note, scratch_failed};
use crate::client::Tell;
use crate::partial;

/// Fetches the bundle that `note` speaks of into `folder`, and compares its digest; where it is then.
pub(super) fn fetch(
    shelf: &Shelf<'_>,
    file: &str,
    note: &Note,
    folder: &Path,
    tell: Tell<'_>,
) -> Result<PathBuf, ArtefactError> {
    let path = folder.join(format!("pull-{}.{}", note.bundle.hex(), partial::SUFFIX));
    std::fs::create_dir_all(folder).map_err(scratch_failed(folder))?;
    let mut sink = partial::open(&path).map_err(scratch_failed(&path))?;
    let from = |at| {
        let lost = || shelf.garbled(format!("`{file}` is not there, though a document speaks of it"));
        shelf.get(file, at)?.ok_or_else(lost)
    };
    whole(shelf.http(), &from, note.size_bytes, &mut sink, &path, tell)?;
    drop(sink);
    match Content::of_file(&path)?.digest {
        actual if actual == note.bundle => Ok(path),
        actual => {
            let _ = std::fs::remove_file(&path); // nobody goes on from wrong bytes
            Err(shelf.wrong(file, &note.bundle, &actual))
        }
    }
}

/// The answer with the bytes from an offset on, and whether it begins there.
pub(crate) type From<'a> = &'a dyn Fn(u64) -> Result<(Response<Body>, bool), ArtefactError>;

/// Fetches what `sink` lacks of `size_bytes`; again where it stood, when the connection breaks.
pub(crate) fn whole(
    http: &Http,
    from: From<'_>,
    size_bytes: u64,
    sink: &mut File,
    path: &Path,
    tell: Tell<'_>,
) -> Result<(), ArtefactError> {
    let mut broken = 0;
    loop {
        match go_on(http, from, size_bytes, sink, path, tell) {
            Err(ArtefactError::Unreachable { .. }) if broken + 1 < TRIES => {
                broken += 1;
                std::thread::sleep(PAUSE * broken);
            }
            other => return other,
        }
    }
}

fn go_on(
    http: &Http,
    from: From<'_>,
    size_bytes: u64,
    sink: &mut File,
    path: &Path,
    tell: Tell<'_>,
) -> Result<(), ArtefactError> {
    let failed = || scratch_failed(path);
    let mut at = sink.seek(SeekFrom::End(0)).map_err(failed())?;
    if at > size_bytes {
        sink.set_len(0).map_err(failed())?;
        at = sink.seek(SeekFrom::Start(0)).map_err(failed())?;
    }
    if at == size_bytes {
        return Ok(());
    }
    let (answer, goes_on) = from(at)?;
    if !goes_on {
        // It gives all of it again.
        sink.set_len(0).map_err(failed())?;
        at = sink.seek(SeekFrom::Start(0)).map_err(failed())?;
    }
    let mut body = answer.into_body().into_reader();
    let mut chunk = vec![0; 256 << 10];
    while at < size_bytes {
        let most = usize::try_from(size_bytes - at).unwrap_or(chunk.len()).min(chunk.len());
        let broke = |why: String| http.unreachable(why);
        let read = body.read(&mut chunk[..most]);
        let length = read.map_err(|error| broke(format!("it broke off after {at} of {size_bytes} bytes: {error}")))?;
        if length == 0 {
            return Err(broke(format!("it broke off after {at} of {size_bytes} bytes")));
        }
        sink.write_all(&chunk[..length]).map_err(failed())?;
        at += length as u64;
        tell(at, size_bytes);
    }
    Ok(())
}
