//! `modelyard try S REF|DIR|FILE`: an alternative beside a candidate that is held, without ending its rollout.

use std::path::Path;

use clap::{Args, ValueEnum};
use modelyard_core::beside::BesideKind;
use modelyard_core::{RevisionNumber, ServiceName, Weight};
use serde_json::{Value, json};

use super::deploy::{choose, make_ready, present};
use super::flags::given;
use super::orders::{open_rollout, took_effect};
use crate::cli::Connect;
use crate::client::Client;
use crate::context::{Context, person};
use crate::exit::Exit;
use crate::follow;
use crate::service_file::check::percent;
use crate::terminal::{Paint, say};

/// Arguments of `try`.
#[derive(Debug, Args)]
pub struct Try {
    /// The service.
    service: ServiceName,
    /// What is tried: a package (`wine:2.1.0`, `wine@champion`, `wine@sha256:…`), a model folder, or an ONNX file.
    #[arg(value_name = "REF|DIR|FILE", required_unless_present = "revision")]
    what: Option<String>,
    /// What that revision of the service runs. One that is being tried already is changed.
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["what", "flag"])]
    revision: Option<RevisionNumber>,
    /// How it is tried: as shadow, which answers nobody, or as canary.
    #[arg(long = "as", value_name = "KIND", default_value = "shadow")]
    kind: Kind,
    /// Share of the requests that stable answers (shadow), or of the traffic (canary, all of them 20 % at most); `0` takes it away.
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "10%")]
    share: Weight,
    /// Value of a flag that the package declares, such as `threshold=0.7`. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    flag: Vec<String>,
    /// Try a package that was withdrawn, too.
    #[arg(long)]
    yanked: bool,
    /// Try it although codes, units or columns mean something else than stable's: those who call the service know. It goes into the log.
    #[arg(long)]
    new_meanings: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Shadow,
    Canary,
}

fn share(text: &str) -> Result<Weight, String> {
    percent(text).ok_or_else(|| "write a share such as `10%`, from 0 to 100 %".to_owned())
}

impl Try {
    /// Gives the order, waits until it shows, prints where the rollout stands.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let mut follower = follow::Follower::new(&client, open_rollout(&client, &self.service)?);
        while !follower.next(0)?.is_empty() {}
        let accepted: Value =
            client.post(&format!("/api/services/{}/alternatives", self.service), &self.body(context, &client)?)?;
        took_effect(&mut follower, &self.service)?;
        let (document, end) = follower.stands()?;
        context.print(&document, || {
            if let Some(revision) = accepted["revision"].as_u64().filter(|_| self.share > Weight::NONE) {
                let (service, share) = (&self.service, self.share);
                say(&format!(
                    "revision {revision} is tried beside it, with {share}; `modelyard status {service}` shows it"
                ));
            }
            follow::end_text(&end, Paint::stdout())
        })?;
        Ok(Exit::Done)
    }

    fn body(&self, context: &Context, client: &Client) -> miette::Result<Value> {
        let kind = match self.kind {
            Kind::Shadow => BesideKind::Shadow,
            Kind::Canary => BesideKind::Canary,
        };
        let mut body = json!({ "share": self.share, "kind": kind, "yanked": self.yanked, "by": person() });
        if self.new_meanings {
            body["new_meanings"] = json!(true);
        }
        match &self.what {
            Some(what) => {
                let chosen = choose(context, what, None)?;
                // A service that is not there is told of by whoever is asked to try something beside it.
                let spec = present(client, self.service.as_str())?.filter(|_| self.connect.control.is_none());
                if let Some(spec) = spec {
                    make_ready(context, &chosen, &spec, Path::new(what))?;
                }
                body["package"] = json!(chosen.digest);
                body["flags"] = json!(given(&chosen.package, &self.flag)?);
            }
            None => body["revision"] = json!(self.revision),
        }
        Ok(body)
    }
}
