//! What the tests of the targets share.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses a part of it")]

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use modelyard_core::home::Home;
use modelyard_core::instance::{Exit, InstanceSpec, InstanceState, InstanceStatus};
use modelyard_core::package::{Resources, Runtime};
use modelyard_core::ports::Target;
use modelyard_core::{Digest, InstanceId, RevisionNumber, ServiceName};
use modelyard_targets::ProcessTarget;
use modelyard_targets::identity::Identity;

/// Long enough for a loaded machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub const TESTBED: &str = env!("CARGO_BIN_EXE_modelyard-target-testbed");

pub fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// A spec whose program acts like this.
pub fn spec(name: &str, package: &Path, act: &[&str]) -> InstanceSpec {
    let command = [TESTBED, "act"].iter().chain(act).map(|&word| word.to_owned()).collect();
    InstanceSpec {
        id: id(name),
        service: ServiceName::new("wine").unwrap(),
        known_as: None,
        revision: RevisionNumber(2),
        package: Digest::from_sha256([7; 32]),
        image: None,
        package_dir: package.to_owned(),
        runtime: Runtime::Command { command, health: "/".to_owned(), environment: Default::default() },
        environment: [("THRESHOLD".to_owned(), "0.5".to_owned())].into(),
        resources: Resources::default(),
        generation: 5,
        machine: None,
    }
}

/// A home and a target in it, whose instances end with the test.
pub struct Yard {
    pub dir: tempfile::TempDir,
    pub target: ProcessTarget,
}

impl Yard {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("package")).unwrap();
        let target = ProcessTarget::new(TESTBED, &Home::new(dir.path()));
        Self { dir, target }
    }

    /// What a restarted control plane has.
    pub fn another_target(&self) -> ProcessTarget {
        ProcessTarget::new(TESTBED, &Home::new(self.dir.path()))
    }

    pub fn package(&self) -> std::path::PathBuf {
        self.dir.path().join("package")
    }

    pub fn spec(&self, name: &str, act: &[&str]) -> InstanceSpec {
        spec(name, &self.package(), act)
    }

    pub fn file(&self, instance: &str, name: &str) -> std::path::PathBuf {
        self.dir.path().join("instances").join(instance).join(name)
    }

    /// Whether this machine lets the instance have a control group.
    pub fn tracks_by_group(&self, instance: &str) -> bool {
        let groups = std::fs::read_to_string(self.file(instance, "groups.json")).unwrap_or_default();
        groups.contains("modelyard-")
    }

    /// The supervisor's pid.
    pub async fn supervisor(&self, instance: &str) -> u32 {
        let path = self.file(instance, "supervisor.json");
        let text = wait_for("the supervisor", || async { std::fs::read(&path).ok() }).await;
        u32::try_from(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["pid"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Yard {
    /// A failed test leaves nothing running.
    fn drop(&mut self) {
        end_all(self.target.clone());
    }
}

/// Ends whatever runs in a home.
pub fn end_all(target: ProcessTarget) {
    let end = async move {
        for status in target.observe().await.unwrap_or_default() {
            let _ = target.stop(&status.id, Duration::ZERO).await;
        }
        let all_ended = async || {
            target.observe().await.unwrap().iter().all(|status| matches!(status.state, InstanceState::Exited(_)))
        };
        let deadline = Instant::now() + PATIENCE;
        while !all_ended().await && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The test's own runtime may be busy ending.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime().block_on(end)).join().unwrap();
}

/// Waits until something is there.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn status(target: &dyn Target, id: &InstanceId) -> Option<InstanceStatus> {
    target.observe().await.unwrap().into_iter().find(|status| &status.id == id)
}

pub async fn running(target: &dyn Target, id: &InstanceId) -> InstanceStatus {
    let last = std::cell::RefCell::new(None);
    let look = || async {
        let status = status(target, id).await;
        *last.borrow_mut() = status.clone();
        if let Some(InstanceStatus { state: InstanceState::Exited(exit), .. }) = &status {
            panic!("{id} ended: {exit:?}; log: {:?}", target.logs(id, 20).await);
        }
        status.filter(|status| matches!(status.state, InstanceState::Running { .. }))
    };
    wait_for(&format!("{id} to run"), look).await
}

pub async fn exited(target: &dyn Target, id: &InstanceId) -> Exit {
    wait_for(&format!("{id} to end"), || async {
        match status(target, id).await?.state {
            InstanceState::Exited(exit) => Some(exit),
            _ => None,
        }
    })
    .await
}

/// Whether a process with this command line runs (zombies have none).
pub fn runs(command_line: &str) -> bool {
    !processes(command_line).is_empty()
}

/// The processes with this command line.
pub fn processes(command_line: &str) -> Vec<Identity> {
    let wanted: Vec<u8> = command_line.split(' ').flat_map(|word| [word.as_bytes(), &[0]].concat()).collect();
    let is_wanted = |path: &Path| std::fs::read(path.join("cmdline")).is_ok_and(|line| line == wanted);
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let pids = entries.filter(|path| is_wanted(path)).filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    pids.filter_map(Identity::of).collect()
}
