//! Sockets whose small writes wait for the end of the batch: when all that was ready has been read, everything is sent in one go.
//!
//! A send to a process that sleeps wakes it, which costs more than the send. Sends that follow each other closely find their receivers awake
//! still; between reading and deciding, one by one, they find them asleep again.
//! Promises: the bytes of a socket keep their order; what is posted is sent within the same turn of the thread's run queue, or as soon as the
//! socket takes it; what waits is bounded by [`MOST`]; who drops a connection with a request on it takes the request back.
//! Absent on purpose: waiting for more. A batch is what was ready, never a time. Threads that run no [`post`] write at once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{ReadBufCursor, Write as _};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Most bytes that wait: beyond it they are sent at once.
// 256 KiB: some hundred small requests, or a few of the largest that are sent whole; about what the second-level cache holds.
const MOST: usize = 256 << 10;

thread_local! {
    static POST: RefCell<Post> = const { RefCell::new(Post::new()) };
}

/// A socket, shared with the post while bytes for it wait.
pub struct Wire {
    stream: RefCell<TokioIo<TcpStream>>,
    /// Whether bytes that were posted are not sent yet.
    waiting: Cell<bool>,
    error: Cell<Option<io::Error>>,
    /// Whom to wake when what waits is sent.
    waker: Cell<Option<Waker>>,
}

impl Wire {
    /// Wraps a socket.
    pub fn new(stream: TcpStream) -> Rc<Self> {
        let stream = RefCell::new(TokioIo::new(stream));
        Rc::new(Self { stream, waiting: Cell::new(false), error: Cell::new(None), waker: Cell::new(None) })
    }

    /// Posts what `write` appends; it is sent soon. Nothing else of this wire may be waiting.
    pub fn post(self: &Rc<Self>, write: impl FnOnce(&mut Vec<u8>)) {
        POST.with_borrow_mut(|post| post.take(self, write));
    }

    /// Whether bytes that were posted are not sent yet.
    pub fn is_waiting(&self) -> bool {
        self.waiting.get()
    }

    /// Why sending failed, told once.
    pub fn take_error(&self) -> Option<io::Error> {
        self.error.take()
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn send_waiting(&self) {
        if self.waiting.get() {
            POST.with_borrow_mut(Post::send);
        }
    }

    /// Sends what waits. Ready when nothing does.
    pub fn poll_sent(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.send_waiting();
        if self.waiting.get() {
            self.waker.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        Poll::Ready(self.error.take().map_or(Ok(()), Err))
    }

    /// Writes past the post, after what waits.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)
    }

    /// The same for several slices.
    pub fn poll_write_vectored(&self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    /// Ends the sending side, after what waits.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }

    /// Reads for hyper.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        hyper::rt::Read::poll_read(Pin::new(&mut *self.stream.borrow_mut()), cx, buffer)
    }

    /// Reads what is there behind what `buffer` has; 0 at the end.
    pub fn poll_read_buf(&self, cx: &mut Context<'_>, buffer: &mut bytes::BytesMut) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let reading = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(stream.inner_mut(), buffer));
        reading.poll(cx)
    }

    /// Whether the peer neither closed nor sent anything. No system call unless something came.
    pub fn is_quiet(&self) -> bool {
        let waiting = self.stream.borrow().inner().try_read(&mut [0; 1]);
        matches!(waiting, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.borrow().inner().try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    fn sent(&self, error: Option<io::Error>) {
        self.waiting.set(false);
        self.error.set(error);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What waits on one thread.
struct Post {
    /// All of it, in the order of `letters`.
    bytes: Vec<u8>,
    letters: Vec<Letter>,
    /// What sockets did not take at once.
    stuck: Vec<(Rc<Wire>, Vec<u8>)>,
    /// Wakes [`post`]; none where it does not run.
    waker: Option<Waker>,
}

/// Bytes for one wire: from the end of the letter before to `end`.
struct Letter {
    wire: Rc<Wire>,
    end: usize,
}

impl Post {
    const fn new() -> Self {
        Self { bytes: Vec::new(), letters: Vec::new(), stuck: Vec::new(), waker: None }
    }

    fn take(&mut self, wire: &Rc<Wire>, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(!wire.waiting.get(), "what is stuck would be overtaken");
        write(&mut self.bytes);
        wire.waiting.set(true);
        if let (true, Some(waker)) = (self.letters.is_empty(), &self.waker) {
            waker.wake_by_ref();
        }
        self.letters.push(Letter { wire: wire.clone(), end: self.bytes.len() });
        if self.waker.is_none() || self.bytes.len() > MOST {
            self.send();
        }
    }

    fn send(&mut self) {
        let mut start = 0;
        for Letter { wire, end } in self.letters.drain(..) {
            let bytes = &self.bytes[start..end];
            start = end;
            if Rc::strong_count(&wire) == 1 {
                continue; // taken back
            }
            match wire.try_write(bytes) {
                Ok(written) if written == bytes.len() => wire.sent(None),
                Ok(written) => {
                    self.stuck.push((wire, bytes[written..].to_vec()));
                    // It waits for the socket.
                    self.waker.iter().for_each(Waker::wake_by_ref);
                }
                Err(error) => wire.sent(Some(error)),
            }
        }
        self.bytes.clear();
        if self.bytes.capacity() > 2 * MOST {
            self.bytes = Vec::new();
        }
    }

    /// Goes on with what sockets did not take.
    fn push(&mut self, cx: &mut Context<'_>) {
        self.stuck.retain_mut(|(wire, rest)| {
            while Rc::strong_count(wire) > 1 {
                let wrote = Pin::new(&mut *wire.stream.borrow_mut()).poll_write(cx, rest);
                match wrote {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(written)) if written > 0 && written < rest.len() => drop(rest.drain(..written)),
                    Poll::Ready(Ok(0)) => wire.sent(Some(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(_)) => wire.sent(None),
                    Poll::Ready(Err(error)) => wire.sent(Some(error)),
                }
                if !wire.waiting.get() {
                    return false;
                }
            }
            false
        });
    }
}

/// Sends what is posted on this thread at the end of each batch, for ever.
pub async fn post() {
    let _closing = Closing;
    poll_fn(|cx| {
        POST.with_borrow_mut(|post| {
            if post.waker.is_none() {
                post.waker = Some(cx.waker().clone());
            }
            post.send();
            if !post.stuck.is_empty() {
                post.push(cx);
            }
        });
        Poll::<()>::Pending
    })
    .await;
}

/// Leaves a post that sends at once.
struct Closing;

impl Drop for Closing {
    fn drop(&mut self) {
        POST.with_borrow_mut(|post| {
            post.send();
            *post = Post::new();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, LocalOptions};

    // 20 s: far beyond what any of it takes.
    const DEADLINE: Duration = Duration::from_secs(20);

    fn run(test: impl Future<Output = ()>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.unwrap() });
    }

    async fn pair() -> (Rc<Wire>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Wire::new(here), listener.accept().await.unwrap().0)
    }

    async fn read_all(mut peer: TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[test]
    fn what_is_posted_waits_for_the_others_and_keeps_its_order() {
        run(async {
            tokio::task::spawn_local(post());
            tokio::task::yield_now().await;
            let ((one, one_peer), (other, other_peer)) = (pair().await, pair().await);
            one.post(|out| out.extend_from_slice(b"a"));
            other.post(|out| out.extend_from_slice(b"x"));
            assert!(one.is_waiting() && other.is_waiting());
            poll_fn(|cx| one.poll_write(cx, b"b")).await.unwrap();
            assert!(!one.is_waiting() && !other.is_waiting());
            one.post(|out| out.extend_from_slice(b"c"));
            while one.is_waiting() {
                tokio::task::yield_now().await; // nobody asks for it: the post sends by itself
            }
            drop((one, other));
            assert_eq!((read_all(one_peer).await, read_all(other_peer).await), (b"abc".to_vec(), b"x".to_vec()));
        });
    }

    #[test]
    fn a_dropped_wire_takes_back_what_it_posted() {
        run(async {
            tokio::task::spawn_local(post());
            tokio::task::yield_now().await;
            let ((gone, gone_peer), (other, other_peer)) = (pair().await, pair().await);
            gone.post(|out| out.extend_from_slice(b"never"));
            other.post(|out| out.extend_from_slice(b"sent"));
            drop(gone);
            poll_fn(|cx| other.poll_sent(cx)).await.unwrap();
            drop(other);
            assert_eq!((read_all(gone_peer).await, read_all(other_peer).await), (Vec::new(), b"sent".to_vec()));
        });
    }

    #[test]
    fn what_the_socket_does_not_take_follows() {
        run(async {
            tokio::task::spawn_local(post());
            tokio::task::yield_now().await;
            let (wire, peer) = pair().await;
            let much: Vec<u8> = (0..32 << 20).map(|index: u32| (index >> 8) as u8).collect();
            wire.post(|out| out.extend_from_slice(&much));
            assert!(wire.is_waiting(), "no socket takes 32 MiB at once");
            let reading = tokio::task::spawn_local(read_all(peer));
            poll_fn(|cx| wire.poll_write(cx, b"end")).await.unwrap();
            drop(wire);
            let read = reading.await.unwrap();
            assert!(read.ends_with(b"end") && read[..much.len()] == much && read.len() == much.len() + 3);
        });
    }

    #[test]
    fn a_closed_peer_is_told() {
        run(async {
            tokio::task::spawn_local(post());
            tokio::task::yield_now().await;
            let (wire, peer) = pair().await;
            peer.set_zero_linger().unwrap();
            drop(peer);
            while wire.is_quiet() {
                tokio::task::yield_now().await;
            }
            wire.post(|out| out.extend_from_slice(b"lost"));
            assert!(poll_fn(|cx| wire.poll_sent(cx)).await.is_err());
        });
    }

    #[test]
    fn where_no_post_runs_it_is_sent_at_once() {
        run(async {
            let (wire, peer) = pair().await;
            wire.post(|out| out.extend_from_slice(b"now"));
            assert!(!wire.is_waiting());
            drop(wire);
            assert_eq!(read_all(peer).await, b"now");
        });
    }
}
