//! The usual share of errors, and whether a window stands out of it: a failure that sets in is seen sooner than one that lies past a limit.
//!
//! Against the limit alone, 5 % of errors need some 400 requests to be beyond chance. Where stable, and the candidate itself until a moment ago, fail in
//! a tenth of what is allowed, the same count is far less likely, and a stricter test of that is both quicker and surer.
//!
//! Promises: never laxer than the limit asks (a window must lie plainly past it); a candidate whose own share is near the limit is judged by the limit.
//!
//! Source: the same exact binomial test as for the limit; the figures behind the constants are measured (`cargo xtask bench judges`).

use crate::readings::{Share, Usual};
use crate::statistics::binomial_tail;

/// How unlikely a window must be, were the errors as usual.
///
/// A year at four looks a second is 126 million looks. At 1.5 times the usual share as null hypothesis, 3 in 100 million per window leaves less than one false alarm a
/// year, all windows together: 0.06 where 0.1 % of answers fail, 0.7 where 0.2 % do (Bonferroni's bound over the windows; they overlap, so there are fewer).
pub(crate) const SURPRISE: f64 = 3e-8;

/// Requests before anything counts as usual.
const KNOWN: u64 = 1_000;
/// How firmly what was seen for long is believed against what is seen now, in requests.
const FIRMNESS: f64 = 500.0;
/// The null hypothesis is this many times the usual share: hours differ.
const ROOM: f64 = 1.5;
/// … and at least this part of the limit: a share that was never seen is not zero.
const LEAST: f64 = 0.2;
/// A window must hold this many times the share of errors that is allowed.
const PLAINLY: f64 = 2.5;

/// The share of errors that a window is held against; none where too little is known, or where it would be no stricter than the limit.
pub(crate) fn usual_share(usual: &Usual, limit: f64) -> Option<f64> {
    let share = |(requests, errors): (u64, u64)| errors as f64 / requests.max(1) as f64;
    let towards =
        |(requests, errors): (u64, u64), prior: f64| (errors as f64 + FIRMNESS * prior) / (requests as f64 + FIRMNESS);
    let stable = (usual.stable_ever.0 >= KNOWN).then(|| {
        let ever = share(usual.stable_ever);
        towards(usual.stable, ever).max(ever)
    });
    let own = match stable {
        Some(stable) => towards(usual.own, stable.min(limit)),
        None if usual.own.0 >= KNOWN => share(usual.own),
        None => return None,
    };
    let null = (ROOM * own.max(stable.unwrap_or(0.0))).max(LEAST * limit);
    (null < limit).then_some(null)
}

/// Whether a failure has set in: the window lies plainly past the limit, and beyond chance were the errors as usual.
pub(crate) fn has_set_in(window: &Share, usual: &Usual, limit: f64) -> bool {
    window.error_rate() >= PLAINLY * limit
        && usual_share(usual, limit).is_some_and(|null| binomial_tail(window.requests, window.errors, null) < SURPRISE)
}

#[cfg(test)]
mod tests {
    use modelyard_core::Millis;

    use super::*;

    fn usual(own: (u64, u64), stable_ever: (u64, u64)) -> Usual {
        Usual { own, stable: (0, 0), stable_ever }
    }

    fn window(requests: u64, errors: u64) -> Share {
        Share { span: Millis::seconds(2), requests, errors }
    }

    #[test]
    fn what_is_usual_takes_some_knowledge() {
        assert_eq!(usual_share(&usual((0, 0), (0, 0)), 0.01), None);
        assert_eq!(usual_share(&usual((999, 0), (999, 0)), 0.01), None);
        assert_eq!(usual_share(&usual((0, 0), (1_000, 0)), 0.01), Some(0.002), "never seen is not never");
        assert_eq!(usual_share(&usual((2_000, 2), (0, 0)), 0.01), Some(0.002));
        let share = usual_share(&usual((0, 0), (100_000, 400)), 0.01).unwrap();
        assert!((share - 0.006).abs() < 1e-12, "{share}");
        assert_eq!(usual_share(&usual((0, 0), (100_000, 900)), 0.01), None, "no stricter than the limit");
        assert_eq!(usual_share(&usual((20_000, 200), (100_000, 100)), 0.01), None, "its own share is at the limit");
    }

    #[test]
    fn a_failure_shows_sooner_than_against_the_limit() {
        let healthy = usual((2_000, 2), (100_000, 100));
        // 10 of 300 are 3.3 %: against 1 % that may be chance (P = 8e-4), against 0.2 % it is not.
        assert!(!crate::statistics::exceeds(300, 10, 0.01));
        assert!(has_set_in(&window(300, 10), &healthy, 0.01));
        assert!(!has_set_in(&window(300, 10), &usual((20_000, 180), (100_000, 100)), 0.01));
        assert!(!has_set_in(&window(3_000, 60), &healthy, 0.01), "twice the limit for long is the limit's affair");
        assert!(!has_set_in(&window(50, 3), &healthy, 0.01), "a handful is chance");
        assert!(!has_set_in(&window(0, 0), &healthy, 0.01) && !has_set_in(&window(300, 10), &healthy, 0.0));
    }
}
