//! One shadow: what the route says of it, how much is under way, and what was counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
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
    /// Only requests that this revision answered are copied; none copies all.
    pub against: Option<RevisionNumber>,
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
            against: mirror.against,
            rules: Rules { tolerance: mirror.tolerance, top_k: mirror.top_k },
            instances,
        }
    }
}

/// It gets copies.
const ASKED: u8 = 0;
/// All of its instances are left alone.
const RESTS: u8 = 1;
/// It did not answer, and is tried again.
const TRIED: u8 = 2;
/// Copies at a time for a shadow that is tried again.
const TRIALS: u32 = 4;

/// What is known of a shadow; survives from table to table.
#[derive(Default)]
pub struct Shadow {
    waiting: AtomicU32,
    /// Apart from the rest: threads that answer requests count here.
    shed: AtomicU64,
    /// Whether it gets copies at all.
    mood: AtomicU8,
    sum: Mutex<Comparison>,
    /// The sum as it was last reported.
    reported: Mutex<Comparison>,
}

impl Shadow {
    /// Takes a place for a copy; none when all are taken, or while it rests. What is shed costs two loads.
    pub fn permit(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        let limit = match self.mood.load(Ordering::Relaxed) {
            ASKED => limit,
            TRIED => limit.min(TRIALS),
            _ => 0,
        };
        if self.waiting.load(Ordering::Relaxed) >= limit {
            return None;
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone()); // dropped, and so given back, when another thread was first
        (before < limit).then_some(permit)
    }

    /// Counts a copy that was shed.
    pub fn shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// It answers: it gets copies.
    pub fn ask(&self) {
        self.mood.store(ASKED, Ordering::Relaxed);
    }

    /// It gets no copies. Returns whether it got any before.
    pub fn rest(&self) -> bool {
        self.mood.swap(RESTS, Ordering::Relaxed) != RESTS
    }

    /// It gets a few copies, if it got none.
    pub fn try_again(&self) {
        let _ = self.mood.compare_exchange(RESTS, TRIED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The sum, to be added to.
    pub fn sum(&self) -> MutexGuard<'_, Comparison> {
        // Whoever panicked had added either all or nothing that matters.
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As reports have it. Never waits for the threads that add to the sum, which get little time where it is short: what they are at is
    /// in the next report.
    pub fn report(&self) -> Comparison {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        match self.sum.try_lock() {
            Ok(sum) => reported.clone_from(&sum),
            Err(TryLockError::Poisoned(sum)) => reported.clone_from(&sum.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        Comparison { shed: self.shed.load(Ordering::Relaxed), ..reported.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_fewer_for_one_that_is_tried_again() {
        let shadow = Arc::new(Shadow::default());
        let places = |limit| (0..100).filter_map(|_| shadow.permit(limit)).collect::<Vec<_>>().len();
        let held: Vec<_> = (0..100).filter_map(|_| shadow.permit(64)).collect();
        assert_eq!((held.len(), shadow.permit(64).is_none()), (64, true));
        drop(held);
        assert!(shadow.permit(64).is_some() && shadow.permit(0).is_none());
        assert!(shadow.rest() && !shadow.rest() && shadow.permit(64).is_none());
        shadow.try_again();
        let held: Vec<_> = (0..100).filter_map(|_| shadow.permit(64)).collect();
        assert_eq!(held.len(), 4);
        drop(held);
        shadow.ask();
        shadow.try_again();
        assert_eq!((places(64), shadow.waiting.load(Ordering::Relaxed)), (64, 0));
    }

    #[test]
    fn a_report_waits_for_nobody() {
        let shadow = Shadow::default();
        shadow.sum().sent = 7;
        assert_eq!(shadow.report().sent, 7);
        let mut held = shadow.sum();
        held.sent = 8;
        shadow.shed();
        let report = shadow.report();
        assert_eq!((report.sent, report.shed), (7, 1));
        drop(held);
        assert_eq!(shadow.report().sent, 8);
    }
}
