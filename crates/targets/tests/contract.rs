//! What every target promises, held against each of them.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "contract/containers.rs"]
mod containers;
#[path = "../../../tests/support/docker.rs"]
mod docker;
#[path = "../../../tests/support/sshd.rs"]
mod sshd;
mod support;
#[path = "../../../tests/support/wait.rs"]
mod wait;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use modelyard_core::home::Home;
use modelyard_core::instance::{InstanceSpec, InstanceState};
use modelyard_core::machine::Login;
use modelyard_core::ports::{Target, TargetError};
use modelyard_targets::fake::FakeTarget;
use modelyard_targets::ssh::Kit;
use modelyard_targets::{ProcessTarget, SshMachine};
use support::{Yard, exited, id, running, spec, status};
use wait::until;

/// The promises of the port. `spec` gives a spec of a well-behaved instance of that name.
async fn keeps_its_promises(target: &dyn Target, spec: impl Fn(&str) -> InstanceSpec) {
    assert_eq!(target.observe().await.unwrap(), []);
    starts_once_and_tells_where(target, &spec).await;
    refuses_older_asks(target, &spec).await;
    ends_when_asked_and_stays_ended(target, &spec).await;
    forgets_all_but_the_log(target, &spec).await;
    knows_nothing_of_strangers(target).await;
}

async fn starts_once_and_tells_where(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let (one, two) = (spec("wine-r2-1"), spec("wine-r2-2"));
    for _ in 0..3 {
        target.ensure(&one).await.unwrap();
        target.ensure(&two).await.unwrap();
    }
    let first = running(target, &one.id).await;
    running(target, &two.id).await;
    let all = target.observe().await.unwrap();
    assert_eq!(all.iter().map(|status| status.id.as_str()).collect::<Vec<_>>(), ["wine-r2-1", "wine-r2-2"]);
    assert_eq!((&first.service, first.revision), (&one.service, one.revision));
    assert!(first.pid.is_some() && first.memory_bytes.is_some_and(|bytes| bytes > 0), "{first:?}");
    let InstanceState::Running { address, .. } = first.state else { unreachable!() };
    assert!(address.ip().is_loopback());

    target.ensure(&one).await.unwrap();
    assert_eq!(running(target, &one.id).await.pid, first.pid, "asking again started it again");
}

async fn refuses_older_asks(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let one = spec("wine-r2-1");
    let older = InstanceSpec { generation: one.generation - 1, ..one.clone() };
    match target.ensure(&older).await {
        Err(TargetError::Stale { id, seen }) => assert_eq!((id, seen), (one.id.clone(), one.generation)),
        other => panic!("{other:?}"),
    }
    let newer = InstanceSpec { generation: one.generation + 1, ..one };
    target.ensure(&newer).await.unwrap();
}

async fn ends_when_asked_and_stays_ended(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let one = spec("wine-r2-1");
    let busy = target.forget(&one.id).await;
    assert!(matches!(busy, Err(TargetError::Failed { .. })), "forgot what runs: {busy:?}");
    target.stop(&one.id, Duration::from_secs(10)).await.unwrap();
    let exit = exited(target, &one.id).await;
    assert!(exit.asked && !exit.out_of_memory && exit.start_error.is_none(), "{exit:?}");
    target.stop(&one.id, Duration::ZERO).await.unwrap();
    target.ensure(&one).await.unwrap();
    assert_eq!(exited(target, &one.id).await, exit, "an id was started twice");
    running(target, &id("wine-r2-2")).await;
}

async fn forgets_all_but_the_log(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let one = spec("wine-r2-1");
    target.logs(&one.id, 10).await.unwrap();
    for _ in 0..2 {
        target.forget(&one.id).await.unwrap();
    }
    assert_eq!(status(target, &one.id).await, None);
    target.logs(&one.id, 10).await.unwrap();
    target.ensure(&one).await.unwrap();
    assert_eq!(status(target, &one.id).await, None, "an id was started again after it was forgotten");
}

async fn knows_nothing_of_strangers(target: &dyn Target) {
    let stranger = id("nobody");
    target.stop(&stranger, Duration::ZERO).await.unwrap();
    target.forget(&stranger).await.unwrap();
    let refused = target.logs(&stranger, 10).await.unwrap_err();
    assert!(refused.to_string().contains("`nobody`"), "{refused}");
}

#[tokio::test]
async fn the_process_target_keeps_the_promises() {
    let yard = Yard::new();
    keeps_its_promises(&yard.target, |name| yard.spec(name, &["listen"])).await;
}

#[tokio::test]
async fn the_fake_target_keeps_the_promises() {
    keeps_its_promises(&FakeTarget::new(), |name| spec(name, "/".as_ref(), &[])).await;
}

/// A kit for a machine to which the testbed is brought; packages are a word.
fn kit(bundled: &Arc<AtomicU32>) -> Kit {
    let bundled = Arc::clone(bundled);
    Kit {
        binary: support::TESTBED.into(),
        library: Arc::new(|| Err("nobody asked for it".to_owned())),
        bundle: Arc::new(move |_, to| {
            bundled.fetch_add(1, Ordering::Relaxed);
            std::fs::write(to, "a package").map_err(|error| error.to_string())
        }),
        owner: "ada".to_owned(),
        whose: "ada's test".to_owned(),
        hashes: Arc::default(),
    }
}

fn machine(sshd: &sshd::Sshd) -> Login {
    Login {
        host: "127.0.0.1".to_owned(),
        port: Some(sshd.port),
        identity: Some(sshd.key()),
        config: Some(sshd.config()),
        folder: sshd.home().display().to_string(),
    }
}

/// What runs on a machine ends with the test, though it failed: through the folder there, which needs no connection.
struct Cleared(sshd::Sshd);

impl Drop for Cleared {
    fn drop(&mut self) {
        let target = ProcessTarget::new(support::TESTBED, &Home::new(self.0.home()));
        support::end_all(target);
    }
}

fn on_machine(name: &str) -> InstanceSpec {
    spec(name, "/nowhere".as_ref(), &["listen"])
}

async fn connected(folder: &Path, machine: &Login, bundled: &Arc<AtomicU32>) -> SshMachine {
    SshMachine::new("prod/alpha".parse().unwrap(), machine.clone(), kit(bundled), folder.to_owned()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sshd"]
async fn a_machine_keeps_the_promises_and_outlives_who_uses_it() {
    let (sshd, folder) = (Cleared(sshd::Sshd::up()), tempfile::tempdir().unwrap());
    let (machine, bundled) = (machine(&sshd.0), Arc::new(AtomicU32::new(0)));
    // Deeper than the path of a socket may be long.
    let folder = folder.path().join("deep".repeat(30));
    let target = connected(&folder, &machine, &bundled).await;
    keeps_its_promises(&target, on_machine).await;
    assert_eq!(bundled.load(Ordering::Relaxed), 1, "a package is copied once");
    assert_eq!(std::fs::read_to_string(sshd.0.home().join("taken")).unwrap(), "x");

    // What a restarted control plane finds, before it is connected and after.
    let two = running(&target, &id("wine-r2-2")).await;
    assert_eq!(two.machine, Some("prod/alpha".parse().unwrap()));
    let InstanceState::Running { address, .. } = two.state else { unreachable!() };
    drop(target);
    std::net::TcpStream::connect(address).expect("the master outlives who started it");
    let target = connected(&folder, &machine, &bundled).await;
    let kept = status(&target, &two.id).await.expect("it is known at once");
    assert_eq!((&kept.state, kept.pid), (&two.state, two.pid));
    target.ensure(&on_machine("wine-r2-2")).await.unwrap();
    assert_eq!(running(&target, &two.id).await.state, two.state, "neither started nor forwarded twice");

    target.stop(&two.id, Duration::from_secs(10)).await.unwrap();
    exited(&target, &two.id).await;
    target.leave().await;
    assert!(std::net::TcpStream::connect(address).is_err(), "the connection is left");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sshd"]
async fn a_machine_that_is_cut_off_is_told_of_and_comes_back_with_its_ports() {
    let (mut sshd, folder) = (Cleared(sshd::Sshd::up()), tempfile::tempdir().unwrap());
    let machine = machine(&sshd.0);
    let target = connected(folder.path(), &machine, &Arc::default()).await;
    let one = on_machine("wine-r2-1");
    target.ensure(&one).await.unwrap();
    let before = running(&target, &one.id).await;

    sshd.0.cut();
    let lost = || async { status(&target, &one.id).await.filter(|status| status.out_of_reach.is_some()) };
    let lost = support::wait_for("the machine to be missed", lost).await;
    assert_eq!(lost.state, before.state, "what was last known");
    let refused = target.stop(&one.id, Duration::ZERO).await.unwrap_err();
    let told = std::error::Error::source(&refused).unwrap().to_string();
    assert!(refused.to_string().contains("`prod/alpha`") && told.contains("out of reach"), "{refused}: {told}");
    let began = std::time::Instant::now();
    target.observe().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(300), "nobody waits for it: {:?}", began.elapsed());

    sshd.0.start();
    let back = || async { status(&target, &one.id).await.filter(|status| status.out_of_reach.is_none()) };
    let back = support::wait_for("the machine to be back", back).await;
    assert_eq!((back.state.clone(), back.pid), (before.state, before.pid));
    let InstanceState::Running { address, .. } = back.state else { unreachable!() };
    std::net::TcpStream::connect(address).expect("its port leads there again");
    target.leave().await;
}

/// Why a machine cannot be used.
async fn refused(machine: Login, owner: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit { owner: owner.to_owned(), ..kit(&Arc::default()) };
    let target = SshMachine::new("prod/alpha".parse().unwrap(), machine, kit, folder.path().to_owned()).unwrap();
    let refused = target.ensure(&on_machine("wine-r2-1")).await.unwrap_err();
    target.leave().await;
    std::error::Error::source(&refused).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sshd"]
async fn what_keeps_a_machine_from_being_used_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let uname = folder.path().join("uname");
    std::fs::write(&uname, "#!/bin/sh\n[ \"$1\" = -s ] && echo Linux || echo riscv64\n").unwrap();
    std::fs::set_permissions(&uname, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("SetEnv PATH={}:/usr/bin:/bin", folder.path().display());
    let other = sshd::Sshd::with(&path);
    let told = refused(machine(&other), "ada").await;
    assert!(told.contains("it is Linux riscv64") && told.contains(std::env::consts::ARCH), "{told}");
    assert!(!other.home().exists(), "nothing is left on a machine of another kind");

    let closed = sshd::Sshd::with("AllowTcpForwarding no");
    let told = refused(machine(&closed), "ada").await;
    assert!(told.contains("it must say `AllowTcpForwarding local`"), "{told}");

    let sshd = Cleared(sshd::Sshd::up());
    let first = connected(folder.path(), &machine(&sshd.0), &Arc::default()).await;
    first.ensure(&on_machine("wine-r2-1")).await.unwrap();
    let told = refused(machine(&sshd.0), "bob").await;
    assert!(told.contains("is used by ada's test") && told.contains("another `folder`"), "{told}");
    let told = refused(Login { identity: Some("/nowhere/key".into()), ..machine(&sshd.0) }, "ada").await;
    assert!(told.contains("Permission denied") && told.contains("the key is not let in"), "{told}");
    sshd.0.forget_host_key();
    let told = refused(machine(&sshd.0), "ada").await;
    assert!(told.contains("Host key verification failed") && told.contains("must work without a question"), "{told}");
    first.leave().await;
}
