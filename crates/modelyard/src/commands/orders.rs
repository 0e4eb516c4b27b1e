//! `modelyard promote|approve|pause|resume|abort S`: steering a rollout.

use std::time::Duration;

use clap::Args;
use modelyard_core::event::{EventBody, Order};
use modelyard_core::{Millis, RolloutId, ServiceName};
use serde_json::{Value, json};

use crate::api;
use crate::cli::{Connect, span};
use crate::client::Client;
use crate::context::{Context, person};
use crate::exit::{Exit, Failed};
use crate::follow;
use crate::terminal::{Paint, say};

/// Arguments of `pause` and `resume`.
#[derive(Debug, Args)]
pub struct Steer {
    /// The service.
    service: ServiceName,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `promote`.
#[derive(Debug, Args)]
pub struct Promote {
    #[command(flatten)]
    steer: Steer,
    /// Straight to the whole, whatever steps are left.
    #[arg(long)]
    all: bool,
}

/// Arguments of `approve`.
#[derive(Debug, Args)]
pub struct Approve {
    #[command(flatten)]
    steer: Steer,
}

/// Arguments of `abort`.
#[derive(Debug, Args)]
pub struct Abort {
    #[command(flatten)]
    steer: Steer,
    /// How long to wait until stable carries everything again.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "2m")]
    timeout: Millis,
}

/// How long an order may take to show: the controller looks several times a second.
const PATIENCE: Duration = Duration::from_secs(10);

impl Steer {
    /// Gives the order, waits until it shows, prints where the rollout stands.
    pub fn run(self, context: &Context, order: &Order) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let rollout = open_rollout(&client, &self.service)?;
        let mut follower = follow::Follower::new(&client, rollout);
        while !follower.next(0)?.is_empty() {}
        give(&client, &self.service, order)?;
        took_effect(&mut follower, &self.service)?;
        let (document, end) = follower.stands()?;
        context.print(&document, || follow::end_text(&end, Paint::stdout()))?;
        Ok(Exit::Done)
    }
}

/// Waits until the log tells what became of an order.
pub(super) fn took_effect(follower: &mut follow::Follower<'_>, service: &ServiceName) -> miette::Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < PATIENCE {
        for event in follower.next(500)? {
            match event.body {
                EventBody::OrderRefused { why, .. } => {
                    let help = format!("`modelyard status {service}` shows where the rollout stands");
                    return Err(Failed::new(why, help).into());
                }
                EventBody::RolloutStepped { .. } | EventBody::RolloutFinished { .. } => return Ok(()),
                _ => {}
            }
        }
    }
    say("the order is recorded, and the controller has not acted upon it yet");
    Ok(())
}

impl Promote {
    /// Gives the order, prints where the rollout stands.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        self.steer.run(context, &Order::Promote { all: self.all })
    }
}

impl Approve {
    /// Promotes a rollout that waits for a person, and no other.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let service = &self.steer.service;
        let status = status(&context.client(&self.steer.connect)?, service)?;
        if !status.rollout.as_ref().is_some_and(api::Rollout::waits_for_person) {
            return Err(Failed::new(
                format!("no rollout of `{service}` waits for a person"),
                format!("`modelyard status {service}` shows where it stands; `modelyard promote {service}` does not wait to be asked"),
            )
            .into());
        }
        self.steer.run(context, &Order::Promote { all: false })
    }
}

impl Abort {
    /// Gives the order and waits until stable carries everything again.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.steer.connect)?;
        let rollout = open_rollout(&client, &self.steer.service)?;
        give(&client, &self.steer.service, &Order::Abort)?;
        let (document, end) = ended(&client, rollout, self.timeout.as_duration())?;
        context.print(&document, || follow::end_text(&end, Paint::stdout()))?;
        match end.outcome.as_str() {
            "aborted" | "rolled-back" => Ok(Exit::Done),
            other => {
                say(&format!("the rollout was not aborted: it is {other}"));
                Ok(Exit::Failed)
            }
        }
    }
}

/// Waits until the order took effect: a person being waited for is no end here, for the person has spoken.
fn ended(client: &Client, rollout: RolloutId, timeout: Duration) -> miette::Result<(Value, api::RolloutEnd)> {
    let mut follower = follow::Follower::new(client, rollout);
    let started = std::time::Instant::now();
    loop {
        let (document, end) = follower.until_end(Some(timeout.saturating_sub(started.elapsed())), |_| {})?;
        if end.outcome != "waiting" {
            return Ok((document, end));
        }
    }
}

/// Gives an order.
pub fn give(client: &Client, service: &ServiceName, order: &Order) -> miette::Result<Value> {
    let mut body = serde_json::to_value(order)
        .map_err(|error| Failed::from(error, "the order is no JSON", "report this as a bug"))?;
    body["by"] = json!(person());
    Ok(client.post(&format!("/api/services/{service}/orders"), &body)?)
}

/// The service as it stands.
pub fn status(client: &Client, service: &ServiceName) -> miette::Result<api::Status> {
    Ok(client.get(&format!("/api/services/{service}"))?)
}

pub(super) fn open_rollout(client: &Client, service: &ServiceName) -> miette::Result<RolloutId> {
    let status = status(client, service)?;
    status.rollout.map(|rollout| rollout.id).ok_or_else(|| {
        let help =
            format!("`modelyard history {service}` shows the earlier ones; `modelyard rollback {service}` goes back");
        Failed::new(format!("no rollout of `{service}` is open"), help).into()
    })
}
