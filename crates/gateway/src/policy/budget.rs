//! The retry budget: retries as a share of requests, so that they never multiply an overload.
//!
//! Promises: within any two windows at most the share plus a small floor is granted; no share, no retries.
//! Absent on purpose: the clock (time is an input).

/// Length of a window.
// 10 s, as Finagle and linkerd have it: long enough that a dying instance's requests all find room.
const WINDOW_MS: u64 = 10_000;
/// Retries granted in each window whatever the traffic.
// 32: a service with a handful of requests a minute may retry too.
const FLOOR: u64 = 32;

/// What was asked and granted in this window and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    window: u64,
    requests: u64,
    granted: u64,
    requests_before: u64,
    granted_before: u64,
}

impl Budget {
    /// Notes a request.
    pub fn request(&mut self, now_ms: u64) {
        self.turn(now_ms);
        self.requests += 1;
    }

    /// Whether one more retry is within `percent` of the requests; counts it if so.
    pub fn grant(&mut self, percent: u32, now_ms: u64) -> bool {
        self.turn(now_ms);
        let requests = self.requests + self.requests_before;
        let most = FLOOR + requests * u64::from(percent) / 100;
        let within = percent > 0 && self.granted + self.granted_before < most;
        self.granted += u64::from(within);
        within
    }

    fn turn(&mut self, now_ms: u64) {
        let window = now_ms / WINDOW_MS;
        if window == self.window {
            return;
        }
        let next = window == self.window + 1;
        *self = Self {
            window,
            requests: 0,
            granted: 0,
            requests_before: if next { self.requests } else { 0 },
            granted_before: if next { self.granted } else { 0 },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(budget: &mut Budget, percent: u32, now_ms: u64) -> usize {
        (0..10_000).take_while(|_| budget.grant(percent, now_ms)).count()
    }

    #[test]
    fn the_share_and_the_floor_are_granted_and_no_more() {
        let mut budget = Budget::default();
        assert_eq!(granted(&mut budget, 20, 0), 32);
        (0..1_000).for_each(|_| budget.request(0));
        assert_eq!(granted(&mut budget, 20, 1), 200);
        assert_eq!(granted(&mut budget, 0, 1), 0, "no share, no retries");
    }

    #[test]
    fn windows_pass() {
        let mut budget = Budget::default();
        assert_eq!(granted(&mut budget, 20, 0), 32);
        assert_eq!(granted(&mut budget, 20, WINDOW_MS), 0, "the window before still counts");
        assert_eq!(granted(&mut budget, 20, 2 * WINDOW_MS), 32);
    }
}
