//! The control plane's metrics.
#![allow(clippy::unwrap_used, reason = "tests")]

mod story;

use std::io::Write;
use std::process::{Command, Stdio};

use modelyard_core::{RevisionNumber, RolloutId, ServiceName, Timestamp};
use modelyard_monitor::metrics::{ControlMetrics, RolloutInfo, render};
use story::taken_back;

fn filled() -> ControlMetrics {
    let wine = ServiceName::new("wine").unwrap();
    let mut metrics =
        ControlMetrics { started: Timestamp(story::START), gateway_up: true, ..ControlMetrics::default() };
    let info = RolloutInfo { service: "wine".to_owned(), strategy: "canary".to_owned(), phase: "baking".to_owned() };
    metrics.rollouts.insert(RolloutId::new("wine-3").unwrap(), info);
    metrics.instances.insert((wine.clone(), RevisionNumber(1), "live".to_owned()), 2);
    metrics.machines = [("prod/alpha", true), ("prod/beta", false)].map(|(id, up)| (id.parse().unwrap(), up)).into();
    metrics.weights.insert((wine, RevisionNumber(1)), 9_000);
    taken_back().iter().for_each(|event| metrics.note(event));
    metrics
}

#[test]
fn events_are_folded_into_counters() {
    insta::assert_snapshot!("metrics", render(&filled(), "0.1.0"));
}

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_them() {
    for metrics in [filled(), ControlMetrics::default()] {
        let mut promtool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
        promtool.stdin.take().unwrap().write_all(render(&metrics, "0.1.0").as_bytes()).unwrap();
        assert!(promtool.wait().unwrap().success());
    }
}
