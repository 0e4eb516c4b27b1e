//! The modelled controller: observe, step, commit, act. It can be killed between any two of these.
//!
//! Promises: faithful where it matters. Only what was committed survives a crash; what is committed is what `advanced_from` asks for. Routes
//! come from the real `split_among`. An instance is stopped only once the gateway reports a table without it and its requests are done.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::event::Order;
use modelyard_core::evidence::{ArmEvidence, Evidence, Statistic};
use modelyard_core::failure::Failure;
use modelyard_core::measure::Counters;
use modelyard_core::mirror::Comparison;
use modelyard_core::route::split_among;
use modelyard_core::{Millis, RevisionNumber, Timestamp, Weight};
use modelyard_rollout::{Action, GatewaySeen, Observation, PoolSeen, Rollout};

use crate::cluster::{Cluster, Temper};
use crate::gateway::{Gateway, Table};
use crate::world::Stepper;

/// A start that was asked for and not seen after this long is taken for lost. Longer than any delay.
const START_PATIENCE: Millis = Millis::seconds(4);

/// One committed move, kept for the invariants.
#[derive(Clone, Debug)]
pub struct Move {
    /// State before.
    pub before: Rollout,
    /// What was seen.
    pub seen: Observation,
    /// State after.
    pub after: Rollout,
    /// What was asked for.
    pub actions: Vec<Action>,
    /// What the gateway really did at that moment, not what was seen of it.
    pub applied: BTreeMap<RevisionNumber, Weight>,
}

/// What the controller tells others to do. Each may get lost, come late or come twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Start { id: u64, revision: RevisionNumber },
    Stop { id: u64 },
    Route(Table),
}

/// The modelled controller.
#[derive(Debug)]
pub(crate) struct Controller {
    /// What the log holds.
    pub(crate) committed: Rollout,
    /// What the running process holds.
    pub(crate) state: Rollout,
    /// Failures and orders that the log holds and no committed step has taken in.
    pub(crate) failures: Vec<Failure>,
    pub(crate) orders: Vec<Order>,
    /// Table that was published last, and identities handed out: both are in the log.
    pub(crate) published: Table,
    pub(crate) next_id: u64,
    /// Instances that were asked to end, as the log has it: such a one is never routed to again, whatever is wanted later.
    pub(crate) ending: BTreeSet<u64>,
    pub(crate) down_until: Timestamp,
    pub(crate) wake: Timestamp,
    /// How far its clock is off, in milliseconds.
    pub(crate) skew: i64,
    pub(crate) memory: Memory,
}

/// What a crash erases.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Starts that were asked for and not seen yet.
    issued: BTreeMap<u64, (RevisionNumber, Timestamp)>,
    /// Since when instances have been draining.
    draining: BTreeMap<u64, Timestamp>,
    /// Counts of earlier lives of the gateway, and the last reading of this life.
    earlier: BTreeMap<RevisionNumber, Counters>,
    last: (u64, BTreeMap<RevisionNumber, Counters>),
}

impl Controller {
    pub(crate) fn new(rollout: Rollout, published: Table, next_id: u64) -> Self {
        Self {
            committed: rollout.clone(),
            state: rollout,
            failures: Vec::new(),
            orders: Vec::new(),
            published,
            next_id,
            ending: BTreeSet::new(),
            down_until: Timestamp(0),
            wake: Timestamp(0),
            skew: 0,
            memory: Memory::default(),
        }
    }

    /// Killed: only the log is left, read back as the text that it is.
    pub(crate) fn crash(&mut self, until: Timestamp) {
        let text = serde_json::to_string(&self.committed).unwrap_or_default();
        if let Ok(read) = serde_json::from_str(&text) {
            self.state = read;
        }
        self.down_until = until;
        self.memory = Memory::default();
        self.wake = Timestamp(0);
    }

    /// Looks at the world through the controller's own clock.
    pub(crate) fn observe(
        &mut self,
        pools: BTreeMap<RevisionNumber, PoolSeen>,
        gateway: &Gateway,
        tempers: &BTreeMap<RevisionNumber, Temper>,
        now: Timestamp,
    ) -> Observation {
        let reachable = gateway.is_reachable(now);
        let counters = self.memory.add_up(gateway);
        let evidence = evidence(&self.state, &counters, tempers);
        Observation {
            at: self.clock(now),
            gateway: reachable.then(|| GatewaySeen {
                weights: gateway.table.weights.clone(),
                in_flight: gateway.in_flight_by_revision(),
                counters,
            }),
            pools,
            evidence: Some(evidence),
            failures: self.failures.clone(),
            orders: self.orders.clone(),
        }
    }

    pub(crate) fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add_signed(self.skew))
    }

    /// Decides, and commits what must not be lost. `dies`: killed before the commit.
    pub(crate) fn step(&mut self, stepper: Stepper, seen: Observation, gateway: &Gateway, dies: bool) -> Option<Move> {
        let before = self.state.clone();
        let (after, actions) = stepper(before.clone(), &seen);
        if dies {
            return None;
        }
        let news = actions.iter().any(|action| !matches!(action, Action::WakeAt { .. }));
        let taken_in = !seen.failures.is_empty() || !seen.orders.is_empty();
        if news || taken_in || after.advanced_from(&self.committed) {
            self.committed = after.clone();
            self.failures.clear();
            self.orders.clear();
        }
        self.state = after.clone();
        let applied = gateway.table.weights.clone();
        Some(Move { before, seen, after, actions, applied })
    }

    /// Makes true what is desired: the commands that bring the world closer to it.
    pub(crate) fn reconcile(&mut self, cluster: &Cluster, gateway: &Gateway, now: Timestamp) -> Vec<Command> {
        let desired = self.committed.desired();
        let mut commands = Vec::new();
        self.memory.issued.retain(|id, (_, at)| !cluster.instances.contains_key(id) && now - *at < START_PATIENCE);
        self.ending.retain(|id| cluster.instances.contains_key(id));
        let surplus = self.surplus(cluster, now);
        for (&revision, &wanted) in &desired.instances {
            let stays = |id: &u64| !self.ending.contains(id);
            let runs = cluster.instances.iter().filter(|(id, i)| i.revision == revision && stays(id)).count();
            let asked = self.memory.issued.values().filter(|(issued, _)| *issued == revision).count();
            for _ in runs + asked..wanted as usize {
                let id = self.next_id;
                self.next_id += 1;
                self.memory.issued.insert(id, (revision, now));
                commands.push(Command::Start { id, revision });
            }
        }
        self.publish(cluster, &surplus, now);
        if gateway.table.generation < self.published.generation {
            commands.push(Command::Route(self.published.clone()));
        }
        commands.extend(self.stops(&surplus, gateway, now));
        commands
    }

    /// Instances beyond what is wanted: those that do not answer first, then the newest.
    fn surplus(&self, cluster: &Cluster, now: Timestamp) -> Vec<u64> {
        let desired = self.committed.desired();
        let mut by_revision: BTreeMap<RevisionNumber, Vec<(bool, std::cmp::Reverse<u64>)>> = BTreeMap::new();
        for (&id, instance) in cluster.instances.iter().filter(|(id, _)| !self.ending.contains(id)) {
            by_revision.entry(instance.revision).or_default().push((instance.answers(now), std::cmp::Reverse(id)));
        }
        let mut surplus = Vec::new();
        for (revision, mut instances) in by_revision {
            let wanted = desired.instances.get(&revision).copied().unwrap_or(0) as usize;
            instances.sort_unstable();
            surplus.extend(instances.iter().take(instances.len().saturating_sub(wanted)).map(|(_, id)| id.0));
        }
        surplus
    }

    fn publish(&mut self, cluster: &Cluster, surplus: &[u64], now: Timestamp) {
        let desired = self.committed.desired();
        let mut pools: BTreeMap<RevisionNumber, Vec<u64>> = BTreeMap::new();
        for (&id, instance) in &cluster.instances {
            let serves = instance.answers(now) && !self.ending.contains(&id) && !surplus.contains(&id);
            if serves && desired.instances.contains_key(&instance.revision) {
                pools.entry(instance.revision).or_default().push(id);
            }
        }
        let weights = split_among(&desired, |revision| pools.contains_key(&revision));
        if (&self.published.weights, &self.published.pools) != (&weights, &pools) {
            self.published = Table { generation: self.published.generation + 1, weights, pools };
        }
    }

    fn stops(&mut self, surplus: &[u64], gateway: &Gateway, now: Timestamp) -> Vec<Command> {
        self.memory.draining.retain(|id, _| surplus.contains(id));
        let applied = gateway.is_reachable(now) && gateway.table.generation == self.published.generation;
        if !applied {
            return Vec::new(); // look before the irreversible act
        }
        let drain = self.committed.plan.drain;
        for &id in surplus {
            let since = *self.memory.draining.entry(id).or_insert(now);
            if !gateway.is_busy(id) || now - since >= drain {
                self.ending.insert(id);
            }
        }
        self.ending.iter().map(|&id| Command::Stop { id }).collect()
    }
}

impl Memory {
    /// Adds up the gateway's counts over its restarts.
    fn add_up(&mut self, gateway: &Gateway) -> BTreeMap<RevisionNumber, Counters> {
        if gateway.epoch != self.last.0 {
            for (revision, counters) in std::mem::take(&mut self.last.1) {
                self.earlier.entry(revision).or_default().add(&counters);
            }
        }
        self.last = (gateway.epoch, gateway.counters.clone());
        let mut sums = self.earlier.clone();
        gateway.counters.iter().for_each(|(&revision, counters)| sums.entry(revision).or_default().add(counters));
        sums
    }
}

/// What would be known of the arms: every tenth label has not come yet; of shadows, copies of what stable answered.
fn evidence(
    rollout: &Rollout,
    counters: &BTreeMap<RevisionNumber, Counters>,
    tempers: &BTreeMap<RevisionNumber, Temper>,
) -> Evidence {
    let temper = |revision| tempers.get(revision).copied().unwrap_or(Temper::good());
    let mut evidence = Evidence::default();
    for (revision, counted) in counters {
        let units = counted.requests - counted.requests / 10;
        let hits = (units as f64 * temper(revision).accuracy) as u64;
        let metrics = BTreeMap::from([("accuracy".to_owned(), Statistic::Proportion { units, hits })]);
        let arm = ArmEvidence { units: counted.requests, answers: counted.requests, metrics, ..ArmEvidence::default() };
        evidence.arms.insert(*revision, arm);
    }
    let answered = rollout.stable.and_then(|stable| counters.get(&stable)).map_or(0, |counted| counted.requests);
    for (revision, share) in &rollout.desired().mirrors {
        let compared = answered * u64::from(share.basis_points()) / 10_000;
        let failed = (compared as f64 * temper(revision).error_rate) as u64;
        let agreed = (compared as f64 * temper(revision).agreement) as u64;
        let comparison = Comparison { sent: compared, failed, compared, agreed, ..Comparison::default() };
        evidence.shadows.insert(*revision, comparison);
    }
    evidence
}
