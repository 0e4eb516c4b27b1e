//! Rollouts as event logs tell of them, for the tests of what is told of them.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses a part of it")]

use std::collections::BTreeMap;

use modelyard_core::event::{Actor, Event, EventBody, Measurement, Order, Outcome};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::measure::Counters;
use modelyard_core::service::{Desired, Revision, ServiceSpec};
use modelyard_core::{
    Digest, InstanceId, ModelName, RevisionNumber, RolloutId, ServiceName, Timestamp, Version, Weight,
};

pub const START: u64 = 1_795_440_000_000;

pub const STABLE: RevisionNumber = RevisionNumber(1);
pub const CANDIDATE: RevisionNumber = RevisionNumber(2);

/// An event log in the making.
pub struct Story {
    pub events: Vec<Event>,
    now: u64,
    rollout: Option<RolloutId>,
}

impl Story {
    pub fn new() -> Self {
        Self { events: Vec::new(), now: START, rollout: None }
    }

    pub fn tell(&mut self, after_ms: u64, body: EventBody) -> &mut Self {
        self.tell_by(after_ms, Actor::Controller, body)
    }

    pub fn tell_by(&mut self, after_ms: u64, actor: Actor, body: EventBody) -> &mut Self {
        self.now += after_ms;
        let general = matches!(
            body,
            EventBody::ControlStarted { .. }
                | EventBody::ControlStopped
                | EventBody::GatewayStarted { .. }
                | EventBody::GatewayLost { .. }
                | EventBody::MachineLost { .. }
                | EventBody::MachineBack { .. }
                | EventBody::MachineLeft { .. }
        );
        self.events.push(Event {
            seq: self.events.len() as u64 + 1,
            at: Timestamp(self.now),
            service: (!general).then(|| ServiceName::new("wine").unwrap()),
            rollout: self.rollout.clone().filter(|_| !general),
            actor,
            body,
        });
        self
    }

    pub fn begin(&mut self, rollout: &str) -> &mut Self {
        self.rollout = Some(RolloutId::new(rollout).unwrap());
        self
    }
}

pub fn ada() -> Actor {
    Actor::Person("ada".to_owned())
}

pub fn weight(points: u16) -> Weight {
    Weight::new(points).unwrap()
}

pub fn shares(candidate: u16) -> BTreeMap<RevisionNumber, Weight> {
    BTreeMap::from([(STABLE, weight(10_000 - candidate)), (CANDIDATE, weight(candidate))])
}

pub fn revision(number: u32, version: &str) -> EventBody {
    EventBody::RevisionCreated {
        revision: Box::new(Revision {
            number: RevisionNumber(number),
            created: Timestamp(START),
            model: ModelName::new("wine").unwrap(),
            version: Version::new(version).unwrap(),
            package: Digest::from_sha256([number as u8 * 17; 32]),
            image: None,
            flags: BTreeMap::new(),
            configuration: BTreeMap::new(),
            resources: Default::default(),
            api_version: 1,
        }),
    }
}

pub fn spec() -> ServiceSpec {
    serde_json::from_value(serde_json::json!({ "name": "wine", "instances": 2 })).unwrap()
}

pub fn desired(candidate: u16) -> Desired {
    Desired {
        instances: BTreeMap::from([(STABLE, 2), (CANDIDATE, 1)]),
        weights: shares(candidate),
        ..Desired::default()
    }
}

/// A window of figures; latency in µs around `typical`.
pub fn counted(requests: u64, errors: u64, typical: u64) -> Counters {
    let mut counters = Counters { requests, errors, ..Counters::default() };
    for index in 0..requests.saturating_sub(errors) {
        counters
            .latency
            .record(typical + (index * 7_919) % (typical / 2 + 1) + if index % 40 == 0 { typical * 2 } else { 0 });
    }
    counters
}

pub fn measured(candidate: u16, stable: Counters, new: Counters) -> EventBody {
    let of = |share, live, window| Measurement { weight: weight(share), live, window, in_flight: 1 };
    EventBody::Measured {
        revisions: BTreeMap::from([(STABLE, of(10_000 - candidate, 2, stable)), (CANDIDATE, of(candidate, 1, new))]),
    }
}

pub fn instance(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

pub fn failure(cause: Cause, at: u64, detail: &str, evidence: &[&str]) -> Box<Failure> {
    Box::new(Failure {
        cause,
        revision: CANDIDATE,
        instance: Some(instance("wine-r2-3")),
        at: Timestamp(at),
        detail: detail.to_owned(),
        evidence: evidence.iter().map(|&line| line.to_owned()).collect(),
    })
}

fn opening(story: &mut Story, strategy: &str) {
    story.tell(0, EventBody::ControlStarted { pid: 4711, version: "0.1.0".to_owned() });
    story.tell(5, EventBody::GatewayStarted { pid: 4712 });
    story.tell_by(100, ada(), EventBody::ServiceSet { spec: Box::new(spec()) });
    story.tell_by(1, ada(), revision(1, "1.0.0"));
    story.begin("wine-2").tell_by(60_000, ada(), revision(2, "2.0.0"));
    let strategy = strategy.to_owned();
    let state = serde_json::Value::Null;
    story.tell_by(2, ada(), EventBody::RolloutStarted { strategy, stable: Some(STABLE), candidate: CANDIDATE, state });
    step(story, 1, "starting the candidate", 0);
    story.tell(12, EventBody::InstanceStarting { instance: instance("wine-r2-3"), revision: CANDIDATE, machine: None });
    story.tell(412, EventBody::InstanceLive { instance: instance("wine-r2-3"), revision: CANDIDATE, after_ms: 412 });
}

fn step(story: &mut Story, after_ms: u64, phase: &str, candidate: u16) {
    let (phase, state) = (phase.to_owned(), serde_json::Value::Null);
    story.tell(after_ms, EventBody::RolloutStepped { phase, state, desired: desired(candidate) });
}

fn apply(story: &mut Story, after_ms: u64, generation: u64, candidate: u16) {
    story.tell(after_ms, EventBody::RouteApplied { generation, weights: shares(candidate) });
}

fn verdict(story: &mut Story, after_ms: u64, verdict: &str, why: &str, cause: Option<Cause>) {
    story.tell(after_ms, EventBody::Verdict { verdict: verdict.to_owned(), why: why.to_owned(), cause });
}

/// A canary that passes one step, then crashes and is taken back.
pub fn taken_back() -> Vec<Event> {
    let mut story = Story::new();
    opening(&mut story, "canary");
    step(&mut story, 3, "baking at 10 %, step 1 of 4", 1_000);
    apply(&mut story, 4, 7, 1_000);
    for tick in 0..20 {
        story.tell(1_000, measured(1_000, counted(410 + tick * 3 % 17, 0, 2_100), counted(44 + tick % 5, 0, 1_800)));
    }
    verdict(&mut story, 5, "pass", "930 requests, no errors, p95 3.1 ms against 3.6 ms of stable", None);
    step(&mut story, 2, "baking at 25 %, step 2 of 4", 2_500);
    story.tell(
        3,
        EventBody::Retried {
            what: "publish the route table".to_owned(),
            why: "gateway: connection refused (os error 111)".to_owned(),
            attempt: 1,
        },
    );
    apply(&mut story, 204, 8, 2_500);
    for tick in 0..9 {
        let errors = if tick > 5 { 9 * (tick - 5) } else { 0 };
        story.tell(
            1_000,
            measured(2_500, counted(340 + tick, 0, 2_100), counted(112, errors, 1_800 + tick * tick * 120)),
        );
    }
    let why = "it ended by itself with exit code 3 after 31 s, 2 of 3 crashes that make a loop";
    let at = story.now + 31;
    let evidence = [
        "exit: code 3, peak memory 212 MiB",
        "log: loading model.onnx",
        "log: thread 'worker-3' panicked at 'index out of bounds: the len is 13 but the index is 13'",
        "gateway: upstream 127.0.0.1:41877: connection closed before the answer's head: Connection reset by peer (os error 104)",
    ];
    let failed = failure(Cause::Crash, at, why, &evidence);
    story.tell(31, EventBody::Failed { failure: failed.clone() });
    verdict(&mut story, 1, "fail", why, Some(Cause::Crash));
    step(&mut story, 1, "taking the candidate back", 0);
    apply(&mut story, 6, 9, 0);
    story.tell(990, measured(0, counted(452, 0, 2_100), counted(3, 0, 2_600)));
    story.tell(2, EventBody::InstanceDraining { instance: instance("wine-r2-3"), revision: CANDIDATE });
    story.tell(
        40,
        EventBody::InstanceStopped {
            instance: instance("wine-r2-3"),
            revision: CANDIDATE,
            how: "it ended when asked to".to_owned(),
        },
    );
    let (outcome, cause) = (Outcome::RolledBack, Some(Cause::Crash));
    story.tell(1, EventBody::RolloutFinished { outcome, cause, failure: Some(failed), stable: Some(STABLE) });
    story.events
}

/// A rolling rollout that goes through, with a person's word.
pub fn promoted() -> Vec<Event> {
    let mut story = Story::new();
    opening(&mut story, "rolling");
    step(&mut story, 3, "batch 1 of 2", 5_000);
    apply(&mut story, 4, 7, 5_000);
    story.tell_by(900, ada(), EventBody::Ordered { order: Order::Promote { all: true } });
    story.tell(100, measured(5_000, counted(210, 0, 2_100), counted(208, 0, 1_800)));
    step(&mut story, 3, "batch 2 of 2", 10_000);
    apply(&mut story, 4, 8, 10_000);
    story.tell(1_000, measured(10_000, Counters::default(), counted(431, 0, 1_750)));
    story.tell(
        2,
        EventBody::RolloutFinished { outcome: Outcome::Promoted, cause: None, failure: None, stable: Some(CANDIDATE) },
    );
    story.events
}

/// Evidence of a rollout as the log keeps it.
fn evidence(document: serde_json::Value) -> EventBody {
    EventBody::EvidenceSeen { evidence: Box::new(serde_json::from_value(document).unwrap()) }
}

fn begin_with(story: &mut Story, strategy: &str, plan: serde_json::Value) {
    opening(story, strategy);
    for event in &mut story.events {
        if let EventBody::RolloutStarted { state, .. } = &mut event.body {
            *state = serde_json::json!({ "plan": plan.clone() });
        }
    }
}

/// An A/B test that a person could read the end of: two arms, a metric over time, units that were left out, drift.
pub fn tested() -> Vec<Event> {
    let mut story = Story::new();
    let metrics = serde_json::json!([{"name": "accuracy", "kind": "accuracy", "from": "feedback"}]);
    begin_with(&mut story, "ab", serde_json::json!({ "metrics": metrics }));
    step(&mut story, 3, "testing revision 2 against stable", 5_000);
    apply(&mut story, 4, 7, 5_000);
    for look in 1..=6_u64 {
        let arm = |hits: u64| {
            serde_json::json!({"units": 110 * look, "answers": 240 * look,
                "metrics": {"accuracy": {"of": "proportion", "units": 100 * look, "hits": hits * look}}})
        };
        let drift = serde_json::json!([
            {"field": "input features[3]", "seen": 240 * look, "psi": 0.31, "ks": 0.22, "chi_square_p": 0.000_02, "jensen_shannon": 0.08, "reference": "package"},
            {"field": "output label", "seen": 240 * look, "psi": 0.02, "jensen_shannon": 0.004, "reference": "package"},
        ]);
        story.tell(
            2_000,
            evidence(serde_json::json!({"arms": {"1": arm(80), "2": arm(93)}, "excluded_units": 3 * look, "orphaned_feedback": 2,
                "drift": {"2": drift}})),
        );
    }
    let why = "revision 2: `accuracy` is better: +13.00 % (+5.10 % to +20.90 %)";
    verdict(&mut story, 5, "pass", why, None);
    apply(&mut story, 6, 8, 10_000);
    story.tell(
        2,
        EventBody::RolloutFinished { outcome: Outcome::Promoted, cause: None, failure: None, stable: Some(CANDIDATE) },
    );
    story.events
}

/// A shadow whose answers differ, with the pairs that differ most.
pub fn compared() -> Vec<Event> {
    let mut story = Story::new();
    let shadow = serde_json::json!({"kind": "shadow", "agree-on": "labels", "max-disagreement": 0.02, "top-k": 2});
    begin_with(&mut story, "shadow", serde_json::json!({ "strategy": shadow }));
    step(&mut story, 3, "comparing revision 2 with stable", 0);
    let latency = |typical: u64| serde_json::to_value(counted(400, 0, typical).latency).unwrap();
    story.tell(
        5_000,
        evidence(serde_json::json!({"arms": {}, "shadows": {"2": {
            "sent": 420, "shed": 9, "failed": 4, "compared": 400, "exact": 310, "agreed": 352, "incomparable": 7,
            "latency": latency(2_900), "stable_latency": latency(2_100),
            "outputs": {
                "label": {"elements": 400, "agreed": 360, "same_label": 360, "in_top_k": 388, "rows": 400, "largest": 2.0,
                    "difference": {"count": 400, "mean": 0.012, "squares": 40.0}, "distance": {"count": 0, "mean": 0.0, "squares": 0.0}},
                "scores": {"elements": 1200, "agreed": 1_011, "same_label": 371, "in_top_k": 392, "rows": 400, "largest": 0.41,
                    "difference": {"count": 1200, "mean": -0.0031, "squares": 1.0}, "distance": {"count": 400, "mean": 0.043, "squares": 0.9}},
            },
            "worst": [
                {"request_id": "0f3c-1", "what": "output `label` row 0: 2 instead of 0", "difference": 2.0},
                {"request_id": "0f3c-2 | <b>", "what": "output `scores` row 0, column 1: 0.91 instead of 0.50", "difference": 0.41},
            ],
        }}})),
    );
    let why = "revision 2 disagrees in 40 of 400 (10.00 %, 6.21 % to 15.02 %; 2.00 % is allowed)";
    verdict(&mut story, 5, "fail", why, Some(Cause::Disagreement));
    story.tell(
        2,
        EventBody::RolloutFinished { outcome: Outcome::Compared, cause: None, failure: None, stable: Some(STABLE) },
    );
    story.events
}
