//! A gateway's life: tables that change under load, its own restart, its replacement, its end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::caller::Caller;
use common::instance::{Instance, answer};
use common::{Gateway, admin, options, table, table_with, wait_for};
use modelyard_core::RevisionNumber;
use modelyard_gateway::{Error, run};

const PATH: &str = "/v2/models/wine/infer";

/// Callers who ask on and on, half of them on kept connections, and accept no failure.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, callers: usize) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |number: usize| {
            let (stop, count) = (stop.clone(), count.clone());
            std::thread::spawn(move || {
                let mut caller = Caller::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let reply = caller.send("POST", PATH, "", b"{}").unwrap();
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    count.fetch_add(1, Ordering::SeqCst);
                    // A connection is kept as long as the gateway does not say that it closes it.
                    if number.is_multiple_of(2) || reply.header("connection") == "close" {
                        caller = Caller::connect(address);
                    }
                }
            })
        };
        let threads = (0..callers).map(one).collect();
        Self { stop, count, threads }
    }

    /// Waits for so many more answers.
    fn more(&self, answers: u64) {
        let until = self.count.load(Ordering::SeqCst) + answers;
        wait_for("more answers", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a caller failed");
            (self.count.load(Ordering::SeqCst) >= until).then_some(())
        });
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.count.load(Ordering::SeqCst)
    }
}

#[test]
fn weights_and_instances_change_under_load_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let mut old = Instance::answering("old");
    gateway.put(&table(1, &[(1, 10_000, &[old.address])]));
    let load = Load::start(gateway.address, 8);
    let mut generation = 1;
    for revision in 2..12 {
        let new = Instance::answering("new");
        for weight in [0, 1_000, 5_000, 10_000] {
            generation += 1;
            let pools = [(revision - 1, 10_000 - weight, &[old.address][..]), (revision, weight, &[new.address][..])];
            gateway.put(&table(generation, &pools));
            load.more(20);
        }
        generation += 1;
        gateway.put(&table(generation, &[(revision, 10_000, &[new.address])]));
        // The promise that lets the control plane stop an instance: applied, and nothing in flight.
        let gone = RevisionNumber(revision - 1);
        wait_for("the old pool's last request", || {
            let report = gateway.report();
            report
                .services
                .values()
                .next()
                .unwrap()
                .pools
                .get(&gone)
                .is_none_or(|pool| pool.in_flight() == 0)
                .then_some(())
        });
        let before = old.count();
        old.kill();
        load.more(20);
        assert_eq!(old.count(), before, "a request came after the table said otherwise");
        old = new;
    }
    let total = load.end();
    let report = gateway.report();
    let service = report.services.values().next().unwrap();
    assert_eq!((service.requests, service.failed), (total, 0));
    gateway.end();
}

#[test]
fn an_instance_that_left_finishes_what_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let go = Arc::new(AtomicBool::new(false));
    let wait = go.clone();
    let slow = Instance::start(move |stream, _| {
        wait_for("the test", || wait.load(Ordering::SeqCst).then_some(()));
        answer(stream, 200, "slow")
    });
    let other = Instance::answering("other");
    gateway.put(&table(1, &[(1, 10_000, &[slow.address])]));
    let address = gateway.address;
    let asking = std::thread::spawn(move || Caller::connect(address).post(PATH, b"{}"));
    wait_for("the request", || (slow.count() == 1).then_some(()));
    gateway.put(&table(2, &[(2, 10_000, &[other.address])]));
    let in_flight = || {
        let report = gateway.report();
        report.services.values().next().unwrap().pools.get(&RevisionNumber(1)).map_or(0, |pool| pool.in_flight())
    };
    assert_eq!(in_flight(), 1);
    assert_eq!(Caller::connect(address).post(PATH, b"{}").text(), "other");
    go.store(true, Ordering::SeqCst);
    assert_eq!(asking.join().unwrap().text(), "slow");
    wait_for("the end of the drain", || (in_flight() == 0).then_some(()));
    gateway.end();
}

#[test]
fn a_successor_takes_over_under_load_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let address = gateway.address;
    let load = Load::start(address, 8);
    for generation in 2..5 {
        load.more(100);
        let mut options = gateway.options.clone();
        options.takeover = true;
        options.listen = address;
        options.threads = generation as usize; // any number of threads takes over from any other
        let successor = Gateway::with(options);
        assert_eq!(successor.address, address);
        load.more(100);
        // The old one is told tables by the new one while it drains.
        successor.put(&table(generation, &[(generation as u32, 10_000, &[instance.address])]));
        load.more(100);
        gateway.wait();
        gateway = successor;
        load.more(100);
    }
    assert!(load.end() > 1_000);
    assert!(gateway.options.running.exists(), "the document is the successor's");
    assert_eq!(gateway.report().generation, 4);
    gateway.end();
}

#[test]
fn what_the_old_gateway_has_under_way_shows_in_the_new_one_s_report() {
    let folder = tempfile::tempdir().unwrap();
    let old = Gateway::start(folder.path());
    let go = Arc::new(AtomicBool::new(false));
    let wait = go.clone();
    let slow = Instance::start(move |stream, _| {
        wait_for("the test", || wait.load(Ordering::SeqCst).then_some(()));
        answer(stream, 200, "slow")
    });
    old.put(&table(1, &[(1, 10_000, &[slow.address])]));
    let address = old.address;
    let asking = std::thread::spawn(move || Caller::connect(address).post(PATH, b"{}"));
    wait_for("the request", || (slow.count() == 1).then_some(()));
    let mut options = old.options.clone();
    options.takeover = true;
    let new = Gateway::with(options);
    let in_flight = || new.report().services.values().next().unwrap().pools[&RevisionNumber(1)].in_flight();
    assert_eq!(in_flight(), 1);
    go.store(true, Ordering::SeqCst);
    let reply = asking.join().unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    wait_for("nothing in flight", || (in_flight() == 0).then_some(()));
    old.wait();
    new.end();
}

#[test]
fn the_last_good_table_serves_after_a_restart_without_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let instance = Instance::answering("ok");
    let gateway = Gateway::start(folder.path());
    gateway.put(&table(7, &[(1, 10_000, &[instance.address])]));
    gateway.end();
    assert!(!folder.path().join("gateway.json").exists(), "a clean end leaves no trace");
    assert!(!folder.path().join("admin.sock").exists());
    let gateway = Gateway::start(folder.path());
    assert_eq!(Caller::connect(gateway.address).post(PATH, b"{}").text(), "ok");
    assert_eq!(gateway.report().generation, 7);
    gateway.end();
}

#[test]
fn a_table_of_the_first_form_still_serves() {
    let folder = tempfile::tempdir().unwrap();
    let instance = Instance::answering("ok");
    // As gateways wrote it before there was affinity.
    let table = format!(
        r#"{{"format_version":1,"generation":7,"services":{{"wine":{{"default_api":1,"apis":{{"1":{{"3":10000}}}},
            "pools":{{"3":{{"version":"1.0.0","instances":{{"wine-r3-1":"{}"}}}}}},"park":true,
            "routing":{{"timeout":"60s","park":"30s","park-limit":1024,"retries":2,"retry-budget-percent":20,"drain":"30s"}}}}}}}}"#,
        instance.address
    );
    let state = common::options(folder.path()).state_dir;
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("routes.json"), &table).unwrap();
    let gateway = Gateway::start(folder.path());
    let reply = Caller::connect(gateway.address).post(PATH, b"{}");
    assert_eq!((reply.status, reply.header("modelyard-revision")), (200, "3"));
    assert_eq!(gateway.report().generation, 7);
    // The control plane of before may go on with it, and today's may follow.
    assert_eq!(gateway.admin("PUT", "/routes", &table.replace(r#""generation":7"#, r#""generation":8"#)).0, 200);
    gateway.put(&common::table(9, &[(3, 10_000, &[instance.address])]));
    let newer = table.replace(r#""format_version":1"#, r#""format_version":99"#);
    let (status, why) = gateway.admin("PUT", "/routes", &newer);
    assert!(status == 422 && why.contains("form 99"), "{status} {why}");
    gateway.end();
}

#[test]
fn tables_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    gateway.put(&table(5, &[(1, 10_000, &[instance.address])]));
    gateway.put(&table(5, &[(1, 10_000, &[instance.address])]));
    let put = |table: &modelyard_core::route::RouteTable| {
        gateway.admin("PUT", "/routes", &serde_json::to_string(table).unwrap())
    };
    let (status, why) = put(&table(4, &[]));
    assert!(status == 409 && why.contains("generation 4"), "{status} {why}");
    assert_eq!(put(&table(5, &[])).0, 409, "another table of the same generation");
    let (status, why) = put(&table(6, &[(1, 9_999, &[instance.address])]));
    assert!(status == 422 && why.contains("9999"), "{status} {why}");
    let (status, why) = put(&table(6, &[(1, 10_000, &[])]));
    assert!(status == 422 && why.contains("no instance"), "{status} {why}");
    assert_eq!(gateway.admin("PUT", "/routes", "{").0, 422);
    assert_eq!(gateway.admin("GET", "/nope", "").0, 404);
    let (_, routes) = gateway.admin("GET", "/routes", "");
    assert!(routes.contains(r#""generation":5"#), "{routes}");
    let (_, health) = gateway.admin("GET", "/health", "");
    assert!(health.contains(&format!(r#""pid":{}"#, std::process::id())), "{health}");
    assert_eq!(std::fs::metadata(&gateway.options.admin).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.end();
}

#[test]
fn a_second_gateway_does_not_push_the_first_aside() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let again = run(options(folder.path())).unwrap_err();
    assert!(matches!(again, Error::AlreadyRuns(_)), "{again}");
    let other = tempfile::tempdir().unwrap();
    let mut same_port = options(other.path());
    same_port.listen = gateway.address;
    let taken = run(same_port).unwrap_err();
    assert!(matches!(taken, Error::Listen { .. }), "{taken}");
    let mut nobody = options(other.path());
    nobody.takeover = true;
    let error = run(nobody).unwrap_err().to_string();
    assert!(error.contains("without --takeover"), "{error}");
    gateway.end();
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut options = gateway.options.clone();
    options.takeover = true;
    options.listen = "127.0.0.1:1".parse().unwrap();
    let error = run(options).unwrap_err().to_string();
    assert!(error.contains("not on 127.0.0.1:1"), "{error}");
    assert_eq!(Caller::connect(gateway.address).post(PATH, b"{}").text(), "ok");
    assert!(!gateway.admin("GET", "/health", "").1.contains(r#""draining":true"#));
    gateway.end();
}

#[test]
fn a_drain_finishes_what_runs_and_tells_callers_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let go = Arc::new(AtomicBool::new(false));
    let wait = go.clone();
    let slow = Instance::start(move |stream, _| {
        wait_for("the test", || wait.load(Ordering::SeqCst).then_some(()));
        answer(stream, 200, "slow")
    });
    gateway.put(&table_with(1, &[(1, 10_000, &[slow.address])], |_| {}));
    let (address, socket) = (gateway.address, gateway.options.admin.clone());
    let asking = std::thread::spawn(move || Caller::connect(address).post(PATH, b"{}"));
    wait_for("the request", || (slow.count() == 1).then_some(()));
    assert_eq!(admin(&socket, "POST", "/drain", "").0, 202);
    wait_for("a closed door", || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err().then_some(())
    });
    go.store(true, Ordering::SeqCst);
    let reply = asking.join().unwrap();
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("slow", "close"));
    gateway.wait();
}
