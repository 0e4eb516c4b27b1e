//! The kernel's messages about interfaces, addresses and routes: their form, and the sockets for them.
//!
//! Promises: lengths are believed only as far as there are bytes; a request is over when the kernel said so.
//! Source: kernel, `Documentation/userspace-api/netlink/intro.rst`, `include/uapi/linux/{netlink,rtnetlink}.h`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NLM_F_DUMP`: all there are.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLMSG_ERROR`: the answer to a request, also to one that went well.
const ERROR: u16 = 2;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct rtattr`.
const ATTRIBUTE: usize = 4;

/// The kernel answers at once; without an answer the machine goes on all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request that is being written.
#[derive(Clone, Debug)]
pub struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request of this kind; `head` is the fixed part.
    pub fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        Self { kind, flags, body: head.to_vec() }
    }

    /// With one more attribute.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(&self, sequence: u32, more: u16) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | REQUEST | more).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `RTM_NEWLINK` …
    pub kind: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages of one datagram.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let message = Message { kind: u16_at(bytes, 4)?, sequence: u32_at(bytes, 8)?, body };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message, from behind its fixed part.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(ATTRIBUTE..length)?;
        let kind = u16_at(bytes, 2)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number in the machine's own order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number in the machine's own order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A socket to the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket for requests.
    pub fn for_requests() -> io::Result<Self> {
        let socket = Self::open(SocketFlags::CLOEXEC, 0)?;
        set_socket_timeout(&socket.socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(socket)
    }

    /// A socket that is told whatever concerns these groups (bits).
    pub fn for_events(groups: u32) -> io::Result<Self> {
        Self::open(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, groups)
    }

    fn open(flags: SocketFlags, groups: u32) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for something whose answers are events.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.transmit(&request.bytes(self.sequence + 1, 0))
    }

    /// Asks for something to be done and waits until it is.
    pub fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.transmit(&request.bytes(self.sequence.wrapping_add(1), ACK))?;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = self.receive(&mut buffer)?;
            for message in messages(&buffer[..count]) {
                if message.kind == ERROR && message.sequence == self.sequence {
                    return match u32_at(message.body, 0).map_or(0, u32::cast_signed) {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
            }
        }
    }

    fn transmit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        sendto(&self.socket, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// One datagram. One that is not from the kernel, or too long for the buffer, counts as empty.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (count, length, from) = recvfrom(&self.socket, &mut *buffer, RecvFlags::TRUNC)?;
        let kernel = from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).is_some_and(|from| from.pid() == 0);
        Ok(if kernel && length <= buffer.len() { count } else { 0 })
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Request, attributes, messages};

    #[test]
    fn what_is_written_is_read() {
        let request = Request::new(20, 0, &[1, 2, 3, 4]).with(3, b"eth0\0").with(4, &1500u32.to_ne_bytes());
        let bytes = [request.bytes(7, 0), request.bytes(8, 0)].concat();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.iter().map(|message| (message.kind, message.sequence)).collect::<Vec<_>>(), [(20, 7), (20, 8)]);
        let expected = [(3, &b"eth0\0"[..]), (4, &1500u32.to_ne_bytes()[..])];
        assert_eq!(attributes(&read[1].body[4..]).collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn lengths_are_not_believed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read: usize = messages(&bytes).map(|message| attributes(message.body).count()).sum();
            prop_assert!(read <= bytes.len());
        }

        #[test]
        fn cut_messages_end(cut in 0..40usize) {
            let bytes = Request::new(20, 0, &[0; 4]).with(3, b"eth0\0").bytes(1, 0);
            let _ = messages(&bytes[..cut.min(bytes.len())]).count();
        }
    }
}
