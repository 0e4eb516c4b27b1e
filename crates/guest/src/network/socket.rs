//! The socket on which a client of one interface talks to servers.
//!
//! Promises: it hears and speaks on its interface only.
//! Absent on purpose: frames of our own (`AF_PACKET`), for which there is no safe interface. So, on a machine with several interfaces, the kernel sends the
//! questions of one that has no address from the address of another one. Servers go by what stands in the question.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::dhcp::MAX;

const CLIENT: u16 = 68;
const SERVER: u16 = 67;

/// So many packets are read before others get a turn.
const AT_ONCE: usize = 32;

/// A socket that hears and speaks on one interface only.
#[derive(Debug)]
pub struct Port(UdpSocket);

impl Port {
    /// Opens it on the interface of this name.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?; // each interface has one
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT).into())?;
        Ok(Self(socket.into()))
    }

    /// Sends to one server, or to all.
    pub fn send(&self, to: Option<Ipv4Addr>, bytes: &[u8]) -> io::Result<()> {
        self.0.send_to(bytes, (to.unwrap_or(Ipv4Addr::BROADCAST), SERVER)).map(drop)
    }

    /// What has arrived, some of it.
    pub fn receive(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = [0; MAX];
        while packets.len() < AT_ONCE {
            match self.0.recv_from(&mut buffer) {
                Ok((count, _)) => packets.push(buffer[..count].to_vec()),
                // Told on a socket of this kind: that what was sent before did not arrive. The next packet may be there.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && packets.len() < AT_ONCE => {
                    packets.push(Vec::new());
                }
                Err(_) => break,
            }
        }
        packets
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
