//! Instances that die, fail, stall or talk nonsense, and what callers see of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::caller::Caller;
use common::instance::{Instance, answer, reset};
use common::{Gateway, PATIENCE, table, table_with, wait_for};
use modelyard_core::measure::Counters;
use modelyard_core::{Millis, RevisionNumber};

const PATH: &str = "/v2/models/wine/infer";

fn counters(gateway: &Gateway, revision: u32) -> Counters {
    let report = gateway.report();
    report.services.values().next().unwrap().pools[&RevisionNumber(revision)].counters.clone()
}

#[test]
fn a_request_whose_instance_dies_is_answered_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let good = Instance::answering("good");
    let dying = Instance::start(|stream, _| {
        reset(stream);
        false
    });
    gateway.put(&table(1, &[(1, 0, &[good.address]), (2, 10_000, &[dying.address])]));
    let mut caller = Caller::connect(gateway.address);
    let reply = caller.post(PATH, b"{}");
    assert_eq!((reply.status, reply.text().as_str(), reply.header("modelyard-revision")), (200, "good", "1"));
    let counted = counters(&gateway, 2);
    assert_eq!((counted.requests, counted.errors, counted.retried), (1, 1, 1));
    assert_eq!(counters(&gateway, 1).requests, 1);
    gateway.end();
}

#[test]
fn half_an_answer_s_head_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let good = Instance::answering("good");
    let dying = Instance::start(|stream, _| {
        use std::io::Write;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap();
        false
    });
    gateway.put(&table(1, &[(1, 10_000, &[good.address, dying.address])]));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..20 {
        assert_eq!(caller.post(PATH, b"{}").text(), "good");
    }
    assert!(counters(&gateway, 1).retried > 0);
    gateway.end();
}

#[test]
fn half_a_short_body_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let good = Instance::answering("good");
    let dying = Instance::start(|stream, _| {
        use std::io::Write;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nba").unwrap();
        false
    });
    gateway.put(&table(1, &[(1, 10_000, &[good.address, dying.address])]));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..20 {
        assert_eq!(caller.post(PATH, b"{}").text(), "good");
    }
    let counted = counters(&gateway, 1);
    assert!(counted.retried > 0 && counted.retried == counted.errors, "{counted:?}");
    gateway.end();
}

#[test]
fn killed_under_load_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let slow = |stream: &mut std::net::TcpStream, _: &common::instance::Seen| {
        std::thread::sleep(Duration::from_millis(2)); // a model at work, so that requests are under way when it dies
        answer(stream, 200, "ok")
    };
    let (doomed, other) = (Instance::start(slow), Instance::start(slow));
    gateway.put(&table(1, &[(1, 10_000, &[doomed.address, other.address])]));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let (stop, address) = (stop.clone(), gateway.address);
            std::thread::spawn(move || {
                let (mut kept, mut count) = (Caller::connect(address), 0u32);
                while !stop.load(Ordering::SeqCst) {
                    let mut fresh = (number % 2 == 0).then(|| Caller::connect(address));
                    let reply = fresh.as_mut().unwrap_or(&mut kept).post(PATH, b"{}");
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    count += 1;
                }
                count
            })
        })
        .collect();
    wait_for("load on both", || (doomed.count() > 50 && other.count() > 50).then_some(()));
    doomed.kill();
    let after = other.count();
    wait_for("load on the other", || (other.count() > after + 200).then_some(()));
    stop.store(true, Ordering::SeqCst);
    let total: u32 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    let report = gateway.report();
    let service = report.services.values().next().unwrap();
    assert_eq!((service.requests, service.failed), (u64::from(total), 0));
    let ejected = service.pools[&RevisionNumber(1)].instances.values().filter(|instance| instance.ejected).count();
    assert_eq!(ejected, 1);
    gateway.end();
}

#[test]
fn server_errors_are_retried_and_the_last_one_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let good = Instance::answering("good");
    let bad = Instance::start(|stream, _| answer(stream, 500, "boom"));
    gateway.put(&table(1, &[(1, 10_000, &[good.address, bad.address])]));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..50 {
        assert_eq!(caller.post(PATH, b"{}").text(), "good");
    }
    assert!(bad.count() > 0);
    good.behave(|stream, _| answer(stream, 503, "busy"));
    let reply = caller.post(PATH, b"{}");
    assert!([500, 503].contains(&reply.status), "{reply:?}");
    assert_eq!(gateway.report().services.values().next().unwrap().failed, 1);
    let not_found = Instance::start(|stream, _| answer(stream, 404, "no"));
    gateway.put(&table(2, &[(3, 10_000, &[not_found.address, good.address])]));
    wait_for("a refusal", || (caller.post(PATH, b"{}").status == 404).then_some(()));
    assert!(counters(&gateway, 3).refused > 0);
    gateway.end();
}

#[test]
fn an_address_where_nobody_listens_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (good, gone) = (Instance::answering("good"), Instance::answering("gone"));
    gone.kill();
    gateway.put(&table(1, &[(1, 10_000, &[good.address, gone.address])]));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..50 {
        assert_eq!(caller.post(PATH, b"{}").text(), "good");
    }
    let counted = counters(&gateway, 1);
    assert!(counted.errors <= 2, "ejected at once, then left alone: {}", counted.errors);
    assert_eq!(counted.errors, counted.retried);
    gateway.end();
}

#[test]
fn when_nobody_can_be_reached_the_caller_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let gone = Instance::answering("gone");
    gone.kill();
    gateway.put(&table(1, &[(1, 10_000, &[gone.address])]));
    let reply = Caller::connect(gateway.address).post(PATH, b"{}");
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
    assert!(reply.text().contains("cannot be reached"), "{}", reply.text());
    let nonsense = Instance::start(|stream, _| {
        use std::io::Write;
        stream.write_all(b"220 mail.test ESMTP\r\n").is_ok()
    });
    gateway.put(&table(2, &[(2, 10_000, &[nonsense.address])]));
    let reply = Caller::connect(gateway.address).post(PATH, b"{}");
    assert!(reply.status == 502 && reply.text().contains("no valid HTTP"), "{reply:?}");
    gateway.end();
}

#[test]
fn what_takes_too_long_is_not_sent_twice() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stuck = || {
        Instance::start(|stream, _| {
            use std::io::Read;
            let _ = stream.read(&mut [0]); // answers never; ends when the gateway gives up
            false
        })
    };
    let (one, two) = (stuck(), stuck());
    gateway.put(&table_with(1, &[(1, 10_000, &[one.address, two.address])], |route| {
        route.routing.timeout = Millis(150);
    }));
    let reply = Caller::connect(gateway.address).post(PATH, b"{}");
    assert_eq!(reply.status, 504);
    assert!(reply.text().contains("150 ms"), "{}", reply.text());
    assert_eq!(one.count() + two.count(), 1);
    assert_eq!(counters(&gateway, 1).errors, 1);
    gateway.end();
}

#[test]
fn a_kept_connection_that_was_closed_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    // Without retries: what is tested is not one.
    gateway.put(&table_with(1, &[(1, 10_000, &[instance.address])], |route| route.routing.retries = 0));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..20 {
        assert_eq!(caller.post(PATH, b"{}").status, 200);
        instance.close_connections();
    }
    // The harder case: it closes as the request arrives.
    let before = Arc::new(AtomicBool::new(true));
    let first = before.clone();
    instance
        .behave(move |stream, _| if first.swap(false, Ordering::SeqCst) { false } else { answer(stream, 200, "ok") });
    before.store(false, Ordering::SeqCst);
    assert_eq!(caller.post(PATH, b"{}").status, 200, "a connection is kept now");
    before.store(true, Ordering::SeqCst);
    assert_eq!(caller.post(PATH, b"{}").status, 200);
    assert_eq!(counters(&gateway, 1).errors, 0);
    gateway.end();
}

#[test]
fn a_body_beyond_the_bound_is_sent_once() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let dies = || {
        Instance::start(|stream, _| {
            reset(stream);
            false
        })
    };
    let (one, two) = (dies(), dies());
    gateway.put(&table(1, &[(1, 10_000, &[one.address, two.address])]));
    let reply = Caller::connect(gateway.address).post(PATH, &vec![b'x'; 3 << 20]);
    assert_eq!(reply.status, 502);
    assert_eq!(one.count() + two.count(), 1);
    let small = Caller::connect(gateway.address).post(PATH, &vec![b'x'; 512 << 10]);
    assert_eq!(small.status, 502);
    assert_eq!(one.count() + two.count(), 3, "both were asked");
    gateway.end();
}

#[test]
fn retries_have_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let bad = || Instance::start(|stream, _| answer(stream, 500, "boom"));
    let (one, two) = (bad(), bad());
    gateway.put(&table_with(1, &[(1, 10_000, &[one.address, two.address])], |route| {
        route.routing.retry_budget_percent = 10
    }));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..1_000 {
        assert_eq!(caller.post(PATH, b"{}").status, 500);
    }
    let retries = one.count() + two.count() - 1_000;
    assert!((50..=164).contains(&retries), "a tenth, and the floor of each of two threads: {retries}");
    gateway.end();
}

#[test]
fn requests_wait_while_nothing_serves_and_go_on_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    let empty = |generation, park: bool| {
        table_with(generation, &[(1, 0, &[])], |route| {
            route.park = park;
            route.routing.park_limit = 2;
            route.routing.park = Millis(60_000);
        })
    };
    gateway.put(&empty(1, true));
    let address = gateway.address;
    let waiting: Vec<_> =
        (0..2).map(|_| std::thread::spawn(move || Caller::connect(address).post(PATH, b"{}"))).collect();
    let parked = || gateway.report().services.values().next().unwrap().parked;
    wait_for("two parked requests", || (parked() == 2).then_some(()));
    let third = Caller::connect(address).post(PATH, b"{}");
    assert_eq!((third.status, third.header("retry-after")), (503, "1"), "there is room for two");
    let began = Instant::now();
    gateway.put(&table(2, &[(1, 10_000, &[instance.address])]));
    for reply in waiting {
        assert_eq!(reply.join().unwrap().status, 200);
    }
    assert!(began.elapsed() < PATIENCE / 4, "woken, not timed out");
    assert_eq!(parked(), 0);
    gateway.put(&empty(3, false));
    assert_eq!(Caller::connect(address).post(PATH, b"{}").status, 503);
    gateway.put(&table_with(4, &[(1, 0, &[])], |route| {
        route.park = true;
        route.routing.park = Millis(100);
    }));
    let reply = Caller::connect(address).post(PATH, b"{}");
    assert!(reply.status == 503 && reply.text().contains("nothing serves"), "{reply:?}");
    gateway.end();
}

#[test]
fn a_revision_that_fails_keeps_its_share_for_the_analysis() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let good = Instance::answering("good");
    let bad = Instance::start(|stream, _| answer(stream, 500, "boom"));
    gateway.put(&table_with(1, &[(1, 5_000, &[good.address]), (2, 5_000, &[bad.address])], |route| {
        route.routing.retry_budget_percent = 100;
    }));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..200 {
        assert_eq!(caller.post(PATH, b"{}").text(), "good");
    }
    // 100 expected; six standard deviations are 42.
    let counted = counters(&gateway, 2);
    assert!(counted.requests > 58 && counted.errors == counted.requests, "{counted:?}");
    assert_eq!(counted.retried, counted.errors);
    gateway.end();
}

#[test]
fn of_several_instances_the_failing_one_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(modelyard_gateway::GatewayOptions { threads: 1, ..common::options(folder.path()) });
    let good = Instance::answering("good");
    let bad = Instance::start(|stream, _| answer(stream, 500, "boom"));
    gateway.put(&table(1, &[(1, 10_000, &[good.address, bad.address])]));
    let mut caller = Caller::connect(gateway.address);
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(caller.post(PATH, b"{}").text(), "good");
    }
    // Five in a row eject; on trial after 1, 2, 4 … s one more each.
    let most = 5 + began.elapsed().as_secs() as usize;
    assert!((5..=most).contains(&bad.count()), "{} in {:?}", bad.count(), began.elapsed());
    gateway.end();
}
