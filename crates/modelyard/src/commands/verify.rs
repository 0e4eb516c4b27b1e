//! `modelyard verify REF`: whether a package's bytes are still what its digest names, and who signed it.

use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::EnvironmentName;
use modelyard_registry::trust::{
    Bill, Checked, Fault, Fits, Promotion, Provenance, attestations, bills, check_all, check_package, signatures,
    why_not,
};
use serde_json::{Value, json};

use super::package::size;
use super::sign::{short, verifying_keys};
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Busy, Paint};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The package: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF", required_unless_present_any = ["all", "rebuild"])]
    package: Option<String>,
    /// A public key; a signature by one of them is demanded. May be repeated.
    #[arg(long, value_name = "PUB", requires = "package")]
    key: Vec<PathBuf>,
    /// Demand provenance by one of the keys instead of a signature, from such a repository: `git+https://git.example/team/*`. May be repeated.
    #[arg(long, value_name = "PATTERN", requires = "key")]
    built_from: Vec<String>,
    /// Demand provenance by one of the keys instead of a signature, of such a builder:
    /// `https://git.example/team/models/*`. May be repeated.
    #[arg(long, value_name = "PATTERN", requires = "key")]
    built_by: Vec<String>,
    /// Also hold it against what an environment demands, as `deploy` would.
    #[arg(long, value_name = "E", requires = "package")]
    env: Option<EnvironmentName>,
    /// Read every blob of the registry instead, whoever refers to it.
    #[arg(long, conflicts_with = "package")]
    all: bool,
    /// Build an exported file (image, wheel or standalone program) anew from its package in the local registry instead, and compare byte for byte.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["package", "all"])]
    rebuild: Option<PathBuf>,
}

impl Verify {
    /// Verifies.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        if self.all {
            return everything(context);
        }
        if let Some(file) = &self.rebuild {
            return super::rebuild::run(context, file);
        }
        let Some(what) = &self.package else { return Ok(Exit::Usage) };
        let keys = verifying_keys(&self.key)?;
        let store = super::inspect::store(context)?;
        let reference = what.parse().map_err(|error: modelyard_registry::ReferenceError| {
            Usage::new(error.to_string(), "write wine, wine:2.1.0, wine@champion or wine@sha256:…")
        })?;
        let digest = store.resolve(&reference)?;
        let distribution = super::registry::open(context)?;
        let mut checked = {
            let _busy = Busy::with(&format!("reading {what}"));
            check_package(&store, &digest)
        };
        let (found, faults) = signatures(&distribution, &reference.model, &digest, &keys)?;
        checked.faults.extend(faults);
        let (stated, faults) = attestations(&distribution, &reference.model, &digest, &keys)?;
        checked.faults.extend(faults);
        let provenance: Vec<Provenance> = stated.iter().filter_map(Provenance::of).collect();
        let promotions: Vec<Promotion> = stated.iter().filter_map(Promotion::of).collect();
        // A document that cannot be read is among the faults already.
        let (bills, faults) = match store.package(&digest) {
            Ok(package) => bills(&distribution, &package, &digest, &stated)?,
            Err(_) => Default::default(),
        };
        checked.faults.extend(faults);
        if self.built_from.is_empty() && self.built_by.is_empty() {
            if !keys.is_empty() && found.iter().all(|signature| signature.key.is_none()) {
                checked.faults.push(unsigned(&keys.iter().map(|key| key.id()).collect::<Vec<_>>(), found.len()));
            }
        } else if let Some(why) = why_not(&provenance, &self.built_from, &self.built_by) {
            checked.faults.push(Fault { what: "provenance".to_owned(), why });
        }
        if let Some(environment) = &self.env {
            let package = store.package(&digest)?;
            let reasons = super::env::reasons(context, environment, Path::new(""), &digest, &package)?;
            checked
                .faults
                .extend(reasons.into_iter().map(|why| Fault { what: format!("policy of `{environment}`"), why }));
        }
        let signed: Vec<Value> =
            found.iter().map(|found| json!({ "object": found.object, "name": found.name, "key": found.key })).collect();
        let mut document = document(&checked);
        (document["package"], document["digest"]) = (json!(what), json!(digest));
        document["signatures"] = json!(signed);
        document["provenance"] = provenance.iter().map(stated_in_json).collect();
        document["promotions"] = promotions.iter().map(promoted_in_json).collect();
        document["bills"] = bills.iter().map(billed_in_json).collect();
        context.print(&document, || {
            let signed = found.iter().map(|found| match &found.key {
                Some(key) => format!("signed by {} as {}\n", short(key), found.name),
                None => format!("signed by another key as {}\n", found.name),
            });
            let stated = provenance.iter().map(stated_in_words);
            let stated =
                stated.chain(promotions.iter().map(promoted_in_words)).chain(bills.iter().map(billed_in_words));
            format!("{digest}\n{}{}{}", signed.collect::<String>(), stated.collect::<String>(), in_words(&checked))
        })?;
        Ok(exit(&checked))
    }
}

fn stated_in_json(stated: &Provenance) -> Value {
    let Provenance { object, builder, source, commit, inputs, key } = stated;
    json!({ "object": object, "builder": builder, "source": source, "commit": commit, "inputs": inputs, "key": key })
}

fn stated_in_words(stated: &Provenance) -> String {
    let by = stated.key.as_deref().map_or("another key", short);
    let source = stated.source.as_deref().unwrap_or("an unknown source").escape_debug();
    let commit = stated.commit.as_deref().map(|commit| format!(" at {}", commit.escape_debug())).unwrap_or_default();
    format!("{by} says: built from {source}{commit} by {}\n", stated.builder.escape_debug())
}

fn promoted_in_json(stated: &Promotion) -> Value {
    let Promotion { record, from, to, by, at, registry, rollout, policies, key } = stated;
    json!({
        "record": record, "from": from, "to": to, "by": by, "at": at, "registry": registry, "rollout": rollout,
        "policies": policies, "key": key,
    })
}

fn promoted_in_words(stated: &Promotion) -> String {
    let key = stated.key.as_deref().map_or("another key", short);
    let after = stated.rollout.as_deref().map(|rollout| format!(", after rollout {}", rollout.escape_debug()));
    let (by, at) = (stated.by.escape_debug(), stated.at.escape_debug());
    format!("{key} says: promoted from {} to {} by {by} at {at}{}\n", stated.from, stated.to, after.unwrap_or_default())
}

fn billed_in_json(bill: &Bill) -> Value {
    let Bill { object, form, parts, fits, is_signed, key } = bill;
    let fits = match fits {
        Fits::Whole => Some(true),
        Fits::Unsaid => None,
        Fits::Not(_) => Some(false),
    };
    json!({ "object": object, "form": form, "parts": parts, "matches": fits, "signed": is_signed, "key": key })
}

fn billed_in_words(bill: &Bill) -> String {
    let by = match (&bill.key, bill.is_signed) {
        (Some(key), _) => format!("signed by {}", short(key)),
        (None, true) => "signed by another key".to_owned(),
        (None, false) => "not signed".to_owned(),
    };
    let fits = match &bill.fits {
        Fits::Whole => "it names every file of the package as it is".to_owned(),
        Fits::Unsaid => "it names no file of the package".to_owned(),
        Fits::Not(why) => format!("it does not match: {}", why.escape_debug()),
    };
    format!("bill of materials, {} with {} parts, {by}: {fits}\n", bill.form.escape_debug(), bill.parts)
}

/// That none of the keys signed it.
fn unsigned(keys: &[String], others: usize) -> Fault {
    let keys: Vec<&str> = keys.iter().map(|id| short(id)).collect();
    let why = match others {
        0 => format!("there is no signature in order; wanted is one by {}", keys.join(" or ")),
        others => format!("none of {others} signatures is by {}", keys.join(" or ")),
    };
    Fault { what: "signature".to_owned(), why }
}

fn everything(context: &Context) -> miette::Result<Exit> {
    let distribution = super::registry::open(context)?;
    let checked = {
        let _busy = Busy::with("reading every blob");
        check_all(&distribution).map_err(|error| Failed::from(error, "could not read the registry", "see the cause"))?
    };
    context.print(&document(&checked), || in_words(&checked))?;
    Ok(exit(&checked))
}

fn exit(checked: &Checked) -> Exit {
    if checked.faults.is_empty() { Exit::Done } else { Exit::Failed }
}

fn document(checked: &Checked) -> Value {
    let faults: Vec<Value> =
        checked.faults.iter().map(|fault| json!({ "what": fault.what, "why": fault.why })).collect();
    json!({ "verified": faults.is_empty(), "blobs": checked.blobs, "bytes": checked.bytes, "faults": faults })
}

fn in_words(checked: &Checked) -> String {
    let paint = Paint::stdout();
    let faults = checked.faults.iter().map(|fault| format!("{}: {}: {}\n", paint.bad("wrong"), fault.what, fault.why));
    let faults = faults.collect::<String>();
    let end = match checked.faults.len() {
        0 => paint.good("verified"),
        count => paint.bad(&format!("{count} faults")),
    };
    format!("{faults}{} blobs, {}: {end}", checked.blobs, size(checked.bytes))
}
