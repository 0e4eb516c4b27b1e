//! Where packages came from: noted when they come, told, and held against what an environment lets in.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{packaged, plain, set};
use crate::support::World;
use crate::support::registry::{Registry, ask};

/// On which ways `echo:1.0.0` came, as `inspect` tells: how, and from where or by whom.
fn arrivals(world: &World) -> Vec<(String, Value)> {
    let told = world.json(&["inspect", "echo:1.0.0"]);
    let all = told["arrivals"].as_array().unwrap_or_else(|| panic!("no arrivals: {told}")).clone();
    let way = |one: &Value| {
        assert_eq!((one["digest"].as_str(), one["at"].is_u64()), (told["digest"].as_str(), true), "{one}");
        let place =
            ["from", "by"].into_iter().find(|key| one.get(key).is_some()).map_or(Value::Null, |key| one[key].clone());
        (one["how"].as_str().unwrap().to_owned(), place)
    };
    all.iter().map(way).collect()
}

fn way(how: &str, place: impl Into<Value>) -> (String, Value) {
    (how.to_owned(), place.into())
}

#[test]
fn an_environment_takes_packages_from_where_it_says_and_tells_where_another_came_from() {
    let (world, maker, good, rogue) = (World::up(), World::default(), World::default(), World::default());
    let digest = packaged(&maker);
    assert_eq!(arrivals(&maker), [way("built", Value::Null)]);
    let (from_good, from_rogue) = (Registry::of(&good), Registry::of(&rogue));
    for registry in [&from_good, &from_rogue] {
        maker.json(&["push", "echo", &format!("{}/echo", registry.address)]);
    }
    assert_eq!(arrivals(&rogue), [way("pushed", Value::Null)], "whoever pushes says nothing of where it came from");
    let listed = rogue.run(&["versions", "echo"]).ended(0).out;
    assert!(listed.contains("pushed-without-token"), "{listed}");

    let policy = |from: &str| format!("[policy]\nsamples = 0\npackages-from = [\"{from}\"]\n");
    let allowed = format!("{}/*", from_good.address);
    set(&world, "prod", &policy(&allowed).replace("samples = 0", "samples = 9"));
    let deploy = |more: &[&str]| {
        let all = ["deploy", "echo:1.0.0", "--env", "prod", "--wait", "--timeout", "2m"];
        world.run(&[&all[..], more].concat())
    };
    let place = format!("{}/echo", from_rogue.address);
    let pulled = world.run(&["pull", &format!("{place}:1.0.0")]).ended(0);
    assert!(plain(&pulled.err).contains(&format!("`prod` takes only packages from {allowed}")), "{}", pulled.err);
    assert_eq!(arrivals(&world), [way("pulled", place.clone())]);
    // Every reason at once: to who deploys, to who asks the API, to who only verifies.
    let told = plain(&deploy(&[]).ended(1).err);
    let body = json!({ "spec": { "name": "echo", "environment": "prod" }, "package": digest }).to_string();
    let (status, refused) = ask("POST", &format!("http://{}/api/services/echo/rollouts", world.control), None, &body);
    let verified = world.run(&["verify", "echo:1.0.0", "--env", "prod"]).ended(1).out;
    assert_eq!(status, 422, "{refused}");
    let from = format!("it was pulled from {place}, and only what comes from {allowed} is allowed");
    for word in [from.as_str(), "bring the same package from there", "it carries 0 samples"] {
        for told in [&told, &refused, &plain(&verified)] {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
    assert_eq!(world.api("/api/services").unwrap(), json!([]), "something was started");

    // The same bytes from a place that is allowed are allowed; the other place is not forgotten.
    set(&world, "prod", &policy(&allowed));
    deploy(&[]).ended(1);
    let pulled = world.run(&["pull", &format!("{}/echo:1.0.0", from_good.address)]).ended(0);
    assert!(!pulled.err.contains("takes only"), "{}", pulled.err);
    let here = format!("{}/echo", from_good.address);
    let both = [way("pulled", place.clone()), way("pulled", here.clone())];
    assert_eq!(arrivals(&world), both);
    deploy(&[]).ended(0);
    let shown = world.api("/api/models/echo/versions/1.0.0").unwrap();
    assert_eq!(
        (&shown["arrivals"][1]["how"], &shown["arrivals"][1]["from"]),
        (&json!("pulled"), &json!(here)),
        "{shown}"
    );
    let listed = world.run(&["versions", "echo"]).ended(0).out;
    assert!(listed.contains(&format!("{place}, {here}")), "{listed}");
    let found = |from: &str| {
        world.json(&["models", "--search", &format!("from = '{from}'")])["versions"].as_array().unwrap().len()
    };
    assert_eq!((found(&place), found(&here), found("built-here")), (1, 1, 0), "what came from a place is found");

    // Values of flags are another revision of it: held against what counts by then. Nothing new starts; going back stays possible.
    deploy(&["--flag", "depth=5", "--strategy", "recreate"]).ended(0);
    set(&world, "prod", &policy("built-here"));
    let told = plain(&deploy(&["--flag", "depth=6"]).ended(1).err);
    assert!(told.contains("only what comes from built-here is allowed"), "{told}");
    world.run(&["rollback", "echo", "--to", "1"]).ended(0);

    // A home from before this was noted knows nothing, and says so.
    fs::remove_file(world.home().join("registry/catalog.json")).unwrap();
    set(&world, "prod", &policy("*"));
    let told = plain(&deploy(&["--service", "other"]).ended(1).err);
    assert!(told.contains("nobody knows where it came from"), "{told}");
    assert!(world.run(&["versions", "echo"]).ended(0).out.contains("unknown"));
    assert!(world.run(&["inspect", "echo"]).ended(0).out.contains("nobody knows from where"));
    assert_eq!(arrivals(&world), []);
    world.down();
}

#[test]
fn who_pushed_is_told_by_the_name_of_the_token() {
    let (mut world, mut maker) = (World::default(), World::default());
    world.json(&["token", "create", "--role", "admin", "--save"]);
    world.start();
    packaged(&maker);
    let push = |maker: &mut World, name: &str| {
        let made = world.json(&["token", "create", "--role", "deployer", "--name", name]);
        let secret = made["token"].as_str().unwrap();
        let folder = maker.scratch(&format!("login-{name}"));
        let login =
            json!({ "auths": { world.control.to_string(): { "auth": STANDARD.encode(format!("x:{secret}")) } } });
        fs::write(folder.join("config.json"), login.to_string()).unwrap();
        maker.environment = vec![("DOCKER_CONFIG", folder.to_str().unwrap().to_owned())];
        maker.json(&["push", "echo", &format!("{}/echo", world.control)]);
        secret.to_owned()
    };
    let deploy = || world.run(&["deploy", "echo:1.0.0", "--env", "prod", "--wait", "--timeout", "2m"]);
    set(&world, "prod", "[policy]\npackages-from = [\"pushed-by:release-*\"]\n");
    push(&mut maker, "ci");
    assert_eq!(arrivals(&world), [way("pushed", "ci")]);
    let told = plain(&deploy().ended(1).err);
    assert!(told.contains("it was pushed by ci, and only what comes from pushed-by:release-* is allowed"), "{told}");
    // Somebody whose word counts pushes the same bytes: they answer for it.
    let secret = push(&mut maker, "release-robot");
    push(&mut maker, "ci");
    assert_eq!(arrivals(&world), [way("pushed", "ci"), way("pushed", "release-robot")]);
    deploy().ended(0);
    let url = format!("http://{}/api/models/echo", world.control);
    let (status, shown) = ask("GET", &url, Some(&secret), "");
    assert!(
        status == 200 && shown.contains(r#""how":"pushed""#) && shown.contains(r#""by":"release-robot""#),
        "{shown}"
    );
    assert!(!shown.contains(&secret));
    world.down();
}
