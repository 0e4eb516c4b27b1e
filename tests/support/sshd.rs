//! A machine of its own: a real sshd on loopback, which lets in this very user by a key of its own.
#![allow(dead_code, reason = "each test uses its own part of this module")]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A machine. Its sshd and every connection end with it; what was started over them does not.
#[derive(Debug)]
pub struct Sshd {
    folder: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
    child: Option<Child>,
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(made.success(), "ssh-keygen: {made}");
}

impl Sshd {
    /// A machine that is up.
    pub fn up() -> Self {
        Self::with("")
    }

    /// A machine with further lines in its configuration.
    pub fn with(more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("modelyard-sshd-").tempdir().unwrap();
        // Nothing listens there until sshd does, a moment later.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| folder.path().join(name);
        keygen(&at("host"));
        keygen(&at("key"));
        std::fs::rename(at("key.pub"), at("authorized")).unwrap();
        let host = std::fs::read_to_string(at("host.pub")).unwrap();
        std::fs::write(at("known"), format!("[127.0.0.1]:{port} {host}")).unwrap();
        let show = |name: &str| at(name).display().to_string();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nPermitRootLogin yes\n{more}\n",
            show("host"),
            show("authorized")
        );
        std::fs::write(at("sshd.conf"), server).unwrap();
        let client = format!("Host *\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n", show("known"));
        std::fs::write(at("ssh.conf"), client).unwrap();
        // Where sshd drops what it may do; Debian makes it when it starts the service.
        let _ = std::fs::create_dir_all("/run/sshd");
        let mut sshd = Self { folder, port, child: None };
        sshd.start();
        sshd
    }

    /// Starts it (again), on the same port.
    pub fn start(&mut self) {
        let said = std::fs::OpenOptions::new().create(true).append(true).open(self.file("sshd.log")).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f"])
            .arg(self.file("sshd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.file("sshd.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "sshd does not listen: {}", log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Cuts it off: sshd and every connection end at once, and what runs there does not notice.
    pub fn cut(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.child.take().map(|mut child| child.wait());
    }

    /// Lets it hang: connections stay, and nobody answers on them.
    pub fn hang(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Sends a signal to sshd and to every connection.
    fn signal(&self, signal: rustix::process::Signal) {
        let Some(child) = &self.child else { return };
        let mut all = vec![child.id()];
        loop {
            let more: Vec<u32> = processes()
                .filter(|(pid, parent, _)| all.contains(parent) && !all.contains(pid))
                .map(|(pid, ..)| pid)
                .collect();
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        let names: Vec<(u32, String)> = processes().map(|(pid, _, name)| (pid, name)).collect();
        // Below the connections are shells and what they became: those are what the machine itself runs.
        let sshds =
            all.into_iter().filter(|pid| names.iter().any(|(other, name)| other == pid && name.starts_with("sshd")));
        for pid in sshds {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The key that is let in.
    pub fn key(&self) -> PathBuf {
        self.file("key")
    }

    /// A client's configuration that knows its host key.
    pub fn config(&self) -> PathBuf {
        self.file("ssh.conf")
    }

    /// The client forgets its host key.
    pub fn forget_host_key(&self) {
        std::fs::File::create(self.file("known")).unwrap().write_all(b"\n").unwrap();
    }

    /// A folder of this machine's own.
    pub fn home(&self) -> PathBuf {
        self.file("modelyard")
    }
}

/// Pid, parent and name of every process.
fn processes() -> impl Iterator<Item = (u32, u32, String)> {
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((pid, rest.split_ascii_whitespace().nth(1)?.parse().ok()?, name.to_owned()))
    })
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.cut();
    }
}
