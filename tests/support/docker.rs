//! A Docker daemon of a test's own, and other people's clients.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::until;

/// Runs a client; its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// A Docker daemon of our own, with nothing in it.
#[derive(Debug)]
pub struct Docker {
    daemon: Child,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Starts it, and waits until it answers.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("modelyard-docker-").tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let mut daemon = Command::new("dockerd");
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")] {
            daemon.arg(flag).arg(folder.path().join(name));
        }
        daemon.arg("--host").arg(format!("unix://{}", socket.display()));
        // It only moves images: neither networks nor a file system of layers are needed.
        daemon.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let daemon = daemon.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let docker = Self { daemon, socket, folder };
        until("dockerd answers", 60, || match docker.command(&["version"]).output() {
            Ok(output) if output.status.success() => Ok(()),
            _ => Err(std::fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default()),
        });
        docker
    }

    /// Where it listens, as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its client with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_CONFIG", self.folder.path().join("config"));
        docker.arg("--host").arg(format!("unix://{}", self.socket.display())).args(arguments);
        docker
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.daemon.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.daemon.wait();
        // Docker leaves the network of the host mounted there, and the folder could not be removed.
        let mounted = self.folder.path().join("run/netns/default");
        let _ = Command::new("umount").arg(mounted).stderr(Stdio::null()).status();
    }
}
