//! A caller's connection: HTTP/1.1 or HTTP/2 by its first bytes, served until it ends or the gateway drains.
//!
//! Promises: while draining, HTTP/2 callers get GOAWAY at once and finish their streams; HTTP/1.1 callers are told with their next
//! answer, so that no request meets a closing connection; idle ones are closed after a grace.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::incoming::{self, Caller};
use crate::io::{Activity, Io};
use crate::limits;
use crate::worker::Worker;

/// What an HTTP/2 connection without upgrade starts with. Source: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First read: most requests fit.
const FIRST_READ: usize = 4 << 10;
/// Streams at once of one caller.
const CALLER_STREAMS: u32 = 256;
// 1 MiB, as towards instances.
const WINDOW: u32 = 1 << 20;

/// Spawns on the thread's own runtime.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, mut stream: TcpStream, activity: Rc<Activity>) {
    let caller = match stream.peer_addr() {
        Ok(address) => address.ip(),
        Err(_) => return, // it left already
    };
    let Some(first) = first_bytes(&worker, &mut stream, &activity).await else { return };
    let http2 = is_http2(&first);
    let caller = Rc::new(Caller::new(caller, http2, activity.clone()));
    let io = Io::new(stream, first, http2, activity.clone());
    let ended = match http2 {
        true => serve_http2(worker, io, caller, &activity).await,
        false => serve_http1(worker, io, caller, &activity).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a caller's connection ended early");
    }
}

/// The first bytes that tell the protocol; `None` if the caller leaves or the gateway drains before they come.
async fn first_bytes(worker: &Worker, stream: &mut TcpStream, activity: &Activity) -> Option<Bytes> {
    // Nothing is allocated for connections that say nothing.
    tokio::select! {
        readable = stream.readable() => readable.ok()?,
        () = worker.drain.closing() => return None,
        () = activity.overdue() => return None,
    }
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let reading = async {
        loop {
            match stream.read_buf(&mut first).await {
                Ok(1..) if first.len() < PREFACE.len() && PREFACE.starts_with(&first) => {}
                Ok(1..) => return Some(()),
                _ => return None,
            }
        }
    };
    tokio::time::timeout(limits::HEAD_TIME, reading).await.ok()??;
    Some(first.freeze())
}

fn is_http2(first: &[u8]) -> bool {
    first.starts_with(PREFACE)
}

async fn serve_http1(worker: Rc<Worker>, io: Io, caller: Rc<Caller>, activity: &Activity) -> hyper::Result<()> {
    let drain = worker.drain.clone();
    let answer = {
        let (worker, caller) = (worker.clone(), caller.clone());
        move |request| {
            let (worker, caller) = (worker.clone(), caller.clone());
            async move { Ok::<_, Infallible>(incoming::answer(worker, caller, request).await) }
        }
    };
    let mut builder = http1::Builder::new();
    builder.half_close(true).max_header_size(limits::HEAD).max_headers(limits::HEADERS);
    let connection = pin!(builder.serve_connection(io, service_fn(answer)));
    let goodbye = http1::Connection::graceful_shutdown;
    let is_time = || drain.is_closing() || activity.is_overdue();
    with_goodbye(connection, is_time, either(drain.closing(), activity.overdue()), goodbye).await
}

async fn serve_http2(worker: Rc<Worker>, io: Io, caller: Rc<Caller>, activity: &Activity) -> hyper::Result<()> {
    let drain = worker.drain.clone();
    let answer = move |request| {
        let (worker, caller) = (worker.clone(), caller.clone());
        async move { Ok::<_, Infallible>(incoming::answer(worker, caller, request).await) }
    };
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
    builder.max_concurrent_streams(CALLER_STREAMS).max_header_list_size(limits::HEAD as u32);
    let connection = pin!(builder.serve_connection(io, service_fn(answer)));
    let goodbye = http2::Connection::graceful_shutdown;
    let is_time = || drain.is_draining() || activity.is_overdue();
    with_goodbye(connection, is_time, either(drain.started(), activity.overdue()), goodbye).await
}

/// Resolves when either does.
async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// Drives a connection, and says goodbye once it is time.
///
/// `time` is polled only at the start, so that it wakes this task, and when `is_time`: requests do not pay for it.
async fn with_goodbye<C: Future>(
    mut connection: Pin<&mut C>,
    is_time: impl Fn() -> bool,
    time: impl Future<Output = ()>,
    goodbye: impl Fn(Pin<&mut C>),
) -> C::Output {
    let (mut time, mut is_first, mut is_said) = (pin!(time), true, false);
    poll_fn(|cx| {
        if !is_said && (std::mem::take(&mut is_first) || is_time()) && time.as_mut().poll(cx).is_ready() {
            is_said = true;
            goodbye(connection.as_mut());
        }
        connection.as_mut().poll(cx)
    })
    .await
}
