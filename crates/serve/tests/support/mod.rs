//! A model server as a process of its own, over a package made by hand.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a broken rig fails the test")]

pub mod http2;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use modelyard_core::home::Announcement;
use serde_json::{Value, json};

/// Long enough for a debug build on a busy machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Killed when dropped.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
    pub probe: SocketAddr,
    folder: tempfile::TempDir,
}

/// An answer: status, headers in lower case, body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().expect("an `error`").to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A sample over REST.
pub fn sample(name: &str, request: Value, response: Value) -> Value {
    json!({"name": name, "request": request, "response": response})
}

/// One FP32 input.
pub fn input(name: &str, shape: &[i64], data: Value) -> Value {
    json!({"inputs": [{"name": name, "datatype": "FP32", "shape": shape, "data": data}]})
}

fn program() -> PathBuf {
    // target/debug/deps/serving-… → target/debug/examples/serve, which `cargo test` builds.
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples").join("serve")
}

impl Server {
    /// Starts a server of a fixture and waits until it is ready.
    pub fn start(fixture: &str, samples: Value) -> Self {
        let server = Self::launch(fixture, samples);
        server.wait_for("/v2/health/ready", 200);
        server
    }

    /// Starts a server of a fixture whose package declares flags, with values of them, and waits until it is ready.
    pub fn flagged(fixture: &str, samples: Value, flags: Value, values: Value) -> Self {
        let server = Self::launch_with(fixture, samples, flags, values);
        server.wait_for("/v2/health/ready", 200);
        server
    }

    /// Starts a server that answers contracts of platforms, and waits until it is ready.
    pub fn contracted(fixture: &str, contracts: &str) -> Self {
        let folder = Self::packaged(fixture, json!([]), json!({}));
        let server = Self::spawn(folder, fixture, &[("CONTRACT", contracts)], Stdio::inherit());
        server.wait_for("/v2/health/ready", 200);
        server
    }

    /// Starts a server and waits only until it listens.
    pub fn launch(fixture: &str, samples: Value) -> Self {
        Self::launch_with(fixture, samples, json!({}), json!({}))
    }

    fn launch_with(fixture: &str, samples: Value, flags: Value, values: Value) -> Self {
        let folder = Self::packaged(fixture, samples, flags);
        Self::spawn(folder, fixture, &[("MODELYARD_FLAGS", &values.to_string())], Stdio::inherit())
    }

    /// A folder with a package of a fixture.
    fn packaged(fixture: &str, samples: Value, flags: Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("{fixture}.onnx");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(&file);
        std::fs::copy(from, folder.path().join(&file)).unwrap();
        let document = json!({
            "format_version": 1, "name": fixture, "version": "2.1.0", "runtime": {"kind": "onnx", "model": file},
            "signature": {"inputs": [], "outputs": []}, "samples": samples, "flags": flags, "files": {},
        });
        std::fs::write(folder.path().join("modelyard.json"), document.to_string()).unwrap();
        folder
    }

    /// Starts a server of a Python function, and waits until it is ready. Its log goes to the file `log` of its folder.
    pub fn function(source: &str, document: Value, variables: &[(&str, &str)]) -> Self {
        let server = Self::launch_function(source, document, variables);
        server.wait_for("/v2/health/ready", 200);
        server
    }

    /// Starts a server of a Python function and waits only until it listens.
    pub fn launch_function(source: &str, document: Value, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("predict.py"), source).unwrap();
        let mut whole = json!({
            "format_version": 1, "name": "f", "version": "1", "files": {},
            "runtime": {"kind": "python", "entry": "predict:predict", "workers": 1, "timeout_seconds": 30},
            "signature": {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
            },
        });
        for (key, value) in document.as_object().unwrap() {
            match (whole.get_mut(key), value) {
                (Some(Value::Object(own)), Value::Object(more)) => own.extend(more.clone()),
                _ => whole[key] = value.clone(),
            }
        }
        std::fs::write(folder.path().join("modelyard.json"), whole.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let variables: Vec<_> = variables.iter().copied().chain([("RUST_LOG", "info")]).collect();
        Self::spawn(folder, "f", &variables, Stdio::from(log))
    }

    /// The package's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the server and its workers said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn spawn(folder: tempfile::TempDir, name: &str, variables: &[(&str, &str)], log: Stdio) -> Self {
        let announce = folder.path().join("announce.json");
        let process = Command::new(program())
            .arg(folder.path())
            .args([name, "127.0.0.1:0", "127.0.0.1:0"])
            .arg(&announce)
            .env("THREADS", "2")
            // A server of these tests asks its samples often, so that none has to wait for it.
            .env("CHECK_EVERY_MS", "40")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the example `serve` is built by cargo test");
        let mut server = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            probe: SocketAddr::from(([127, 0, 0, 1], 0)),
            folder,
        };
        let announcement = server.announced(&announce);
        (server.address, server.probe) = (announcement.address, announcement.probe.unwrap());
        server
    }

    fn announced(&mut self, path: &Path) -> Announcement {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(bytes) = std::fs::read(path) {
                return serde_json::from_slice(&bytes).unwrap();
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no announcement; the server {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the probe port answers with a status; returns the answer.
    pub fn wait_for(&self, path: &str, status: u16) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = ask(self.probe, "GET", path, &[], b"");
            if answer.status == status {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} is {} still", answer.status);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The status of a probe, if the server listens still.
    pub fn probed(&self, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(self.probe).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        send(&mut stream, "GET", path, &[], b"").ok()?;
        receive(&mut BufReader::new(stream), "GET").ok().map(|answer| answer.status)
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
        });
        samples.sum()
    }

    pub fn get(&self, path: &str) -> Answer {
        ask(self.address, "GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        ask(self.address, "POST", path, &[], body.to_string().as_bytes())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let sent = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server runs still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request on a connection of its own.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    send(&mut stream, method, path, headers, body).unwrap();
    receive(&mut BufReader::new(stream), method).unwrap()
}

/// Sends a request on an open connection.
pub fn send(stream: &mut TcpStream, method: &str, path: &str, headers: &[&str], body: &[u8]) -> std::io::Result<()> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// Reads one answer.
pub fn receive(reader: &mut impl BufRead, method: &str) -> std::io::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let head = head.replace('\r', "");
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    reader.read_exact(&mut body)?;
    Ok(Answer { status, head, body })
}
