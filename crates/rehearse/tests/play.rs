//! Rehearsals from outside: what a rollout would do, told the same each time, and as the real machine decides.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use modelyard_core::event::Outcome;
use modelyard_core::failure::Cause;
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::{BlueGreen, NoTraffic, RollbackPolicy, Strategy};
use modelyard_core::{Millis, ServiceName};
use modelyard_rehearse::play::{
    Case, Decides, Described, Kind, Notice, Person, Played, Recorded, Scenario, Traffic, play, rehearse,
};

fn spec(strategy: &str, instances: u32) -> ServiceSpec {
    ServiceSpec {
        instances,
        strategy: Strategy::from_name(strategy).unwrap(),
        ..ServiceSpec::named(ServiceName::new("wine").unwrap())
    }
}

fn case(faults: &[&str]) -> Case {
    Case { name: "case".to_owned(), faults: faults.iter().map(|fault| fault.parse().unwrap()).collect() }
}

fn steady(rate: f64) -> Scenario {
    Scenario { traffic: Traffic::Described(Described::steady(rate)), ..Scenario::usual(&spec("canary", 1)) }
}

fn played(spec: &ServiceSpec, scenario: &Scenario, faults: &[&str]) -> Played {
    play(spec, scenario, &case(faults)).unwrap()
}

const FOUR: [&str; 4] = ["recreate", "rolling", "blue-green", "canary"];

#[test]
fn what_is_healthy_is_promoted_and_only_recreate_is_less_than_whole_meanwhile() {
    for name in FOUR {
        let play = played(&spec(name, 4), &steady(50.0), &[]);
        assert_eq!(
            (play.outcome, play.cause, play.noticed, play.met),
            (Some(Outcome::Promoted), None, None, 0),
            "{name}"
        );
        match name {
            "recreate" => {
                assert!(play.outage > Millis(3_000) && play.waited > 0, "{name}: {play:?}");
                assert!(play.whole_after.is_some_and(|whole| whole >= play.outage), "{name}: {play:?}");
            }
            _ => assert_eq!((play.harm, play.outage, play.waited), (None, Millis(0), 0), "{name}"),
        }
    }
}

#[test]
fn a_rehearsal_tells_how_long_each_strategy_takes_to_be_whole_again() {
    let (spec, mut scenario) = (spec("canary", 4), steady(200.0));
    scenario.cases = vec![case(&["error rate 5 % from 30s"])];
    let told = rehearse(&spec, &scenario, &FOUR).unwrap();
    let plays = &told.cases[0].plays;
    assert_eq!(plays[0].strategy, "canary", "the service's own comes first");
    assert_eq!(plays.len(), 4);
    let of = |name: &str| plays.iter().find(|play| play.strategy == name).unwrap();
    for play in plays.iter().filter(|play| play.strategy != "recreate") {
        assert_eq!(
            (play.outcome, play.cause),
            (Some(Outcome::RolledBack), Some(Cause::ErrorRate)),
            "{}",
            play.strategy
        );
        assert_eq!(play.noticed_by, Some(Notice::Rollout));
        assert!(play.whole_after.unwrap() >= play.noticed_after.unwrap(), "{play:?}");
    }
    // Blue is kept: going back needs no start. Rolling has stopped instances of stable, and starts them again.
    assert!(of("blue-green").whole_after.unwrap() < of("rolling").whole_after.unwrap());
    assert!(of("canary").met < of("blue-green").met, "a small share meets fewer requests");
    let late = of("recreate");
    assert_eq!((late.outcome, late.noticed_by), (Some(Outcome::Promoted), Some(Notice::Person)), "it was over by then");
    assert!(late.whole_after.unwrap() > Millis::seconds(1_800) && late.met > 300_000, "{late:?}");
    assert_eq!(told.cases[0].best.as_deref(), Some("canary"));
}

#[test]
fn five_per_cent_of_errors_at_200_requests_a_second_are_noticed_within_two_seconds() {
    let mut delays: Vec<u64> = (0..100)
        .map(|seed| {
            let scenario = Scenario { seed, ..steady(200.0) };
            played(&spec("blue-green", 2), &scenario, &["error rate 5 % from 60s"]).noticed_after.unwrap().0
        })
        .collect();
    delays.sort_unstable();
    assert!(delays[50] <= 2_000 && delays[95] <= 3_500, "median {}, 95 % within {}", delays[50], delays[95]);
}

#[test]
fn each_fault_has_its_cause() {
    let slow = ServiceSpec { analysis: slower_is_a_failure(), ..spec("canary", 4) };
    for (fault, cause) in [
        ("latency x4", Cause::Latency),
        ("latency 400ms from 10s", Cause::Latency),
        ("crash at 20s", Cause::Crash),
        ("crash every 2s", Cause::Crash),
        ("out of memory at 20s", Cause::OutOfMemory),
        ("hang from 20s", Cause::Unresponsive),
        ("wrong answers", Cause::WrongAnswers),
        ("wrong answers from 20s", Cause::WrongAnswers),
        ("never starts", Cause::StartupTimeout),
        ("starts in 5m", Cause::StartupTimeout),
        ("error rate 100 %", Cause::ErrorRate),
    ] {
        let play = played(&slow, &steady(100.0), &[fault]);
        assert_eq!(
            (play.outcome, play.cause),
            (Some(Outcome::RolledBack), Some(cause)),
            "{fault}: {:#?}",
            play.timeline
        );
        assert!(play.timeline.iter().any(|entry| entry.kind == Kind::Failure), "{fault}");
    }
}

fn slower_is_a_failure() -> modelyard_core::strategy::Analysis {
    modelyard_core::strategy::Analysis { max_latency_ratio: Some(2.0), ..Default::default() }
}

#[test]
fn a_fault_of_stable_is_never_held_against_the_candidate() {
    for fault in ["stable: error rate 20 %", "stable: crash at 10s", "stable: latency x4"] {
        let play =
            played(&ServiceSpec { analysis: slower_is_a_failure(), ..spec("canary", 4) }, &steady(100.0), &[fault]);
        assert_eq!((play.outcome, play.cause), (Some(Outcome::Promoted), None), "{fault}: {:#?}", play.timeline);
    }
}

#[test]
fn without_traffic_a_canary_holds_until_the_morning_unless_health_is_enough() {
    let night = Described { quiet: vec![(22 * 60, 6 * 60)], ..Described::steady(20.0) };
    let scenario = Scenario { start: 23 * 3_600, traffic: Traffic::Described(night), ..steady(1.0) };
    let held = played(&spec("canary", 1), &scenario, &[]);
    let seven_hours = Millis::seconds(7 * 3_600);
    assert_eq!(held.outcome, Some(Outcome::Promoted));
    assert!(held.decided.unwrap() > seven_hours && held.decided.unwrap() < Millis(seven_hours.0 + 300_000), "{held:?}");
    let says = |what: &str| held.timeline.iter().any(|entry| entry.kind == Kind::Verdict && entry.what.contains(what));
    assert!(says("inconclusive: 0 of 50 requests that a verdict needs"), "{:#?}", held.timeline);
    let mut lenient = spec("canary", 1);
    lenient.analysis.no_traffic = NoTraffic::Promote;
    assert!(played(&lenient, &scenario, &[]).decided.unwrap() < Millis::seconds(300));
}

#[test]
fn who_waits_for_a_person_waits_as_long_as_persons_take() {
    let by_hand = ServiceSpec { rollback: RollbackPolicy { automatic: false, stepped: false }, ..spec("canary", 4) };
    let person = |decides| Person { reacts: Millis::seconds(600), decides, ..Person::default() };
    let scenario = |decides| Scenario { person: person(decides), longest: Millis::seconds(7_200), ..steady(100.0) };
    let aborted = played(&by_hand, &scenario(Decides::Abort), &["error rate 10 %"]);
    assert_eq!((aborted.outcome, aborted.cause), (Some(Outcome::Aborted), Some(Cause::ErrorRate)));
    let waited = aborted.decided.unwrap().0 - aborted.noticed.unwrap().0;
    assert!((600_000..602_000).contains(&waited), "{waited} ms");
    let promoted = played(&by_hand, &scenario(Decides::Promote), &["latency x2", "error rate 10 % until 60s"]);
    assert_eq!(promoted.outcome, Some(Outcome::Promoted), "{:#?}", promoted.timeline);
    let nobody = played(&by_hand, &scenario(Decides::Nothing), &["error rate 10 %"]);
    assert_eq!((nobody.outcome, nobody.whole, nobody.played), (None, None, Millis::seconds(7_200)));
}

#[test]
fn the_rollback_window_is_what_it_is_for() {
    let green = |window| {
        let strategy =
            Strategy::BlueGreen(BlueGreen { rollback_window: Millis::seconds(window), ..BlueGreen::default() });
        ServiceSpec { strategy, ..spec("blue-green", 2) }
    };
    let kept = played(&green(1_200), &steady(100.0), &["error rate 5 % from 10m"]);
    assert_eq!((kept.outcome, kept.noticed_by), (Some(Outcome::RolledBack), Some(Notice::Rollout)));
    let gone = played(&green(300), &steady(100.0), &["error rate 5 % from 10m"]);
    assert_eq!((gone.outcome, gone.noticed_by), (Some(Outcome::Promoted), Some(Notice::Person)));
    assert!(kept.whole_after.unwrap().0 * 100 < gone.whole_after.unwrap().0, "{kept:?} {gone:?}");
}

#[test]
fn the_same_input_gives_the_same_rehearsal_and_another_seed_another() {
    let spec = spec("canary", 3);
    let scenario = Scenario::usual(&spec);
    let told = |scenario: &Scenario| serde_json::to_string(&rehearse(&spec, scenario, &FOUR).unwrap()).unwrap();
    assert_eq!(told(&scenario), told(&scenario));
    assert_ne!(told(&scenario), told(&Scenario { seed: 2, ..scenario.clone() }));
}

#[test]
fn recorded_requests_are_met_one_for_one() {
    let moments: Vec<f64> = (0..60_000).map(|n| f64::from(n) * 0.02).collect();
    let recorded = Recorded::from_moments(&moments).unwrap();
    let scenario = Scenario { traffic: Traffic::Recorded(recorded), start: 0, ..steady(1.0) };
    let play = played(&spec("canary", 2), &scenario, &[]);
    assert_eq!(play.requests, play.played.0 / 1_000 * 50 + play.played.0 % 1_000 / 20, "50 a second: {}", play.played);
    assert_eq!(play.outcome, Some(Outcome::Promoted));
}

#[test]
fn what_nobody_looks_at_is_said_with_what_would_help() {
    let spec = spec("canary", 2);
    let faults = ["latency x4", "accuracy 0.91 against 0.94", "error rate 0.8 %", "error rate 5 % from 10m"];
    let scenario = Scenario { cases: faults.iter().map(|fault| case(&[fault])).collect(), ..steady(50.0) };
    let told = rehearse(&spec, &scenario, &[]).unwrap();
    for (case, helps) in
        told.cases.iter().zip(["max-latency-ratio", "[[metrics]]", "max-error-rate", "rollback-window"])
    {
        assert!(case.advice.iter().any(|advice| advice.contains(helps)), "{:?}: {:?}", case.faults, case.advice);
    }
}

#[test]
fn a_day_is_played_to_its_end() {
    let mut waits = spec("canary", 2);
    waits.analysis.min_requests = u64::MAX;
    let play = played(&waits, &steady(100.0), &[]);
    assert_eq!((play.outcome, play.played), (None, Millis::seconds(86_400)));
    assert!((8_600_000..8_680_000).contains(&play.requests), "{}", play.requests);
    assert!(play.windows.len() <= 480 && play.timeline.len() < 500);
}

fn measured(strategy: &str) -> ServiceSpec {
    let metric = serde_json::json!({ "name": "accuracy", "kind": "accuracy", "from": "feedback" });
    let mut spec = ServiceSpec { metrics: vec![serde_json::from_value(metric).unwrap()], ..spec(strategy, 2) };
    if let Strategy::Ab(ab) = &mut spec.strategy {
        (ab.metric, ab.longest) = ("accuracy".to_owned(), Some(Millis::seconds(3_600)));
    }
    spec
}

#[test]
fn an_ab_test_promotes_what_is_better_and_nothing_else() {
    let better = played(&measured("ab"), &steady(50.0), &["accuracy 0.96 against 0.90"]);
    assert_eq!(better.outcome, Some(Outcome::Promoted), "{:#?}", better.timeline);
    for fault in ["accuracy 0.90 against 0.90", "accuracy 0.88 against 0.92"] {
        let play = played(&measured("ab"), &steady(50.0), &[fault]);
        assert_ne!(play.outcome, Some(Outcome::Promoted), "{fault}: {:#?}", play.timeline);
    }
}

#[test]
fn a_shadow_hurts_nobody_and_its_disagreement_is_noticed() {
    let agrees = played(&measured("shadow"), &steady(50.0), &["disagreement 0 %"]);
    let differs = played(&measured("shadow"), &steady(50.0), &["disagreement 20 %", "error rate 50 %"]);
    for play in [&agrees, &differs] {
        assert_eq!((play.met, play.harm, play.outage), (0, None, Millis(0)), "{:#?}", play.timeline);
    }
    assert!(differs.noticed.is_some_and(|at| at < Millis::seconds(120)), "{:#?}", differs.timeline);
    assert_eq!(agrees.cause, None, "{:#?}", agrees.timeline);
}

#[test]
fn a_drop_in_quality_is_held_for_a_person_whose_word_ends_it() {
    let play = played(&measured("canary"), &steady(50.0), &["accuracy 0.85 against 0.94"]);
    assert_eq!((play.outcome, play.cause), (Some(Outcome::Aborted), Some(Cause::Quality)), "{:#?}", play.timeline);
    let waited = play.decided.unwrap().0 - play.noticed.unwrap().0;
    assert!((900_000..905_000).contains(&waited), "{waited} ms");
}
