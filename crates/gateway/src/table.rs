//! The route table as one thread uses it: services, pools and instances with what was counted and learnt of each.
//!
//! Promises: what was counted and connected survives from table to table; an instance that left keeps only its requests in flight.
//! Absent on purpose: locks. Every value belongs to one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use http::HeaderValue;
use modelyard_core::measure::Counters;
use modelyard_core::route::{RouteTable, ServiceRoute};
use modelyard_core::service::Routing;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Version, Weight};

use crate::affinity::{Sessions, uses_default_cookie};
use crate::mirror::{Registry, Watch};
use crate::policy::budget::Budget;
use crate::policy::ejection::Health;
use crate::policy::split::Split;
use crate::upstream::{h1, h2};
use crate::versions::{Notice, Versions};

/// Pools whose counts are kept after they left the table, per service.
// 64: going back to any of the last revisions goes on with its counts; more would only be memory.
const REMEMBERED: usize = 64;

/// Requests parked per service, counted across all threads; touched only by requests that park.
pub type Parked = Arc<AtomicU32>;

/// One applied table.
#[derive(Default)]
pub struct Table {
    /// Its generation; 0 before the first.
    pub generation: u64,
    /// Its services.
    pub services: HashMap<ServiceName, Rc<Service>>,
    /// API versions that services answer in another one's name.
    pub versions: Versions,
}

impl Table {
    /// Who answers an API version of a name: the service of that name, or another one in its name.
    pub fn at(&self, name: &str, api: Option<u16>) -> Option<&Rc<Service>> {
        let own = self.services.get(name);
        let Some(api) = api.filter(|&api| own.is_none_or(|own| !own.has(api))) else { return own };
        self.versions.further(name, api).and_then(|other| self.services.get(other)).or(own)
    }
}

/// One service.
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its API version for those who name none.
    pub default_api: u16,
    /// Whether requests wait while nothing can serve them.
    pub park: bool,
    /// Time-outs, retries, limits.
    pub routing: Routing,
    /// Pools by revision.
    pub pools: BTreeMap<RevisionNumber, Rc<Pool>>,
    /// Weighted choice by API version.
    pub apis: Vec<(u16, Split<Rc<Pool>>)>,
    /// How its sessions are known.
    pub sessions: Sessions,
    /// What is done beside its requests; nothing for most.
    pub watch: Option<Rc<Watch>>,
    /// What its callers are told, when its API version is deprecated.
    pub notice: Option<Rc<Notice>>,
    /// What survives from table to table.
    pub memory: Rc<ServiceMemory>,
}

impl Service {
    /// Whether it answers this API version.
    pub fn has(&self, api: u16) -> bool {
        self.apis.iter().any(|(known, _)| *known == api)
    }
}

/// What is remembered of a service.
#[derive(Default)]
pub struct ServiceMemory {
    /// Requests from callers.
    pub requests: Cell<u64>,
    /// Requests that callers saw fail.
    pub failed: Cell<u64>,
    /// Requests of this thread that wait.
    pub parked: Cell<u64>,
    /// Requests of all threads that wait.
    pub parked_everywhere: Parked,
    /// What is left of the retries.
    pub budget: RefCell<Budget>,
    /// Counts by revision.
    pools: RefCell<BTreeMap<RevisionNumber, Rc<PoolMemory>>>,
}

/// One pool.
pub struct Pool {
    /// Its revision.
    pub revision: RevisionNumber,
    /// Version of its package.
    pub version: Version,
    /// The revision as a header's value.
    pub revision_value: HeaderValue,
    /// The version as a header's value.
    pub version_value: HeaderValue,
    /// Values of its flags as a header's value, if it has any.
    pub flags: Option<HeaderValue>,
    /// Share of the default API version.
    pub weight: Weight,
    /// Its instances.
    pub instances: Vec<Rc<Instance>>,
    /// Its counts.
    pub memory: Rc<PoolMemory>,
}

/// What was counted of a pool.
#[derive(Default)]
pub struct PoolMemory {
    /// Attempts and latencies.
    pub counters: RefCell<Counters>,
    /// Answers by status code.
    pub codes: RefCell<Vec<(u16, u64)>>,
}

impl PoolMemory {
    /// Counts an answer's status.
    pub fn code(&self, status: u16) {
        let mut codes = self.codes.borrow_mut();
        match codes.iter_mut().find(|(code, _)| *code == status) {
            Some((_, count)) => *count += 1,
            None => codes.push((status, 1)),
        }
    }
}

/// One instance.
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Requests being answered.
    pub in_flight: Cell<u64>,
    /// Attempts sent to it.
    pub requests: Cell<u64>,
    /// Attempts that failed.
    pub errors: Cell<u64>,
    /// What was learnt of its health.
    pub health: Cell<Health>,
    /// Whether it left the table.
    pub gone: Cell<bool>,
    /// HTTP/1.1 connections to it.
    pub h1: h1::Idle,
    /// HTTP/2 connections to it.
    pub h2: h2::Connections,
}

impl Instance {
    /// An instance of which nothing is known yet.
    pub fn new(id: InstanceId, address: SocketAddr) -> Self {
        Self {
            id,
            address,
            in_flight: Cell::default(),
            requests: Cell::default(),
            errors: Cell::default(),
            health: Cell::default(),
            gone: Cell::default(),
            h1: h1::Idle::default(),
            h2: h2::Connections::default(),
        }
    }

    /// Leaves the table: no new requests, and connections without one are closed.
    fn leave(&self) {
        self.gone.set(true);
        self.h1.close();
        self.h2.close();
    }
}

/// An instance that left the table with requests in flight.
pub struct Retired {
    /// Its service.
    pub service: ServiceName,
    /// Its revision.
    pub revision: RevisionNumber,
    /// Version of its package.
    pub version: Version,
    /// Its pool's counts.
    pub memory: Rc<PoolMemory>,
    /// The instance.
    pub instance: Rc<Instance>,
}

/// Everything that a thread knows of services, and how it goes from table to table.
#[derive(Default)]
pub struct Tables {
    current: RefCell<Rc<Table>>,
    memories: RefCell<HashMap<ServiceName, Rc<ServiceMemory>>>,
    retired: RefCell<Vec<Retired>>,
}

impl Tables {
    /// The applied table.
    pub fn current(&self) -> Rc<Table> {
        self.current.borrow().clone()
    }

    /// Who answers an API version of a name, or without one the service of that name.
    pub fn service(&self, name: &str, api: Option<u16>) -> Option<Rc<Service>> {
        self.current.borrow().at(name, api).cloned()
    }

    /// Instances that left and still have requests in flight.
    pub fn retired(&self) -> std::cell::Ref<'_, Vec<Retired>> {
        self.retired.borrow_mut().retain(|retired| retired.instance.in_flight.get() > 0);
        self.retired.borrow()
    }

    /// Applies a checked table.
    pub fn apply(&self, table: &RouteTable, parked: &HashMap<ServiceName, Parked>, registry: &Registry) {
        let mut known = self.known();
        let mut rules = table.services.values().filter_map(|route| route.affinity.as_ref());
        let cookie_in_use = rules.any(|affinity| uses_default_cookie(&affinity.rule));
        let versions = Versions::of(table);
        let services = table.services.iter().map(|(name, route)| {
            let memory = self.memory(name, parked);
            let sessions = Sessions::new(name.as_str(), route.affinity.as_ref(), cookie_in_use);
            let watch = registry.watch(name, route);
            let notice = versions.notice(name);
            let service = Service { watch, notice, ..compile(name, route, sessions, memory, &mut known) };
            (name.clone(), Rc::new(service))
        });
        let services = services.collect();
        let next = Table { generation: table.generation, services, versions };
        let mut retired = self.retired.borrow_mut();
        *retired = known
            .into_values()
            .filter(|left| {
                left.instance.leave();
                left.instance.in_flight.get() > 0
            })
            .collect();
        drop(retired);
        registry.keep(table);
        self.memories.borrow_mut().retain(|name, _| next.services.contains_key(name));
        *self.current.borrow_mut() = Rc::new(next);
    }

    fn memory(&self, name: &ServiceName, parked: &HashMap<ServiceName, Parked>) -> Rc<ServiceMemory> {
        let mut memories = self.memories.borrow_mut();
        let fresh = || {
            let parked_everywhere = parked.get(name).cloned().unwrap_or_default();
            Rc::new(ServiceMemory { parked_everywhere, ..ServiceMemory::default() })
        };
        memories.entry(name.clone()).or_insert_with(fresh).clone()
    }

    /// Every instance that is known, in the table or not.
    fn known(&self) -> Known {
        let mut known: Known = self.retired.take().into_iter().map(|left| (left.key(), left)).collect();
        for service in self.current.borrow().services.values() {
            for pool in service.pools.values() {
                for instance in &pool.instances {
                    let left = Retired {
                        service: service.name.clone(),
                        revision: pool.revision,
                        version: pool.version.clone(),
                        memory: pool.memory.clone(),
                        instance: instance.clone(),
                    };
                    known.insert(left.key(), left);
                }
            }
        }
        known
    }
}

type Key = (ServiceName, RevisionNumber, InstanceId, SocketAddr);
type Known = HashMap<Key, Retired>;

impl Retired {
    fn key(&self) -> Key {
        (self.service.clone(), self.revision, self.instance.id.clone(), self.instance.address)
    }
}

fn compile(
    name: &ServiceName,
    route: &ServiceRoute,
    sessions: Sessions,
    memory: Rc<ServiceMemory>,
    known: &mut Known,
) -> Service {
    let weights = route.apis.get(&route.default_api);
    let mut pools = BTreeMap::new();
    for (&revision, pool) in &route.pools {
        let instances = pool.instances.iter().map(|(id, &address)| {
            let instance = match known.remove(&(name.clone(), revision, id.clone(), address)) {
                Some(found) => found.instance,
                None => Rc::new(Instance::new(id.clone(), address)),
            };
            instance.gone.set(false);
            instance
        });
        let compiled = Pool {
            revision,
            version: pool.version.clone(),
            revision_value: HeaderValue::from(revision.0),
            version_value: value(pool.version.as_str()),
            flags: pool.flags.as_deref().and_then(|flags| HeaderValue::from_str(flags).ok()),
            weight: weights.and_then(|split| split.get(&revision)).copied().unwrap_or_default(),
            instances: instances.collect(),
            memory: memory.pool(revision),
        };
        pools.insert(revision, Rc::new(compiled));
    }
    memory.forget_oldest(&pools);
    let starts = route.affinity.as_ref().map(|affinity| affinity.starts.clone()).unwrap_or_default();
    let pool = |revision| pools.get(&revision).cloned();
    let apis = route.apis.iter().map(|(&api, weights)| (api, Split::new(weights, &starts, pool))).collect();
    Service {
        name: name.clone(),
        default_api: route.default_api,
        park: route.park,
        routing: route.routing.clone(),
        pools,
        apis,
        sessions,
        watch: None,
        notice: None,
        memory,
    }
}

impl ServiceMemory {
    fn pool(&self, revision: RevisionNumber) -> Rc<PoolMemory> {
        self.pools.borrow_mut().entry(revision).or_default().clone()
    }

    fn forget_oldest(&self, kept: &BTreeMap<RevisionNumber, Rc<Pool>>) {
        let mut pools = self.pools.borrow_mut();
        let mut surplus = pools.len().saturating_sub(REMEMBERED);
        pools.retain(|revision, _| {
            let forget = surplus > 0 && !kept.contains_key(revision);
            surplus -= usize::from(forget);
            !forget
        });
    }
}

/// A name as a header's value. Names are visible ASCII, so the fallback is never seen.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
