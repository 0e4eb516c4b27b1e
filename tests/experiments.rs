//! Decisions by evidence from outside: A/B tests by session with labels that come late, shadows, and quality that drops.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "experiments/beside.rs"]
mod beside;
#[path = "experiments/hook.rs"]
mod hook;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use hook::Hook;
use serde_json::{Value, json};
use support::alarm::{Answer, Callers, ask, mean, service};
use support::process::kill_9;
use support::{World, until};

/// What is right: an alarm above this mean. The candidate with this threshold is never wrong, stable (0.5) in one of five.
const TRUTH: f64 = 0.7;

const AB: &str = r#"
[routing.affinity]
by = "cookie"
name = "sid"

[strategy]
kind = "ab"
unit = "session"
metric = "accuracy"
effect = 0.15
longest = "10m"

[[metrics]]
name = "accuracy"
kind = "accuracy"
from = "feedback"
value = "/outputs/0/data/0"
"#;

/// Asks twice for each session; every answer. Panics unless both are by one revision.
fn visit(world: &World, sessions: impl IntoIterator<Item = u32>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for n in sessions {
        let session = format!("visitor-{n}");
        let both = [2 * n, 2 * n + 1].map(|n| ask(world.gateway, mean(n), Some(&session)).unwrap());
        assert_eq!(both[0].revision, both[1].revision, "{session} has one arm");
        answers.extend(both);
    }
    answers
}

/// Writes the true labels down as a table, as a nightly job would.
fn table(world: &World, answers: &[Answer]) -> PathBuf {
    let mut text = "id,label\n".to_owned();
    for Answer { id, mean, .. } in answers {
        writeln!(text, "{id},{}", i64::from(*mean > TRUTH)).unwrap();
    }
    let path = world.scratch("alarm").join("labels.csv");
    std::fs::write(&path, text).unwrap();
    path
}

/// Starts a test of the threshold that is right against the one that serves; the rollout, once traffic is split.
fn begin_test(world: &World) -> String {
    let file = service(world, AB);
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let started = world.json(&["deploy", &file, "--flag", "threshold=0.7"]);
    let rollout = started["rollout"].as_str().unwrap().to_owned();
    until("traffic is split", 60, || match world.status("alarm")["weights"].clone() {
        weights if weights["2"] == 5_000 => Ok(()),
        weights => Err(weights),
    });
    rollout
}

fn evidence(world: &World) -> Value {
    world.api("/api/services/alarm/evidence").unwrap()
}

/// Waits until all units are counted, and checks that they are the sessions that each arm had.
fn all_counted(world: &World, answers: &[Answer]) {
    let mut sessions: BTreeMap<u32, u64> = BTreeMap::new();
    answers.iter().step_by(2).for_each(|answer| *sessions.entry(answer.revision).or_default() += 1);
    until("every session is counted", 60, || {
        let arms = evidence(world)["evidence"]["arms"].clone();
        let counted = sessions.iter().all(|(revision, &count)| arms[revision.to_string()]["units"] == count);
        if counted { Ok(()) } else { Err(format!("{sessions:?}, counted {arms}")) }
    });
}

#[test]
fn a_test_by_session_is_decided_by_labels_from_a_table() {
    let world = World::up();
    let rollout = begin_test(&world);
    let answers = visit(&world, 0..500);
    let shares = |revision| answers.iter().filter(|answer| answer.revision == revision).count();
    assert!(shares(1) > 300 && shares(2) > 300, "{} and {}", shares(1), shares(2));
    all_counted(&world, &answers);

    // Nothing is known yet, and that is what is said.
    let stands = world.api(&format!("/api/rollouts/{rollout}")).unwrap();
    assert_eq!((&stands["outcome"], &stands["waiting"]["for"]), (&json!("running"), &json!("evidence")), "{stands}");
    let few = table(&world, &answers[..200]);
    world.run(&["feedback", "alarm", few.to_str().unwrap()]).ended(0);
    let told = until("it is told why the test waits", 60, || {
        let told = world.run(&["status", "alarm"]).ended(0).out;
        if told.contains("not enough evidence yet") { Ok(told) } else { Err(told) }
    });
    // Labels came at once and nobody asks any more, so a time is told only as far as one can be.
    let forecasts = ["at today's traffic", "too early to tell when", "no traffic: cannot tell when"];
    let is_told =
        |text: &str| text.contains("more units in each arm") && forecasts.iter().any(|one| text.contains(one));
    assert!(told.contains("accuracy") && is_told(&told), "what is known, and how long still: {told}");
    let status = world.status("alarm");
    assert!(status["rollout"]["waiting"]["why"].as_str().is_some_and(is_told), "{status}");

    // The rest of the labels, and the first ones again: each counts once.
    let all = table(&world, &answers);
    let receipt = world.json(&["feedback", "alarm", all.to_str().unwrap()]);
    assert_eq!((&receipt["accepted"], &receipt["orphaned"]), (&json!(1_000), &json!(0)), "{receipt}");
    assert_eq!(world.outcome(&rollout, 60), "promoted");
    let known = world.api(&format!("/api/rollouts/{rollout}/evidence")).unwrap();
    let arms = &known["evidence"]["arms"];
    assert_eq!((&arms["1"]["answers"], &arms["2"]["answers"]), (&json!(shares(1)), &json!(shares(2))), "{known}");
    let report = world.run(&["report", &rollout]).ended(0).out;
    assert!(report.contains("accuracy") && report.contains("is better"), "{report}");
    until("the winner has everything", 30, || match world.status("alarm")["weights"].clone() {
        weights if weights["2"] == 10_000 => Ok(()),
        weights => Err(weights),
    });
    world.down();
}

#[test]
fn the_size_of_a_test_and_its_time_are_told_before_it_starts() {
    let world = World::up();
    let file = service(&world, AB);
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let test = ["deploy", &file, "--flag", "threshold=0.7"];
    let blind = world.run(&[&test[..], &["--dry-run"]].concat()).ended(0);
    assert!(blind.out.contains("planned size: unknown") && blind.out.contains("strategy.expected"), "{}", blind.out);
    // What stable's answers and their labels tell is learnt before the test.
    let callers = Callers::start(&world, Some(TRUTH), |mean| mean);
    callers.flow(150);
    until("stable is measured", 60, || match evidence(&world)["evidence"]["arms"]["1"].clone() {
        arm if arm["metrics"]["accuracy"]["units"].as_u64() >= Some(100) => Ok(()),
        arm => Err(arm),
    });
    let dry = world.json(&[&test[..], &["--dry-run"]].concat());
    let planned = &dry["planned"];
    let (units, seconds) = (planned["units"].as_u64().unwrap(), planned["seconds"].as_f64().unwrap());
    assert!((50..400).contains(&units) && (0.1..3_600.0).contains(&seconds), "{dry}");
    assert_eq!(
        (&dry["strategy"], &dry["from"], &dry["arms"][0]["revision"]),
        (&json!("ab"), &json!(1), &json!(2)),
        "{dry}"
    );
    assert!(dry["room"]["memory_left_bytes"].as_u64() > Some(1 << 20), "{dry}");
    let started =
        |world: &World| world.events("alarm").iter().filter(|event| event["event"] == "rollout-started").count();
    assert_eq!(started(&world), 1, "a dry run starts nothing");

    let told = world.run(&test).ended(0).err;
    for part in ["planned size:", "sessions in each arm", "expected time: at least", "at today's traffic"] {
        assert!(told.contains(part), "`{part}` is missing: {told}");
    }
    assert_eq!(started(&world), 2);
    callers.finish();
    world.run(&["abort", "alarm"]).ended(0);
    world.down();
}

#[test]
fn a_test_outlives_a_control_plane_that_was_killed() {
    let mut world = World::up();
    let rollout = begin_test(&world);
    let mut answers = visit(&world, 0..150);
    world.kill_control();
    // The gateway splits on, and keeps what it has to tell.
    answers.extend(visit(&world, 150..400));
    world.start();
    all_counted(&world, &answers);
    let labels = table(&world, &answers);
    world.run(&["feedback", "alarm", labels.to_str().unwrap()]).ended(0);
    // Once more while the last labels are judged.
    world.kill_control();
    world.start();
    assert_eq!(world.outcome(&rollout, 60), "promoted");
    let known = world.api(&format!("/api/rollouts/{rollout}/evidence")).unwrap();
    let units = |arm: &str| known["evidence"]["arms"][arm]["units"].as_u64().unwrap();
    assert_eq!(units("1") + units("2"), 400, "each session counts once: {known}");
    world.down();
}

#[test]
fn a_split_that_does_not_hold_stops_the_test_with_that_word() {
    let world = World::up();
    let rollout = begin_test(&world);
    // Callers of one arm get lost on their way here, as with a page that fails for them before it asks.
    let whose = |n: u32| {
        let url = format!("http://{}/api/services/alarm/ofrep/v1/evaluate/flags/modelyard.arm", world.control);
        let mut answer =
            ureq::post(url).send_json(json!({"context": {"targetingKey": format!("visitor-{n}")}})).unwrap();
        let found: Value = answer.body_mut().read_json().unwrap();
        found["value"].as_str().unwrap().to_owned()
    };
    let sessions: Vec<(u32, String)> = (0..400).map(|n| (n, whose(n))).collect();
    for (n, arm) in sessions.iter().filter(|(n, arm)| arm == "stable" || n % 3 == 0) {
        let answered = visit(&world, [*n])[0].revision;
        assert_eq!(if answered == 1 { "stable" } else { "candidate" }, arm, "the flag and the gateway agree on {n}");
    }
    assert_eq!(world.outcome(&rollout, 60), "rolled-back");
    let stands = world.api(&format!("/api/rollouts/{rollout}")).unwrap();
    assert_eq!(stands["cause"], "sample-ratio-mismatch", "{stands}");
    let why = stands["evidence"][0].as_str().unwrap();
    assert!(why.contains("sample ratio mismatch") && why.contains("nothing can be concluded"), "{why}");
    assert_eq!(world.status("alarm")["stable"]["revision"], 1);
    world.down();
}

#[test]
fn sessions_that_met_two_arms_are_left_out_and_counted() {
    let world = World::up();
    let third = format!(
        "[[strategy.arms]]\npackage = {:?}\nshare = \"30%\"\nflags = {{ threshold = 0.6 }}\n",
        support::alarm::fixture("threshold")
    );
    let rules = AB.replace("longest = \"10m\"\n", &format!("longest = \"10m\"\nshare = \"30%\"\n\n{third}"));
    let file = service(&world, &rules);
    world.run(&["deploy", &file, "--wait"]).ended(0);
    world.run(&["deploy", &file, "--flag", "threshold=0.7"]).ended(0);
    until("three arms answer", 60, || match world.status("alarm")["weights"].clone() {
        weights if weights["1"] == 4_000 && weights["3"] == 3_000 => Ok(()),
        weights => Err(weights),
    });
    let before = visit(&world, 0..120);
    let of_third: BTreeSet<usize> = (0..120).filter(|n| before[2 * n].revision == 3).collect();
    assert!(of_third.len() > 15, "{}", of_third.len());
    let third = world.status("alarm")["arms"][0]["instances"][0]["pid"].as_u64().unwrap();
    kill_9(third.try_into().unwrap());
    until("the arm is taken out", 60, || match world.status("alarm")["weights"].clone() {
        weights if weights.get("3").is_none_or(|share| *share == 0) && weights["1"] == 7_000 => Ok(()),
        weights => Err(weights),
    });
    // Its sessions go on elsewhere; the others stay where they were.
    let after = visit(&world, 0..120);
    let moved: BTreeSet<usize> = (0..120).filter(|n| after[2 * n].revision != before[2 * n].revision).collect();
    assert_eq!(moved, of_third);
    until("they are counted", 60, || match evidence(&world)["evidence"].clone() {
        known if known["excluded_units"] == moved.len() => Ok(()),
        known => Err(known),
    });
    all_counted_but(&world, &after, &moved);
    world.run(&["abort", "alarm"]).ended(0);
    world.down();
}

/// What is left in the arms are the sessions that met one arm alone.
fn all_counted_but(world: &World, answers: &[Answer], left_out: &BTreeSet<usize>) {
    let arms = evidence(world)["evidence"]["arms"].clone();
    for arm in [1, 2] {
        let kept =
            answers.iter().step_by(2).enumerate().filter(|(n, one)| one.revision == arm && !left_out.contains(n));
        assert_eq!(arms[arm.to_string()]["units"], kept.count(), "arm {arm}: {arms}");
    }
}

#[test]
fn a_shadow_is_compared_and_its_report_shows_where_it_differs() {
    let world = World::up();
    let shadow = r#"
[strategy]
kind = "shadow"
agree-on = "labels"
max-disagreement = 0.02
least-pairs = 200
bake = "500ms"
then = "end"
top-k = 2
"#;
    let file = service(&world, shadow);
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let callers = Callers::start(&world, None, |mean| mean);
    let ended = world.run(&["deploy", &file, "--flag", "threshold=0.7", "--wait", "--output", "json"]).ended(0);
    assert!(ended.err.contains("comparing revision 2 with stable"), "{}", ended.err);
    assert_eq!(ended.json()["outcome"], "compared", "{ended:?}");
    let answers = callers.finish();
    assert!(answers.iter().all(|answer| answer.revision == 1), "only stable answers");

    let known = world.api("/api/rollouts/alarm-2/evidence").unwrap();
    let shadow = &known["evidence"]["shadows"]["2"];
    let (pairs, label) = (shadow["compared"].as_u64().unwrap(), &shadow["outputs"]["label"]);
    assert!(pairs >= 200 && label["rows"] == pairs, "{shadow}");
    let differ = 1.0 - label["same_label"].as_f64().unwrap() / pairs as f64;
    assert!((0.1..0.3).contains(&differ), "thresholds 0.2 apart differ in a fifth: {differ}");
    let report = world.run(&["report", "alarm-2"]).ended(0).out;
    for part in ["Disagree", "% to ", "95.0 % certainty", "In top 2", "p95 of stable", "label"] {
        assert!(report.contains(part), "`{part}` is missing:\n{report}");
    }
    let ids: BTreeSet<&str> = answers.iter().map(|answer| answer.id.as_str()).collect();
    let worst = shadow["worst"].as_array().unwrap();
    assert!(!worst.is_empty(), "{shadow}");
    for example in worst {
        let id = example["request_id"].as_str().unwrap();
        assert!(
            ids.contains(id) && report.contains(id),
            "{id} is a request that was asked, and is in the report:\n{report}"
        );
    }
    let html = world.run(&["report", "alarm-2", "--format", "html"]).ended(0).out;
    assert!(html.contains("<html") && html.contains("In top 2"), "{html}");
    assert_eq!(world.status("alarm")["weights"], json!({"1": 10_000}));
    world.down();
}

const GUARDED: &str = r#"
[strategy]
kind = "canary"
steps = ["20%", "100%"]
bake = "10m"

[[metrics]]
name = "accuracy"
kind = "accuracy"
from = "feedback"
value = "/outputs/0/data/0"
"#;

#[test]
fn quality_that_drops_asks_a_person_with_the_evidence() {
    let world = World::up();
    let file = service(&world, GUARDED);
    world.run(&["deploy", &file, "--wait"]).ended(0);
    // Half is right: the candidate, at 0.7, is wrong in one of five.
    let callers = Callers::start(&world, Some(0.5), |mean| mean);
    let deploy = ["deploy", &file, "--flag", "threshold=0.7", "--wait", "--timeout", "2m", "--output", "json"];
    let held = world.run(&deploy).ended(4).json();
    assert_eq!((&held["outcome"], &held["cause"]), (&"waiting".into(), &"quality".into()), "{held}");
    let told = held["evidence"].to_string();
    assert!(told.contains("accuracy") && told.contains("worse than stable's: -0."), "with its figures: {told}");
    let status = world.run(&["status", "alarm"]).ended(0).out;
    for part in ["waits for a person", "accuracy", "modelyard promote alarm", "modelyard abort alarm"] {
        assert!(status.contains(part), "`{part}` is missing:\n{status}");
    }
    callers.flow(50);
    assert_eq!(world.status("alarm")["weights"]["2"], 2_000, "it holds where it was");

    // A person says no.
    let no = world.json(&["abort", "alarm"]);
    assert_eq!(no["outcome"], "aborted", "{no}");
    assert_eq!(world.status("alarm")["weights"], json!({"1": 10_000}));

    // Another time a person says yes, knowing what is known.
    let held = world.run(&deploy).ended(4).json();
    assert_eq!(held["cause"], "quality", "{held}");
    world.run(&["promote", "alarm", "--all"]).ended(0);
    assert_eq!(world.outcome(held["rollout"].as_str().unwrap(), 60), "promoted");
    let report = world.run(&["report", held["rollout"].as_str().unwrap()]).ended(0).out;
    assert!(report.contains("tester") && report.contains("accuracy"), "who decided, and on what: {report}");
    callers.finish();
    world.down();
}

/// The fixture with the profile of what its model was made for: means drawn evenly between 0 and 1.
fn with_profile(world: &World) -> String {
    let folder = world.scratch("profiled");
    for entry in std::fs::read_dir(support::alarm::fixture("threshold")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let description = folder.join("modelyard.toml");
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text + "\n[reference]\ndata = \"reference.csv\"\n").unwrap();
    let mut table = "x[0],x[1],x[2],x[3]\n".to_owned();
    for n in 0..2_000 {
        let mean = mean(n);
        writeln!(table, "{mean},{mean},{mean},{mean}").unwrap();
    }
    std::fs::write(folder.join("reference.csv"), table).unwrap();
    folder.display().to_string()
}

#[test]
fn inputs_that_move_from_the_package_s_profile_are_seen_and_policy_is_followed() {
    let world = World::up();
    let package = with_profile(&world);
    let rules = "[strategy]\nkind = \"canary\"\nsteps = [\"20%\", \"60%\", \"100%\"]\nbake = \"500ms\"\n\n[quality]\nmax-psi = 0.25\nleast-values = 100\n";
    let file = service(&world, rules);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&support::alarm::fixture("threshold"), &package)).unwrap();
    world.run(&["deploy", &file, "--wait"]).ended(0);

    // What the model was made for is no drift: the candidate goes through.
    let callers = Callers::start(&world, None, |mean| mean);
    let deploy = |flag: &str, more: &[&str]| {
        let words = ["deploy", &file, "--flag", flag, "--wait", "--timeout", "2m", "--output", "json"];
        world.run(&[&words[..], more].concat())
    };
    assert_eq!(deploy("threshold=0.6", &[]).ended(0).json()["outcome"], "promoted");
    callers.finish();

    // Then callers change: nobody is below 0.6 any more.
    let callers = Callers::start(&world, None, |mean| 0.6 + 0.4 * mean);
    let patient: &[&str] = &["--set", "strategy.bake=10m"];
    let held = deploy("threshold=0.7", patient).ended(4).json();
    assert_eq!((&held["outcome"], &held["cause"]), (&json!("waiting"), &json!("drift")), "{held}");
    let told = held["evidence"].to_string();
    assert!(told.contains("has moved from package") && told.contains("population stability index"), "{told}");
    let known = evidence(&world);
    let drift = &known["evidence"]["drift"]["3"][0];
    for measure in ["psi", "ks", "chi_square_p", "jensen_shannon"] {
        assert!(drift[measure].is_number(), "{measure}: {known}");
    }
    world.run(&["abort", "alarm"]).ended(0);

    // By another measure, of one input, and shown to people with every other.
    let by = "quality.drift=[{ field = \"input x\", measure = \"ks\", limit = 0.3 }, { field = \"output\", measure = \"jensen-shannon\", limit = 1 }]";
    let held = deploy("threshold=0.705", &[patient, &["--set", by]].concat()).ended(4).json();
    let told = held["evidence"].to_string();
    assert!(told.contains("Kolmogorov-Smirnov distance") && told.contains("0.3 is allowed"), "{held}");
    let shown = world.run(&["drift", "alarm", "--output", "json"]).ended(0).json();
    let measures: Vec<&Value> =
        shown["revisions"].as_array().unwrap().iter().flat_map(|one| one["measures"].as_array().unwrap()).collect();
    let verdict = |field: &str, measure: &str, verdict: &str| {
        measures.iter().any(|one| one["field"] == field && one["measure"] == measure && one["verdict"] == verdict)
    };
    assert!(verdict("input x[0]", "ks", "fail") && !verdict("input x[0]", "psi", "fail"), "{shown}");
    let text = world.run(&["drift", "alarm"]).ended(0).out;
    for part in ["(candidate)", "input x[0]", "jensen-shannon", "chi-square", "package", "drift"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
    world.run(&["abort", "alarm"]).ended(0);
    let slip =
        world.run(&["deploy", &file, "--flag", "threshold=0.706", "--set", "quality.drift=[{ field = \"input y\" }]"]);
    assert!(slip.ended(1).err.contains("did you mean `input x`?"), "an unknown field would never move");

    for (action, flag) in [("step-back", "threshold=0.71"), ("roll-back", "threshold=0.72")] {
        let set = format!("quality.action={action}");
        let ended = deploy(flag, &[patient, &["--set", &set]].concat()).ended(3).json();
        assert_eq!((&ended["outcome"], &ended["cause"]), (&json!("rolled-back"), &json!("drift")), "{action}: {ended}");
    }
    callers.finish();
    assert_eq!(world.status("alarm")["weights"], json!({"2": 10_000}));
    world.down();
}

#[test]
fn quality_is_watched_while_blue_is_kept_and_after_a_recreation() {
    let world = World::up();
    let package = with_profile(&world);
    let hook = Hook::start();
    let rules = format!(
        "[strategy]\nkind = \"blue-green\"\nrollback-window = \"10m\"\n\n[quality]\nmax-psi = 0.25\nleast-values = 100\n\n[[notify]]\nurl = \"{}\"\n",
        hook.url
    );
    let file = service(&world, &rules);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&support::alarm::fixture("threshold"), &package)).unwrap();
    world.run(&["deploy", &file, "--wait"]).ended(0);
    world.run(&["deploy", &file, "--flag", "threshold=0.6", "--wait", "--timeout", "2m"]).ended(0);
    assert_eq!(world.status("alarm")["weights"], json!({"1": 0, "2": 10_000}), "green answers, blue is kept");

    let callers = Callers::start(&world, None, |mean| 0.6 + 0.4 * mean);
    until("a person is asked", 60, || {
        let status = world.status("alarm");
        let waits = status["rollout"]["waiting"].to_string();
        if waits.contains("has moved from package") { Ok(()) } else { Err(status.to_string()) }
    });
    world.run(&["abort", "alarm"]).ended(0);
    until("blue answers again", 60, || {
        let status = world.status("alarm");
        if status["weights"]["1"] == 10_000 { Ok(()) } else { Err(status.to_string()) }
    });

    // Recreate: nothing is beside it, and stable is started again by policy.
    let again = ["--set", "strategy={ kind = \"recreate\", watch = \"10m\" }", "--set", "quality.action=roll-back"];
    let words =
        [&["deploy", &file, "--flag", "threshold=0.7", "--wait", "--timeout", "2m", "--output", "json"][..], &again]
            .concat();
    let ended = world.run(&words).ended(3).json();
    assert_eq!((&ended["outcome"], &ended["cause"]), (&json!("rolled-back"), &json!("drift")), "{ended}");
    callers.finish();
    assert_eq!(world.status("alarm")["weights"], json!({"1": 10_000}));

    // Whoever asked to be told was told of each, though the first attempt of all failed.
    let told = until("everything was told", 60, || {
        let told = hook.told();
        let of = |kind: &str| told.iter().filter(|notice| notice["kind"] == kind).count();
        let counts = (of("promoted"), of("quality"), of("rolled-back"));
        if counts.0 == 2 && counts.1 >= 1 && counts.2 == 2 { Ok(told) } else { Err(format!("{counts:?} of {told:?}")) }
    });
    let notice = told.iter().find(|notice| notice["kind"] == "quality" && notice["rollout"].is_string()).unwrap();
    for (key, value) in
        [("service", json!("alarm")), ("version", json!(1)), ("cause", json!("drift")), ("revision", json!(2))]
    {
        assert_eq!(notice[key], value, "{key}: {notice}");
    }
    assert!(notice["why"].as_str().unwrap().contains("`modelyard abort` goes back to stable"), "{notice}");
    assert!(notice["evidence"][0].as_str().unwrap().contains("population stability index"), "{notice}");
    until("what became of it is in the log", 30, || {
        let events = world.events("alarm");
        let known: Vec<&Value> = events.iter().filter(|event| event["event"] == "notified").collect();
        let again = known.iter().any(|event| event["attempts"].as_u64().unwrap() > 1);
        if known.len() >= 5 && again { Ok(()) } else { Err(format!("{known:?}")) }
    });
    world.down();
}

#[test]
fn what_serves_is_watched_between_rollouts_and_alternatives_are_tried_beside_it() {
    let world = World::up();
    let package = with_profile(&world);
    let rules = "[strategy]\nkind = \"canary\"\nsteps = [\"20%\", \"100%\"]\nbake = \"3s\"\n\n[quality]\nmax-psi = 0.25\nleast-values = 100\n\n\
                 [[metrics]]\nname = \"accuracy\"\nkind = \"accuracy\"\nfrom = \"feedback\"\nvalue = \"/outputs/0/data/0\"\n";
    let file = service(&world, rules);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&support::alarm::fixture("threshold"), &package)).unwrap();
    world.run(&["deploy", &file, "--wait"]).ended(0);
    // Promoted on what it was made for, and always right.
    let callers = Callers::start(&world, Some(0.5), |mean| mean);
    world.run(&["deploy", &file, "--flag", "threshold=0.501", "--wait", "--timeout", "2m"]).ended(0);
    callers.flow(50);
    callers.finish();
    assert!(world.status("alarm").get("noticed").is_none(), "nothing is wrong yet");

    // Then callers change, and so does what is right. No rollout is open that could act on it.
    let callers = Callers::start(&world, Some(0.8), |mean| 0.55 + 0.45 * mean);
    let status = until("both are noticed", 90, || {
        let status = world.status("alarm");
        let causes: BTreeSet<String> = status["noticed"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|notice| notice["cause"].as_str().unwrap().to_owned())
            .collect();
        if causes.len() == 2 { Ok(status) } else { Err(format!("{causes:?} in {}", evidence(&world))) }
    });
    assert_eq!(status["noticed"][0]["revision"], 2, "{status}");
    let shown = world.run(&["status", "alarm"]).ended(0).out;
    for part in ["noticed  drift", "noticed  quality", "accuracy", "when it was promoted", "--strategy shadow"] {
        assert!(shown.contains(part), "`{part}` is missing: {shown}");
    }
    let history = world.run(&["history", "alarm"]).ended(0).out;
    assert!(history.contains("population stability index"), "{history}");
    let metrics =
        ureq::get(format!("http://{}/metrics", world.control)).call().unwrap().body_mut().read_to_string().unwrap();
    let counted = metrics.lines().find(|line| line.contains("quality-dropped")).unwrap_or_default();
    assert!(counted.ends_with(" 2"), "each is told once: {counted}");

    // It goes on to serve while an alternative is looked at beside it.
    let shadow = "strategy={ kind = \"shadow\", agree-on = \"labels\", max-disagreement = 0.9, least-pairs = 100, bake = \"300ms\", then = \"end\" }";
    let beside = [
        "deploy",
        &file,
        "--flag",
        "threshold=0.8",
        "--set",
        shadow,
        "--set",
        "quality.max-psi=50",
        "--wait",
        "--timeout",
        "2m",
        "--output",
        "json",
    ];
    assert_eq!(world.run(&beside).ended(0).json()["outcome"], "compared");
    let answers = callers.finish();
    assert!(
        answers.iter().all(|answer| answer.revision == 2),
        "the failing model is stable, and the alternative answers nobody"
    );
    world.down();
}
