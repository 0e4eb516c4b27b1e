//! Why a gateway could not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a gateway could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is reachable from other machines.
    #[error(
        "refusing to listen on {0}: only loopback addresses (127.0.0.1, [::1]) are allowed until access tokens exist; use 127.0.0.1:{port}",
        port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}; if another gateway runs there, stop it or take over from it with --takeover")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path of the admin socket is too long for the operating system.
    #[error(
        "the admin socket's path is {length} bytes long and {limit} is the most that Unix sockets allow: {}; use a shorter folder (MODELYARD_HOME)",
        path.display()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
        /// The most allowed.
        limit: usize,
    },
    /// The admin socket cannot be made.
    #[error("cannot listen on the admin socket {}", path.display())]
    Admin {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another gateway answers on the admin socket.
    #[error("a gateway already answers on {}; stop it first, or take over from it with --takeover", .0.display())]
    AlreadyRuns(PathBuf),
    /// A file of the gateway cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried: `write`, `read`, `make the folder`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The old gateway does not hand over.
    #[error("cannot take over from the gateway on {}: {why}; it goes on serving", path.display())]
    Takeover {
        /// Its admin socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A thread or its runtime cannot be started.
    #[error("cannot start a thread of the gateway")]
    Thread(#[source] io::Error),
}
