//! A program as the first process of a container: it gets the signals that the container gets, and what it leaves behind is cleared away.
//!
//! The kernel keeps signals from process 1 that it does not handle, so that a program which relies on SIGTERM's usual effect could only be killed.

use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::exit::Failed;

/// Whether this is the first process.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Runs the program to its end, and ends as it did: with its exit code, or 128 and the signal that ended it, as shells tell it.
pub fn run(program: &mut Command) -> Result<std::convert::Infallible, Failed> {
    let failed =
        |error| Failed::from(error, "the program could not be started", "is it in the image, and built for it?");
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD]).map_err(failed)?;
    let child = program.spawn().map_err(failed)?;
    let pid = Pid::from_child(&child);
    for signal in signals.forever() {
        if signal == SIGCHLD {
            // Whoever lost its parent is ours too.
            while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
                if ended == pid {
                    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                    std::process::exit(code.unwrap_or(1));
                }
            }
        } else if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = kill_process(pid, signal);
        }
    }
    std::process::exit(1)
}
