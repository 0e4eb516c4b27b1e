//! Addresses of the registry: which repository a path below `/v2/` is about, and what of it; queries.
//!
//! Repository names hold slashes, so that a path is read from its end.
//!
//! Source: OCI distribution specification 1.1, endpoints.

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// Whether there is a registry.
    Base,
    /// The repositories.
    Catalog,
    /// A new upload.
    Begin,
    /// An upload, by its id.
    Upload(&'a str),
    /// A blob, by its digest.
    Blob(&'a str),
    /// A manifest, by tag or digest.
    Manifest(&'a str),
    /// The tags.
    Tags,
    /// What refers to a digest.
    Referrers(&'a str),
}

/// Repository and target of the path below `/v2/`.
pub(crate) fn read(path: &str) -> Option<(&str, Target<'_>)> {
    if path.is_empty() {
        return Some(("", Target::Base));
    }
    if path == "_catalog" {
        return Some(("", Target::Catalog));
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Some((name, Target::Tags));
    }
    if let Some(name) = path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads")) {
        return Some((name, Target::Begin));
    }
    let (rest, last) = path.rsplit_once('/')?;
    if let Some(name) = rest.strip_suffix("/blobs/uploads") {
        return Some((name, Target::Upload(last)));
    }
    if let Some(name) = rest.strip_suffix("/blobs") {
        return Some((name, Target::Blob(last)));
    }
    if let Some(name) = rest.strip_suffix("/manifests") {
        return Some((name, Target::Manifest(last)));
    }
    rest.strip_suffix("/referrers").map(|name| (name, Target::Referrers(last)))
}

/// The repository that a decoded path below `/v2/` is about; empty for addresses that are about none, none where there is no address.
pub(crate) fn repository_of(path: &str) -> Option<&str> {
    read(path).map(|(name, _)| name)
}

/// The parameters of a query, decoded.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query.
    pub fn new(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decoded(key)?, percent_decoded(&value.replace('+', "%20"))?))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The text with `%XX` decoded; none when that gives no UTF-8 or a `%` stands alone.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        assert_eq!(read(""), Some(("", Target::Base)));
        assert_eq!(read("a/b/tags/list"), Some(("a/b", Target::Tags)));
        assert_eq!(read("a/blobs/uploads/"), Some(("a", Target::Begin)));
        assert_eq!(read("a/blobs/uploads/x"), Some(("a", Target::Upload("x"))));
        assert_eq!(read("a/blobs/sha256:x"), Some(("a", Target::Blob("sha256:x"))));
        assert_eq!(read("manifests/manifests/latest"), Some(("manifests", Target::Manifest("latest"))));
        assert_eq!(read("a/b/referrers/d"), Some(("a/b", Target::Referrers("d"))));
        assert_eq!(read("a/b/c"), None);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::new(Some("digest=sha256%3Aab&tag=a&tag=b&x&bad=%zz"));
        assert_eq!(query.get("digest"), Some("sha256:ab"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((query.get("x"), query.get("bad")), (Some(""), None));
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(path in ".{0,200}") {
            let _ = (read(&path), percent_decoded(&path), Query::new(Some(&path)));
        }
    }
}
