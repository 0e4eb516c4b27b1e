//! What the machine tells on its consoles: short lines for whoever looks at the screen or the serial port.
//!
//! Promises: every console that the kernel writes to gets them. What the program writes goes to the last of them that is there only:
//! a screen is slow. A machine that has none runs all the same.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::sync::OnceLock;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::tcgetattr;

/// The console that the kernel was told of last.
const PATH: &str = "/dev/console";

/// All that the kernel writes to, that one behind the others.
const ACTIVE: &str = "/sys/class/tty/console/active";

/// The others, from when they were opened.
static OTHERS: OnceLock<Vec<File>> = OnceLock::new();

/// Where it goes when no console can be written to.
const NOWHERE: &str = "/dev/null";

/// Makes the console the standard input and output of this process and of what it starts. A machine without one goes on without.
pub fn open_as_standard() {
    let others = others(&fs::read_to_string(ACTIVE).unwrap_or_default());
    let candidates = [PATH].into_iter().chain(others.iter().rev().map(String::as_str));
    // Never the controlling terminal: no key on it is to signal the first process.
    let opened = candidates.filter_map(|path| {
        Some((path, open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()?))
    });
    let found = opened.into_iter().find(|(_, console)| is_there(console));
    let found = found.or_else(|| Some((NOWHERE, open(NOWHERE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?)));
    let Some((standard, console)) = found else { return };
    let _ = dup2_stdin(&console);
    let _ = dup2_stdout(&console);
    let _ = dup2_stderr(&console);
    // What cannot be written at once is not worth that the machine waits.
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let rest = others.iter().filter(|path| *path != standard);
    let opened = rest.filter_map(|path| open(path, flags, Mode::empty()).ok().map(File::from));
    let _ = OTHERS.set(opened.collect()); // set before: opened once is enough
}

/// Whether there is a device behind a console. The kernel takes serial ports of PCs for granted; one that is not there can be opened, and
/// everything else of it fails, with which a program would fail too.
fn is_there(console: &OwnedFd) -> bool {
    !matches!(tcgetattr(console), Err(Errno::IO))
}

/// The files of all but the last.
fn others(active: &str) -> Vec<String> {
    let mut names: Vec<&str> = active.split_whitespace().collect();
    names.pop();
    names.into_iter().map(|name| format!("/dev/{name}")).collect()
}

/// Lets the program open its own output anew, as `/dev/stdout`.
pub fn give_to(user: u32, group: u32) {
    let others = others(&fs::read_to_string(ACTIVE).unwrap_or_default());
    for path in others.iter().map(String::as_str).chain([PATH]) {
        let _ = chown(path, Some(user), Some(group)); // no console: then nobody opens it
    }
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
