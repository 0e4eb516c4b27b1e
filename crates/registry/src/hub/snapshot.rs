//! What a hub says of a repository at one commit.

use std::fmt;
use std::str::FromStr;

use modelyard_core::Digest;
use serde::Deserialize;
use serde_json::Value;

use crate::paths;

/// As many files a repository may have.
const MOST_FILES: usize = 10_000;
/// Largest file in bytes: 256 GiB.
const LARGEST: u64 = 256 << 30;

/// A repository: `ORGANISATION/NAME`, or a name alone for the oldest ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository(String);

/// The text names no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no model of a hub; write ORGANISATION/NAME, with letters, digits, -, _ and .")]
pub struct RepositoryError(String);

impl Repository {
    /// The last part of its name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_part = |part: &str| {
            !part.is_empty() && part.len() <= 96 && part.bytes().all(letters) && !part.starts_with(['.', '-'])
        };
        match text.split('/').count() <= 2 && text.split('/').all(is_part) {
            true => Ok(Self(text.to_owned())),
            false => Err(RepositoryError(text.chars().take(120).flat_map(char::escape_debug).collect())),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a file's bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Of a large file, which lies beside the repository.
    Sha256(Digest),
    /// Of a file within the repository: SHA-1 over its git blob, in hexadecimal.
    GitBlob(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::GitBlob(id) => f.write_str(id),
        }
    }
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path; never one that leaves a folder.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
    /// What its bytes must be.
    pub expected: Expected,
}

/// A repository at one commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The repository.
    pub repository: Repository,
    /// The commit, in hexadecimal.
    pub commit: String,
    /// Its files, by path.
    pub files: Vec<Listed>,
    /// All that the hub says of it.
    pub about: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    blob_id: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    #[serde(default)]
    size: Option<u64>,
}

impl Snapshot {
    /// Reads the hub's answer for a revision.
    pub(super) fn read(repository: &Repository, revision: &str, mut about: Value) -> Result<Self, String> {
        let commit = about["sha"].as_str().filter(|text| is_hex(text, 40)).ok_or("it names no commit")?.to_owned();
        if is_hex(revision, 40) && revision != commit {
            return Err(format!("it was asked for commit {revision} and answers with {commit}"));
        }
        let siblings: Vec<Sibling> = serde_json::from_value(about["siblings"].take())
            .map_err(|error| format!("its list of files is none: {error}"))?;
        if siblings.len() > MOST_FILES {
            return Err(format!("the model has more than {MOST_FILES} files"));
        }
        let mut files = siblings.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        if let Some((path, why)) = paths::clash(files.iter().map(|file| file.path.as_str())) {
            return Err(format!("the file `{}`: {why}", path.escape_debug()));
        }
        Ok(Self { repository: repository.clone(), commit, files, about })
    }
}

fn listed(sibling: Sibling) -> Result<Listed, String> {
    let path = sibling.rfilename;
    let refused = |why: &str| {
        let shown: String = path.chars().take(200).flat_map(char::escape_debug).collect();
        Err(format!("the file `{shown}`: {why}"))
    };
    if let Some(why) = paths::fault(&path) {
        return refused(why);
    }
    let size = sibling.lfs.as_ref().and_then(|lfs| lfs.size).or(sibling.size);
    let Some(size_bytes) = size.filter(|&size| size <= LARGEST) else {
        return refused("its length is not said, or it is longer than 256 GiB");
    };
    let expected = match (sibling.lfs, sibling.blob_id) {
        (Some(lfs), _) => format!("sha256:{}", lfs.sha256).parse().ok().map(Expected::Sha256),
        (None, Some(id)) if is_hex(&id, 40) => Some(Expected::GitBlob(id)),
        (None, _) => None,
    };
    match expected {
        Some(expected) => Ok(Listed { path, size_bytes, expected }),
        None => refused("it is not said what its digest must be"),
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(siblings: Value) -> Result<Snapshot, String> {
        let about = json!({"sha": COMMIT, "siblings": siblings, "tags": ["onnx"]});
        Snapshot::read(&"org/name".parse().unwrap(), "main", about)
    }

    #[test]
    fn repositories_have_one_part_or_two() {
        for good in ["gpt2", "org/name", "a_b/c-d.e"] {
            assert_eq!(good.parse::<Repository>().unwrap().to_string(), good);
        }
        for bad in ["", "/", "a/", "a/b/c", "../b", "a/..", "a b/c", "a/b?x", "a/b#x", "a%2Fb", "a/.git"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_file_has_a_length_and_a_digest() {
        let sha = "a".repeat(64);
        let found = read(json!([
            {"rfilename": "onnx/model.onnx", "size": 9, "blobId": COMMIT, "lfs": {"sha256": sha, "size": 9, "pointerSize": 134}},
            {"rfilename": "README.md", "size": 3, "blobId": COMMIT},
        ]))
        .unwrap();
        let paths: Vec<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["README.md", "onnx/model.onnx"]);
        assert_eq!(found.files[0].expected, Expected::GitBlob(COMMIT.to_owned()));
        assert_eq!(found.files[1].expected.to_string(), format!("sha256:{sha}"));
    }

    #[test]
    fn hostile_lists_are_refused() {
        let file = |path: &str| json!({"rfilename": path, "size": 1, "blobId": COMMIT});
        for (siblings, says) in [
            (json!([file("../x")]), "leaves the folder"),
            (json!([file("/etc/passwd")]), "absolute"),
            (json!([file("a"), file("A")]), "upper and lower case"),
            (json!([file("a"), file("a/b")]), "also a folder"),
            (json!([{"rfilename": "a", "size": 1}]), "digest"),
            (json!([{"rfilename": "a", "blobId": COMMIT}]), "length"),
            (json!([{"rfilename": "a", "size": 1, "blobId": "x"}]), "digest"),
            (json!([{"rfilename": "a", "size": u64::MAX, "blobId": COMMIT}]), "longer than"),
            (json!([{"rfilename": "a", "size": 1, "lfs": {"sha256": "x"}}]), "digest"),
            (json!("x"), "list of files"),
        ] {
            let why = read(siblings.clone()).unwrap_err();
            assert!(why.contains(says), "{siblings}: {why}");
        }
        let moved = json!({"sha": "f".repeat(40), "siblings": []});
        assert!(Snapshot::read(&"a/b".parse().unwrap(), COMMIT, moved).unwrap_err().contains("answers with"));
        assert!(Snapshot::read(&"a/b".parse().unwrap(), "main", json!({})).unwrap_err().contains("no commit"));
    }
}
