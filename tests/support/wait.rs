//! Waiting for a condition with a deadline.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Waits until `look` finds it; panics with the last thing that `look` said once `seconds` have passed.
#[track_caller]
pub fn until<T, E: Display>(what: &str, seconds: u64, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() > deadline => panic!("{what}: not within {seconds} s; last seen: {why}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}
