//! Names of projects, versions and files, as Python's packaging specifications have them.
//!
//! Promises: two spellings of one name or version become the same text; no accepted file name leaves a folder.
//! Absent on purpose: the order of versions. Installers sort for themselves.
//!
//! Source: PyPA specifications "Names and normalization", "Version specifiers", "Binary distribution format", "Source distribution format".

/// Longest name of a project or file.
const LONGEST: usize = 200;

/// The one spelling of a project's name: lower case, runs of `-`, `_` and `.` become one `-`. None when it is no name.
pub fn normalise(name: &str) -> Option<String> {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let allowed = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    if !allowed || bytes.len() > LONGEST || !is_end(bytes.first()) || !is_end(bytes.last()) {
        return None;
    }
    let mut normal = String::with_capacity(name.len());
    for part in name.split(['-', '_', '.']).filter(|part| !part.is_empty()) {
        if !normal.is_empty() {
            normal.push('-');
        }
        normal.push_str(&part.to_ascii_lowercase());
    }
    Some(normal)
}

/// The one spelling of a version, or none when it is no version of PEP 440.
pub fn normalise_version(text: &str) -> Option<String> {
    if text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = Rest(lower.strip_prefix('v').unwrap_or(&lower));
    let mut normal = String::new();
    let first = rest.number()?;
    if rest.take("!") {
        if first != "0" {
            normal = format!("{first}!");
        }
        normal.push_str(&rest.number()?);
    } else {
        normal.push_str(&first);
    }
    while let Some(number) = rest.after(&["."], Rest::number) {
        normal.push('.');
        normal.push_str(&number);
    }
    // Longer spellings first: `a` begins `alpha`.
    let pre = [
        ("alpha", "a"),
        ("beta", "b"),
        ("preview", "rc"),
        ("pre", "rc"),
        ("rc", "rc"),
        ("a", "a"),
        ("b", "b"),
        ("c", "rc"),
    ];
    if let Some((kind, number)) = rest.phase(&pre) {
        normal.push_str(&format!("{kind}{number}"));
    }
    if let Some(number) = rest.after(&["-"], Rest::number) {
        normal.push_str(&format!(".post{number}"));
    } else if let Some((kind, number)) = rest.phase(&[("post", ".post"), ("rev", ".post"), ("r", ".post")]) {
        normal.push_str(&format!("{kind}{number}"));
    }
    if let Some((kind, number)) = rest.phase(&[("dev", ".dev")]) {
        normal.push_str(&format!("{kind}{number}"));
    }
    if rest.take("+") {
        let parts: Vec<&str> = rest.0.split(['.', '-', '_']).collect();
        if parts.iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
            return None;
        }
        let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = parts.into_iter().map(|part| if numeric(part) { without_zeros(part) } else { part });
        normal.push_str(&format!("+{}", parts.collect::<Vec<_>>().join(".")));
        return Some(normal);
    }
    rest.0.is_empty().then_some(normal)
}

/// Whether it is a range of versions such as `>=3.10,<4`.
pub fn is_range(text: &str) -> bool {
    const OPERATORS: [&str; 7] = [">=", "<=", "==", "!=", "~=", ">", "<"];
    !text.is_empty()
        && text.len() <= LONGEST
        && text.split(',').all(|part| {
            let part = part.trim();
            let Some(operator) = OPERATORS.iter().find(|operator| part.starts_with(**operator)) else { return false };
            let version = part[operator.len()..].trim();
            let version =
                if ["==", "!="].contains(operator) { version.strip_suffix(".*").unwrap_or(version) } else { version };
            normalise_version(version).is_some()
        })
}

fn without_zeros(digits: &str) -> &str {
    let short = digits.trim_start_matches('0');
    if short.is_empty() { "0" } else { short }
}

/// What is left to be read of a version.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn take(&mut self, text: &str) -> bool {
        self.0.strip_prefix(text).map(|rest| self.0 = rest).is_some()
    }

    fn number(&mut self) -> Option<String> {
        let length = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(length);
        self.0 = rest;
        (length > 0).then(|| without_zeros(digits).to_owned())
    }

    /// What `read` gives after one of `separators`; nothing is taken when it gives nothing.
    fn after(&mut self, separators: &[&str], read: impl Fn(&mut Self) -> Option<String>) -> Option<String> {
        let before = *self;
        let found = separators.iter().any(|separator| self.take(separator)).then(|| read(self)).flatten();
        if found.is_none() {
            *self = before;
        }
        found
    }

    /// A word and its number, 0 if none is written.
    fn phase<'w>(&mut self, words: &[(&str, &'w str)]) -> Option<(&'w str, String)> {
        const SEPARATORS: [&str; 3] = [".", "-", "_"];
        let before = *self;
        let _ = SEPARATORS.iter().any(|separator| self.take(separator));
        let Some((_, kind)) = words.iter().find(|(word, _)| self.take(word)) else {
            *self = before;
            return None;
        };
        let number = self.after(&SEPARATORS, Rest::number).or_else(|| self.number());
        Some((kind, number.unwrap_or_else(|| "0".to_owned())))
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.whl`.
    Wheel,
    /// `.tar.gz`.
    Sdist,
}

impl Kind {
    /// As the upload form says it.
    pub const fn filetype(self) -> &'static str {
        match self {
            Self::Wheel => "bdist_wheel",
            Self::Sdist => "sdist",
        }
    }
}

/// What a file's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// Kind.
    pub kind: Kind,
    /// Name of the project, normalised.
    pub project: String,
    /// Version, normalised.
    pub version: String,
    /// Python tag of a wheel.
    pub python: Option<String>,
}

impl FileName {
    /// Reads a file's name; none when it is no name of a wheel or source distribution.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+!".contains(&byte);
        if name.len() > LONGEST || !name.bytes().all(plain) || name.starts_with('.') || name.contains("..") {
            return None;
        }
        if let Some(stem) = name.strip_suffix(".whl") {
            let parts: Vec<&str> = stem.split('-').collect();
            let builds = parts.len() == 6 && parts[2].starts_with(|first: char| first.is_ascii_digit());
            if parts.iter().any(|part| part.is_empty()) || (parts.len() != 5 && !builds) {
                return None;
            }
            let python = Some(parts[parts.len() - 3].to_owned());
            let (project, version) = (normalise(parts[0])?, normalise_version(&parts[1].replace('_', "-"))?);
            return Some(Self { kind: Kind::Wheel, project, version, python });
        }
        let stem = name.strip_suffix(".tar.gz")?;
        let (project, version) = stem.rsplit_once('-')?;
        Some(Self {
            kind: Kind::Sdist,
            project: normalise(project)?,
            version: normalise_version(version)?,
            python: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for spelling in ["Wine.Quality", "wine--quality", "WINE_-.quality", "wine-quality"] {
            assert_eq!(normalise(spelling).as_deref(), Some("wine-quality"));
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "../a", "ä", &"a".repeat(201)] {
            assert_eq!(normalise(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn versions_have_one_spelling() {
        let same = [
            ("1.0.0", "1.0.0"),
            ("v1.0", "1.0"),
            ("01.002", "1.2"),
            ("1.0-rc1", "1.0rc1"),
            ("1.0.alpha", "1.0a0"),
            ("1.0_beta-2", "1.0b2"),
            ("1.0-1", "1.0.post1"),
            ("1.0-r5", "1.0.post5"),
            ("1.0.DEV3", "1.0.dev3"),
            ("1c2.post3.dev4", "1rc2.post3.dev4"),
            ("2!1", "2!1"),
            ("0!1", "1"),
            ("1+Ubuntu-007", "1+ubuntu.7"),
            ("1.0preview3", "1.0rc3"),
        ];
        for (given, normal) in same {
            assert_eq!(normalise_version(given).as_deref(), Some(normal), "{given}");
            assert_eq!(normalise_version(normal).as_deref(), Some(normal), "{normal} is not stable");
        }
        for bad in ["", "latest", "1.", "1..2", "1.0-x", "2024-01-02", "1 0", "1+", "1+a..b", "a1", "1.0.0-rc1-2-3"] {
            assert_eq!(normalise_version(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ranges_are_told_from_versions() {
        for good in [">=3.10", ">=3.10, <4", "==3.11.*", "~=1.2", "!=1.5,>1"] {
            assert!(is_range(good), "{good}");
        }
        for bad in ["", "3.10", ">=", ">=3.10,", ">=3.*", "=>3", ">=3.10; x", ">=a"] {
            assert!(!is_range(bad), "{bad}");
        }
    }

    #[test]
    fn file_names_are_read() {
        let wheel = FileName::parse("Wine_Quality-1.0.0-py3-none-any.whl").unwrap();
        assert_eq!(
            (wheel.kind, wheel.project.as_str(), wheel.version.as_str()),
            (Kind::Wheel, "wine-quality", "1.0.0")
        );
        assert_eq!(wheel.python.as_deref(), Some("py3"));
        let sdist = FileName::parse("wine-quality-1.0rc1.tar.gz").unwrap();
        assert_eq!(
            (sdist.kind, sdist.project.as_str(), sdist.version.as_str()),
            (Kind::Sdist, "wine-quality", "1.0rc1")
        );
        assert!(FileName::parse("a-1-2build-cp312-cp312-linux_x86_64.whl").is_some());
        for bad in [
            "../a-1.tar.gz",
            "a.whl",
            "a-1.zip",
            "a-1-py3-none.whl",
            ".a-1.tar.gz",
            "a-x.tar.gz",
            "a\u{0}-1.tar.gz",
            "a..b-1.tar.gz",
        ] {
            assert_eq!(FileName::parse(bad), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_them_panic(text in "\\PC{0,40}", version in "[0-9a-z!.+_-]{0,20}") {
            let _ = (normalise(&text), FileName::parse(&text), normalise_version(&text));
            if let Some(normal) = normalise_version(&version) {
                proptest::prop_assert_eq!(normalise_version(&normal), Some(normal));
            }
        }
    }
}
