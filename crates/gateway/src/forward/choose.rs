//! Which instance a request goes to.
//!
//! Promises: the pool that owns the request's point first, exactly; then the less busy of two instances drawn at random. Only when that
//! pool has nobody to ask do the others get its request: stable before the other pools with weight, those before kept ones. Ejected
//! instances are asked when there is nobody else.

use std::rc::Rc;

use modelyard_core::RevisionNumber;

use crate::table::{Instance, Pool, Service};

/// Which pools may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Those of an API version, by weight.
    Api(u16),
    /// One revision, whatever its weight.
    Revision(RevisionNumber),
}

/// A pool and one of its instances.
pub type Choice = (Rc<Pool>, Rc<Instance>);

/// Chooses an instance that was not `tried` yet, for a request that has this point of 0..10_000.
pub fn choose(service: &Service, among: Among, point: u16, tried: &[Rc<Instance>], now_ms: u64) -> Option<Choice> {
    match among {
        Among::Revision(revision) => {
            let pool = service.pools.get(&revision)?;
            from(pool, tried, Some(now_ms)).or_else(|| from(pool, tried, None))
        }
        Among::Api(api) => {
            let (_, split) = service.apis.iter().find(|(version, _)| *version == api)?;
            // The usual case first: the owner has a healthy instance.
            let owner = split.pick(point)?;
            if let Some(choice) = from(owner, tried, Some(now_ms)) {
                return Some(choice);
            }
            // Kept pools belong to this API version for certain only if there is no other one.
            let kept = || service.pools.values().filter(|_| service.apis.len() == 1);
            let healthy = split.pools().chain(kept()).find_map(|pool| from(pool, tried, Some(now_ms)));
            let any = || {
                from(owner, tried, None)
                    .or_else(|| split.pools().chain(kept()).find_map(|pool| from(pool, tried, None)))
            };
            healthy.or_else(any)
        }
    }
}

/// An instance of the pool: the less busy of two; ejected ones are left out when `now_ms` says what time it is.
fn from(pool: &Rc<Pool>, tried: &[Rc<Instance>], now_ms: Option<u64>) -> Option<Choice> {
    let fits = |instance: &Rc<Instance>| {
        let away = now_ms.is_some_and(|now_ms| instance.health.get().is_ejected(now_ms));
        !away && !tried.iter().any(|tried| Rc::ptr_eq(tried, instance))
    };
    let count = pool.instances.len();
    let start = if count > 1 { fastrand::usize(..count) } else { 0 };
    let mut fitting = (0..count).map(|step| &pool.instances[(start + step) % count]).filter(|instance| fits(instance));
    let first = fitting.next()?;
    // The second one is drawn among the rest, so that every pair is met.
    let rest = count.saturating_sub(2);
    let second = fitting.nth(if rest > 0 { fastrand::usize(..=rest) } else { 0 });
    let chosen = match second {
        Some(second) if second.in_flight.get() < first.in_flight.get() => second,
        _ => first,
    };
    Some((pool.clone(), chosen.clone()))
}
