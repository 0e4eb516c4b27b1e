//! Bodies: the caller's, kept so far that it can be sent again; and the answer's, passed through as it comes.
//!
//! Promises: a body is never copied while it passes; what is kept for another attempt is bounded by [`limits::REPLAY`].

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::forward::flight::Flight;
use crate::io::Active;
use crate::limits;
use crate::mirror::Tee;
use crate::table::Instance;
use crate::upstream::describe;
use crate::upstream::h1::Streaming;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's connection failed or its framing was wrong.
    #[error("the caller's body broke off")]
    Caller(#[source] hyper::Error),
    /// The caller sends too much.
    #[error("body is longer than {} MiB", limits::BODY >> 20)]
    TooLarge,
    /// The instance's connection failed.
    #[error("the instance broke its answer off: {0}")]
    Instance(String),
}

/// A request's body.
#[derive(Clone)]
pub enum Payload {
    /// None.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// As it comes; its length if the caller told it.
    Stream(Rc<RefCell<Replay>>, Option<u64>),
}

impl Payload {
    /// Whether it can be sent from its start.
    pub fn can_replay(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Stream(replay, _) => replay.borrow().is_complete,
        }
    }

    /// Whether the caller has sent all of it.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Stream(replay, _) => replay.borrow().ended,
        }
    }

    /// The body from its start.
    pub fn cursor(&self) -> Cursor {
        Cursor { payload: self.clone(), next: 0 }
    }
}

/// A caller's body with what was received of it, as long as that is little.
pub struct Replay {
    incoming: Incoming,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    kept_bytes: usize,
    total: u64,
    is_complete: bool,
    ended: bool,
}

impl Replay {
    /// Wraps a body of which nothing was read.
    pub fn new(incoming: Incoming) -> Self {
        let (kept, trailers) = (Vec::new(), None);
        Self { incoming, kept, trailers, kept_bytes: 0, total: 0, is_complete: true, ended: false }
    }

    /// What was received and kept.
    pub fn kept(&self) -> &[Bytes] {
        &self.kept
    }

    /// Receives the next frame: `None` at the end. Never an empty one: HTTP/2 peers count those as an attack.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while !self.ended {
            let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => break,
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Caller(error)))),
                Some(Ok(frame)) => frame,
            };
            self.ended = self.incoming.is_end_stream();
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.total += data.len() as u64;
                    if self.total > limits::BODY {
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                    self.keep(&data);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    self.ended = true;
                    self.trailers = frame.trailers_ref().cloned();
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
        self.ended = true;
        Poll::Ready(None)
    }

    fn keep(&mut self, data: &Bytes) {
        self.kept_bytes += data.len();
        if self.is_complete && self.kept_bytes <= limits::REPLAY {
            self.kept.push(data.clone());
        } else {
            self.is_complete = false;
            self.kept.clear();
        }
    }
}

/// A payload being sent.
pub struct Cursor {
    payload: Payload,
    next: usize,
}

impl Cursor {
    /// The position after the end.
    const DONE: usize = usize::MAX;
}

impl Body for Cursor {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let replay = match &this.payload {
            Payload::Empty => return Poll::Ready(None),
            Payload::Whole(bytes) => {
                let frame = Frame::data(bytes.clone());
                this.payload = Payload::Empty;
                return Poll::Ready(Some(Ok(frame)));
            }
            Payload::Stream(replay, _) => replay,
        };
        let mut replay = replay.borrow_mut();
        if let Some(kept) = replay.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        if this.next == Self::DONE {
            return Poll::Ready(None);
        }
        if replay.ended {
            this.next = Self::DONE;
            return Poll::Ready(replay.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(replay.poll_next(cx));
        let over = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        this.next = if over { Self::DONE } else { replay.kept.len() };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Empty => true,
            Payload::Whole(_) => false,
            Payload::Stream(replay, _) => {
                let replay = replay.borrow();
                self.next == Self::DONE || replay.ended && replay.trailers.is_none() && self.next >= replay.kept.len()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Empty => SizeHint::with_exact(0),
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Stream(_, Some(length)) if self.next == 0 => SizeHint::with_exact(*length),
            Payload::Stream(..) => SizeHint::default(),
        }
    }
}

/// An answer's body.
pub struct Answer {
    kind: Kind,
    /// Counts the request as in flight until the body ended or was dropped.
    flight: Option<Flight>,
    active: Option<Active>,
    /// Gathers what shadows and the tap want of it.
    tee: Option<Box<Tee>>,
}

enum Kind {
    Empty,
    Whole(Bytes),
    Http1(Box<Streaming>),
    Http2(Incoming),
    /// One gRPC message and its status.
    Framed(Option<Bytes>, Option<HeaderMap>),
}

impl Answer {
    const fn of(kind: Kind) -> Self {
        Self { kind, flight: None, active: None, tee: None }
    }

    /// No body.
    pub const fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// Bytes that are all here.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(if bytes.is_empty() { Kind::Empty } else { Kind::Whole(bytes) })
    }

    /// Bytes and trailers.
    pub const fn framed(bytes: Bytes, trailers: HeaderMap) -> Self {
        Self::of(Kind::Framed(Some(bytes), Some(trailers)))
    }

    /// An instance's answer over HTTP/1.1.
    pub fn http1(streaming: Streaming) -> Self {
        Self::of(Kind::Http1(Box::new(streaming)))
    }

    /// An instance's answer over HTTP/2.
    pub const fn http2(incoming: Incoming) -> Self {
        Self::of(Kind::Http2(incoming))
    }

    /// Keeps the request counted as in flight as long as the body lives.
    pub fn with_flight(mut self, flight: Flight) -> Self {
        self.flight = Some(flight);
        self
    }

    /// Gathers the body while it passes.
    pub fn with_tee(mut self, tee: Tee) -> Self {
        self.tee = Some(Box::new(tee));
        self
    }

    /// The instance that answers, if one does.
    pub fn instance(&self) -> Option<&Rc<Instance>> {
        self.flight.as_ref().map(Flight::instance)
    }

    /// Keeps the caller's connection counted as active as long as the body lives.
    pub fn with_active(mut self, active: Active) -> Self {
        self.active = Some(active);
        self
    }
}

impl Answer {
    fn tell_tee(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        // Nobody asks for the end of a body whose length was told.
        let ended = match &self.kind {
            Kind::Http1(streaming) => streaming.size_hint().exact() == Some(0),
            _ => self.is_end_stream(),
        };
        if let Some(tee) = &mut self.tee {
            tee.frame(frame);
            if ended && frame.is_some_and(Result::is_ok) {
                tee.end();
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Empty => None,
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Kind::Framed(bytes, trailers) => match bytes.take() {
                Some(bytes) => Some(Ok(Frame::data(bytes))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            },
            Kind::Http1(streaming) => ready!(streaming.poll_frame(cx)),
            Kind::Http2(incoming) => loop {
                match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                    Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {} // as in `Replay::poll_next`
                    frame => break frame.map(|frame| frame.map_err(|error| BodyError::Instance(describe(&error)))),
                }
            },
        };
        if let Some(flight) = &mut this.flight {
            match &frame {
                Some(Err(error)) => flight.broke_off(error),
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        flight.trailers(trailers);
                    }
                }
                None => {}
            }
        }
        if this.tee.is_some() {
            this.tell_tee(frame.as_ref());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Whole(_) | Kind::Http1(_) => false,
            Kind::Framed(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            Kind::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Http1(streaming) => streaming.size_hint(),
            Kind::Http2(incoming) => incoming.size_hint(),
            Kind::Framed(..) => SizeHint::default(),
        }
    }
}
