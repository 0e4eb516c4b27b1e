//! What wakes a supervisor: signals, through a socket that can be waited for together with the program's output.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use crate::identity::timespec;

/// The signals of this process.
#[derive(Debug)]
pub(crate) struct Wake {
    receiver: UnixStream,
    asked: Arc<AtomicBool>,
}

impl Wake {
    /// Starts to listen: SIGTERM and SIGINT ask to end, SIGCHLD tells of an ended process.
    pub fn listen() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // First the flag, then the wake-up: who wakes sees the flag.
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        for signal in [SIGTERM, SIGINT, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { receiver, asked })
    }

    /// Waits for a signal, for `output` to be readable, or for the span to pass.
    pub fn wait(&self, output: Option<BorrowedFd<'_>>, at_most: Duration) {
        let mut fds = vec![PollFd::new(&self.receiver, PollFlags::IN)];
        fds.extend(output.map(|output| PollFd::from_borrowed_fd(output, PollFlags::IN)));
        // Interrupted or not: the caller looks at everything anyway.
        let _ = poll(&mut fds, Some(&timespec(at_most)));
        while matches!((&self.receiver).read(&mut [0; 64]), Ok(count) if count > 0) {}
    }

    /// Whether it was asked to end since the last look.
    pub fn asked(&self) -> bool {
        self.asked.swap(false, Ordering::SeqCst)
    }
}
