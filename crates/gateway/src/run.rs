//! A gateway's life: listen (or take over), serve, hand over or drain, end.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::files::RunningFile;
use crate::admin::handover::{self, Received};
use crate::admin::socket::{self, Bound};
use crate::admin::{self, Ask, Plane, Succession, Workers};
use crate::error::Error;
use crate::mirror::{self, Beside, Registry, Room};
use crate::options::GatewayOptions;
use crate::{tap, worker};

// Connections that wait while all threads are busy; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Runs a gateway until it was drained (SIGTERM, SIGINT, `POST /drain`, or a successor took over). Blocks.
///
/// # Errors
/// [`Error`] when it cannot start. Once it serves it does not fail.
pub fn run(options: GatewayOptions) -> Result<(), Error> {
    if !options.listen.ip().is_loopback() {
        return Err(Error::NotLoopback(options.listen));
    }
    let received = if options.takeover { Some(handover::take(&options.admin)?) } else { None };
    let (listener, address) = match &received {
        Some(received) => (received.listener.try_clone().map_err(Error::Thread)?, received.address),
        None if socket::answers(&options.admin) => return Err(Error::AlreadyRuns(options.admin)),
        None => listen(options.listen)?,
    };
    if options.takeover && options.listen.port() != 0 && options.listen != address {
        let why = format!("it listens on {address}, not on {}", options.listen);
        return Err(Error::Takeover { path: options.admin, why });
    }
    let (ask, asked) = mpsc::unbounded_channel();
    let (tap, telling) = tap::start(&options.state_dir)?;
    let (jobs, mirroring) = mirror::start(tap.clone())?;
    let registry = Arc::new(Registry::default());
    // Its threads end with the last worker, the last to have a way to them.
    let beside = Beside { registry: registry.clone(), tap, jobs, room: Room::default() };
    let (workers, threads) = start_workers(&options, &listener, ask, beside)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let start = Start { options, listener, address, received, workers, asked, registry };
    let finished = runtime.map_err(Error::Thread)?.block_on(live(start))?;
    for thread in threads.into_iter().chain([mirroring]).filter(|_| finished) {
        if let Ok(Err(error)) | Err(error) =
            thread.join().map_err(|_| Error::Thread(std::io::Error::other("it panicked")))
        {
            tracing::error!(%error, "a thread of the gateway ended badly");
        }
    }
    if finished {
        let _ = telling.join(); // with it everything that was told is complete on disk
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let make = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A restart while old connections fade. Not SO_REUSEPORT, which would let a second gateway share the port unseen.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    make().map_err(|source| Error::Listen { address, source })
}

type Thread = JoinHandle<Result<(), Error>>;

fn start_workers(
    options: &GatewayOptions,
    listener: &TcpListener,
    ask: mpsc::UnboundedSender<Ask>,
    beside: Beside,
) -> Result<(Workers, Vec<Thread>), Error> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let count = if options.threads == 0 { cores() } else { options.threads };
    let (mut workers, mut threads) = (Vec::new(), Vec::new());
    for number in 0..count {
        let (commands, obeyed) = mpsc::unbounded_channel();
        let (listener, ask, beside) = (listener.try_clone().map_err(Error::Thread)?, ask.clone(), beside.clone());
        let thread = std::thread::Builder::new().name(format!("gateway-{number}"));
        threads.push(thread.spawn(move || worker::run(listener, obeyed, ask, beside)).map_err(Error::Thread)?);
        workers.push(commands);
    }
    Ok((workers, threads))
}

/// Everything that a gateway starts to live with.
struct Start {
    options: GatewayOptions,
    listener: TcpListener,
    address: SocketAddr,
    received: Option<Received>,
    workers: Workers,
    asked: mpsc::UnboundedReceiver<Ask>,
    registry: Arc<Registry>,
}

/// Serves until told to end. Returns whether everything is finished; not when told a second time.
async fn live(start: Start) -> Result<bool, Error> {
    let Start { options, listener, address, received, workers, asked, registry } = start;
    let mut signals = Signals::new()?;
    let predecessor = received.as_ref().map(|received| received.farewell.admin.clone());
    let plane = Rc::new(Plane::new(workers, registry, options.state_dir.clone(), epoch(), predecessor));
    plane.restore().await;
    plane.accept();
    let admin = socket::bind(&options.admin)?;
    let handover = socket::bind(&socket::handover_path(&options.admin))?;
    tokio::task::spawn_local(admin::serve(plane.clone(), admin.accept()?));
    let succession = Succession::new(&options.admin, listener, plane.clone());
    let succession = tokio::task::spawn_local(succession.wait(handover.accept()?));
    let running = RunningFile::write(&options, address)?;
    if let Some(received) = received {
        take_over(received);
    }
    tracing::info!(%address, admin = %options.admin.display(), "the gateway serves");
    let mut workers_end = tokio::task::spawn_local(answer_workers(plane.clone(), asked));
    let serving = tokio::select! {
        () = signals.next() => {
            plane.drain(false);
            true
        }
        () = plane.drain_asked() => true,
        _ = &mut workers_end => {
            tracing::error!("all threads ended unasked");
            false
        }
    };
    // With it goes this thread's copy of the listening socket.
    succession.abort();
    let finished = tokio::select! {
        _ = &mut workers_end, if serving => true,
        () = signals.next(), if serving => {
            tracing::warn!("told again: ending at once");
            false
        }
        else => true,
    };
    running.remove();
    [admin, handover].iter().for_each(Bound::remove);
    let _ = std::fs::remove_file(socket::retired_path(&options.admin)); // there only after a hand-over
    tracing::info!("the gateway ended");
    Ok(finished)
}

/// Tells the old gateway that this one serves.
fn take_over(received: Received) {
    let predecessor = received.farewell.pid;
    match received.ready() {
        Ok(()) => tracing::info!(predecessor, "took over"),
        // It died, or gave up waiting; then it goes on accepting from the same socket, by tables that this one hands on.
        Err(error) => tracing::warn!(predecessor, %error, "the old gateway does not know that it was replaced"),
    }
}

/// Answers what workers ask, until all of them ended.
async fn answer_workers(plane: Rc<Plane>, mut asked: mpsc::UnboundedReceiver<Ask>) {
    while let Some(Ask::Metrics(answer)) = asked.recv().await {
        let _ = answer.send(plane.metrics().await); // a caller who left does not mind
    }
}

/// What tells a process to end.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Thread);
        Ok(Self(listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Identifies this life of the gateway: microseconds since 1970 at its start.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
