//! Unix sockets of the admin side: private, and put in place whole.
//!
//! Promises: only this user can connect (mode 0600 before anybody can listen to it); a socket that answers is never pushed aside unasked.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::Error;

/// Most bytes of a socket's path. Source: `unix(7)`, 108 with the final zero.
const LONGEST: usize = 107;
const BACKLOG: i32 = 128;

/// A socket in its place.
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Bound {
    /// The socket for the calling thread's runtime.
    ///
    /// # Errors
    /// [`Error::Admin`].
    pub fn accept(&self) -> Result<tokio::net::UnixListener, Error> {
        let listener = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        listener.map_err(|source| Error::Admin { path: self.path.clone(), source })
    }

    /// Removes the socket's file unless somebody else's is there now.
    pub fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path); // gone already is as good
        }
    }
}

/// Listens at `path`, in place of whatever is there.
///
/// # Errors
/// [`Error::SocketPath`], [`Error::Admin`].
pub fn bind(path: &Path) -> Result<Bound, Error> {
    let beside = path.with_file_name(format!("n{}", std::process::id()));
    for path in [path, &beside] {
        let length = path.as_os_str().len();
        if length > LONGEST {
            return Err(Error::SocketPath { path: path.to_owned(), length, limit: LONGEST });
        }
    }
    let failed = |source| Error::Admin { path: path.to_owned(), source };
    let make = || -> io::Result<Bound> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let _ = fs::remove_file(&beside); // left by a former process with our number
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&beside)?)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        let inode = fs::symlink_metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        socket.set_nonblocking(true)?;
        Ok(Bound { listener: socket.into(), path: path.to_owned(), inode })
    };
    make().map_err(failed)
}

/// Whether somebody listens at `path`.
pub fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Where a gateway hands its sockets over: beside its admin socket.
pub fn handover_path(admin: &Path) -> PathBuf {
    admin.with_extension("fd")
}

/// Where a gateway that was replaced listens for its successor: beside its former admin socket.
pub fn retired_path(admin: &Path) -> PathBuf {
    admin.with_file_name(format!("o{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_private_and_replace_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = bind(&path).unwrap();
        first.remove();
        assert!(answers(&path), "the second one's file stays");
        second.remove();
        assert!(!path.exists());
    }

    #[test]
    fn too_long_a_path_is_said() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = bind(&path).err().unwrap().to_string();
        assert!(error.contains("125 bytes") && error.contains("107"), "{error}");
    }
}
