//! Instances on machines of their own, each reached through a real sshd: rollouts between machines, machines that are cut off, and what is told of those
//! that cannot be used.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::function::function;
use support::process::{census, command_line, kill_9};
use support::sshd::Sshd;
use support::{Load, Mix, World, until};

const SERVICE: &str = "breast-cancer";

/// A control plane whose environment `prod` has two machines.
struct Yard {
    world: World,
    alpha: Sshd,
    beta: Sshd,
}

impl Yard {
    fn up() -> Self {
        let mut yard = Self { world: World::default(), alpha: Sshd::up(), beta: Sshd::up() };
        yard.name_machines(true);
        yard.world.start();
        yard
    }

    /// Says which machines `prod` has: beta, and alpha if it is told so.
    fn name_machines(&self, with_alpha: bool) {
        let file = self.world.scratch("environments").join("prod.toml");
        let machine = |name: &str, sshd: &Sshd| {
            let (port, key, config, home) = (sshd.port, sshd.key(), sshd.config(), sshd.home());
            format!(
                "[machines.{name}]\nhost = \"127.0.0.1\"\nport = {port}\nidentity = {key:?}\nconfig = {config:?}\nfolder = {home:?}\n"
            )
        };
        let alpha = if with_alpha { machine("alpha", &self.alpha) } else { String::new() };
        std::fs::write(&file, alpha + &machine("beta", &self.beta)).unwrap();
        let listed = self.world.run(&["env", "set", file.to_str().unwrap()]).ended(0);
        assert!(listed.out.contains(if with_alpha { "alpha, beta" } else { "beta" }), "{}", listed.out);
    }

    /// Whether a machine is in reach, as the metrics have it; nothing when it is not known.
    fn reaches(&self, machine: &str) -> Option<bool> {
        let mut answer = ureq::get(format!("http://{}/metrics", self.world.control)).call().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("modelyard_machine_up{{machine=\"{machine}\"}} ")));
        line.map(|value| value == "1")
    }

    /// Events of a kind that name the machine, of any service or none.
    fn told(&self, kind: &str, machine: &str) -> Vec<Value> {
        let events = self.world.api("/api/events?after=0&wait_ms=0").unwrap();
        let is = |event: &&Value| event["event"] == kind && event["machine"] == machine;
        events.as_array().unwrap().iter().filter(is).cloned().collect()
    }

    /// Processes that answer requests on a machine.
    fn serving(&self, sshd: &Sshd) -> BTreeSet<u32> {
        let serves = |pid: &u32| command_line(*pid).contains("serve --package-dir");
        census(&sshd.home()).into_iter().filter(serves).collect()
    }

    /// Live instances as `status` has them: machine and pid.
    fn live(&self, pool: &str) -> BTreeSet<(String, u32)> {
        let status = self.world.status(SERVICE);
        let instances = status[pool]["instances"].as_array().cloned().unwrap_or_default();
        let live = instances.iter().filter(|one| one["state"] == "live" && one["pid"].is_u64());
        let of = |one: &Value| (one["machine"].as_str().unwrap().to_owned(), one["pid"].as_u64().unwrap() as u32);
        live.map(of).collect()
    }

    /// How often a package was copied to a machine.
    fn copies(&self) -> usize {
        let log = std::fs::read_to_string(self.world.home().join("logs/control.log")).unwrap();
        log.lines().filter(|line| line.contains("package copied to a machine")).count()
    }

    /// Ends everything; nothing of ours is left on any machine.
    fn down(&self) {
        self.world.down();
        for sshd in [&self.alpha, &self.beta] {
            until("nothing runs on the machine", 10, || match census(&sshd.home()) {
                left if left.is_empty() => Ok(()),
                left => Err(left.into_iter().map(command_line).collect::<Vec<_>>().join("\n")),
            });
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}", self.world.run(&["status", SERVICE]).out);
        }
        [&self.alpha, &self.beta].into_iter().flat_map(|sshd| census(&sshd.home())).for_each(kill_9);
    }
}

const ON_MACHINES: &[&str] = &["--set", "environment=prod", "--set", "target=ssh", "--instances", "2"];

const CANARY: &[&str] = &[
    "--strategy",
    "canary",
    "--steps",
    "20,50,100",
    "--bake",
    "500ms",
    "--set",
    "analysis.min-requests=10",
    "--set",
    "analysis.window=2s",
    "--set",
    "routing.drain=5s",
];

fn machines(live: &BTreeSet<(String, u32)>) -> BTreeSet<&str> {
    live.iter().map(|(machine, _)| machine.as_str()).collect()
}

#[test]
#[ignore = "needs sshd"]
fn stable_and_candidate_live_on_machines_of_their_own() {
    let yard = Yard::up();
    let world = &yard.world;
    let apart = [ON_MACHINES, &["--set", "pools=apart"]].concat();
    world.deploy("breast-cancer/v1", &apart).ended(0);
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha"].into());
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let rollout = world.begin("breast-cancer/v2", CANARY);
    let mut beside = BTreeSet::new();
    until("the rollout is over", 90, || {
        let (stable, candidate) = (yard.live("stable"), yard.live("candidate"));
        if !stable.is_empty() && !candidate.is_empty() {
            assert!(machines(&stable).is_disjoint(&machines(&candidate)), "{stable:?} {candidate:?}");
            beside.extend(candidate);
        }
        let stands = world.api(&format!("/api/rollouts/{rollout}"))?;
        if stands["outcome"] == "running" { Err(stands.to_string()) } else { Ok(()) }
    });
    assert_eq!(world.outcome(&rollout, 5), "promoted");
    assert_eq!(machines(&beside), ["prod/beta"].into(), "it was seen beside stable");
    // The processes are those of that machine's own folder.
    let pids = |live: BTreeSet<(String, u32)>| live.into_iter().map(|(_, pid)| pid).collect::<BTreeSet<_>>();
    assert_eq!(pids(yard.live("stable")), yard.serving(&yard.beta));
    until("stable's machine is empty", 60, || match yard.serving(&yard.alpha) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert_eq!(yard.copies(), 2, "each package once, for two instances");
    let shown = world.run(&["status", SERVICE]).ended(0).out;
    assert!(shown.contains("machine") && shown.contains("prod/beta"), "{shown}");
    let logs = world.run(&["logs", SERVICE]).ended(0).out;
    assert!(logs.contains(" on prod/beta  "), "{logs}");

    // The same control plane serves from this machine too, and goes back to where a package lies already.
    world.deploy("wine/v1", &[]).ended(0);
    let back = world.json(&["rollback", SERVICE]);
    assert_eq!(world.status(SERVICE)["stable"]["version"], "1.0.0", "{back}");
    assert_eq!(yard.copies(), 2, "what is there is not copied again");
    load.flow(50);
    load.finish().nothing_failed();
    yard.down();
}

#[test]
#[ignore = "needs sshd"]
fn a_control_plane_killed_during_a_rollout_between_machines_costs_no_request() {
    let mut yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", ON_MACHINES).ended(0);
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha", "prod/beta"].into(), "they spread");
    let before = yard.live("stable");
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let rollout = yard.world.begin("breast-cancer/v2", CANARY);
    yard.world.rollout_until(&rollout, 60, |stands| stands["outcome"] != "running" || stands["phase"] != "starting");
    yard.world.kill_control();
    load.flow(300);
    yard.world.start();
    until("what runs is adopted", 30, || match yard.live("stable") {
        live if live.is_superset(&before) || yard.world.status(SERVICE)["stable"]["version"] == "2.0.0" => Ok(()),
        live => Err(format!("{live:?} instead of {before:?}")),
    });
    assert_eq!(yard.world.outcome(&rollout, 90), "promoted");
    let mut asked = BTreeSet::new();
    for event in yard.world.events(SERVICE).iter().filter(|event| event["event"] == "instance-starting") {
        assert!(asked.insert(event["instance"].to_string()), "asked for twice: {event}");
        assert!(event["machine"].is_string(), "where it runs is in the log: {event}");
    }
    load.flow(50);
    load.finish().nothing_failed();
    yard.down();
}

#[test]
#[ignore = "needs sshd"]
fn a_machine_that_is_cut_off_is_replaced_and_cleared_when_it_comes_back() {
    let mut yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", ON_MACHINES).ended(0);
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(50);
    yard.alpha.cut();
    until("its instance runs elsewhere", 60, || match yard.live("stable") {
        live if live.len() == 2 && machines(&live) == ["prod/beta"].into() => Ok(()),
        live => Err(format!("{live:?}")),
    });
    let events = yard.world.events(SERVICE);
    let failed = events.iter().find(|event| event["event"] == "failed").unwrap();
    assert_eq!(failed["failure"]["cause"], "machine-lost", "{failed}");
    until("it is told", 30, || match yard.told("machine-lost", "prod/alpha").first() {
        Some(event) if event["why"].as_str().is_some_and(|why| !why.is_empty()) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((yard.reaches("prod/alpha"), yard.reaches("prod/beta")), (Some(false), Some(true)));
    load.flow(50);
    until("what runs there is written off", 30, || {
        let events = yard.world.events(SERVICE);
        let left = |event: &&Value| {
            event["how"].as_str().is_some_and(|how| how.contains("was left behind: its machine `prod/alpha`"))
        };
        events.iter().find(left).map(drop).ok_or("not yet")
    });
    assert_eq!(yard.serving(&yard.alpha).len(), 1, "nobody could end it");
    yard.alpha.start();
    until("nobody wants it any more", 60, || match yard.serving(&yard.alpha) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert_eq!(machines(&yard.live("stable")), ["prod/beta"].into());
    until("that it is back is told", 30, || match yard.told("machine-back", "prod/alpha").first() {
        Some(event) if event["after_ms"].as_u64() > Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((yard.reaches("prod/alpha"), yard.told("machine-lost", "prod/alpha").len()), (Some(true), 1));
    load.flow(50);
    load.finish().nothing_failed();
    yard.down();
}

/// The machine is at fault, not the model: the candidate starts on the other one, and its rollout goes on.
#[test]
#[ignore = "needs sshd"]
fn a_rollout_goes_on_when_the_machine_of_its_candidate_dies() {
    let mut yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", ON_MACHINES).ended(0);
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(50);
    let slowly = ["--strategy", "canary", "--steps", "20,100", "--bake", "4s", "--set", "analysis.min-requests=10"];
    let rollout = yard.world.begin("breast-cancer/v2", &slowly);
    yard.world.rollout_until(&rollout, 60, |stands| {
        stands["phase"].as_str().is_some_and(|phase| phase.starts_with("baking"))
    });
    load.flow(50);
    let of_candidate = machines(&yard.live("candidate")).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let [machine] = &of_candidate[..] else { panic!("one instance on one machine: {of_candidate:?}") };
    let (dies, lives) = if machine == "prod/alpha" { ("prod/alpha", "prod/beta") } else { ("prod/beta", "prod/alpha") };
    match dies {
        "prod/alpha" => yard.alpha.cut(),
        _ => yard.beta.cut(),
    }
    assert_eq!(yard.world.outcome(&rollout, 120), "promoted", "{:#?}", yard.world.events(SERVICE));
    let events = yard.world.events(SERVICE);
    let lost = |event: &&Value| {
        event["event"] == "failed" && event["failure"]["revision"] == 2 && event["failure"]["cause"] == "machine-lost"
    };
    assert!(events.iter().any(|event| lost(&event)), "its machine was lost before the end");
    assert_eq!(machines(&yard.live("stable")), [lives].into());
    load.flow(50);
    load.finish().nothing_failed();
    if dies == "prod/alpha" {
        yard.alpha.start()
    } else {
        yard.beta.start()
    }
    let sshd = if dies == "prod/alpha" { &yard.alpha } else { &yard.beta };
    until("nobody wants what ran there", 60, || match yard.serving(sshd) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    yard.down();
}

/// What runs on a machine that its environment names no more stays known until it is replaced; then the connection is ended.
#[test]
#[ignore = "needs sshd"]
fn a_machine_that_is_named_no_more_is_let_go_once_nothing_runs_there() {
    let yard = Yard::up();
    let world = &yard.world;
    world.deploy("breast-cancer/v1", ON_MACHINES).ended(0);
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha", "prod/beta"].into());
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::rest());
    yard.name_machines(false);
    load.flow(50);
    let folder = world.home().join("machines/prod/alpha");
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha", "prod/beta"].into(), "what runs there is known");
    assert_eq!((yard.reaches("prod/alpha"), folder.exists()), (Some(true), true));
    world.deploy("breast-cancer/v2", CANARY).ended(0);
    assert_eq!(machines(&yard.live("stable")), ["prod/beta"].into());
    until("it is let go", 60, || match yard.told("machine-left", "prod/alpha").len() {
        1 if !folder.exists() && yard.reaches("prod/alpha").is_none() => Ok(()),
        told => Err(format!("told {told} times; the folder is there: {}", folder.exists())),
    });
    let connections: Vec<String> = census(&folder).into_iter().map(command_line).collect();
    assert!(connections.is_empty() && yard.serving(&yard.alpha).is_empty(), "{connections:?}");
    // Named again, it is used again.
    yard.name_machines(true);
    world.deploy("breast-cancer/v1", CANARY).ended(0);
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha", "prod/beta"].into());
    load.flow(50);
    load.finish().nothing_failed();
    yard.down();
}

/// A Python function gets its environment on each machine, and is replaced there as any other model is.
#[test]
#[ignore = "needs sshd"]
fn a_python_function_runs_on_other_machines() {
    let yard = Yard::up();
    let world = &yard.world;
    let deploy = |version: &str, threshold: &str, more: &[&str]| {
        let folder = function(world, version, |source| source.replace("0.5", threshold));
        let arguments = ["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m", "--output", "json"];
        world.run(&[&arguments, more].concat()).ended(0);
    };
    deploy("1.0.0", "0.5", ON_MACHINES);
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha", "prod/beta"].into());
    let load = Load::start(world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    deploy("2.0.0", "0.500001", CANARY);
    assert_eq!(machines(&yard.live("stable")), ["prod/alpha", "prod/beta"].into());
    load.flow(50);
    let tally = load.finish();
    tally.nothing_failed();
    assert!(tally.answered.contains_key(&1) && tally.answered.contains_key(&2), "{tally:?}");
    yard.down();
}

#[test]
#[ignore = "needs sshd"]
fn a_machine_that_hangs_slows_nobody_else_down() {
    let mut yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", ON_MACHINES).ended(0);
    yard.world.deploy("wine/v1", &[]).ended(0);
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(50);
    yard.alpha.hang();
    // While nobody knows whether it will answer: what runs on this machine is deployed as ever.
    yard.world.deploy("wine/v2", &["--strategy", "recreate"]).ended(0);
    until("its instance runs elsewhere", 60, || match yard.live("stable") {
        live if live.len() == 2 && machines(&live) == ["prod/beta"].into() => Ok(()),
        live => Err(format!("{live:?}")),
    });
    load.flow(50);
    load.finish().nothing_failed();
    let shown = yard.world.run(&["status", SERVICE]).ended(0).out;
    assert!(shown.contains("prod/beta") && !shown.contains("prod/alpha"), "{shown}");
    yard.alpha.cut();
    yard.alpha.start();
    until("nobody wants it any more", 60, || match yard.serving(&yard.alpha) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    yard.down();
}

#[test]
#[ignore = "needs sshd"]
fn machines_that_cannot_be_used_are_told_of() {
    let mut yard = Yard::up();
    // Words as they are, wherever the terminal would break the line.
    let refused = |more: &[&str]| {
        let err = yard.world.deploy("breast-cancer/v1", more).ended(1).err;
        err.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let told = refused(&["--set", "target=ssh"]);
    assert!(told.contains("environment `dev` has none") && told.contains("modelyard env set"), "{told}");
    let told = refused(&[ON_MACHINES, &["--set", "machines=[\"gamma\"]"]].concat());
    assert!(told.contains("has no machine `gamma`, but alpha, beta"), "{told}");
    let told = refused(&[ON_MACHINES, &["--set", "pools=apart", "--set", "machines=[\"beta\"]"]].concat());
    assert!(told.contains("need two machines"), "{told}");
    let told = refused(&["--set", "pools=apart"]);
    assert!(told.contains("are for `target = \"ssh\"`"), "{told}");

    // One has an unknown host key, the other is down: each says so itself.
    yard.world.run(&["down"]).ended(0);
    yard.alpha.forget_host_key();
    yard.beta.cut();
    yard.world.start();
    for (machine, words) in [
        ("alpha", ["Host key verification failed", "must work without a question"]),
        ("beta", ["Connection refused", "no sshd listens there"]),
    ] {
        let only = format!("machines=[\"{machine}\"]");
        let only = [ON_MACHINES, &["--set", &only]].concat();
        let ended = yard.world.deploy("breast-cancer/v1", &only);
        assert_ne!(ended.code, 0, "{ended:?}");
        let events = yard.world.events(SERVICE);
        let failed: Vec<String> =
            events.iter().filter(|event| event["event"] == "failed").map(Value::to_string).collect();
        let said = failed.last().unwrap();
        assert!(said.contains(&format!("on machine `prod/{machine}`")), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
    yard.down();
}
