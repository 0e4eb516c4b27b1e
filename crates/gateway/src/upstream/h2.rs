//! HTTP/2 towards an instance, for gRPC: few connections with many streams each.
//!
//! Promises: a connection that the instance closes or says goodbye on gets no new streams; streams under way finish.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header, uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;

use super::h1::Outbound;
use super::{Failure, describe};
use crate::accept::LocalExecutor;
use crate::affinity::Session;
use crate::baggage;
use crate::body::{Cursor, Payload};
use crate::headers;
use crate::limits;

// 1 MiB: a tensor of common size passes without waiting for a window update.
const WINDOW: u32 = 1 << 20;

/// Connections to one instance.
#[derive(Default)]
pub struct Connections(RefCell<Vec<Connection>>);

struct Connection {
    sender: SendRequest<Cursor>,
    streams: Rc<Cell<u32>>,
}

/// A stream that is under way; its connection has room for another when it is dropped.
pub struct Stream(Rc<Cell<u32>>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Connections {
    fn take(&self) -> Option<(SendRequest<Cursor>, Stream)> {
        let mut connections = self.0.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let free = connections.iter().find(|connection| connection.streams.get() < limits::STREAMS)?;
        Some((free.sender.clone(), stream(&free.streams)))
    }

    async fn open(&self, address: SocketAddr) -> Result<(SendRequest<Cursor>, Stream), Failure> {
        let io = TokioIo::new(super::connect(address).await?);
        let mut builder = Builder::new(LocalExecutor);
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
        builder.max_header_list_size(limits::HEAD as u32);
        let shake = builder.handshake(io).await;
        let (sender, connection) = shake.map_err(|error| Failure::Broken(error.to_string()))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "a connection to an instance ended");
            }
        });
        let streams = Rc::new(Cell::new(0));
        let guard = stream(&streams);
        self.0.borrow_mut().push(Connection { sender: sender.clone(), streams });
        Ok((sender, guard))
    }

    /// Sends a request on a connection with room, or on a new one.
    ///
    /// # Errors
    /// [`Failure::Connect`]; [`Failure::Stale`] when a kept connection did not take it; [`Failure::Broken`].
    pub async fn send(
        &self,
        address: SocketAddr,
        fresh: bool,
        request: Request<Cursor>,
    ) -> Result<(Response<Incoming>, Stream), Failure> {
        let kept = if fresh { None } else { self.take() };
        let reused = kept.is_some();
        let (mut sender, stream) = match kept {
            Some(kept) => kept,
            None => self.open(address).await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, stream)),
            // The request never left: whatever happened to the connection, the instance may be well.
            Err(error) if reused && error.message().is_some() => Err(Failure::Stale),
            Err(error) => {
                let error = error.into_error();
                Err(if reused && is_connections_end(&error) {
                    Failure::Stale
                } else {
                    Failure::Broken(describe(&error))
                })
            }
        }
    }

    /// No new streams; those under way finish.
    pub fn close(&self) {
        self.0.take();
    }

    /// Forgets connections that ended, and those without streams once they are not used.
    pub fn sweep(&self) {
        self.0.borrow_mut().retain(|connection| !connection.sender.is_closed());
    }
}

fn stream(streams: &Rc<Cell<u32>>) -> Stream {
    streams.set(streams.get() + 1);
    Stream(streams.clone())
}

/// Whether the connection ended rather than this stream, or the instance said that it did not begin with the stream.
fn is_connections_end(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<::h2::Error>());
    let ended = |cause: &::h2::Error| cause.is_io() || cause.is_go_away();
    let refused = |cause: &::h2::Error| cause.reason() == Some(::h2::Reason::REFUSED_STREAM);
    error.is_canceled() || error.is_closed() || cause.is_some_and(|cause| ended(cause) || refused(cause))
}

/// A gRPC call as an instance gets it.
///
/// # Errors
/// [`Failure::Protocol`] when its path is none.
pub fn request(outbound: &Outbound<'_>, payload: &Payload) -> Result<Request<Cursor>, Failure> {
    let mut request = Request::new(payload.cursor());
    *request.method_mut() = outbound.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = target(outbound).map_err(|_| Failure::Protocol("the request's path cannot be passed on"))?;
    let map = request.headers_mut();
    for (name, value) in outbound.headers {
        if !headers::is_left_out(name) {
            map.append(name.clone(), value.clone());
        }
    }
    // gRPC wants to know that trailers are understood; the field ended here and is written anew.
    map.insert(header::TE, HeaderValue::from_static("trailers"));
    map.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
    let before = outbound.headers.get_all(headers::FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let chain: Vec<_> = before.chain([outbound.from.as_bytes()]).collect();
    insert(map, headers::FORWARDED_FOR, &chain.join(&b", "[..]));
    insert(map, headers::REQUEST_ID, outbound.request_id);
    insert(map, headers::TRACEPARENT, outbound.traceparent);
    if let Some(shadow_of) = outbound.shadow_of {
        map.insert(headers::SHADOW, HeaderValue::from_static("true"));
        insert(map, headers::SHADOW_OF, shadow_of);
    }
    assign(map, outbound);
    Ok(request)
}

/// Which arm the call was assigned to, and by which session.
fn assign(map: &mut HeaderMap, outbound: &Outbound<'_>) {
    insert(map, headers::REVISION, outbound.revision);
    if let Some(flags) = outbound.flags {
        insert(map, headers::FLAGS, flags);
    }
    let digits = outbound.session.map(Session::digits);
    let digits = digits.as_ref().map(<[u8; 16]>::as_slice);
    let mut list = Vec::new();
    baggage::write(&mut list, Some(outbound.headers), outbound.revision, digits);
    insert(map, baggage::BAGGAGE, &list);
    if let Some(digits) = digits {
        insert(map, headers::SESSION, digits);
    }
}

/// Sets a field. What came in as values, digits and addresses are valid values, so nothing is left out.
fn insert(map: &mut HeaderMap, name: http::HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        map.insert(name, value);
    }
}

fn target(outbound: &Outbound<'_>) -> Result<Uri, http::Error> {
    let authority = uri::Authority::try_from(outbound.host);
    let authority = authority.unwrap_or_else(|_| uri::Authority::from_static("localhost"));
    let path = if outbound.path.is_empty() { "/" } else { outbound.path };
    let path = match outbound.query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Uri::builder().scheme("http").authority(authority).path_and_query(path).build()
}
