//! Machines: where instances of the targets `ssh` and `docker` run.
//!
//! Promises: what a [`Login`] says can be handed to ssh as it is: no word of it is taken for an option or for a command.
//! Absent on purpose: reaching them (`modelyard-targets`) and choosing between them (the controller).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::NameError;
use crate::service::TargetKind;
use crate::{EnvironmentName, MachineName};

/// One machine of one environment, in text `prod/alpha`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId {
    /// The environment that names it.
    pub environment: EnvironmentName,
    /// Its name there.
    pub name: MachineName,
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.name)
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for MachineId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        // Without a slash the whole is no name of an environment's machine: the name's own rule says what is missing.
        let (environment, name) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self { environment: EnvironmentName::new(environment)?, name: MachineName::new(name)? })
    }
}

impl TryFrom<String> for MachineId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.to_string()
    }
}

/// How a machine is reached, as `environments/NAME.toml` says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Machine {
    /// By ssh: its processes.
    Ssh(Login),
    /// By the socket of its Docker Engine: its containers.
    Docker(Engine),
}

impl Machine {
    /// What is wrong with it, for whoever wrote it; `None` when it makes sense.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Ssh(login) => login.problem(),
            Self::Docker(engine) => engine.problem(),
        }
    }

    /// The target whose instances run there.
    pub const fn target(&self) -> TargetKind {
        match self {
            Self::Ssh(_) => TargetKind::Ssh,
            Self::Docker(_) => TargetKind::Docker,
        }
    }
}

/// A Docker Engine of this very machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Engine {
    /// Where it listens, as `DOCKER_HOST` has it: `unix:///var/run/docker.sock`, or `tcp://127.0.0.1:2375`.
    pub docker: String,
}

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A socket of the file system.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

impl Engine {
    /// Where it listens; `None` when it has a problem.
    pub fn socket(&self) -> Option<Socket> {
        if let Some(path) = self.docker.strip_prefix("unix://") {
            let is_plain = path.starts_with('/') && path.len() <= 4_096 && !path.chars().any(char::is_control);
            return is_plain.then(|| Socket::Unix(PathBuf::from(path)));
        }
        let address: SocketAddr = self.docker.strip_prefix("tcp://")?.parse().ok()?;
        (address.ip().is_loopback() && address.port() != 0).then_some(Socket::Tcp(address))
    }

    /// What is wrong with it, for whoever wrote it; `None` when it makes sense.
    ///
    /// Engines of other machines are refused: they would be reached without encryption, and the ports of their containers not at all.
    pub fn problem(&self) -> Option<String> {
        let told = || {
            format!(
                "`docker` is {:?}; write where the Docker Engine of this machine listens, \"unix:///var/run/docker.sock\" or \"tcp://127.0.0.1:2375\"; \
                 on other machines instances run by ssh, with `host`",
                self.docker
            )
        };
        self.socket().is_none().then(told)
    }
}

/// How a machine is reached by ssh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Login {
    /// As ssh takes it: `ops@10.0.0.7`, or a name of the ssh configuration.
    pub host: String,
    /// Port of its sshd; what the ssh configuration says without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// File of the private key; what the ssh configuration and the agent have without. Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
    /// File of an ssh configuration in place of the user's. Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Folder there that holds everything of ours; within the home folder of the login when it is relative.
    #[serde(default = "default_folder")]
    pub folder: String,
}

/// The folder of those who named none.
pub fn default_folder() -> String {
    "modelyard".to_owned()
}

impl Login {
    /// What is wrong with it, for whoever wrote it; `None` when it makes sense.
    ///
    /// Narrower than what ssh takes: letters that a shell gives a meaning are never needed in a host's name, and refused.
    pub fn problem(&self) -> Option<String> {
        let plain = |text: &str, also: &str| {
            text.len() <= 255 && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
        };
        let host = &self.host;
        if host.is_empty() || host.starts_with('-') || host.contains("@-") || !plain(host, "@.-_:%+") {
            return Some(format!(
                "`host` is {host:?}; write it as ssh takes it, such as \"ops@10.0.0.7\" or a name of your ssh configuration"
            ));
        }
        let folder = &self.folder;
        let leaves = folder.split('/').any(|part| part == "..");
        if folder.is_empty() || folder.starts_with('-') || leaves || !plain(folder, "/._-+@,=: ") {
            return Some(format!(
                "`folder` is {folder:?}; write a path of letters, digits and /._-+@,=: without `..`, such as \"modelyard\" or \"/srv/modelyard\""
            ));
        }
        (self.port == Some(0)).then(|| "`port` is from 1 to 65535".to_owned())
    }
}

/// A machine as its target sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSeen {
    /// Which.
    pub id: MachineId,
    /// The target whose instances run there.
    pub target: TargetKind,
    /// Whether its environment still names it; if not, nothing new is placed there.
    pub listed: bool,
    /// Whether it is being connected to for the first time: nobody knows yet.
    pub coming: bool,
    /// Why it cannot be reached, if so.
    pub out_of_reach: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(host: &str, folder: &str) -> Login {
        Login { host: host.into(), port: None, identity: None, config: None, folder: folder.into() }
    }

    #[test]
    fn nothing_that_ssh_or_a_shell_would_read_otherwise_is_taken() {
        for good in ["alpha", "ops@10.0.0.7", "ops@fd00::7", "ops@fe80::1%eth0", "a.b-c_d"] {
            assert_eq!(machine(good, "modelyard").problem(), None, "{good}");
        }
        for bad in
            ["", "-oProxyCommand=x", "ops@-x", "a b", "a;b", "$(x)", "a'b", "a\nb", "ssh://a", "ä", &"a".repeat(256)]
        {
            assert!(machine(bad, "modelyard").problem().is_some_and(|why| why.contains("`host`")), "{bad}");
        }
        for good in ["modelyard", "/srv/my models", "a/b"] {
            assert_eq!(machine("a", good).problem(), None, "{good}");
        }
        for bad in ["", "-x", "a/../b", "..", "a'b", "a\nb", "$HOME"] {
            assert!(machine("a", bad).problem().is_some_and(|why| why.contains("`folder`")), "{bad}");
        }
    }

    #[test]
    fn an_engine_is_one_of_this_machine() {
        let engine = |docker: &str| Engine { docker: docker.to_owned() };
        assert_eq!(engine("unix:///run/d.sock").socket(), Some(Socket::Unix("/run/d.sock".into())));
        assert_eq!(engine("tcp://[::1]:2375").socket(), "[::1]:2375".parse().ok().map(Socket::Tcp));
        for bad in [
            "",
            "/run/d.sock",
            "unix://run/d.sock",
            "unix:///a\nb",
            "tcp://10.0.0.7:2375",
            "tcp://127.0.0.1:0",
            "ssh://a",
        ] {
            assert!(engine(bad).problem().is_some_and(|why| why.contains("`docker`")), "{bad}");
        }
    }

    #[test]
    fn each_kind_of_machine_is_told_by_its_keys() {
        let read = |text: &str| serde_json::from_str::<Machine>(text).ok().map(|machine| machine.target());
        assert_eq!(read(r#"{"host":"a","folder":"b"}"#), Some(TargetKind::Ssh));
        assert_eq!(read(r#"{"docker":"unix:///run/d.sock"}"#), Some(TargetKind::Docker));
        assert_eq!(read(r#"{"docker":"unix:///run/d.sock","host":"a"}"#), None);
    }

    #[test]
    fn ids_read_as_they_are_written() {
        let id: MachineId = "prod/alpha".parse().unwrap();
        assert_eq!((id.environment.as_str(), id.name.as_str(), id.to_string()), ("prod", "alpha", "prod/alpha".into()));
        for bad in ["", "prod", "prod/", "/alpha", "prod/a/b", "prod/../x"] {
            assert!(bad.parse::<MachineId>().is_err(), "{bad}");
        }
    }
}
