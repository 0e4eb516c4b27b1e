//! What every target promises, held against each of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use modelyard_core::instance::{InstanceSpec, InstanceState};
use modelyard_core::ports::{Target, TargetError};
use modelyard_targets::fake::FakeTarget;
use support::{Yard, exited, id, running, spec, status};

/// The promises of the port. `spec` gives a spec of a well-behaved instance of that name.
async fn keeps_its_promises(target: &dyn Target, spec: impl Fn(&str) -> InstanceSpec) {
    assert_eq!(target.observe().await.unwrap(), []);
    starts_once_and_tells_where(target, &spec).await;
    refuses_older_asks(target, &spec).await;
    ends_when_asked_and_stays_ended(target, &spec).await;
    forgets_all_but_the_log(target, &spec).await;
    knows_nothing_of_strangers(target).await;
}

async fn starts_once_and_tells_where(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let (one, two) = (spec("wine-r2-1"), spec("wine-r2-2"));
    for _ in 0..3 {
        target.ensure(&one).await.unwrap();
        target.ensure(&two).await.unwrap();
    }
    let first = running(target, &one.id).await;
    running(target, &two.id).await;
    let all = target.observe().await.unwrap();
    assert_eq!(all.iter().map(|status| status.id.as_str()).collect::<Vec<_>>(), ["wine-r2-1", "wine-r2-2"]);
    assert_eq!((&first.service, first.revision), (&one.service, one.revision));
    assert!(first.pid.is_some() && first.memory_bytes.is_some_and(|bytes| bytes > 0), "{first:?}");
    let InstanceState::Running { address, .. } = first.state else { unreachable!() };
    assert!(address.ip().is_loopback());

    target.ensure(&one).await.unwrap();
    assert_eq!(running(target, &one.id).await.pid, first.pid, "asking again started it again");
}

async fn refuses_older_asks(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let one = spec("wine-r2-1");
    let older = InstanceSpec { generation: one.generation - 1, ..one.clone() };
    match target.ensure(&older).await {
        Err(TargetError::Stale { id, seen }) => assert_eq!((id, seen), (one.id.clone(), one.generation)),
        other => panic!("{other:?}"),
    }
    let newer = InstanceSpec { generation: one.generation + 1, ..one };
    target.ensure(&newer).await.unwrap();
}

async fn ends_when_asked_and_stays_ended(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let one = spec("wine-r2-1");
    let busy = target.forget(&one.id).await;
    assert!(matches!(busy, Err(TargetError::Failed { .. })), "forgot what runs: {busy:?}");
    target.stop(&one.id, Duration::from_secs(10)).await.unwrap();
    let exit = exited(target, &one.id).await;
    assert!(exit.asked && !exit.out_of_memory && exit.start_error.is_none(), "{exit:?}");
    target.stop(&one.id, Duration::ZERO).await.unwrap();
    target.ensure(&one).await.unwrap();
    assert_eq!(exited(target, &one.id).await, exit, "an id was started twice");
    running(target, &id("wine-r2-2")).await;
}

async fn forgets_all_but_the_log(target: &dyn Target, spec: &impl Fn(&str) -> InstanceSpec) {
    let one = spec("wine-r2-1");
    target.logs(&one.id, 10).await.unwrap();
    for _ in 0..2 {
        target.forget(&one.id).await.unwrap();
    }
    assert_eq!(status(target, &one.id).await, None);
    target.logs(&one.id, 10).await.unwrap();
    target.ensure(&one).await.unwrap();
    assert_eq!(status(target, &one.id).await, None, "an id was started again after it was forgotten");
}

async fn knows_nothing_of_strangers(target: &dyn Target) {
    let stranger = id("nobody");
    target.stop(&stranger, Duration::ZERO).await.unwrap();
    target.forget(&stranger).await.unwrap();
    let refused = target.logs(&stranger, 10).await.unwrap_err();
    assert!(refused.to_string().contains("`nobody`"), "{refused}");
}

#[tokio::test]
async fn the_process_target_keeps_the_promises() {
    let yard = Yard::new();
    keeps_its_promises(&yard.target, |name| yard.spec(name, &["listen"])).await;
}

#[tokio::test]
async fn the_fake_target_keeps_the_promises() {
    keeps_its_promises(&FakeTarget::new(), |name| spec(name, "/".as_ref(), &[])).await;
}
