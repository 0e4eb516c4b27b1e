//! What the machine tells on its consoles: short lines for whoever looks at the screen or the serial port.
//!
//! Promises: every console that the kernel writes to gets them. What the program writes goes to the last of them only: a screen is slow.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, open};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// The console that the kernel was told of last.
const PATH: &str = "/dev/console";

/// All that the kernel writes to, that one behind the others.
const ACTIVE: &str = "/sys/class/tty/console/active";

/// The others, from when they were opened.
static OTHERS: OnceLock<Vec<File>> = OnceLock::new();

/// Makes the console the standard input and output of this process and of what it starts. A machine without one goes on without.
pub fn open_as_standard() {
    // Never the controlling terminal: no key on it is to signal the first process.
    let Ok(console) = open(PATH, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) else { return };
    let _ = dup2_stdin(&console);
    let _ = dup2_stdout(&console);
    let _ = dup2_stderr(&console);
    let others = others(&fs::read_to_string(ACTIVE).unwrap_or_default());
    // What cannot be written at once is not worth that the machine waits.
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = others.iter().filter_map(|path| open(path, flags, Mode::empty()).ok().map(File::from));
    let _ = OTHERS.set(opened.collect()); // set before: opened once is enough
}

/// The files of all but the last.
fn others(active: &str) -> Vec<String> {
    let mut names: Vec<&str> = active.split_whitespace().collect();
    names.pop();
    names.into_iter().map(|name| format!("/dev/{name}")).collect()
}

/// Lets the program open its own output anew, as `/dev/stdout`.
pub fn give_to(user: u32, group: u32) {
    let _ = chown(PATH, Some(user), Some(group)); // no console: then nobody opens it
}

/// Writes one line, at once.
pub fn say(line: impl Display) {
    let line = format!("machine: {line}\n");
    let _ = std::io::stderr().write_all(line.as_bytes()); // nobody to tell it to
    for mut other in OTHERS.get().into_iter().flatten() {
        let _ = other.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_consoles_but_the_last_are_others() {
        assert_eq!(super::others("tty0 ttyS1 ttyS0\n"), ["/dev/tty0", "/dev/ttyS1"]);
        assert!(super::others("ttyS0\n").is_empty() && super::others("").is_empty());
    }
}
