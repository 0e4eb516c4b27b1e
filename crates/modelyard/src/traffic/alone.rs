//! A package served on its own, in a process of its own, for as long as it is measured.
//!
//! Promises: the process has ended when this value is gone.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modelyard_core::package::{Package, Runtime};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::commands::up;
use crate::context::Context;
use crate::exit::Failed;
use crate::http::Caller;

/// How long it may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// A package that is served.
#[derive(Debug)]
pub struct Alone {
    process: Child,
    /// Where it answers.
    pub address: SocketAddr,
    /// From its start until it was ready.
    pub ready_after: Duration,
}

impl Alone {
    /// Serves what `what` names on a free port of this machine, and waits until it is ready.
    pub fn start(context: &Context, what: &str, package: &Package) -> miette::Result<Self> {
        let began = Instant::now();
        if let Runtime::None {} = package.runtime {
            return Err(crate::commands::package::not_run(package).into());
        }
        let (port, health) = match &package.runtime {
            Runtime::Command { health, .. } => (free_port()?, health.clone()),
            _ => (0, "/v2/health/ready".to_owned()),
        };
        let mut command = Command::new(up::program()?);
        command.arg("--home").arg(context.home.root()).args(["--output", "json", "serve", what, "--http"]);
        command.arg(SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // Whoever measures wants figures; what goes wrong is still said.
        if std::env::var_os("MODELYARD_LOG").is_none() {
            command.env("MODELYARD_LOG", "warn");
        }
        let process = command
            .spawn()
            .map_err(|error| Failed::from(error, "could not start a model server", "is the program still there?"))?;
        let mut alone = Self { process, address: (Ipv4Addr::LOCALHOST, port).into(), ready_after: Duration::ZERO };
        if port == 0 {
            alone.address = alone.announced()?;
        }
        while !Caller::new(alone.address).get(&health).is_ok_and(|answer| answer.status == 200) {
            let ended = alone.process.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let how =
                    ended.map_or_else(|| format!("is not ready after {PATIENCE:?}"), |how| format!("ended: {how}"));
                let help = format!("try it by hand: `modelyard serve {what}`");
                return Err(Failed::new(format!("the model server {how}"), help).into());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        alone.ready_after = began.elapsed();
        Ok(alone)
    }

    /// The address that the server tells on its first line.
    fn announced(&mut self) -> Result<SocketAddr, Failed> {
        let mut line = String::new();
        if let Some(out) = &mut self.process.stdout {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let address = serde_json::from_str::<Value>(&line).ok().and_then(|told| told["address"].as_str()?.parse().ok());
        address.ok_or_else(|| Failed::new("the model server did not start", "see what it said above"))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let ask = || kill_process(Pid::from_child(&self.process), Signal::TERM);
        let deadline = Instant::now() + GRACE;
        if ask().is_ok() {
            while Instant::now() < deadline {
                if !matches!(self.process.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that is free now: a program that is told its port cannot say which one it took.
fn free_port() -> Result<u16, Failed> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| Failed::from(error, "no port is free", "end what holds them"))
}
