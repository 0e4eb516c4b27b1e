//! The gateway's process: found, started, replaced by a newer one, ended.
//!
//! Promises: a gateway that runs is adopted; one that died is started again on the same address; it outlives the control plane
//! (its own process group, its streams go to a file).

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use modelyard_core::home::{Home, Running};
use modelyard_core::measure::GatewayReport;
use modelyard_core::ports::PortFuture;
use modelyard_core::route::RouteTable;
use modelyard_targets::identity;

use super::{Error, Gateway, client};
use crate::ledger::lock;
use crate::running;

// A loaded machine starts a process within a second; this is where waiting stops helping.
const START_LIMIT: Duration = Duration::from_secs(20);
// A Unix socket's path has 108 bytes at most (`unix(7)`).
const SOCKET_PATH_LIMIT: usize = 100;

/// The gateway of one home.
pub struct GatewayProcess {
    home: Home,
    binary: PathBuf,
    listen: SocketAddr,
    socket: PathBuf,
    running: Mutex<Option<Running>>,
    /// Those that handed their sockets over and finish their last requests.
    retired: Mutex<Vec<Running>>,
}

impl GatewayProcess {
    /// The gateway of `home`, not looked for yet.
    ///
    /// # Errors
    /// [`Error::Start`] when the folder for its socket cannot be made safe.
    pub fn new(home: Home, binary: PathBuf, listen: SocketAddr) -> Result<Self, Error> {
        let socket = socket_path(&home)?;
        Ok(Self { home, binary, listen, socket, running: Mutex::new(None), retired: Mutex::default() })
    }

    /// Adopts the gateway that runs, or starts one. Returns it and whether it was started.
    ///
    /// # Errors
    /// [`Error::Start`] when it does not come up, with the last lines of its log.
    #[tracing::instrument(name = "gateway.start", skip_all, err)]
    pub async fn adopt_or_start(&self) -> Result<(Running, bool), Error> {
        let left = running::read(&self.home.running("gateway"));
        if let Some(found) = left.clone().filter(running::is_alive) {
            let socket = found.admin.clone().unwrap_or_else(|| self.socket.clone());
            if client::answers(&socket).await {
                *lock(&self.running) = Some(found.clone());
                return Ok((found, false));
            }
            // It holds the address and cannot be told anything: only a new one can serve new tables.
            tracing::warn!(pid = found.pid, "the gateway runs but does not answer; it is replaced");
            end(&found, Duration::from_secs(5)).await;
        }
        let address = self.address_to_keep(left.as_ref());
        Ok((self.start(address, false).await?, true))
    }

    /// The address that callers know, if the one asked for is any free port.
    fn address_to_keep(&self, left: Option<&Running>) -> SocketAddr {
        match left {
            Some(left) if self.listen.port() == 0 => left.address,
            _ => self.listen,
        }
    }

    /// Starts a new gateway that takes the listening sockets over; the old one finishes its requests and ends.
    ///
    /// # Errors
    /// [`Error::Start`] when the new one does not come up; the old one then still serves.
    #[tracing::instrument(name = "gateway.upgrade", skip_all, err)]
    pub async fn upgrade(&self) -> Result<Running, Error> {
        let before = self.running();
        let address = before.as_ref().map_or(self.listen, |running| running.address);
        let after = self.start(address, true).await?;
        let mut retired = lock(&self.retired);
        retired.retain(running::is_alive);
        retired.extend(before);
        Ok(after)
    }

    /// What runs, as last seen.
    pub fn running(&self) -> Option<Running> {
        lock(&self.running).clone()
    }

    /// Lets the gateway finish and end, and those that it replaced.
    #[tracing::instrument(name = "gateway.stop", skip_all)]
    pub async fn stop(&self, limit: Duration) {
        let retired = std::mem::take(&mut *lock(&self.retired));
        for old in retired.iter().filter(|old| running::is_alive(old)) {
            end(old, Duration::from_secs(5)).await;
        }
        let Some(running) = self.running() else { return };
        if client::drain(&self.socket()).await.is_ok() {
            running::wait_for_end(&running, limit).await;
        }
        end(&running, Duration::from_secs(5)).await;
        let _ = std::fs::remove_file(self.home.running("gateway"));
        let _ = std::fs::remove_file(self.socket());
    }

    fn socket(&self) -> PathBuf {
        self.running().and_then(|running| running.admin).unwrap_or_else(|| self.socket.clone())
    }

    async fn start(&self, address: SocketAddr, takeover: bool) -> Result<Running, Error> {
        match self.start_on(address, takeover).await {
            // Somebody took the port meanwhile: any free one is better than none, if any was asked for.
            Err(error) if !takeover && self.listen.port() == 0 && address.port() != 0 => {
                tracing::warn!(%address, %error, "the gateway's former address cannot be had");
                self.start_on(self.listen, takeover).await
            }
            other => other,
        }
    }

    async fn start_on(&self, address: SocketAddr, takeover: bool) -> Result<Running, Error> {
        let path = self.home.running("gateway");
        let before = running::read(&path).map(|running| running.pid);
        let mut child = self.command(address, takeover)?.spawn().map_err(|error| self.failed(&error.to_string()))?;
        let pid = child.id();
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if let Some(running) = running::read(&path).filter(|running| running.pid == pid && Some(pid) != before) {
                let socket = running.admin.clone().unwrap_or_else(|| self.socket.clone());
                if client::answers(&socket).await {
                    reap(child);
                    *lock(&self.running) = Some(running.clone());
                    return Ok(running);
                }
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.failed(&format!("it ended at once ({status})")));
            }
            if tokio::time::Instant::now() > deadline {
                let _ = child.kill();
                reap(child);
                return Err(self.failed(&format!("it did not come up within {} s", START_LIMIT.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn command(&self, address: SocketAddr, takeover: bool) -> Result<Command, Error> {
        let failed = |error: std::io::Error| Error::Start(format!("cannot write its log: {error}"));
        std::fs::create_dir_all(self.home.logs()).map_err(failed)?;
        std::fs::create_dir_all(self.home.gateway()).map_err(failed)?;
        let log = File::options().create(true).append(true).open(self.log()).map_err(failed)?;
        let mut command = Command::new(&self.binary);
        command.arg("gateway").arg("--listen").arg(address.to_string());
        command.arg("--admin").arg(&self.socket).arg("--state").arg(self.home.gateway());
        command.arg("--running").arg(self.home.running("gateway"));
        if takeover {
            command.arg("--takeover");
        }
        // A group of its own: Ctrl-C at the control plane's terminal does not reach it.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.home.logs().join("gateway.log")
    }

    fn failed(&self, why: &str) -> Error {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..]).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        Error::Start(format!("{why}; its log `{}` ends with: {}", self.log().display(), lines.join(" / ")))
    }
}

impl Gateway for GatewayProcess {
    fn report(&self) -> PortFuture<'_, Result<GatewayReport, Error>> {
        Box::pin(async { client::report(&self.socket()).await })
    }

    fn push<'a>(&'a self, table: &'a RouteTable) -> PortFuture<'a, Result<(), Error>> {
        Box::pin(async { client::push(&self.socket(), table).await })
    }

    fn revive(&self) -> PortFuture<'_, Result<Option<u32>, Error>> {
        Box::pin(async {
            let known = self.running();
            if known.as_ref().is_some_and(running::is_alive) {
                return Ok(None);
            }
            let address = known.map_or(self.listen, |running| running.address);
            self.start(address, false).await.map(|running| Some(running.pid))
        })
    }
}

/// Waits for the child's end in a thread, so that it leaves no zombie.
fn reap(mut child: std::process::Child) {
    let wait = move || drop(child.wait());
    if let Err(error) = std::thread::Builder::new().name("gateway-wait".into()).stack_size(64 << 10).spawn(wait) {
        tracing::warn!(%error, "nobody waits for the gateway's end");
    }
}

async fn end(running: &Running, grace: Duration) {
    let identity = identity::Identity { pid: running.pid, start_ticks: running.start_ticks };
    let ended = tokio::task::spawn_blocking(move || identity.terminate(grace)).await;
    if let Ok(Err(error)) = ended {
        tracing::warn!(pid = running.pid, %error, "the gateway does not end");
    }
}

/// Where the admin socket is: in the home, or in a private folder under the temporary folder when that path is too long.
fn socket_path(home: &Home) -> Result<PathBuf, Error> {
    let plain = home.root().join("run").join("gateway.sock");
    if plain.as_os_str().len() <= SOCKET_PATH_LIMIT {
        return Ok(plain);
    }
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    home.root().hash(&mut hasher);
    let folder = std::env::temp_dir().join(format!("modelyard-{:016x}", hasher.finish()));
    private_folder(&folder)?;
    Ok(folder.join("gateway.sock"))
}

/// Makes a folder that is ours alone. In a shared temporary folder somebody else may have made it first.
fn private_folder(folder: &Path) -> Result<(), Error> {
    let refuse = |why: String| Error::Start(format!("the folder `{}` for its socket {why}", folder.display()));
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refuse(error.to_string())),
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(folder).map_err(|error| refuse(error.to_string()))?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && ours && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(refuse("is not private to this user; set MODELYARD_HOME to a shorter path".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_homes_get_a_short_private_socket() {
        let short = socket_path(&Home::new("/tmp/home")).unwrap();
        assert_eq!(short, Path::new("/tmp/home/run/gateway.sock"));
        let home = Home::new(format!("/tmp/{}-{}", "long".repeat(40), std::process::id()));
        let long = socket_path(&home).unwrap();
        assert!(long.as_os_str().len() <= SOCKET_PATH_LIMIT, "{}", long.display());
        let folder = long.parent().unwrap();
        assert_eq!(std::fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(socket_path(&home).is_err(), "another user could have made it");
        std::fs::remove_dir(folder).unwrap();
    }
}
