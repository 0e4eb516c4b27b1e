//! What the kernel tells of devices that come and go.
//!
//! Promises: no event is believed that did not come from the kernel; what is too long or has no form is skipped.
//! Source: kernel, `lib/kobject_uevent.c`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with, sockopt};

/// The kernel's buffer for one event is 2 KiB.
const MAX_EVENT: usize = 8 << 10;

/// One event, as far as anybody here asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `add`, `remove`, `change` …
    pub action: String,
    /// `block`, `input` …
    pub subsystem: String,
    /// What the device says it is, for the choice of a driver.
    pub modalias: Option<String>,
    /// Its file below `/dev`.
    pub device: Option<String>,
}

impl Event {
    /// Reads a message: a line for people, then variables, all ended by zero bytes.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut parts = text.split('\0');
        parts.next().filter(|head| head.contains('@'))?;
        let mut event = Self::default();
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "ACTION" => value.clone_into(&mut event.action),
                "SUBSYSTEM" => value.clone_into(&mut event.subsystem),
                "MODALIAS" => event.modalias = Some(value.to_owned()),
                "DEVNAME" => event.device = Some(value.to_owned()),
                _ => {}
            }
        }
        (!event.action.is_empty()).then_some(event)
    }

    /// Whether a device came.
    pub fn is_new(&self) -> bool {
        self.action == "add"
    }
}

/// The socket on which events arrive.
#[derive(Debug)]
pub struct Events(OwnedFd);

/// What was read at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// There were more than the kernel could keep: whoever needs all of them looks for himself.
    pub lost: bool,
}

impl Batch {
    /// Devices that came.
    pub fn came(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| event.is_new())
    }
}

impl Events {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        // A machine with many devices tells of all of them within a moment. More than the limit of ordinary processes: they may not.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
        bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Everything that has arrived.
    pub fn read(&self) -> Batch {
        let mut batch = Batch::default();
        let mut buffer = vec![0; MAX_EVENT];
        loop {
            match recvfrom(&self.0, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((count, length, from)) => {
                    let kernel = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    if count == length && kernel.is_some_and(|from| from.pid() == 0) {
                        batch.events.extend(Event::parse(&buffer[..count]));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => batch.lost = true,
                Err(_) => return batch,
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Event;

    #[test]
    fn events_are_read() {
        let message = b"add@/devices/virtio0\0ACTION=add\0DEVPATH=/devices/virtio0\0SUBSYSTEM=virtio\0MODALIAS=virtio:d1v2\0SEQNUM=7\0";
        let event = Event::parse(message).unwrap();
        assert!(event.is_new());
        assert_eq!((event.subsystem.as_str(), event.modalias.as_deref()), ("virtio", Some("virtio:d1v2")));
        let message = b"remove@/x\0ACTION=remove\0SUBSYSTEM=input\0DEVNAME=input/event0\0";
        let event = Event::parse(message).unwrap();
        assert!(!event.is_new());
        assert_eq!(event.device.as_deref(), Some("input/event0"));
    }

    #[test]
    fn what_is_none_is_skipped() {
        for message in
            [&b""[..], b"\0\0", b"libudev\0ACTION=add\0", b"add@/x\0", b"add@/x\0ACTION\0", b"add@/x\0\xff=1\0"]
        {
            assert_eq!(Event::parse(message), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Event::parse(&message);
        }
    }
}
