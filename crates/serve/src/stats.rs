//! What a server counts of itself.
//!
//! Promises: each I/O thread counts in memory of its own, without locks; a reader adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use modelyard_core::measure::{BUCKETS, Histogram, bucket_of};

use crate::batch::{Slice, nanos};

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Open Inference Protocol over REST.
    Rest,
    /// The plain form.
    Plain,
    /// Open Inference Protocol over gRPC.
    Grpc,
    /// A platform's contract.
    Contract,
}

impl Protocol {
    pub(crate) const ALL: [Self; 4] = [Self::Rest, Self::Plain, Self::Grpc, Self::Contract];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Plain => "plain",
            Self::Grpc => "grpc",
            Self::Contract => "contract",
        }
    }
}

/// HTTP statuses of inference requests; gRPC ones are counted under the HTTP status of the same meaning.
pub(crate) const CODES: [u16; 9] = [200, 400, 404, 405, 408, 413, 415, 500, 503];

/// What one thread counted. On cache lines of its own, so that threads do not slow each other.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counts {
    codes: [[AtomicU64; CODES.len()]; Protocol::ALL.len()],
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
    started: AtomicU64,
    finished: AtomicU64,
    rows: AtomicU64,
    success_ns: AtomicU64,
    fail_ns: AtomicU64,
    queue_ns: AtomicU64,
    engine_ns: AtomicU64,
    last_ms: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            codes: std::array::from_fn(|_| std::array::from_fn(|_| zero())),
            buckets: std::array::from_fn(|_| zero()),
            micros: zero(),
            started: zero(),
            finished: zero(),
            rows: zero(),
            success_ns: zero(),
            fail_ns: zero(),
            queue_ns: zero(),
            engine_ns: zero(),
            last_ms: zero(),
        }
    }
}

/// Only the thread that owns the counts writes them, so a load and a store will do.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// One inference request being answered. Dropped without an end (the caller went away), it still leaves the gauge right.
#[derive(Debug)]
pub(crate) struct Open<'c> {
    counts: &'c Counts,
    protocol: Protocol,
    started: Instant,
}

impl Counts {
    /// Counts a request as begun.
    pub(crate) fn begin(&self, protocol: Protocol) -> Open<'_> {
        add(&self.started, 1);
        Open { counts: self, protocol, started: Instant::now() }
    }
}

impl Open<'_> {
    /// Counts the request's end.
    pub(crate) fn end(self, status: u16, answered: Option<(&Slice, usize)>) {
        let counts = self.counts;
        let took = self.started.elapsed();
        let code = CODES.iter().position(|&code| code == status).unwrap_or(CODES.len() - 2);
        add(&counts.codes[self.protocol as usize][code], 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&counts.buckets[bucket_of(micros)], 1);
        add(&counts.micros, micros);
        match answered {
            Some((slice, rows)) => {
                add(&counts.rows, rows as u64);
                add(&counts.success_ns, nanos(took));
                add(&counts.queue_ns, slice.queue_ns);
                add(&counts.engine_ns, slice.engine_ns);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                counts.last_ms.store(u64::try_from(now.as_millis()).unwrap_or(0), Relaxed);
            }
            None => add(&counts.fail_ns, nanos(took)),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        add(&self.counts.finished, 1);
    }
}

/// What all threads counted.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// By [`Protocol`], then by [`CODES`].
    pub(crate) codes: [[u64; CODES.len()]; Protocol::ALL.len()],
    pub(crate) durations: Histogram,
    pub(crate) in_flight: u64,
    pub(crate) rows: u64,
    pub(crate) success_ns: u64,
    pub(crate) fail_ns: u64,
    pub(crate) queue_ns: u64,
    pub(crate) engine_ns: u64,
    /// Milliseconds since 1970 of the last answer; 0 before the first.
    pub(crate) last_ms: u64,
}

impl Totals {
    /// Adds up what threads counted.
    pub(crate) fn of<'c>(threads: impl Iterator<Item = &'c Counts>) -> Self {
        let mut totals = Self::default();
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        for counts in threads {
            for (sums, codes) in totals.codes.iter_mut().zip(&counts.codes) {
                sums.iter_mut().zip(codes).for_each(|(sum, code)| *sum += read(code));
            }
            totals
                .durations
                .add(&Histogram::from_counts(counts.buckets.iter().map(read).collect(), read(&counts.micros)));
            let finished = read(&counts.finished);
            totals.in_flight += read(&counts.started).saturating_sub(finished);
            totals.rows += read(&counts.rows);
            totals.success_ns += read(&counts.success_ns);
            totals.fail_ns += read(&counts.fail_ns);
            totals.queue_ns += read(&counts.queue_ns);
            totals.engine_ns += read(&counts.engine_ns);
            totals.last_ms = totals.last_ms.max(read(&counts.last_ms));
        }
        totals
    }

    /// Requests answered with 200.
    pub(crate) fn successes(&self) -> u64 {
        self.codes.iter().map(|codes| codes[0]).sum()
    }

    /// Requests answered with anything else.
    pub(crate) fn failures(&self) -> u64 {
        self.codes.iter().flatten().sum::<u64>() - self.successes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_a_caller_that_left_is_not_in_flight() {
        let (one, two) = (Counts::default(), Counts::default());
        one.begin(Protocol::Rest).end(200, None);
        two.begin(Protocol::Grpc).end(404, None);
        drop(two.begin(Protocol::Plain));
        let open = one.begin(Protocol::Plain);
        let totals = Totals::of([&one, &two].into_iter());
        assert_eq!((totals.successes(), totals.failures(), totals.in_flight), (1, 1, 1));
        assert_eq!(totals.codes[Protocol::Grpc as usize][2], 1);
        drop(open);
    }
}
