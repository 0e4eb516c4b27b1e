//! Instances as containers of a real Docker Engine: rollouts between them, images that are fetched once, an engine that is away.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::collections::BTreeSet;

use modelyard_core::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::base_image;
use support::docker::{Docker, run};
use support::function::function;
use support::registry::{Registry, keys};
use support::{Load, Mix, World, examples, until};

const SERVICE: &str = "breast-cancer";

const IN_CONTAINERS: &[&str] = &["--set", "environment=prod", "--set", "target=docker", "--instances", "2"];

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

/// A control plane whose environment `prod` has one engine.
struct Yard {
    // Dropped first: it ends the containers by its engine.
    world: World,
    docker: Docker,
}

impl Yard {
    fn up() -> Self {
        let mut yard = Self { world: World::default(), docker: Docker::bridged() };
        let file = yard.world.scratch("environments").join("prod.toml");
        std::fs::write(&file, format!("[machines.box]\ndocker = \"{}\"\n", yard.docker.host())).unwrap();
        yard.world.run(&["env", "set", file.to_str().unwrap()]).ended(0);
        yard.world.start();
        yard
    }

    /// What the engine's client says, by lines.
    fn lines(&self, arguments: &[&str]) -> BTreeSet<String> {
        run(&mut self.docker.command(arguments)).lines().map(str::to_owned).collect()
    }

    /// Names of the containers that run.
    fn containers(&self) -> BTreeSet<String> {
        self.lines(&["ps", "--format", "{{.Names}}"])
    }

    /// What the log of the control plane says of each fetch: layers that moved, and layers that were there.
    fn fetches(&self) -> Vec<(u64, u64)> {
        let log = std::fs::read_to_string(self.world.home().join("logs/control.log")).unwrap();
        let fetched = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fetched = fetched.filter(|line| line["message"] == "image fetched by an engine");
        fetched.map(|line| (line["layers"].as_u64().unwrap(), line["reused"].as_u64().unwrap())).collect()
    }

    /// How often the engine fetched anything, by its own events.
    fn pulls(&self) -> usize {
        let since = ["events", "--since", "1h", "--until", "0s", "--filter", "event=pull", "--format", "{{.ID}}"];
        run(&mut self.docker.command(&since)).lines().count()
    }

    /// Ends everything; no container of ours is left.
    fn down(&self) {
        self.world.down();
        assert_eq!(self.lines(&["ps", "--all", "--format", "{{.Names}}"]), BTreeSet::new());
    }
}

#[test]
#[ignore = "needs dockerd and root"]
fn a_canary_goes_from_container_to_container_and_an_image_is_fetched_once() {
    let mut yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", IN_CONTAINERS).ended(0);
    let first = yard.containers();
    assert_eq!(first.len(), 2, "{first:?}");
    assert_eq!((yard.fetches().len(), yard.pulls()), (1, 1), "one image for two instances that started together");
    let (moved, reused) = yard.fetches()[0];
    assert!(moved >= 2 && reused == 0, "an empty engine has no layer: {moved} {reused}");

    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(50);
    let rollout = yard.world.begin("breast-cancer/v2", CANARY);
    yard.world.rollout_until(&rollout, 90, |stands| stands["phase"] != "starting" || stands["outcome"] != "running");
    // The containers and the fleet of a control plane that is killed are found again.
    yard.world.kill_control();
    load.flow(100);
    yard.world.start();
    assert_eq!(yard.world.outcome(&rollout, 120), "promoted", "{:#?}", yard.world.events(SERVICE));
    load.flow(50);
    until("stable's containers are gone", 30, || match yard.containers() {
        left if left.is_disjoint(&first) && left.len() == 2 => Ok(()),
        left => Err(format!("{left:?}")),
    });
    let second = yard.fetches();
    assert_eq!(second.len(), 2, "{second:?}");
    assert!(second[1].1 >= 1 && second[1].0 < moved, "the layers that both share did not move again: {second:?}");

    // Back to what the engine has: nothing is fetched, by its own account and by the registry's.
    yard.world.json(&["rollback", SERVICE]);
    assert_eq!(yard.world.status(SERVICE)["stable"]["version"], "1.0.0");
    yard.world.deploy("breast-cancer/v2", CANARY).ended(0);
    assert_eq!((yard.fetches().len(), yard.pulls()), (2, 2), "what is there is not fetched again");
    load.flow(50);
    load.finish().nothing_failed();

    let status = yard.world.run(&["status", SERVICE]).ended(0).out;
    assert!(status.contains("prod/box"), "{status}");
    let logs = yard.world.run(&["logs", SERVICE]).ended(0).out;
    assert!(logs.contains(" on prod/box  ") && logs.contains("listening"), "{logs}");
    let mut asked = BTreeSet::new();
    for event in yard.world.events(SERVICE).iter().filter(|event| event["event"] == "instance-starting") {
        assert!(asked.insert(event["instance"].to_string()), "asked for twice: {event}");
    }
    yard.down();
}

/// Whoever may push to a model's repository cannot put another program in the place of a package that was let in.
#[test]
#[ignore = "needs dockerd and root"]
fn an_image_that_was_pushed_runs_only_under_a_signature_where_signatures_are_asked_for() {
    let yard = Yard::up();
    let world = &yard.world;
    let (key, public) = keys(world, "ops");
    let file = world.scratch("environments").join("prod.toml");
    let machine = format!("[machines.box]\ndocker = \"{}\"\n", yard.docker.host());
    std::fs::write(&file, format!("{machine}[policy]\nsigned-by = [\"{public}\"]\n")).unwrap();
    world.run(&["env", "set", file.to_str().unwrap()]).ended(0);
    let model = examples().join("breast-cancer/v1");
    world.run(&["package", model.to_str().unwrap()]).ended(0);
    world.run(&["sign", "breast-cancer:1.0.0", "--key", &key]).ended(0);

    // An image like ours, under the tag that ours has, with a variable of somebody else's.
    let out = world.scratch("images");
    let made = ["package", model.to_str().unwrap(), "--format", "image", "--out", out.to_str().unwrap()];
    let made = world.json(&made)["formats"][0]["digest"].as_str().unwrap().to_owned();
    let registry = Registry::of(world);
    let repository = format!("http://{}/v2/breast-cancer", registry.address);
    let read = |path: &str| {
        let mut answer = ureq::get(format!("{repository}/{path}")).call().unwrap();
        serde_json::from_str::<Value>(&answer.body_mut().read_to_string().unwrap()).unwrap()
    };
    let mut manifest = read(&format!("manifests/{made}"));
    let mut config = read(&format!("blobs/{}", manifest["config"]["digest"].as_str().unwrap()));
    config["config"]["Env"].as_array_mut().unwrap().push("PUSHED=1".into());
    let digest = |text: &str| Digest::from_sha256(Sha256::digest(text).into()).to_string();
    let config = config.to_string();
    let began = ureq::post(format!("{repository}/blobs/uploads/")).send_empty().unwrap();
    let upload = began.headers()["location"].to_str().unwrap();
    let glue = if upload.contains('?') { '&' } else { '?' };
    let upload = format!("http://{}{upload}{glue}digest={}", registry.address, digest(&config));
    assert_eq!(ureq::put(upload).send(&config).unwrap().status(), 201);
    manifest["config"]["digest"] = digest(&config).into();
    manifest["config"]["size"] = config.len().into();
    let kind = manifest["mediaType"].as_str().unwrap().to_owned();
    let put = ureq::put(format!("{repository}/manifests/1.0.0-image")).header("content-type", kind);
    assert_eq!(put.send(&manifest.to_string()).unwrap().status(), 201);
    let pushed = digest(&manifest.to_string());
    drop(registry);

    let variables = || {
        let containers = yard.containers();
        let inspect = |name: &String| {
            run(&mut yard.docker.command(&["inspect", "--format", "{{.Config.Env}}", name])).contains("PUSHED=1")
        };
        (containers.len(), containers.iter().filter(|name| inspect(name)).count())
    };
    world.deploy("breast-cancer/v1", IN_CONTAINERS).ended(0);
    assert_eq!(variables(), (2, 0), "the image that was made here runs, whatever has the tag");

    let stranger = format!("sha256:{}", "0".repeat(64));
    let refused = world.run(&["sign", "breast-cancer:1.0.0", "--image", &stranger, "--key", &key]).ended(1).err;
    assert!(refused.contains("no container image of breast-cancer:1.0.0") && refused.contains(&pushed), "{refused}");
    let signed = world.json(&["sign", "breast-cancer:1.0.0", "--image", &pushed, "--key", &key]);
    assert_eq!((&signed["image"], &signed["before"]), (&pushed.into(), &false.into()), "{signed}");
    world.deploy("breast-cancer/v1", &[IN_CONTAINERS, &["--strategy", "recreate"]].concat()).ended(0);
    until("the image that was signed runs", 30, || match variables() {
        (2, 2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A revision keeps its image: the way back leads to what ran before.
    world.json(&["rollback", SERVICE]);
    until("the image of the first revision runs again", 60, || match variables() {
        (2, 0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    yard.down();
}

#[test]
#[ignore = "needs dockerd and root"]
fn a_version_that_answers_wrongly_never_leaves_its_container() {
    let yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", IN_CONTAINERS).ended(0);
    let stable = yard.containers();
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(20);
    yard.world.deploy("breast-cancer/v3-wrong", CANARY).ended(3);
    let events = yard.world.events(SERVICE);
    let failed = events.iter().find(|event| event["event"] == "failed").unwrap();
    assert_eq!(failed["failure"]["cause"], "wrong-answers", "{failed}");
    until("only stable's containers are left", 30, || match yard.containers() {
        left if left == stable => Ok(()),
        left => Err(format!("{left:?}")),
    });
    load.flow(20);
    load.finish().nothing_failed();
    yard.down();
}

#[test]
#[ignore = "needs dockerd and root"]
fn an_engine_that_hangs_holds_up_nobody_else_and_is_told_of() {
    let yard = Yard::up();
    yard.world.deploy("breast-cancer/v1", IN_CONTAINERS).ended(0);
    let before = yard.containers();
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::rest());
    load.flow(20);
    yard.docker.hang(true);
    yard.world.deploy("wine/v1", &[]).ended(0);
    let told = |kind: &str| {
        let events = yard.world.api("/api/events?after=0&wait_ms=0").unwrap();
        events.as_array().unwrap().iter().filter(|event| event["event"] == kind).cloned().collect::<Vec<Value>>()
    };
    until("that it is away is told", 30, || match told("machine-lost").first() {
        Some(event) if event["machine"] == "prod/box" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    load.flow(20);
    yard.docker.hang(false);
    until("that it is back is told", 30, || match told("machine-back").first() {
        Some(event) if event["machine"] == "prod/box" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    load.flow(20);
    load.finish().nothing_failed();
    assert_eq!(yard.containers(), before, "the instances answered all the while");
    yard.down();
}

#[test]
#[ignore = "needs dockerd and root"]
fn a_registry_that_demands_tokens_lets_its_own_engine_read() {
    let yard = Yard::up();
    let made = yard.world.json(&["token", "create", "--name", "ada", "--role", "admin"]);
    let token = made["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let url = format!("http://{}/v2/wine/tags/list", yard.world.control);
    assert!(ureq::get(url).call().is_err(), "nobody else reads there");
    let folder = examples().join("wine/v1");
    let mut deploy = yard.world.command(&["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m"]);
    let output = deploy.args(IN_CONTAINERS).env("MODELYARD_TOKEN", &token).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(yard.containers().len(), 2);
    let mut down = yard.world.command(&["down"]);
    assert!(down.env("MODELYARD_TOKEN", &token).status().unwrap().success());
    assert_eq!(yard.lines(&["ps", "--all", "--format", "{{.Names}}"]), BTreeSet::new());
}

/// Answers with what it was configured by.
const PROGRAM: &str = "
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {name: os.environ.get(name) for name in ('GREETING', 'OTHER', 'MODELYARD_SERVICE', 'MODELYARD_REVISION')}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('0.0.0.0', int(os.environ['PORT'])), Handler).serve_forever()
";

#[test]
#[ignore = "needs dockerd and root"]
fn programs_and_python_functions_run_in_containers_on_their_base() {
    let mut theirs = World::default();
    let minor = base_image::python(&theirs);
    theirs.start();
    let base = format!("[image]\nbase = \"{}/debian:13\"\n", theirs.control);
    let yard = Yard::up();
    let folder = yard.world.scratch("program");
    let text = format!(
        "[model]\nname = \"program\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\ncommand = [\"python3.{minor}\", \"main.py\"]\n\
         health = \"/\"\nenvironment = {{ GREETING = \"declared\", OTHER = \"declared\" }}\n{base}"
    );
    std::fs::write(folder.join("modelyard.toml"), text).unwrap();
    std::fs::write(folder.join("main.py"), PROGRAM).unwrap();
    let deploy = |folder: &str, more: &[&str]| {
        let all = ["deploy", folder, "--wait", "--timeout", "3m", "--output", "json"];
        yard.world.run(&[&all, IN_CONTAINERS, more].concat())
    };
    deploy(folder.to_str().unwrap(), &["--set", "configuration.GREETING=configured"]).ended(0);
    let status = yard.world.status("program");
    let address = status["stable"]["instances"][0]["address"].as_str().unwrap();
    let told: Value = ureq::get(format!("http://{address}/")).call().unwrap().body_mut().read_json().unwrap();
    let wanted = serde_json::json!({
        "GREETING": "configured", "OTHER": "declared", "MODELYARD_SERVICE": "program", "MODELYARD_REVISION": "1",
    });
    assert_eq!(told, wanted, "as a process is told it");

    let of = |version: &str, threshold: &str| function(&yard.world, version, |source| source.replace("0.5", threshold));
    let first = of("1.0.0", "0.5");
    let alone = deploy(first.to_str().unwrap(), &[]).ended(1).err;
    let alone = alone.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(alone.contains("its container image needs a base with Python") && alone.contains("[image]"), "{alone}");
    let on_base = |folder: &std::path::Path| {
        let file = folder.join("modelyard.toml");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &base).unwrap();
    };
    on_base(&first);
    deploy(first.to_str().unwrap(), &[]).ended(0);
    let load = Load::start(yard.world.gateway, SERVICE, SERVICE, Mix::default());
    load.flow(20);
    let second = of("2.0.0", "0.500001");
    on_base(&second);
    deploy(second.to_str().unwrap(), CANARY).ended(0);
    load.flow(20);
    let tally = load.finish();
    tally.nothing_failed();
    assert!(tally.answered.contains_key(&1) && tally.answered.contains_key(&2), "{tally:?}");
    yard.down();
}

#[test]
fn what_cannot_run_in_containers_is_refused_before_anything_starts() {
    let world = World::up();
    let words = |err: String| err.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let folder = examples().join("wine/v1");
    let told = words(world.run(&["deploy", folder.to_str().unwrap(), "--set", "target=docker"]).ended(1).err);
    assert!(told.contains("environment `dev` has none for the target `docker`"), "{told}");
    // Deployed from elsewhere, where no image is made.
    let file = world.scratch("environments").join("prod.toml");
    std::fs::write(&file, "[machines.box]\ndocker = \"unix:///nowhere/docker.sock\"\n").unwrap();
    world.run(&["env", "set", file.to_str().unwrap()]).ended(0);
    let control = format!("http://{}", world.control);
    let other = examples().join("breast-cancer/v1");
    let mut elsewhere = vec!["deploy", other.to_str().unwrap(), "--control", &control];
    elsewhere.extend(IN_CONTAINERS);
    let told = words(world.run(&elsewhere).ended(1).err);
    assert!(
        told.contains("has no container image of breast-cancer:1.0.0") && told.contains("--format image"),
        "{told}"
    );
    // An engine that is not there: the deployment fails, and says why.
    let mut there = vec!["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "2m"];
    there.extend(IN_CONTAINERS);
    let ended = world.run(&there);
    assert_ne!(ended.code, 0, "{ended:?}");
    let events = world.events("wine");
    let failed: Vec<String> = events.iter().filter(|event| event["event"] == "failed").map(Value::to_string).collect();
    assert!(
        failed
            .iter()
            .any(|event| event.contains("on machine `prod/box`") && event.contains("no Docker Engine listens there")),
        "{failed:?}"
    );
    world.down();
}
