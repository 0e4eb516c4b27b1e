//! The one clock of the machine: how long ago it was started, the time that it slept included, so that leases end when they say.

use std::time::Duration;

use rustix::event::{PollFd, poll};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Since the machine was started.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Waits until one of `fds` is ready or the span has passed; without a span, as long as it takes.
pub fn wait(fds: &mut [PollFd<'_>], at_most: Option<Duration>) {
    let span = at_most.map(|span| Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    });
    // Interrupted or not: callers look at everything anyway.
    let _ = poll(fds, span.as_ref());
}
