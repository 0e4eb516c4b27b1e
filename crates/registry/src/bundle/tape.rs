//! Where everything is in a tar archive, without reading what it holds.
//!
//! Promises: memory is bounded by the number of entries, which is limited; what is no plain file or folder is refused by name; no two entries have one
//! path; no entry reaches past the end of the file.
//! Why not the archive reader of a library: those read long names and extensions into memory, as long as a hostile header says they are.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use tar::{EntryType, Header};

use crate::paths;

/// Blocks of a tar archive.
const BLOCK: u64 = 512;
/// Most entries: some thousand packages.
const MOST_ENTRIES: usize = 200_000;
/// Longest extended header, in bytes: a path and a size are some hundred.
const LONGEST_HEADER: u64 = 64 << 10;

/// Where an entry's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte, from the start of the archive.
    pub offset: u64,
    /// Number of bytes.
    pub size: u64,
}

/// Why an archive is refused.
#[derive(Debug)]
pub enum Refused {
    /// It cannot be read.
    Read(io::Error),
    /// It is no tar archive, or breaks off.
    Archive(String),
    /// One entry is refused: its path, and why.
    Entry(String, String),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What an extended header says of the entry that follows it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Every plain file of the archive, by its path.
///
/// # Errors
/// [`Refused`].
pub fn scan(source: &mut (impl Read + Seek)) -> Result<BTreeMap<String, Place>, Refused> {
    let end = source.seek(SeekFrom::End(0))?;
    let (mut found, mut said, mut at, mut entries) = (BTreeMap::new(), Said::default(), 0_u64, 0);
    while at + BLOCK <= end {
        let mut block = [0; 512];
        source.seek(SeekFrom::Start(at))?;
        source.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        entries += 1;
        if entries > MOST_ENTRIES {
            return Err(Refused::Archive(format!("it has more than {MOST_ENTRIES} entries")));
        }
        let header = checked(&block, at)?;
        let kind = header.entry_type();
        let extends = matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName);
        let name = said.path.as_deref().filter(|_| !extends).map_or_else(|| header.path_bytes(), Into::into);
        let name = String::from_utf8_lossy(&name).into_owned();
        let refuse = |why: &str| Err(Refused::Entry(shown(&name), why.to_owned()));
        let Ok(stated) = header.entry_size() else { return refuse("has no size that can be read") };
        let size = said.size.filter(|_| !extends).unwrap_or(stated);
        let offset = at + BLOCK;
        let after = offset.checked_add(size).and_then(|last| last.checked_next_multiple_of(BLOCK));
        let Some(after) = after.filter(|_| size <= end - offset) else {
            return refuse("reaches past the end of the file: it was cut off");
        };
        if extends {
            if size > LONGEST_HEADER {
                return refuse("has an extended header that is far too long");
            }
            let text = read(source, Place { offset, size })?;
            extend(&mut said, kind, &text).map_err(|why| Refused::Entry(shown(&name), why.to_owned()))?;
        } else {
            said = Said::default();
            keep(&mut found, kind, &name, Place { offset, size })?;
        }
        at = after;
    }
    match entries {
        0 => Err(Refused::Archive("it is no tar archive".to_owned())),
        _ => Ok(found),
    }
}

/// Reads the header that starts at `at`.
fn checked(block: &[u8; 512], at: u64) -> Result<&Header, Refused> {
    let header = Header::from_byte_slice(block);
    // The checksum is that of the header with spaces in its place.
    let sum: u32 =
        block.iter().enumerate().map(|(i, byte)| u32::from(if (148..156).contains(&i) { b' ' } else { *byte })).sum();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(header),
        _ if at == 0 => Err(Refused::Archive("it is no tar archive".to_owned())),
        _ => Err(Refused::Archive(format!("the tar header at byte {at} is damaged"))),
    }
}

fn keep(found: &mut BTreeMap<String, Place>, kind: EntryType, name: &str, place: Place) -> Result<(), Refused> {
    let refuse = |why: &str| Err(Refused::Entry(shown(name), why.to_owned()));
    let path = name.strip_prefix("./").unwrap_or(name);
    let is_folder = kind == EntryType::Directory;
    let path = if is_folder { path.trim_end_matches('/') } else { path };
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
        EntryType::Symlink | EntryType::Link => return refuse("is a link"),
        _ => return refuse("is neither a file nor a folder"),
    }
    if is_folder && matches!(path, "" | ".") {
        return Ok(());
    }
    if let Some(why) = paths::fault(path) {
        return refuse(&format!("has a path that is refused: {why}"));
    }
    if !is_folder && found.insert(path.to_owned(), place).is_some() {
        return refuse("is there twice");
    }
    Ok(())
}

fn extend(said: &mut Said, kind: EntryType, text: &[u8]) -> Result<(), &'static str> {
    match kind {
        EntryType::GNULongName => said.path = Some(text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
        EntryType::XHeader => {
            for (key, value) in records(text).ok_or("has an extended header that cannot be read")? {
                match key {
                    b"path" => said.path = Some(value.to_vec()),
                    b"size" => {
                        let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                        said.size = Some(size.ok_or("has a size that cannot be read")?);
                    }
                    _ if key.starts_with(b"GNU.sparse") => return Err("is a sparse file"),
                    _ => {}
                }
            }
        }
        // What is said of all entries is times and comments; nothing here depends on it.
        _ => {}
    }
    Ok(())
}

/// `LENGTH KEY=VALUE\n`, the length counting all of it.
fn records(text: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let (mut found, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length: usize = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        let record = rest.get(..length)?.get(digits..)?.strip_prefix(b" ")?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Some(found)
}

/// The bytes at a place, which the caller has found short enough.
pub fn read(source: &mut (impl Read + Seek), place: Place) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.seek(SeekFrom::Start(place.offset))?;
    source.by_ref().take(place.size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == place.size { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn shown(name: &str) -> String {
    name.chars().take(120).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, kind, content) in entries {
            let mut header = Header::new_ustar();
            // As bytes: the library would not write the paths that a hostile archive has.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    fn refusal(bytes: &[u8]) -> String {
        match scan(&mut Cursor::new(bytes)) {
            Ok(found) => panic!("accepted: {found:?}"),
            Err(Refused::Read(error)) => error.to_string(),
            Err(Refused::Archive(why)) => why,
            Err(Refused::Entry(entry, why)) => format!("{entry} {why}"),
        }
    }

    #[test]
    fn files_are_found_where_they_are() {
        let bytes = archive(&[
            ("./", EntryType::Directory, b""),
            ("./blobs/", EntryType::Directory, b""),
            ("./index.json", EntryType::Regular, b"{}"),
            ("x", EntryType::XHeader, b"18 path=blobs/abc\n13 comment=x\n"),
            ("short", EntryType::Regular, b"content"),
            ("././@LongLink", EntryType::GNULongName, b"blobs/def\0"),
            ("short", EntryType::Regular, b""),
        ]);
        let mut source = Cursor::new(&bytes);
        let found = scan(&mut source).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["blobs/abc", "blobs/def", "index.json"]);
        assert_eq!(read(&mut source, found["blobs/abc"]).unwrap(), b"content");
        assert_eq!(read(&mut source, found["index.json"]).unwrap(), b"{}");
    }

    #[test]
    fn what_no_bundle_holds_is_refused_by_name() {
        let one = |path: &str, kind| archive(&[(path, kind, b"")]);
        for (path, kind, why) in [
            ("../../etc/passwd", EntryType::Regular, "it leaves the folder"),
            ("/etc/passwd", EntryType::Regular, "it is absolute"),
            ("blobs/../../x", EntryType::Directory, "it leaves the folder"),
            ("blobs/sha256/x", EntryType::Symlink, "is a link"),
            ("blobs/sha256/x", EntryType::Link, "is a link"),
            ("null", EntryType::Char, "neither a file nor a folder"),
            ("holes", EntryType::GNUSparse, "neither a file nor a folder"),
        ] {
            let said = refusal(&one(path, kind));
            assert!(said.starts_with(path) && said.contains(why), "{said}");
        }
        let twice = archive(&[("a", EntryType::Regular, b"1"), ("a", EntryType::Regular, b"2")]);
        assert!(refusal(&twice).contains("is there twice"));
        let sparse = archive(&[("x", EntryType::XHeader, b"22 GNU.sparse.major=1\n"), ("a", EntryType::Regular, b"")]);
        assert!(refusal(&sparse).contains("is a sparse file"), "{}", refusal(&sparse));
        let garbled = archive(&[("x", EntryType::XHeader, b"99 path=x\n"), ("a", EntryType::Regular, b"")]);
        assert!(refusal(&garbled).contains("cannot be read"));
    }

    #[test]
    fn what_breaks_off_or_is_damaged_is_said() {
        let bytes = archive(&[("a", EntryType::Regular, &[7; 2_000]), ("b", EntryType::Regular, b"x")]);
        assert!(refusal(&bytes[..1_500]).contains("cut off"));
        assert_eq!(refusal(b""), "it is no tar archive");
        assert_eq!(refusal(&[1; 4_096]), "it is no tar archive");
        let mut damaged = bytes.clone();
        damaged[2_560] ^= 1;
        assert!(refusal(&damaged).contains("the tar header at byte 2560 is damaged"), "{}", refusal(&damaged));
        // A size that would wrap around, and an extended header that would fill the memory.
        let mut header = Header::new_gnu();
        header.set_size(u64::MAX - 100);
        header.set_cksum();
        assert!(refusal(&[header.as_bytes().as_slice(), &[0; 1_024]].concat()).contains("past the end"));
        let long = archive(&[("x", EntryType::GNULongName, &[b'a'; 70_000])]);
        assert!(refusal(&long).contains("far too long"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2_000)) {
            let _ = scan(&mut Cursor::new(&bytes));
        }

        #[test]
        fn no_change_of_an_archive_makes_it_panic(at in 0_usize..2_560, bit in 0_u8..8) {
            let mut bytes = archive(&[("x", EntryType::XHeader, b"18 path=blobs/abc\n"), ("a", EntryType::Regular, b"12")]);
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            let _ = scan(&mut Cursor::new(&bytes));
        }
    }
}
