//! Instances, targets and supervisors that come and go in any order.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use modelyard_core::InstanceId;
use modelyard_core::ports::Target;
use modelyard_targets::ProcessTarget;
use modelyard_targets::identity::Identity;
use support::{Yard, exited, id};

const INSTANCES: usize = 10;
const MOVES: usize = 120;

/// Draws from a seed, so that a failure can be played again.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        // Source: the constants of Knuth's MMIX generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_nothing_starts_twice_and_nothing_is_left() {
    for seed in 1..=3 {
        play(seed).await;
    }
}

async fn play(seed: u64) {
    let yard = Yard::new();
    let mut draws = Draws(seed);
    let ids: Vec<InstanceId> = (0..INSTANCES).map(|number| id(&format!("chaos-{seed}-{number}"))).collect();
    let mut target = yard.target.clone();
    for _ in 0..MOVES {
        let id = &ids[draws.below(INSTANCES)];
        match draws.below(10) {
            0..=3 => drop(target.ensure(&yard.spec(id.as_str(), &["count-own"])).await),
            4 => target.stop(id, Duration::from_millis(draws.below(200) as u64)).await.unwrap(),
            5 => behead(&yard, id),
            6 => target = yard.another_target(),
            7 => drop(target.forget(id).await),
            _ => drop(target.observe().await.unwrap()),
        }
    }
    settle(&yard, &target).await;
    for id in &ids {
        let starts = std::fs::read_to_string(yard.package().join(id.as_str())).unwrap_or_default();
        assert!(starts.len() <= 1, "seed {seed}: {id} was started {} times", starts.len());
    }
    assert_eq!(left_over(&yard), Vec::<String>::new(), "seed {seed}");
}

/// `kill -9` of the supervisor, if it shows itself already.
fn behead(yard: &Yard, id: &InstanceId) {
    let Ok(text) = std::fs::read(yard.file(id.as_str(), "supervisor.json")) else { return };
    let Ok(identity) = serde_json::from_slice::<Identity>(&text) else { return };
    identity.terminate(Duration::ZERO).unwrap();
}

async fn settle(yard: &Yard, target: &ProcessTarget) {
    for status in target.observe().await.unwrap() {
        target.stop(&status.id, Duration::from_secs(5)).await.unwrap();
    }
    for status in yard.another_target().observe().await.unwrap() {
        exited(target, &status.id).await;
    }
}

/// Command lines of processes that carry this yard's mark.
fn left_over(yard: &Yard) -> Vec<String> {
    let mark = format!("MODELYARD_INSTANCE_DIR={}", yard.dir.path().display());
    let marked = |pid: &std::path::Path| {
        let environment = std::fs::read(pid.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let lines = processes
        .filter(|path| marked(path))
        .map(|path| std::fs::read_to_string(path.join("cmdline")).unwrap_or_default());
    lines.filter(|line| !line.is_empty()).collect()
}
