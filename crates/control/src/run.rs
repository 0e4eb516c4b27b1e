//! Starting and ending the control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::middleware::from_fn;
use modelyard_core::Timestamp;
use modelyard_core::event::EventBody;
use modelyard_core::home::{Home, Running};
use modelyard_core::ports::{Clock, Target};
use modelyard_monitor::capture::SPAN;
use modelyard_registry::access::Tokens;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::listen;
use modelyard_targets::ProcessTarget;
use modelyard_targets::fleet::Fleet;
use modelyard_targets::identity::Identity;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::{self, App, Metrics};
use crate::catalogue::Catalogue;
use crate::controller::{Controller, Ports};
use crate::down::take_down;
use crate::environments::Environments;
use crate::evidence::{Book, Places, Retention};
use crate::gateway::process::GatewayProcess;
use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::machines::Library;
use crate::orders::Orders;
use crate::packages::RegistryPackages;
use crate::prober::HttpAsker;
use crate::promotions::Promotions;
use crate::store::{self, Store};
use crate::token_log::TokenLog;
use crate::tracking::Tracker;
use crate::{gateway, machines, running, session_key, token_log, tokens};

/// How the control plane is started.
pub struct ControlOptions {
    /// The folder for everything local.
    pub home: Home,
    /// Where the API listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the gateway listens; port 0 keeps the former port if that can be had, else picks a free one.
    pub gateway_listen: SocketAddr,
    /// This program's file: gateway and instances are started from it.
    pub binary: PathBuf,
    /// The ONNX Runtime library that instances load, if it is known already.
    pub onnxruntime: Option<PathBuf>,
    /// Finds that library for machines that have none, if it can be had. Called when one is needed; may take long.
    pub library: Library,
    /// Whether SIGTERM and Ctrl-C end instances and gateway too, as `down` does. Otherwise they go on serving.
    pub down_on_signal: bool,
    /// Called once everything answers.
    pub ready: Option<Box<dyn FnOnce(Ready) + Send>>,
}

/// Where everything answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The API.
    pub control: SocketAddr,
    /// The gateway.
    pub gateway: SocketAddr,
    /// This process.
    pub pid: u32,
}

/// Why the control plane did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another control plane runs on this home.
    #[error("a control plane already runs in `{}`{}", home.display(), whereabouts(running.as_ref()))]
    AlreadyRunning {
        /// The home.
        home: PathBuf,
        /// Who it is, if it has said so.
        running: Option<Running>,
    },
    /// An address that others could reach.
    #[error(
        "{what} would listen on {address}, which others could reach: only loopback addresses (127.0.0.1, [::1]) are allowed until access tokens exist"
    )]
    NotLoopback {
        /// Which listener.
        what: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The API's address cannot be had.
    #[error("cannot listen on {address}; choose another with `--control ADDR` (port 0 picks a free one)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened or written.
    #[error("the event log `{}` cannot be used", path.display())]
    Store {
        /// The store.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: store::Error,
    },
    /// The evidence cannot be opened.
    #[error("the evidence `{}` cannot be used; move it away to start without any", path.display())]
    Evidence {
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry cannot be opened.
    #[error("the local registry cannot be opened: {0}")]
    Registry(String),
    /// The gateway cannot be started.
    #[error("the gateway does not come up")]
    Gateway(#[source] gateway::Error),
    /// The operating system refused something.
    #[error("cannot {doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// A part of the control plane died.
    #[error(
        "a part of the control plane died; its log says why. Gateway and instances go on serving: start it again with `modelyard up`"
    )]
    Died,
}

fn whereabouts(running: Option<&Running>) -> String {
    running.map_or_else(String::new, |running| format!(" (process {}, at http://{})", running.pid, running.address))
}

fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { doing, source }
}

/// The machine's clock.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Runs the control plane until it is asked to end. Blocks.
///
/// # Errors
/// [`Error`] when it cannot start, or a part of it died. Gateway and instances that run go on serving.
pub fn run(options: ControlOptions) -> Result<(), Error> {
    for (what, address) in [("the control plane", options.listen), ("the gateway", options.gateway_listen)] {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { what, address });
        }
    }
    // Two threads: one may be busy with a large document while the other goes on deciding.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let result = runtime.block_on(serve(options));
    // Long polls and probes are not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}

/// The registry's part of the control plane: `/v2/`.
fn distribution(home: &Home) -> Result<Distribution, Error> {
    let open =
        || Distribution::open(&home.registry(), modelyard_registry::Store::open(home.registry(), home.unpacked())?);
    open().map_err(|error| Error::Registry(chain(&error)))
}

async fn serve(options: ControlOptions) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ledger = open_ledger(&options.home, Arc::clone(&clock))?;
    let listener = listen(options.listen).await?;
    let control = listener.local_addr().map_err(system("read the address in use"))?;
    let distribution = distribution(&options.home)?;
    let packages = Arc::new(RegistryPackages::of(distribution.clone(), &options.home));
    let last_event = ledger.world().last_seq;
    let version = api_version();
    note(&ledger, EventBody::ControlStarted { pid: std::process::id(), version }, &options.home).await?;
    let process = GatewayProcess::new(options.home.clone(), options.binary.clone(), options.gateway_listen);
    let gateway = Arc::new(process.map_err(Error::Gateway)?);
    let (running, started) = gateway.adopt_or_start().await.map_err(Error::Gateway)?;
    let pid = running.pid;
    let event = if started { EventBody::GatewayStarted { pid } } else { EventBody::GatewayAdopted { pid } };
    note(&ledger, event, &options.home).await?;
    let (told, refused) = mpsc::channel(token_log::WAITING);
    let tokens = Tokens::at(options.home.tokens()).telling(told);
    let target = fleet(&options, control, (distribution.clone(), tokens.clone()))?;
    let ports = Ports {
        target: Arc::clone(&target),
        packages: packages.clone(),
        asker: Arc::new(HttpAsker),
        book: open_book(&options.home, Arc::clone(&clock))?,
        session_key: session_key::read_or_make(&options.home.session_key()).map_err(system("keep the session key"))?,
        clock,
    };
    let controller = Controller::new(Arc::clone(&ledger), &ports);
    let down = Arc::new(Notify::new());
    let tracker = Tracker {
        ledger: Arc::clone(&ledger),
        packages: packages.clone(),
        tracked: Arc::default(),
        known: Arc::default(),
        home: options.home.clone(),
    };
    let app = App {
        orders: Orders::new(Arc::clone(&ledger), packages.clone(), Arc::clone(&target)),
        controller: controller.clone(),
        target: Arc::clone(&target),
        gateway: Some(gateway.clone()),
        down: Arc::clone(&down),
        metrics: Arc::new(Metrics::since(ledger.now(), last_event)),
        busy_keys: Default::default(),
        tracked: Arc::clone(&tracker.tracked),
        known: Arc::clone(&tracker.known),
        ledger: Arc::clone(&ledger),
    };
    let catalogue = Catalogue::open(&options.home, Arc::clone(&ledger)).map_err(Error::Registry)?;
    let token_log = TokenLog::new(tokens.clone(), Arc::clone(&ledger));
    let registry = distribution.guarded(tokens.clone()).layer(from_fn(api::loopback_only));
    let promotions = Promotions::new(Arc::clone(&ledger), packages, distribution, options.home.clone());
    let api = api::router(app)
        .merge(api::models::routes(catalogue))
        .merge(api::promotions::routes(promotions))
        .merge(api::tokens::routes(token_log.clone()));
    let telling = [tokio::spawn(token_log.run(refused)), tokio::spawn(tracker.run())];
    let router = tokens::guarded(api, tokens, &ledger).merge(registry);
    let server = tokio::spawn(listen::serve(listener, router, std::future::pending()));
    let stop = watch::Sender::new(false);
    let deciding = tokio::spawn(controller.clone().run(gateway.clone(), stop.subscribe()));
    say_who_runs(&options.home, control)?;
    if let Some(ready) = options.ready {
        ready(Ready { control, gateway: running.address, pid: std::process::id() });
    }
    let end = wait_for_end(&down, options.down_on_signal, &stop, deciding).await;
    if let End::Down = end {
        controller.close().await;
        take_down(&ledger, &target, Some(&gateway)).await;
    } else if let End::Stop = end {
        note(&ledger, EventBody::ControlStopped, &options.home).await?;
    }
    server.abort();
    telling.iter().for_each(JoinHandle::abort);
    let _ = std::fs::remove_file(options.home.running("control"));
    if let End::Died = end { Err(Error::Died) } else { Ok(()) }
}

fn api_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn open_ledger(home: &Home, clock: Arc<dyn Clock>) -> Result<Arc<Ledger>, Error> {
    let path = home.store();
    let store = Store::open(&path).map_err(|source| match source {
        store::Error::Held { .. } => Error::AlreadyRunning {
            home: home.root().to_owned(),
            running: running::read(&home.running("control")).filter(running::is_alive),
        },
        source => Error::Store { path: path.clone(), source },
    })?;
    let ledger = Ledger::open(store, clock).map_err(|source| Error::Store { path, source })?;
    Ok(Arc::new(ledger))
}

/// The controller looks ten times a second at what is busy.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(200);

fn open_book(home: &Home, clock: Arc<dyn Clock>) -> Result<Arc<Book>, Error> {
    let places = Places {
        file: home.evidence(),
        spool: home.tap(),
        retention: Retention::default(),
        settle: SETTLE,
        capture: home.capture(),
        capture_span: SPAN,
    };
    let wrap = |source| Error::Evidence { path: home.evidence(), source: Box::new(source) };
    Book::open(places, clock).map(Arc::new).map_err(wrap)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// This machine, and those of the environments.
fn fleet(
    options: &ControlOptions,
    control: SocketAddr,
    registry: (Distribution, Tokens),
) -> Result<Arc<dyn Target>, Error> {
    let target = ProcessTarget::new(&options.binary, &options.home);
    let here: Arc<dyn Target> = match &options.onnxruntime {
        Some(library) => Arc::new(target.with_onnxruntime(library)),
        None => Arc::new(target),
    };
    let library = Arc::clone(&options.library);
    let kits = machines::kits(&options.home, options.binary.clone(), library, control, registry);
    let kits = kits.map_err(system("keep the word that machines know this control plane by"))?;
    let roster = machines::roster(Environments::at(options.home.environments()));
    Ok(Arc::new(Fleet::new(here, roster, kits, options.home.machines())))
}

async fn note(ledger: &Ledger, event: EventBody, home: &Home) -> Result<(), Error> {
    let wrap = |source| Error::Store { path: home.store(), source };
    ledger.note(None, vec![event]).await.map(drop).map_err(wrap)
}

fn say_who_runs(home: &Home, address: SocketAddr) -> Result<(), Error> {
    let own = Identity::own().map_err(system("tell this process from others"))?;
    let document = Running { pid: own.pid, start_ticks: own.start_ticks, address, admin: None, version: api_version() };
    running::write(&home.running("control"), &document).map_err(system("write who runs"))
}

/// How the control plane ends.
enum End {
    /// Everything ends.
    Down,
    /// The control plane alone ends.
    Stop,
    /// It cannot go on.
    Died,
}

/// Waits until somebody asks, then until the controller has come to rest.
async fn wait_for_end(
    down: &Notify,
    down_on_signal: bool,
    stop: &watch::Sender<bool>,
    mut deciding: JoinHandle<()>,
) -> End {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return End::Died;
    };
    let asked = if down_on_signal { End::Down } else { End::Stop };
    let end = tokio::select! {
        () = down.notified() => End::Down,
        _ = term.recv() => asked,
        _ = interrupt.recv() => asked,
        _ = &mut deciding => return End::Died,
    };
    stop.send_replace(true);
    let _ = deciding.await;
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(home: &std::path::Path, listen: &str) -> ControlOptions {
        ControlOptions {
            home: Home::new(home),
            listen: listen.parse().unwrap(),
            gateway_listen: "127.0.0.1:0".parse().unwrap(),
            binary: "/nowhere/modelyard".into(),
            onnxruntime: None,
            library: Arc::new(|| Err("there is none".to_owned())),
            down_on_signal: false,
            ready: None,
        }
    }

    #[test]
    fn addresses_that_others_could_reach_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for address in ["0.0.0.0:0", "[::]:0", "192.168.7.7:1"] {
            let error = run(options(folder.path(), address)).unwrap_err();
            assert!(matches!(error, Error::NotLoopback { what: "the control plane", .. }), "{error}");
        }
        let mut open_gateway = options(folder.path(), "127.0.0.1:0");
        open_gateway.gateway_listen = "0.0.0.0:8080".parse().unwrap();
        assert!(run(open_gateway).unwrap_err().to_string().contains("only loopback addresses"));
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "a refusal leaves nothing behind");
    }

    #[test]
    fn a_second_control_plane_is_told_where_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let _first = Store::open(&home.store()).unwrap();
        let address = "127.0.0.1:4321".parse().unwrap();
        say_who_runs(&home, address).unwrap();
        let error = run(options(folder.path(), "127.0.0.1:0")).unwrap_err().to_string();
        assert!(error.contains("already runs") && error.contains("http://127.0.0.1:4321"), "{error}");
    }

    #[test]
    fn a_gateway_that_cannot_be_started_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(options(folder.path(), "127.0.0.1:0")).unwrap_err();
        let text = crate::http_client::chain(&error);
        assert!(text.contains("the gateway does not come up") && text.contains("No such file"), "{text}");
    }
}
