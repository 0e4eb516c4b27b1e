//! Accepting connections, spreading them over the I/O threads, and the drain.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::connection::Thread;
use super::loader::Delivery;
use crate::Error;

/// A connection on its way to another I/O thread.
type Handed = std::net::TcpStream;

/// How long idle connections stay open in a drain, so that a request that is on its way is answered, with `Connection: close`.
const LINGER: Duration = Duration::from_millis(150);

fn runtime() -> Result<Runtime, Error> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
    built.map_err(|source| Error::SetUp { what: "an I/O thread's runtime", source })
}

/// Runs the engine of this thread, once it was loaded.
fn run_engine(engine: oneshot::Receiver<Delivery>) {
    tokio::spawn(async move {
        // A slow model's engine has a thread of its own, and nothing comes here.
        if let Ok((lane, engine, max_rows)) = engine.await {
            lane.serve(engine, max_rows).await;
        }
    });
}

/// Starts I/O thread `index`.
pub(super) fn start(
    index: usize,
    shared: Arc<Shared>,
    mut connections: mpsc::UnboundedReceiver<Handed>,
    engine: oneshot::Receiver<Delivery>,
) -> Result<(), Error> {
    let runtime = runtime()?;
    let serve = async move {
        let thread = Thread::new(index, shared);
        run_engine(engine);
        while let Some(handed) = connections.recv().await {
            match TcpStream::from_std(handed) {
                Ok(stream) => thread.serve(stream),
                Err(error) => {
                    thread.shared.open[index].fetch_sub(1, Relaxed);
                    tracing::debug!(%error, "a connection broke before it was served");
                }
            }
        }
        // The acceptor has gone; this thread serves what it has until the process ends.
        std::future::pending::<()>().await;
    };
    let thread = std::thread::Builder::new().name(format!("io-{index}"));
    let spawned = thread.spawn(move || runtime.block_on(serve));
    spawned.map(|_| ()).map_err(|source| Error::SetUp { what: "an I/O thread", source })
}

/// Accepts until a signal comes or loading fails, then drains. This is I/O thread 0.
pub(super) fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    others: Vec<mpsc::UnboundedSender<Handed>>,
    engine: Option<oneshot::Receiver<Delivery>>,
    failed: oneshot::Receiver<Error>,
    grace: Duration,
) -> Result<(), Error> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let set_up = |what| move |source| Error::SetUp { what, source };
        let listener = tokio::net::TcpListener::from_std(listener).map_err(set_up("the listener"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(set_up("the handler of SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(set_up("the handler of SIGINT"))?;
        engine.into_iter().for_each(run_engine);
        let acceptor = Acceptor { own: Thread::new(0, shared.clone()), others, listener };
        tokio::select! {
            () = acceptor.accept_all() => {}
            Ok(error) = failed => return Err(error),
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
        shared.health.set_draining();
        acceptor.accept_rest().await;
        drop(acceptor);
        drain(&shared, grace).await
    });
    // Tasks that are left belong to connections that outlived the grace.
    runtime.shutdown_background();
    outcome
}

struct Acceptor {
    own: Thread,
    others: Vec<mpsc::UnboundedSender<Handed>>,
    listener: tokio::net::TcpListener,
}

impl Acceptor {
    async fn accept_all(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => self.hand_out(stream),
                Err(error) => {
                    // Out of file descriptors, mostly: the next connection to end makes room.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Takes what waits in the listener's queue already: closing the listener would reset it.
    async fn accept_rest(&self) {
        while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, self.listener.accept()).await {
            self.hand_out(stream);
        }
    }

    /// Gives a connection to the I/O thread that has the fewest.
    fn hand_out(&self, stream: TcpStream) {
        let open = &self.own.shared.open;
        let index = (0..open.len()).min_by_key(|&index| open[index].load(Relaxed)).unwrap_or(0);
        open[index].fetch_add(1, Relaxed);
        let handed = match index {
            0 => {
                self.own.serve(stream);
                return;
            }
            _ => stream.into_std().ok().and_then(|stream| self.others[index - 1].send(stream).ok()),
        };
        if handed.is_none() {
            open[index].fetch_sub(1, Relaxed);
        }
    }
}

/// Waits for the open connections to end, and ends idle ones.
async fn drain(shared: &Shared, grace: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + grace;
    let mut ended = shared.closing.subscribe();
    let all_ended = async {
        while shared.connections() > 0 {
            // Every connection that ends while draining says so here.
            let _ = ended.changed().await;
        }
    };
    tokio::pin!(all_ended);
    if timeout(LINGER.min(grace), &mut all_ended).await.is_ok() {
        return Ok(());
    }
    shared.closing.send_replace(true);
    tokio::select! {
        () = all_ended => Ok(()),
        () = sleep_until(deadline) => match shared.connections() {
            0 => Ok(()),
            open => Err(Error::Drain { open, grace_seconds: grace.as_secs() }),
        },
    }
}
