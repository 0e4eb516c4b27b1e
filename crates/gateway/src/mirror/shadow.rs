//! One shadow: what the route says of it, how much is under way, and what was counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use modelyard_core::mirror::{Comparison, Mirror};
use modelyard_core::route::Pool;
use modelyard_core::{InstanceId, RevisionNumber};

use crate::compare::Rules;

/// What the route says of a shadow.
pub struct Plan {
    /// Its revision.
    pub revision: RevisionNumber,
    /// The revision as a header's value.
    pub revision_value: HeaderValue,
    /// Values of its flags as a header's value, if it has any.
    pub flags: Option<HeaderValue>,
    /// Of 10 000 draws, those below get a copy.
    pub share: u16,
    /// Most copies that wait or are under way.
    pub limit: u32,
    /// Longest time that a copy may take.
    pub timeout: Duration,
    /// How close is close.
    pub rules: Rules,
    /// Its instances.
    pub instances: Vec<(InstanceId, SocketAddr)>,
}

impl Plan {
    /// The plan of a mirror with this pool.
    pub fn new(mirror: &Mirror, pool: Option<&Pool>) -> Self {
        let instances =
            pool.into_iter().flat_map(|pool| &pool.instances).map(|(id, &address)| (id.clone(), address)).collect();
        Self {
            revision: mirror.revision,
            revision_value: HeaderValue::from(mirror.revision.0),
            flags: pool.and_then(|pool| HeaderValue::from_str(pool.flags.as_deref()?).ok()),
            share: mirror.share.basis_points(),
            limit: mirror.limit,
            timeout: Duration::from_millis(mirror.timeout_ms),
            rules: Rules { tolerance: mirror.tolerance, top_k: mirror.top_k },
            instances,
        }
    }
}

/// What is known of a shadow; survives from table to table.
#[derive(Default)]
pub struct Shadow {
    waiting: AtomicU32,
    /// Apart from the rest: threads that answer requests count here.
    shed: AtomicU64,
    sum: Mutex<Comparison>,
}

impl Shadow {
    /// Takes a place for a copy; none when all are taken.
    pub fn permit(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone()); // dropped, and so given back, when there is no place
        (before < limit).then_some(permit)
    }

    /// Counts a copy that was shed.
    pub fn shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum, to be added to.
    pub fn sum(&self) -> MutexGuard<'_, Comparison> {
        // Whoever panicked had added either all or nothing that matters.
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As reports have it.
    pub fn report(&self) -> Comparison {
        Comparison { shed: self.shed.load(Ordering::Relaxed), ..self.sum().clone() }
    }
}

/// A copy's place; free again when it is dropped.
pub struct Permit(Arc<Shadow>);

impl Permit {
    /// Whose place it is.
    pub const fn shadow(&self) -> &Arc<Shadow> {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
