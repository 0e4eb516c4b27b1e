//! Local ends of the addresses at which a machine's instances listen.
//!
//! Promises: an instance keeps its local port for life, also under another master, so that route tables stay valid while nobody decides; only
//! loopback addresses of the machine are reached, whatever an instance announces.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use modelyard_core::InstanceId;
use serde::{Deserialize, Serialize};

use super::master::Ssh;
use crate::identity::Identity;
use crate::process::{folder as documents, port};

/// Another port is tried when someone else took the one that was picked.
const ATTEMPTS: u64 = 5;

/// `forwards.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The master that forwards them.
    master: Option<Identity>,
    forwards: Vec<Forward>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Forward {
    id: InstanceId,
    far: SocketAddr,
    local: u16,
}

/// The forwards of one machine.
#[derive(Debug)]
pub struct Forwards {
    ssh: Ssh,
    path: PathBuf,
    kept: Kept,
}

impl Forwards {
    /// What was forwarded when it was last written down.
    pub fn load(ssh: Ssh) -> Self {
        let path = ssh.folder().join("forwards.json");
        let kept = documents::read(&path).ok().flatten().unwrap_or_default();
        Self { ssh, path, kept }
    }

    /// Has this master forward everything that another one did.
    pub async fn renew(&mut self, master: Identity) {
        if self.kept.master == Some(master) {
            return;
        }
        let mut made = Vec::new();
        for forward in std::mem::take(&mut self.kept.forwards) {
            match self.ssh.forward("forward", forward.local, forward.far).await {
                Ok(()) => made.push(forward),
                // Its instance gets another port at the next look.
                Err(why) => tracing::warn!(instance = %forward.id, why, "a local port is lost"),
            }
        }
        self.kept = Kept { master: Some(master), forwards: made };
        self.save();
    }

    /// Where an address of the machine is reached from here.
    ///
    /// # Errors
    /// When it is none of loopback, or no port can be had.
    pub async fn local(&mut self, id: &InstanceId, far: SocketAddr) -> Result<SocketAddr, String> {
        if !far.ip().is_loopback() {
            return Err(format!("it listens on {far}, which is no loopback address; only those are reached"));
        }
        let here = |local| SocketAddr::from((Ipv4Addr::LOCALHOST, local));
        if let Some(known) = self.kept.forwards.iter().find(|one| one.id == *id && one.far == far) {
            return Ok(here(known.local));
        }
        let mut why = String::new();
        for attempt in 0..ATTEMPTS {
            let local = self.pick(attempt)?;
            match self.ssh.forward("forward", local, far).await {
                Ok(()) => {
                    self.kept.forwards.push(Forward { id: id.clone(), far, local });
                    self.save();
                    return Ok(here(local));
                }
                Err(said) => why = said,
            }
        }
        Err(format!("no local port leads to it: {why}"))
    }

    fn pick(&self, attempt: u64) -> Result<u16, String> {
        // Spread by time: many instances that start together should not all try one port.
        let now = documents::now().0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let draw = now ^ u64::from(std::process::id()).wrapping_add(attempt * 101);
        port::pick(draw).map_err(|error| format!("no free port: {error}"))
    }

    /// Forwards nothing any more of instances that are not to be kept.
    pub async fn retain(&mut self, keep: impl Fn(&InstanceId) -> bool) {
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.kept.forwards).into_iter().partition(|forward| keep(&forward.id));
        self.kept.forwards = stay;
        if go.is_empty() {
            return;
        }
        for forward in go {
            // A port that stays open leads nowhere; it ends with the master.
            let _ = self.ssh.forward("cancel", forward.local, forward.far).await;
        }
        self.save();
    }

    /// Not written: a control plane that starts anew picks other ports.
    fn save(&self) {
        if let Err(error) = documents::write(&self.path, &self.kept) {
            tracing::warn!(path = %self.path.display(), %error, "local ports cannot be written down");
        }
    }
}
