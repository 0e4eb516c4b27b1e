//! One thread of the gateway: its runtime, its share of the callers, its own tables, connections and counts.
//!
//! Promises: what the admin thread asks (apply, report, drain) is done between two requests, so no request sees half a table.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelyard_core::ServiceName;
use modelyard_core::route::RouteTable;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::accept;
use crate::admin::Ask;
use crate::admin::tally::{self, Tally};
use crate::error::Error;
use crate::io::{Activity, Found};
use crate::limits;
use crate::mirror::{self, Aside, Beside};
use crate::table::{Parked, Tables};
use crate::wire;

/// How often connections are looked at for those that are idle or drip.
const SWEEP: Duration = Duration::from_secs(5);

// 256 tasks: what one look at the sockets finds ready is read before the next look, so that a batch is as large as it can be (`wire`).
const TURN: u32 = 256;

/// What the admin thread asks of a worker.
pub enum Command {
    /// Apply a table; answered once it is.
    Apply(Arc<RouteTable>, HashMap<ServiceName, Parked>, oneshot::Sender<()>),
    /// Tell what was counted.
    Report(oneshot::Sender<Tally>),
    /// Begin to accept.
    Accept,
    /// Stop accepting, finish, end; idle connections are closed after that long.
    Drain(Duration),
}

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    Serving,
    Draining,
    Closing,
}

/// Lets connections know that the gateway ends.
pub struct Drain {
    stage: Cell<Stage>,
    draining: Notify,
    closing: Notify,
}

impl Drain {
    fn new() -> Self {
        Self { stage: Cell::new(Stage::Serving), draining: Notify::new(), closing: Notify::new() }
    }

    fn start(&self) {
        self.stage.set(Stage::Draining);
        self.draining.notify_waiters();
    }

    fn close(&self) {
        self.stage.set(Stage::Closing);
        self.closing.notify_waiters();
    }

    /// Whether callers are to be told to go elsewhere.
    pub fn is_draining(&self) -> bool {
        self.stage.get() >= Stage::Draining
    }

    /// Whether idle connections are to be closed.
    pub fn is_closing(&self) -> bool {
        self.stage.get() >= Stage::Closing
    }

    /// Resolves when draining starts.
    pub async fn started(&self) {
        if !self.is_draining() {
            self.draining.notified().await;
        }
    }

    /// Resolves when idle connections are to be closed.
    pub async fn closing(&self) {
        if !self.is_closing() {
            self.closing.notified().await;
        }
    }
}

/// One thread's state.
pub struct Worker {
    /// Services, pools, instances.
    pub tables: Tables,
    /// Woken whenever a table was applied: parked requests look again.
    pub applied: Notify,
    /// How far the end is.
    pub drain: Rc<Drain>,
    /// To the admin thread.
    pub admin: mpsc::UnboundedSender<Ask>,
    /// To the threads for what happens beside requests.
    pub aside: Rc<Aside>,
    started: Instant,
    connections: RefCell<HashMap<u64, Connection>>,
    next_connection: Cell<u64>,
    /// Woken whenever a connection ended.
    ended: Notify,
}

struct Connection {
    activity: Rc<Activity>,
    task: tokio::task::AbortHandle,
}

impl Worker {
    /// Milliseconds since this thread began.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Does as told, apart from accepting.
    fn obey(&self, command: Command) {
        match command {
            Command::Apply(table, parked, done) => {
                self.tables.apply(&table, &parked, self.aside.registry());
                self.applied.notify_waiters();
                let _ = done.send(()); // who no longer waits does not mind
            }
            Command::Report(answer) => {
                let _ = answer.send(tally::of(self));
            }
            Command::Accept | Command::Drain(_) => {}
        }
    }

    /// Callers' connections that are open.
    pub fn connections(&self) -> u64 {
        self.connections.borrow().len() as u64
    }

    /// Milliseconds from this thread's beginning to `instant`.
    pub fn ms_at(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.started).as_millis() as u64
    }
}

/// Runs a worker on the calling thread until it drained.
///
/// # Errors
/// [`Error::Thread`] when its runtime cannot be had.
pub fn run(
    listener: std::net::TcpListener,
    commands: mpsc::UnboundedReceiver<Command>,
    admin: mpsc::UnboundedSender<Ask>,
    beside: Beside,
) -> Result<(), Error> {
    let runtime = Builder::new_current_thread().event_interval(TURN).enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(Error::Thread)?;
    runtime.block_on(async {
        let worker = Rc::new(Worker {
            tables: Tables::default(),
            applied: Notify::new(),
            drain: Rc::new(Drain::new()),
            admin,
            aside: Rc::new(Aside::new(beside)),
            started: Instant::now(),
            connections: RefCell::default(),
            next_connection: Cell::default(),
            ended: Notify::new(),
        });
        let listener = TcpListener::from_std(listener).map_err(Error::Thread)?;
        let sweeping = tokio::task::spawn_local(sweep(worker.clone()));
        let pumping = tokio::task::spawn_local(mirror::pump(worker.aside.clone()));
        let posting = tokio::task::spawn_local(wire::post());
        let grace = serve(&worker, listener, commands).await;
        finish(&worker, grace).await;
        sweeping.abort();
        pumping.abort();
        posting.abort();
        worker.aside.pass_on();
        Ok(())
    })
}

/// Obeys until told to drain; then obeys on in the background, since tables and reports matter until the last request is answered.
/// Returns how long idle connections may stay.
async fn serve(worker: &Rc<Worker>, listener: TcpListener, mut commands: mpsc::UnboundedReceiver<Command>) -> Duration {
    let mut listener = Some(listener);
    let mut accepting = None;
    let grace = loop {
        match commands.recv().await {
            Some(Command::Accept) => {
                let fresh =
                    listener.take().map(|listener| tokio::task::spawn_local(accept_all(worker.clone(), listener)));
                accepting = fresh.or(accepting);
            }
            Some(Command::Drain(grace)) => break grace,
            Some(command) => worker.obey(command),
            None => break Duration::ZERO, // the admin thread is gone, and with it everybody who could tell
        }
    };
    worker.drain.start();
    if let Some(accepting) = accepting {
        accepting.abort();
    }
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        while let Some(command) = commands.recv().await {
            worker.obey(command);
        }
    });
    grace
}

async fn accept_all(worker: Rc<Worker>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => take(&worker, stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of file descriptors: wait until some are free rather than spin.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // The other threads accept from the same socket: one connection at a time spreads a burst.
        tokio::task::yield_now().await;
    }
}

fn take(worker: &Rc<Worker>, stream: tokio::net::TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it was served");
        return;
    }
    let id = worker.next_connection.get();
    worker.next_connection.set(id + 1);
    let activity = Rc::new(Activity::default());
    let serving = accept::serve(worker.clone(), stream, activity.clone());
    let guard = Entry { worker: worker.clone(), id };
    let task = tokio::task::spawn_local(async move {
        let _guard = guard;
        serving.await;
    });
    worker.connections.borrow_mut().insert(id, Connection { activity, task: task.abort_handle() });
}

/// Removes a connection from the list when its task ends, however it ends.
struct Entry {
    worker: Rc<Worker>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.worker.ended.notify_waiters();
    }
}

/// Closes connections without requests or with endless heads, and connections to instances that are not used.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        for connection in worker.connections.borrow().values() {
            if connection.activity.sweep(SWEEP) == Found::Dripping {
                connection.task.abort(); // takes effect when its task is next polled, not here
            }
        }
        let now = worker.now_ms();
        for service in worker.tables.current().services.values() {
            for instance in service.pools.values().flat_map(|pool| &pool.instances) {
                instance.h1.sweep(now);
                instance.h2.sweep();
            }
        }
    }
}

/// Waits until every connection ended: idle ones are closed after a grace, all others after a limit.
async fn finish(worker: &Rc<Worker>, grace: Duration) {
    let grace = tokio::time::Instant::now() + grace;
    let limit = tokio::time::Instant::now() + limits::DRAIN_LIMIT;
    if !wait_until_empty(worker, grace).await {
        worker.drain.close();
        if !wait_until_empty(worker, limit).await {
            tracing::warn!(connections = worker.connections.borrow().len(), "closing what did not finish in time");
        }
    }
}

/// Whether every connection ended before `deadline`.
async fn wait_until_empty(worker: &Worker, deadline: tokio::time::Instant) -> bool {
    let empty = async {
        loop {
            let ended = worker.ended.notified();
            if worker.connections.borrow().is_empty() {
                return;
            }
            ended.await;
        }
    };
    tokio::time::timeout_at(deadline, empty).await.is_ok()
}
