//! A Modelyard of its own: a temporary home, the binary as a user calls it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use modelyard_core::event::Event;
use modelyard_core::home::{Home, Running};
use serde_json::Value;
use tempfile::TempDir;

use crate::http1::Request;
use crate::process::{Process, ask, free_address, resident};

/// Path of something below `examples/`.
pub fn example(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path).display().to_string()
}

/// A held-out row as a request.
fn held_out(service: &str) -> Result<Request> {
    let rows: Value = serde_json::from_slice(&std::fs::read(example(&format!("{service}/traffic.json")))?)?;
    Ok(Request::json(format!("/v2/models/{service}/infer"), rows[0]["request"].to_string()))
}

/// A Modelyard of its own. It is brought down when dropped, whatever happened.
pub struct World {
    home: TempDir,
    binary: PathBuf,
    onnxruntime: Option<PathBuf>,
    gateway: SocketAddr,
    control: SocketAddr,
    up: bool,
}

impl World {
    /// A home in which nothing runs yet.
    pub fn new(binary: &Path, onnxruntime: Option<&Path>) -> Result<Self> {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let onnxruntime = onnxruntime.map(Path::to_path_buf);
        let home = tempfile::Builder::new().prefix("modelyard-bench-").tempdir()?;
        Ok(Self { home, binary: binary.to_path_buf(), onnxruntime, gateway: free, control: free, up: false })
    }

    /// Where requests go.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    fn run(&self, arguments: &[&str]) -> Result<(i32, Value)> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--output", "json"]).stdin(Stdio::null());
        command.env("MODELYARD_HOME", self.home.path()).env_remove("MODELYARD_CONTROL");
        self.onnxruntime.as_ref().map(|library| command.env("MODELYARD_ONNXRUNTIME", library));
        let output = command.output().with_context(|| format!("could not run {}", self.binary.display()))?;
        let code = output.status.code().unwrap_or(-1);
        let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if json.is_null() && code != 0 {
            bail!("modelyard {} failed ({code}): {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok((code, json))
    }

    /// What a command prints, if it succeeds.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let (code, json) = self.run(arguments)?;
        ensure!(code == 0, "modelyard {} ended with {code}: {json}", arguments.join(" "));
        Ok(json)
    }

    /// Serves version 1 of an example without a control plane; seconds from the start of the process to its first answer.
    pub fn serve(&self, service: &str) -> Result<f64> {
        let address = free_address()?;
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg(example(&format!("{service}/v1"))).args(["--http", &address.to_string()]);
        command.env("MODELYARD_HOME", self.home.path());
        self.onnxruntime.as_ref().map(|library| command.env("MODELYARD_ONNXRUNTIME", library));
        let mut process = Process::start("serve", command, None, self.home.path())?;
        let (_, taken) = process.wait_for(address, &held_out(service)?, Duration::from_secs(60))?;
        Ok(taken.as_secs_f64())
    }

    /// Starts control plane and gateway; how long it took in seconds.
    pub fn up(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.up = true; // from here on there may be something to bring down
        let up = self.json(&["up", "--detach", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0"])?;
        let seconds = start.elapsed().as_secs_f64();
        let address = |key: &str| up[key].as_str().and_then(|text| text.parse().ok());
        self.gateway = address("gateway").with_context(|| format!("`up` names no gateway: {up}"))?;
        self.control = address("control").with_context(|| format!("`up` names no control plane: {up}"))?;
        Ok(seconds)
    }

    /// Stops everything.
    pub fn down(&mut self) -> Result<()> {
        self.up = false;
        self.json(&["down"]).map(drop)
    }

    /// Deploys an example to its end, which must be `outcome`.
    pub fn deploy(&self, version: &str, arguments: &[&str], outcome: &str) -> Result<Value> {
        let folder = example(version);
        let mut all = vec!["deploy", &folder, "--wait", "--timeout", "3m"];
        all.extend(arguments);
        let (_, ended) = self.run(&all)?;
        ensure!(ended["outcome"] == outcome, "{version} should have been {outcome}: {ended}");
        Ok(ended)
    }

    /// Waits until a held-out row is answered at the gateway.
    pub fn until_answered(&self, service: &str, limit: Duration) -> Result<()> {
        let request = held_out(service)?;
        self.poll(limit, || match ask(self.gateway, &request)? {
            (200, _) => Ok(()),
            (status, body) => bail!("status {status}: {}", String::from_utf8_lossy(&body)),
        })
    }

    /// Waits until no rollout is open for the service.
    pub fn settled(&self, service: &str) -> Result<()> {
        self.poll(Duration::from_secs(60), || {
            let status = self.json(&["status", service])?;
            ensure!(status["stable"].is_object() && status["candidate"].is_null(), "still moving: {status}");
            Ok(())
        })
    }

    fn poll(&self, limit: Duration, look: impl Fn() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            match look() {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > limit => return Err(error.context(format!("not within {limit:?}"))),
                Err(_) => std::thread::sleep(Duration::from_millis(2)), // polls: there is nothing to wait on
            }
        }
    }

    /// The events of one rollout.
    pub fn events(&self, rollout: &str) -> Result<Vec<Event>> {
        let (status, body) = ask(self.control, &Request::get(format!("/api/events?rollout={rollout}")))?;
        ensure!(status == 200, "no events: status {status}");
        Ok(serde_json::from_slice(&body)?)
    }

    /// Resident memory of control plane, gateway and one instance.
    pub fn memory_at_rest(&self, service: &str) -> Result<Vec<(String, u64)>> {
        let home = Home::new(self.home.path());
        let mut memory = Vec::new();
        for what in ["control", "gateway"] {
            let running: Running = serde_json::from_slice(&std::fs::read(home.running(what))?)?;
            memory.push((what.to_owned(), resident(running.pid)));
        }
        let status = self.json(&["status", service])?;
        let pid = status.pointer("/stable/instances/0/pid").and_then(Value::as_u64).context("no instance has a pid")?;
        let pid = u32::try_from(pid)?;
        memory.push(("model server".to_owned(), resident(pid)));
        let parent = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let parent = parent.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        memory.extend(parent.map(|parent| ("its supervisor".to_owned(), resident(parent))));
        Ok(memory)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.up && self.down().is_err() {
            eprintln!("could not bring down the Modelyard in {}", self.home.path().display());
        }
    }
}
