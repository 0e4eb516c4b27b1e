//! What ends the machine: the power button, the hypervisor, a signal, ctrl-alt-del; and the end itself.
//!
//! Promises: keys are read only of devices that have a power key.
//! Source: kernel, `Documentation/input/input.rst`, `include/uapi/linux/input-event-codes.h`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use modelyard_core::boot::PROGRAM;
use rustix::fs::{OFlags, sync};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::system::{RebootCommand, reboot};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Switched off.
    Off,
    /// Started anew.
    Restart,
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Off => "switching off",
            Self::Restart => "restarting",
        })
    }
}

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    receiver: UnixStream,
    off: Arc<AtomicBool>,
    restart: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen. Ctrl-alt-del becomes a signal too, instead of a restart at once.
    pub fn listen() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let (off, restart) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        for (signal, flag) in [(SIGTERM, &off), (SIGINT, &restart)] {
            // First the flag, then the wake-up: who wakes sees the flag.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
        for signal in [SIGTERM, SIGINT, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        let _ = reboot(RebootCommand::CadOff); // not allowed in a container: it has no such keys
        Ok(Self { receiver, off, restart })
    }

    /// What was asked for since the last look.
    pub fn asked(&self) -> Option<End> {
        while matches!((&self.receiver).read(&mut [0; 64]), Ok(count) if count > 0) {}
        let (off, restart) = (self.off.swap(false, Ordering::SeqCst), self.restart.swap(false, Ordering::SeqCst));
        if off { Some(End::Off) } else { restart.then_some(End::Restart) }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// What the kernel starts when a hypervisor without a power button (Hyper-V, Xen) wants the machine off.
const COMMAND: &str = "/proc/sys/kernel/poweroff_cmd";

/// The argument that makes this program the one that passes such a wish on.
const PASS_ON: &str = "@switch-off";

fn command() -> String {
    format!("{PROGRAM} {PASS_ON}")
}

/// Has the kernel tell us of such wishes. Otherwise it would look for a program that this machine does not have, and pull the plug.
pub fn be_told() {
    let _ = fs::write(COMMAND, command()); // then it is as without
}

/// Whether this process was started by the kernel to pass such a wish on.
pub fn is_messenger() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next().is_some_and(|argument| argument == PASS_ON) && arguments.next().is_none();
    // Only in a machine of ours: elsewhere the first process is somebody else.
    asked && fs::read_to_string(COMMAND).is_ok_and(|set| set.trim() == command())
}

/// Passes it on: to the first process, as a signal.
pub fn pass_on() -> io::Result<()> {
    Ok(kill_process(Pid::INIT, Signal::TERM)?)
}

/// `KEY_POWER`.
const KEY: u16 = 116;

/// `struct input_event` on machines of 64 bits: two words of time, type, code, value.
const EVENT: usize = 24;

/// The power buttons of the machine.
#[derive(Debug, Default)]
pub struct Buttons(Vec<(String, File)>);

impl Buttons {
    /// Opens those that are there and not open yet.
    pub fn look(&mut self) {
        for entry in fs::read_dir("/sys/class/input").into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with("event") || self.0.iter().any(|(open, _)| *open == name) {
                continue;
            }
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).unwrap_or_default();
            if !has_key(&keys, KEY) {
                continue;
            }
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
            let device = fs::OpenOptions::new().read(true).custom_flags(flags).open(format!("/dev/input/{name}"));
            self.0.extend(device.ok().map(|device| (name, device)));
        }
    }

    /// What can be waited for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, device)| device.as_fd())
    }

    /// Whether one was pressed since the last look. Devices that are gone are closed.
    pub fn pressed(&mut self) -> bool {
        let mut pressed = false;
        self.0.retain_mut(|(_, device)| {
            let mut buffer = [0; EVENT * 64];
            loop {
                match device.read(&mut buffer) {
                    Ok(0) => return false,
                    Ok(count) => pressed |= presses(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                }
            }
        });
        pressed
    }
}

/// Whether the power key goes down in these events.
fn presses(events: &[u8]) -> bool {
    let number = |event: &[u8], at: usize| event.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    events.chunks_exact(EVENT).any(|event| {
        // Type EV_KEY, the key, and 1: 0 is its release, 2 its repetition.
        number(event, 16) == Some(1) && number(event, 18) == Some(KEY) && event[20..24] == 1i32.to_ne_bytes()
    })
}

/// Whether a `capabilities` file names this key: words of 64 bits, hexadecimal, the highest first.
fn has_key(words: &str, key: u16) -> bool {
    let word = words.split_whitespace().rev().nth(usize::from(key / 64));
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (key % 64) & 1 == 1)
}

/// Ends every process but this one, by force.
pub fn kill_all() {
    // The group of number 1 is written as -1: everybody. Kernel threads do not mind.
    let _ = kill_process_group(Pid::INIT, Signal::KILL); // nobody is there: well
}

/// Ends the machine, now.
pub fn end(end: End) -> ! {
    sync();
    let command = match end {
        End::Off => RebootCommand::PowerOff,
        End::Restart => RebootCommand::Restart,
    };
    if let Err(error) = reboot(command) {
        crate::console::say(format_args!("the machine could not be ended: {error}; switch it off"));
    }
    loop {
        // The first process must not end: the kernel would panic.
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{EVENT, has_key, presses};

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT] {
        let mut event = [7; EVENT];
        event[16..18].copy_from_slice(&kind.to_ne_bytes());
        event[18..20].copy_from_slice(&code.to_ne_bytes());
        event[20..].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        assert!(presses(&[event(0, 0, 0), event(1, 116, 1), event(0, 0, 0)].concat()));
        for other in [event(1, 116, 0), event(1, 116, 2), event(1, 30, 1), event(2, 116, 1)] {
            assert!(!presses(&other));
        }
        assert!(!presses(&event(1, 116, 1)[..EVENT - 1]));
    }

    #[test]
    fn devices_with_a_power_key_are_known() {
        // As the kernel writes it for an ACPI power button, a mouse and a keyboard.
        assert!(has_key("10000000000000 0\n", 116));
        assert!(!has_key("1f0000 0 0 0 0\n", 116));
        assert!(has_key("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe\n", 30));
        for broken in ["", "0", "x y", "10000000000000"] {
            assert!(!has_key(broken, 116), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..100), key: u16) {
            let _ = (has_key(&text, key), presses(&bytes));
        }
    }
}
