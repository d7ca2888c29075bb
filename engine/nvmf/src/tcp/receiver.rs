//! The machine that receives PDUs: bytes in, cut anywhere; headers, lent pieces of data and verdicts out. Knows no socket, no
//! buffer and no command.

use super::check::{Layout, Phase, check};
use super::digest::{Crc, DIGEST_BYTES};
use super::fault::Fault;
use super::parse::{Head, parse};
use super::pdu::{COMMON_BYTES, DATA_BYTES_MAX_LEAST, HEAD_BYTES_MAX, PduType, Role};
use super::value::{DataPdu, Pdu, Terms};

/// Where data have digests, a piece of them is at most so long: it is still in the nearest cache when it is copied.
pub const PIECE_BYTES_MAX: usize = 16 << 10;

/// The most data of one PDU that this end takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// With a command; zero if it takes none.
    pub capsule_data_bytes_max: u32,
    /// In one H2CData, as this end announced it in ICResp; in one C2HData, the host's largest transfer.
    pub data_bytes_max: u32,
}

impl Default for Limits {
    /// What every admin queue takes with a command (8 KiB), and the least that may be announced for other data.
    fn default() -> Self {
        Self { capsule_data_bytes_max: 8 << 10, data_bytes_max: DATA_BYTES_MAX_LEAST }
    }
}

/// The PDU that data belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// A command: the last one that came.
    CapsuleCmd {
        /// How many bytes of data it has.
        data_bytes: u32,
    },
    /// Data to a target.
    H2cData(DataPdu),
    /// Data to a host.
    C2hData(DataPdu),
}

impl Carrier {
    /// How many bytes of data it has.
    #[must_use]
    pub fn data_bytes(&self) -> u32 {
        match self {
            Self::CapsuleCmd { data_bytes } => *data_bytes,
            Self::H2cData(pdu) | Self::C2hData(pdu) => pdu.len_bytes,
        }
    }
}

/// What the digest of a PDU's data says about them. Wrong data cost their command, not the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// None was agreed on.
    Unchecked,
    /// They are what was sent.
    Right,
    /// They are not.
    Wrong {
        /// The digest that came.
        received: u32,
        /// The digest of what came.
        computed: u32,
    },
}

/// What came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A whole header, its digest checked. If data follow, their pieces come next, and then their end.
    Header(Pdu),
    /// Some data, in order and without gaps.
    Data {
        /// What they belong to.
        of: Carrier,
        /// Where in this PDU's data they belong, in bytes. To it comes the offset that the PDU names.
        offset: u32,
        /// A part of what was given to [`Receiver::next`].
        bytes: &'a [u8],
    },
    /// The data of a PDU have come.
    End {
        /// What they belong to.
        of: Carrier,
        /// Whether they are right.
        verdict: Verdict,
    },
}

/// How far [`Receiver::next`] got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step<'a> {
    /// So many of the bytes are used up.
    pub used: usize,
    /// What came with them. None: it wants more bytes, or, as [`Receiver::idle`] says, none.
    pub event: Option<Event<'a>>,
}

/// Why a receiver takes no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// The connection is being set up: [`Receiver::agree`] goes on.
    Agreement,
    /// The peer has given up.
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing of the next PDU came, and the header of the last one is still there.
    Between,
    /// In the common header.
    Common,
    /// In the rest of the header and its digest.
    Header(Layout),
    /// Before the data, so many bytes of padding are left.
    Padding(u8),
    /// In the data, so many bytes in.
    Data(u32),
    /// In the data's digest.
    Digest,
    /// Their end is still to be told.
    End(Verdict),
    Idle(Idle),
    Failed(Fault),
}

/// One direction of a connection, as its receiver sees it.
///
/// The owner gives it what has come and is not taken, does what the event says, takes what was used up, and does so again until
/// there is no event. It may stop before, and go on later: nothing is lost. After a fault the connection is at its end.
#[derive(Clone, Debug)]
pub struct Receiver {
    role: Role,
    phase: Phase,
    terms: Terms,
    limits: Limits,
    state: State,
    /// The header of the PDU that is coming, or of the one that came last.
    head: Head,
    head_have: usize,
    carrier: Carrier,
    crc: Crc,
    data_digest: bool,
    tail: [u8; DIGEST_BYTES as usize],
    tail_have: usize,
}

impl Receiver {
    /// A connection of which nothing has come, at its `role` end.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            phase: Phase::Opening,
            terms: Terms::default(),
            limits,
            state: State::Between,
            head: [0; HEAD_BYTES_MAX],
            head_have: 0,
            carrier: Carrier::CapsuleCmd { data_bytes: 0 },
            crc: Crc::default(),
            data_digest: false,
            tail: [0; DIGEST_BYTES as usize],
            tail_have: 0,
        }
    }

    /// Goes on after ICReq or ICResp came.
    ///
    /// # Panics
    /// If none came, or it was agreed already.
    pub fn agree(&mut self, terms: Terms) {
        assert!(self.state == State::Idle(Idle::Agreement), "a connection is agreed on once, when the peer has said its part");
        self.terms = terms;
        self.phase = Phase::Running;
        self.state = State::Between;
    }

    /// From the next PDU on other limits hold: an I/O queue takes less data with a command than an admin queue.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether it takes no bytes at the moment, and why.
    #[must_use]
    pub fn idle(&self) -> Option<Idle> {
        if let State::Idle(idle) = self.state { Some(idle) } else { None }
    }

    /// Whether a PDU has begun and not ended: then the rest has to come in time.
    #[must_use]
    pub fn midway(&self) -> bool {
        !matches!(self.state, State::Between | State::Idle(_) | State::Failed(_))
    }

    /// The header of the PDU that is coming or came last, as far as it came and without its digest: what a request to
    /// terminate sends back.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        let known = PduType::of(self.head[0]).map_or(COMMON_BYTES, |kind| usize::from(kind.header_bytes()));
        &self.head[..self.head_have.min(known)]
    }

    /// Looks at `bytes`, which follow those that were used up before.
    ///
    /// # Errors
    /// If the peer broke the protocol; the same from then on.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Fault> {
        let mut used = 0;
        loop {
            let left = &bytes[used..];
            let event = match self.state {
                State::End(verdict) => {
                    self.state = State::Between;
                    Some(Event::End { of: self.carrier, verdict })
                }
                State::Failed(fault) => return Err(fault),
                State::Idle(_) => return Ok(Step { used, event: None }),
                _ if left.is_empty() => return Ok(Step { used, event: None }),
                State::Between => {
                    self.head_have = 0;
                    self.state = State::Common;
                    None
                }
                State::Common => {
                    used += self.gather(left, COMMON_BYTES);
                    if self.head_have == COMMON_BYTES {
                        self.state = self.open().map_or_else(State::Failed, State::Header);
                    }
                    None
                }
                State::Header(layout) => {
                    used += self.gather(left, usize::from(layout.head_bytes));
                    if self.head_have == usize::from(layout.head_bytes) { self.read(layout) } else { None }
                }
                State::Padding(padding) => {
                    let skipped = u8::try_from(left.len()).map_or(padding, |left| left.min(padding));
                    used += usize::from(skipped);
                    self.state = if skipped < padding { State::Padding(padding - skipped) } else { State::Data(0) };
                    None
                }
                State::Data(offset) => {
                    let piece = self.data(offset, left);
                    used += piece.len();
                    Some(Event::Data { of: self.carrier, offset, bytes: piece })
                }
                State::Digest => {
                    used += self.digest(left);
                    None
                }
            };
            if event.is_some() {
                return Ok(Step { used, event });
            }
        }
    }

    /// Adds to the header until it has `want` bytes; says how many it took.
    fn gather(&mut self, bytes: &[u8], want: usize) -> usize {
        let count = bytes.len().min(want - self.head_have);
        self.head[self.head_have..self.head_have + count].copy_from_slice(&bytes[..count]);
        self.head_have += count;
        count
    }

    /// The common header is there.
    fn open(&self) -> Result<Layout, Fault> {
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = self.head;
        check([b0, b1, b2, b3, b4, b5, b6, b7], self.role, self.phase, &self.terms, &self.limits)
    }

    /// The header is there. A fault is told by the state.
    fn read(&mut self, layout: Layout) -> Option<Event<'static>> {
        match self.believe(&layout) {
            Ok(pdu) => {
                self.follow(&layout, &pdu);
                Some(Event::Header(pdu))
            }
            Err(fault) => {
                self.state = State::Failed(fault);
                None
            }
        }
    }

    /// The header's digest, then its fields.
    fn believe(&self, layout: &Layout) -> Result<Pdu, Fault> {
        let kind = layout.kind;
        if layout.header_digest {
            let (header, digest) = self.head[..self.head_have].split_at(usize::from(kind.header_bytes()));
            let received = u32::from_le_bytes(digest.try_into().expect("a header's digest has 4 bytes"));
            let computed = Crc::of(header);
            if received != computed {
                return Err(Fault::HeaderDigest { kind, received, computed });
            }
        }
        parse(kind, &self.head, layout.data_bytes, self.head_have)
    }

    /// What comes behind this header.
    fn follow(&mut self, layout: &Layout, pdu: &Pdu) {
        self.carrier = match pdu {
            Pdu::IcReq(_) | Pdu::IcResp(_) => {
                self.state = State::Idle(Idle::Agreement);
                return;
            }
            Pdu::Terminate(_) => {
                self.state = State::Idle(Idle::Over);
                return;
            }
            Pdu::CapsuleCmd { data_bytes: 0, .. } | Pdu::CapsuleResp { .. } | Pdu::R2t(_) => {
                self.state = State::Between;
                return;
            }
            Pdu::CapsuleCmd { data_bytes, .. } => Carrier::CapsuleCmd { data_bytes: *data_bytes },
            Pdu::H2cData(data) => Carrier::H2cData(*data),
            Pdu::C2hData(data) => Carrier::C2hData(*data),
        };
        self.data_digest = layout.data_digest;
        self.crc = Crc::default();
        self.tail_have = 0;
        self.state = if layout.padding_bytes > 0 { State::Padding(layout.padding_bytes) } else { State::Data(0) };
    }

    /// The next piece of data, from `offset` on.
    fn data<'a>(&mut self, offset: u32, bytes: &'a [u8]) -> &'a [u8] {
        let missing = self.carrier.data_bytes() - offset;
        let most = if self.data_digest { PIECE_BYTES_MAX } else { usize::MAX };
        let count = u32::try_from(bytes.len().min(most)).map_or(missing, |have| have.min(missing));
        let piece = &bytes[..usize::try_from(count).expect("it is at most the length of a slice")];
        if self.data_digest {
            self.crc.update(piece);
        }
        self.state = match (count == missing, self.data_digest) {
            (false, _) => State::Data(offset + count),
            (true, true) => State::Digest,
            (true, false) => State::End(Verdict::Unchecked),
        };
        piece
    }

    /// Adds to the data's digest; says how many bytes it took.
    fn digest(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.tail.len() - self.tail_have);
        self.tail[self.tail_have..self.tail_have + count].copy_from_slice(&bytes[..count]);
        self.tail_have += count;
        if self.tail_have == self.tail.len() {
            let (received, computed) = (u32::from_le_bytes(self.tail), self.crc.value());
            self.state = State::End(if received == computed { Verdict::Right } else { Verdict::Wrong { received, computed } });
        }
        count
    }
}
