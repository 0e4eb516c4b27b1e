//! The process target on real processes: how instances end, who ends with them, and what is told of it.

mod support;

use std::time::{Duration, Instant};

use modelyard_core::instance::{InstanceSpec, InstanceState};
use modelyard_core::package::{Resources, Runtime};
use modelyard_core::ports::{Target, TargetError};
use modelyard_targets::identity::Identity;
use support::{Yard, exited, id, processes, running, runs, status, wait_for};

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let yard = Yard::new();
    for (name, act) in [("coded", &["exit", "3"][..]), ("aborted", &["abort"])] {
        yard.target.ensure(&yard.spec(name, act)).await.unwrap();
    }
    let coded = exited(&yard.target, &id("coded")).await;
    assert_eq!((coded.code, coded.signal, coded.asked, coded.out_of_memory), (Some(3), None, false, false));
    let aborted = exited(&yard.target, &id("aborted")).await;
    assert_eq!((aborted.code, aborted.signal, aborted.asked), (None, Some(6), false));
}

#[tokio::test]
async fn the_native_server_announces_both_its_addresses() {
    let yard = Yard::new();
    let spec = InstanceSpec { runtime: Runtime::Onnx { model: "model.onnx".into() }, ..yard.spec("native", &[]) };
    yard.target.ensure(&spec).await.unwrap();
    let InstanceState::Running { address, probe } = running(&yard.target, &spec.id).await.state else { unreachable!() };
    assert!(probe.is_some_and(|probe| probe != address));
    std::net::TcpStream::connect(address).unwrap();
}

#[tokio::test]
async fn a_program_past_its_memory_limit_is_ended_and_said_so() {
    let yard = Yard::new();
    let limit = 96 << 20;
    let resources = Resources { memory_bytes: Some(limit), cpu_millis: Some(1_000) };
    for (name, act) in [("eats", "eat"), ("child-eats", "eat-in-a-child")] {
        yard.target.ensure(&InstanceSpec { resources, ..yard.spec(name, &[act]) }).await.unwrap();
        let exit = exited(&yard.target, &id(name)).await;
        assert!(exit.out_of_memory && !exit.asked, "{name}: {exit:?}");
        assert!(exit.peak_memory_bytes.is_some_and(|peak| peak > limit / 2 && peak < limit * 2), "{name}: {exit:?}");
    }
}

#[tokio::test]
async fn who_ignores_the_request_to_end_is_ended_by_force() {
    let yard = Yard::new();
    yard.target.ensure(&yard.spec("stubborn", &["stubborn"])).await.unwrap();
    running(&yard.target, &id("stubborn")).await;
    let asked = Instant::now();
    yard.target.stop(&id("stubborn"), Duration::from_millis(300)).await.unwrap();
    let exit = exited(&yard.target, &id("stubborn")).await;
    assert_eq!((exit.signal, exit.asked), (Some(9), true));
    assert!(asked.elapsed() >= Duration::from_millis(300), "no time was left to it");

    // Asked twice, the shorter time counts.
    yard.target.ensure(&yard.spec("stubborn-2", &["stubborn"])).await.unwrap();
    running(&yard.target, &id("stubborn-2")).await;
    yard.target.stop(&id("stubborn-2"), Duration::from_secs(600)).await.unwrap();
    yard.target.stop(&id("stubborn-2"), Duration::from_millis(10)).await.unwrap();
    assert!(exited(&yard.target, &id("stubborn-2")).await.asked);
}

#[tokio::test]
async fn nothing_of_an_instance_outlives_it() {
    let yard = Yard::new();
    yard.target.ensure(&yard.spec("family", &["family", "600"])).await.unwrap();
    running(&yard.target, &id("family")).await;
    let family = ["sleep 6001", "sleep 6002", "sleep 6003"];
    wait_for("the family", || async { family.iter().all(|line| runs(line)).then_some(()) }).await;
    yard.target.stop(&id("family"), Duration::from_secs(10)).await.unwrap();
    exited(&yard.target, &id("family")).await;
    assert!(!family.iter().any(|line| runs(line)), "orphans are left");

    yard.target.ensure(&yard.spec("gone", &["family-and-exit", "601"])).await.unwrap();
    assert_eq!(exited(&yard.target, &id("gone")).await.code, Some(7));
    assert!(!["sleep 6011", "sleep 6012", "sleep 6013"].iter().any(|line| runs(line)), "orphans are left");
}

#[tokio::test]
async fn killing_the_supervisor_ends_the_instance_and_it_is_seen() {
    let yard = Yard::new();
    let spec = yard.spec("beheaded", &["family", "602"]);
    yard.target.ensure(&spec).await.unwrap();
    let program = Identity::of(running(&yard.target, &spec.id).await.pid.unwrap()).unwrap();
    let family = ["sleep 6021", "sleep 6022", "sleep 6023"];
    wait_for("the family", || async { family.iter().all(|line| runs(line)).then_some(()) }).await;
    Identity::of(yard.supervisor("beheaded").await).unwrap().terminate(Duration::ZERO).unwrap();
    let exit = exited(&yard.target, &spec.id).await;
    assert_eq!((exit.code, exit.signal, exit.asked), (None, Some(9), false));
    assert!(!program.is_alive(), "the program outlived its supervisor");
    // The third wears no mark and left the process group: it is found where control groups can be made.
    let found = if yard.tracks_by_group("beheaded") { 3 } else { 2 };
    assert!(!family[..found].iter().any(|line| runs(line)), "an orphan outlived the supervisor");
    processes(family[2]).into_iter().for_each(|stray| stray.terminate(Duration::ZERO).unwrap());
    yard.target.ensure(&spec).await.unwrap();
    assert_eq!(exited(&yard.target, &spec.id).await, exit);
}

#[tokio::test]
async fn a_new_control_plane_adopts_what_runs() {
    let yard = Yard::new();
    let spec = yard.spec("adopted", &["listen"]);
    yard.target.ensure(&spec).await.unwrap();
    let before = running(&yard.target, &spec.id).await;
    let another = yard.another_target();
    let after = running(&another, &spec.id).await;
    assert_eq!((before.pid, &before.state, before.started), (after.pid, &after.state, after.started));
    another.ensure(&spec).await.unwrap();
    another.stop(&spec.id, Duration::from_secs(10)).await.unwrap();
    assert!(exited(&another, &spec.id).await.asked);
    assert!(exited(&yard.target, &spec.id).await.asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_callers_at_once_start_one_program() {
    let yard = Yard::new();
    let spec = yard.spec("once", &["count"]);
    let asks: Vec<_> = (0..8)
        .map(|caller| {
            let target = if caller % 2 == 0 { yard.target.clone() } else { yard.another_target() };
            let spec = spec.clone();
            tokio::spawn(async move { target.ensure(&spec).await })
        })
        .collect();
    for ask in asks {
        ask.await.unwrap().unwrap();
    }
    running(&yard.target, &spec.id).await;
    // Further supervisors find the lock held and leave.
    for _ in 0..4 {
        let folder = yard.file("once", "");
        let status = tokio::task::spawn_blocking(move || {
            std::process::Command::new(support::TESTBED).arg("instance").arg(folder).status()
        });
        assert!(status.await.unwrap().unwrap().success());
    }
    assert_eq!(std::fs::read_to_string(yard.package().join("starts")).unwrap(), "x");
}

#[tokio::test]
async fn an_instance_is_started_although_the_control_plane_died_in_between() {
    let yard = Yard::new();
    let spec = yard.spec("interrupted", &["listen"]);
    // What `kill -9` between the two steps of `ensure` leaves behind.
    std::fs::create_dir_all(yard.file("interrupted", "")).unwrap();
    let asked = serde_json::json!({ "at": 1, "home": yard.dir.path(), "spec": spec });
    std::fs::write(yard.file("interrupted", "spec.json"), asked.to_string()).unwrap();
    assert_eq!(status(&yard.target, &spec.id).await.unwrap().state, InstanceState::Starting);
    running(&yard.target, &spec.id).await;
}

#[tokio::test]
async fn a_supervisor_that_died_before_it_started_anything_is_not_replaced() {
    let yard = Yard::new();
    let spec = yard.spec("stillborn", &["count"]);
    std::fs::create_dir_all(yard.file("stillborn", "")).unwrap();
    let asked = serde_json::json!({ "at": 1, "home": yard.dir.path(), "spec": spec });
    std::fs::write(yard.file("stillborn", "spec.json"), asked.to_string()).unwrap();
    std::fs::write(yard.file("stillborn", "supervisor.json"), r#"{"pid":1,"start_ticks":18446744073709551615}"#)
        .unwrap();
    let exit = exited(&yard.target, &spec.id).await;
    assert!(exit.start_error.is_some_and(|why| why.contains("supervisor ended")));
    assert!(!yard.package().join("starts").exists());
}

#[tokio::test]
async fn logs_are_whole_safe_and_kept_after_the_end() {
    let yard = Yard::new();
    let spec = yard.spec("talker", &["say", "200"]);
    yard.target.ensure(&spec).await.unwrap();
    let id = &spec.id;
    running(&yard.target, id).await;
    let last = wait_for("the last line", || async {
        let lines = yard.target.logs(id, 3).await.unwrap();
        lines.last()?.contains("hostile").then_some(lines)
    })
    .await;
    assert_eq!(last, ["line 198", "line 199", "\\u{1b}[2Jhostile \u{fffd}"]);
    yard.target.stop(id, Duration::from_secs(10)).await.unwrap();
    exited(&yard.target, id).await;
    yard.target.forget(id).await.unwrap();
    assert_eq!(yard.another_target().logs(id, 3).await.unwrap(), last);
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_and_its_end_kept() {
    let yard = Yard::new();
    yard.target.ensure(&yard.spec("flood", &["flood"])).await.unwrap();
    assert_eq!(exited(&yard.target, &id("flood")).await.code, Some(0), "25 MiB of output held the program up");
    let last = yard.target.logs(&id("flood"), 1).await.unwrap();
    assert_eq!(last, [format!("{:063}", 399_999)]);
    let sizes: u64 =
        ["log", "log.1"].map(|name| std::fs::metadata(yard.file("flood", name)).unwrap().len()).iter().sum();
    assert!(sizes <= 8 << 20, "{sizes} bytes");
}

#[tokio::test]
async fn a_program_that_closed_its_output_is_watched_on_without_spinning() {
    let yard = Yard::new();
    yard.target.ensure(&yard.spec("mute", &["mute"])).await.unwrap();
    running(&yard.target, &id("mute")).await;
    let supervisor = yard.supervisor("mute").await;
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        fields[10] + fields[11] // user and system time in ticks, after the state that is no number
    };
    let before = spent();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(spent() - before < 15, "{} ticks in half a second", spent() - before);
    yard.target.stop(&id("mute"), Duration::from_secs(10)).await.unwrap();
    assert!(exited(&yard.target, &id("mute")).await.asked);
}

#[tokio::test]
async fn the_environment_is_clean() {
    let yard = Yard::new();
    let spec = yard.spec("clean", &["environment"]);
    yard.target.ensure(&spec).await.unwrap();
    running(&yard.target, &spec.id).await;
    let lines = yard.target.logs(&spec.id, 100).await.unwrap();
    let names: Vec<&str> = lines.iter().filter_map(|line| line.split('=').next()).collect();
    let allowed = [
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "THRESHOLD",
        "PORT",
        "cwd",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
    ];
    let ids = [
        "MODELYARD_SERVICE",
        "MODELYARD_REVISION",
        "MODELYARD_INSTANCE",
        "MODELYARD_INSTANCE_DIR",
        "MODELYARD_PACKAGE_DIR",
    ];
    let strangers: Vec<&&str> = names.iter().filter(|name| !allowed.contains(name) && !ids.contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert!(ids.iter().all(|name| names.contains(name)), "{names:?}");
    let cwd = yard.package().canonicalize().unwrap();
    assert!(lines.contains(&format!("cwd={}", cwd.display())), "{lines:?}");
}

#[tokio::test]
async fn a_port_that_someone_else_took_is_replaced_by_another() {
    let yard = Yard::new();
    let spec = yard.spec("unlucky", &["lose-the-port"]);
    yard.target.ensure(&spec).await.unwrap();
    let wanted = yard.package().join("wanted");
    let port = wait_for("the first port", || async { std::fs::read_to_string(&wanted).ok() }).await;
    let stranger = std::net::TcpListener::bind(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
    std::fs::write(yard.package().join("taken"), "").unwrap();
    let InstanceState::Running { address, .. } = running(&yard.target, &spec.id).await.state else { unreachable!() };
    assert_ne!(address, stranger.local_addr().unwrap(), "a stranger was announced");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_what_to_do() {
    let yard = Yard::new();
    let runtime = |command: &[&str]| Runtime::Command {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        health: "/".into(),
        environment: Default::default(),
    };
    let missing = InstanceSpec { runtime: runtime(&["no-such-program"]), ..yard.spec("missing", &[]) };
    yard.target.ensure(&missing).await.unwrap();
    let why = exited(&yard.target, &missing.id).await.start_error.unwrap();
    assert!(why.contains("`no-such-program`") && why.contains("modelyard.toml"), "{why}");

    let script = yard.package().join("broken");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let broken = InstanceSpec { runtime: runtime(&["broken"]), ..yard.spec("broken", &[]) };
    yard.target.ensure(&broken).await.unwrap();
    let why = exited(&yard.target, &broken.id).await.start_error.unwrap();
    assert!(why.contains("cannot execute") && why.contains("No such file"), "{why}");

    let nowhere = InstanceSpec { package_dir: yard.dir.path().join("nowhere"), ..yard.spec("nowhere", &[]) };
    match yard.target.ensure(&nowhere).await {
        Err(TargetError::Impossible { why, .. }) => assert!(why.contains("unpack"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wish_to_end_reaches_an_instance_that_is_only_just_starting() {
    let yard = Yard::new();
    for number in 0..10 {
        let spec = yard.spec(&format!("hasty-{number}"), &["listen"]);
        yard.target.ensure(&spec).await.unwrap();
        yard.target.stop(&spec.id, Duration::from_secs(10)).await.unwrap();
        assert!(exited(&yard.target, &spec.id).await.asked);
    }
}

#[tokio::test]
async fn looking_at_many_instances_is_cheap() {
    let yard = Yard::new();
    for number in 0..24 {
        yard.target.ensure(&yard.spec(&format!("one-of-many-{number}"), &["listen"])).await.unwrap();
    }
    for number in 0..24 {
        running(&yard.target, &id(&format!("one-of-many-{number}"))).await;
    }
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(yard.target.observe().await.unwrap().len(), 24);
    }
    eprintln!("ten looks at 24 instances: {:?}", start.elapsed());
    // Ten looks are what a second may ask for; a tenth of it is generous on a loaded machine.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?} for ten looks", start.elapsed());
}
