//! The master connection of one machine: starting it, asking it, ending it; and running things over it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use modelyard_core::machine::Login;
use tokio::process::Command;

use super::command::{self, LOG, SOCKET};
use super::session::with;
use crate::identity::Identity;

/// Longer than ssh's own limit for a connection, through a jump host too.
const START: Duration = Duration::from_secs(30);

/// The master answers on this machine.
const ORDER: Duration = Duration::from_secs(10);

/// Of the master's log, in bytes.
const LONGEST_LOG: u64 = 1 << 20;

/// The OpenSSH client at work in a machine's folder.
#[derive(Clone, Debug)]
pub struct Ssh {
    folder: PathBuf,
}

impl Ssh {
    /// Sockets and logs go to `folder`, which is there.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A call of ssh. What this process is let in by is nobody else's business.
    pub fn command(&self, words: Vec<String>) -> Command {
        let mut command = Command::new("ssh");
        command.args(words).current_dir(&self.folder).env_remove("MODELYARD_TOKEN").stdin(Stdio::null());
        command
    }

    /// Runs ssh to its end; what it wrote on stdout.
    ///
    /// # Errors
    /// When it cannot be run, fails, or takes longer than `limit`: in words.
    pub async fn run(&self, words: Vec<String>, input: Option<File>, limit: Duration) -> Result<String, String> {
        let mut command = self.command(words);
        command.kill_on_drop(true);
        if let Some(input) = input {
            command.stdin(input);
        }
        let output = tokio::time::timeout(limit, command.output()).await;
        let output = output.map_err(|_| format!("it took longer than {} s", limit.as_secs()))?.map_err(not_there)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(with(&format!("ssh ended with {}", output.status), &text(&output.stderr))),
        }
    }

    /// The master that runs, if one does.
    pub async fn master(&self) -> Option<Identity> {
        if !self.folder.join(SOCKET).exists() {
            return None;
        }
        let mut command = self.command(command::order("check"));
        let output = tokio::time::timeout(ORDER, command.kill_on_drop(true).output()).await.ok()?.ok()?;
        let said = [output.stdout, output.stderr].concat();
        pid(&String::from_utf8_lossy(&said)).and_then(Identity::of)
    }

    /// Starts a master. Returns once it is let in.
    ///
    /// # Errors
    /// Why it is not, with what ssh said and what to do.
    pub async fn start(&self, login: &Login) -> Result<Identity, String> {
        let log = self.folder.join(LOG);
        // What an earlier master left: a socket nobody listens on would keep the new one from its place.
        for file in [SOCKET, LOG] {
            let _ = std::fs::remove_file(self.folder.join(file));
        }
        let said = OpenOptions::new().create(true).append(true).open(&log);
        let said = said.map_err(|error| format!("{} cannot be written: {error}", log.display()))?;
        let mut command = self.command(command::master(login));
        command.stdout(Stdio::null()).stderr(said).kill_on_drop(true);
        let ended = tokio::time::timeout(START, command.status()).await;
        let what = match ended {
            Err(_) => format!("nobody answered within {} s", START.as_secs()),
            Ok(Err(error)) => return Err(not_there(error)),
            Ok(Ok(status)) if !status.success() => "ssh was not let in".to_owned(),
            Ok(Ok(_)) => match self.master().await {
                Some(master) => return Ok(master),
                None => "ssh ended at once".to_owned(),
            },
        };
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        Err(format!("{}; {}", with(&what, &said), advice(&said, &login.host)))
    }

    /// Ends the master and everything that goes over it.
    pub async fn end(&self) {
        let Some(master) = self.master().await else { return };
        let _ = self.run(command::order("exit"), None, ORDER).await;
        let gone = tokio::task::spawn_blocking(move || master.terminate(Duration::from_secs(2))).await;
        if !matches!(gone, Ok(Ok(()))) {
            tracing::warn!(folder = %self.folder.display(), pid = master.pid, "the connection to a machine does not end");
        }
        let _ = std::fs::remove_file(self.folder.join(SOCKET));
    }

    /// Whether the machine lets connections through: asked of its discard port, where hardly anybody listens. What is said stands in the master's log.
    ///
    /// # Errors
    /// When its sshd forbids it.
    pub async fn lets_through(&self) -> Result<(), String> {
        let _ = self.run(command::reach("127.0.0.1:9"), None, ORDER).await;
        let said = std::fs::read_to_string(self.folder.join(LOG)).unwrap_or_default();
        match said.contains("administratively prohibited") {
            true => {
                Err("its sshd lets no connections through to instances; it must say `AllowTcpForwarding local`"
                    .to_owned())
            }
            false => Ok(()),
        }
    }

    /// The log grows by a line for each connection that an instance refuses: it is emptied before it fills a disk.
    pub fn trim_log(&self) {
        let log = self.folder.join(LOG);
        if log.metadata().is_ok_and(|meta| meta.len() > LONGEST_LOG) {
            // The master appends: it goes on at the new end.
            let _ = OpenOptions::new().write(true).truncate(true).open(&log);
        }
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has the master forward a local port, or forward it no more.
    ///
    /// # Errors
    /// When it does not: the port is taken, or the machine forbids it.
    pub async fn forward(&self, what: &str, local: u16, far: std::net::SocketAddr) -> Result<(), String> {
        self.run(command::forward(what, local, far), None, ORDER).await.map(drop)
    }
}

fn not_there(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the program `ssh` is not there; install the OpenSSH client".to_owned(),
        _ => format!("ssh cannot be run: {error}"),
    }
}

/// `Master running (pid=4711)`.
fn pid(said: &str) -> Option<u32> {
    said.split_once("(pid=")?.1.split_once(')')?.0.parse().ok()
}

/// What to do about what ssh said.
fn advice(said: &str, host: &str) -> String {
    let hint = [
        ("Host key verification failed", "its host key is not the known one, or none is known"),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the known one"),
        (
            "Permission denied",
            "the key is not let in, or no agent has it; BatchMode is on, so nobody is asked for a password",
        ),
        ("Could not resolve", "its name is not known"),
        ("Connection refused", "no sshd listens there"),
        ("timed out", "it does not answer"),
    ];
    let hint = hint.iter().find(|(part, _)| said.contains(part)).map(|(_, hint)| format!("{hint}: "));
    format!("{}`ssh {host}` must work without a question", hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_and_what_to_do_are_read_from_what_ssh_says() {
        assert_eq!(pid("Master running (pid=4711)\r\n"), Some(4711));
        for other in ["", "Control socket connect(ssh): No such file", "(pid=)", "(pid=x)"] {
            assert_eq!(pid(other), None);
        }
        let told = advice("Host key verification failed.\r\n", "ops@alpha");
        assert!(told.contains("none is known") && told.contains("`ssh ops@alpha` must work"), "{told}");
    }
}
