//! The bounds of everything that comes from outside, each with its reason.

use std::time::Duration;

/// Bytes of a request's body kept so that another instance can be asked again. Beyond it, the first byte sent decides.
// 1 MiB: 65 000 float tensors of four; larger requests are rare and a retry of them is a load of its own.
pub const REPLAY: usize = 1 << 20;

/// Bodies up to this length are read whole before they are forwarded: one write, no chunking.
// 64 KiB: what usually arrives with the head in a handful of reads.
pub const WHOLE: u64 = 64 << 10;

/// Longest request body.
// 256 MiB: `MAX_TENSOR_BYTES`, the largest tensor that the model server reads.
pub const BODY: u64 = 256 << 20;

/// Longest head of a request or an answer.
// 64 KiB: twice what common servers accept, for callers with large tokens.
pub const HEAD: usize = 64 << 10;

/// Most header fields of a request or an answer.
pub const HEADERS: usize = 100;

/// Longest time that a caller may take to send a head, once its first byte came.
// 15 s: slow links manage; a caller that drips bytes to hold connections does not.
pub const HEAD_TIME: Duration = Duration::from_secs(15);

/// Longest time that a caller may take to send a small body.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// How long a connection may be without a request.
// 5 min: longer than common clients keep one, so that it is they who close, and no request meets a closing connection.
pub const IDLE_TIME: Duration = Duration::from_secs(300);

/// How long an unused connection to an instance is kept.
// 30 s: a burst's connections do not stay for ever.
pub const UPSTREAM_IDLE_TIME: Duration = Duration::from_secs(30);

/// Longest time to connect to an instance.
pub const CONNECT_TIME: Duration = Duration::from_secs(2);

/// How long an instance's machine may acknowledge nothing that was sent to it, or stay silent while nothing is, before it counts as cut off.
// 5 s: three lost packets in a row are sent again within that time; a request's own time is 60 s.
pub const SILENCE: Duration = Duration::from_secs(5);

/// How long a gateway with a successor leaves idle connections open for a last request, which is then answered with `Connection: close`.
// 5 s: callers that send at least that often are told to reconnect; the rest is closed while nothing is under way.
pub const HANDOVER_GRACE: Duration = Duration::from_secs(5);

/// The same for a gateway that simply ends: nobody takes the callers over, so there is little to wait for.
pub const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// Longest time that a draining gateway lives.
// 10 min: beyond any stream that is still of use; the successor serves meanwhile.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(600);

/// Most bytes of a gRPC call read to find the model's name.
pub const PEEK: usize = REPLAY;

/// Streams at once on one HTTP/2 connection to an instance; more open another one.
// 100: the value that servers commonly announce.
pub const STREAMS: u32 = 100;

/// Longest route table.
// 64 MiB: tens of thousands of services.
pub const TABLE: usize = 64 << 20;
