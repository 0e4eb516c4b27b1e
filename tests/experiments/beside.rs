//! What runs beside the arms: a shadow in a test, and alternatives beside a candidate that is held.

use super::*;

/// A shadow that answers a tenth otherwise than stable, of half of what stable answers.
fn shadow() -> String {
    let package = support::alarm::fixture("threshold");
    format!("[[strategy.shadows]]\npackage = {package:?}\nshare = \"50%\"\nflags = {{ threshold = 0.6 }}\nlimit = 8\n")
}

fn compared(world: &World, revision: u32) -> Value {
    evidence(world)["evidence"]["shadows"][revision.to_string()].clone()
}

#[test]
fn a_shadow_beside_a_test_is_compared_with_stable_and_decides_nothing() {
    let world = World::up();
    let (test, metrics) = AB.split_once("[[metrics]]").unwrap();
    let file = service(&world, &format!("{test}{}\n[[metrics]]{metrics}", shadow()));
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let started = world.json(&["deploy", &file, "--flag", "threshold=0.7"]);
    let rollout = started["rollout"].as_str().unwrap();
    let shown = until("traffic is split, and the shadow lives", 60, || match world.status("alarm") {
        shown if shown["weights"]["2"] == 5_000 && shown["beside"][0]["instances"][0]["state"] == "live" => Ok(shown),
        shown => Err(shown),
    });
    assert_eq!((&shown["mirrors"]["3"], &shown["beside"][0]["revision"]), (&json!(5_000), &json!(3)), "{shown}");

    let answers = visit(&world, 0..300);
    let of_stable = answers.iter().filter(|answer| answer.revision == 1).count() as u64;
    let seen = until("copies are compared", 60, || match compared(&world, 3) {
        seen if seen["compared"].as_u64() >= Some(40) => Ok(seen),
        seen => Err(seen),
    });
    let copies = seen["sent"].as_u64().unwrap() + seen["shed"].as_u64().unwrap();
    assert!(copies <= of_stable, "{copies} copies of the {of_stable} requests that stable answered: {seen}");
    // Whatever becomes of the shadow, callers and test do not notice.
    kill_9(shown["beside"][0]["instances"][0]["pid"].as_u64().unwrap().try_into().unwrap());
    let more = visit(&world, 300..500);
    assert!(more.iter().all(|answer| answer.revision != 3));
    let answers = [answers, more].concat();
    all_counted(&world, &answers);
    let labels = table(&world, &answers);
    world.run(&["feedback", "alarm", labels.to_str().unwrap()]).ended(0);
    assert_eq!(world.outcome(rollout, 60), "promoted");
    until("the winner is alone", 60, || match world.status("alarm") {
        shown if shown["weights"] == json!({"2": 10_000}) && shown["beside"].is_null() => Ok(()),
        shown => Err(shown),
    });
    let stands = world.api(&format!("/api/rollouts/{rollout}")).unwrap();
    assert_eq!(stands["beside"], json!([3]), "{stands}");
    let report = world.run(&["report", rollout]).ended(0).out;
    for part in ["Shadows", "decides nothing here", "p95 of stable", "label"] {
        assert!(report.contains(part), "`{part}` is missing:\n{report}");
    }
    world.down();
}

#[test]
fn alternatives_are_tried_beside_a_candidate_that_is_held() {
    let world = World::up();
    let file = service(&world, GUARDED);
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let callers = Callers::start(&world, Some(0.5), |mean| mean);
    let package = support::alarm::fixture("threshold");
    let early = world.run(&["try", "alarm", &package]).ended(1);
    assert!(early.err.contains("no rollout of `alarm` is open"), "{}", early.err);
    let deploy = ["deploy", &file, "--flag", "threshold=0.7", "--wait", "--timeout", "2m", "--output", "json"];
    let held = world.run(&deploy).ended(4).json();
    assert_eq!(held["cause"], "quality", "{held}");

    // One answers some callers, one nobody; the rollout stays where it is.
    let tried =
        world.run(&["try", "alarm", &package, "--flag", "threshold=0.6", "--as", "canary", "--share", "5%"]).ended(0);
    assert!(tried.err.contains("revision 3 is tried beside it, with 5 %"), "{}", tried.err);
    world.run(&["try", "alarm", "--revision", "1", "--share", "100%"]).ended(0);
    until("all answer", 60, || match world.status("alarm")["weights"].clone() {
        weights if weights["1"] == 7_500 && weights["2"] == 2_000 && weights["3"] == 500 => Ok(()),
        weights => Err(weights),
    });
    let seen = until("copies are compared", 60, || match compared(&world, 4) {
        seen if seen["compared"].as_u64() >= Some(50) => Ok(seen),
        seen => Err(seen),
    });
    assert_eq!(seen["agreed"], seen["compared"], "the same model answers the same: {seen}");
    until("the canary is measured", 60, || match evidence(&world)["evidence"]["arms"]["3"].clone() {
        arm if arm["metrics"]["accuracy"]["units"].as_u64() >= Some(10) => Ok(()),
        arm => Err(arm),
    });
    let status = world.run(&["status", "alarm"]).ended(0).out;
    for part in ["beside", "waits for a person", "modelyard try"] {
        assert!(status.contains(part), "`{part}` is missing:\n{status}");
    }
    let greedy = world.run(&["try", "alarm", &package, "--as", "canary", "--share", "16%"]).ended(1);
    assert!(greedy.err.contains("20 % together at most"), "{}", greedy.err);

    // One is taken away, the other goes when a person has decided.
    world.run(&["try", "alarm", "--revision", "3", "--share", "0"]).ended(0);
    until("stable has its share again", 60, || match world.status("alarm")["weights"].clone() {
        weights if weights == json!({"1": 8_000, "2": 2_000, "4": 0}) => Ok(()),
        weights => Err(weights),
    });
    let no = world.json(&["abort", "alarm"]);
    assert_eq!(no["outcome"], "aborted", "{no}");
    until("stable is alone", 60, || match world.status("alarm") {
        shown if shown["weights"] == json!({"1": 10_000}) && shown["beside"].is_null() => Ok(()),
        shown => Err(shown),
    });
    let report = world.run(&["report", held["rollout"].as_str().unwrap()]).ended(0).out;
    assert!(report.contains("try revision 3 beside it, as canary with 5 % of the traffic"), "{report}");
    callers.finish();
    world.down();
}
