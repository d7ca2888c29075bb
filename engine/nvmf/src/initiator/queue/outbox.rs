//! What a queue sends: capsules put together as far as they fit into one send, and data straight from their memory. Knows no
//! command.

use spinel_core::mem::{Regions, Segment};
use spinel_core::{STREAM_HEAD_BYTES_MAX, STREAM_SEGMENTS_MAX, Stream};

use crate::tcp::build::{put_request, put_terminate};
use crate::tcp::pdu::{COMMAND_BYTES, HEAD_BYTES_MAX};
use crate::tcp::{Builder, Crc, DIGEST_BYTES, DataPdu, Fault, IcReq, Role, Terms};

/// Most bytes of a header of a command, of H2CData, or of either with data behind it that have to be aligned.
const HEADER_BYTES_MAX: usize = 128;
/// Bytes of data whose digest is computed at a time.
const DIGEST_STEP: usize = 4096;
/// Most bytes of data that are copied instead of being lent.
pub(super) const SMALL_BYTES: usize = 16;

/// Data of one PDU.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    None,
    /// They are copied.
    Small(&'a [u8]),
    /// They are lent to the stream until they are sent.
    Lent(&'a [Segment]),
}

/// The sending half of a queue.
pub(super) struct Outbox {
    builder: Builder,
    /// PDUs that were not handed over yet.
    staged: [u8; STREAM_HEAD_BYTES_MAX],
    staged_bytes: usize,
    /// Sends that were handed over.
    sends: u64,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { builder: Builder::new(Terms::default()), staged: [0; STREAM_HEAD_BYTES_MAX], staged_bytes: 0, sends: 0 }
    }

    /// Asks how to talk.
    pub(super) fn greet<S: Stream>(&mut self, stream: &mut S, asked: &IcReq) {
        self.make_room(stream, HEAD_BYTES_MAX);
        self.staged_bytes += put_request(asked, &mut self.staged[self.staged_bytes..]);
        self.flush(stream);
    }

    /// From here on this holds.
    pub(super) fn agree(&mut self, terms: Terms) {
        self.builder = Builder::new(terms);
    }

    /// Says what the peer did wrong.
    pub(super) fn terminate<S: Stream>(&mut self, stream: &mut S, fault: &Fault, header: &[u8]) {
        if stream.room() >= 2 {
            self.make_room(stream, HEAD_BYTES_MAX);
            self.staged_bytes += put_terminate(Role::Host, fault, header, &mut self.staged[self.staged_bytes..]);
            self.flush(stream);
        }
    }

    /// Sends a command, and the data that go with it. They are sent with the send of the number that is answered.
    #[inline]
    pub(super) fn command<S: Stream>(
        &mut self,
        stream: &mut S,
        regions: &Regions,
        command: &[u8; COMMAND_BYTES],
        body: Body<'_>,
        len_bytes: u32,
    ) -> u64 {
        self.make_room(stream, HEADER_BYTES_MAX);
        self.staged_bytes += self.builder.put_command(command, len_bytes, &mut self.staged[self.staged_bytes..]);
        self.body(stream, regions, body)
    }

    /// Sends data that were asked for; the same.
    #[inline]
    pub(super) fn data<S: Stream>(&mut self, stream: &mut S, regions: &Regions, data: &DataPdu, body: Body<'_>) -> u64 {
        self.make_room(stream, HEADER_BYTES_MAX);
        self.staged_bytes += self.builder.put_data_to_target(data, &mut self.staged[self.staged_bytes..]);
        self.body(stream, regions, body)
    }

    #[inline]
    fn body<S: Stream>(&mut self, stream: &mut S, regions: &Regions, body: Body<'_>) -> u64 {
        match body {
            // It goes with whatever is staged next; the next send's number is one more than those there were.
            Body::None => self.sends + 1,
            Body::Small(bytes) => {
                self.make_room(stream, bytes.len() + usize::from(DIGEST_BYTES));
                self.staged[self.staged_bytes..][..bytes.len()].copy_from_slice(bytes);
                self.staged_bytes += bytes.len();
                let mut crc = Crc::default();
                crc.update(bytes);
                self.staged_bytes += self.builder.put_tail(&crc, &mut self.staged[self.staged_bytes..]);
                self.sends + 1
            }
            Body::Lent(segments) => {
                let (mut tail, mut tail_bytes) = ([0; DIGEST_BYTES as usize], 0);
                if self.builder.data_digest() {
                    tail_bytes = self.builder.put_tail(&digest(segments, regions), &mut tail);
                }
                let mut rest = segments;
                loop {
                    let (now, then) = rest.split_at(rest.len().min(STREAM_SEGMENTS_MAX));
                    let tail = if then.is_empty() { &tail[..tail_bytes] } else { &[] };
                    stream.send(&self.staged[..self.staged_bytes], now, tail);
                    self.staged_bytes = 0;
                    self.sends += 1;
                    rest = then;
                    if rest.is_empty() {
                        return self.sends;
                    }
                }
            }
        }
    }

    #[inline]
    fn make_room<S: Stream>(&mut self, stream: &mut S, bytes_max: usize) {
        if STREAM_HEAD_BYTES_MAX - self.staged_bytes < bytes_max + usize::from(DIGEST_BYTES) {
            self.flush(stream);
        }
    }

    /// Hands over what is staged.
    #[inline]
    pub(super) fn flush<S: Stream>(&mut self, stream: &mut S) {
        if self.staged_bytes > 0 {
            stream.send(&self.staged[..self.staged_bytes], &[], &[]);
            self.staged_bytes = 0;
            self.sends += 1;
        }
    }

    /// Whether something was not handed over yet.
    #[inline]
    pub(super) fn has_staged(&self) -> bool {
        self.staged_bytes > 0
    }
}

/// How many sends data of so many segments may need, with what is staged before them.
#[inline]
pub(super) fn sends_for(segments: usize) -> usize {
    segments.div_ceil(STREAM_SEGMENTS_MAX) + 2
}

/// The digest of all of these bytes. Memory that has gone counts as nothing: its bytes will not be sent either.
fn digest(segments: &[Segment], regions: &Regions) -> Crc {
    let (mut crc, mut piece) = (Crc::default(), [0; DIGEST_STEP]);
    for segment in segments {
        let mut at = 0;
        while at < segment.len_bytes() {
            let here = (segment.len_bytes() - at).min(4096);
            let piece = &mut piece[..here as usize];
            if regions.read(segment, at, piece).is_err() {
                break;
            }
            crc.update(piece);
            at += here;
        }
    }
    crc
}
