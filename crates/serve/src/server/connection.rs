//! One connection: HTTP/1.1 or HTTP/2, whichever the caller speaks.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;

use super::Shared;
use crate::grpc::Grpc;
use crate::http;

/// How long a caller may take to send the head of a request, idle time before it included. Longer than the idle time-outs of
/// usual pools, so that it is they who close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// What a connection needs of its I/O thread.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) grpc: Grpc,
    builder: Builder<TokioExecutor>,
}

impl Thread {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        let grpc = Grpc::new(index, shared.clone());
        Self { index, grpc, builder: builder(shared.max_body), shared }
    }

    /// Serves a connection that was counted as open.
    pub(crate) fn serve(&self, stream: TcpStream) {
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let thread = Arc::new(self.clone());
        let mut closing = self.shared.closing.subscribe();
        tokio::spawn(async move {
            let open = OpenConnection(thread.clone());
            let service = service_fn(move |request| {
                let thread = thread.clone();
                async move { Ok::<_, Infallible>(http::answer(&thread, request).await) }
            });
            let connection = open.0.builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let told = async {
                let _ = closing.wait_for(|&closing| closing).await;
            };
            let ended = tokio::select! {
                biased;
                ended = &mut connection => Some(ended),
                () = told => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}

/// Counts a connection as ended, however it ends.
struct OpenConnection(Arc<Thread>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        shared.open[self.0.index].fetch_sub(1, Relaxed);
        if shared.health.is_draining() {
            shared.closing.send_modify(|_| {});
        }
    }
}

fn builder(max_body: usize) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).pipeline_flush(true).half_close(true);
    let window = u32::try_from(max_body.clamp(1 << 16, 4 << 20)).unwrap_or(1 << 20);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_concurrent_streams(1024)
        .keep_alive_interval(Duration::from_secs(60));
    builder
}
