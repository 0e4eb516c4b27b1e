//! The hand-over: the listening socket goes from the old gateway to the new one, with everybody who waits in its queue.
//!
//! The new gateway connects, receives the socket and a line that says who the old one is, starts to accept, and answers `ready`. Only then
//! the old one stops accepting. Whatever fails before that leaves the old one as it was.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::socket;
use crate::error::Error;

/// Version of the hand-over's form.
const FORM: u32 = 1;
/// What the new gateway says when it serves.
pub const READY: &[u8] = b"ready\n";
// A loaded machine answers within a second; then waiting no longer helps.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the old gateway says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Farewell {
    /// Version of this document's form.
    pub form: u32,
    /// Its process.
    pub pid: u32,
    /// Where it can be asked and told until its end.
    pub admin: PathBuf,
}

impl Farewell {
    /// From this process.
    pub fn new(admin: PathBuf) -> Self {
        Self { form: FORM, pid: std::process::id(), admin }
    }
}

/// Sends the listening socket.
///
/// # Errors
/// The operating system's.
pub fn give(stream: &UnixStream, listener: &TcpListener, farewell: &Farewell) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let line = serde_json::to_vec(farewell)?;
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the socket"));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// What the new gateway received.
pub struct Received {
    /// The listening socket.
    pub listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who gave it.
    pub farewell: Farewell,
    stream: UnixStream,
}

impl Received {
    /// Says that the new gateway serves: the old one stops accepting.
    ///
    /// # Errors
    /// The operating system's.
    pub fn ready(mut self) -> io::Result<()> {
        self.stream.write_all(READY)
    }
}

/// Asks the gateway behind `admin` for its socket.
///
/// # Errors
/// [`Error::Takeover`].
pub fn take(admin: &Path) -> Result<Received, Error> {
    let failed = |why: String| Error::Takeover { path: admin.to_owned(), why };
    let stream = UnixStream::connect(socket::handover_path(admin))
        .map_err(|error| failed(format!("nobody hands over there ({error}); start without --takeover")))?;
    receive(stream).map_err(|error| failed(error.to_string()))
}

fn receive(stream: UnixStream) -> io::Result<Received> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = vec![0; 8 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut line)];
    let received = rustix::net::recvmsg(&stream, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let farewell: Farewell = serde_json::from_slice(&line[..received.bytes])?;
    if farewell.form > FORM {
        return Err(io::Error::other("the old gateway speaks a newer form of the hand-over"));
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let fd: OwnedFd = fd.ok_or_else(|| io::Error::other("the old gateway sent no socket"))?;
    let listener = TcpListener::from(fd);
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(Received { listener, address, farewell, stream })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_over_with_its_queue() {
        let (old, new) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _waiting = std::net::TcpStream::connect(address).unwrap();
        give(&old, &listener, &Farewell::new("/tmp/o1".into())).unwrap();
        drop(listener);
        let received = receive(new).unwrap();
        assert_eq!((received.address, received.farewell.pid), (address, std::process::id()));
        received.listener.set_nonblocking(false).unwrap();
        received.listener.accept().unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        let (mut old, new) = UnixStream::pair().unwrap();
        old.write_all(b"{}").unwrap();
        assert!(receive(new).is_err());
    }
}
