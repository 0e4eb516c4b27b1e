//! `modelyard push` and `modelyard pull`: packages to and from any OCI registry; [`super::artefacts`] does it with other registries.

use std::io::{IsTerminal as _, Write as _};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use modelyard_registry::artefacts::{Place, PlaceError};
use modelyard_registry::catalog::Way;
use modelyard_registry::client::{Moved, Remote, RemoteError, pull, pull_referrers, push, push_referrers};
use serde_json::json;

use super::env::notice;
use super::package::size;
use crate::context::Context;
use crate::exit::{Exit, Usage};

/// How often progress is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct Push {
    /// The package: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF")]
    package: String,
    /// Where to: `registry.example/team/wine`, with a tag if it is not to be the version; or `gitlab://HOST/GROUP/PROJECT`,
    /// `nexus://HOST/REPOSITORY[/FOLDER]`, `github://github.com/OWNER/NAME`.
    #[arg(value_name = "REMOTE")]
    remote: Far,
    /// Speak plain HTTP with a registry that is not on this machine.
    #[arg(long)]
    plain_http: bool,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// What to fetch: `registry.example/team/wine:2.1.0`, or by digest; or where from: `gitlab://…`, `nexus://…`, `github://…`.
    #[arg(value_name = "REMOTE")]
    remote: Far,
    /// The package, where REMOTE is a place that holds many: `wine:2.1.0`.
    #[arg(value_name = "NAME:VERSION")]
    package: Option<String>,
    /// Speak plain HTTP with a registry that is not on this machine.
    #[arg(long)]
    plain_http: bool,
}

/// The other side.
#[derive(Clone, Debug)]
enum Far {
    /// An OCI registry.
    Oci(Remote),
    /// A generic artefact registry.
    Place(Place),
}

impl FromStr for Far {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if Place::is_meant(text) {
            return text.parse().map(Self::Place).map_err(|error: PlaceError| error.to_string());
        }
        text.parse().map(Self::Oci).map_err(|error: RemoteError| error.to_string())
    }
}

impl Push {
    /// Pushes what the registry does not have.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let (digest, package) = super::inspect::find(context, &self.package)?;
        let remote = match self.remote {
            Far::Place(place) => return super::artefacts::push(context, place, self.plain_http, &digest, &package),
            Far::Oci(remote) => remote,
        };
        let remote = chosen(remote.or_tag(package.version.as_str()), self.plain_http);
        let progress = Progress::default();
        let began = Instant::now();
        let moved = push(&super::inspect::store(context)?, &digest, &remote, &|done, all| progress.tell(done, all));
        progress.end();
        let moved = moved?;
        let referrers = push_referrers(&super::registry::open(context)?, &package.name, &digest, &remote)?;
        let mut document = document(&moved, &remote, began);
        document["referrers"] = json!(referrers);
        context.print(&document, || format!("pushed {remote}\n{}{}", in_words(&moved, began), said(referrers)))?;
        Ok(Exit::Done)
    }
}

impl Pull {
    /// Pulls what this registry does not have.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let remote = match (self.remote, self.package) {
            (Far::Place(place), package) => {
                return super::artefacts::pull(context, place, self.plain_http, package.as_deref());
            }
            (Far::Oci(_), Some(package)) => {
                let what = format!("`{package}` is too much: the address of an OCI registry names the package");
                return Err(Usage::new(what, "write HOST/REPOSITORY:TAG alone").into());
            }
            (Far::Oci(remote), None) => chosen(remote, self.plain_http),
        };
        notice(context, &Way::pulled(&remote));
        let progress = Progress::default();
        let began = Instant::now();
        let pulled = pull(&super::inspect::store(context)?, &remote, &|done, all| progress.tell(done, all));
        progress.end();
        let (moved, model, version) = pulled?;
        let referrers = pull_referrers(&super::registry::open(context)?, &model, &moved.digest, &remote)?;
        let mut document = document(&moved, &remote, began);
        document["referrers"] = json!(referrers);
        (document["name"], document["version"]) = (json!(model), json!(version));
        context.print(&document, || {
            format!("pulled {model}:{version} from {remote}\n{}{}", in_words(&moved, began), said(referrers))
        })?;
        Ok(Exit::Done)
    }
}

/// The remote, over plain HTTP if that was asked for.
pub fn chosen(remote: Remote, plain_http: bool) -> Remote {
    if plain_http { remote.over_plain_http() } else { remote }
}

fn document(moved: &Moved, remote: &Remote, began: Instant) -> serde_json::Value {
    json!({
        "remote": remote.to_string(), "digest": moved.digest, "blobs": moved.blobs, "bytes": moved.bytes,
        "reused": moved.reused, "seconds": began.elapsed().as_secs_f64(),
    })
}

fn in_words(moved: &Moved, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    format!(
        "{}\n{} blobs moved ({}), {} were there, {seconds:.1} s",
        moved.digest,
        moved.blobs,
        size(moved.bytes),
        moved.reused
    )
}

/// What came along: signatures and the like.
fn said(referrers: usize) -> String {
    if referrers == 0 {
        String::new()
    } else {
        format!("\n{referrers} objects that speak of it, such as signatures, too")
    }
}

/// A line that is drawn over and over while somebody looks on.
#[derive(Default)]
pub(super) struct Progress {
    drawn: Mutex<Option<Instant>>,
}

impl Progress {
    pub(super) fn tell(&self, done: u64, all: u64) {
        let Ok(mut drawn) = self.drawn.lock() else { return };
        if !std::io::stderr().is_terminal() || drawn.is_some_and(|at| at.elapsed() < FRAME) {
            return;
        }
        *drawn = Some(Instant::now());
        let share = (done * 30).checked_div(all).map_or(30, |share| usize::try_from(share).unwrap_or(30));
        let bar = format!("{}{}", "█".repeat(share), "░".repeat(30 - share.min(30)));
        let _ = write!(std::io::stderr(), "\r{bar} {} of {}  ", size(done), size(all));
    }

    pub(super) fn end(&self) {
        if self.drawn.lock().is_ok_and(|drawn| drawn.is_some()) {
            let _ = write!(std::io::stderr(), "\r{}\r", " ".repeat(70));
        }
    }
}
