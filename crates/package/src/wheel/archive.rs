//! The two archives: a wheel (zip) and a source distribution (gzipped tar).
//!
//! Promises: bytes depend on nothing but names and contents: sorted entries, one time, one mode, no owner, one compressor. Memory stays flat.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// 1980-01-01: a zip archive knows no earlier time.
const EARLIEST: u64 = 315_532_800;
/// 2107-12-31: nor a later one.
const LATEST: u64 = 4_354_732_800;

/// One file of an archive.
pub struct Entry {
    /// Its path.
    pub path: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a file.
pub enum Content {
    /// These bytes.
    Text(Vec<u8>),
    /// The bytes of that file.
    File(PathBuf),
}

impl Entry {
    /// A file with this text.
    pub fn text(path: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Content::Text(text.into()) }
    }

    fn open(&self) -> io::Result<(Box<dyn Read + '_>, u64)> {
        Ok(match &self.content {
            Content::Text(bytes) => (Box::new(bytes.as_slice()), bytes.len() as u64),
            Content::File(path) => {
                let file = File::open(path)?;
                let size = file.metadata()?.len();
                (Box::new(file.take(size)), size)
            }
        })
    }
}

/// The one time of every entry.
pub fn moment(source_date_epoch: Option<u64>) -> u64 {
    source_date_epoch.unwrap_or(EARLIEST).clamp(EARLIEST, LATEST)
}

fn dos_time(moment: u64) -> io::Result<zip::DateTime> {
    let at = jiff::Timestamp::from_second(i64::try_from(moment).unwrap_or(0)).map_err(io::Error::other)?;
    let at = jiff::tz::Offset::UTC.to_datetime(at);
    let part = |value: i8| u8::try_from(value).unwrap_or(0);
    let year = u16::try_from(at.year()).unwrap_or(1980);
    zip::DateTime::from_date_and_time(
        year,
        part(at.month()),
        part(at.day()),
        part(at.hour()),
        part(at.minute()),
        part(at.second()),
    )
    .map_err(io::Error::other)
}

/// Writes a wheel: `package` sorted, then `about` in its order, then the record at `record`.
pub fn wheel(out: File, package: &[Entry], about: &[Entry], record: &str, moment: u64) -> io::Result<File> {
    let time = dos_time(moment)?;
    let options = |method, size| {
        let options = SimpleFileOptions::default().compression_method(method).compression_level(None);
        options.last_modified_time(time).unix_permissions(0o644).large_file(size > u64::from(u32::MAX) - (1 << 20))
    };
    let mut archive = ZipWriter::new(BufWriter::with_capacity(256 << 10, out));
    let mut lines = String::new();
    for entry in package.iter().chain(about) {
        let (mut source, size) = entry.open()?;
        // Weights hardly shrink, and what is stored is copied and installed at the disk's pace.
        let method = match entry.content {
            Content::Text(_) => CompressionMethod::Deflated,
            Content::File(_) => CompressionMethod::Stored,
        };
        archive.start_file(entry.path.as_str(), options(method, size))?;
        let digest = copy(&mut source, &mut archive, size)?;
        lines.push_str(&format!("{},sha256={},{size}\n", quoted(&entry.path), URL_SAFE_NO_PAD.encode(digest)));
    }
    lines.push_str(&format!("{record},,\n"));
    archive.start_file(record, options(CompressionMethod::Deflated, lines.len() as u64))?;
    archive.write_all(lines.as_bytes())?;
    archive.finish()?.into_inner().map_err(io::IntoInnerError::into_error)
}

/// A field of a record, which is CSV.
fn quoted(path: &str) -> String {
    if path.contains([',', '"']) { format!("\"{}\"", path.replace('"', "\"\"")) } else { path.to_owned() }
}

/// Copies exactly `size` bytes; their SHA-256.
fn copy(source: &mut dyn Read, sink: &mut dyn Write, size: u64) -> io::Result<[u8; 32]> {
    let (mut hash, mut piece, mut left) = (Sha256::new(), vec![0; 256 << 10], size);
    while left > 0 {
        let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        source.read_exact(&mut piece[..want])?;
        hash.update(&piece[..want]);
        sink.write_all(&piece[..want])?;
        left -= want as u64;
    }
    Ok(hash.finalize().into())
}

/// Writes a source distribution whose entries lie in `folder`.
pub fn sdist(out: File, folder: &str, entries: &[Entry], moment: u64) -> io::Result<File> {
    // The lowest level: weights hardly shrink at any.
    let packed = GzBuilder::new().mtime(0).write(BufWriter::with_capacity(256 << 10, out), Compression::fast());
    let mut archive = tar::Builder::new(packed);
    for entry in entries {
        let (source, size) = entry.open()?;
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(moment);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, format!("{folder}/{}", entry.path), source)?;
    }
    archive.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)
}
