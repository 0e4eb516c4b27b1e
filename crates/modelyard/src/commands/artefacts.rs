//! `modelyard push` and `modelyard pull` with generic artefact registries: GitLab's packages, raw repositories of Nexus, releases on GitHub.

use std::time::Instant;

use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_registry::artefacts::{self, Kind, Login, Place, Whereabouts};
use modelyard_registry::catalog::Way;
use modelyard_registry::{Reference, Selector};
use serde_json::json;

use super::env::notice;
use super::package::size;
use super::transfer::Progress;
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};

/// Folder in the home where bundles are while they move.
pub(super) const SCRATCH: &str = "carried";

/// Pushes a package as a bundle.
pub(super) fn push(
    context: &Context,
    place: Place,
    plain_http: bool,
    digest: &Digest,
    package: &Package,
) -> miette::Result<Exit> {
    let (place, login) = reached(place, plain_http)?;
    let at = Whereabouts { place: &place, name: &package.name, version: &package.version, login: &login };
    let (began, progress) = (Instant::now(), Progress::default());
    let registry = super::registry::open(context)?;
    let scratch = context.home.root().join(SCRATCH);
    let pushed = artefacts::push(&registry, digest, &at, &scratch, &|done, all| progress.tell(done, all));
    progress.end();
    let pushed = pushed?;
    let mut document = json!(pushed.note);
    document["remote"] = json!(place.to_string());
    document["bytes"] = json!(pushed.bytes);
    document["seconds"] = json!(began.elapsed().as_secs_f64());
    context.print(&document, || {
        let did = if pushed.bytes == 0 { "was there".to_owned() } else { format!("{} moved", size(pushed.bytes)) };
        format!(
            "pushed {}:{} to {place}\n{digest}\nbundle {}, {did}",
            package.name, package.version, pushed.note.bundle
        )
    })?;
    Ok(Exit::Done)
}

/// Pulls a package that lies there as a bundle.
pub(super) fn pull(context: &Context, place: Place, plain_http: bool, what: Option<&str>) -> miette::Result<Exit> {
    const HELP: &str = "write `modelyard pull gitlab://HOST/GROUP/PROJECT NAME:VERSION`";
    let what = what.ok_or_else(|| Usage::new(format!("{place} may hold many packages, and none is named"), HELP))?;
    let named = what.parse::<Reference>().map_err(|error| Usage::new(error.to_string(), HELP))?;
    let Selector::Version(version) = named.selector else {
        return Err(
            Usage::new(format!("`{what}` names no version: aliases and digests are not known there"), HELP).into()
        );
    };
    let (place, login) = reached(place, plain_http)?;
    let at = Whereabouts { place: &place, name: &named.model, version: &version, login: &login };
    notice(context, &Way::pulled_from(&place.to_string()));
    let (began, progress) = (Instant::now(), Progress::default());
    let registry = super::registry::open(context)?;
    let scratch = context.home.root().join(SCRATCH);
    let pulled = artefacts::pull(&registry, &at, &scratch, &|done, all| progress.tell(done, all));
    progress.end();
    let (note, loaded) = pulled?;
    let mut document = json!(note);
    document["remote"] = json!(place.to_string());
    document["blobs"] = json!(loaded.blobs);
    document["reused"] = json!(loaded.reused);
    document["seconds"] = json!(began.elapsed().as_secs_f64());
    context.print(&document, || {
        let moved = size(note.size_bytes);
        let (new, old) = (loaded.blobs, loaded.reused);
        format!("pulled {what} from {place}\n{}\n{moved} moved; {new} blobs are new, {old} were there", note.digest)
    })?;
    Ok(Exit::Done)
}

/// The place as it is to be reached, and who we are there.
fn reached(place: Place, plain_http: bool) -> miette::Result<(Place, Login)> {
    let login = login(place.kind())?;
    Ok((if plain_http { place.over_plain_http() } else { place }, login))
}

fn login(kind: Kind) -> miette::Result<Login> {
    let read = Login::from_variables(kind, &|name| std::env::var(name).ok());
    read.map_err(|variable| {
        let what = format!("{variable} holds what no header can: a line break or another control character");
        Failed::new(what, "set it again, without what a file or a terminal added").into()
    })
}
