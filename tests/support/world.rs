//! A home of its own, and the program as a person calls it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::process::{alive, census, command_line, kill_9};
use super::wait::until;

/// What the program did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote on stdout.
    pub out: String,
    /// What it wrote on stderr.
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Panics unless the exit code is `code`.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// A home of its own.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    /// Where the gateway takes requests, once up.
    pub gateway: SocketAddr,
    /// Where the control plane answers, once up.
    pub control: SocketAddr,
    /// Process of the control plane, once up.
    pub pid: u32,
    /// Further variables for every command.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for World {
    fn default() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::Builder::new().prefix("modelyard-test-").tempdir().unwrap();
        Self { folder, gateway: free, control: free, pid: 0, environment: Vec::new() }
    }
}

impl World {
    /// A world in which everything runs.
    pub fn up() -> Self {
        let mut world = Self::default();
        world.start();
        world
    }

    /// Starts control plane and gateway; the same addresses again after the first time.
    pub fn start(&mut self) {
        let (gateway, control) = (self.gateway.to_string(), self.control.to_string());
        let up = self.run(&["up", "--detach", "--gateway", &gateway, "--control", &control, "--output", "json"]);
        let started = up.ended(0).json();
        let address = |key: &str| started[key].as_str().and_then(|text| text.parse().ok());
        self.gateway = address("gateway").unwrap_or_else(|| panic!("no gateway in {started}"));
        self.control = address("control").unwrap_or_else(|| panic!("no control in {started}"));
        self.pid = started["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid");
    }

    /// The home folder.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The program with these arguments, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelyard"));
        command.args(arguments).stdin(Stdio::null()).env("MODELYARD_HOME", self.home());
        command.env_remove("MODELYARD_CONTROL").env("NO_COLOR", "1").env("MODELYARD_BY", "tester");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs the program; its stdout as JSON. Panics unless it succeeds.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        self.run(&all).ended(0).json()
    }

    /// Deploys an example (`breast-cancer/v1`) to its end with further arguments.
    pub fn deploy(&self, example: &str, arguments: &[&str]) -> Ran {
        let folder = super::examples().join(example);
        let mut all = vec!["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m", "--output", "json"];
        all.extend(arguments);
        self.run(&all)
    }

    /// Starts to deploy an example without waiting; the rollout's id.
    #[track_caller]
    pub fn begin(&self, example: &str, arguments: &[&str]) -> String {
        let folder = super::examples().join(example);
        let mut all = vec!["deploy", folder.to_str().unwrap()];
        all.extend(arguments);
        let started = self.json(&all);
        started["rollout"].as_str().unwrap_or_else(|| panic!("no rollout in {started}")).to_owned()
    }

    /// The service as `status` has it.
    #[track_caller]
    pub fn status(&self, service: &str) -> Value {
        self.json(&["status", service])
    }

    /// Waits until the rollout is in a state that `accept` accepts.
    #[track_caller]
    pub fn rollout_until(&self, rollout: &str, seconds: u64, accept: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/rollouts/{rollout}");
        until(&format!("rollout {rollout}"), seconds, || match self.api(&path) {
            Ok(stands) if accept(&stands) => Ok(stands),
            Ok(stands) => Err(stands.to_string()),
            Err(error) => Err(error),
        })
    }

    /// Waits until the rollout ended; its outcome.
    #[track_caller]
    pub fn outcome(&self, rollout: &str, seconds: u64) -> String {
        let ended = self.rollout_until(rollout, seconds, |stands| stands["outcome"] != "running");
        ended["outcome"].as_str().unwrap_or_default().to_owned()
    }

    /// `GET` from the control plane.
    pub fn api(&self, path: &str) -> Result<Value, String> {
        let mut answer = ureq::get(format!("http://{}{path}", self.control)).call().map_err(|e| e.to_string())?;
        answer.body_mut().read_json().map_err(|e| e.to_string())
    }

    /// Every event of a service, from the log.
    #[track_caller]
    pub fn events(&self, service: &str) -> Vec<Value> {
        let events = self.api(&format!("/api/events?service={service}&after=0&wait_ms=0")).unwrap();
        events.as_array().cloned().unwrap_or_else(|| panic!("no list of events: {events}"))
    }

    /// Process of the gateway.
    #[track_caller]
    pub fn gateway_pid(&self) -> u32 {
        let text = std::fs::read(self.home().join("run/gateway.json")).unwrap();
        let running: Value = serde_json::from_slice(&text).unwrap();
        running["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// Kills the control plane without warning and waits until it is gone.
    pub fn kill_control(&self) {
        kill_9(self.pid);
        until("the control plane is gone", 10, || if alive(self.pid) { Err("still there") } else { Ok(()) });
    }

    /// Stops everything and checks that nothing is left.
    #[track_caller]
    pub fn down(&self) {
        self.run(&["down"]).ended(0);
        until("no process is left", 10, || {
            let left = census(self.home());
            let lines: Vec<String> = left.iter().map(|&pid| format!("{pid} {}", command_line(pid))).collect();
            if left.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
        });
    }

    /// A folder inside the home for a test's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.home().join("scratch").join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        if !census(self.home()).is_empty() {
            let _ = self.run(&["down", "--timeout", "20s"]);
        }
        // A test that failed half-way, or a control plane that a test killed, must not leave anything to the next one.
        census(self.home()).into_iter().for_each(kill_9);
    }
}

impl World {
    /// What a test that failed leaves behind for whoever looks into it: status, the last events, the ends of all logs.
    fn show_logs(&self) {
        for path in ["/api/health", "/api/services"] {
            eprintln!("--- {path}\n{}", self.api(path).map_or_else(|error| error, |answer| answer.to_string()));
        }
        let events = self.api("/api/events?after=0").unwrap_or_default();
        let events = events.as_array().cloned().unwrap_or_default();
        let told = events.iter().filter(|event| event["event"] != "measured");
        let lines: Vec<String> = told.map(|event| event.to_string().chars().take(400).collect()).collect();
        eprintln!("--- the last events\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        let logs = std::fs::read_dir(self.home().join("logs")).into_iter().flatten().flatten();
        for log in logs {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}\n{}", log.path().display(), lines[lines.len().saturating_sub(25)..].join("\n"));
        }
    }
}
