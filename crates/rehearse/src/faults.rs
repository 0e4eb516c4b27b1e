//! What goes wrong, and how often.

use modelyard_core::Millis;

/// Chances per tick (an eighth of a second) of each fault, until the world calms down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// After this, nothing goes wrong any more but for what the candidate itself does.
    pub until: Millis,
    /// A command to the cluster, or a route table, gets lost.
    pub lose: f64,
    /// It arrives up to three seconds late.
    pub delay: f64,
    /// It arrives twice.
    pub duplicate: f64,
    /// Some instance dies.
    pub kill: f64,
    /// Some instance hangs for a while.
    pub hang: f64,
    /// The gateway is out of the controller's reach for a while.
    pub cut: f64,
    /// The gateway restarts: counts from zero, the last good table.
    pub restart_gateway: f64,
    /// The controller is killed, at some point between observing and acting, and comes back later.
    pub crash: f64,
    /// The controller's clock is set forward or back by up to an hour.
    pub clock: f64,
    /// Somebody orders something.
    pub order: f64,
    /// The observer sees instances as they were a tick ago.
    pub stale: f64,
}

impl Faults {
    /// A kind world.
    pub const fn none() -> Self {
        Self {
            until: Millis(0),
            lose: 0.0,
            delay: 0.0,
            duplicate: 0.0,
            kill: 0.0,
            hang: 0.0,
            cut: 0.0,
            restart_gateway: 0.0,
            crash: 0.0,
            clock: 0.0,
            order: 0.0,
            stale: 0.0,
        }
    }

    /// Everything at once, for the first half minute: about as long as the rollouts under test take.
    pub const fn all() -> Self {
        Self {
            until: Millis::seconds(30),
            lose: 0.1,
            delay: 0.2,
            duplicate: 0.1,
            kill: 0.004,
            hang: 0.004,
            cut: 0.006,
            restart_gateway: 0.004,
            crash: 0.01,
            clock: 0.004,
            order: 0.006,
            stale: 0.1,
        }
    }
}
