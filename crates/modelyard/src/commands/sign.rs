//! `modelyard sign REF --key FILE`: a signature that cosign understands too. Also how keys are made and read.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_registry::distribution::MadeImage;
use modelyard_registry::trust::{SigningKey, VerifyingKey, sign};
use serde_json::json;

use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::terminal::say;

/// Longest key file that is read, in bytes.
const MAX_KEY_BYTES: u64 = 64 << 10;

/// Arguments of `sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// The package: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF", required_unless_present = "generate_key", requires = "key")]
    package: Option<String>,
    /// The private key: ECDSA P-256 in PEM; one of cosign with its password in `COSIGN_PASSWORD`.
    #[arg(long, value_name = "FILE", env = "MODELYARD_SIGNING_KEY")]
    key: Option<PathBuf>,
    /// The name under which it is signed, such as `registry.example/team/wine`. Default: the model's name.
    #[arg(long = "as", value_name = "NAME", requires = "package")]
    name: Option<String>,
    /// Sign a container image of the package instead, by the digest of its manifest: what `package --format image` printed.
    #[arg(long, value_name = "DIGEST", requires = "package")]
    image: Option<Digest>,
    /// Make a pair of keys instead: the private one in FILE, readable by you alone (and encrypted with `COSIGN_PASSWORD`, if it is set), the public one beside it as
    /// FILE.pub.
    #[arg(long, value_name = "FILE", conflicts_with = "package")]
    generate_key: Option<PathBuf>,
}

impl Sign {
    /// Signs, or makes a pair of keys.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        if let Some(path) = &self.generate_key {
            return generate(context, path);
        }
        let (Some(what), Some(path)) = (&self.package, &self.key) else { return Ok(Exit::Usage) };
        let key = signing_key(path)?;
        let (digest, package) = super::inspect::find(context, what)?;
        let distribution = super::registry::open(context)?;
        let name = self.name.unwrap_or_else(|| package.name.to_string());
        let signed_digest = match self.image {
            Some(image) => {
                let known = distribution.images_of(&package.name, &package.version, &digest)?;
                if !known.iter().any(|known| known.digest == image) {
                    return Err(no_image(&package, image, &known).into());
                }
                image
            }
            None => digest,
        };
        let signed = sign(&distribution, &package.name, &signed_digest, &name, &key)?;
        let document = json!({
            "package": format!("{}:{}", package.name, package.version), "digest": digest, "image": self.image, "name": name,
            "key": signed.key, "object": signed.object, "tag": signed.tag, "before": signed.before,
        });
        context.print(&document, || {
            let done = if signed.before { "had signed" } else { "signed" };
            let what = if self.image.is_some() { "the image of " } else { "" };
            let (key, tag) = (short(&signed.key), &signed.tag);
            format!("key {key} {done} {what}{}:{} {signed_digest}\n{tag}", package.name, package.version)
        })?;
        Ok(Exit::Done)
    }
}

fn no_image(package: &Package, image: Digest, known: &[MadeImage]) -> Failed {
    let known: Vec<String> = known.iter().map(|known| known.digest.to_string()).collect();
    let there = if known.is_empty() { "has none".to_owned() } else { format!("has {}", known.join(", ")) };
    let what = format!("{image} is no container image of {}:{}, which {there}", package.name, package.version);
    Failed::new(what, "make it first: `modelyard package DIR --format image` prints its digest")
}

fn generate(context: &Context, path: &Path) -> miette::Result<Exit> {
    let password = password()?;
    let (key, text) = SigningKey::generate(password.as_deref())?;
    let public = path.with_added_extension("pub");
    write_new(path, &text, 0o600)?;
    write_new(&public, &key.public().to_pem(), 0o644)?;
    let id = key.public().id();
    context.print(&json!({ "private": path, "public": public, "key": id }), || {
        if password.is_none() {
            say("the private key is not encrypted: keep it out of the model folder and of version control");
        }
        format!("{}\n{}\nkey {id}", path.display(), public.display())
    })?;
    Ok(Exit::Done)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failed> {
    let open = fs::File::options().write(true).create_new(true).mode(mode).open(path);
    let written = open.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let help = "a key that is there is never replaced; name another file in a folder that you may write";
    written.map_err(|error| Failed::from(error, format!("could not make {}", path.display()), help))
}

/// The first digits of a key's id, for people.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn text(path: &Path) -> Result<String, Failed> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_KEY_BYTES).read_to_string(&mut text));
    let help = "name a key in PEM; `modelyard sign --generate-key FILE` makes a pair";
    read.map_err(|error| Failed::from(error, format!("could not read the key {}", path.display()), help))?;
    Ok(text)
}

/// The variable with the password of private keys, as cosign has it.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// The password of private keys, if there is one. An empty one is one: cosign's keys without a password have it.
fn password() -> Result<Option<String>, Failed> {
    match std::env::var(PASSWORD) {
        Ok(password) => Ok(Some(password)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failed::new(format!("{PASSWORD} is not text"), "give the password in UTF-8"))
        }
    }
}

/// Reads a private key.
pub fn signing_key(path: &Path) -> miette::Result<SigningKey> {
    let key = SigningKey::from_pem(&text(path)?, password()?.as_deref());
    key.map_err(|error| miette::Report::new(error).wrap_err(format!("{} is no key to sign with", path.display())))
}

/// Reads public keys.
pub fn verifying_keys(paths: &[PathBuf]) -> miette::Result<Vec<VerifyingKey>> {
    let read = |path: &PathBuf| {
        let key = VerifyingKey::from_pem(&text(path)?);
        key.map_err(|error| miette::Report::new(error).wrap_err(format!("{} is no key to verify with", path.display())))
    };
    paths.iter().map(read).collect()
}
