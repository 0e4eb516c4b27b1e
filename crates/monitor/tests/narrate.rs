//! Every kind of event in a sentence.
#![allow(clippy::unwrap_used, reason = "tests")]

mod story;

use modelyard_core::event::{Actor, Event, EventBody, Order, Outcome};
use modelyard_core::failure::Cause;
use modelyard_monitor::narrate;
use story::{CANDIDATE, STABLE, Story, ada, desired, failure, instance, promoted, taken_back};

/// Events that the stories do not hold.
fn others() -> Vec<Event> {
    let mut story = Story::new();
    story.begin("wine-2");
    story.tell(0, EventBody::ControlStopped);
    story.tell(0, EventBody::GatewayAdopted { pid: 12 });
    story.tell(0, EventBody::GatewayLost { why: "no answer within 2 s: connection refused (os error 111)".to_owned() });
    let machine: modelyard_core::machine::MachineId = "prod/alpha".parse().unwrap();
    story.tell(0, EventBody::MachineLost { machine: machine.clone(), why: "Connection refused".to_owned() });
    story.tell(0, EventBody::MachineBack { machine: machine.clone(), after_ms: 62_000 });
    story.tell(0, EventBody::MachineLeft { machine });
    story.tell(0, EventBody::DesiredSet { desired: desired(0) });
    story.tell(0, EventBody::DesiredSet { desired: Default::default() });
    for order in [Order::Promote { all: false }, Order::Pause, Order::Resume, Order::Abort] {
        story.tell_by(0, ada(), EventBody::Ordered { order });
    }
    story.tell_by(
        0,
        ada(),
        EventBody::OrderRefused { order: Order::Resume, why: "the rollout is not paused".to_owned() },
    );
    story.tell(0, EventBody::InstanceAdopted { instance: instance("wine-r1-1"), revision: STABLE });
    story.tell(0, EventBody::RouteApplied { generation: 3, weights: Default::default() });
    story.tell(0, EventBody::Measured { revisions: Default::default() });
    let mut of_all = failure(Cause::ErrorRate, 1, "4.2 % of 500 answers were errors; 1 % is allowed", &[]);
    of_all.instance = None;
    story.tell(0, EventBody::Failed { failure: of_all });
    story.tell_by(
        0,
        ada(),
        EventBody::RolloutFinished { outcome: Outcome::Aborted, cause: None, failure: None, stable: Some(STABLE) },
    );
    let (strategy, state) = ("recreate".to_owned(), serde_json::Value::Null);
    story.tell_by(0, ada(), EventBody::RolloutStarted { strategy, stable: None, candidate: CANDIDATE, state });
    story.tell_by(0, Actor::Controller, EventBody::ServiceRemoved);
    story.events
}

#[test]
fn each_event_is_one_sentence() {
    let mut sentences: Vec<String> = Vec::new();
    for event in taken_back().iter().chain(&promoted()).chain(&others()) {
        let sentence = narrate(event);
        assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{sentence}");
        if !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
    insta::assert_snapshot!("sentences", sentences.join("\n"));
}

#[test]
fn hostile_text_stays_on_its_line() {
    let mut story = Story::new();
    let why = format!("a\nb\x1b[31m{}", "x".repeat(10_000));
    story.tell(0, EventBody::GatewayLost { why });
    let sentence = narrate(&story.events[0]);
    assert!(sentence.chars().count() < 700 && sentence.chars().all(|c| !c.is_control()), "{sentence}");
}
