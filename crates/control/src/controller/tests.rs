//! Whole rollouts through the real controller and store, over a target and a gateway in memory.

use std::collections::BTreeSet;

use modelyard_core::event::{Actor, EventBody, Order};
use modelyard_core::failure::Cause;
use modelyard_core::service::ServiceSpec;
use modelyard_core::{InstanceId, RevisionNumber, Weight};
use serde_json::json;

use crate::orders::{self, Rollback};
use crate::prober::Reply;
use crate::store::fold::{ServiceState, World};
use crate::testing::{Life, Rig, digest, package, spec, wine};

fn strategy(kind: &str) -> serde_json::Value {
    match kind {
        "canary" => json!({"kind": "canary", "steps": [1_000, 10_000], "bake": "100ms"}),
        "blue-green" => json!({"kind": "blue-green", "bake": "100ms", "rollback-window": "300ms"}),
        "rolling" => json!({"kind": "rolling", "pause": "50ms"}),
        "ab" => json!({"kind": "ab", "metric": "errors", "effect": 0.1}),
        "shadow" => json!({
            "kind": "shadow", "max-disagreement": 0.2, "least-pairs": 20, "bake": "100ms", "then": "canary", "steps": [1_000, 10_000],
        }),
        _ => json!({"kind": "recreate"}),
    }
}

/// Rules of a strategy; the metric decides tests, and guards the others.
fn rules(kind: &str) -> ServiceSpec {
    let metrics = json!([{"name": "errors", "kind": "rate", "from": "errors"}]);
    spec(json!({"strategy": strategy(kind), "metrics": metrics}))
}

fn person() -> Actor {
    Actor::Person("ada".into())
}

async fn assert_fold_equals_state(life: &Life) {
    let mut folded = World::default();
    life.events().await.iter().for_each(|event| folded.apply(event).unwrap());
    let state = life.ledger.world();
    // Time may have passed between the two looks: compare what the shorter one knows.
    if folded.last_seq == state.last_seq {
        assert_eq!(folded, *state);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_strategy_promotes_a_good_candidate_and_retires_stable() {
    for kind in ["canary", "blue-green", "rolling", "recreate", "ab", "shadow"] {
        let rig = Rig::new();
        rig.gateway.tell_into(rig.folder.path().join("tap"));
        let life = rig.start();
        let spec = rules(kind);
        assert_eq!(life.settle(1, spec.clone()).await, ("promoted".into(), None), "{kind}, first");
        assert_eq!(life.settle(2, spec).await, ("promoted".into(), None), "{kind}, second\n{}", life.log().await);
        life.rest(2).await;
        let state = life.ledger.service(&wine());
        assert_eq!(state.stable, Some(RevisionNumber(2)), "{kind}");
        assert!(state.instances.values().all(|instance| instance.revision == RevisionNumber(2)), "{kind}");
        assert_eq!(rig.gateway.splits().last().unwrap()[&RevisionNumber(2)], Weight::ALL, "{kind}");
        assert_fold_equals_state(&life).await;
        life.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_answers_wrongly_is_taken_back_with_its_cause_and_evidence() {
    let rig = Rig::new();
    rig.asker.say("-r2-", Reply::Wrong("sample `a`: at `/y/0`: expected 1, got 2".into()));
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    let end = life.settle(2, spec(json!({}))).await;
    assert_eq!(end, ("rolled-back".into(), Some(Cause::WrongAnswers)), "{}", life.log().await);
    life.rest(2).await;
    let state = life.ledger.service(&wine());
    let failure = state.rollouts.last().unwrap().failure.clone().unwrap();
    assert!(failure.evidence.iter().any(|line| line.contains("expected 1, got 2")), "{failure:?}");
    assert_eq!(state.stable, Some(RevisionNumber(1)));
    let to_candidate = rig.gateway.splits().iter().any(|split| split.contains_key(&RevisionNumber(2)));
    assert!(!to_candidate, "nothing may go to a revision that never was live");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_candidate_take_it_back() {
    let rig = Rig::new();
    rig.gateway.fail(2);
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    let slow_bake = json!({"strategy": {"kind": "canary", "steps": [2_000, 10_000], "bake": "5s"}});
    let end = life.settle(2, spec(slow_bake)).await;
    assert_eq!(end, ("rolled-back".into(), Some(Cause::ErrorRate)), "{}", life.log().await);
    assert_eq!(rig.gateway.splits().last().unwrap().get(&RevisionNumber(1)), Some(&Weight::ALL));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stable_instance_that_crashes_is_replaced_and_nothing_is_rolled_back() {
    let rig = Rig::new();
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    life.rest(2).await;
    let id = InstanceId::new("wine-r1-1").unwrap();
    rig.target.write_log(&id, "Segmentation fault");
    rig.target.crash(&id, 139);
    life.until("the replacement", |life| {
        let state = life.ledger.service(&wine());
        let back = state.instances.contains_key(&InstanceId::new("wine-r1-3").unwrap());
        // The gateway is told a moment after the log.
        let table = rig.gateway.table();
        let told = table.services.get(&wine()).and_then(|route| route.pools.get(&RevisionNumber(1)));
        (back && !state.is_busy() && told.is_some_and(|pool| pool.instances.len() == 2)).then_some(())
    })
    .await;
    let log = life.log().await;
    assert!(log.contains("ended with exit code 139") && log.contains("log: Segmentation fault"), "{log}");
    let table = rig.gateway.table();
    let pool = &table.services[&wine()].pools[&RevisionNumber(1)].instances;
    assert!(!pool.contains_key(&id) && pool.len() == 2, "{pool:?}");
    assert_eq!(life.ledger.service(&wine()).rollouts.len(), 1);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_on_a_machine_that_is_cut_off_is_replaced_and_cleared_when_it_is_back() {
    let rig = Rig::new();
    let (alpha, beta) = ("prod/alpha".parse().unwrap(), "prod/beta".parse().unwrap());
    [&alpha, &beta].into_iter().for_each(|machine| rig.target.set_machine(machine, None));
    let life = rig.start();
    life.settle(1, spec(json!({"target": "ssh", "environment": "prod"}))).await;
    life.rest(2).await;
    let one = InstanceId::new("wine-r1-1").unwrap();
    assert_eq!(life.ledger.service(&wine()).instances[&one].machine, Some(alpha.clone()));

    rig.asker.say("wine-r1-1", Reply::Silent("no route to host".into()));
    rig.target.set_machine(&alpha, Some("no route to host"));
    life.until("the replacement", |life| {
        let state = life.ledger.service(&wine());
        let on_beta = state.instances.values().filter(|instance| instance.machine.as_ref() == Some(&beta)).count();
        (on_beta == 2 && state.instances.len() == 2 && !state.is_busy()).then_some(())
    })
    .await;
    let log = life.log().await;
    assert!(log.contains("its machine `prod/alpha` is out of reach: no route to host"), "{log}");
    assert!(log.contains("was left behind"), "{log}");
    let runs = || rig.target.specs().iter().any(|spec| spec.id == one);
    assert!(runs(), "nobody can end it");
    rig.target.set_machine(&alpha, None);
    life.until("nobody wants it", |_| (!runs()).then_some(())).await;

    // A machine that is lost while something starts on it: that is not waited for either.
    rig.target.hold_starts_of(RevisionNumber(2));
    life.deploy(2, spec(json!({"target": "ssh", "environment": "prod"}))).await;
    let second = life
        .until("the candidate's machine", |life| {
            let state = life.ledger.service(&wine());
            state.staying(RevisionNumber(2)).find_map(|(_, instance)| instance.machine.clone())
        })
        .await;
    life.until("it starts there", |_| {
        rig.target
            .specs()
            .iter()
            .any(|spec| spec.machine.as_ref() == Some(&second) && spec.revision == RevisionNumber(2))
            .then_some(())
    })
    .await;
    rig.target.set_machine(&second, Some("no route to host"));
    // It starts on the other one, and the rollout goes on: that was no fault of the candidate's.
    let other = if second == alpha { beta } else { alpha };
    let address = "127.0.0.1:9".parse().unwrap();
    let announce = |life: &Life| {
        let state = life.ledger.service(&wine());
        for (id, instance) in state.staying(RevisionNumber(2)) {
            if instance.machine.as_ref() == Some(&other) && rig.target.specs().iter().any(|spec| spec.id == *id) {
                rig.target.announce(id, address, None);
            }
        }
        state.rollouts.last().and_then(|record| Some((record.outcome?.name().to_owned(), record.cause)))
    };
    let end = life.until("the end of the rollout", announce).await;
    assert_eq!(end, ("promoted".into(), None), "{}", life.log().await);
    assert!(life.log().await.contains("machine-lost"), "{}", life.log().await);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_without_machines_is_refused_and_one_that_loses_them_fails_with_a_word() {
    let rig = Rig::new();
    let life = rig.start();
    let on_machines = spec(json!({"target": "ssh", "environment": "prod"}));
    let deploy = orders::Deploy { spec: on_machines.clone(), package: digest(1), arms: Vec::new(), actor: person() };
    let error = life.orders.deploy(&wine(), deploy).await.unwrap_err();
    assert!(error.to_string().contains("environment `prod` has none"), "{error}");
    rig.target.set_machine(&"prod/alpha".parse().unwrap(), Some("no route to host"));
    assert_eq!(life.settle(1, on_machines).await, ("rolled-back".into(), Some(Cause::StartFailed)));
    assert!(life.log().await.contains("no route to host"), "{}", life.log().await);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_cannot_be_started_fails_the_rollout() {
    let rig = Rig::new();
    rig.target.refuse_starts_of(RevisionNumber(2));
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    let (outcome, cause) = life.settle(2, spec(json!({}))).await;
    assert_eq!(outcome, "rolled-back");
    assert!(matches!(cause, Some(Cause::StartFailed | Cause::CrashLoop)), "{cause:?}");
    life.rest(2).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_goes_back_at_once_or_by_a_rollout_of_its_own() {
    let rig = Rig::new();
    let life = rig.start();
    let kept = spec(json!({"strategy": {"kind": "blue-green", "bake": "50ms", "rollback-window": "10m"}}));
    life.settle(1, kept.clone()).await;
    life.settle(2, kept.clone()).await;
    let starts = rig.target.starts();
    let back = life.orders.roll_back(&wine(), Rollback { to: None, actor: person() }).await.unwrap();
    let id = back.rollout.unwrap();
    life.until("stable again", |life| (life.ledger.service(&wine()).stable == Some(RevisionNumber(1))).then_some(()))
        .await;
    assert_eq!(rig.target.starts(), starts, "the kept pool takes over, nothing is started");
    assert_eq!(life.outcome(&id).await.0, "aborted");
    life.rest(2).await;

    life.settle(3, spec(json!({}))).await;
    life.rest(2).await;
    let back = life.orders.roll_back(&wine(), Rollback { to: Some(RevisionNumber(2)), actor: person() }).await.unwrap();
    assert_eq!(life.outcome(&back.rollout.unwrap()).await.0, "promoted");
    assert_eq!(life.ledger.service(&wine()).stable, Some(RevisionNumber(2)));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_make_no_sense_are_refused_with_help() {
    let rig = Rig::new();
    rig.add_package(9, package(9, "BYTES"));
    let life = rig.start();
    let orders = &life.orders;
    let to = |to: u32| Rollback { to: Some(RevisionNumber(to)), actor: person() };
    let none = orders.steer(&wine(), Order::Pause, person()).await.unwrap_err();
    assert!(matches!(none, orders::Error::NoService(_)));
    life.settle(1, spec(json!({}))).await;
    life.rest(2).await;
    assert!(matches!(orders.steer(&wine(), Order::Pause, person()).await.unwrap_err(), orders::Error::NotOpen(_)));
    assert!(matches!(orders.roll_back(&wine(), to(7)).await.unwrap_err(), orders::Error::NoRevision { .. }));
    assert!(matches!(orders.roll_back(&wine(), to(1)).await.unwrap_err(), orders::Error::AlreadyStable { .. }));
    let deploy = |n, spec| orders::Deploy { spec, package: digest(n), arms: Vec::new(), actor: person() };
    let error = orders.deploy(&wine(), deploy(9, spec(json!({})))).await.unwrap_err();
    assert!(error.to_string().contains("input `x` takes BYTES instead of FP32"), "{error}");
    let error = orders.deploy(&wine(), deploy(2, spec(json!({"flags": {"strikt": true}})))).await.unwrap_err();
    assert!(error.to_string().contains("no flag `strikt`; it declares strict"), "{error}");
    let error = orders.deploy(&wine(), deploy(77, spec(json!({})))).await.unwrap_err();
    assert!(matches!(error, orders::Error::Package(_)));
    assert!(!error.help().is_empty());
    let first =
        life.deploy(2, spec(json!({"strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "1h"}}))).await;
    assert!(matches!(
        orders.deploy(&wine(), deploy(3, spec(json!({})))).await.unwrap_err(),
        orders::Error::Open { .. }
    ));
    orders.steer(&wine(), Order::Abort, person()).await.unwrap();
    assert_eq!(life.outcome(&first.rollout.unwrap()).await.0, "aborted");
    life.rest(2).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_service_leaves_nothing_behind_but_its_numbers() {
    let rig = Rig::new();
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    life.orders.remove(&wine(), person()).await.unwrap();
    life.until("no instance", |life| life.ledger.service(&wine()).instances.is_empty().then_some(())).await;
    life.until("no route", |_| rig.gateway.table().services.is_empty().then_some(())).await;
    life.settle(2, spec(json!({}))).await;
    let state = life.ledger.service(&wine());
    assert_eq!(state.stable, Some(RevisionNumber(2)), "numbers are never given again");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_gone_for_a_while_delays_and_breaks_nothing() {
    let rig = Rig::new();
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    let accepted = life.deploy(2, spec(json!({}))).await;
    rig.gateway.vanish(true);
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(life.ledger.service(&wine()).stable, Some(RevisionNumber(1)), "nothing is promoted unseen");
    rig.gateway.restart();
    rig.gateway.vanish(false);
    assert_eq!(life.outcome(&accepted.rollout.unwrap()).await.0, "promoted");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_the_same_number_made_by_somebody_else_never_passes_for_ours() {
    let rig = Rig::new();
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    life.rest(2).await;
    life.end().await;
    rig.gateway.cut_off_everybody();
    let life = rig.start();
    life.until("the route", |_| (rig.gateway.table().services.len() == 1).then_some(())).await;
    assert_eq!(rig.gateway.table().services[&wine()].pools[&RevisionNumber(1)].instances.len(), 2);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_down_comes_up_again_without_being_taken_for_failed() {
    let rig = Rig::new();
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    life.rest(2).await;
    let ledger = life.ledger.clone();
    life.controller.close().await;
    life.end().await;
    let target: std::sync::Arc<dyn modelyard_core::ports::Target> = rig.target.clone();
    crate::down::take_down(&ledger, &target, None).await;
    assert!(rig.target.specs().is_empty(), "something still runs, or is remembered");
    assert!(ledger.service(&wine()).instances.is_empty());
    drop((ledger, target));
    let life = rig.start();
    life.rest(2).await;
    assert!(!life.log().await.contains("\"failed\""), "{}", life.log().await);
    life.end().await;
}

/// Every event of the log ends one life of the control plane; the next goes on.
#[test]
fn killed_after_every_event_it_goes_on_to_the_same_end_and_starts_nothing_twice() {
    for (kind, bad, expected) in [
        ("canary", false, "promoted"),
        ("blue-green", false, "promoted"),
        ("rolling", false, "promoted"),
        ("recreate", false, "promoted"),
        ("ab", false, "promoted"),
        ("shadow", false, "promoted"),
        ("canary", true, "rolled-back"),
    ] {
        let rig = Rig::new();
        rig.gateway.tell_into(rig.folder.path().join("tap"));
        if bad {
            rig.asker.say("-r2-", Reply::Wrong("wrong".into()));
        }
        let spec = rules(kind);
        let runtime = runtime();
        let rollout = runtime.block_on(async {
            let life = rig.start();
            life.settle(1, spec.clone()).await;
            life.rest(2).await;
            life.deploy(2, spec).await.rollout.unwrap()
        });
        kill(runtime);
        let mut lives = 1;
        loop {
            let runtime = self::runtime();
            let done = runtime.block_on(async {
                let life = rig.start();
                let state = life.ledger.service(&wine());
                let ended = state.rollouts.last().unwrap().outcome;
                let mut head = life.ledger.head();
                let moved = async {
                    while standing(&life.ledger.service(&wine())) == standing(&state) {
                        head.changed().await.unwrap();
                    }
                };
                let _ = tokio::time::timeout(std::time::Duration::from_secs(3), moved).await;
                ended.is_some() && !state.is_busy()
            });
            kill(runtime);
            lives += 1;
            if lives > 100 {
                let log = self::runtime().block_on(async { rig.start().log().await });
                panic!("{kind} comes to no end: {log}");
            }
            if done {
                break;
            }
        }
        let runtime = self::runtime();
        runtime.block_on(async {
            let life = rig.start();
            assert_eq!(life.outcome(&rollout).await.0, expected, "{kind} after {lives} lives: {}", life.log().await);
            let events = life.events().await;
            let asked: Vec<&InstanceId> = events
                .iter()
                .filter_map(|event| match &event.body {
                    EventBody::InstanceStarting { instance, .. } => Some(instance),
                    _ => None,
                })
                .collect();
            let distinct: BTreeSet<&InstanceId> = asked.iter().copied().collect();
            assert_eq!(asked.len(), distinct.len(), "{kind}: an id was given twice");
            assert!(rig.target.starts() as usize <= asked.len(), "{kind}: something was started twice");
            assert_fold_equals_state(&life).await;
            life.end().await;
        });
    }
}

/// What a kill must not undo: everything but figures and positions.
fn standing(state: &ServiceState) -> String {
    let phase = state.open.as_ref().map(|open| (open.machine.phase, open.machine.outcome()));
    format!("{phase:?} {:?} {:?} {:?}", state.desired, state.instances, state.stable)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// As near to `kill -9` as a test within one process comes: no task sees another line of code.
fn kill(runtime: tokio::runtime::Runtime) {
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
}
