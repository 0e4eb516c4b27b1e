//! `modelyard export kit REF REMOTE`: a package as a ModelKit of KitOps.

use clap::Args;
use modelyard_registry::client::{Remote, push_kit};
use serde_json::json;

use crate::commands::inspect;
use crate::commands::package::size;
use crate::commands::transfer::{Progress, chosen};
use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `export kit`.
#[derive(Debug, Args)]
pub struct Kit {
    /// The package: `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.
    #[arg(value_name = "REF")]
    package: String,
    /// Where to: `registry.example/team/wine-kit`, with a tag if it is not to be the version.
    #[arg(value_name = "REMOTE")]
    remote: Remote,
    /// Speak plain HTTP with a registry that is not on this machine.
    #[arg(long)]
    plain_http: bool,
}

impl Kit {
    /// Pushes it; what the registry has is not sent again.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let (digest, package) = inspect::find(context, &self.package)?;
        let remote = chosen(self.remote.or_tag(package.version.as_str()), self.plain_http);
        let progress = Progress::default();
        let made = push_kit(&inspect::store(context)?, &digest, &remote, &|done, all| progress.tell(done, all));
        progress.end();
        let made = made?;
        let document = json!({
            "package": format!("{}:{}", package.name, package.version), "package_digest": digest,
            "remote": remote.to_string(), "digest": made.digest, "blobs": made.blobs, "bytes": made.bytes,
            "reused": made.reused,
        });
        context.print(&document, || {
            format!(
                "pushed {remote}\n{}\n{} blobs sent ({}), {} were there",
                made.digest,
                made.blobs,
                size(made.bytes),
                made.reused
            )
        })?;
        Ok(Exit::Done)
    }
}
