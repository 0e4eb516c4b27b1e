//! `modelyard package --measure`: each format that was written is started once, and asked a sample until it answers correctly.
//!
//! Promises: bounded in time; what was started is ended, and what was unpacked or loaded is removed, however it went; what cannot be started here is told
//! as not measured, with the reason, and is no error.

mod vm;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modelyard_core::package::{Package, Runtime};
use modelyard_core::sample::Sample;
use serde_json::Value;

/// Longest time until the first correct answer: the smallest machines load the largest models in less.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(2);

/// Longest time for a program to end once it is asked to.
const ENDING: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Seconds from its start to the first correct answer, or why there is no such figure.
pub fn start_seconds(format: &str, package: &Package, path: &Path) -> Result<f64, String> {
    let sample = package.samples.first().ok_or("the package has no sample to ask")?;
    match format {
        "standalone" => standalone(package, sample, path),
        "image" => image(package, sample, path),
        "wheel" => wheel(package, sample, path),
        "vm" => vm::seconds(package, sample, path),
        other => Err(format!("nothing starts a {other}")),
    }
}

fn told(what: &str) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// A program that is ended when it is no longer needed.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let until = Instant::now() + ENDING;
        while Instant::now() < until {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told("no port is free"))?;
    listener.local_addr().map(|address| address.port()).map_err(told("no port is free"))
}

/// Runs a program to its end; what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(told(&name))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(300).collect::<String>();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{name}: {}", text(&output.stderr))),
    }
}

fn standalone(package: &Package, sample: &Sample, path: &Path) -> Result<f64, String> {
    let scratch = tempfile::tempdir().map_err(told("no room to unpack it"))?;
    run(Command::new("tar").arg("-xf").arg(path).arg("-C").arg(scratch.path()))?;
    let program = scratch.path().join(format!("{}-{}", package.name, package.version)).join("run");
    let address = format!("127.0.0.1:{}", port()?);
    let began = Instant::now();
    let mut command = Command::new(program);
    command.arg(&address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut started = Started(command.spawn().map_err(told("./run"))?);
    asked(package, sample, &address, (began, PATIENCE, PAUSE), || match started.0.try_wait() {
        Ok(Some(status)) => Err(format!("./run ended with {status}")),
        _ => Ok(()),
    })
}

/// A container that is removed when it is no longer needed, with its image.
struct Container {
    id: String,
    image: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["rm", "--force", "--volumes", &self.id]));
        let _ = run(Command::new("docker").args(["image", "rm", &self.image]));
    }
}

fn image(package: &Package, sample: &Sample, path: &Path) -> Result<f64, String> {
    run(Command::new("docker").arg("version")).map_err(|error| format!("no Docker answers ({error})"))?;
    let name = format!("{}:{}", package.name, package.version);
    let before = run(Command::new("docker").args(["image", "inspect", "--format", "{{.Id}}", &name])).is_ok();
    if before {
        return Err(format!("Docker has an image {name} already, which would be replaced"));
    }
    run(Command::new("docker").arg("load").arg("--input").arg(path))?;
    // The host's network where Docker has no bridge of its own.
    let bridged = run(Command::new("docker").args(["network", "inspect", "bridge"])).is_ok();
    let address = format!("127.0.0.1:{}", port()?);
    let network = match bridged {
        true => ["--publish".to_owned(), format!("{address}:8080")],
        false => ["--network".to_owned(), "host".to_owned()],
    };
    let mut create = Command::new("docker");
    create.args(["create", "--read-only"]).args(&network);
    if !bridged {
        create.arg("--env").arg(format!("MODELYARD_HTTP={address}"));
    }
    let created = run(create.arg(&name));
    let container = Container { id: created.as_deref().unwrap_or_default().trim().to_owned(), image: name };
    created?;
    let began = Instant::now();
    run(Command::new("docker").args(["start", &container.id]))?;
    asked(package, sample, &address, (began, PATIENCE, PAUSE), || {
        let state = run(Command::new("docker").args(["inspect", "--format", "{{.State.Running}}", &container.id]))?;
        if state.trim() == "true" { Ok(()) } else { Err("the container ended".to_owned()) }
    })
}

/// Asks until the answer is right.
fn asked(
    package: &Package,
    sample: &Sample,
    address: &str,
    (began, patience, pause): (Instant, Duration, Duration),
    mut runs: impl FnMut() -> Result<(), String>,
) -> Result<f64, String> {
    let native = format!("/v2/models/{}/infer", package.name);
    let path = match package.runtime {
        Runtime::Command { .. } => sample.path.as_deref().unwrap_or("/predict"),
        Runtime::Onnx { .. } | Runtime::Python { .. } | Runtime::None {} => &native,
    };
    let url = format!("http://{address}{path}");
    let (mut last, mut looked) = ("it does not answer".to_owned(), Instant::now());
    while began.elapsed() < patience {
        // What was asked too early may be lost on its way into a machine: waiting long for it would be counted as its start.
        let attempt = (began.elapsed() / 4).clamp(Duration::from_secs(1), Duration::from_secs(30));
        let agent = ureq::Agent::config_builder().timeout_global(Some(attempt)).build().new_agent();
        let answer = agent.post(&url).send_json(&sample.request);
        match answer.and_then(|mut answer| answer.body_mut().with_config().limit(MOST_BYTES).read_json::<Value>()) {
            Ok(body) => match sample.check(&body) {
                Ok(()) => return Ok(began.elapsed().as_secs_f64()),
                Err(wrong) => return Err(format!("it answers its sample wrongly: at `{}`: {}", wrong.at, wrong.why)),
            },
            Err(error) => last = error.to_string(),
        }
        // Whether it still runs is looked at more rarely than it is asked: that may cost more.
        if looked.elapsed() > Duration::from_millis(500) {
            runs()?;
            looked = Instant::now();
        }
        std::thread::sleep(pause);
    }
    Err(format!("no correct answer within {} s: {last}", patience.as_secs()))
}

/// A Python process that imports the wheel and answers the sample: from its start to its answer.
fn wheel(package: &Package, sample: &Sample, path: &Path) -> Result<f64, String> {
    let scratch = tempfile::tempdir().map_err(told("no room to unpack it"))?;
    let python = std::env::var_os("MODELYARD_PYTHON").unwrap_or_else(|| "python3".into());
    run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(path).arg(scratch.path()))?;
    let module = std::fs::read_dir(scratch.path()).map_err(told("the wheel"))?.flatten();
    let module = module.filter_map(|entry| entry.file_name().into_string().ok());
    let module = module.into_iter().find(|name| !name.contains('.')).ok_or("the wheel holds no module")?;
    let request = scratch.path().join("request.json");
    std::fs::write(&request, sample.request.to_string()).map_err(told("the request"))?;
    let began = Instant::now();
    let mut command = Command::new(&python);
    command.args(["-m", &module, "predict"]).arg(&request).env("PYTHONPATH", scratch.path());
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("ORT_DISABLE_TELEMETRY", "1").current_dir(scratch.path());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut started = Started(child.map_err(told("python3"))?);
    let mut answer = String::new();
    if let Some(stdout) = started.0.stdout.take() {
        // It prints one line, and ends.
        BufReader::new(stdout.take(MOST_BYTES)).read_line(&mut answer).map_err(told("python3"))?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let outputs: Result<Value, _> = serde_json::from_str(&answer);
    match outputs.ok().filter(|told| told["outputs"].is_object()) {
        Some(told) => same(package, sample, &told["outputs"]).map(|()| seconds),
        None => {
            let mut why = String::new();
            let _ = started.0.stderr.take().map(|stderr| stderr.take(64 << 10).read_to_string(&mut why));
            let why = why.trim().lines().last().unwrap_or("it prints no answer").to_owned();
            Err(format!("this Python does not run it: {why}"))
        }
    }
}

/// Whether outputs by name are those of the sample, whose tensors have names and flat data.
fn same(package: &Package, sample: &Sample, outputs: &Value) -> Result<(), String> {
    let expected = sample.response["outputs"].as_array().into_iter().flatten();
    for one in expected {
        let name = one["name"].as_str().unwrap_or_default();
        let (mut flat, mut tensor) = (Vec::new(), sample.clone());
        flatten(&outputs[name], &mut flat);
        tensor.response = one["data"].clone();
        tensor.check(&Value::Array(flat)).map_err(|wrong| {
            format!("{} answers its sample wrongly: `{name}` at `{}`: {}", package.name, wrong.at, wrong.why)
        })?;
    }
    Ok(())
}

fn flatten(value: &Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| flatten(one, into)),
        one => into.push(one.clone()),
    }
}
