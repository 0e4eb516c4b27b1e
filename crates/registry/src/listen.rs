//! Serving a router over TCP, with bounds that keep memory flat while large blobs come and go.
//!
//! Promises: a connection holds a few hundred kilobytes at most, whatever passes through it; a caller that says nothing loses its connection; running out of
//! file descriptors ends nothing.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// What a connection holds of a request that comes, and of an answer that goes.
// 256 KiB: an address of 64 KiB fits with its headers, and what comes is taken from the system in few calls.
const BUFFER: usize = 256 << 10;

/// How long a caller may take to send the head of a request, idle time before it included. Longer than the idle time-outs of usual
/// pools, so that it is they who close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long nothing is accepted after the system refused to.
// Long enough that connections end meanwhile, short enough that callers hardly notice.
const REFUSED: Duration = Duration::from_millis(100);

/// Answers every connection until `end`, then lets those that are being answered come to theirs.
pub async fn serve(listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
    let (graceful, mut end) = (GracefulShutdown::new(), std::pin::pin!(end));
    loop {
        let stream = tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    refused(&error).await;
                    continue;
                }
            },
        };
        // An answer is a head and then pieces: each goes out at once, else the second waits for the first one's acknowledgement.
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let answer = service_fn(move |request: http::Request<Incoming>| {
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}))
            }
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), answer));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// After a connection that could not be accepted: one that its caller gave up is nothing, all else is waited out.
async fn refused(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "no connection can be accepted");
    tokio::time::sleep(REFUSED).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::http::Uri;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    async fn start(router: Router) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (stop, stopped)) = (listener.local_addr().unwrap(), oneshot::channel::<()>());
        (address, stop, tokio::spawn(serve(listener, router, async { drop(stopped.await) })))
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn an_address_of_sixty_thousand_letters_is_taken() {
        let router = Router::new().route("/", get(|uri: Uri| async move { uri.to_string().len().to_string() }));
        let (address, _stop, _served) = start(router).await;
        let path = format!("/?{}", "a".repeat(60_000));
        let told = answer(ask(address, &path).await).await;
        assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("60002"), "{told}");
    }

    #[tokio::test]
    async fn what_is_being_answered_at_the_end_is_answered() {
        let (asked, (go, gone)) = (tokio::sync::mpsc::channel(1), tokio::sync::watch::channel(false));
        let (telling, mut told) = asked;
        let router = Router::new().route(
            "/",
            get(move || {
                let (telling, mut gone) = (telling.clone(), gone.clone());
                async move {
                    telling.send(()).await.unwrap();
                    gone.wait_for(|gone| *gone).await.unwrap();
                    "all of it"
                }
            }),
        );
        let (address, stop, served) = start(router).await;
        let idle = TcpStream::connect(address).await.unwrap();
        let stream = ask(address, "/").await;
        told.recv().await.unwrap();
        drop(stop);
        go.send(true).unwrap();
        let text = answer(stream).await;
        assert!(text.ends_with("all of it"), "{text}");
        served.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "it still listens");
        drop(idle);
    }
}
