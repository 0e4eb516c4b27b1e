//! `modelyard up`: control plane and gateway on this machine, in the foreground or on their own.
//!
//! Promises: listens on loopback only; prints the addresses in use once both answer; a start that fails says why, with the log.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use modelyard_control::ControlOptions;
use modelyard_core::home::Running;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::client::Client;
use crate::context::{Context, print_data, running};
use crate::exit::{Exit, Failed};
use crate::terminal::{Paint, columns};

/// How long a detached start may take: adopting a long log and many instances is a matter of seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Where the gateway takes inference requests; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", value_parser = loopback, default_value = "127.0.0.1:8080")]
    gateway: SocketAddr,
    /// Where the control plane answers; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", value_parser = loopback, default_value = "127.0.0.1:8484")]
    control: SocketAddr,
    /// Return once everything answers, and leave it running.
    #[arg(long)]
    detach: bool,
    /// In the foreground: let gateway and instances serve on after SIGTERM or Ctrl-C, to be adopted by the next `up`.
    #[arg(long, conflicts_with = "detach")]
    leave: bool,
    /// Be the control plane.
    #[arg(long, hide = true)]
    inner: bool,
    /// Leave the session of whoever started it.
    #[arg(long, hide = true)]
    session: bool,
}

/// Reads an address.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let parsed = named.as_deref().unwrap_or(text).parse();
    parsed.map_err(|_| "not an address; write an address and a port such as 127.0.0.1:8080".to_owned())
}

/// Why an address may not be listened on without an explicit word: other machines can reach it.
pub fn not_loopback(address: &SocketAddr) -> Option<String> {
    let told = || {
        format!(
            "{} can be reached from other machines; Modelyard listens on loopback only until it has tokens: use {}",
            address.ip(),
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
        )
    };
    (!address.ip().is_loopback()).then(told)
}

/// Reads an address and refuses those that other machines can reach.
pub fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    not_loopback(&address).map_or(Ok(address), Err)
}

impl Up {
    /// Starts it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        if self.inner {
            return self.be(context);
        }
        if let Some(running) = running(&context.home, "control") {
            return Err(already(context, &running).into());
        }
        if self.detach {
            let started = detach(context, self.gateway, self.control, None)?;
            print(context, &started);
            return Ok(Exit::Done);
        }
        let mut command = inner_command(context, self.gateway, self.control)?;
        if self.leave {
            command.arg("--leave");
        }
        // The same process goes on as the control plane, so that whoever started it can signal it.
        let error = command.exec();
        Err(Failed::from(error, "could not start the control plane", "check that the program's file is still there")
            .into())
    }

    /// Is the control plane.
    fn be(self, context: &Context) -> miette::Result<Exit> {
        if self.session {
            // It fails only where there is one already.
            let _ = rustix::process::setsid();
        }
        super::log(context, self.session.then_some("control.log"))?;
        let (told, detached) = (context.clone(), self.session);
        let options = ControlOptions {
            home: context.home.clone(),
            listen: self.control,
            gateway_listen: self.gateway,
            binary: program()?,
            onnxruntime: None,
            library: library(context),
            down_on_signal: !self.session && !self.leave,
            ready: Some(Box::new(move |ready| {
                let started = Started { gateway: ready.gateway, control: ready.control, pid: ready.pid };
                // Whoever detached it asks for itself, and prints.
                if !detached {
                    print(&told, &started);
                }
            })),
        };
        modelyard_control::run(options).map_err(|error| {
            Failed::from(error, "the control plane ended", "what runs goes on serving; `modelyard up` adopts it")
        })?;
        Ok(Exit::Done)
    }
}

/// Finds ONNX Runtime for machines that have none.
fn library(context: &Context) -> modelyard_control::machines::Library {
    let cache = context.home.cache();
    std::sync::Arc::new(move || {
        super::serve::library(&cache).map_err(|report| {
            let all: Vec<String> = report.chain().map(ToString::to_string).collect();
            all.join(": ")
        })
    })
}

fn inner_command(context: &Context, gateway: SocketAddr, control: SocketAddr) -> Result<Command, Failed> {
    let mut command = Command::new(program()?);
    let output = match context.output {
        Output::Text => "text",
        Output::Json => "json",
    };
    command.args(["up", "--inner", "--output", output]);
    command.arg("--gateway").arg(gateway.to_string()).arg("--control").arg(control.to_string());
    // Everything that the control plane starts finds the same home.
    command.env("MODELYARD_HOME", context.home.root());
    Ok(command)
}

/// This program's file.
pub fn program() -> Result<PathBuf, Failed> {
    std::env::current_exe()
        .map_err(|error| Failed::from(error, "this program does not find its own file", "check that /proc is mounted"))
}

fn already(context: &Context, running: &Running) -> Failed {
    Failed::new(
        format!("a control plane already runs in {} (process {})", context.home.root().display(), running.pid),
        format!("use it: it answers at {}; `modelyard down` stops it; `--home DIR` starts another", running.address),
    )
}

/// What was started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Where the gateway takes requests.
    pub gateway: SocketAddr,
    /// Where the control plane answers.
    pub control: SocketAddr,
    /// Process of the control plane.
    pub pid: u32,
}

/// Prints the addresses in use.
fn print(context: &Context, started: &Started) {
    let (gateway, control, pid) = (started.gateway, started.control, started.pid);
    print_data(&match context.output {
        // One line: whoever started it in the foreground reads this while it runs on.
        Output::Json => {
            json!({ "gateway": gateway.to_string(), "control": control.to_string(), "pid": pid }).to_string()
        }
        Output::Text => {
            let paint = Paint::stdout();
            let rows = [
                [paint.bold("gateway"), format!("http://{gateway}"), paint.dim("inference, REST and gRPC")],
                [
                    paint.bold("control"),
                    format!("http://{control}"),
                    paint.dim(&format!("API and metrics, process {pid}")),
                ],
            ];
            columns(&rows.map(Vec::from)).join("\n")
        }
    });
}

/// Starts control plane and gateway in a session of their own and waits until both answer.
pub fn detach(
    context: &Context,
    gateway: SocketAddr,
    control: SocketAddr,
    onnxruntime: Option<PathBuf>,
) -> miette::Result<Started> {
    let log = context.home.logs().join("control.log");
    let open = || -> std::io::Result<std::fs::File> {
        std::fs::create_dir_all(context.home.logs())?;
        std::fs::OpenOptions::new().create(true).append(true).open(&log)
    };
    let log_file = open().and_then(|file| Ok((file.try_clone()?, file)));
    let (out, err) = log_file.map_err(|error| {
        Failed::from(
            error,
            format!("could not open {}", log.display()),
            "choose a home that can be written with `--home`",
        )
    })?;
    let mut command = inner_command(context, gateway, control)?;
    command.arg("--session").stdin(Stdio::null()).stdout(out).stderr(err);
    if let Some(library) = onnxruntime {
        command.env("MODELYARD_ONNXRUNTIME", library);
    }
    let from = std::fs::metadata(&log).map_or(0, |data| data.len());
    let mut child = command
        .spawn()
        .map_err(|error| Failed::from(error, "could not start the control plane", "check the program's file"))?;
    let started = wait(context, &mut child);
    started.map_err(|why| {
        let said = tail(&log, from);
        Failed::new(why, if said.is_empty() { format!("its log is {}", log.display()) } else { said }).into()
    })
}

/// Waits until the control plane wrote who it is and answers.
fn wait(context: &Context, child: &mut Child) -> Result<Started, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = "it had not written its address".to_owned();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the control plane did not start: {status}"));
        }
        match ready(context, child.id()) {
            Ok(started) => return Ok(started),
            Err(why) => last = why.unwrap_or(last),
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return Err(format!("the control plane was not ready after {} s: {last}", PATIENCE.as_secs()));
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn ready(context: &Context, pid: u32) -> Result<Started, Option<String>> {
    let control = running(&context.home, "control").filter(|running| running.pid == pid).ok_or(None)?;
    let client = Client::new(&control.address.to_string(), None);
    client.get::<Value>("/api/health").map_err(|error| Some(error.to_string()))?;
    let gateway = running(&context.home, "gateway").ok_or_else(|| Some("the gateway does not run yet".to_owned()))?;
    Ok(Started { gateway: gateway.address, control: control.address, pid })
}

/// The last lines of a log from byte `from` on.
fn tail(log: &std::path::Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(new);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        for good in ["127.0.0.1:0", "[::1]:8080", "localhost:80", "127.1.2.3:9"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        let refused = loopback("0.0.0.0:8080").unwrap_err();
        assert!(refused.contains("127.0.0.1:8080"), "{refused}");
        for bad in ["192.168.0.1:1", "[::]:80", "8080", ":8080", "example.org:80", "127.0.0.1"] {
            assert!(loopback(bad).is_err(), "{bad}");
        }
    }
}
