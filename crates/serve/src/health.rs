//! Ready and live, as probes see them.
//!
//! Ready: accepts requests (after the warm-up inference, until the drain). Live: answers the samples correctly.
//! Promises: reading is lock-free unless there is an error to tell; being busy changes nothing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use modelyard_core::failure::Cause;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::refusal::Refusal;

/// Why a server is not live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ill {
    /// `starting`, or the name of a [`Cause`].
    pub(crate) cause: &'static str,
    pub(crate) error: String,
}

impl Ill {
    pub(crate) fn new(cause: Cause, error: impl Into<String>) -> Self {
        Self { cause: cause.name(), error: error.into() }
    }
}

/// The state that probes see.
#[derive(Debug)]
pub(crate) struct Health {
    ready: AtomicBool,
    draining: AtomicBool,
    live: AtomicBool,
    /// Every worker is gone, and none comes up again.
    failing: AtomicBool,
    ill: Mutex<Ill>,
    changes: watch::Sender<()>,
}

impl Health {
    /// Neither ready nor live yet.
    pub(crate) fn starting() -> Self {
        let ill = Ill { cause: "starting", error: "the model is still being loaded".to_owned() };
        let no = || AtomicBool::new(false);
        let (ready, draining, live, failing) = (no(), no(), no(), no());
        Self { ready, draining, live, failing, ill: Mutex::new(ill), changes: watch::Sender::new(()) }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.is_draining() && !self.is_failing()
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    /// Records that nothing can be answered any more, after so many workers in a row that were lost; or that it can be again.
    pub(crate) fn set_failing(&self, lost: Option<u32>) {
        let before = self.failing.swap(lost.is_some(), Relaxed);
        if let Some(lost) = lost {
            let error = format!("{lost} workers in a row ended before they answered anything");
            self.set_live(Err(Ill::new(Cause::CrashLoop, error)));
        }
        if before != lost.is_some() {
            self.changes.send_replace(());
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Relaxed)
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Relaxed);
        self.changes.send_replace(());
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
        self.changes.send_replace(());
    }

    /// Records the outcome of asking the samples.
    pub(crate) fn set_live(&self, outcome: Result<(), Ill>) {
        let before = self.is_live();
        match outcome {
            Ok(()) => {
                self.live.store(true, Relaxed);
                if !before {
                    tracing::info!("live: the samples are answered correctly");
                }
            }
            Err(ill) => {
                tracing::error!(cause = ill.cause, error = %ill.error, "not live");
                *self.ill.lock().unwrap_or_else(PoisonError::into_inner) = ill;
                self.live.store(false, Relaxed);
            }
        }
        if before != self.is_live() {
            self.changes.send_replace(());
        }
    }

    /// Wakes whenever readiness or liveness changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Status and body of a liveness probe.
    pub(crate) fn live_answer(&self) -> (bool, Value) {
        if self.is_live() {
            return (true, json!({"live": true}));
        }
        let ill = self.ill.lock().unwrap_or_else(PoisonError::into_inner);
        (false, json!({"live": false, "cause": ill.cause, "error": ill.error}))
    }

    /// Status and body of a readiness probe.
    pub(crate) fn ready_answer(&self) -> (bool, Value) {
        match (self.is_ready(), self.is_draining()) {
            (true, _) => (true, json!({"ready": true})),
            (false, true) => (false, json!({"ready": false, "error": "the server is draining"})),
            (false, false) if self.is_failing() => {
                (false, json!({"ready": false, "error": Refusal::failing().message}))
            }
            (false, false) => (false, json!({"ready": false, "error": "the model is still being loaded"})),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ill_until_its_samples_are_right_and_again_when_they_are_wrong() {
        let health = Health::starting();
        assert_eq!(health.live_answer().1["cause"], "starting");
        health.set_live(Ok(()));
        assert_eq!(health.live_answer(), (true, json!({"live": true})));
        health.set_live(Err(Ill::new(Cause::WrongAnswers, "sample `a`")));
        let (live, body) = health.live_answer();
        assert!(!live && body["cause"] == "wrong-answers" && body["error"] == "sample `a`");
    }

    #[test]
    fn draining_ends_readiness() {
        let health = Health::starting();
        health.set_ready();
        assert!(health.is_ready());
        health.set_draining();
        assert!(!health.is_ready() && health.ready_answer().1["error"] == "the server is draining");
    }
}
