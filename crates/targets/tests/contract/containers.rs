//! The promises, held against containers of a real Docker Engine; and what is its own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::Digest;
use modelyard_core::instance::{InstanceSpec, InstanceState};
use modelyard_core::machine::Engine;
use modelyard_core::package::{Resources, Runtime};
use modelyard_core::ports::{Target, TargetError};
use modelyard_targets::DockerMachine;
use modelyard_targets::docker::{Image, Kit};

use super::docker::{Docker, run};
use super::support::{self, exited, id, running, status};

/// The testbed as an image of the engine, with the libraries that it is linked against; what the engine calls it.
fn image(docker: &Docker, folder: &Path) -> Digest {
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::copy(support::TESTBED, root.join("modelyard")).unwrap();
    for library in
        run(Command::new("ldd").arg(support::TESTBED)).split_ascii_whitespace().filter(|word| word.starts_with('/'))
    {
        let to = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
    let archive = folder.join("image.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."));
    let entry = ["import", "--change", "ENTRYPOINT [\"/modelyard\"]", archive.to_str().unwrap(), "testbed:1"];
    run(&mut docker.command(&entry)).trim().parse().unwrap()
}

fn reached(docker: &Docker, folder: &Path, image: Option<Digest>) -> DockerMachine {
    let found = image.map(|config| Image { repository: "wine".to_owned(), manifest: config, config });
    let kit = Kit {
        owner: "ada".to_owned(),
        images: Arc::new(move |_, _| Ok(found.clone())),
        registry: "127.0.0.1:1".parse().unwrap(),
        pass: Arc::new(|_| Ok(None)),
    };
    let engine = Engine { docker: docker.host() };
    DockerMachine::new("prod/box".parse().unwrap(), engine, kit, folder.join("machine")).unwrap()
}

fn spec(name: &str) -> InstanceSpec {
    let runtime = Runtime::Onnx { model: "model.onnx".into() };
    InstanceSpec {
        runtime,
        machine: Some("prod/box".parse().unwrap()),
        ..support::spec(name, "/nowhere".as_ref(), &[])
    }
}

async fn keeps_them(docker: Docker) {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&docker, folder.path());
    let target = reached(&docker, folder.path(), Some(image));
    super::keeps_its_promises(&target, spec).await;

    // What a restarted control plane finds: the same container at the same ports, also before it has looked.
    let two = running(&target, &id("wine-r2-2")).await;
    let InstanceState::Running { probe, .. } = two.state else { unreachable!() };
    assert!(two.machine == Some("prod/box".parse().unwrap()) && probe.is_some(), "{two:?}");
    drop(target);
    let target = reached(&docker, folder.path(), Some(image));
    assert_eq!(status(&target, &two.id).await.map(|kept| kept.state), Some(two.state.clone()));
    target.ensure(&spec("wine-r2-2")).await.unwrap();
    let again = running(&target, &two.id).await;
    assert_eq!((again.state, again.pid), (two.state, two.pid));
    let said = target.logs(&two.id, 10).await.unwrap();
    assert_eq!(said, ["it serves"]);
    target.stop(&two.id, Duration::from_secs(10)).await.unwrap();
    let exit = exited(&target, &two.id).await;
    assert_eq!((exit.code, exit.asked), (Some(0), true), "it was asked, not killed");
    target.forget(&two.id).await.unwrap();
    assert_eq!(target.logs(&two.id, 10).await.unwrap(), ["it serves"], "the log stays when the container is gone");
    assert_eq!(run(&mut docker.command(&["ps", "--all", "--quiet"])), "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd and root"]
async fn a_docker_engine_keeps_the_promises() {
    keeps_them(Docker::bridged()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd and root"]
async fn a_docker_engine_without_networks_keeps_the_promises() {
    keeps_them(Docker::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd and root"]
async fn containers_are_kept_in_and_their_ends_are_told_apart() {
    let (docker, folder) = (Docker::bridged(), tempfile::tempdir().unwrap());
    let image = image(&docker, folder.path());
    let target = reached(&docker, folder.path(), Some(image));

    let one = spec("wine-r2-1");
    target.ensure(&one).await.unwrap();
    running(&target, &one.id).await;
    let container = run(&mut docker.command(&["ps", "--quiet"])).trim().to_owned();
    let shown = |what: &str| run(&mut docker.command(&["inspect", "--format", what, &container])).trim().to_owned();
    assert_eq!(
        shown("{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}"),
        "65532:65532 true [ALL] [no-new-privileges]"
    );
    let pid = shown("{{.State.Pid}}");
    let kernel = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let has = |line: &str| kernel.lines().any(|one| one.split_ascii_whitespace().collect::<Vec<_>>().join(" ") == line);
    assert!(has("Uid: 65532 65532 65532 65532") && has("CapEff: 0000000000000000") && has("NoNewPrivs: 1"), "{kernel}");
    assert!(has("Seccomp: 2"), "the engine's filter of system calls holds: {kernel}");
    // Somebody removes it by hand: it has ended, and is not started again.
    run(&mut docker.command(&["rm", "--force", &container]));
    let exit = exited(&target, &one.id).await;
    assert!(!exit.asked, "{exit:?}");
    target.ensure(&one).await.unwrap();
    assert_eq!(exited(&target, &one.id).await, exit);
    assert_eq!(run(&mut docker.command(&["ps", "--all", "--quiet"])), "");

    let greedy = InstanceSpec {
        environment: [("ACT".to_owned(), "eat".to_owned())].into(),
        resources: Resources { memory_bytes: Some(32 << 20), cpu_millis: Some(500) },
        ..spec("wine-r2-2")
    };
    target.ensure(&greedy).await.unwrap();
    let exit = exited(&target, &greedy.id).await;
    assert!(exit.out_of_memory && !exit.asked && exit.signal == Some(9), "{exit:?}");

    let tiny = Resources { memory_bytes: Some(4096), cpu_millis: None };
    let refused = target.ensure(&InstanceSpec { resources: tiny, ..spec("wine-r2-3") }).await.unwrap_err();
    assert!(matches!(&refused, TargetError::Impossible { why, .. } if why.contains("memory")), "{refused}");
    let none = tempfile::tempdir().unwrap();
    let refused = reached(&docker, none.path(), None).ensure(&spec("wine-r2-4")).await.unwrap_err();
    let told = refused.to_string();
    assert!(
        matches!(refused, TargetError::Impossible { .. }) && told.contains("modelyard package DIR --format image"),
        "{told}"
    );
    // An image that the registry has, and cannot give now.
    let lost = reached(&docker, none.path(), Some(Digest::from_sha256([9; 32])));
    let refused = lost.ensure(&spec("wine-r2-5")).await.unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(matches!(refused, TargetError::Failed { .. }) && why.contains("cannot be fetched"), "{refused}: {why}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd and root"]
async fn an_engine_that_is_away_is_told_of_and_its_containers_are_found_again() {
    let (mut docker, folder) = (Docker::bridged(), tempfile::tempdir().unwrap());
    let image = image(&docker, folder.path());
    let target = reached(&docker, folder.path(), Some(image));
    let one = spec("wine-r2-1");
    target.ensure(&one).await.unwrap();
    let before = running(&target, &one.id).await;
    let lost = || async { status(&target, &one.id).await.filter(|status| status.out_of_reach.is_some()) };
    let back = || async { status(&target, &one.id).await.filter(|status| status.out_of_reach.is_none()) };

    docker.hang(true);
    let missed = support::wait_for("the engine to be missed", lost).await;
    assert_eq!(missed.state, before.state, "what was last known");
    let began = std::time::Instant::now();
    target.observe().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(300), "nobody waits for it: {:?}", began.elapsed());
    docker.hang(false);
    let found = support::wait_for("the engine to be back", back).await;
    assert_eq!((&found.state, found.pid), (&before.state, before.pid));

    docker.down();
    support::wait_for("the engine to be missed", lost).await;
    let refused = target.stop(&one.id, Duration::ZERO).await.unwrap_err();
    let told = std::error::Error::source(&refused).unwrap().to_string();
    assert!(
        refused.to_string().contains("`prod/box`") && told.contains("no Docker Engine listens there"),
        "{refused}: {told}"
    );
    docker.up();
    let found = support::wait_for("the engine to be back", back).await;
    assert_eq!(found.pid, before.pid, "it ran on");
}
