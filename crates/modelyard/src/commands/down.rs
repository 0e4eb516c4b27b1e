//! `modelyard down`: stop everything that `up` started.
//!
//! Promises: returns only once control plane and gateway are gone.

use std::time::{Duration, Instant};

use clap::Args;
use modelyard_core::home::Running;
use serde_json::{Value, json};

use crate::client::{self, Client};
use crate::context::{Context, person, running, start_ticks};
use crate::exit::{Exit, Failed};

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct Down {
    /// How long to wait for requests in flight and instances to end.
    #[arg(long, value_name = "SPAN", value_parser = crate::cli::span, default_value = "90s")]
    timeout: modelyard_core::Millis,
}

impl Down {
    /// Stops everything.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let stopped = stop(context, self.timeout.as_duration())?;
        let document = json!({ "stopped": stopped.iter().map(|running| running.pid).collect::<Vec<_>>() });
        context.print(&document, || match stopped.len() {
            0 => format!("nothing runs in {}", context.home.root().display()),
            _ => "stopped".to_owned(),
        })?;
        Ok(Exit::Done)
    }
}

/// Stops control plane and gateway of this home with all instances, and waits until they are gone.
pub fn stop(context: &Context, timeout: Duration) -> miette::Result<Vec<Running>> {
    let processes: Vec<Running> =
        ["control", "gateway"].into_iter().filter_map(|what| running(&context.home, what)).collect();
    let Some(control) = running(&context.home, "control") else {
        return leftover(context, processes);
    };
    let client = Client::new(
        &control.address.to_string(),
        std::env::var("MODELYARD_TOKEN").ok().or_else(|| super::token::saved(context)),
    );
    match client.post::<Value>("/api/down", &json!({ "by": person() })) {
        // It may end before its answer is out.
        Ok(_) | Err(client::Error::Unreachable { .. } | client::Error::Garbled { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    wait_gone(&processes, timeout)?;
    Ok(processes)
}

/// A gateway whose control plane died goes on serving on purpose; it is not for `down` to guess what else runs.
fn leftover(context: &Context, processes: Vec<Running>) -> miette::Result<Vec<Running>> {
    if processes.is_empty() {
        return Ok(processes);
    }
    let home = context.home.root().display();
    Err(Failed::new(
        format!("the gateway of {home} runs, but its control plane does not"),
        "start it again with `modelyard up --detach`: it adopts what runs; then `modelyard down` stops all of it",
    )
    .into())
}

fn wait_gone(processes: &[Running], timeout: Duration) -> Result<(), Failed> {
    let deadline = Instant::now() + timeout;
    let alive = |running: &&Running| start_ticks(running.pid) == Some(running.start_ticks);
    while let Some(running) = processes.iter().find(alive) {
        if Instant::now() > deadline {
            return Err(Failed::new(
                format!("process {} had not ended after {:.0} s", running.pid, timeout.as_secs_f64()),
                "its log is in the home folder under `logs`; `modelyard down` may be called again",
            ));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}
