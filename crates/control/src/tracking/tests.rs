//! What a run is told, and how far behind a server is.

use std::collections::BTreeMap;

use modelyard_core::event::{Actor, Event, EventBody, Measurement, Outcome};
use modelyard_core::evidence::{ArmEvidence, Evidence, Statistic};
use modelyard_core::measure::Counters;
use modelyard_core::{RevisionNumber, RolloutId, ServiceName, Timestamp, Weight};
use serde_json::{Value, json};

use super::Tracked;
use super::told::{Batch, Cast};
use crate::store::fold::{Record, ServiceState};

fn record() -> Record {
    Record {
        id: RolloutId::new("wine-1").unwrap(),
        strategy: "canary".into(),
        from: Some(RevisionNumber(1)),
        to: RevisionNumber(2),
        arms: vec![RevisionNumber(3)],
        beside: Vec::new(),
        started: Timestamp(1_000),
        ended: None,
        outcome: None,
        cause: None,
        failure: None,
    }
}

fn event(seq: u64, body: EventBody) -> Event {
    Event { seq, at: Timestamp(1_000 * seq), service: None, rollout: None, actor: Actor::Controller, body }
}

fn batch(events: &[Event]) -> Batch {
    let (state, record) = (ServiceState::new(ServiceName::new("wine").unwrap()), record());
    let mut batch = Batch::default();
    events.iter().for_each(|event| batch.add(event, &Cast { state: &state, record: &record }));
    batch
}

fn values(batch: &Batch) -> BTreeMap<String, Value> {
    let all = serde_json::to_value(&batch.metrics).unwrap();
    all.as_array().unwrap().iter().map(|point| (point["key"].as_str().unwrap().to_owned(), point.clone())).collect()
}

#[test]
fn figures_become_points_at_their_own_time_and_place() {
    let mut window = Counters { requests: 10, errors: 1, ..Counters::default() };
    window.latency.record(2_000);
    let weight = Weight::new(2_500).unwrap();
    let seen = |window| Measurement { weight, live: 1, window, in_flight: 0 };
    let revisions =
        [(RevisionNumber(2), seen(window)), (RevisionNumber(3), seen(Counters::default()))].into_iter().collect();
    let arm = ArmEvidence {
        metrics: [("f1 (macro)".to_owned(), Statistic::Proportion { units: 4, hits: 3 })].into(),
        ..ArmEvidence::default()
    };
    let evidence = Evidence { arms: [(RevisionNumber(1), arm)].into(), ..Evidence::default() };
    let events = [
        event(7, EventBody::Measured { revisions }),
        event(8, EventBody::EvidenceSeen { evidence: Box::new(evidence) }),
    ];
    let told = batch(&events);
    let found = values(&told);
    assert_eq!(
        found["candidate/error_rate"],
        json!({ "key": "candidate/error_rate", "value": 0.1, "timestamp": 7_000, "step": 7 })
    );
    assert_eq!(found["candidate/weight"]["value"], 0.25);
    assert_eq!(found["stable/metric/f1 _macro_"]["value"], 0.75);
    assert!(!found.contains_key("r3/error_rate") && found.contains_key("r3/requests"), "nothing is not a share");
    assert!(found["candidate/latency_p95_ms"]["value"].as_f64().unwrap() > 1.7);
    assert_eq!(told, batch(&events), "the same events give the same points");
    let mut rest = told.clone();
    rest.after(7);
    assert!(values(&rest).values().all(|point| point["step"] == 8) && !rest.metrics.is_empty());
}

#[test]
fn the_end_is_told_as_mlflow_calls_it() {
    let finished = |outcome| event(9, EventBody::RolloutFinished { outcome, cause: None, failure: None, stable: None });
    for (outcome, status) in
        [(Outcome::Promoted, "FINISHED"), (Outcome::RolledBack, "FAILED"), (Outcome::Aborted, "KILLED")]
    {
        let told = batch(&[finished(outcome)]);
        assert_eq!(
            (told.end.as_ref().unwrap().status, told.tags["modelyard.outcome"].as_str()),
            (status, outcome.name())
        );
        assert_eq!(values(&told)["rollout_seconds"]["value"], 8.0);
    }
}

#[test]
fn how_far_behind_a_server_is_is_a_figure_without_its_path() {
    let tracked = Tracked::default();
    assert_eq!(tracked.figures(Timestamp(5_000)), "");
    let address = "https://mlflow.example/secret";
    tracked.behind(address, Some(Timestamp(2_000)));
    tracked.told(address, &record().id, "run", 3);
    tracked.dropped(address, 2, "never");
    let text = tracked.figures(Timestamp(5_000));
    for line in [
        "modelyard_tracking_lag_seconds{server=\"mlflow.example\"} 3",
        "modelyard_tracking_points_total{server=\"mlflow.example\",result=\"told\"} 3",
        "modelyard_tracking_points_total{server=\"mlflow.example\",result=\"dropped\"} 2",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    tracked.settle(address);
    assert!(
        tracked.figures(Timestamp(9_000)).contains("lag_seconds{server=\"mlflow.example\"} 0")
            && !text.contains("secret")
    );
}
