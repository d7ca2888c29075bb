//! One direction of a simulated connection: sends wait, leave in pieces, travel, arrive. Knows no stream and no core.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use spinel_core::Instant;
use spinel_core::mem::{Regions, Segment};
use spinel_load::Prng;

/// What a simulated connection is like.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// How many bytes leave at a time, and come at the other end in one piece.
    pub cut_bytes: RangeInclusive<u64>,
    /// How long a piece waits before it leaves, and how long it travels.
    pub delay_ns: RangeInclusive<u64>,
    /// One piece in so many travels `stall_ns` longer, and all behind it; 0 for none.
    pub stall_one_in: u64,
    /// See `stall_one_in`.
    pub stall_ns: u64,
    /// With one piece in so many the connection breaks; 0 for none.
    pub break_one_in: u64,
    /// So many bytes are at most on their way or come and not taken, in each direction.
    pub window_bytes: u64,
    /// Sends that may wait at each end.
    pub sends: usize,
}

impl Default for WireOptions {
    /// Pieces of anything up to 3,000 bytes, microseconds apart, now and then a stall of 5 ms; nothing breaks.
    fn default() -> Self {
        Self {
            cut_bytes: 1..=3_000,
            delay_ns: 500..=20_000,
            stall_one_in: 200,
            stall_ns: 5_000_000,
            break_one_in: 0,
            window_bytes: 20_000,
            sends: 16,
        }
    }
}

/// A send that has not left as a whole. Its memory is read when a piece leaves, and no earlier: whoever reuses it too soon
/// sends the wrong bytes.
#[derive(Debug)]
struct Parcel {
    head: Vec<u8>,
    body: Vec<Segment>,
    tail: Vec<u8>,
    /// Bytes that have left.
    left: usize,
}

impl Parcel {
    fn len(&self) -> usize {
        let body: usize = self.body.iter().map(|segment| bytes(segment.len_bytes())).sum();
        self.head.len() + body + self.tail.len()
    }

    /// The next bytes, at most `count`.
    fn leave(&mut self, regions: &Regions, count: usize) -> Vec<u8> {
        let body = self.body.iter().map(Part::Body);
        let parts = std::iter::once(Part::Own(&self.head)).chain(body).chain([Part::Own(&self.tail)]);
        let (mut skip, mut left) = (self.left, Vec::new());
        for part in parts {
            let here = part.len().saturating_sub(skip).min(count - left.len());
            part.append(regions, skip, here, &mut left);
            skip = skip.saturating_sub(part.len());
        }
        self.left += left.len();
        left
    }
}

/// A stretch of a send.
enum Part<'a> {
    Own(&'a [u8]),
    Body(&'a Segment),
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Own(own) => own.len(),
            Self::Body(segment) => bytes(segment.len_bytes()),
        }
    }

    /// Appends `count` of its bytes behind the first `skip`; none if there are not so many.
    fn append(&self, regions: &Regions, skip: usize, count: usize, into: &mut Vec<u8>) {
        match self {
            _ if count == 0 => {}
            Self::Own(own) => into.extend_from_slice(&own[skip..skip + count]),
            Self::Body(segment) => {
                let at = into.len();
                into.resize(at + count, 0);
                let skip = u32::try_from(skip).expect("inside the segment");
                regions.read(segment, skip, &mut into[at..]).expect("the regions of a send stay announced until it is counted");
            }
        }
    }
}

fn bytes(len_bytes: u32) -> usize {
    usize::try_from(len_bytes).expect("lengths fit 64 bits")
}

/// What travels.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Nothing comes behind this.
    End,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    waiting: VecDeque<Parcel>,
    queued: u64,
    sent: u64,
    /// When the next piece leaves; decided when the turn ends in which there was something to leave.
    leaves_at: Option<Instant>,
    travelling: VecDeque<(Instant, Piece)>,
    /// The connection broke.
    lost: bool,
    /// Bytes travelling, and come and not taken.
    outstanding: u64,
    /// Pieces that have come.
    come: VecDeque<Vec<u8>>,
}

impl Pipe {
    pub(crate) fn room(&self, options: &WireOptions) -> usize {
        options.sends - self.waiting.len()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn queue(&mut self, head: &[u8], body: &[Segment], tail: &[u8]) {
        self.waiting.push_back(Parcel { head: head.to_vec(), body: body.to_vec(), tail: tail.to_vec(), left: 0 });
        self.queued += 1;
    }

    /// Nothing leaves any more: what waits counts as sent.
    pub(crate) fn abandon(&mut self) {
        self.waiting.clear();
        self.sent = self.queued;
        self.leaves_at = None;
    }

    /// Nothing arrives any more, neither what travels nor what leaves later.
    pub(crate) fn lose(&mut self) {
        self.travelling.clear();
        self.lost = true;
    }

    /// Whether it was not decided yet when the next piece leaves, and there is one that may.
    pub(crate) fn is_undecided(&self, options: &WireOptions) -> bool {
        self.leaves_at.is_none() && !self.waiting.is_empty() && self.outstanding < options.window_bytes
    }

    /// Decides when the next piece leaves.
    pub(crate) fn decide(&mut self, now: Instant, options: &WireOptions, prng: &mut Prng) {
        if self.is_undecided(options) {
            self.leaves_at = Some(now.after_ns(prng.within(options.delay_ns.clone())));
        }
    }

    /// Lets pieces leave that are due by now; whether one of them broke the connection.
    pub(crate) fn leave(&mut self, now: Instant, regions: &Regions, options: &WireOptions, prng: &mut Prng) -> bool {
        while let Some(at) = self.leaves_at.take_if(|at| *at <= now) {
            let window = options.window_bytes - self.outstanding;
            let count = prng.within(options.cut_bytes.clone()).min(window);
            let mut piece = Vec::new();
            let mut left = usize::try_from(count).expect("small");
            while left > 0
                && let Some(first) = self.waiting.front_mut()
            {
                let some = first.leave(regions, left);
                left -= some.len();
                piece.extend_from_slice(&some);
                if first.left == first.len() {
                    self.waiting.pop_front();
                    self.sent += 1;
                }
            }
            if prng.one_in(options.break_one_in) {
                return true;
            }
            if !piece.is_empty() {
                self.outstanding += u64::try_from(piece.len()).expect("small");
                self.travel(at, Piece::Bytes(piece), options, prng);
            }
            self.decide(at, options, prng);
        }
        false
    }

    /// Sends a piece on its way, behind the one before it.
    pub(crate) fn travel(&mut self, at: Instant, piece: Piece, options: &WireOptions, prng: &mut Prng) {
        let stall_ns = if prng.one_in(options.stall_one_in) { options.stall_ns } else { 0 };
        let arrives_at = at.after_ns(prng.within(options.delay_ns.clone()) + stall_ns);
        let arrives_at = self.travelling.back().map_or(arrives_at, |(before, _)| arrives_at.max(*before));
        if !self.lost {
            self.travelling.push_back((arrives_at, piece));
        }
    }

    /// Lets pieces arrive that are due by now; whether the end was among them.
    pub(crate) fn arrive(&mut self, now: Instant, prng: &mut Prng) -> bool {
        while let Some((_, piece)) = self.travelling.pop_front_if(|(at, _)| *at <= now) {
            match piece {
                Piece::End => return true,
                // Two pieces may be one by the time somebody looks.
                Piece::Bytes(piece) => match self.come.back_mut() {
                    Some(last) if prng.one_in(2) => last.extend_from_slice(&piece),
                    _ => self.come.push_back(piece),
                },
            }
        }
        false
    }

    /// The next piece that has come, for good.
    pub(crate) fn pick_up(&mut self) -> Option<Vec<u8>> {
        self.come.pop_front()
    }

    /// So many bytes were taken.
    pub(crate) fn taken(&mut self, count: usize) {
        self.outstanding -= u64::try_from(count).expect("small");
    }

    /// When something happens here next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let arrives_at = self.travelling.front().map(|(at, _)| *at);
        self.leaves_at.into_iter().chain(arrives_at).min()
    }
}
