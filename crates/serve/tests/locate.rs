//! Where the engine is looked for, in which order, and how it is fetched: in environments made for it, with programs that play pip and uv.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use modelyard_serve::onnxruntime::{OLDEST_MINOR, PINNED};

/// A machine on which nothing is but what a test puts there.
struct Machine {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        Self { folder, variables: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file that is called like a library.
    fn library(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        path
    }

    /// A library as Python packages have it, below a folder of packages.
    fn packaged(&self, site: &str, version: &str) -> PathBuf {
        self.library(&format!("{site}/onnxruntime/capi/libonnxruntime.so.{version}"))
    }

    fn kept(&self) -> PathBuf {
        self.library(&format!("cache/onnxruntime/libonnxruntime.so.{PINNED}"))
    }

    /// A program on the path, written for the shell.
    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A Python without pip, which has this folder of packages.
    fn python(&self, name: &str, site: &str) {
        let site = self.path(site);
        let script = "case \"$*\" in *'-m pip'*) echo \"$0: No module named pip\" >&2; exit 1;; esac";
        self.program(name, &format!("{script}\necho {}", site.display()));
    }

    /// A program that downloads these bytes as a wheel, and notes how it was called.
    fn downloads(&self, name: &str, bytes: &str) {
        let (log, wheel) = (self.path(&format!("{name}.log")), format!("onnxruntime-{PINNED}.whl"));
        let script = format!(
            "echo \"$*\" > {}\nwhile [ $# -gt 0 ]; do [ \"$1\" = --dest ] && printf '{bytes}' > \"$2/{wheel}\"; shift; done",
            log.display()
        );
        self.program(name, &script);
    }

    fn called(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// The library that is found, or what was said.
    fn locate(&self) -> Result<PathBuf, String> {
        let own = std::env::current_exe().unwrap();
        let program = own.parent().unwrap().parent().unwrap().join("examples").join("locate");
        let mut command = Command::new(program);
        command.arg(self.path("cache")).env_clear().env("PATH", self.path("bin"));
        let output =
            command.envs(self.variables.iter().cloned()).output().expect("cargo test builds the example `locate`");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout).into()) } else { Err(text(&output.stderr)) }
    }

    /// What the cache holds.
    fn cached(&self) -> usize {
        fs::read_dir(self.path("cache/onnxruntime")).map_or(0, Iterator::count)
    }
}

fn is_linux() -> bool {
    std::env::consts::OS == "linux" && Path::new("/bin/sh").exists()
}

#[test]
fn the_variable_comes_first_then_the_cache_then_python() {
    let mut machine = Machine::new();
    let found_by_python = machine.packaged("system", PINNED);
    machine.python("python3", "system");
    assert_eq!(machine.locate().unwrap(), found_by_python, "python3 on the path");

    let active = machine.packaged("venv/lib/python3.12/site-packages", PINNED);
    machine.variables.push(("VIRTUAL_ENV", machine.path("venv")));
    assert_eq!(machine.locate().unwrap(), active, "the active environment before any other Python");

    let kept = machine.kept();
    assert_eq!(machine.locate().unwrap(), kept, "the cache before Python");

    let named = machine.library("mine/libonnxruntime.so");
    machine.variables.push(("MODELYARD_ONNXRUNTIME", named.clone()));
    assert_eq!(machine.locate().unwrap(), named, "what is named before everything");

    machine.variables.pop();
    machine.variables.push(("MODELYARD_ONNXRUNTIME", machine.path("nowhere.so")));
    let refused = machine.locate().unwrap_err();
    assert!(refused.contains("nowhere.so") && refused.contains("unset it"), "not passed over in silence: {refused}");
    machine.variables.pop();
    machine.variables.push(("MODELYARD_ONNXRUNTIME", PathBuf::new()));
    assert_eq!(machine.locate().unwrap(), kept, "an empty variable names nothing");
}

#[test]
fn an_old_engine_is_passed_over_for_the_next_one() {
    let machine = Machine::new();
    machine.packaged("three", "1.4.0");
    machine.python("python3", "three");
    let newer = machine.packaged("other", &format!("1.{OLDEST_MINOR}.0"));
    machine.python("python", "other");
    assert_eq!(machine.locate().unwrap(), newer);
}

#[test]
fn when_there_is_nothing_to_fetch_with_that_is_said_with_what_was_passed_over() {
    if !is_linux() {
        return;
    }
    let machine = Machine::new();
    let refused = machine.locate().unwrap_err();
    assert!(refused.contains("neither pip nor uv") && refused.contains("MODELYARD_ONNXRUNTIME"), "{refused}");
    machine.packaged("old", "1.4.0");
    machine.python("python3", "old");
    let refused = machine.locate().unwrap_err();
    assert!(refused.contains("passed over") && refused.contains("1.4.0"), "{refused}");
}

#[test]
fn a_wheel_that_was_tampered_with_is_thrown_away() {
    if !is_linux() {
        return;
    }
    for fetcher in ["pip3", "pip", "uv"] {
        let machine = Machine::new();
        machine.python("python3", "empty");
        machine.downloads(fetcher, "PK not what was published");
        let refused = machine.locate().unwrap_err();
        assert!(refused.contains("SHA-256") && refused.contains("thrown away"), "{fetcher}: {refused}");
        assert_eq!(machine.cached(), 0, "{fetcher}: nothing of it is kept");
        let called = machine.called(fetcher);
        assert!(called.contains(&format!("onnxruntime=={PINNED}")) && called.contains("--no-deps"), "{called}");
        assert_eq!(called.starts_with("tool run --quiet pip download"), fetcher == "uv", "{fetcher}: {called}");
    }
}

#[test]
fn a_fetcher_that_fails_leaves_it_to_the_next_and_both_reasons_are_told() {
    if !is_linux() {
        return;
    }
    let machine = Machine::new();
    machine.program("pip3", "echo 'working on it' >&2; echo 'no route to the index' >&2; exit 1");
    machine.program("uv", "exit 0");
    let refused = machine.locate().unwrap_err();
    assert!(refused.contains("pip3: no route to the index") && refused.contains("uv: brought no wheel"), "{refused}");
    machine.downloads("uv", "PK");
    assert!(machine.locate().unwrap_err().contains("SHA-256"), "the next one is asked");
}
