//! Where the demo plays: a temporary home, a control plane of its own on free ports, and a clean end.
//!
//! Promises: however the demo ends (done, failed, Ctrl-C), everything that it started is stopped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cli::Output;
use crate::client::Client;
use crate::commands::{down, up};
use crate::context::Context;
use crate::exit::Failed;

/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the demo plays.
#[derive(Debug)]
pub struct Stage {
    /// The temporary home.
    pub context: Context,
    /// What was started.
    pub started: up::Started,
    /// A caller of the control plane.
    pub client: Client,
    folder: Option<TempDir>,
    down: bool,
}

/// A temporary home for a demo.
pub fn folder() -> Result<(TempDir, Context), Failed> {
    let made = tempfile::Builder::new().prefix("modelyard-demo-").tempdir();
    let folder = made.map_err(|error| Failed::from(error, "could not make a temporary folder", "set TMPDIR"))?;
    let home = modelyard_core::home::Home::new(folder.path());
    Ok((folder, Context { home, output: Output::Text }))
}

impl Stage {
    /// Starts control plane and gateway on free loopback ports.
    pub fn open(folder: TempDir, context: Context, onnxruntime: PathBuf) -> miette::Result<Self> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let started = up::detach(&context, free, free, Some(onnxruntime))?;
        let client = Client::new(&started.control.to_string(), None);
        Ok(Self { context, started, client, folder: Some(folder), down: false })
    }

    /// Stops everything; the number of processes that ran, all of them gone now.
    pub fn close(mut self) -> miette::Result<usize> {
        let ran = census(self.context.home.root());
        self.down = true;
        down::stop(&self.context, PATIENCE)?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(pid) = census(self.context.home.root()).first() {
            if Instant::now() > deadline {
                return Err(Failed::new(
                    format!("process {pid} of the demo had not ended after {} s", PATIENCE.as_secs()),
                    "this is a bug: please report it with the output of `ps -ef`",
                )
                .into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(ran.len())
    }

    /// Keeps the folder for whoever wants to look into it.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.folder.take().map(TempDir::keep)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.down {
            let _ = down::stop(&self.context, PATIENCE);
        }
    }
}

/// Processes that belong to `home`: its path is in their arguments or in their environment.
pub fn census(home: &Path) -> Vec<u32> {
    let needle = home.as_os_str().as_encoded_bytes();
    let holds = |pid: u32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id() && (holds(pid, "cmdline") || holds(pid, "environ")))
        .filter(|&pid| crate::context::start_ticks(pid).is_some())
        .collect()
}

/// Ctrl-C and SIGTERM, as a question.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Result<Self, Failed> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, flag.clone())
                .map_err(|error| Failed::from(error, "signals cannot be listened for", "report this as a bug"))?;
        }
        Ok(Self(flag))
    }

    /// Fails once somebody asked to end.
    pub fn check(&self) -> Result<(), Failed> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Failed::new("interrupted", "everything that the demo had started was stopped")),
        }
    }
}
