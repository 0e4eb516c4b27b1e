//! A Docker daemon of a test's own, and other people's clients.
#![allow(dead_code, reason = "each test uses its own part of this module")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::until;

/// Runs a client; its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a bridge that no other test has; its name.
fn bridge() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    // Names of interfaces have 15 letters at most; the network is one that nobody routes here.
    let number = std::process::id().wrapping_add(MADE.fetch_add(1, Ordering::Relaxed) * 4_099);
    let name = format!("myd{}", number % 1_000_000_000);
    let address = format!("10.{}.{}.1/24", 200 + number / 250 % 50, number % 250);
    run(Command::new("ip").args(["link", "add", "name", &name, "type", "bridge"]));
    run(Command::new("ip").args(["address", "add", &address, "dev", &name]));
    run(Command::new("ip").args(["link", "set", &name, "up"]));
    name
}

/// A Docker daemon of our own, with nothing in it.
#[derive(Debug)]
pub struct Docker {
    daemon: Option<Child>,
    /// A bridge of its own: that of another daemon on this machine would be taken away by this one.
    bridge: Option<String>,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Starts it, and waits until it answers.
    pub fn start() -> Self {
        Self::with(false)
    }

    /// The same with a network for containers, whose ports it publishes on loopback.
    pub fn bridged() -> Self {
        Self::with(true)
    }

    fn with(bridged: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("modelyard-docker-").tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let mut docker = Self { daemon: None, bridge: bridged.then(bridge), socket, folder };
        docker.up();
        docker
    }

    /// Starts it (again), with what it kept.
    pub fn up(&mut self) {
        let folder = &self.folder;
        let mut daemon = Command::new("dockerd");
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")] {
            daemon.arg(flag).arg(folder.path().join(name));
        }
        daemon.arg("--host").arg(self.host());
        // No rules of a firewall, and no file system of layers: a test machine may have neither. What runs goes on without it.
        daemon.args(["--iptables=false", "--ip6tables=false", "--storage-driver", "vfs", "--live-restore"]);
        daemon.arg("--bridge").arg(self.bridge.as_deref().unwrap_or("none"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
        self.daemon = Some(daemon.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        until("dockerd answers", 60, || match self.command(&["version"]).output() {
            Ok(output) if output.status.success() => Ok(()),
            _ => Err(std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()),
        });
    }

    /// Lets it stand still, or go on.
    pub fn hang(&self, still: bool) {
        let signal = if still { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(rustix::process::Pid::from_child(self.daemon.as_ref().unwrap()), signal).unwrap();
    }

    /// Ends it; its containers run on.
    pub fn down(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM);
        let _ = daemon.wait();
    }

    /// Where it listens, as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its client with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_CONFIG", self.folder.path().join("config"));
        docker.arg("--host").arg(self.host()).args(arguments);
        docker
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.daemon.is_none() {
            self.up();
        }
        // What still runs would hold the folder.
        let left = self.command(&["ps", "--all", "--quiet"]).output().map(|output| output.stdout).unwrap_or_default();
        for container in String::from_utf8_lossy(&left).split_ascii_whitespace() {
            let _ = self.command(&["rm", "--force", "--volumes", container]).output();
        }
        self.down();
        if let Some(bridge) = &self.bridge {
            let _ = Command::new("ip").args(["link", "delete", bridge]).status();
        }
        // Docker leaves the network of the host mounted there, and its own folder where containers run on without it: neither could be removed.
        for mounted in ["run/netns/default", "data"] {
            let _ = Command::new("umount").arg(self.folder.path().join(mounted)).stderr(Stdio::null()).status();
        }
    }
}
