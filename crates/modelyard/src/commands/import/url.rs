//! `modelyard import url ADDRESS`: a model file behind an address becomes a model folder and a package.

use std::path::PathBuf;

use clap::Args;
use modelyard_core::{Digest, Version};
use modelyard_package::choice::is_risky;
use modelyard_package::foreign::Said;
use modelyard_package::{is_model, slug};
use modelyard_registry::catalog::Way;
use modelyard_registry::hub::{Address, Fetched, fetch_address};
use serde_json::json;

use super::free;
use super::kept::{Kept, harmless, keep};
use crate::commands::artefacts::SCRATCH;
use crate::commands::package::{Called, size};
use crate::commands::transfer::Progress;
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};

/// Arguments of `import url`.
#[derive(Debug, Args)]
pub struct Url {
    /// Where it lies: `https://models.example/wine.onnx`.
    #[arg(value_name = "ADDRESS")]
    address: Address,
    /// What its bytes must be, in hexadecimal. Without it, it is fetched and its digest is told, and nothing is packaged.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<Digest>,
    /// What the file is called. Default: the last part of the address.
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// What the package is called. Default: as the file, and the beginning of its digest.
    #[arg(long = "as", value_name = "NAME:VERSION")]
    named: Option<Called>,
    /// The model folder that is made. Default: the model's name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take a file, too, whose loading may run code: a pickle, or what PyTorch and Keras save.
    #[arg(long)]
    allow_pickle: bool,
}

fn sha256(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text).to_lowercase();
    format!("sha256:{hex}").parse().map_err(|_| "a SHA-256 has 64 hexadecimal digits".to_owned())
}

impl Url {
    /// Imports it. The folder appears whole or not at all.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let file = self.file_name()?;
        if self.address.is_exposed() && self.sha256.is_none() {
            let what = format!("{} is not encrypted: whoever is in between can change it", self.address);
            return Err(Usage::new(what, "use https://, or say what its bytes must be: `--sha256 HEX`").into());
        }
        if is_risky(&file) && !self.allow_pickle {
            let help = "look for the model as ONNX or safetensors. If you trust its makers, `--allow-pickle` takes it";
            return Err(Failed::new(format!("loading `{file}` may run code, so it is not taken"), help).into());
        }
        let name = self.named.as_ref().map_or_else(|| slug(stem(&file)), |called| called.name().clone());
        let folder = self.out.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
        free(&folder)?;
        let fetched = self.fetched(context)?;
        let version = match &self.named {
            Some(called) => called.version().clone(),
            None => Version::new(fetched.digest.short()).map_err(|error| {
                Usage::new(error.to_string(), "say what it is to be called here: `--as NAME:VERSION`")
            })?,
        };
        // What stands behind `?` is often a key.
        let source = self.address.to_string();
        let source = source.split(['?', '#']).next().unwrap_or_default().to_owned();
        let said = Said { source: Some((source.clone(), fetched.digest.to_string())), ..Said::default() };
        let files = vec![(fetched.path, file)];
        let came = Way::imported_from(&source);
        let built = keep(context, Kept { files, said, name, version, came }, &folder)?;
        let document = json!({
            "name": built.package.name, "version": built.package.version, "digest": built.digest,
            "runtime": built.package.runtime.name(), "folder": folder, "source": source, "source_digest": fetched.digest,
        });
        context.print(&document, || format!("{}:{}  {}", built.package.name, built.package.version, built.digest))?;
        Ok(Exit::Done)
    }

    fn file_name(&self) -> Result<String, Usage> {
        let named = self.file.as_deref().or_else(|| self.address.file_name());
        let fine = |name: &&str| !name.contains('/') && modelyard_registry::paths::fault(name).is_none();
        named.filter(fine).map(str::to_owned).ok_or_else(|| {
            let what = format!("{} does not end in the name of a file", self.address);
            Usage::new(what, "say what it is called: `--file model.onnx`")
        })
    }

    fn fetched(&self, context: &Context) -> miette::Result<Fetched> {
        let scratch = context.home.root().join(SCRATCH);
        let progress = Progress::default();
        let fetched =
            fetch_address(&self.address, self.sha256.as_ref(), &scratch, &|done, all| progress.tell(done, all));
        progress.end();
        let fetched = fetched?;
        let refused = |error: Failed| {
            let _ = std::fs::remove_file(&fetched.path);
            error
        };
        let shown = self.address.to_string();
        if !self.allow_pickle {
            harmless(&fetched.path, &shown).map_err(refused)?;
        }
        if !is_model(&fetched.path) && !self.file_name().is_ok_and(|name| name.ends_with(".onnx")) {
            let help = "nothing was kept. An archive is unpacked by hand, and the model in it packaged";
            return Err(refused(Failed::new(
                format!("what lies at {shown} is no model of a kind that is known"),
                help,
            ))
            .into());
        }
        if self.sha256.is_none() {
            let (digest, bytes) = (fetched.digest.hex(), size(fetched.size_bytes));
            let what = format!("nobody has said yet what {shown} must be; its SHA-256 is {digest} ({bytes})");
            let help = format!(
                "compare that with what its makers publish, then run the same command with `--sha256 {digest}`: the download is kept, nothing was packaged"
            );
            return Err(Failed::new(what, help).into());
        }
        Ok(fetched)
    }
}

fn stem(file: &str) -> &str {
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_every_spelling() {
        let hex = "AB".repeat(32);
        assert_eq!(sha256(&hex), sha256(&format!("sha256:{}", hex.to_lowercase())));
        for bad in ["", "ab", "sha512:00", &"g".repeat(64)] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
