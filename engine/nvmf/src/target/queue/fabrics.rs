//! The commands by which a host connects a queue, reads and writes a controller's properties, and leaves. Knows no namespace.

use spinel_nvme::fabrics::{Authentication, Connect, ConnectBlame, ConnectData, Connected, FabricsType, connect_offset};
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::FromBytes as _;

use super::super::admin::Admin;
use super::super::note::{Admission, ConnectRefusal, ConnectRequest, Parameter, Said, Standing};
use super::super::reservation::HostId;
use super::super::view::Scene;
use super::attached::Visitor;
use super::io::Io;
use super::slots::{Phase, SlotId};
use super::{Queue, Role, State};
use crate::nqn::Nqn;

/// The longest message of a proof.
const PROOF_BYTES_MAX: u32 = 16 << 10;

/// A queue that the control side looks into.
pub(super) struct Asking {
    slot: SlotId,
    request: ConnectRequest,
    keep_alive_ms: u32,
}

impl Queue {
    /// Whether a command of fabrics may come now.
    pub(super) fn check_fabrics(&self, id: SlotId) -> Result<(), StatusField> {
        let slot = self.desk.slots.get(id);
        let kind = FabricsType::of(slot.command.fabrics_type()).ok_or(StatusCode::INVALID_FIELD.permanent())?;
        let sequence = Err(StatusCode::SEQUENCE.permanent());
        match (kind, &self.role) {
            (FabricsType::Connect, Role::Stranger) if slot.len_bytes == ConnectData::LEN_BYTES => Ok(()),
            (FabricsType::Connect, Role::Stranger) => Err(StatusCode::SGL_LENGTH_INVALID.permanent()),
            (FabricsType::AuthenticationSend | FabricsType::AuthenticationReceive, Role::Admin(_) | Role::Io(_)) if self.proves => {
                let envelope = Authentication::of(&slot.command);
                let fits = envelope.is_nvme() && envelope.len_bytes == slot.len_bytes && slot.len_bytes <= PROOF_BYTES_MAX;
                if fits { Ok(()) } else { Err(StatusCode::INVALID_FIELD.permanent()) }
            }
            (FabricsType::PropertyGet | FabricsType::PropertySet, Role::Admin(_)) if self.unproven => {
                Err(StatusCode::AUTHENTICATION_REQUIRED.permanent())
            }
            (FabricsType::PropertyGet | FabricsType::PropertySet, Role::Admin(_)) | (FabricsType::Disconnect, Role::Io(_)) => Ok(()),
            (FabricsType::PropertyGet | FabricsType::PropertySet, Role::Io(_)) => Err(StatusCode::INVALID_FIELD.permanent()),
            (FabricsType::Disconnect, Role::Admin(_)) => Err(StatusCode::QUEUE_TYPE_INVALID.permanent()),
            _ => sequence,
        }
    }

    /// Does what a command of fabrics says.
    pub(super) fn run_fabrics(&mut self, id: SlotId) {
        let command = self.desk.slots.get(id).command;
        match (FabricsType::of(command.fabrics_type()), &mut self.role) {
            (Some(FabricsType::Connect), _) => self.ask(id),
            (Some(FabricsType::Disconnect), _) => {
                self.desk.answer(id, StatusField::SUCCESS);
                self.state = State::Leaving;
            }
            (Some(FabricsType::AuthenticationSend), _) => {
                let (token, message) = (id.tag().0, self.desk.host_data(id));
                self.desk.slots.get_mut(id).phase = Phase::Away;
                self.desk.voice.say(Said::TakeProof { token, message });
            }
            (Some(FabricsType::AuthenticationReceive), _) => {
                let (token, room_bytes) = (id.tag().0, self.desk.slots.get(id).len_bytes);
                // Buffers first, so that a message that was given has where to go.
                if !self.desk.has_buffers(id, room_bytes) {
                    return self.desk.park(id);
                }
                self.desk.slots.get_mut(id).phase = Phase::Away;
                self.desk.voice.say(Said::GiveProof { token, room_bytes });
            }
            (Some(FabricsType::PropertyGet), Role::Admin(admin)) => admin.get_property(&mut self.desk, id),
            (Some(FabricsType::PropertySet), Role::Admin(admin)) => admin.set_property(&mut self.desk, id),
            _ => self.desk.answer(id, StatusCode::SEQUENCE.permanent()),
        }
    }

    /// Asks the control side for what a host wants to connect to.
    fn ask(&mut self, id: SlotId) {
        let connect = Connect::of(&self.desk.slots.get(id).command);
        let bytes = self.desk.host_data(id);
        match request(&connect, &bytes) {
            Ok(request) => {
                self.desk.slots.get_mut(id).phase = Phase::Away;
                self.desk.voice.say(Said::Connect(Box::new(request.clone())));
                self.role = Role::Asking(Box::new(Asking { slot: id, request, keep_alive_ms: connect.keep_alive_ms }));
            }
            Err((status, result)) => self.desk.answer_with(id, status, result),
        }
    }

    /// The control side has looked at a host's message, or has made one; none if there was no room for it.
    pub(super) fn proved(&mut self, token: u32, message: Option<&[u8]>, standing: Standing) {
        let id = SlotId(u16::try_from(token).expect("tokens of this queue are slots"));
        if self.desk.slots.get(id).phase != Phase::Away {
            return;
        }
        let status = if message.is_some() { StatusField::SUCCESS } else { StatusCode::INVALID_FIELD.permanent() };
        self.desk.fill(id, message.unwrap_or_default());
        self.desk.answer(id, status);
        match standing {
            Standing::Pending => {}
            Standing::Proven => {
                self.unproven = false;
                if let Role::Admin(admin) = &mut self.role {
                    admin.hear(self.desk.now);
                }
            }
            Standing::Failed => {
                self.unproven = true;
                self.state = State::Leaving;
            }
        }
    }

    /// The control side has decided.
    pub(super) fn connected(&mut self, result: Result<Box<Admission>, ConnectRefusal>) {
        let Role::Asking(asking) = std::mem::replace(&mut self.role, Role::Stranger) else { return };
        let Asking { slot, request, keep_alive_ms } = *asking;
        let admission = match result {
            Ok(admission) => admission,
            Err(refusal) => {
                let (status, result) = refuse(refusal);
                return self.desk.answer_with(slot, status, result);
            }
        };
        let Admission { cntlid, port, arrived, scene, authenticate } = *admission;
        (self.proves, self.unproven) = (authenticate, authenticate);
        let entries = u16::try_from(request.entries).expect("the control side has looked at it");
        self.desk.slots.resize(entries);
        let visitor = Visitor { host: request.host, host_id: request.host_id, port, arrived };
        self.role = match scene {
            Scene::Storage(view) if request.qid > 0 => Role::Io(Box::new(Io::new(view, visitor, cntlid, entries))),
            scene => Role::Admin(Box::new(Admin::new(&self.desk, scene, visitor, cntlid, keep_alive_ms))),
        };
        let result = Connected { controller: cntlid, authenticate, authenticate_secured: false }.result();
        self.desk.answer_with(slot, StatusField::SUCCESS, result);
    }
}

fn blame_command(offset: u16) -> (StatusField, u64) {
    (StatusCode::CONNECT_PARAMETERS.permanent(), ConnectBlame { offset, in_data: false }.result())
}

fn blame_data(offset: u16) -> (StatusField, u64) {
    (StatusCode::CONNECT_PARAMETERS.permanent(), ConnectBlame { offset, in_data: true }.result())
}

/// What a host asks for, if it can be asked for at all.
fn request(connect: &Connect, bytes: &[u8]) -> Result<ConnectRequest, (StatusField, u64)> {
    if connect.format != 0 {
        return Err((StatusCode::CONNECT_FORMAT.permanent(), 0));
    }
    let data = ConnectData::read_from_bytes(bytes).map_err(|_| (StatusCode::SGL_LENGTH_INVALID.permanent(), 0))?;
    let subsystem = Nqn::of_field(&data.subsystem).map_err(|_| blame_data(ConnectData::SUBSYSTEM_OFFSET))?;
    let host = Nqn::of_field(&data.host).map_err(|_| blame_data(ConnectData::HOST_OFFSET))?;
    if data.host_id == [0; 16] {
        return Err(blame_data(0));
    }
    Ok(ConnectRequest {
        qid: connect.queue,
        cntlid: data.controller.get(),
        entries: u32::from(connect.size_less_one) + 1,
        host_id: HostId(data.host_id),
        host,
        subsystem,
    })
}

/// Status and result of a Connect that is refused.
fn refuse(refusal: ConnectRefusal) -> (StatusField, u64) {
    match refusal {
        ConnectRefusal::Parameter(Parameter::QueueId) => blame_command(connect_offset::QUEUE),
        ConnectRefusal::Parameter(Parameter::QueueSize) => blame_command(connect_offset::SIZE),
        ConnectRefusal::Parameter(Parameter::HostId) => blame_data(0),
        ConnectRefusal::Parameter(Parameter::ControllerId) => blame_data(ConnectData::CONTROLLER_OFFSET),
        ConnectRefusal::Parameter(Parameter::SubsystemName) => blame_data(ConnectData::SUBSYSTEM_OFFSET),
        ConnectRefusal::Parameter(Parameter::HostName) => blame_data(ConnectData::HOST_OFFSET),
        ConnectRefusal::Host => (StatusCode::CONNECT_HOST.permanent(), 0),
        ConnectRefusal::Busy => (StatusCode::CONNECT_BUSY.retriable(), 0),
        ConnectRefusal::Sequence => (StatusCode::SEQUENCE.permanent(), 0),
    }
}
