//! A connection that carries bytes both ways, as a fabric sees it. Knows no socket and no protocol.

use std::fmt;

use spinel_mem::Segment;

use crate::channel::Armed;

/// How a stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamState {
    /// Bytes come and go.
    Open,
    /// The other side sends no more. What has come can still be taken, and what is sent still goes.
    Ended,
    /// It broke, or was closed here: nothing comes or goes any more.
    Broken(Break),
}

/// Why a stream broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// It was closed on this side.
    Closed,
    /// The operating system's error number.
    System(i32),
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "it was closed on this side"),
            Self::System(code) => write!(f, "{}", std::io::Error::from_raw_os_error(*code)),
        }
    }
}

/// One connection on one core: bytes in order, both ways.
///
/// Contract:
/// - What has come lies in memory of the stream until it is taken: a slow reader holds back the other side, and costs a
///   bounded number of bytes here.
/// - A send is whole: its head, the bytes of its segments and its tail, in order, behind the send before it. `send` is called
///   only while `room() > 0`, and cannot fail; if the stream breaks first the bytes are lost.
/// - Head and tail are copied. The segments' memory is read until the send is counted in `sent`, and may not be reused before;
///   the regions stay announced until then. Broken streams count on: after a break every send is counted in the end, when the
///   kernel has let go of it.
/// - Dropping a stream closes it; who drops it before it is `closed` does not learn when the memory of its sends is let go of,
///   and may reuse that at once: nothing of it goes any more.
/// - Nothing here allocates, blocks or reads a clock.
pub trait Stream {
    /// Bytes that have come and were not taken, as far as they lie in one piece. Empty if there are none at the moment.
    fn incoming(&self) -> &[u8];

    /// The first `count` bytes of `incoming` are done with.
    ///
    /// # Panics
    /// If there are not so many.
    fn take(&mut self, count: usize);

    /// How many more sends it would hold now.
    fn room(&self) -> usize;

    /// Sends `head`, then the bytes of `body`, then `tail`. Head and tail together are at most [`STREAM_HEAD_BYTES_MAX`] long,
    /// and `body` has at most [`STREAM_SEGMENTS_MAX`] segments.
    fn send(&mut self, head: &[u8], body: &[Segment], tail: &[u8]);

    /// How many sends have let go of their memory since the stream was opened: the first so many.
    fn sent(&self) -> u64;

    /// What was queued should start now. A hint where a driver is shared: its flush starts it anyway, all of it at once.
    fn kick(&mut self);

    /// How it stands.
    fn state(&self) -> StreamState;

    /// May this core sleep, as far as this stream is concerned? Bytes and room that come later wake it.
    fn arm(&mut self) -> Armed;

    /// Ends it: the other side sees the end of the connection, and what was not sent yet may be lost.
    fn close(&mut self);

    /// Whether nothing of it is in flight any more: only after `close`.
    fn closed(&self) -> bool;
}

/// Most bytes of head and tail of one send.
pub const STREAM_HEAD_BYTES_MAX: usize = 256;
/// Most segments of one send.
pub const STREAM_SEGMENTS_MAX: usize = 40;
