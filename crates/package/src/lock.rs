//! `modelyard.lock`: every dependency of a `python` package, pinned with hashes.
//!
//! The form is that of a requirements file, so that uv and pip install from it as it is, with a heading that says what it was made from.
//! Promises: a lock that passes names each file by its hash, so that no index can give something else; one that is out of date, incomplete or
//! edited to be looser is told apart, with its line.
//! Absent on purpose: resolving. uv does that.
//!
//! Source: pip documentation, "Requirements File Format" and "Secure installs"; PyPA specification "Dependency specifiers".

use std::collections::BTreeMap;

use modelyard_registry::blob::digest_of;
use modelyard_registry::python::{normalise, normalise_version};

const HEADING: &str = "# modelyard.lock 1: written by `modelyard lock`, not by hand";
const MADE_FROM: &str = "# requirements: sha256:";
const PYTHON: &str = "# python: ";

/// One pinned dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its normalised name.
    pub name: String,
    /// Its one version.
    pub version: String,
    /// Where it is needed, such as `python_full_version < '3.11'`; empty for everywhere.
    pub marker: String,
    /// SHA-256 of the files that may be installed, in hexadecimal digits.
    pub hashes: Vec<String>,
}

/// A lock that was read and found complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// SHA-256 of the requirements that it was made from, in hexadecimal digits.
    requirements: String,
    /// Versions of Python that it was made for.
    python: String,
    /// Its pins, in their order.
    pub pins: Vec<Pin>,
}

/// The heading of a lock that is made from these requirements.
pub fn heading(requirements: &[u8], python: &str) -> String {
    format!("{HEADING}\n{MADE_FROM}{}\n{PYTHON}{python}\n", digest_of(requirements).hex())
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// The first line that is no complete pin, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let mut headed = |what: &str| lines.next().and_then(|line| line.strip_prefix(what)).map(str::to_owned);
        let whole = headed(HEADING).and_then(|_| Some((headed(MADE_FROM)?, headed(PYTHON)?)));
        let (requirements, python) = whole.ok_or("its heading is not that of a lock")?;
        let mut pins = Vec::new();
        let mut numbered = text.lines().enumerate().skip(3);
        while let Some((index, line)) = numbered.next() {
            let mut whole = line.trim().to_owned();
            while whole.ends_with('\\') {
                whole.pop();
                let Some((_, more)) = numbered.next() else { break };
                whole.push(' ');
                whole.push_str(more.trim());
            }
            if !whole.trim().is_empty() && !whole.starts_with('#') {
                pins.push(pin(&whole).map_err(|why| format!("line {}: {why}", index + 1))?);
            }
        }
        Ok(Self { requirements, python, pins })
    }

    /// Whether it is the lock of these requirements, for these versions of Python.
    ///
    /// # Errors
    /// What is out of date or missing.
    pub fn check(&self, requirements: &[u8], python: &str) -> Result<(), String> {
        let needed = direct(requirements)?;
        if self.requirements != digest_of(requirements).hex() {
            return Err("it was made from other requirements than are there now".to_owned());
        }
        if self.python != python {
            return Err(format!("it was made for Python {}, and the package is for {python}", self.python));
        }
        match needed.keys().find(|name| !self.pins.iter().any(|pin| pin.name == **name)) {
            Some(name) => Err(format!("`{name}` is not in it")),
            None => Ok(()),
        }
    }
}

fn pin(line: &str) -> Result<Pin, String> {
    let mut words = line.split_whitespace();
    let hashes: Vec<&str> = line.split_whitespace().filter_map(|word| word.strip_prefix("--hash=")).collect();
    let rest: Vec<&str> = words.by_ref().filter(|word| !word.starts_with("--hash=")).collect();
    let rest = rest.join(" ");
    if rest.starts_with('-') || rest.contains(" --") {
        return Err("options do not belong into a lock: indexes are settings of whoever installs".to_owned());
    }
    let (requirement, marker) = rest.split_once(';').unwrap_or((&rest, ""));
    let (named, version) = requirement.split_once("==").ok_or("it is not pinned with `==`")?;
    let name = named.split('[').next().map(str::trim).and_then(normalise).ok_or("it names no project")?;
    let version = version.trim();
    if normalise_version(version).is_none() {
        return Err(format!("`{name}` is not pinned to one version"));
    }
    let hashes: Option<Vec<String>> = hashes
        .into_iter()
        .map(|hash| {
            let digits = hash.strip_prefix("sha256:")?;
            (digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .then(|| digits.to_ascii_lowercase())
        })
        .collect();
    match hashes {
        Some(hashes) if !hashes.is_empty() => {
            Ok(Pin { name, version: version.to_owned(), marker: marker.trim().to_owned(), hashes })
        }
        Some(_) => Err(format!("`{name}` has no hash")),
        None => Err(format!("`{name}` has a hash that is no SHA-256")),
    }
}

/// What a requirements file asks for by name, with what it says of each.
///
/// # Errors
/// Which line is none that a lock can be made from.
pub fn direct(requirements: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let text = std::str::from_utf8(requirements).map_err(|_| "the requirements are not UTF-8")?;
    let mut found = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or(line).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |why: &str| format!("line {} of the requirements: {why}", index + 1);
        if line.starts_with('-') || line.ends_with('\\') {
            return Err(refuse("write every dependency in this one file, without options"));
        }
        let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || "-_.".contains(letter)));
        let (name, rest) = line.split_at(end.unwrap_or(line.len()));
        if rest.contains('@') {
            return Err(refuse("a dependency from a path or URL cannot be locked: give it a version on an index"));
        }
        let name = normalise(name).ok_or_else(|| refuse("it names no project"))?;
        found.insert(name, rest.trim().to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &[u8] = b"numpy>=2 # arrays\n\n# a comment\nSix\n";

    fn whole() -> String {
        let (one, two) = ("a".repeat(64), "b".repeat(64));
        format!(
            "{}numpy==2.2.6 ; python_full_version < '3.11' \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\nnumpy==2.3.0 ; \
             python_full_version >= '3.11' --hash=sha256:{one}\n    # via me\nsix==1.17.0 --hash=sha256:{two}\n",
            heading(ASKED, ">=3.10")
        )
    }

    #[test]
    fn a_lock_is_read_and_is_that_of_its_requirements() {
        let lock = Lock::parse(&whole()).unwrap();
        let names: Vec<_> =
            lock.pins.iter().map(|pin| (pin.name.as_str(), pin.version.as_str(), pin.hashes.len())).collect();
        assert_eq!(names, [("numpy", "2.2.6", 2), ("numpy", "2.3.0", 1), ("six", "1.17.0", 1)]);
        assert_eq!(lock.pins[0].marker, "python_full_version < '3.11'");
        assert_eq!(lock.check(ASKED, ">=3.10"), Ok(()));
        assert_eq!(direct(ASKED).unwrap()["numpy"], ">=2");
    }

    #[test]
    fn tampered_and_outdated_locks_are_told_apart() {
        let hash = format!("--hash=sha256:{}", "b".repeat(64));
        for (from, to, what) in [
            ("six==1.17.0", "six>=1.17.0", "not pinned with `==`"),
            ("six==1.17.0", "six==1.*", "not pinned to one version"),
            ("six==1.17.0", "six @ https://example.com/six.whl", "not pinned"),
            (&format!("six==1.17.0 {hash}") as &str, "six==1.17.0", "`six` has no hash"),
            (&format!("six==1.17.0 {hash}"), "six==1.17.0 --hash=md5:abcd", "no SHA-256"),
            ("six==1.17.0", "--index-url https://example.com six==1.17.0", "options do not belong"),
            (HEADING, "# by hand", "heading"),
        ] {
            let text = whole().replace(from, to);
            let error = Lock::parse(&text).and_then(|lock| lock.check(ASKED, ">=3.10")).unwrap_err();
            assert!(error.contains(what), "{error} does not say {what}");
        }
        let lock = Lock::parse(&whole()).unwrap();
        assert!(lock.check(b"numpy>=3\nSix\n", ">=3.10").unwrap_err().contains("other requirements"));
        assert!(lock.check(ASKED, ">=3.11").unwrap_err().contains("made for Python >=3.10"));
        let less = Lock::parse(&whole().replace(&format!("six==1.17.0 {hash}"), "")).unwrap();
        assert_eq!(less.check(ASKED, ">=3.10").unwrap_err(), "`six` is not in it");
    }

    #[test]
    fn requirements_that_cannot_be_locked_are_refused_with_their_line() {
        for (text, what) in [
            ("numpy\n-r other.txt", "line 2"),
            ("-e .", "without options"),
            ("six @ file:///six.whl", "path or URL"),
            ("=1", "no project"),
        ] {
            let error = direct(text.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(six==1|numpy|--hash=sha256:|\\\\|\n|;|[ -~]){0,40}") {
            let _ = Lock::parse(&format!("{}{text}", heading(b"", ">=3.9")));
            let _ = direct(text.as_bytes());
        }
    }
}
