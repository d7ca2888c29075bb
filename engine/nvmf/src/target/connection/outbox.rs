//! What a connection sends: PDUs put together as far as they fit into one send, and the buffers that are lent until they are
//! sent. Knows no queue.

use std::collections::VecDeque;

use spinel_core::mem::Segment;
use spinel_core::{STREAM_HEAD_BYTES_MAX, STREAM_SEGMENTS_MAX, Stream};
use zerocopy::IntoBytes as _;

use super::super::queue::Answer;
use crate::pool::{Chain, Pool, SharedPool};
use crate::tcp::build::{put_response, put_terminate};
use crate::tcp::pdu::HEAD_BYTES_MAX;
use crate::tcp::{Builder, Crc, DIGEST_BYTES, DataPdu, Fault, IcResp, R2t, Role, Terms};

/// Most bytes of a PDU without data.
const PLAIN_BYTES: usize = 32;
/// Most bytes before data, which may have to be aligned, and behind them.
const AROUND_DATA_BYTES: usize = 128 + 4;
/// Bytes of data whose digest is computed at a time.
const DIGEST_STEP: usize = 4096;

/// The sending half of a connection.
pub(super) struct Outbox {
    builder: Builder,
    /// PDUs without data that were not handed over yet.
    staged: [u8; STREAM_HEAD_BYTES_MAX],
    staged_bytes: usize,
    segments: Vec<Segment>,
    /// Sends that were handed over.
    sends: u64,
    /// Buffers that are lent until so many sends are done.
    lent: VecDeque<(u64, Chain)>,
}

impl Outbox {
    /// For a stream that holds so many sends.
    pub(super) fn new(room: usize) -> Self {
        Self {
            builder: Builder::new(Terms::default()),
            staged: [0; STREAM_HEAD_BYTES_MAX],
            staged_bytes: 0,
            segments: Vec::with_capacity(STREAM_SEGMENTS_MAX),
            sends: 0,
            lent: VecDeque::with_capacity(room + 1),
        }
    }

    /// Whether there is room for another PDU of any kind.
    #[inline]
    pub(super) fn has_room<S: Stream>(&self, stream: &S) -> bool {
        // What is staged may have to go before.
        stream.room() >= 2
    }

    /// Says what was agreed on; from here on that holds.
    pub(super) fn agree<S: Stream>(&mut self, stream: &mut S, terms: Terms, answer: &IcResp) {
        self.stage(stream, HEAD_BYTES_MAX, |_, out| put_response(answer, out));
        self.builder = Builder::new(terms);
    }

    /// Says what the peer did wrong.
    pub(super) fn terminate<S: Stream>(&mut self, stream: &mut S, fault: &Fault, header: &[u8]) {
        if self.has_room(stream) {
            self.stage(stream, HEAD_BYTES_MAX, |_, out| put_terminate(Role::Target, fault, header, out));
            self.flush(stream);
        }
    }

    /// Asks for all data of a command.
    #[inline]
    pub(super) fn ask<S: Stream>(&mut self, stream: &mut S, command_id: u16, transfer_tag: u16, len_bytes: u32) {
        let r2t = R2t { command_id, transfer_tag, offset: 0, len_bytes };
        self.stage(stream, PLAIN_BYTES, |builder, out| builder.put_r2t(&r2t, out));
    }

    /// Sends an answer: its data, if there are any, and its completion, which the data may say themselves.
    #[inline]
    pub(super) fn answer<S: Stream>(&mut self, stream: &mut S, answer: Answer, pool: &SharedPool, success_with_data: bool) {
        let Answer { completion, data } = answer;
        if let Some(chain) = data {
            let success = success_with_data && completion.status().is_success() && completion.result() == 0;
            self.send_data(stream, completion.id(), chain, &pool.borrow(), success);
            if success {
                return;
            }
        }
        let bytes: [u8; 16] = completion.as_bytes().try_into().expect("a completion has 16 bytes");
        self.stage(stream, PLAIN_BYTES, |builder, out| builder.put_completion(&bytes, out));
    }

    #[inline]
    fn send_data<S: Stream>(&mut self, stream: &mut S, command_id: u16, chain: Chain, pool: &Pool, success: bool) {
        let data = DataPdu { command_id, transfer_tag: 0, offset: 0, len_bytes: chain.len_bytes(), last: true, success };
        if STREAM_HEAD_BYTES_MAX - self.staged_bytes < AROUND_DATA_BYTES {
            self.flush(stream);
        }
        self.staged_bytes += self.builder.put_data_to_host(&data, &mut self.staged[self.staged_bytes..]);
        let (mut tail, mut tail_bytes) = ([0; DIGEST_BYTES as usize], 0);
        if self.builder.data_digest() {
            tail_bytes = self.builder.put_tail(&digest(&chain, pool), &mut tail);
        }
        self.segments.clear();
        match pool.single(&chain) {
            Some(segment) => self.segments.push(segment),
            None => self.segments.extend(pool.segments(&chain)),
        }
        stream.send(&self.staged[..self.staged_bytes], &self.segments, &tail[..tail_bytes]);
        self.staged_bytes = 0;
        self.sends += 1;
        self.lent.push_back((self.sends, chain));
    }

    /// Puts a PDU without data behind those that are staged.
    #[inline]
    fn stage<S: Stream>(&mut self, stream: &mut S, bytes_max: usize, put: impl FnOnce(&Builder, &mut [u8]) -> usize) {
        if STREAM_HEAD_BYTES_MAX - self.staged_bytes < bytes_max {
            self.flush(stream);
        }
        self.staged_bytes += put(&self.builder, &mut self.staged[self.staged_bytes..]);
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

    /// The next buffers that are not lent any more.
    #[inline]
    pub(super) fn next_sent<S: Stream>(&mut self, stream: &S) -> Option<Chain> {
        let (until, _) = self.lent.front()?;
        if *until <= stream.sent() { self.next_lent() } else { None }
    }

    /// The next buffers that were lent, for a stream that has let go of everything.
    pub(super) fn next_lent(&mut self) -> Option<Chain> {
        self.lent.pop_front().map(|(_, chain)| chain)
    }

    /// Whether everything is sent.
    #[inline]
    pub(super) fn is_sent<S: Stream>(&self, stream: &S) -> bool {
        self.staged_bytes == 0 && stream.sent() == self.sends
    }
}

/// The digest of all of a chain's bytes.
fn digest(chain: &Chain, pool: &Pool) -> Crc {
    let (mut crc, mut at, mut piece) = (Crc::default(), 0, [0; DIGEST_STEP]);
    while at < chain.len_bytes() {
        let here = (chain.len_bytes() - at).min(4096);
        let piece = &mut piece[..here as usize];
        pool.read(chain, at, piece);
        crc.update(piece);
        at += here;
    }
    crc
}
