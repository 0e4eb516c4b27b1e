//! Provenance: from which source, by which builder, out of which inputs a package was made.
//!
//! Source: SLSA 1.0, provenance (`https://slsa.dev/provenance/v1`); the build type is described in docs/reference/provenance.md.

use std::collections::BTreeMap;

use modelyard_core::package::{Lineage, Package};
use modelyard_core::{Digest, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::attestation::Attested;
use crate::access::{fits, instant};

/// What a statement of provenance calls itself.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// How Modelyard builds: what the parameters mean.
pub const BUILD_TYPE: &str = "https://github.com/modelyard/modelyard/blob/main/docs/reference/provenance.md#v1";

/// A state of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where the repository is: `git+https://host/team/models`.
    pub uri: String,
    /// The branch or tag that was looked at, such as `refs/heads/main`.
    pub reference: Option<String>,
    /// Its commit, in hexadecimal.
    pub commit: String,
    /// The folder within it, with `/`; empty for its top.
    pub folder: String,
    /// Which files of the package's folder are part of the commit.
    pub tracked: std::collections::BTreeSet<String>,
}

/// How a package was made.
#[derive(Debug)]
pub struct Build<'a> {
    /// Who built: a URI.
    pub builder: &'a str,
    /// Version of Modelyard.
    pub version: &'a str,
    /// From where; none when that is not known.
    pub source: Option<&'a Source>,
    /// Every file that went in, by its path.
    pub inputs: &'a BTreeMap<String, Digest>,
    /// When it began and ended.
    pub between: (Timestamp, Timestamp),
}

impl Build<'_> {
    /// What is stated.
    pub fn predicate(&self, package: &Package) -> Value {
        let mut parameters = json!({ "name": package.name, "version": package.version });
        let mut dependencies = Vec::new();
        if let Some(source) = self.source {
            let uri = match &source.reference {
                Some(reference) => format!("{}@{reference}", source.uri),
                None => source.uri.clone(),
            };
            parameters["source"] = json!(uri);
            parameters["folder"] = json!(source.folder);
            dependencies.push(json!({ "uri": uri, "digest": { "gitCommit": source.commit } }));
        }
        dependencies.extend(self.inputs.iter().map(|(path, digest)| {
            let mut input = json!({ "name": path, "digest": { "sha256": digest.hex() } });
            if let Some(source) = self.source {
                input["annotations"] = json!({ "tracked": source.tracked.contains(path) });
            }
            input
        }));
        if let Some(lineage) = &package.lineage {
            dependencies.extend(made_from(lineage));
            if let Some(revision) = &lineage.revision {
                parameters["revision"] = json!(revision);
            }
        }
        json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE, "externalParameters": parameters, "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": { "id": self.builder, "version": { "modelyard": self.version } },
                "metadata": { "startedOn": instant(self.between.0), "finishedOn": instant(self.between.1) },
            },
        })
    }
}

/// The packages and data sets that a package names, as its document has them: digests alone, for neither was at hand.
fn made_from(lineage: &Lineage) -> impl Iterator<Item = Value> + '_ {
    let ancestors = lineage.built_from.iter().map(|one| {
        let name = match &one.version {
            Some(version) => format!("{}:{version}", one.name),
            None => one.name.to_string(),
        };
        json!({ "name": name, "digest": { "sha256": one.digest.hex() }, "annotations": { "kind": "package" } })
    });
    let datasets = lineage.datasets.iter().map(|(name, digest)| {
        json!({ "name": name, "digest": { "sha256": digest.hex() }, "annotations": { "kind": "data set" } })
    });
    ancestors.chain(datasets)
}

/// A statement of provenance, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The object that holds it.
    pub object: Digest,
    /// Who built.
    pub builder: String,
    /// Where the source is, without branch or tag.
    pub source: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// How many inputs are named.
    pub inputs: usize,
    /// Which of the keys signed it.
    pub key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: Definition,
    run_details: Details,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    #[serde(default)]
    resolved_dependencies: Vec<Resource>,
}

#[derive(Deserialize)]
struct Details {
    builder: Builder,
}

#[derive(Deserialize)]
struct Builder {
    id: String,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

impl Provenance {
    /// Reads an attestation; none when it states something else, or is no provenance as SLSA 1.0 has it.
    ///
    /// The source is the first dependency with a git commit, whoever made the statement.
    pub fn of(attested: &Attested) -> Option<Self> {
        if attested.predicate_type != PROVENANCE {
            return None;
        }
        let Predicate { build_definition, run_details } = Predicate::deserialize(&attested.predicate).ok()?;
        let all = build_definition.resolved_dependencies;
        let source = all.iter().find(|resource| resource.digest.contains_key("gitCommit"));
        // `git+ssh://git@host/…` has an @ of its own, so the whole beginning of a reference is looked for.
        let place = |uri: &String| uri.rsplit_once("@refs/").map_or(uri.as_str(), |(place, _)| place).to_owned();
        Some(Self {
            object: attested.object,
            builder: run_details.builder.id,
            source: source.and_then(|source| source.uri.as_ref()).map(place),
            commit: source.and_then(|source| source.digest.get("gitCommit")).cloned(),
            inputs: all.len(),
            key: attested.key.clone(),
        })
    }

    /// Whether one of the keys stands for it, and it comes from one of these sources and builders; `*` stands for any letters, and a list
    /// without patterns takes all.
    pub fn fulfils(&self, sources: &[String], builders: &[String]) -> bool {
        let one_of =
            |patterns: &[String], name: &str| patterns.is_empty() || patterns.iter().any(|one| fits(one, name));
        let from = match &self.source {
            Some(source) => one_of(sources, source),
            None => sources.is_empty(),
        };
        self.key.is_some() && from && one_of(builders, &self.builder)
    }
}

/// Why none of the statements is what is demanded; none when one is.
pub fn why_not(found: &[Provenance], sources: &[String], builders: &[String]) -> Option<String> {
    if found.iter().any(|provenance| provenance.fulfils(sources, builders)) {
        return None;
    }
    let told = |provenance: &Provenance| match (&provenance.key, &provenance.source) {
        (None, _) => "one signed by another key".to_owned(),
        (_, source) => {
            let source = source.as_deref().unwrap_or("an unknown source");
            format!("one from {} by {}", source.escape_debug(), provenance.builder.escape_debug())
        }
    };
    let others: Vec<String> = found.iter().take(8).map(told).collect();
    let others = if others.is_empty() { "it has none".to_owned() } else { format!("it has {}", others.join(", ")) };
    let or = |patterns: &[String]| if patterns.is_empty() { "anywhere".to_owned() } else { patterns.join(" or ") };
    Some(format!("provenance from {} by {} is demanded, and {others}", or(sources), or(builders)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provenance(uri: &str, key: Option<&str>) -> Provenance {
        let predicate = json!({
            "buildDefinition": { "buildType": "x", "externalParameters": {}, "resolvedDependencies": [
                { "name": "model.onnx", "digest": { "sha256": "00" } },
                { "uri": uri, "digest": { "gitCommit": "abc" } },
            ] },
            "runDetails": { "builder": { "id": "https://ci.example/release" } },
        });
        let attested = Attested {
            object: crate::blob::digest_of(b""),
            envelope: crate::blob::digest_of(b""),
            predicate_type: PROVENANCE.to_owned(),
            predicate,
            key: key.map(str::to_owned),
        };
        Provenance::of(&attested).unwrap()
    }

    #[test]
    fn a_source_is_read_without_its_branch() {
        let of = |uri| provenance(uri, None).source.unwrap();
        assert_eq!(of("git+https://git.example/a@refs/heads/main"), "git+https://git.example/a");
        assert_eq!(of("git+ssh://git@git.example/a"), "git+ssh://git@git.example/a");
        assert_eq!(of("git+ssh://git@git.example/a@refs/tags/v1"), "git+ssh://git@git.example/a");
    }

    #[test]
    fn what_a_package_says_it_was_made_from_is_stated_of_it() {
        let (base, data) = (crate::blob::digest_of(b"base"), crate::blob::digest_of(b"data"));
        let document = |lineage: Value| {
            let mut package = json!({
                "format_version": 1, "name": "wine", "version": "2", "files": {},
                "runtime": { "kind": "none" }, "signature": { "inputs": [], "outputs": [] },
            });
            if lineage.is_object() {
                package["lineage"] = lineage;
            }
            serde_json::from_value::<Package>(package).unwrap()
        };
        let inputs = BTreeMap::new();
        let between = (Timestamp(0), Timestamp(0));
        let build =
            Build { builder: "https://ci.example/release", version: "1", source: None, inputs: &inputs, between };
        let made = json!({
            "built_from": [{ "name": "wine", "version": "1", "digest": base }, { "name": "grape", "digest": base }],
            "revision": "4f2c1ab", "datasets": { "train": data },
        });
        let stated = build.predicate(&document(made))["buildDefinition"].take();
        assert_eq!(stated["externalParameters"], json!({ "name": "wine", "version": "2", "revision": "4f2c1ab" }));
        let part = |name: &str, digest: Digest, kind: &str| json!({ "name": name, "digest": { "sha256": digest.hex() }, "annotations": { "kind": kind } });
        let expected =
            json!([part("wine:1", base, "package"), part("grape", base, "package"), part("train", data, "data set")]);
        assert_eq!(stated["resolvedDependencies"], expected);
        let plain = build.predicate(&document(Value::Null))["buildDefinition"].take();
        assert_eq!(
            (&plain["externalParameters"]["revision"], &plain["resolvedDependencies"]),
            (&Value::Null, &json!([]))
        );
    }

    #[test]
    fn only_a_signed_statement_of_the_right_source_and_builder_fulfils() {
        let text = |text: &str| vec![text.to_owned()];
        let (source, builder) = (text("git+https://git.example/*"), text("https://ci.example/release"));
        let good = provenance("git+https://git.example/a@refs/heads/main", Some("k"));
        assert!(good.fulfils(&source, &builder) && good.fulfils(&[], &[]));
        assert!(!good.fulfils(&text("git+https://git.example"), &builder));
        assert!(!good.fulfils(&source, &text("https://ci.example/rel")));
        let unsigned = provenance("git+https://git.example/a", None);
        assert!(!unsigned.fulfils(&[], &[]));
        assert_eq!(why_not(std::slice::from_ref(&good), &source, &builder), None);
        assert!(why_not(&[unsigned], &source, &builder).unwrap().contains("another key"));
        assert!(why_not(&[], &source, &builder).unwrap().contains("it has none"));
    }
}
