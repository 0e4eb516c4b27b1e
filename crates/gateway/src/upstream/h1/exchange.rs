//! One request and its answer on one connection, both ways at once.
//!
//! Promises: a request that is here whole is one write, with those of others at the end of the batch (`wire`); reading goes on when writing fails, since an instance may answer
//! (too large, not allowed) and close before it has read everything.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method};
use http_body::Body;

use super::send::{Outbound, write_head};
use super::{AnswerHead, Connection, Failure, READ_ROOM, head};
use crate::body::{BodyError, Cursor, Payload};

// 1 KiB: most heads.
const HEAD_ROOM: usize = 1 << 10;

/// One request and its answer.
pub struct Exchange {
    connection: Connection,
    /// Bytes to be written next.
    pending: Bytes,
    /// What follows of the request.
    body: Option<Cursor>,
    chunked: bool,
    /// The request could not be sent to its end; the answer may come nevertheless.
    send_error: Option<io::Error>,
    method: Method,
}

impl Exchange {
    /// Begins to send.
    pub fn start(connection: Connection, request: &Outbound<'_>, payload: &Payload) -> Self {
        let method = request.method.clone();
        let mut exchange =
            Self { connection, pending: Bytes::new(), body: None, chunked: false, send_error: None, method };
        if let Payload::Stream(_, length) = payload {
            exchange.body = Some(payload.cursor());
            exchange.chunked = length.is_none();
            let mut head = Vec::with_capacity(HEAD_ROOM);
            write_head(&mut head, request, payload);
            exchange.pending = head.into();
        } else {
            exchange.connection.wire.post(|out| {
                write_head(out, request, payload);
                if let Payload::Whole(bytes) = payload {
                    out.extend_from_slice(bytes);
                }
            });
        }
        exchange
    }

    fn stop_sending(&mut self, error: io::Error) {
        self.pending = Bytes::new();
        self.body = None;
        self.send_error = Some(error);
    }

    /// Whether the whole request was sent.
    pub fn is_sent(&self) -> bool {
        self.pending.is_empty()
            && self.body.is_none()
            && self.send_error.is_none()
            && !self.connection.wire.is_waiting()
    }

    /// Sends on. Ready when there is nothing left to do, or when the caller's body failed.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            while !self.pending.is_empty() {
                match ready!(self.connection.wire.poll_write(cx, &self.pending)) {
                    Ok(written) if written > 0 => self.pending.advance(written),
                    Ok(_) => self.stop_sending(io::ErrorKind::WriteZero.into()),
                    Err(error) => self.stop_sending(error),
                }
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.pending = if self.chunked { chunk(&data) } else { data },
                    Err(frame) => {
                        self.body = None;
                        self.pending = self.last_chunk(frame.trailers_ref());
                    }
                },
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    self.body = None;
                    self.pending = self.last_chunk(None);
                }
            }
        }
    }

    fn last_chunk(&self, trailers: Option<&HeaderMap>) -> Bytes {
        if !self.chunked {
            return Bytes::new();
        }
        let mut last = b"0\r\n".to_vec();
        for (name, value) in trailers.into_iter().flatten() {
            last.extend_from_slice(name.as_str().as_bytes());
            last.extend_from_slice(b": ");
            last.extend_from_slice(value.as_bytes());
            last.extend_from_slice(b"\r\n");
        }
        last.extend_from_slice(b"\r\n");
        last.into()
    }

    /// Waits for the answer's head while sending.
    ///
    /// # Errors
    /// [`Failure::Stale`] when a kept connection was closed before a byte came, [`Failure::Broken`], [`Failure::Protocol`],
    /// [`Failure::Caller`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Failure>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(Failure::Caller(error)));
        }
        loop {
            match head::take(&mut self.connection.read, &self.method) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(what) => return Poll::Ready(Err(Failure::Protocol(what))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(self.closed(None))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(self.closed(Some(error)))),
            }
        }
    }

    /// Reads what is there into [`Exchange::buffer`]; 0 at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Connection { wire, read, .. } = &mut self.connection;
        read.reserve(READ_ROOM);
        wire.poll_read_buf(cx, read)
    }

    /// Bytes that were read and not used.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.connection.read
    }

    fn closed(&mut self, error: Option<io::Error>) -> Failure {
        if self.connection.reused && self.connection.read.is_empty() {
            return Failure::Stale;
        }
        let why = error.or_else(|| self.send_error.take()).or_else(|| self.connection.wire.take_error());
        Failure::Broken(why.map_or_else(|| "it closed it".to_owned(), |error| error.to_string()))
    }

    /// The connection, for another exchange; `None` unless this one is complete both ways.
    pub fn into_connection(self) -> Option<Connection> {
        let is_good = self.is_sent() && self.connection.wire.take_error().is_none() && self.connection.read.is_empty();
        is_good.then_some(self.connection)
    }
}

fn chunk(data: &[u8]) -> Bytes {
    if data.is_empty() {
        return Bytes::new(); // an empty chunk would be the last one
    }
    let mut chunk = Vec::with_capacity(data.len() + 20);
    chunk.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}
