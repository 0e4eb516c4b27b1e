//! The image that a container image is put on: which one is meant, where it comes from, whether it may be used.
//!
//! Promises: one that is named by digest is fetched once and then found without a network; a name that means something else than before is told
//! loudly; the policy of an environment is asked before anything is built, and every reason is told.

use std::path::{Path, PathBuf};

use modelyard_control::environments::Environment;
use modelyard_control::policy::{BaseImage, Bases};
use modelyard_core::{Digest, ModelName};
use modelyard_package::image::{ARCHITECTURE, Base, import};
use modelyard_package::{DESCRIPTION, Description};
use modelyard_registry::blob::digest_of;
use modelyard_registry::client::{ClientError, FoundImage, Remote, fetch_image, pull_referrers};
use modelyard_registry::distribution::Distribution;

use super::image::Wanted;
use super::transfer::{Progress, chosen};
use crate::context::Context;
use crate::exit::{Failed, Usage};
use crate::terminal::{Paint, say};

/// A base as it was found.
struct Found {
    /// What it is called, without a digest.
    name: String,
    /// Registry and repository.
    place: Option<String>,
    asked: Digest,
    digest: Digest,
    repository: ModelName,
}

/// The base that is wanted; none when the image stands alone.
pub fn choose(context: &Context, distribution: &Distribution, wanted: &Wanted<'_>) -> miette::Result<Option<Base>> {
    let written = written(wanted.what);
    let Some(text) = wanted.base.map(str::to_owned).or_else(|| written.clone()) else { return Ok(None) };
    let beside = if wanted.base.is_some() { PathBuf::new() } else { folder(wanted.what) };
    let bases = policy(context, wanted)?;
    let path = beside.join(&text);
    let found = match path.exists() {
        true => local(distribution, &path)?,
        false => remote(distribution, &text, wanted, &bases)?,
    };
    if let Some(pinned) = written.filter(|_| wanted.base.is_some()) {
        tell_if_moved(&found, &pinned);
    }
    let base = BaseImage {
        place: found.place.as_deref(),
        asked: &found.asked,
        digest: &found.digest,
        repository: &found.repository,
    };
    let mut reasons: Vec<String> = Vec::new();
    for reason in bases.iter().flat_map(|bases| bases.reasons(distribution, &base)) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if let (false, Some(environment)) = (reasons.is_empty(), wanted.environment) {
        let what = format!("{text} may not be built on for `{environment}`: {}", reasons.join("; "));
        let help = "choose a base that the environment's policy allows (`modelyard env`), or have this one tested and listed; nothing was built";
        return Err(Failed::new(what, help).into());
    }
    Ok(Some(Base::read(distribution.store().blobs(), &found.name, &found.digest)?))
}

/// The folder of the model.
fn folder(what: &Path) -> PathBuf {
    if what.is_dir() { what.to_owned() } else { what.parent().unwrap_or(Path::new("")).to_owned() }
}

/// What `[image] base` says. A description with mistakes was refused before.
fn written(what: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder(what).join(DESCRIPTION)).ok()?;
    // A bare model has no description, whatever lies beside it.
    let meant = what.is_dir() || what.file_name().is_some_and(|name| name == DESCRIPTION);
    Description::parse(&text).ok().filter(|_| meant)?.base
}

/// What the environment demands of bases, by what is kept in the home and by its file.
fn policy(context: &Context, wanted: &Wanted<'_>) -> miette::Result<Vec<Bases>> {
    let Some(name) = wanted.environment else { return Ok(Vec::new()) };
    let said: Vec<Environment> = super::env::said(context, name, Path::new(""))?;
    Ok(said.into_iter().filter_map(|environment| environment.policy.bases).collect())
}

/// A base that lies on this machine.
fn local(distribution: &Distribution, path: &Path) -> miette::Result<Found> {
    let found = import(distribution.store().blobs(), path)?;
    let name = path.file_name().map_or_else(|| "layout".to_owned(), |name| name.to_string_lossy().into_owned());
    let repository = repository("file", &found.asked.to_string())?;
    distribution.keep_base(&repository, None, &found)?;
    Ok(Found { name, place: None, asked: found.asked, digest: found.digest, repository })
}

/// A base from a registry, or what is kept of it here.
fn remote(distribution: &Distribution, text: &str, wanted: &Wanted<'_>, bases: &[Bases]) -> miette::Result<Found> {
    let remote: Remote = text.parse().map_err(|error| {
        let help = "write host, name and digest, such as docker.io/library/debian:13@sha256:…; or the path of an OCI layout or archive";
        Usage::new(format!("the base is neither a file nor an image in a registry: {error}"), help)
    })?;
    let remote = chosen(remote, wanted.plain_http);
    let place = format!("{}/{}", remote.host(), remote.repository());
    let repository = repository(remote.repository(), &place)?;
    let kept = distribution.base(&repository, &remote.reference())?;
    let name = text.split_once('@').map_or(text, |(name, _)| name).trim_start_matches("oci://").to_owned();
    let signed = bases.iter().any(|bases| !bases.keys.is_empty());
    if let (Some(digest), Some(Ok(asked))) = (kept, remote.digest().map(str::parse)) {
        if signed {
            signatures(distribution, &repository, [asked, digest], &remote)?;
        }
        return Ok(Found { name, place: Some(place), asked, digest, repository });
    }
    let progress = Progress::default();
    let fetched = fetch_image(distribution, &remote, ARCHITECTURE, &repository, &|done, all| progress.tell(done, all));
    progress.end();
    let paint = Paint::stderr();
    let found = match (fetched, kept) {
        (Ok(found), kept) => {
            if let Some(before) = kept.filter(|before| *before != found.digest) {
                say(&format!(
                    "{}: {name} moved: it was the image {before} when it was last used here, and is {} now",
                    paint.warn("warning"),
                    found.digest
                ));
            }
            found
        }
        (Err(ClientError::Unreachable { host, why }), Some(digest)) => {
            say(&format!(
                "{}: {host} cannot be reached ({why}); {name} is taken as it was last used here, {digest}",
                paint.warn("warning")
            ));
            let (asked, manifest) = (distribution.base_asked(&repository, &digest)?, Vec::new());
            FoundImage { asked, digest, manifest, parts: Vec::new() }
        }
        (Err(error), _) => return Err(error.into()),
    };
    if remote.digest().is_none() {
        let line = format!("base = \"{name}@{}\"", found.asked);
        say(&format!(
            "{name} may mean another image tomorrow; write into modelyard.toml what it is today:\n[image]\n{line}"
        ));
    }
    if signed {
        signatures(distribution, &repository, [found.asked, found.digest], &remote)?;
    }
    Ok(Found { name, place: Some(place), asked: found.asked, digest: found.digest, repository })
}

/// Fetches what was signed of a base. Where nobody answers, what is kept here of it has to do.
fn signatures(
    distribution: &Distribution,
    repository: &ModelName,
    digests: [Digest; 2],
    remote: &Remote,
) -> miette::Result<()> {
    for digest in digests {
        match pull_referrers(distribution, repository, &digest, remote) {
            Ok(_) | Err(ClientError::Unreachable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Tells that a name means another image than the one that `[image] base` pins under the same name.
fn tell_if_moved(found: &Found, pinned: &str) {
    let Some((name, digest)) = pinned.split_once('@') else { return };
    if name == found.name && digest != found.asked.to_string() && digest != found.digest.to_string() {
        say(&format!(
            "{}: {name} moved: modelyard.toml pins {digest}, and what is used now is {}",
            Paint::stderr().warn("warning"),
            found.asked
        ));
    }
}

/// Where a base is kept in the local registry: a name of its own for each place, which no model has by accident.
fn repository(name: &str, place: &str) -> Result<ModelName, Failed> {
    let words: String = name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
    let words: String = words.join("-").to_ascii_lowercase().chars().take(40).collect();
    let place = digest_of(place.as_bytes()).hex();
    ModelName::new(format!("base-{}-{}", words.trim_matches('-'), &place[..12]))
        .map_err(|error| Failed::from(error, "the base has no name to be kept under", "report this as a bug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_names_of_their_own() {
        let name = |name: &str, place: &str| repository(name, place).unwrap().to_string();
        let one = name("library/python", "docker.io/library/python");
        assert!(one.starts_with("base-library-python-"), "{one}");
        assert_ne!(one, name("library/python", "registry.example/library/python"));
        let long = name(&"a/__b-".repeat(60), "x");
        assert!(long.len() <= 63, "{long}");
    }
}
