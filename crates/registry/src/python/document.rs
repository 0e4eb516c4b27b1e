//! The metadata within wheels and source distributions.
//!
//! Promises: archives come from anybody: what is read of them is bounded, and nothing is laid out on disk.
//!
//! Source: PyPA specification "Core metadata": header fields as in e-mails, the description as the body.

use std::fs::File;
use std::io::{Read, Seek};

use crate::names::python::{FileName, Kind};

/// Longest metadata.
pub const MAX_METADATA_BYTES: u64 = 8 << 20;
/// As much of a source distribution is searched for its metadata.
const MAX_SEARCHED_BYTES: u64 = 4 << 30;
/// As many entries of an archive are looked at.
const MAX_ENTRIES: usize = 100_000;

/// Header fields and description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    fields: Vec<(String, String)>,
    body: String,
}

impl Document {
    /// Reads the text. Lines that are no fields are an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut document = Self::default();
        let mut lines = text.split_inclusive('\n');
        for line in lines.by_ref() {
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                break;
            }
            if line.starts_with([' ', '\t']) {
                let (_, value) = document.fields.last_mut().ok_or("the metadata begins with a continued line")?;
                value.push('\n');
                value.push_str(line.trim_start());
                continue;
            }
            let (name, value) = line.split_once(':').ok_or("the metadata has a line without `:`")?;
            document.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        document.body = lines.collect();
        Ok(document)
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every field in order, names in lower case.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The description.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Whether it is the metadata of the file of that name.
    pub fn check(&self, name: &FileName) -> Result<(), String> {
        let field = |field: &str| self.get(field).ok_or(format!("its metadata has no `{field}`"));
        let (project, version) = (field("Name")?, field("Version")?);
        if super::normalise(project).as_deref() != Some(&name.project) {
            return Err(format!("its metadata names the project `{}`", shortened(project)));
        }
        if super::normalise_version(version).as_deref() != Some(&name.version) {
            return Err(format!("its metadata says version `{}`", shortened(version)));
        }
        Ok(())
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The metadata of a file, as text.
pub fn read(file: &mut File, name: &FileName) -> Result<String, String> {
    file.rewind().map_err(|error| error.to_string())?;
    let bytes = match name.kind {
        Kind::Wheel => of_wheel(file)?,
        Kind::Sdist => of_sdist(file)?,
    };
    String::from_utf8(bytes).map_err(|_| "its metadata is not UTF-8".to_owned())
}

fn of_wheel(file: &mut File) -> Result<Vec<u8>, String> {
    let mut archive = zip::ZipArchive::new(file).map_err(|error| format!("it is no zip archive: {error}"))?;
    if archive.len() > MAX_ENTRIES {
        return Err(format!("it has more than {MAX_ENTRIES} entries"));
    }
    let names = archive.file_names().filter_map(Result::ok).map(|name| name.into_owned());
    let found: Vec<String> = names.filter(|name| is_metadata(name)).collect();
    let [found] = found.as_slice() else {
        return Err(format!("it has {} files `*.dist-info/METADATA`, and a wheel has one", found.len()));
    };
    let entry = archive.by_name(found).map_err(|error| error.to_string())?;
    bounded(entry)
}

fn is_metadata(path: &str) -> bool {
    path.split_once('/').is_some_and(|(folder, name)| folder.ends_with(".dist-info") && name == "METADATA")
}

fn of_sdist(file: &mut File) -> Result<Vec<u8>, String> {
    let plain = flate2::read::GzDecoder::new(file).take(MAX_SEARCHED_BYTES);
    let mut archive = tar::Archive::new(plain);
    let wrong = |error: std::io::Error| format!("it is no gzipped tar archive: {error}");
    for entry in archive.entries().map_err(wrong)?.take(MAX_ENTRIES) {
        let entry = entry.map_err(wrong)?;
        let path = entry.path_bytes();
        let is_it = path.split(|&byte| byte == b'/').count() == 2 && path.ends_with(b"/PKG-INFO");
        if is_it && entry.header().entry_type().is_file() {
            drop(path);
            return bounded(entry);
        }
    }
    Err("it has no `PKG-INFO` in its folder".to_owned())
}

fn bounded(source: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    source.take(MAX_METADATA_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_METADATA_BYTES {
        Err("its metadata is longer than 8 MiB".to_owned())
    } else {
        Ok(bytes)
    }
}

/// Looks for the metadata in what claims to be a wheel, and a source distribution.
#[cfg(fuzzing)]
pub(crate) fn fuzz(file: &mut File) {
    for name in ["iris-1.0.0-py3-none-any.whl", "iris-1.0.0.tar.gz"] {
        if let Some(name) = FileName::parse(name) {
            let _ = read(file, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_body_are_read() {
        let text = "Metadata-Version: 2.4\nName: Wine\nVersion: 1.0\nKeywords: a,\n  b\n\n# Card\n\ntext\n";
        let document = Document::parse(text).unwrap();
        assert_eq!((document.get("name"), document.get("Keywords")), (Some("Wine"), Some("a,\nb")));
        assert_eq!(document.body(), "# Card\n\ntext\n");
        let name = FileName::parse("wine-1.0-py3-none-any.whl").unwrap();
        assert_eq!(document.check(&name), Ok(()));
        assert!(document.check(&FileName::parse("wine-1.1.tar.gz").unwrap()).unwrap_err().contains("version `1.0`"));
        assert!(Document::parse(" x\n").is_err() && Document::parse("no field\n").is_err());
    }

    proptest::proptest! {
        #[test]
        fn hostile_archives_are_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            for name in ["a-1-py3-none-any.whl", "a-1.tar.gz"] {
                proptest::prop_assert!(read(&mut file, &FileName::parse(name).unwrap()).is_err());
            }
        }
    }
}
