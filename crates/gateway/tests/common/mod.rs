//! What the tests share: a gateway in this process, a caller, and instances that behave as told.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod caller;
pub mod grpc;
pub mod http2;
pub mod instance;
pub mod machine;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use modelyard_core::home::Running;
use modelyard_core::measure::GatewayReport;
use modelyard_core::route::{Pool, RouteTable, ServiceRoute};
use modelyard_core::service::Routing;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Version, Weight};
use modelyard_gateway::{Error, GatewayOptions, run};

/// Longest time that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway that runs in threads of this process.
pub struct Gateway {
    pub options: GatewayOptions,
    pub address: SocketAddr,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Gateway {
    /// Starts one in `folder`.
    pub fn start(folder: &Path) -> Self {
        Self::with(options(folder))
    }

    pub fn with(options: GatewayOptions) -> Self {
        let before = inode(&options.running);
        let thread = std::thread::spawn({
            let options = options.clone();
            move || run(options)
        });
        let address = wait_for("the running document", || {
            assert!(!thread.is_finished(), "the gateway ended");
            let fresh = inode(&options.running).filter(|_| inode(&options.running) != before);
            fresh.and_then(|_| {
                Some(serde_json::from_slice::<Running>(&std::fs::read(&options.running).ok()?).ok()?.address)
            })
        });
        Self { options, address, thread: Some(thread) }
    }

    /// A request to the admin socket.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        admin(&self.options.admin, method, path, body)
    }

    /// Applies a table.
    pub fn put(&self, table: &RouteTable) {
        let (status, body) = self.admin("PUT", "/routes", &serde_json::to_string(table).unwrap());
        assert_eq!(status, 200, "{body}");
    }

    pub fn report(&self) -> GatewayReport {
        let (status, body) = self.admin("GET", "/report", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the gateway has ended by itself.
    pub fn wait(mut self) {
        let thread = self.thread.take().unwrap();
        wait_for("the gateway's end", || thread.is_finished().then_some(()));
        thread.join().unwrap().unwrap();
    }

    /// Drains and waits for the end.
    pub fn end(self) {
        assert_eq!(self.admin("POST", "/drain", "").0, 202);
        self.wait();
    }
}

/// Tells whether the document was replaced: within one process its text is the same.
fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.admin("POST", "/drain", "")));
        }
    }
}

pub fn options(folder: &Path) -> GatewayOptions {
    GatewayOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: folder.join("admin.sock"),
        state_dir: folder.join("state"),
        running: folder.join("gateway.json"),
        threads: 2,
        takeover: false,
    }
}

pub fn admin(socket: &PathBuf, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Asks `look` until it says something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A table with the service `wine`: revisions with weights and instances.
pub fn table(generation: u64, pools: &[(u32, u16, &[SocketAddr])]) -> RouteTable {
    table_with(generation, pools, |_| {})
}

pub fn table_with(
    generation: u64,
    pools: &[(u32, u16, &[SocketAddr])],
    change: impl FnOnce(&mut ServiceRoute),
) -> RouteTable {
    let mut route = ServiceRoute {
        default_api: 1,
        apis: BTreeMap::from([(1, BTreeMap::new())]),
        pools: BTreeMap::new(),
        park: false,
        routing: Routing::default(),
        ..ServiceRoute::default()
    };
    for &(revision, weight, instances) in pools {
        let id = |address: &SocketAddr| InstanceId::new(format!("wine-r{revision}-{}", address.port())).unwrap();
        let pool = Pool {
            version: Version::new(format!("{revision}.0.0")).unwrap(),
            instances: instances.iter().map(|address| (id(address), *address)).collect(),
            flags: None,
        };
        route.pools.insert(RevisionNumber(revision), pool);
        if weight > 0 {
            let split = route.apis.get_mut(&1).unwrap();
            split.insert(RevisionNumber(revision), Weight::new(weight).unwrap());
        }
    }
    change(&mut route);
    RouteTable {
        generation,
        services: BTreeMap::from([(ServiceName::new("wine").unwrap(), route)]),
        ..RouteTable::default()
    }
}
