//! Any bytes against a receiver, and what it must keep whatever they are: for fuzzers and tests. Knows no socket.

use super::build::{put_request, put_response};
use super::digest::Crc;
use super::fault::Fault;
use super::pdu::{Alignment, DATA_BYTES_MAX_LEAST, HEAD_BYTES_MAX, Role, SETUP_BYTES};
use super::receiver::{Carrier, Event, Idle, Limits, Receiver, Verdict};
use super::value::{IcReq, IcResp, Pdu, Terms};

/// What a receiver made of some bytes, wherever they were cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Headers.
    pub headers: u32,
    /// PDUs whose data came to their end.
    pub ends: u32,
    /// Of these, such with a wrong digest.
    pub wrong: u32,
    /// Bytes of data.
    pub data_bytes: u64,
    /// Bytes used up; zero after a fault, where it depends on the cuts.
    pub used: usize,
    /// Of all headers and data, as they came.
    pub crc: Crc,
    /// How it ended, if it did.
    pub fault: Option<Fault>,
}

/// What the first bytes of an input say: the role, the terms, and how the rest is cut.
#[derive(Clone, Copy, Debug)]
struct Setting {
    role: Role,
    set_up: bool,
    asked: IcReq,
    answered: IcResp,
    cut: usize,
}

/// Bytes at the beginning of an input that choose role, terms and cuts.
pub const SETTING_BYTES: usize = 4;

impl Setting {
    fn of(bytes: [u8; SETTING_BYTES]) -> Self {
        let [bits, hpda, cpda, cut] = bytes;
        let bit = |bit: u8| bits & (1 << bit) != 0;
        let alignment = |field: u8| Alignment::of(field % (Alignment::FIELD_MAX + 1)).unwrap_or_default();
        let (header_digest, data_digest) = (bit(1), bit(2));
        Self {
            role: if bit(0) { Role::Host } else { Role::Target },
            set_up: bit(3),
            asked: IcReq { alignment: alignment(hpda), header_digest, data_digest, r2ts_max_less_one: 0 },
            answered: IcResp { alignment: alignment(cpda), header_digest, data_digest, data_bytes_max: DATA_BYTES_MAX_LEAST },
            cut: usize::from(cut) + 1,
        }
    }

    /// The terms of this end after its peer said `pdu`.
    fn terms(&self, pdu: &Pdu) -> Result<Terms, Fault> {
        match pdu {
            Pdu::IcReq(asked) => Ok(Terms::of_target(asked, &self.answered)),
            Pdu::IcResp(answered) => Terms::of_host(&self.asked, answered),
            _ => panic!("only what sets up a connection asks for agreement"),
        }
    }
}

/// Gives `bytes` to a receiver in one piece, and again in many.
///
/// # Panics
/// If the receiver breaks its contract: it uses more than it was given, waits although it could go on, tells data that do not
/// follow one another or are not those it was given, tells different things of the same bytes, or forgets a fault.
#[must_use]
pub fn exercise(bytes: &[u8]) -> Summary {
    let Some((setting, stream)) = bytes.split_first_chunk() else {
        return Summary::default();
    };
    let setting = Setting::of(*setting);
    let whole = feed(&setting, stream, usize::MAX);
    let cut = feed(&setting, stream, setting.cut);
    assert_eq!(whole, cut, "cuts make a difference");
    whole
}

fn feed(setting: &Setting, stream: &[u8], cut: usize) -> Summary {
    let limits = Limits::default();
    let mut receiver = Receiver::new(setting.role, limits);
    let mut watch = Watch { summary: Summary::default(), open: None, limits };
    if setting.set_up {
        let mut opening = [0; HEAD_BYTES_MAX];
        let count = match setting.role {
            Role::Target => put_request(&setting.asked, &mut opening),
            Role::Host => put_response(&setting.answered, &mut opening),
        };
        assert_eq!(count, SETUP_BYTES);
        assert!(watch.pass(setting, &mut receiver, &opening[..count]), "the setting sets up the connection");
        watch.summary = Summary::default();
    }
    for piece in stream.chunks(cut) {
        if !watch.pass(setting, &mut receiver, piece) {
            break;
        }
    }
    watch.summary
}

/// Looks over a receiver's shoulder.
struct Watch {
    summary: Summary,
    /// The PDU whose data are coming, and how many came.
    open: Option<(Carrier, u32)>,
    limits: Limits,
}

impl Watch {
    /// One piece of the stream. False: nothing more is taken.
    fn pass(&mut self, setting: &Setting, receiver: &mut Receiver, piece: &[u8]) -> bool {
        let mut left = piece;
        loop {
            let step = match receiver.next(left) {
                Ok(step) => step,
                Err(fault) => {
                    assert_eq!(receiver.next(&[]), Err(fault), "a fault is not forgotten");
                    assert!(receiver.header().len() <= SETUP_BYTES);
                    self.summary = Summary { used: 0, fault: Some(fault), ..self.summary };
                    return false;
                }
            };
            self.summary.used += step.used;
            left = left.get(step.used..).expect("no more is used than was given");
            let Some(event) = step.event else {
                assert!(left.is_empty() || receiver.idle().is_some(), "it could go on");
                return receiver.idle() != Some(Idle::Over);
            };
            self.see(&event, receiver, piece);
            if let Event::Header(pdu) = &event
                && receiver.idle() == Some(Idle::Agreement)
            {
                match setting.terms(pdu) {
                    Ok(terms) => receiver.agree(terms),
                    Err(fault) => {
                        self.summary = Summary { used: 0, fault: Some(fault), ..self.summary };
                        return false;
                    }
                }
            }
        }
    }

    fn see(&mut self, event: &Event<'_>, receiver: &Receiver, piece: &[u8]) {
        match event {
            Event::Header(pdu) => {
                assert_eq!(self.open, None, "a header within data");
                self.summary.headers += 1;
                self.summary.crc.update(receiver.header());
                self.open = match pdu {
                    Pdu::CapsuleCmd { data_bytes: 0, .. } => None,
                    Pdu::CapsuleCmd { data_bytes, .. } => Some((Carrier::CapsuleCmd { data_bytes: *data_bytes }, 0)),
                    Pdu::H2cData(data) => Some((Carrier::H2cData(*data), 0)),
                    Pdu::C2hData(data) => Some((Carrier::C2hData(*data), 0)),
                    _ => None,
                };
                let most = self.limits.capsule_data_bytes_max.max(self.limits.data_bytes_max);
                assert!(self.open.is_none_or(|(of, _)| (1..=most).contains(&of.data_bytes())), "too many data are let in");
            }
            Event::Data { of, offset, bytes } => {
                let (open, have) = self.open.as_mut().expect("data without a header");
                assert_eq!((*open, *have), (*of, *offset), "data do not follow one another");
                assert!(!bytes.is_empty() && piece.as_ptr_range().contains(&bytes.as_ptr()), "data are lent");
                assert!(bytes.as_ptr_range().end <= piece.as_ptr_range().end, "data are lent");
                *have += u32::try_from(bytes.len()).expect("a piece is short");
                self.summary.data_bytes += u64::try_from(bytes.len()).expect("a length fits 64 bits");
                self.summary.crc.update(bytes);
            }
            Event::End { of, verdict } => {
                assert_eq!(self.open.take(), Some((*of, of.data_bytes())), "an end before the end");
                self.summary.ends += 1;
                self.summary.wrong += u32::from(matches!(verdict, Verdict::Wrong { .. }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_the_contract(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = exercise(&bytes);
        }

        #[test]
        fn nor_do_bytes_that_look_like_pdus(
            setting in any::<[u8; SETTING_BYTES]>(),
            pdus in proptest::collection::vec(
                (0u8..11, 0u8..16, prop_oneof![Just(24u8), Just(72), Just(128), any::<u8>()], any::<u8>(), 0u32..400, any::<u8>()),
                0..12,
            ),
        ) {
            let mut bytes = setting.to_vec();
            for (code, flags, header, offset, total, fill) in pdus {
                let from = bytes.len();
                bytes.extend([code, flags, header, offset]);
                bytes.extend(total.to_le_bytes());
                bytes.resize(from + usize::try_from(total).expect("a small number").max(8), fill);
            }
            let _ = exercise(&bytes);
        }
    }
}
