//! `modelyard sbom REF|DIR`: what a package is made of, for scanners and for those who must say it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use modelyard_core::package::{LOCK, Runtime};
use modelyard_package::bill::bill;
use modelyard_package::lock::Lock;
use modelyard_registry::trust::{BILL, attest};

use super::inspect::LaidOut;
use super::sign::{short, signing_key};
use crate::context::{Context, print_data};
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::say;

/// Most that is read of a lock, in bytes.
const MAX_LOCK_BYTES: u64 = 16 << 20;

/// Arguments of `sbom`.
#[derive(Debug, Args)]
pub struct Sbom {
    /// A package (`wine:2.1.0`, `wine@champion`, `wine@sha256:…`), or a model folder.
    #[arg(value_name = "REF|DIR")]
    what: String,
    /// Sign it with this private key too, and keep it with the package as cosign keeps attestations.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Sbom {
    /// Prints the bill, which is JSON whatever `--output` says.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let laid_out = super::inspect::laid_out(context, &self.what)?;
        let package = &laid_out.package;
        let digest = laid_out.digest.ok_or_else(|| {
            let help = "package it first: `modelyard package FILE`, then `modelyard sbom NAME:VERSION`";
            Usage::new(format!("{} is a bare model, which has no digest yet", self.what), help)
        })?;
        let lock = lock(&laid_out)?;
        let bill = bill(package, &digest, lock.as_ref(), made()?.as_deref());
        if let Some(key) = &self.key {
            let key = signing_key(key)?;
            if Path::new(&self.what).exists() {
                let help = "package the folder, and name the package: `modelyard sbom NAME:VERSION --key FILE`";
                return Err(Usage::new("a bill is kept with a package of the registry, not with a folder", help).into());
            }
            let distribution = super::registry::open(context)?;
            let stated = attest(&distribution, &package.name, &digest, (BILL, bill.clone()), &key)?;
            let done = if stated.before { "had attested" } else { "attested" };
            say(&format!(
                "key {} {done} the bill of {}:{} {digest}",
                short(&stated.key),
                package.name,
                package.version
            ));
        }
        let text = serde_json::to_string_pretty(&bill)
            .map_err(|error| Failed::from(error, "the bill is no JSON", "report this as a bug"))?;
        print_data(&text);
        Ok(Exit::Done)
    }
}

/// The lock of a package that was found complete when it was built.
fn lock(laid_out: &LaidOut) -> miette::Result<Option<Lock>> {
    if !matches!(laid_out.package.runtime, Runtime::Python { requirements: Some(_), locked: true, .. }) {
        return Ok(None);
    }
    let path = laid_out.folder.join(LOCK);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_LOCK_BYTES).read_to_string(&mut text));
    read.map_err(|error| Failed::from(error, format!("could not read {}", path.display()), "package it again"))?;
    let read = Lock::parse(&text);
    let lock = read.map_err(|why| Failed::new(format!("`{LOCK}` of the package: {why}"), "package it again"))?;
    Ok(Some(lock))
}

/// When the bill is made, if whoever makes it says so: it is the same each time otherwise.
fn made() -> miette::Result<Option<String>> {
    let at = |seconds: u64| i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(super::package::moment()?.and_then(at).map(|at| at.to_string()))
}
