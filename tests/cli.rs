//! The command line from outside: usage errors, exit codes, JSON shapes, refusals.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::{World, examples, until};

/// Copies an example to a folder that may be changed.
fn copied(world: &World, example: &str) -> std::path::PathBuf {
    let target = world.scratch(&example.replace('/', "-"));
    for entry in fs::read_dir(examples().join(example)).unwrap().flatten() {
        fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
    target
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let world = World::default();
    for arguments in [
        vec!["no-such-command"],
        vec!["deploy"],
        vec!["deploy", "wine:1.0.0", "--strategy", "big-bang"],
        vec!["deploy", "wine:1.0.0", "--bake", "soon"],
        vec!["status", "Wine"],
        vec!["rollback", "wine", "--to", "0"],
        vec!["up", "--gateway", "0.0.0.0:8080"],
        vec!["up", "--control", "192.168.0.7:8484"],
        vec!["serve", "./nowhere", "--http", "[::]:9000"],
    ] {
        let ran = world.run(&arguments).ended(2);
        assert!(ran.out.is_empty(), "talk belongs on stderr: {arguments:?} {ran:?}");
    }
}

#[test]
fn addresses_that_others_can_reach_are_refused_with_a_clear_word() {
    let world = World::default();
    let ran = world.run(&["up", "--gateway", "0.0.0.0:8080"]).ended(2);
    assert!(ran.err.contains("other machines") && ran.err.contains("127.0.0.1:8080"), "{}", ran.err);
    assert!(!world.home().join("run").exists(), "nothing was started");
}

#[test]
fn without_a_control_plane_commands_say_how_to_start_one() {
    let world = World::default();
    for arguments in [vec!["status"], vec!["history", "wine"], vec!["abort", "wine"], vec!["logs", "wine"]] {
        let ran = world.run(&arguments).ended(1);
        assert!(ran.err.contains("modelyard up --detach"), "{arguments:?}: {}", ran.err);
    }
    assert_eq!(world.run(&["down"]).ended(0).out.trim_end(), format!("nothing runs in {}", world.home().display()));
}

#[test]
fn a_control_plane_that_does_not_answer_is_named() {
    let world = World::default();
    let ran = world.run(&["status", "--control", "http://127.0.0.1:1"]).ended(1);
    assert!(ran.err.contains("127.0.0.1:1") && ran.err.contains("does not answer"), "{}", ran.err);
}

#[test]
fn packages_are_built_listed_inspected_and_named() {
    let world = World::default();
    let folder = examples().join("wine/v1");
    let built = world.json(&["package", folder.to_str().unwrap()]);
    assert_eq!((&built["name"], &built["version"]), (&Value::from("wine"), &Value::from("1.0.0")));
    let digest = built["digest"].as_str().unwrap().to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{built}");
    for format in built["formats"].as_array().unwrap_or_else(|| panic!("no formats in {built}")) {
        let has = |key: &str| !format[key].is_null();
        assert!(["format", "path", "digest", "size_bytes", "seconds"].into_iter().all(has), "{format}");
    }
    let again = world.json(&["package", folder.to_str().unwrap()]);
    assert_eq!(again["digest"], digest.as_str(), "the same input gives the same digest");
    world.json(&["package", examples().join("wine/v2").to_str().unwrap()]);

    let models = world.json(&["models"]).to_string();
    assert!(models.contains("wine"), "{models}");
    let versions = world.json(&["versions", "wine"]).to_string();
    assert!(versions.contains("1.0.0") && versions.contains("2.0.0") && versions.contains(&digest), "{versions}");
    world.run(&["alias", "wine@champion", "1.0.0"]).ended(0);
    for reference in ["wine:1.0.0", "wine@champion", &format!("wine@{digest}"), folder.to_str().unwrap()] {
        let inspected = world.json(&["inspect", reference]);
        assert_eq!(inspected["digest"], digest.as_str(), "{reference}: {inspected}");
        assert_eq!(inspected["signature"]["inputs"][0]["name"], "features", "{reference}: {inspected}");
    }
    let unknown = world.run(&["inspect", "wine:9.9.9"]).ended(1);
    assert!(unknown.err.contains("9.9.9") && unknown.err.contains("help"), "{}", unknown.err);
}

#[test]
fn every_module_logs_its_entry_and_exit_when_asked() {
    let world = World::default();
    let example = copied(&world, "wine/v1");
    let package = |filter: &str| {
        let output = world.command(&["package"]).arg(&example).env("MODELYARD_LOG", filter).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .map(|line| (line["span"]["name"].as_str().unwrap_or_default().to_owned(), line["message"].clone()))
            .collect::<Vec<_>>()
    };
    let told = package("info");
    for (module, moment) in
        [("package", "new"), ("registry.add", "new"), ("registry.add", "close"), ("package", "close")]
    {
        assert!(told.contains(&(module.to_owned(), moment.into())), "{module} {moment}: {told:?}");
    }
    assert_eq!(told.first().map(|(module, _)| module.as_str()), Some("package"), "{told:?}");
    assert_eq!(package("error"), []);
}

#[test]
fn an_unknown_key_of_a_package_is_met_with_a_suggestion() {
    let world = World::default();
    let folder = copied(&world, "wine/v1");
    let file = folder.join("modelyard.toml");
    let text = fs::read_to_string(&file).unwrap().replace("description =", "descripton =");
    fs::write(&file, text).unwrap();
    let ran = world.run(&["package", folder.to_str().unwrap()]);
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("descripton") && ran.err.contains("description"), "{}", ran.err);
}

#[test]
fn every_mistake_of_a_service_file_is_told_at_once() {
    let world = World::up();
    let file = world.scratch("service").join("service.toml");
    fs::write(
        &file,
        "nmae = \"wine\"\npackage = \"wine:1.0.0\"\ninstances = 0\n[strategy]\nkind = \"canary\"\nbkae = \"5s\"\n",
    )
    .unwrap();
    let ran = world.run(&["deploy", file.to_str().unwrap()]).ended(1);
    for told in ["did you mean `name`", "at least 1", "did you mean `bake`"] {
        assert!(ran.err.replace('\n', " ").contains(told), "{told} is missing in:\n{}", ran.err);
    }
    world.down();
}

#[test]
fn a_scaffolded_folder_of_an_onnx_file_packages_and_serves() {
    let world = World::default();
    let folder = world.home().join("scratch/mine");
    let model = examples().join("iris/v1/model.onnx");
    world.run(&["new", folder.to_str().unwrap(), "--from", model.to_str().unwrap()]).ended(0);
    let built = world.json(&["package", folder.to_str().unwrap()]);
    assert_eq!(built["name"], "mine");
    let again = world.run(&["new", folder.to_str().unwrap()]);
    assert_ne!(again.code, 0, "a folder that holds something is not overwritten");
}

#[test]
fn a_service_lives_from_a_file_to_history() {
    let mut world = World::default();
    world.start();
    assert_eq!(world.run(&["up", "--detach"]).code, 1, "one control plane per home");

    let file = world.scratch("service").join("service.toml");
    let package = examples().join("wine/v1");
    let text = format!(
        "name = \"cellar\"\nenvironment = \"test\"\npackage = \"{}\"\ninstances = 2\n[strategy]\nkind = \"rolling\"\npause = \"100ms\"\n",
        package.display()
    );
    fs::write(&file, text).unwrap();
    let arguments = ["deploy", file.to_str().unwrap(), "--wait", "--timeout", "2m", "--output", "json"];
    let deployed = world.run(&arguments).ended(0).json();
    for (key, value) in [("service", "cellar"), ("strategy", "rolling"), ("outcome", "promoted")] {
        assert_eq!(deployed[key], value, "{deployed}");
    }
    assert!(deployed["rollout"].is_string(), "{deployed}");

    let status = world.status("cellar");
    assert_eq!(status["environment"], "test", "{status}");
    assert_eq!(status["weights"]["1"], 10_000, "{status}");
    assert_eq!((&status["stable"]["revision"], &status["stable"]["version"]), (&1.into(), &"1.0.0".into()), "{status}");
    let instances = status["stable"]["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2, "{status}");
    for instance in instances {
        assert!(instance["id"].is_string() && instance["state"].is_string(), "{instance}");
        assert!(instance["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{instance}");
    }
    assert!(world.json(&["status"]).to_string().contains("cellar"));
    let history = world.json(&["history", "cellar"]);
    assert_eq!(history["rollouts"][0]["outcome"], "promoted", "{history}");
    assert!(world.run(&["history", "cellar"]).ended(0).out.contains("promoted"));
    world.json(&["logs", "cellar"]);

    let rollout = deployed["rollout"].as_str().unwrap();
    assert!(world.run(&["report", rollout]).ended(0).out.contains("cellar"));
    let page = world.scratch("reports").join("report.html");
    world.run(&["report", rollout, "--out", page.to_str().unwrap()]).ended(0);
    assert!(fs::read_to_string(page).unwrap().to_lowercase().contains("<!doctype html"));

    let none = world.run(&["promote", "cellar"]).ended(1);
    assert!(none.err.contains("no rollout of `cellar` is open"), "{}", none.err);
    let unknown = world.run(&["status", "nothing"]).ended(1);
    assert!(unknown.err.contains("nothing"), "{}", unknown.err);
    world.down();
}

#[test]
fn a_gate_waits_for_a_person_and_deploy_says_so() {
    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let manual = ["--strategy", "blue-green", "--set", "strategy.manual=true", "--set", "strategy.rollback-window=0s"];
    let waiting = world.deploy("wine/v2", &manual).ended(4).json();
    assert_eq!(waiting["outcome"], "waiting", "{waiting}");
    let preview = format!("http://{}/wine/r2/v2/models/wine", world.gateway);
    assert_eq!(ureq::get(&preview).call().unwrap().status(), 200, "the preview address answers");
    world.run(&["approve", "wine"]).ended(0);
    assert_eq!(world.outcome(waiting["rollout"].as_str().unwrap(), 60), "promoted");
    assert_eq!(world.run(&["approve", "wine"]).code, 1, "nothing waits any more");
    world.down();
}

#[test]
fn an_abort_waits_until_stable_carries_everything() {
    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let rollout = world.begin("wine/v2", &["--steps", "20,100", "--bake", "1h"]);
    until("the candidate has a share", 60, || match world.status("wine") {
        status if status["weights"]["2"] == 2_000 => Ok(()),
        status => Err(status.to_string()),
    });
    world.run(&["pause", "wine"]).ended(0);
    let aborted = world.json(&["abort", "wine"]);
    assert_eq!((&aborted["outcome"], &aborted["rollout"]), (&"aborted".into(), &rollout.as_str().into()), "{aborted}");
    assert_eq!(world.status("wine")["weights"]["1"], 10_000);
    world.down();
}

#[test]
fn serve_alone_answers_and_ends_on_a_signal() {
    let world = World::default();
    let folder = examples().join("wine/v1");
    let temporary = world.scratch("tmp");
    let mut child = world
        .command(&["serve", folder.to_str().unwrap(), "--http", "127.0.0.1:0", "--output", "json"])
        .env("TMPDIR", &temporary)
        .env_remove("ORT_DISABLE_TELEMETRY")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut first).unwrap();
    let listening: Value = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first}"));
    let address = listening["address"].as_str().unwrap_or_else(|| panic!("no address in {listening}")).to_owned();
    until("it is ready", 60, || ureq::get(format!("http://{address}/v2/health/ready")).call());
    let traffic: Value = serde_json::from_slice(&fs::read(examples().join("wine/traffic.json")).unwrap()).unwrap();
    let mut answer =
        ureq::post(format!("http://{address}/v2/models/wine/infer")).send_json(&traffic[0]["request"]).unwrap();
    let answer: Value = answer.body_mut().read_json().unwrap();
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([traffic[0]["label"]]), "{answer}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "neither our scratch nor the engine's telemetry leaves anything: {left:?}");
}

#[test]
fn a_standalone_package_needs_nothing_but_itself() {
    let world = World::default();
    let out = world.scratch("out");
    let folder = examples().join("wine/v1");
    let arguments = ["package", folder.to_str().unwrap(), "--format", "standalone", "--out", out.to_str().unwrap()];
    let built = world.json(&arguments);
    let format = &built["formats"][0];
    assert_eq!(format["format"], "standalone", "{built}");
    let tar = format["path"].as_str().unwrap().to_owned();
    assert_eq!(fs::metadata(&tar).unwrap().len(), format["size_bytes"].as_u64().unwrap(), "{built}");
    assert_eq!(world.json(&arguments)["formats"][0]["digest"], format["digest"], "the same input gives the same bytes");
    let unpacked = std::process::Command::new("tar").args(["xf", &tar]).current_dir(&out).status().unwrap();
    assert!(unpacked.success());

    let mut child = std::process::Command::new(out.join("wine-1.0.0/run"))
        .args(["127.0.0.1:0", "--output", "json"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", &out)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut first).unwrap();
    let listening: Value = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first}"));
    let address = listening["address"].as_str().unwrap().to_owned();
    until("it is ready", 60, || ureq::get(format!("http://{address}/v2/health/ready")).call());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn up_in_the_foreground_takes_everything_down_with_it() {
    let world = World::default();
    for (leave, left) in [(true, true), (false, false)] {
        let mut arguments = vec!["up", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0", "--output", "json"];
        arguments.extend(leave.then_some("--leave"));
        let mut child = world
            .command(&arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut first).unwrap();
        let started: Value = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first}"));
        assert_eq!(started["pid"], child.id(), "the process that was started is the control plane");
        if leave {
            world.deploy("wine/v1", &[]).ended(0);
        }
        let status = world.status("wine");
        assert_eq!(status["stable"]["instances"][0]["id"], "wine-r1-1", "started once, adopted later: {status}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        let gateway = format!("http://{}/v2/models/wine/ready", started["gateway"].as_str().unwrap());
        assert_eq!(ureq::get(&gateway).call().is_ok(), left, "with --leave: {leave}");
    }
    until("nothing is left", 10, || match support::process::census(world.home()) {
        pids if pids.is_empty() => Ok(()),
        pids => Err(format!("{pids:?}")),
    });
}

#[test]
fn watch_draws_on_a_terminal_and_puts_it_back() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::tcgetattr;
    use std::io::{Read as _, Write as _};

    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = fs::File::options().read(true).write(true).open(name).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let mut child = world
        .command(&["watch", "wine"])
        .env("TERM", "xterm")
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut master = fs::File::from(master);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("q quits") {
        let mut bytes = [0; 4096];
        let count = master.read(&mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..count]);
    }
    let drawn = String::from_utf8_lossy(&seen).into_owned();
    assert!(drawn.contains("stable") && drawn.contains("r1 1.0.0") && drawn.contains("100 %"), "{drawn}");
    master.write_all(b"q").unwrap();
    // What it still draws must be read, or it would wait for room.
    std::thread::spawn(move || while master.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
    assert!(child.wait().unwrap().success());
    let after = tcgetattr(&slave).unwrap();
    assert_eq!((after.local_modes, after.input_modes), (before.local_modes, before.input_modes));
    world.down();
}

#[test]
fn the_registry_gives_what_was_packaged_and_sweeps_what_nobody_needs() {
    let world = World::default();
    world.run(&["package", examples().join("wine/v1").to_str().unwrap()]).ended(0);
    let digest = world.json(&["inspect", "wine:1.0.0"])["digest"].as_str().unwrap().to_owned();
    let mut registry = world
        .command(&["registry", "--listen", "127.0.0.1:0", "--output", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut stdout = std::io::BufReader::new(registry.stdout.take().unwrap());
    while !text.contains('}') {
        assert!(std::io::BufRead::read_line(&mut stdout, &mut text).unwrap() > 0, "{text}");
    }
    let listening: Value = serde_json::from_str(&text).unwrap();
    let base = format!("http://{}/v2/wine", listening["address"].as_str().unwrap());
    let tags: Value = ureq::get(format!("{base}/tags/list")).call().unwrap().body_mut().read_json().unwrap();
    assert_eq!(tags, serde_json::json!({ "name": "wine", "tags": ["1.0.0"] }));
    let mut answer = ureq::get(format!("{base}/manifests/1.0.0")).call().unwrap();
    assert_eq!(answer.headers()["docker-content-digest"], digest.as_str());
    let manifest: Value = answer.body_mut().read_json().unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        let bytes = ureq::get(format!("{base}/blobs/{digest}")).call().unwrap().body_mut().read_to_vec().unwrap();
        assert_eq!(Some(bytes.len() as u64), layer["size"].as_u64(), "{layer}");
    }
    let orphan = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    ureq::post(format!("{base}/blobs/uploads/?digest={orphan}")).send(&b"hello"[..]).unwrap();
    let would = world.json(&["gc", "--dry-run", "--older-than", "0s"]);
    assert_eq!((&would["blobs"], &would["bytes"]), (&serde_json::json!([orphan]), &5.into()), "{would}");
    assert_eq!(world.json(&["gc"])["blobs"], serde_json::json!([]), "it is young: it may be part of a push");
    assert_eq!(world.json(&["gc", "--older-than", "0s"])["blobs"], serde_json::json!([orphan]));
    world.run(&["inspect", "wine:1.0.0"]).ended(0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&registry), rustix::process::Signal::TERM).unwrap();
    assert!(registry.wait().unwrap().success());
}

#[test]
fn packages_go_from_home_to_home_through_the_control_plane_s_registry() {
    let (there, here) = (World::up(), World::default());
    here.run(&["package", examples().join("wine/v1").to_str().unwrap()]).ended(0);
    let remote = format!("{}/wine", there.control);
    let pushed = here.json(&["push", "wine:1.0.0", &remote]);
    assert!(pushed["blobs"].as_u64().unwrap() > 2 && pushed["reused"] == 0, "{pushed}");
    assert_eq!(here.json(&["push", "wine:1.0.0", &remote])["blobs"], 0, "only what is missing moves");
    assert_eq!(there.json(&["versions", "wine"])["versions"][0]["digest"], pushed["digest"]);
    there.run(&["deploy", "wine:1.0.0", "--wait"]).ended(0);
    let third = World::default();
    let pulled = third.json(&["pull", &format!("{remote}:1.0.0")]);
    assert_eq!((&pulled["digest"], &pulled["version"]), (&pushed["digest"], &"1.0.0".into()));
    third.run(&["inspect", "wine:1.0.0"]).ended(0);
    let missing = third.run(&["pull", &format!("{remote}:9.9.9")]).ended(1);
    assert!(missing.err.contains("is not there") && missing.err.contains("tags/list"), "{}", missing.err);
    third.run(&["pull", "wine:1.0.0"]).ended(2);
    there.down();
}

/// Keys of `wanted` that are not in the log of `process` with both their entry and their exit.
fn untold(world: &World, process: &str, wanted: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(world.home().join("logs").join(process)).unwrap_or_default();
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let told = |name: &str, moment: &str| lines.iter().any(|l| l["span"]["name"] == name && l["message"] == moment);
    let missing = |name: &&&str| !(told(name, "new") && told(name, "close"));
    wanted.iter().filter(missing).map(|name| format!("{name} in {process}")).collect()
}

#[test]
fn every_module_tells_of_its_part_in_a_rollout() {
    let world = World::default();
    let up = ["up", "--detach", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    assert!(world.command(&up).env("MODELYARD_LOG", "debug").status().unwrap().success());
    world.deploy("wine/v1", &[]).ended(0);
    let kept = ["--strategy", "blue-green", "--set", "strategy.rollback-window=10m"];
    world.deploy("wine/v2", &kept).ended(0);
    world.run(&["rollback", "wine"]).ended(0);
    let control = [
        "order.deploy",
        "order.rollback",
        "controller.step",
        "registry.unpack",
        "target.ensure",
        "target.stop",
        "prober.ask",
        "gateway.push",
        "gateway.start",
    ];
    until("control plane and gateway told of everything", 60, || {
        let missing = [untold(&world, "control.log", &control), untold(&world, "gateway.log", &["gateway.apply"])];
        let missing = missing.concat();
        if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
    });
    world.down();
}

#[test]
fn a_pause_holds_the_rollout_and_a_resume_lets_it_go_on() {
    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let short = ["--steps", "20,100", "--bake", "5s", "--set", "analysis.no-traffic=promote"];
    let rollout = world.begin("wine/v2", &short);
    let phase_until = |what: &str, accept: &dyn Fn(&str) -> bool| {
        until(what, 60, || match world.status("wine") {
            status if status["rollout"]["phase"].as_str().is_some_and(accept) => Ok(()),
            status => Err(status["rollout"].to_string()),
        });
    };
    phase_until("the candidate has its first share", &|phase| phase.starts_with("baking at 20 %"));
    world.run(&["pause", "wine"]).ended(0);
    phase_until("it is paused", &|phase| phase == "baking at 20 %, step 1 of 2 (paused)");
    // The bake passes, and nothing follows: figures are written each second.
    let measured = || world.events("wine").iter().filter(|event| event["event"] == "measured").count();
    let before = measured();
    until("time passes", 60, || match measured() {
        now if now >= before + 7 => Ok(()),
        now => Err(format!("{now} figures after {before}")),
    });
    let status = world.status("wine");
    assert_eq!((&status["weights"]["2"], &status["rollout"]["step"]), (&2_000.into(), &1.into()), "{status}");
    assert_eq!(status["rollout"]["waiting"]["for"], "paused", "{status}");
    world.run(&["resume", "wine"]).ended(0);
    assert_eq!(world.outcome(&rollout, 60), "promoted");
    until("it is over", 60, || match world.run(&["resume", "wine"]) {
        ran if ran.code == 1 && ran.err.contains("no rollout of `wine` is open") => Ok(()),
        ran => Err(format!("{ran:?}")),
    });
    world.down();
}

#[test]
fn logs_are_what_instances_wrote_each_line_with_its_instance() {
    let world = World::up();
    let folder = world.scratch("talker");
    let toml = "files = [\"serve.py\"]\n[model]\nname = \"talker\"\nversion = \"1.0.0\"\ndescription = \"talks\"\n\
                [runtime]\nkind = \"command\"\ncommand = [\"python3\", \"-u\", \"serve.py\"]\nhealth = \"/health\"\n";
    fs::write(folder.join("modelyard.toml"), toml).unwrap();
    let echo = fs::read_to_string(examples().join("../tests/fixtures/echo/serve.py")).unwrap();
    let talk = "import sys\nfor n in range(5):\n    print(f'line {n}')\nprint('to stderr', file=sys.stderr)\n";
    fs::write(folder.join("serve.py"), format!("{talk}{echo}")).unwrap();
    world.run(&["deploy", folder.to_str().unwrap(), "--instances", "2", "--wait"]).ended(0);

    let logs = world.json(&["logs", "talker"]);
    let instances = logs["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2, "{logs}");
    for instance in instances {
        let lines: Vec<&str> = instance["lines"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let has = |wanted: &str| lines.iter().any(|line| line.ends_with(wanted));
        assert!((0..5).all(|n| has(&format!("line {n}"))) && has("to stderr"), "{logs}");
    }
    let text = world.run(&["logs", "talker", "--instance", "talker-r1-1", "-n", "2"]).ended(0).out;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().all(|line| line.starts_with("talker-r1-1  ")) && text.contains("to stderr"), "{text}");
    world.down();
}

/// What a program writes on its stdout, as it comes.
fn told(child: &mut std::process::Child) -> Arc<Mutex<String>> {
    let (told, stdout) = (Arc::new(Mutex::new(String::new())), child.stdout.take().unwrap());
    let text = told.clone();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok) {
            text.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    told
}

#[test]
fn watch_without_a_terminal_tells_lines_as_things_happen() {
    let world = World::up();
    world.deploy("wine/v1", &[]).ended(0);
    let watch = |arguments: &[&str]| {
        let all = [&["watch", "wine"], arguments].concat();
        let mut command = world.command(&all);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let (mut text, mut json) = (watch(&[]), watch(&["--output", "json"]));
    let at_once = ["--strategy", "blue-green", "--set", "strategy.rollback-window=0s"];
    world.deploy("wine/v2", &at_once).ended(0);
    let (told, events) = (told(&mut text), told(&mut json));
    let has = |from: &Mutex<String>, wanted: &str| {
        until(wanted, 60, || match from.lock().unwrap().clone() {
            text if text.contains(wanted) => Ok(()),
            text => Err(text),
        });
    };
    for line in
        ["A blue-green rollout of wine was started by tester", "traffic: r2 100 %", "The candidate was promoted"]
    {
        has(&told, line);
    }
    assert!(!told.lock().unwrap().contains('\x1b'), "no escape codes without a terminal");
    has(&events, "\"event\":\"rollout-finished\"");
    let lines = events.lock().unwrap().clone();
    let kinds: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].take()).collect();
    assert!(kinds.contains(&"instance-live".into()) && kinds.contains(&"route-applied".into()), "{kinds:?}");
    for mut child in [text, json] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    world.down();
}
