//! Promotions from outside: the same package in several environments, the signed record that leads from one to the next, and who could do what.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "promotions/arrivals.rs"]
mod arrivals;
mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::registry::{Registry, ask, keys};
use support::{World, examples, until};

fn packaged(world: &World) -> String {
    let folder = examples().join("../tests/fixtures/echo");
    world.json(&["package", folder.to_str().unwrap()])["digest"].as_str().unwrap().to_owned()
}

/// Sets what an environment is.
fn set(world: &World, name: &str, text: &str) -> PathBuf {
    let file = world.scratch("environments").join(format!("{name}.toml"));
    fs::write(&file, text).unwrap();
    world.json(&["env", "set", file.to_str().unwrap()]);
    file
}

fn promote<'a>(package: &'a str, key: &'a str) -> Vec<&'a str> {
    vec!["env", "promote", package, "--from", "test", "--to", "prod", "--key", key]
}

/// What was written on stderr, without its frame.
fn plain(told: &str) -> String {
    told.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

#[test]
fn prod_takes_what_a_signed_record_brought_from_test_and_has_a_registry_of_its_own() {
    let (world, between, there) = (World::up(), World::default(), World::default());
    let digest = packaged(&world);
    let ((ops, ops_public), (other, _)) = (keys(&world, "ops"), keys(&world, "other"));
    let registry = Registry::of(&between);
    let policy = format!(
        "[registry]\nurl = \"{}/prod\"\n\n[policy]\nsigned-by = [\"{ops_public}\"]\npromoted-from = \"test\"\npromotion-keys = [\"{ops_public}\"]\n",
        registry.address
    );
    set(&world, "prod", &policy);
    let deploy = |environment: &str, service: &str| {
        world.run(&["deploy", "echo:1.0.0", "--env", environment, "--service", service, "--wait", "--timeout", "2m"])
    };
    let refused = plain(&deploy("prod", "echo").ended(1).err);
    assert!(refused.contains("a signed promotion from `test` to `prod` is demanded, and it has none"), "{refused}");
    deploy("test", "echo-test").ended(0);

    // Every reason at once, and nothing happened.
    let refused = plain(&world.run(&promote("echo:1.0.0", &other)).ended(1).err);
    for word in ["signed by none of the 1 keys", "the key is none of the 1 whose promotions count here"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    world.json(&["sign", "echo:1.0.0", "--key", &ops]);
    let wrong_way = ["env", "promote", "echo:1.0.0", "--from", "dev", "--to", "prod", "--key", &ops];
    assert!(plain(&world.run(&wrong_way).ended(1).err).contains("come from `test` here, not from `dev`"));
    let dry = world.json(&[&promote("echo:1.0.0", &ops)[..], &["--dry-run"]].concat());
    assert_eq!((&dry["digest"], &dry["rollout"]["service"]), (&json!(digest), &json!("echo-test")), "{dry}");
    assert!(ask("GET", &format!("http://{}/v2/prod/echo/tags/list", registry.address), None, "").0 == 404, "copied");

    let done = world.json(&promote("echo:1.0.0", &ops));
    assert_eq!((&done["rollout"]["outcome"], &done["registry"]), (&json!("promoted"), &dry["registry"]), "{done}");
    // The copy is the same package, and everything that was said of it went along.
    let remote = format!("{}/prod/echo@{digest}", registry.address);
    let pulled = there.json(&["pull", &remote]);
    assert_eq!((&pulled["digest"], &pulled["referrers"]), (&json!(digest), &json!(2)), "{pulled}");
    let verified = there.json(&["verify", "echo:1.0.0", "--key", &ops_public]);
    let stated = &verified["promotions"][0];
    assert_eq!((&stated["from"], &stated["to"], &stated["by"]), (&json!("test"), &json!("prod"), &json!("tester")));
    assert_eq!((&stated["key"], &stated["record"]), (&done["key"], &done["record"]), "{verified}");
    assert_eq!((&stated["rollout"], stated["policies"].as_array().unwrap().len()), (&done["rollout"]["rollout"], 1));
    let told = there.run(&["verify", "echo:1.0.0"]).ended(0).out;
    assert!(told.contains("another key says: promoted from test to prod by tester"), "{told}");

    // Once more changes nothing.
    let again = world.json(&promote("echo:1.0.0", &ops));
    assert_eq!((&again["record"], &again["event"]), (&done["record"], &done["event"]), "{again}");
    assert_eq!(again["copied"]["blobs"], 0, "{again}");
    deploy("prod", "echo").ended(0);
    // One package serves in two environments at once.
    for (service, environment) in [("echo-test", "test"), ("echo", "prod")] {
        let status = world.status(service);
        assert_eq!((&status["environment"], &status["stable"]["digest"]), (&json!(environment), &json!(digest)));
    }
    let events = world.api("/api/events?after=0").unwrap();
    let promoted: Vec<&Value> =
        events.as_array().unwrap().iter().filter(|event| event["event"] == "package-promoted").collect();
    assert_eq!(promoted.len(), 1, "{promoted:?}");
    assert_eq!((&promoted[0]["seq"], &promoted[0]["actor"]["person"]), (&done["event"], &json!("tester")));
    assert_eq!(promoted[0]["promotion"]["package"], json!(digest));
    // What the record says of the rollout can be checked against the log.
    let anchor = done["rollout"]["log"].as_str().unwrap();
    assert!(world.json(&["history", "--verify", "--anchor", anchor])["broken"].is_null());
    let made_up = json!({ "package": digest, "from": "test", "record": digest });
    let url = format!("http://{}/api/environments/prod/promotions", world.control);
    let (status, told) = ask("POST", &url, None, &made_up.to_string());
    assert!(status == 409 && told.contains("no record"), "{status} {told}");
    world.down();
}

#[test]
fn without_a_control_plane_the_record_is_made_and_said_to_be_in_no_log() {
    let (world, between) = (World::default(), World::default());
    let digest = packaged(&world);
    let (ops, public) = keys(&world, "ops");
    let done = world.run(&[&promote("echo:1.0.0", &ops)[..], &["--output", "json"]].concat()).ended(0);
    assert!(
        done.err.contains("no log tells of it") && done.err.contains("ever served everybody in `test`"),
        "{}",
        done.err
    );
    let told = done.json();
    assert_eq!((&told["digest"], &told["event"], &told["registry"]), (&json!(digest), &Value::Null, &Value::Null));
    let policy = format!("[policy]\npromoted-from = \"test\"\npromotion-keys = [\"{public}\"]\n");
    set(&world, "prod", &policy);
    world.run(&["verify", "echo:1.0.0", "--env", "prod"]).ended(0);
    set(&world, "live", &policy);
    let elsewhere = world.run(&["verify", "echo:1.0.0", "--env", "live"]).ended(1).out;
    assert!(elsewhere.contains("it has one from `test` to `prod`"), "{elsewhere}");
    world.run(&["env", "promote", "echo:1.0.0", "--from", "prod", "--to", "prod", "--key", &ops]).ended(2);

    // What comes from an environment with a registry of its own is fetched from there.
    let registry = Registry::of(&between);
    world.json(&["push", "echo:1.0.0", &format!("{}/test/echo", registry.address)]);
    let there = World::default();
    set(&there, "test", &format!("[registry]\nurl = \"{}/test\"\n", registry.address));
    let (key, _) = keys(&there, "ops");
    let fetched = there.json(&promote("echo:1.0.0", &key));
    assert_eq!(fetched["digest"], json!(digest));
    assert_eq!(there.json(&["verify", "echo:1.0.0"])["promotions"].as_array().unwrap().len(), 2);
}

#[test]
fn the_log_tells_who_got_a_token_who_lost_it_and_who_was_refused() {
    let world = World::default();
    let first = world.json(&["token", "create", "--role", "admin", "--save"]);
    let admin = first["token"].as_str().unwrap().to_owned();
    let mut world = world;
    world.start();
    let history = |wanted: &dyn Fn(&[Value]) -> bool| {
        until("the log tells of the tokens", 20, || {
            let all = world.json(&["token", "history"]).as_array().unwrap().clone();
            if wanted(&all) { Ok(all) } else { Err(format!("{all:?}")) }
        })
    };
    let kind = |one: &Value| one["event"]["event"].as_str().unwrap().to_owned();
    // Made before the control plane ran, by the file; one by the API; one by the file while it runs.
    history(&|all| all.len() == 1 && all[0]["event"]["token"]["id"] == first["id"]);
    let body = json!({ "name": "robot", "role": "viewer", "environment": "prod" }).to_string();
    let url = |path: &str| format!("http://{}{path}", world.control);
    let (status, made) = ask("POST", &url("/api/tokens"), Some(&admin), &body);
    assert_eq!(status, 201, "{made}");
    let robot = serde_json::from_str::<Value>(&made).unwrap();
    let secret = robot["token"].as_str().unwrap();
    let all = history(&|all| all.len() == 2);
    assert_eq!(all[1]["event"]["actor"]["person"], "tester", "the admin's token says who made it: {all:?}");
    assert_eq!(all[1]["event"]["token"]["environment"], "prod");
    world.json(&["token", "create", "--role", "deployer", "--name", "ci"]);
    history(&|all| all.len() == 3 && all[2]["told"].as_str().unwrap().contains("of ci was made by the owner"));

    // Refused: for its role, by the registry, as unknown, and once revoked. Often is told once at first.
    let refused = || (0..3).map(|_| ask("POST", &url("/api/down"), Some(secret), "{}").0).collect::<Vec<_>>();
    assert_eq!(refused(), [403, 403, 403]);
    assert_eq!(ask("POST", &url("/v2/echo/blobs/uploads/"), Some(secret), "").0, 403);
    assert_eq!(ask("GET", &url("/api/services"), Some("mdy_unknown"), "").0, 401);
    world.json(&["token", "revoke", robot["id"].as_str().unwrap()]);
    assert_eq!(ask("GET", &url("/api/services"), Some(secret), "").0, 401);
    let all = history(&|all| all.len() >= 8);
    let kinds: Vec<String> = all.iter().skip(3).map(kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "token-refused").count(), 4, "{all:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "token-revoked").count(), 1, "{all:?}");
    let of_robot = all.iter().filter(|one| one["event"]["name"] == "robot" && kind(one) == "token-refused");
    assert_eq!(of_robot.count(), 3, "{all:?}");
    let (text, log) =
        (world.run(&["token", "history"]).ended(0).out, fs::read(world.home().join("modelyard.sqlite")).unwrap());
    assert!(text.contains("was revoked by the owner of the home folder"), "{text}");
    for token in [&*admin, secret] {
        assert!(!log.windows(token.len()).any(|part| part == token.as_bytes()), "a token stands in the log");
    }
    // A new control plane tells nothing twice.
    let before = all.len();
    world.kill_control();
    world.start();
    let after = until("the control plane is back", 20, || {
        let events = world.run(&["token", "history", "--output", "json"]);
        if events.code == 0 { Ok(events.json().as_array().unwrap().len()) } else { Err(events.err) }
    });
    assert_eq!(after, before);
    assert!(world.json(&["history", "--verify"])["broken"].is_null());
    world.down();
}
