//! One request at one instance: counted as in flight from the choice to the last byte, and as what it became.
//!
//! Promises: counted once, whatever becomes of it; in flight until the body ended or was dropped.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, StatusCode};

use crate::body::BodyError;
use crate::grpc::{self, Blame};
use crate::policy::ejection::{Outcome, may_eject};
use crate::table::{Instance, Pool, Service};

/// One request at one instance.
pub struct Flight {
    pool: Rc<Pool>,
    instance: Rc<Instance>,
    /// Whether the instance was blamed already.
    blamed: bool,
    /// Room on an HTTP/2 connection.
    _stream: Option<crate::upstream::h2::Stream>,
}

impl Flight {
    /// Takes off: the instance has one request more in flight.
    pub fn start(pool: Rc<Pool>, instance: Rc<Instance>) -> Self {
        instance.in_flight.set(instance.in_flight.get() + 1);
        Self { pool, instance, blamed: false, _stream: None }
    }

    /// The pool.
    pub const fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// The instance.
    pub const fn instance(&self) -> &Rc<Instance> {
        &self.instance
    }

    /// Keeps room on an HTTP/2 connection as long as the request is in flight.
    pub fn hold(&mut self, stream: crate::upstream::h2::Stream) {
        self._stream = Some(stream);
    }

    /// Counts an attempt that got an answer's head.
    pub fn answered(
        &mut self,
        service: &Service,
        status: StatusCode,
        map: &HeaderMap,
        sent: Instant,
        now: Instant,
        now_ms: u64,
    ) {
        let blame = blame(status, map);
        {
            let mut counters = self.pool.memory.counters.borrow_mut();
            counters.requests += 1;
            counters.refused += u64::from(blame == Blame::Caller);
            counters.errors += u64::from(blame == Blame::Model);
            counters.latency.record(now.saturating_duration_since(sent).as_micros() as u64);
        }
        self.pool.memory.code(status.as_u16());
        self.instance.requests.set(self.instance.requests.get() + 1);
        self.blamed = blame == Blame::Model;
        if self.blamed {
            self.instance.errors.set(self.instance.errors.get() + 1);
        }
        let outcome = if self.blamed { Outcome::Bad } else { Outcome::Good };
        self.note(service, outcome, now_ms);
    }

    /// Counts an attempt that got no answer.
    pub fn failed(&mut self, service: &Service, outcome: Outcome, now_ms: u64) {
        self.pool.memory.counters.borrow_mut().requests += 1;
        self.instance.requests.set(self.instance.requests.get() + 1);
        self.blame();
        self.note(service, outcome, now_ms);
    }

    /// Notes how the attempt ended for the instance's health.
    ///
    /// Server errors never eject the last instance of a revision: how much traffic a revision gets is the control plane's decision, and
    /// its analysis needs the figures. Where nobody listens there are no figures to be had: another revision answers then.
    fn note(&self, service: &Service, outcome: Outcome, now_ms: u64) {
        let mut health = self.instance.health.get();
        let spared = match outcome {
            Outcome::Good => true,
            Outcome::Bad => can_spare(self.pool.instances.iter(), now_ms),
            Outcome::Refused => can_spare(service.pools.values().flat_map(|pool| &pool.instances), now_ms),
        };
        if spared && health.note(outcome, now_ms) {
            tracing::info!(service = %service.name, instance = %self.instance.id, ?outcome, "ejected");
        }
        self.instance.health.set(health);
    }

    fn blame(&mut self) {
        if !self.blamed {
            self.blamed = true;
            self.pool.memory.counters.borrow_mut().errors += 1;
            self.instance.errors.set(self.instance.errors.get() + 1);
        }
    }

    /// The body ended early.
    pub fn broke_off(&mut self, error: &BodyError) {
        match error {
            BodyError::Instance(why) => {
                tracing::debug!(instance = %self.instance.id, why, "an instance broke its answer off");
                self.blame();
            }
            BodyError::Caller(_) | BodyError::TooLarge => {}
        }
    }

    /// The body's trailers came: gRPC says there how the call ended.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        match trailers.get("grpc-status").map(|status| grpc::blame(status.as_bytes())) {
            Some(Blame::Model) => self.blame(),
            Some(Blame::Caller) => self.pool.memory.counters.borrow_mut().refused += 1,
            Some(Blame::None) | None => {}
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.instance.in_flight.set(self.instance.in_flight.get() - 1);
    }
}

/// Who is to blame for an answer.
pub fn blame(status: StatusCode, map: &HeaderMap) -> Blame {
    if status.is_server_error() {
        return Blame::Model;
    }
    if status.is_client_error() {
        return Blame::Caller;
    }
    map.get("grpc-status").map_or(Blame::None, |status| grpc::blame(status.as_bytes()))
}

/// Whether one more of these instances may be left alone.
fn can_spare<'a>(instances: impl Iterator<Item = &'a Rc<Instance>>, now_ms: u64) -> bool {
    let (all, away) =
        instances.fold((0, 0), |(all, away), one| (all + 1, away + usize::from(one.health.get().is_ejected(now_ms))));
    may_eject(away, all)
}
