//! The old gateway's side of a hand-over: gives its socket to whoever asks, and drains once the successor serves.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

use super::handover::{self, Farewell, READY};
use super::{Plane, serve, socket};

// A successor that says nothing for that long is gone, and this gateway goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a successor.
pub struct Succession {
    /// Where this gateway is told and asked once its admin socket is the successor's.
    retired: PathBuf,
    listener: TcpListener,
    plane: Rc<Plane>,
}

impl Succession {
    /// Of the gateway with this admin socket.
    pub fn new(admin: &Path, listener: TcpListener, plane: Rc<Plane>) -> Self {
        Self { retired: socket::retired_path(admin), listener, plane }
    }

    /// Hands over to the first successor that comes to serve.
    pub async fn wait(self, handover: UnixListener) {
        loop {
            let stream = match handover.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    tokio::time::sleep(Duration::from_millis(20)).await; // rather than spin
                    continue;
                }
            };
            match self.hand_over(stream).await {
                Ok(()) => {
                    tracing::info!("a successor serves; draining");
                    return self.plane.drain(true);
                }
                Err(error) => tracing::warn!(%error, "a successor did not come to serve; going on"),
            }
        }
    }

    async fn hand_over(&self, stream: UnixStream) -> io::Result<()> {
        let retired = socket::bind(&self.retired).map_err(io::Error::other)?;
        let listener = retired.accept().map_err(io::Error::other)?;
        let serving = tokio::task::spawn_local(serve(self.plane.clone(), listener));
        let given = self.give(stream).await;
        if given.is_err() {
            serving.abort();
            retired.remove();
        }
        given
    }

    async fn give(&self, stream: UnixStream) -> io::Result<()> {
        let stream = stream.into_std()?;
        handover::give(&stream, &self.listener, &Farewell::new(self.retired.clone()))?;
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
        let mut said = [0; READY.len()];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut said)).await??;
        if said == *READY { Ok(()) } else { Err(io::Error::other("it says nonsense")) }
    }
}
