//! What a model server is told when it starts.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use modelyard_core::flags::Values;
use modelyard_core::home::Announcement;
use modelyard_core::package::Package;

use crate::contract::Contracts;
use crate::python::Interpreter;

/// Called once the server listens, with its addresses.
pub type OnListening = Box<dyn FnOnce(&Announcement) + Send>;

/// What a model server is told when it starts. [`ServeOptions::new`] fills in the defaults; every field may be changed.
pub struct ServeOptions {
    /// What is served. Its runtime must be `onnx` or `python`.
    pub package: Package,
    /// Folder that holds the package's files.
    pub package_dir: PathBuf,
    /// Values of the package's flags; those that are left out keep their defaults.
    pub flags: Values,
    /// Name under which the model answers; the package's own name by default.
    pub name: String,
    /// Further name under which it answers.
    pub also: Option<String>,
    /// Where callers connect, REST and gRPC alike; port 0 picks a free one. Loopback only, unless it is `reachable`.
    pub http: SocketAddr,
    /// Whether callers may come from other machines: in a container, whose network decides who comes in.
    pub reachable: bool,
    /// Where probes connect, answered by a thread of their own; none by default. Loopback only, unless it is `reachable`.
    pub probe: Option<SocketAddr>,
    /// Which platforms' contracts are answered beside the protocol; none by default.
    pub contracts: Contracts,
    /// File that gets the [`Announcement`], written atomically once the server listens.
    pub announce: Option<PathBuf>,
    /// What runs the function of a `python` package, as [`crate::python::prepare`] makes it.
    pub python: Option<Interpreter>,
    /// Worker processes of a `python` package; as many as it says unless it stands here.
    pub workers: Option<u16>,
    /// The ONNX Runtime library of an `onnx` package, as [`crate::onnxruntime::locate`] finds it.
    pub onnxruntime: PathBuf,
    /// Whether an ONNX model's weights stay as they are in its files of external data, which are mapped into memory: all instances of a machine then share one
    /// copy. Otherwise the engine may lay them out anew in memory of its own, which may be faster.
    pub share_weights: bool,
    /// Threads that read requests and write answers; 0 takes one per core.
    pub threads: usize,
    /// Threads within one inference of a slow model; 0 takes one per core. Fast models always use one.
    pub engine_threads: usize,
    /// Largest request body in bytes; larger ones get 413.
    pub max_body_bytes: usize,
    /// Most rows that requests are merged up to; 1 turns merging off.
    pub max_batch_rows: usize,
    /// Most requests that wait for the engine; further ones get 503 with `Retry-After`.
    pub queue: usize,
    /// How often the samples are asked.
    pub check_every: Duration,
    /// How long requests in flight may take after SIGTERM; what remains then is cut off.
    pub grace: Duration,
    /// Called once the server listens.
    pub on_listening: Option<OnListening>,
}

impl ServeOptions {
    /// Options with every default: a free loopback port, one thread per core, bodies up to 64 MiB, samples every 5 s.
    pub fn new(package: Package, package_dir: impl Into<PathBuf>, onnxruntime: impl Into<PathBuf>) -> Self {
        Self {
            name: package.name.to_string(),
            also: None,
            package,
            package_dir: package_dir.into(),
            flags: Values::new(),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            reachable: false,
            probe: None,
            contracts: Contracts::default(),
            announce: None,
            python: None,
            workers: None,
            onnxruntime: onnxruntime.into(),
            share_weights: false,
            threads: 0,
            engine_threads: 0,
            max_body_bytes: 64 << 20,
            max_batch_rows: 128,
            queue: 1024,
            check_every: Duration::from_secs(5),
            grace: Duration::from_secs(30),
            on_listening: None,
        }
    }
}

impl fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeOptions")
            .field("package", &format_args!("{}:{}", self.package.name, self.package.version))
            .field("name", &self.name)
            .field("http", &self.http)
            .field("probe", &self.probe)
            .finish_non_exhaustive()
    }
}
