//! `modelyard rehearse` from outside: what it prints, what it refuses, and that it needs nothing that runs.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::fs;

use serde_json::Value;
use support::{World, examples};

/// A folder with a service file, and a scenario if there is one.
fn folder(world: &World, service: &str, scenario: Option<&str>) -> String {
    let folder = world.scratch(if scenario.is_some() { "with-scenario" } else { "service" });
    fs::write(folder.join("service.toml"), service).unwrap();
    if let Some(scenario) = scenario {
        fs::write(folder.join("rehearse.toml"), scenario).unwrap();
    }
    folder.display().to_string()
}

const SERVICE: &str = "name = \"wine\"\npackage = \"wine:2.0.0\"\ninstances = 3\n";

#[test]
fn a_service_file_alone_shows_what_the_usual_faults_would_do() {
    let world = World::default();
    let service = folder(&world, SERVICE, None);
    let ran = world.run(&["rehearse", &service]).ended(0);
    for told in [
        "wine  canary, 3 instances",
        "healthy",
        "5 % errors",
        "blue-green",
        "rolled back for error-rate",
        "← best",
        "max-latency-ratio",
    ] {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
    assert_eq!(ran.out, world.run(&["rehearse", &service]).ended(0).out, "the same input prints the same");
    assert!(!ran.out.contains('\x1b'), "no colours without a terminal");
}

#[test]
fn json_names_every_case_and_strategy_with_its_figures() {
    let world = World::default();
    let service = folder(&world, SERVICE, None);
    let told = world.json(&[
        "rehearse",
        &service,
        "--fault",
        "error rate 10 % from 20s",
        "--rate",
        "200",
        "--strategy",
        "blue-green",
    ]);
    assert_eq!((told["service"].as_str(), told["strategy"].as_str()), (Some("wine"), Some("canary")));
    let case = &told["cases"][0];
    assert_eq!(case["faults"][0], "error rate 10 % from 20s");
    let plays = case["plays"].as_array().unwrap();
    let names: Vec<&str> = plays.iter().map(|play| play["strategy"].as_str().unwrap()).collect();
    assert_eq!(names, ["canary", "blue-green"]);
    for play in plays {
        assert_eq!(
            (&play["outcome"], &play["cause"]),
            (&Value::from("rolled-back"), &Value::from("error-rate")),
            "{play}"
        );
        assert_eq!(play["noticed_by"], "rollout");
        let number = |key: &str| play[key].as_u64().unwrap_or_else(|| panic!("no {key} in {play}"));
        assert!(number("met") > 0 && number("noticed_after_ms") < 5_000 && number("whole_after_ms") < 10_000, "{play}");
        assert!(!play["timeline"].as_array().unwrap().is_empty());
    }
}

#[test]
fn the_page_stands_alone_and_the_example_plays() {
    let world = World::default();
    let page = world.scratch("page").join("rehearsal.html");
    let example = examples().join("rehearse");
    let ran = world.run(&["rehearse", example.to_str().unwrap(), "--html", page.to_str().unwrap()]).ended(0);
    assert!(ran.out.contains("breaks after a while") && ran.err.contains("rehearsal.html"), "{ran:?}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<svg") && html.contains("At a glance"));
    for foreign in ["http://", "https://", "<script", "<link", "@import"] {
        assert!(!html.contains(foreign), "the page needs {foreign}");
    }
}

#[test]
fn mistakes_are_told_at_once_with_what_was_meant() {
    let world = World::default();
    let scenario = "sed = 1\n[traffic]\nshape = \"ofice\"\n[[cases]]\nfaults = [\"explode\"]\n";
    let service = folder(&world, SERVICE, Some(scenario));
    let ran = world.run(&["rehearse", &service]).ended(1);
    // The renderer wraps lines: words are looked for one by one.
    for told in ["`seed`", "`office`", "`explode`", "mistakes"] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
    let service = folder(&world, SERVICE, None);
    let ran = world.run(&["rehearse", &service, "--fault", "error rate 5"]).ended(2);
    assert!(ran.err.contains("did you mean"), "{}", ran.err);
    world.run(&["rehearse", &service, "--start", "25:00"]).ended(2);
    world.run(&["rehearse", &service, "--case", "none"]).ended(2);
    world.run(&["rehearse", "./nowhere.toml"]).ended(1);
}

#[test]
fn recorded_requests_and_other_rules_can_be_tried() {
    let world = World::default();
    let service = folder(&world, SERVICE, Some("traffic = { recorded = \"requests.csv\" }\n"));
    let rows: String = (0..600).map(|second| format!("{},40\n", 1_795_428_000 + second)).collect();
    fs::write(format!("{service}/requests.csv"), format!("timestamp,requests\n{rows}")).unwrap();
    let told = world.json(&["rehearse", &service, "--fault", "latency x4", "--set", "analysis.max-latency-ratio=2.0"]);
    assert_eq!(told["starts_at_second"], 36_000, "when the recording begins");
    let own = &told["cases"][0]["plays"][0];
    assert_eq!((&own["outcome"], &own["cause"]), (&Value::from("rolled-back"), &Value::from("latency")), "{own}");
    assert_eq!(own["requests"].as_u64().unwrap() / 40, own["played_ms"].as_u64().unwrap() / 1_000);
}

#[test]
fn a_day_of_traffic_is_played_while_somebody_waits() {
    let world = World::default();
    let test = "name = \"wine\"\npackage = \"wine:2.0.0\"\n\n[strategy]\nkind = \"ab\"\nmetric = \"accuracy\"\neffect = 0.0001\nlongest = \"23h\"\n\n\
                [[metrics]]\nname = \"accuracy\"\nkind = \"accuracy\"\nfrom = \"feedback\"\n";
    let service = folder(
        &world,
        test,
        Some(
            "longest = \"24h\"\nstrategies = [\"ab\"]\ntraffic = { rate = 20 }\n[[cases]]\nname = \"as good\"\nfaults = []\n",
        ),
    );
    let began = std::time::Instant::now();
    let told = world.json(&["rehearse", &service]);
    let took = began.elapsed();
    let play = &told["cases"][0]["plays"][0];
    assert!(play["requests"].as_u64() > Some(1_000_000), "a day has that many: {play}");
    // An optimised build needs well under a second (docs/performance.md); this one is not optimised, and shares its cores with other tests.
    assert!(took.as_secs() < 20, "{took:?}");
}

#[test]
fn a_capture_is_kept_only_when_it_is_asked_for_and_can_be_rehearsed_with() {
    let world = World::up();
    let files = |world: &World| -> Vec<std::path::PathBuf> {
        let days = fs::read_dir(world.home().join("capture/alarm")).into_iter().flatten().flatten();
        days.flat_map(|day| fs::read_dir(day.path()).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect()
    };
    let file = support::alarm::service(&world, "");
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let ask = |n: u32| support::alarm::ask(world.gateway, support::alarm::mean(n), None).unwrap();
    (0..50).for_each(|n| drop(ask(n)));
    assert!(!world.home().join("capture").join("alarm").exists(), "nothing is kept unless somebody asks for it");

    world.run(&["deploy", &file, "--wait", "--strategy", "recreate", "--set", "capture={ share = \"50%\" }"]).ended(0);
    (0..300).for_each(|n| drop(ask(n)));
    support::until("enough is kept", 60, || {
        let text =
            ureq::get(format!("http://{}/metrics", world.control)).call().unwrap().body_mut().read_to_string().unwrap();
        let kept = text.lines().find_map(|line| line.strip_prefix("modelyard_capture_rows_total{result=\"kept\"} "));
        let kept: f64 = kept.and_then(|kept| kept.parse().ok()).unwrap_or(0.0);
        if kept >= 100.0 { Ok(()) } else { Err(format!("{kept} rows")) }
    });
    // What is kept of a service becomes files at once when it is removed.
    ureq::delete(format!("http://{}/api/services/alarm", world.control)).call().unwrap();
    support::until("the files are complete", 60, || match files(&world) {
        found if found.iter().any(|path| path.extension().is_some_and(|ending| ending == "parquet")) => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let capture = world.home().join("capture/alarm");
    let scenario = format!("strategies = [\"blue-green\"]\ntraffic = {{ recorded = {capture:?} }}\n");
    let service = folder(&world, &format!("{SERVICE}\n[capture]\nshare = \"50%\"\n"), Some(&scenario));
    let ran = world.run(&["rehearse", &service]).ended(0).out;
    let count: u64 = ran
        .lines()
        .find_map(|line| line.split(" recorded requests").next()?.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no count: {ran}"));
    assert!((200..400).contains(&count), "half of 300 is kept, and scaled up again: {count}\n{ran}");
    world.down();
}
