//! A host's end of a connection that keeps an eye on the target: every answer belongs to a command, and no byte to anybody else.

use std::collections::BTreeMap;

use spinel_nvme::command::Command;
use spinel_nvme::completion::Completion;
use spinel_nvmf::tcp::{Alignment, Builder, Carrier, Crc, DataPdu, Event, IcReq, IcResp, Limits, Pdu, R2t, Receiver, Role, Terms};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::wire::HostEnd;

/// What the target announces in this fuzzer.
pub(crate) const DATA_BYTES_MAX: u32 = 16 << 10;

/// A command that was sent.
#[derive(Clone, Copy, Default)]
struct Count {
    sent: u32,
    answered: u32,
    /// Data that have come for it, and most that may.
    come_bytes: u64,
    room_bytes: u64,
}

/// One connection.
pub(crate) struct Peer {
    pub(crate) end: HostEnd,
    /// What the target receives, as it should.
    shadow: Receiver,
    asked: Option<IcReq>,
    receiver: Receiver,
    pub(crate) builder: Builder,
    pub(crate) digests: bool,
    counts: BTreeMap<u16, Count>,
    pub(crate) r2ts: Vec<R2t>,
    /// Answers in order, for whoever waits for one.
    pub(crate) answers: Vec<(u16, Completion)>,
    /// Data of the last command that brought any.
    pub(crate) data: Vec<u8>,
    pub(crate) over: bool,
    /// A word that nobody may see.
    secret: u64,
    next_id: u16,
    /// PDUs that came.
    pub(crate) seen: u64,
}

impl Peer {
    pub(crate) fn new(end: HostEnd, secret: u64) -> Self {
        let limits = Limits { capsule_data_bytes_max: 8 << 10, data_bytes_max: DATA_BYTES_MAX };
        let mine = Limits { capsule_data_bytes_max: 0, data_bytes_max: 1 << 20 };
        Self {
            end,
            shadow: Receiver::new(Role::Target, limits),
            asked: None,
            receiver: Receiver::new(Role::Host, mine),
            builder: Builder::new(Terms::default()),
            digests: false,
            counts: BTreeMap::new(),
            r2ts: Vec::new(),
            answers: Vec::new(),
            data: Vec::new(),
            over: false,
            secret,
            next_id: 0,
            seen: 0,
        }
    }

    /// Says bytes, whatever they are.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.end.send(bytes);
        let mut left = bytes;
        while let Ok(step) = self.shadow.next(left) {
            left = &left[step.used..];
            let Some(event) = step.event else { break };
            match event {
                Event::Header(Pdu::IcReq(asked)) => {
                    self.asked = Some(asked);
                    self.shadow.agree(Terms::of_target(&asked, &granted(&asked)));
                }
                Event::Header(Pdu::CapsuleCmd { command, .. }) => {
                    let command = Command::read_from_bytes(&command).expect("64 bytes");
                    let count = self.counts.entry(command.id()).or_default();
                    count.sent += 1;
                    count.room_bytes += u64::from(room(&command));
                }
                _ => {}
            }
        }
    }

    /// What was sent and answered is not counted any more.
    pub(crate) fn forget(&mut self) {
        self.counts.retain(|_, count| count.sent > count.answered);
        self.answers.clear();
    }

    pub(crate) fn fresh_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// A PDU as was agreed on: a head that is put there, data, and their digest, which may be spoilt.
    pub(crate) fn pdu(&self, put: impl FnOnce(&Builder, &mut [u8]) -> usize, data: &[u8], spoilt: bool) -> Vec<u8> {
        let mut head = [0; 160];
        let len = put(&self.builder, &mut head);
        let mut tail = [0; 4];
        let mut tail_len = 0;
        if !data.is_empty() {
            let mut crc = Crc::default();
            crc.update(data);
            if spoilt {
                crc.update(b"?");
            }
            tail_len = self.builder.put_tail(&crc, &mut tail);
        }
        [&head[..len], data, &tail[..tail_len]].concat()
    }

    pub(crate) fn command(&self, command: &Command, data: &[u8], spoilt: bool) -> Vec<u8> {
        let bytes = command.as_bytes().try_into().expect("64 bytes");
        let len = u32::try_from(data.len()).expect("short");
        self.pdu(|builder, head| builder.put_command(bytes, len, head), data, spoilt)
    }

    /// Looks at what has come.
    pub(crate) fn look(&mut self) {
        let bytes = self.end.receive();
        let mut left = &bytes[..];
        loop {
            if self.over {
                assert!(left.is_empty(), "nothing comes behind a request to terminate");
                return;
            }
            let step = self.receiver.next(left).expect("a target keeps the rules");
            left = &left[step.used..];
            let Some(event) = step.event else { break };
            match event {
                Event::Header(pdu) => {
                    self.seen += 1;
                    self.header(pdu);
                }
                Event::Data { of: Carrier::C2hData(data), offset, bytes } => {
                    if data.offset + offset == 0 {
                        self.data.clear();
                    }
                    self.data.extend_from_slice(bytes);
                    let count = self.counts.get_mut(&data.command_id).expect("looked at with its header");
                    count.come_bytes += bytes.len() as u64;
                    assert!(count.come_bytes <= count.room_bytes, "more data than there is room for");
                }
                Event::Data { .. } => unreachable!("only C2HData bring data to a host"),
                Event::End { of, verdict } => {
                    assert!(!matches!(verdict, spinel_nvmf::tcp::Verdict::Wrong { .. }), "a target's digests are right");
                    let told = self.data.chunks_exact(8).any(|word| word == self.secret.to_le_bytes());
                    assert!(!told, "somebody else's data");
                    if let Carrier::C2hData(DataPdu { command_id, success: true, .. }) = of {
                        self.answered(Completion::new(command_id, spinel_nvme::status::StatusField::SUCCESS));
                    }
                }
            }
        }
    }

    fn header(&mut self, pdu: Pdu) {
        match pdu {
            Pdu::IcResp(answered) => {
                let asked = self.asked.expect("nobody asked");
                assert_eq!(answered, granted(&asked));
                let terms = Terms::of_host(&asked, &answered).expect("no more digests than were asked for");
                self.receiver.agree(terms);
                self.builder = Builder::new(terms);
                self.digests = asked.data_digest;
            }
            Pdu::CapsuleResp { completion } => self.answered(Completion::read_from_bytes(&completion).expect("16 bytes")),
            Pdu::R2t(r2t) => {
                let count = self.counts.get(&r2t.command_id).expect("a command that was sent");
                assert!(count.sent > count.answered && r2t.transfer_tag != 0, "{r2t:?}");
                self.r2ts.push(r2t);
            }
            Pdu::C2hData(data) => {
                let count = self.counts.get(&data.command_id).expect("a command that was sent");
                assert!(count.sent > count.answered, "data of a command that was answered");
            }
            Pdu::Terminate(_) => self.over = true,
            Pdu::IcReq(_) | Pdu::CapsuleCmd { .. } | Pdu::H2cData(_) => unreachable!("they go the other way"),
        }
    }

    fn answered(&mut self, completion: Completion) {
        let count = self.counts.get_mut(&completion.id()).expect("a command that was sent");
        count.answered += 1;
        assert!(count.answered <= count.sent, "a command is answered once");
        self.answers.push((completion.id(), completion));
    }
}

/// What a target grants whoever asks for this.
fn granted(asked: &IcReq) -> IcResp {
    IcResp {
        alignment: Alignment::default(),
        header_digest: asked.header_digest,
        data_digest: asked.data_digest,
        data_bytes_max: DATA_BYTES_MAX,
    }
}

/// How much a command lets come.
fn room(command: &Command) -> u32 {
    match command.data().place() {
        spinel_nvme::sgl::Place::Transport { len_bytes } => len_bytes,
        _ => 0,
    }
}
