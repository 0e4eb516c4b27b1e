//! A small world for tests: everything real but the target, the gateway, the packages and the probes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use modelyard_core::event::{Actor, Event, EventBody};
use modelyard_core::failure::Cause;
use modelyard_core::measure::{GatewayReport, PoolReport};
use modelyard_core::package::Package;
use modelyard_core::ports::{Clock, PortFuture, Target};
use modelyard_core::route::RouteTable;
use modelyard_core::service::ServiceSpec;
use modelyard_core::{Digest, InstanceId, RevisionNumber, RolloutId, ServiceName, Timestamp, Weight};
use modelyard_targets::fake::FakeTarget;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::controller::{Controller, Ports};
use crate::evidence::{Book, Places, Retention};
use crate::gateway::{self, Gateway};
use crate::ledger::{Ledger, lock};
use crate::orders::{Accepted, Deploy, Orders};
use crate::packages::{PackageError, Packages};
use crate::prober::{Asker, Check, Reply};
use crate::store::{Query, Store};

/// The machine's clock.
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
    }
}

/// Packages by digest: `n` is version `n.0.0`.
pub struct FakePackages(Mutex<BTreeMap<Digest, Arc<Package>>>);

pub fn digest(n: u8) -> Digest {
    Digest::from_sha256([n; 32])
}

pub fn package(n: u8, datatype: &str) -> Package {
    let tensor = |name: &str, datatype: &str| json!({"name": name, "datatype": datatype, "shape": [-1, 13]});
    let document = json!({
        "format_version": 1, "name": "wine", "version": format!("{n}.0.0"),
        "runtime": {"kind": "onnx", "model": "model.onnx"},
        "signature": {"inputs": [tensor("x", datatype)], "outputs": [tensor("y", "INT64")]},
        "flags": {"strict": {"type": "boolean", "default": false}},
        "files": {},
    });
    serde_json::from_value(document).unwrap()
}

impl Packages for FakePackages {
    fn document(&self, digest: Digest) -> PortFuture<'_, Result<Arc<Package>, PackageError>> {
        let found = lock(&self.0).get(&digest).cloned();
        Box::pin(async move { found.ok_or(PackageError { digest, why: "it is not in the registry".into() }) })
    }

    fn folder(&self, _: Digest) -> PortFuture<'_, Result<PathBuf, PackageError>> {
        Box::pin(async { Ok(PathBuf::from("/nowhere")) })
    }
}

/// Answers probes as a test says; right by default.
#[derive(Default)]
pub struct FakeAsker(Mutex<BTreeMap<String, Reply>>);

impl FakeAsker {
    /// Instances whose id contains `part` answer like this from now on.
    pub fn say(&self, part: &str, reply: Reply) {
        lock(&self.0).insert(part.to_owned(), reply);
    }
}

impl Asker for FakeAsker {
    fn ask<'a>(&'a self, id: &'a InstanceId, _: &'a Check, _: bool) -> PortFuture<'a, Reply> {
        let said = lock(&self.0).iter().find(|(part, _)| id.as_str().contains(*part)).map(|(_, reply)| reply.clone());
        Box::pin(async { said.unwrap_or(Reply::Live) })
    }
}

/// A gateway in memory. Each report finds twenty more requests answered, spread by the applied weights, told of where a tap asks for it (every
/// third answer of revision 1 is an error there), and copied to shadows, which answer the same.
#[derive(Default)]
pub struct FakeGateway(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    table: RouteTable,
    report: GatewayReport,
    failing: BTreeSet<RevisionNumber>,
    gone: bool,
    /// Where taps are written, and how many lines were.
    spool: Option<PathBuf>,
    told: u64,
    /// Splits that were ever applied to a service, in order.
    splits: Vec<BTreeMap<RevisionNumber, Weight>>,
}

impl FakeGateway {
    /// Every answer of this revision is an error.
    pub fn fail(&self, revision: u32) {
        lock(&self.0).failing.insert(RevisionNumber(revision));
    }

    /// It tells taps there.
    pub fn tell_into(&self, spool: PathBuf) {
        lock(&self.0).spool = Some(spool);
    }

    /// It answers nobody.
    pub fn vanish(&self, gone: bool) {
        lock(&self.0).gone = gone;
    }

    /// Another process takes its place: counts begin at zero, the last table is still there.
    pub fn restart(&self) {
        let mut inside = lock(&self.0);
        let (epoch, generation) = (inside.report.epoch + 1, inside.report.generation);
        inside.report = GatewayReport { epoch, generation, ..GatewayReport::default() };
    }

    /// It applies another table of the number that the next one would have.
    pub fn cut_off_everybody(&self) {
        let mut inside = lock(&self.0);
        inside.report.generation += 1;
        inside.table = RouteTable { generation: inside.report.generation, ..RouteTable::default() };
    }

    pub fn table(&self) -> RouteTable {
        lock(&self.0).table.clone()
    }

    pub fn splits(&self) -> Vec<BTreeMap<RevisionNumber, Weight>> {
        lock(&self.0).splits.clone()
    }
}

fn unreachable() -> gateway::Error {
    let peer = "the fake".to_owned();
    crate::http_client::Error::Timeout { peer, limit: Duration::from_secs(1) }.into()
}

impl Inside {
    fn answer_requests(&mut self) {
        for (name, route) in &self.table.services {
            let service = self.report.services.entry(name.clone()).or_default();
            let split = route.apis.get(&route.default_api).cloned().unwrap_or_default();
            service.pools.retain(|revision, _| route.pools.contains_key(revision));
            for revision in route.pools.keys() {
                let pool: &mut PoolReport = service.pools.entry(*revision).or_default();
                pool.weight = split.get(revision).copied().unwrap_or_default();
                let requests = u64::from(pool.weight.basis_points()) * 20 / 10_000;
                pool.counters.requests += requests;
                (0..requests).for_each(|_| pool.counters.latency.record(900));
                if self.failing.contains(revision) {
                    pool.counters.errors += requests;
                }
                if let Some(spool) = self.spool.as_ref().filter(|_| route.tap.is_some() && requests > 0) {
                    tell(&spool.join(name.as_str()), *revision, &mut self.told, requests);
                }
            }
            for mirror in &route.mirrors {
                let copies = service.mirrors.entry(mirror.revision).or_default();
                copies.sent += 20;
                (copies.compared, copies.exact, copies.agreed) = (copies.sent, copies.sent, copies.sent);
                (0..20).for_each(|_| copies.latency.record(900));
            }
        }
        let table = &self.table;
        self.report.services.retain(|name, _| table.services.contains_key(name));
    }
}

/// Writes a segment, as a gateway does: complete from the moment that it has its name.
fn tell(folder: &std::path::Path, revision: RevisionNumber, told: &mut u64, requests: u64) {
    let at_ms = RealClock.now().0;
    let line = |n: u64| {
        let status = if revision == RevisionNumber(1) && n.is_multiple_of(3) { 500 } else { 200 };
        let line = json!({"line": "answer", "id": format!("{at_ms}-{n}"), "at_ms": at_ms, "revision": revision, "status": status,
            "micros": 900, "path": "/v2/models/wine/infer"});
        format!("{line}\n")
    };
    let text: String = (0..requests).map(|n| line(*told + n)).collect();
    *told += requests;
    std::fs::create_dir_all(folder).unwrap();
    let (writing, whole) = (folder.join("writing"), folder.join(format!("{at_ms:014}{:06}.jsonl", *told % 1_000_000)));
    std::fs::write(&writing, text).unwrap();
    std::fs::rename(writing, whole).unwrap();
}

impl Gateway for FakeGateway {
    fn report(&self) -> PortFuture<'_, Result<GatewayReport, gateway::Error>> {
        let mut inside = lock(&self.0);
        inside.answer_requests();
        let report = if inside.gone { Err(unreachable()) } else { Ok(inside.report.clone()) };
        Box::pin(async { report })
    }

    fn push<'a>(&'a self, table: &'a RouteTable) -> PortFuture<'a, Result<(), gateway::Error>> {
        let mut inside = lock(&self.0);
        if inside.gone {
            return Box::pin(async { Err(unreachable()) });
        }
        table.check().unwrap();
        if table.generation < inside.report.generation {
            return Box::pin(async { Err(gateway::Error::Older) });
        }
        inside.report.generation = table.generation;
        inside.table = table.clone();
        for route in table.services.values() {
            let split = route.apis[&route.default_api].clone();
            if inside.splits.last() != Some(&split) {
                inside.splits.push(split);
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn revive(&self) -> PortFuture<'_, Result<Option<u32>, gateway::Error>> {
        Box::pin(async { Ok(None) })
    }
}

/// What outlives a control plane.
pub struct Rig {
    pub folder: tempfile::TempDir,
    pub target: Arc<FakeTarget>,
    pub gateway: Arc<FakeGateway>,
    pub packages: Arc<FakePackages>,
    pub asker: Arc<FakeAsker>,
}

/// One life of a control plane.
pub struct Life {
    pub ledger: Arc<Ledger>,
    pub orders: Orders,
    pub controller: Controller,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Rig {
    pub fn new() -> Self {
        let packages = (1..=9).map(|n| (digest(n), Arc::new(package(n, "FP32")))).collect();
        Self {
            folder: tempfile::tempdir().unwrap(),
            target: Arc::new(FakeTarget::new()),
            gateway: Arc::default(),
            packages: Arc::new(FakePackages(Mutex::new(packages))),
            asker: Arc::default(),
        }
    }

    pub fn add_package(&self, n: u8, package: Package) {
        lock(&self.packages.0).insert(digest(n), Arc::new(package));
    }

    pub fn start(&self) -> Life {
        let store = Store::open(&self.folder.path().join("modelyard.sqlite")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let ledger = Arc::new(Ledger::open(store, Arc::clone(&clock)).unwrap());
        let target: Arc<dyn Target> = self.target.clone();
        let places = Places {
            file: self.folder.path().join("evidence.sqlite"),
            spool: self.folder.path().join("tap"),
            retention: Retention::default(),
            settle: Duration::from_millis(200),
            capture: self.folder.path().join("capture"),
            capture_span: modelyard_monitor::capture::SPAN,
        };
        let ports = Ports {
            target,
            packages: self.packages.clone(),
            asker: self.asker.clone(),
            book: Arc::new(Book::open(places, Arc::clone(&clock)).unwrap()),
            session_key: "5e".repeat(32).into(),
            clock,
        };
        let controller = Controller::new(Arc::clone(&ledger), &ports);
        let orders = Orders::new(Arc::clone(&ledger), self.packages.clone(), self.target.clone());
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(controller.clone().run(self.gateway.clone(), stop.subscribe()));
        Life { ledger, orders, controller, stop, task }
    }
}

pub fn wine() -> ServiceName {
    ServiceName::new("wine").unwrap()
}

/// Rules with short times: a canary of 10 % and the whole, or what `change` makes of them.
pub fn spec(change: serde_json::Value) -> ServiceSpec {
    let mut spec = json!({
        "name": "wine", "instances": 2,
        "strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "100ms"},
        "analysis": {"min-requests": 3, "window": "1s", "startup-timeout": "5s"},
        "routing": {"drain": "2s"},
    });
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

impl Life {
    pub async fn deploy(&self, n: u8, spec: ServiceSpec) -> Accepted {
        let actor = Actor::Person("ada".into());
        self.orders.deploy(&wine(), Deploy { spec, package: digest(n), arms: Vec::new(), actor }).await.unwrap()
    }

    /// Deploys and waits for the outcome.
    pub async fn settle(&self, n: u8, spec: ServiceSpec) -> (String, Option<Cause>) {
        let accepted = self.deploy(n, spec).await;
        self.outcome(&accepted.rollout.unwrap()).await
    }

    pub async fn outcome(&self, rollout: &RolloutId) -> (String, Option<Cause>) {
        self.until(&format!("the outcome of {rollout}"), |life| {
            let state = life.ledger.service(&wine());
            let record = state.rollouts.iter().find(|record| record.id == *rollout)?.clone();
            Some((record.outcome?.name().to_owned(), record.cause))
        })
        .await
    }

    /// Waits until no rollout is open and only `live` instances are left.
    pub async fn rest(&self, live: usize) {
        self.until(&format!("{live} live instances at rest"), |life| {
            let state = life.ledger.service(&wine());
            (!state.is_busy() && state.instances.len() == live).then_some(())
        })
        .await;
    }

    /// Waits for a condition, looking after every commit; fails with the log after twenty seconds.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let mut head = self.ledger.head();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let tick = tokio::time::timeout(Duration::from_millis(50), head.changed());
            let _ = tick.await;
            if tokio::time::Instant::now() > deadline {
                panic!("waited in vain for {what}; the log:\n{}", self.log().await);
            }
        }
    }

    pub async fn events(&self) -> Vec<Event> {
        self.ledger.read(Query::default()).await.unwrap()
    }

    /// The log without figures and states, one line an event.
    pub async fn log(&self) -> String {
        let line = |event: &Event| {
            let mut value = serde_json::to_value(event).unwrap();
            for noise in ["state", "spec", "actor", "revisions"] {
                value.as_object_mut().unwrap().remove(noise);
            }
            value.to_string() + "\n"
        };
        let told = |event: &&Event| !matches!(event.body, EventBody::Measured { .. });
        self.events().await.iter().filter(told).map(line).collect()
    }

    /// Ends this life in order.
    pub async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}
