//! The gateway's files: its last good route table, and the document that says who runs.
//!
//! Promises: a file is whole or absent, whatever dies in between (written beside, flushed, renamed).

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use modelyard_core::home::Running;
use modelyard_core::route::RouteTable;

use crate::error::Error;
use crate::options::GatewayOptions;

/// Name of the last good route table within the state folder.
const TABLE: &str = "routes.json";

/// Writes a file whole.
///
/// # Errors
/// [`Error::File`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::File { what: "write", path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let beside = path.with_extension(format!("new{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The rename itself is durable once the folder is flushed.
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&beside); // what could not be written is of no use
        failed(source)
    })
}

/// Keeps the last good table.
///
/// # Errors
/// [`Error::File`].
pub fn keep_table(state_dir: &Path, table: &RouteTable) -> Result<(), Error> {
    let json = serde_json::to_vec(table).map_err(|error| Error::File {
        what: "write",
        path: state_dir.join(TABLE),
        source: io::Error::other(error),
    })?;
    write_whole(&state_dir.join(TABLE), &json)
}

/// The last good table; the empty one if there is none, or if it makes no sense, which is logged: a gateway that starts is worth more.
pub fn load_table(state_dir: &Path) -> RouteTable {
    let path = state_dir.join(TABLE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return RouteTable::default(),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read the last route table; starting without");
            return RouteTable::default();
        }
    };
    let table = serde_json::from_slice::<RouteTable>(&bytes).map_err(|error| error.to_string());
    let checked = table.and_then(|table| table.check().map(|()| table).map_err(|error| error.to_string()));
    checked.unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), error, "the last route table makes no sense; starting without");
        RouteTable::default()
    })
}

/// The document that says who runs, removed when the gateway ends unless a successor has written its own.
pub struct RunningFile {
    path: PathBuf,
    inode: u64,
}

impl RunningFile {
    /// Writes it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(options: &GatewayOptions, address: SocketAddr) -> Result<Self, Error> {
        let running = Running {
            pid: std::process::id(),
            start_ticks: own_start_ticks(),
            address,
            admin: Some(options.admin.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let json = serde_json::to_vec(&running).map_err(|error| Error::File {
            what: "write",
            path: options.running.clone(),
            source: io::Error::other(error),
        })?;
        write_whole(&options.running, &json)?;
        let path = options.running.clone();
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Self { path, inode: metadata.ino() }),
            Err(source) => Err(Error::File { what: "read", path, source }),
        }
    }

    /// Removes it if it is still ours.
    pub fn remove(&self) {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path); // gone already is as good
        }
    }
}

/// When this process began, in clock ticks since boot; 0 where `/proc` cannot be read.
fn own_start_ticks() -> u64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|stat| start_ticks(&stat)).unwrap_or(0)
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses and may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_past_any_program_name() {
        let stat = "7 (a) b 1 2) S 1 7 7 0 -1 4194560 1 0 0 0 3 1 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(start_ticks("nonsense"), None);
        assert!(own_start_ticks() > 0);
    }

    #[test]
    fn the_last_table_comes_back_and_nonsense_does_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load_table(folder.path()), RouteTable::default());
        let table = RouteTable { generation: 7, ..RouteTable::default() };
        keep_table(folder.path(), &table).unwrap();
        assert_eq!(load_table(folder.path()), table);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
        fs::write(folder.path().join(TABLE), b"{").unwrap();
        assert_eq!(load_table(folder.path()), RouteTable::default());
    }

    #[test]
    fn only_our_own_document_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let options = GatewayOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: folder.path().join("admin.sock"),
            state_dir: folder.path().to_owned(),
            running: folder.path().join("run/gateway.json"),
            threads: 1,
            takeover: false,
        };
        let ours = RunningFile::write(&options, "127.0.0.1:80".parse().unwrap()).unwrap();
        let successor = RunningFile::write(&options, "127.0.0.1:81".parse().unwrap()).unwrap();
        ours.remove();
        assert!(options.running.exists());
        successor.remove();
        assert!(!options.running.exists());
    }
}
