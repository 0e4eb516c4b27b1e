//! Bills of materials that are kept with a package: whose they are, and whether they fit it.
//!
//! Promises: signed bills (attestations) and unsigned ones (attached files) are told apart; a file that a bill names with another digest than the
//! package has is found.
//! Absent on purpose: holding dependencies against anything: nothing here knows them better than the bill.
//!
//! Source: in-toto predicates `cyclonedx` and `spdx`; CycloneDX 1.6; SPDX 2.3; cosign's `attach sbom`.

use std::collections::BTreeMap;

use modelyard_core::package::Package;
use modelyard_core::{Digest, ModelName};
use serde_json::Value;

use super::Error;
use super::attestation::Attested;
use super::bytes::Fault;
use super::object::{self, MAX_PART_BYTES};
use crate::distribution::Distribution;

/// What a bill in CycloneDX is called where it is attested; cosign and others put a version behind it.
pub const BILL: &str = "https://cyclonedx.org/bom";
/// The same in SPDX.
const SPDX: &str = "https://spdx.dev/Document";
/// Media types of bills that are attached without a signature.
const ATTACHED: [&str; 4] = ["application/vnd.cyclonedx+json", "application/spdx+json", "text/spdx+json", "spdx+json"];
/// Ending of cosign's tag for them.
const ENDING: &str = "sbom";
/// Longest version of a form that is told, in letters.
const MAX_FORM: usize = 32;

/// Whether a bill says of the package's files what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fits {
    /// Every file stands in it with its digest.
    Whole,
    /// It names none of the files with a digest: nothing can be compared.
    Unsaid,
    /// It does not, and why.
    Not(String),
}

/// A bill of materials that is kept with a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The object that holds it.
    pub object: Digest,
    /// Its form: `CycloneDX 1.6`.
    pub form: String,
    /// How many parts it names.
    pub parts: usize,
    /// Whether it fits the package.
    pub fits: Fits,
    /// Whether somebody signed it.
    pub is_signed: bool,
    /// Which of the keys did.
    pub key: Option<String>,
}

/// The bills of a package: those among its attestations, then those attached unsigned; and what is wrong with them. That one does not fit is a
/// fault where one of the keys stands for it.
///
/// # Errors
/// [`Error::Registry`] when the registry itself cannot be read.
pub fn bills(
    distribution: &Distribution,
    package: &Package,
    digest: &Digest,
    attested: &[Attested],
) -> Result<(Vec<Bill>, Vec<Fault>), Error> {
    let is_bill = |one: &&Attested| {
        let kind = one.predicate_type.as_str();
        kind == SPDX || kind.strip_prefix(BILL).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let signed = |one: &Attested| read(package, one.object, &one.predicate, (true, one.key.clone()));
    let mut found: Vec<Bill> = attested.iter().filter(is_bill).map(signed).collect();
    let (attached, mut faults) = unsigned(distribution, &package.name, digest)?;
    found.extend(attached.iter().map(|(object, document)| read(package, *object, document, (false, None))));
    for bill in found.iter().filter(|bill| bill.key.is_some()) {
        if let Fits::Not(why) = &bill.fits {
            faults.push(Fault { what: format!("bill of materials in object {}", bill.object), why: why.clone() });
        }
    }
    Ok((found, faults))
}

/// Attached bills as JSON, each with its object.
type Documents = Vec<(Digest, Value)>;

fn unsigned(distribution: &Distribution, model: &ModelName, digest: &Digest) -> Result<(Documents, Vec<Fault>), Error> {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for media_type in ATTACHED {
        // Objects that cannot be read at all are told with the signatures.
        let (layers, _) = object::layers(distribution, model, digest, (ENDING, media_type))?;
        for (object, layer) in layers {
            let read = distribution.store().blobs().read(&layer.digest, MAX_PART_BYTES);
            let read = read.map_err(|error| error.to_string());
            match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string())) {
                Ok(document) => found.push((object, document)),
                Err(why) => faults.push(Fault { what: format!("bill of materials in object {object}"), why }),
            }
        }
    }
    Ok((found, faults))
}

fn read(package: &Package, object: Digest, document: &Value, (is_signed, key): (bool, Option<String>)) -> Bill {
    let version = |key: &str| document[key].as_str().unwrap_or_default().chars().take(MAX_FORM).collect::<String>();
    let (form, parts) = match document["spdxVersion"].is_string() {
        true => (version("spdxVersion"), ["packages", "files"].map(|key| &document[key])),
        false => {
            (format!("CycloneDX {}", version("specVersion")), ["components", "services"].map(|key| &document[key]))
        }
    };
    let parts: Vec<&Value> = parts.into_iter().filter_map(Value::as_array).flatten().collect();
    Bill { object, form: form.trim_end().to_owned(), parts: parts.len(), fits: fits(package, &parts), is_signed, key }
}

/// Compares what a bill says of files with what the package has.
fn fits(package: &Package, parts: &[&Value]) -> Fits {
    let named: BTreeMap<&str, &str> = parts.iter().filter_map(|part| file(part)).collect();
    let (mut same, mut absent) = (0, None);
    for (path, entry) in &package.files {
        match named.get(path.as_str()) {
            Some(said) if said.eq_ignore_ascii_case(&entry.digest.hex()) => same += 1,
            Some(_) => return Fits::Not(format!("it names `{path}` with another digest than the package has")),
            None => absent = absent.or(Some(path)),
        }
    }
    match absent {
        None => Fits::Whole,
        Some(_) if same == 0 => Fits::Unsaid,
        Some(path) => Fits::Not(format!("it does not name `{path}`")),
    }
}

/// Path and SHA-256 of a file, as CycloneDX or SPDX has them.
fn file(part: &Value) -> Option<(&str, &str)> {
    let of = |list: &'static str, algorithm: &'static str, names: [&str; 2], value: &'static str| {
        let hash =
            part[list].as_array()?.iter().find(|hash| names.contains(&hash[algorithm].as_str().unwrap_or("")))?;
        hash[value].as_str()
    };
    match part["fileName"].as_str() {
        Some(path) => {
            let hash = of("checksums", "algorithm", ["SHA256", "SHA-256"], "checksumValue")?;
            Some((path.trim_start_matches("./"), hash))
        }
        None if part["type"] == "file" => {
            Some((part["name"].as_str()?, of("hashes", "alg", ["SHA-256", "SHA256"], "content")?))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::blob::digest_of;

    fn package() -> Package {
        let file = |bytes: &[u8]| json!({ "digest": digest_of(bytes), "size_bytes": bytes.len() });
        serde_json::from_value(json!({
            "format_version": 1, "name": "wine", "version": "1", "runtime": { "kind": "none" },
            "signature": { "inputs": [], "outputs": [] },
            "files": { "model.bin": file(b"model"), "card.md": file(b"card") },
        }))
        .unwrap()
    }

    fn fit(document: &Value) -> (String, usize, Fits) {
        let bill = read(&package(), digest_of(b"object"), document, (false, None));
        (bill.form, bill.parts, bill.fits)
    }

    #[test]
    fn a_bill_fits_when_it_names_every_file_as_it_is() {
        let file = |name: &str, bytes: &[u8]| json!({ "type": "file", "name": name, "hashes": [{ "alg": "SHA-256", "content": digest_of(bytes).hex() }] });
        let of = |components: Value| fit(&json!({ "specVersion": "1.6", "components": components }));
        let library = json!({ "type": "library", "name": "numpy" });
        let (model, card) = (file("model.bin", b"model"), file("card.md", b"card"));
        assert_eq!(of(json!([model, card, library])), ("CycloneDX 1.6".to_owned(), 3, Fits::Whole));
        assert_eq!(of(json!([library])).2, Fits::Unsaid);
        assert_eq!(of(json!([model])).2, Fits::Not("it does not name `card.md`".to_owned()));
        assert!(
            matches!(of(json!([file("model.bin", b"another"), card])).2, Fits::Not(why) if why.contains("model.bin"))
        );
        assert_eq!(fit(&json!(7)).2, Fits::Unsaid, "no bill at all");
    }

    #[test]
    fn spdx_names_files_in_its_own_way() {
        let file = |name: &str, bytes: &[u8]| json!({ "fileName": name, "checksums": [{ "algorithm": "SHA256", "checksumValue": digest_of(bytes).hex() }] });
        let document = json!({
            "spdxVersion": "SPDX-2.3", "packages": [{ "name": "numpy" }],
            "files": [file("./model.bin", b"model"), file("./card.md", b"card")],
        });
        assert_eq!(fit(&document), ("SPDX-2.3".to_owned(), 3, Fits::Whole));
    }
}
