//! `modelyard registry`: the registry alone.

use std::net::SocketAddr;

use clap::Args;
use modelyard_registry::access::Tokens;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::storage::Settings;
use modelyard_registry::{Error, Store};
use serde_json::json;

use super::up::loopback;
use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::terminal::say;

/// Arguments of `registry`.
#[derive(Debug, Args)]
pub struct Registry {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000", value_parser = loopback)]
    listen: SocketAddr,
    /// Where blobs are kept, in place of the home: `s3://BUCKET/PREFIX`. Keys come from AWS_ACCESS_KEY_ID and its like.
    #[arg(long, value_name = "URL", env = "MODELYARD_BLOBS", hide_env_values = true)]
    blobs: Option<String>,
    /// Where everything else is kept, in place of the home: `postgresql://USER@HOST/DATABASE`. The password comes from PGPASSWORD.
    #[arg(long, value_name = "URL", env = "MODELYARD_METADATA", hide_env_values = true)]
    metadata: Option<String>,
}

impl Registry {
    /// Serves until it is told to end.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        super::log(context, None)?;
        let ready = |address: SocketAddr| {
            let told = context.print(&json!({ "address": address.to_string() }), || {
                format!("the registry listens on http://{address}; push with `docker push {address}/NAME:TAG`, end with Ctrl-C")
            });
            if told.is_err() {
                say("nobody reads the standard output");
            }
        };
        let tokens = Tokens::at(context.home.tokens());
        let mut settings = settings(context)?;
        settings.blobs = self.blobs.or(settings.blobs);
        settings.metadata = self.metadata.or(settings.metadata);
        open_with(context, &settings)?.serve(self.listen, tokens, ready).map_err(|error| {
            Failed::from(error, "the registry ended", "is the address in use? `--listen 127.0.0.1:0` picks a free one")
        })?;
        Ok(Exit::Done)
    }
}

/// The local registry as it is served.
pub fn open(context: &Context) -> miette::Result<Distribution> {
    open_with(context, &settings(context)?)
}

fn settings(context: &Context) -> miette::Result<Settings> {
    let told = "could not read how the registry is kept";
    let read = Settings::read(context.home.registry());
    Ok(read.map_err(|error| Failed::from(error, told, "look at `storage.toml` in the registry's folder"))?)
}

fn open_with(context: &Context, settings: &Settings) -> miette::Result<Distribution> {
    let home = &context.home;
    let open = || Distribution::open(&home.registry(), Store::open_with(home.registry(), home.unpacked(), settings)?);
    open().map_err(|error| match error {
        // It says itself what to look at.
        Error::Storage { .. } => error.into(),
        _ => Failed::from(error, "could not open the local registry", "can the home be written?").into(),
    })
}
