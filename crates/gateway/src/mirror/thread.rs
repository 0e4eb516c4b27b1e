//! The mirror's threads: one that asks shadows, one that compares.
//!
//! Promises: both have low priority and never interrupt a thread that answers, so that where processors are short it is shadows that wait. The number of copies is bounded by the permits
//! that they hold until they are compared, so no queue between the threads grows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::ask::{Answered, ask};
use super::rest::{Rest, Sign};
use super::shadow::{Permit, Plan, Shadow};
use super::{Copied, Held, JOBS, Job, tee};
use crate::compare::{self, Outcome, Said};
use crate::error::Error;
use crate::grpc::{Blame, blame};
use crate::table::Instance;
use crate::tap;
use crate::upstream::Failure;
use crate::wire;

/// Added to the threads' niceness: a tenth of a processor where others want all of it, so that a busy machine still gathers evidence.
const NICENESS: i32 = 10;
/// How often connections are looked at, and after how many looks without use an instance is forgotten.
const SWEEP: Duration = Duration::from_secs(5);
const FORGET: u32 = 12;

/// The mirror's thread.
type Thread = JoinHandle<Result<(), Error>>;

/// Starts the threads; they end when all senders are dropped, whatever is under way.
///
/// # Errors
/// [`Error::Thread`].
pub fn start(tap: tap::Handle) -> Result<(mpsc::Sender<Job>, Thread), Error> {
    let (jobs, asked) = mpsc::channel(JOBS);
    let (pairs, compared) = blocking::channel();
    let comparing = std::thread::Builder::new().name("gateway-compare".to_owned());
    let comparing = comparing.spawn(move || compare_all(&compared)).map_err(Error::Thread)?;
    let thread = std::thread::Builder::new().name("gateway-mirror".to_owned());
    let thread = thread.spawn(move || {
        let ended = run(asked, pairs, tap);
        let _ = comparing.join(); // it ends with the last sender of pairs
        ended
    });
    Ok((jobs, thread.map_err(Error::Thread)?))
}

/// Takes this thread's priority down, and has it wait for its turn when it wakes: `SCHED_BATCH` interrupts nobody (sched(7)).
fn yield_to_others() {
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, batch) {
        tracing::debug!(?error, "a thread of shadows keeps its policy");
    }
    // On Linux a niceness belongs to the thread. Without it shadows still are shed first, only later.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "a thread of shadows keeps its priority");
    }
}

/// Two answers to one request.
struct Pair {
    permit: Permit,
    plan: Arc<Plan>,
    copied: Arc<Copied>,
    said: Arc<Said>,
    _held: Arc<Held>,
}

fn compare_all(pairs: &blocking::Receiver<Pair>) {
    yield_to_others();
    for pair in pairs {
        let Some(stable) = &pair.copied.stable else { continue };
        let compare = || compare::pair(&stable.said, &pair.said, &pair.plan.rules);
        // Answers come from models on trial: no bug of ours that one of them finds may end the comparing of all others.
        let outcome = catch_unwind(AssertUnwindSafe(compare)).unwrap_or(Outcome::Incomparable);
        compare::absorb(&mut pair.permit.shadow().sum(), outcome, pair.copied.id.to_str().unwrap_or_default());
    }
}

fn run(mut jobs: mpsc::Receiver<Job>, pairs: blocking::Sender<Pair>, tap: tap::Handle) -> Result<(), Error> {
    yield_to_others();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.map_err(Error::Thread)?.block_on(async {
        let mirror = Rc::new(Mirroring { started: Instant::now(), instances: RefCell::default(), pairs, tap });
        let sweeping = tokio::task::spawn_local(sweep(mirror.clone()));
        let posting = tokio::task::spawn_local(wire::post());
        while let Some(Job { copied, shadows, held }) = jobs.recv().await {
            for (permit, plan) in shadows {
                tokio::task::spawn_local(mirror.clone().copy(copied.clone(), permit, plan, held.clone()));
            }
        }
        sweeping.abort();
        posting.abort();
        Ok(())
    })
}

/// What the mirror's thread knows.
struct Mirroring {
    started: Instant,
    instances: RefCell<HashMap<SocketAddr, Known>>,
    pairs: blocking::Sender<Pair>,
    tap: tap::Handle,
}

/// An instance.
struct Known {
    instance: Rc<Instance>,
    /// For how many looks it was not used.
    unused: Cell<u32>,
    rest: Rest,
}

impl Mirroring {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The least busy instance; none when all rest.
    fn choose(&self, plan: &Plan) -> Option<Rc<Instance>> {
        let mut known = self.instances.borrow_mut();
        let count = plan.instances.len();
        let start = fastrand::usize(..count.max(1)); // of equals, not always the same
        let instances = (0..count).map(|step| &plan.instances[(start + step) % count]);
        let now_ms = self.now_ms();
        let found = instances.filter_map(|(id, address)| {
            let known = known.entry(*address).or_insert_with(|| Known {
                instance: Rc::new(Instance::new(id.clone(), *address)),
                unused: Cell::default(),
                rest: Rest::default(),
            });
            known.unused.set(0);
            (known.rest.until_ms() <= now_ms).then(|| known.instance.clone())
        });
        found.min_by_key(|instance| instance.in_flight.get())
    }

    /// Takes note of what became of a copy. A shadow of which all instances rest gets no copies until the first of them is to be tried again.
    fn note(&self, sign: Sign, address: SocketAddr, plan: &Plan, shadow: &Arc<Shadow>) {
        let (now_ms, known) = (self.now_ms(), self.instances.borrow());
        if let Some(known) = known.get(&address) {
            known.rest.note(sign, now_ms);
        }
        if sign == Sign::Answered {
            return shadow.ask();
        }
        let until = |(_, address): &(_, SocketAddr)| known.get(address).map_or(0, |known| known.rest.until_ms());
        let soonest = plan.instances.iter().map(until).min().unwrap_or(0);
        if soonest > now_ms && shadow.rest() {
            let shadow = shadow.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(soonest - now_ms)).await;
                shadow.try_again();
            });
        }
    }

    /// Sends a copy and sees what becomes of it.
    async fn copy(self: Rc<Self>, copied: Arc<Copied>, permit: Permit, plan: Arc<Plan>, held: Arc<Held>) {
        let Some(instance) = self.choose(&plan) else { return permit.shadow().shed() };
        permit.shadow().sum().sent += 1;
        let asked = {
            let _flight = Flight::start(instance.clone());
            Box::pin(tokio::time::timeout(plan.timeout, ask(&copied, &plan, &instance, self.now_ms()))).await
        };
        let sign = match &asked {
            Ok(Ok(answered)) if !answered.is_flood => Some(Sign::Answered),
            Ok(Err(Failure::Stale)) => None, // it may close what is idle
            Ok(Err(Failure::Connect(_))) => Some(Sign::Gone),
            _ => Some(Sign::Troubled),
        };
        if let Some(sign) = sign {
            self.note(sign, instance.address, &plan, permit.shadow());
        }
        let answered = match asked {
            Ok(Ok(answered)) => Some(answered),
            Ok(Err(error)) => {
                tracing::debug!(instance = %instance.id, %error, "a shadow failed");
                None
            }
            Err(_) => {
                tracing::debug!(instance = %instance.id, "a shadow took too long");
                None
            }
        };
        {
            let mut sum = permit.shadow().sum();
            sum.failed += u64::from(answered.as_ref().is_none_or(has_failed));
            if let Some(answered) = &answered {
                sum.latency.record(answered.micros);
                if let Some(stable) = &copied.stable {
                    sum.stable_latency.record(stable.micros);
                }
            }
        }
        let failed = answered.as_ref().is_none_or(has_failed);
        let (said, micros) = answered.map_or_else(Default::default, |answered| (answered.said, answered.micros));
        let said = Arc::new(said);
        self.tell(&copied, &plan, &said, micros);
        if !failed && copied.stable.is_some() {
            // Without a receiver the gateway ends.
            let _ = self.pairs.send(Pair { permit, plan, copied, said, _held: held });
        }
    }

    /// Tells the tap, when the caller's answer was told.
    fn tell(&self, copied: &Copied, plan: &Plan, said: &Arc<Said>, micros: u64) {
        let Some(route) = &copied.tap else { return };
        let answer = tap::Answer {
            id: copied.id.to_str().unwrap_or_default().to_owned(),
            at_ms: tee::now_ms(),
            revision: plan.revision,
            shadow: true,
            session: copied.session,
            micros,
            path: tee::told_path(&copied.path, copied.parts.uri.query()),
            // Told with the caller's answer already.
            request: None,
            said: said.clone(),
        };
        self.tap.tell(route, answer);
    }
}

/// Counts a copy as under way.
struct Flight(Rc<Instance>);

impl Flight {
    fn start(instance: Rc<Instance>) -> Self {
        instance.in_flight.set(instance.in_flight.get() + 1);
        Self(instance)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// Whether an answer is the shadow's failure.
fn has_failed(answered: &Answered) -> bool {
    let said = &answered.said;
    match said.grpc_status {
        Some(status) => blame(status.to_string().as_bytes()) == Blame::Model,
        None => said.status >= 500,
    }
}

/// Closes connections that are not used, and forgets instances that are not.
async fn sweep(mirror: Rc<Mirroring>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let now_ms = mirror.now_ms();
        mirror.instances.borrow_mut().retain(|_, known| {
            known.instance.h1.sweep(now_ms);
            known.instance.h2.sweep();
            known.unused.set(known.unused.get() + 1);
            known.unused.get() < FORGET || known.instance.in_flight.get() > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_shadows_interrupt_nobody() {
        let thread = std::thread::spawn(|| {
            yield_to_others();
            let niceness = rustix::process::getpriority_process(Some(rustix::thread::gettid()));
            (thread_priority::unix::thread_schedule_policy().unwrap(), niceness.unwrap())
        });
        let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        assert!(matches!(thread.join().unwrap(), (policy, NICENESS..) if policy == batch));
    }
}
