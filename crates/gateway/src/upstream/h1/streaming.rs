//! An instance's body, passed on as it comes.
//!
//! Promises: every read is passed on at once, so that server-sent events are not held back; the connection is kept when the body is
//! complete and closed when it is not, so that a caller who leaves stops the instance's work.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::chunks::{Chunks, Step};
use super::{Exchange, Framing};
use crate::body::BodyError;
use crate::limits;
use crate::table::Instance;

/// An instance's body.
pub struct Streaming {
    exchange: Option<Exchange>,
    left: Left,
    keep_alive: bool,
    instance: Rc<Instance>,
    now_ms: u64,
    /// Longest time without a byte.
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

/// What is to come.
enum Left {
    Bytes(u64),
    Chunks(Chunks),
    UntilClose,
}

impl Streaming {
    /// The body that follows a head with this framing.
    pub fn new(
        exchange: Exchange,
        framing: Framing,
        keep_alive: bool,
        instance: Rc<Instance>,
        now_ms: u64,
        patience: Duration,
    ) -> Self {
        let left = match framing {
            Framing::None => Left::Bytes(0),
            Framing::Length(length) => Left::Bytes(length),
            Framing::Chunked => Left::Chunks(Chunks::default()),
            Framing::Close => Left::UntilClose,
        };
        Self { exchange: Some(exchange), left, keep_alive, instance, now_ms, patience, waiting: None }
    }

    /// The whole body if it is here already; then the connection is free again.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let Left::Bytes(left) = self.left else { return None };
        let buffer = self.exchange.as_mut()?.buffer();
        let length = usize::try_from(left).ok().filter(|&length| length <= buffer.len())?;
        let bytes = buffer.split_to(length).freeze();
        self.left = Left::Bytes(0);
        self.end();
        Some(bytes)
    }

    /// Whether the rest is known to be short, and so no stream of events that must be passed on as it comes.
    pub const fn is_short(&self) -> bool {
        matches!(self.left, Left::Bytes(left) if left <= limits::WHOLE)
    }

    /// Waits for the rest.
    ///
    /// # Errors
    /// How the connection broke.
    pub async fn gather(&mut self) -> Result<Bytes, String> {
        let mut gathered = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| self.poll_frame(cx)).await {
            if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
                gathered.extend_from_slice(&data);
            }
        }
        Ok(gathered.freeze())
    }

    fn end(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        let keep = self.keep_alive && !self.instance.gone.get();
        if let Some(connection) = exchange.into_connection().filter(|_| keep) {
            self.instance.h1.keep(connection, self.now_ms);
        }
    }

    /// The next frame; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            // The rest of the request, when the answer came before its end.
            if let Poll::Ready(Err(error)) = exchange.poll_send(cx) {
                return Poll::Ready(Some(Err(error)));
            }
            match next(&mut self.left, exchange) {
                Ok(Step::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(Step::End(trailers)) => {
                    self.end();
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Step::More) => {}
                Err(what) => return Poll::Ready(Some(Err(BodyError::Instance(what.to_owned())))),
            }
            match exchange.poll_read(cx) {
                Poll::Ready(Ok(0)) => match self.left {
                    Left::UntilClose => {
                        self.exchange = None;
                        return Poll::Ready(None);
                    }
                    _ => return broken("it closed the connection"),
                },
                Poll::Ready(Ok(_)) => self.waiting = None,
                Poll::Ready(Err(error)) => return broken(&error.to_string()),
                Poll::Pending => {
                    let patience = self.patience;
                    let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                    ready!(waiting.as_mut().poll(cx));
                    return broken("it sent nothing for too long");
                }
            }
        }
    }

    /// The length that is left, if it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Bytes(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}

fn next(left: &mut Left, exchange: &mut Exchange) -> Result<Step, &'static str> {
    match left {
        Left::Chunks(chunks) => chunks.step(exchange.buffer()),
        Left::Bytes(0) => Ok(Step::End(None)),
        Left::Bytes(left) => {
            let buffer = exchange.buffer();
            let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
            *left -= length as u64;
            Ok(if length == 0 { Step::More } else { Step::Data(buffer.split_to(length).freeze()) })
        }
        Left::UntilClose => {
            let buffer = exchange.buffer();
            Ok(if buffer.is_empty() { Step::More } else { Step::Data(buffer.split().freeze()) })
        }
    }
}

fn broken(why: &str) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    Poll::Ready(Some(Err(BodyError::Instance(why.to_owned()))))
}
