//! A caller's connection as hyper reads it, with the little that is needed to close idle and dripping ones.
//!
//! Promises: no timer per request. One sweep per thread looks at all connections now and then.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::limits;
use crate::wire::Wire;

/// Longest write that waits for the end of the batch (`wire`), its parts put together.
// 4 KiB: the common answer; copying more costs about what the post saves.
const POSTED: usize = 4 << 10;

/// What is known of a connection between two sweeps.
#[derive(Default)]
pub struct Activity {
    /// Requests being answered.
    active: Cell<u32>,
    /// Whether bytes came since the last request was answered: with HTTP/1.1, part of a head.
    started: Cell<bool>,
    /// Whether bytes between requests mean nothing: HTTP/2 has frames of its own.
    chatty: Cell<bool>,
    /// Sweeps since something happened.
    quiet: Cell<u32>,
    overdue: Cell<bool>,
    told: Notify,
}

/// What a sweep finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing to do.
    Fine,
    /// Without a request for long: it was told to say goodbye.
    Idle,
    /// Half a head for long: to be cut.
    Dripping,
}

impl Activity {
    /// A request begins; it ends when the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        Active(self.clone())
    }

    /// Looks at the connection once every `every`.
    pub fn sweep(&self, every: Duration) -> Found {
        if self.active.get() > 0 {
            self.quiet.set(0);
            return Found::Fine;
        }
        self.quiet.set(self.quiet.get().saturating_add(1));
        let quiet = every.saturating_mul(self.quiet.get());
        let dripping = self.started.get() && !self.chatty.get();
        if dripping && quiet > limits::HEAD_TIME {
            return Found::Dripping;
        }
        if quiet <= limits::IDLE_TIME {
            return Found::Fine;
        }
        self.overdue.set(true);
        self.told.notify_waiters();
        Found::Idle
    }

    /// Whether it was without a request for too long.
    pub fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// Resolves once it was without a request for too long.
    pub async fn overdue(&self) {
        if !self.is_overdue() {
            self.told.notified().await;
        }
    }
}

/// A request that is being answered.
pub struct Active(Rc<Activity>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.started.set(false);
        self.0.quiet.set(0);
    }
}

/// A caller's connection, what was read of it to tell its protocol first.
pub struct Io {
    first: Bytes,
    wire: Rc<Wire>,
    activity: Rc<Activity>,
}

impl Io {
    /// Wraps a connection of which `first` was read.
    pub fn new(stream: TcpStream, first: Bytes, http2: bool, activity: Rc<Activity>) -> Self {
        activity.started.set(true);
        activity.chatty.set(http2);
        Self { first, wire: Wire::new(stream), activity }
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..length]);
            self.first.advance(length);
            return Poll::Ready(Ok(()));
        }
        let read = self.wire.poll_read(cx, buffer);
        if read.is_ready() && !self.activity.started.replace(true) {
            self.activity.quiet.set(0);
        }
        read
    }
}

impl Write for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        if bytes.len() > POSTED {
            return self.wire.poll_write(cx, bytes);
        }
        ready!(self.wire.poll_sent(cx))?;
        self.wire.post(|out| out.extend_from_slice(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    /// What is posted counts as flushed: it is sent without anybody's further doing.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.wire.take_error().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.wire.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total > POSTED {
            return self.wire.poll_write_vectored(cx, slices);
        }
        ready!(self.wire.poll_sent(cx))?;
        self.wire.post(|out| slices.iter().for_each(|slice| out.extend_from_slice(slice)));
        Poll::Ready(Ok(total))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.wire.send_waiting(); // an answer may still be in the post; what the socket does not take goes with it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    /// Seconds until a sweep finds something, and what.
    fn found(activity: &Activity) -> (u64, Found) {
        let sweeps = (1..).map(|number| (number * EVERY.as_secs(), activity.sweep(EVERY)));
        sweeps.into_iter().find(|(_, found)| *found != Found::Fine).unwrap()
    }

    #[test]
    fn half_a_head_is_cut_and_silence_is_told() {
        let activity = Rc::new(Activity::default());
        activity.started.set(true);
        assert_eq!(found(&activity), (20, Found::Dripping));
        drop(activity.begin());
        assert!(!activity.is_overdue());
        assert_eq!(found(&activity), (305, Found::Idle));
        assert!(activity.is_overdue());
    }

    #[test]
    fn frames_between_requests_are_no_half_heads() {
        let activity = Rc::new(Activity::default());
        activity.started.set(true);
        activity.chatty.set(true);
        assert_eq!(found(&activity), (305, Found::Idle));
    }

    #[test]
    fn a_request_may_take_its_time() {
        let activity = Rc::new(Activity::default());
        let request = activity.begin();
        assert!((0..1_000).all(|_| activity.sweep(EVERY) == Found::Fine));
        drop(request);
        assert_eq!(found(&activity).1, Found::Idle);
    }
}
