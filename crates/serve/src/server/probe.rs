//! The probe port: readiness and liveness, from a thread that does nothing else.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Shared;
use crate::{Error, http};

/// Probes are small and quick; whoever is slower is no probe.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the thread.
pub(super) fn start(listener: TcpListener, shared: Arc<Shared>) -> Result<(), Error> {
    let failed = |source| Error::SetUp { what: "the probe thread", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let serve = async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the probe port does not work"),
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => serve(stream, shared.clone()),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a probe");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("probe".to_owned());
    thread.spawn(move || runtime.block_on(serve)).map(|_| ()).map_err(failed)
}

fn serve(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    tokio::spawn(async move {
        let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(http::probe(&shared, &request))));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a probe's connection ended early");
        }
    });
}
