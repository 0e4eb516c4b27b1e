//! What the machine tells on its console: short lines for whoever looks at the screen or the serial port.

use std::fmt::Display;
use std::io::Write as _;
use std::os::unix::fs::chown;

use rustix::fs::{Mode, OFlags, open};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Where the kernel sends its own lines.
pub const PATH: &str = "/dev/console";

/// Makes the console the standard input and output of this process and of what it starts. A machine without one goes on without.
pub fn open_as_standard() {
    // Never the controlling terminal: no key on it is to signal the first process.
    let Ok(console) = open(PATH, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) else { return };
    let _ = dup2_stdin(&console);
    let _ = dup2_stdout(&console);
    let _ = dup2_stderr(&console);
}

/// Lets the program open its own output anew, as `/dev/stdout`.
pub fn give_to(user: u32, group: u32) {
    let _ = chown(PATH, Some(user), Some(group)); // no console: then nobody opens it
}

/// Writes one line, at once.
pub fn say(line: impl Display) {
    let line = format!("machine: {line}\n");
    let _ = std::io::stderr().write_all(line.as_bytes()); // nobody to tell it to
}
