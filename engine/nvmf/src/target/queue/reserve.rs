//! Commands about reservations, as a queue takes them: their bytes. Knows no rule of reservations.

use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::reservation::{
    self as codes, Acquire, AcquireData, PersistChange, REPORT_HEAD_EXTENDED_BYTES, Register, RegisterData, RegistrantExtended, Release,
    ReleaseAction, ReleaseData, Report, ReportHead, ReservationType,
};
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::super::note::{ReserveError, Said};
use super::super::reservation::{AcquireAction, Act, HostId, Kind, Refusal, RegisterAction, Reservations};
use super::desk::Desk;
use super::io::Io;
use super::ranges;
use super::slots::{Phase, SlotId};

/// Bytes of the data of Reservation Register and Acquire.
const KEYS_BYTES: u32 = 16;
/// Of Reservation Release.
const KEY_BYTES: u32 = 8;
/// Stands for a host that has no controller here, as far as this one knows.
const NO_CONTROLLER: u16 = 0xffff;
/// The most that Reservation Report answers.
const REPORT_BYTES_MAX: u32 = 64 * 1024;

impl Io {
    /// Whether a command of an unusual kind has the data it needs.
    ///
    /// # Errors
    /// What it is answered with.
    pub(super) fn check_other(&self, desk: &Desk, command: &Command, opcode: IoOpcode, len_bytes: u32) -> Result<(), StatusField> {
        let exactly = |bytes| if len_bytes == bytes { Ok(()) } else { Err(StatusCode::SGL_LENGTH_INVALID.permanent()) };
        match opcode {
            IoOpcode::DatasetManagement => {
                ranges::check(command, len_bytes)?;
                self.gate_write(command.nsid())
            }
            IoOpcode::ReservationRegister | IoOpcode::ReservationAcquire => exactly(KEYS_BYTES),
            IoOpcode::ReservationRelease => exactly(KEY_BYTES),
            IoOpcode::ReservationReport if len_bytes > desk.options.transfer_bytes.min(REPORT_BYTES_MAX) => {
                Err(StatusCode::INVALID_FIELD.permanent())
            }
            IoOpcode::ReservationReport => exactly(report_bytes(command)),
            _ => Err(StatusCode::INVALID_OPCODE.permanent()),
        }
    }

    /// Does what a command about reservations says.
    pub(super) fn run_reservation(&mut self, desk: &mut Desk, id: SlotId) {
        let command = desk.slots.get(id).command;
        if command.opcode() == IoOpcode::ReservationReport.code() {
            return self.run_report(desk, id, &command);
        }
        match act(&command, &desk.host_data(id)) {
            Some(act) => {
                desk.slots.get_mut(id).phase = Phase::Away;
                desk.voice.say(Said::Reserve { token: id.tag().0, nsid: command.nsid(), act });
            }
            None => self.end(desk, id, StatusCode::INVALID_FIELD.permanent()),
        }
    }

    /// The control side has changed reservations, or has not.
    pub(crate) fn reserved(&mut self, desk: &mut Desk, token: u32, result: Result<(), ReserveError>) {
        let id = super::io::slot_of(spinel_core::Tag(token));
        let status = match result {
            Ok(()) => StatusField::SUCCESS,
            Err(ReserveError::Refused(Refusal::Conflict)) => StatusCode::RESERVATION_CONFLICT.permanent(),
            Err(ReserveError::Refused(Refusal::Invalid)) => StatusCode::INVALID_FIELD.permanent(),
            Err(ReserveError::NoNamespace) => StatusCode::INVALID_NAMESPACE.permanent(),
            Err(ReserveError::NotSaved) => StatusCode::INTERNAL.permanent(),
        };
        if desk.slots.get(id).phase == Phase::Away {
            self.end(desk, id, status);
        }
    }

    fn run_report(&mut self, desk: &mut Desk, id: SlotId, command: &Command) {
        // Hosts of fabrics have identifiers of 128 bits, which only extended entries show.
        if !Report::of(command).extended {
            return self.end(desk, id, StatusCode::HOST_ID_INCONSISTENT.permanent());
        }
        if !desk.has_buffers(id, report_bytes(command)) {
            return desk.park(id);
        }
        let (visitor, cntlid) = self.visitor();
        let host = visitor.host_id;
        let Some(namespace) = self.view().namespace(command.nsid()) else {
            return self.end(desk, id, StatusCode::INVALID_NAMESPACE.permanent());
        };
        let report = report(&namespace.reservations, &host, cntlid);
        desk.fill(id, &report);
        self.end(desk, id, StatusField::SUCCESS);
    }
}

/// How much a report is asked for.
fn report_bytes(command: &Command) -> u32 {
    u32::try_from(Report::of(command).len_bytes()).unwrap_or(u32::MAX)
}

/// A report with extended entries. Controllers of other hosts are not named.
fn report(reservations: &Reservations, host: &HostId, cntlid: u16) -> Vec<u8> {
    let registrants = reservations.registrants();
    let count = u16::try_from(registrants.len()).expect("registrants are few");
    let kind = reservations.kind().and_then(|kind| ReservationType::of(kind.code()));
    let mut report = ReportHead::new(reservations.generation(), kind, count, reservations.persists()).as_bytes().to_vec();
    report.resize(REPORT_HEAD_EXTENDED_BYTES, 0);
    for registrant in registrants {
        let controller = if registrant.host == *host { cntlid } else { NO_CONTROLLER };
        let holds = reservations.holds(&registrant.host);
        report.extend_from_slice(RegistrantExtended::new(controller, holds, registrant.host.0, registrant.key).as_bytes());
    }
    report
}

/// What a command asks for; none if it makes no sense.
fn act(command: &Command, data: &[u8]) -> Option<Act> {
    let kind = |kind: Option<ReservationType>| kind.and_then(|kind| Kind::of(kind.code()));
    Some(match IoOpcode::of(command.opcode())? {
        IoOpcode::ReservationRegister => {
            let (asked, keys) = (Register::of(command), RegisterData::read_from_bytes(data).ok()?);
            let action = match asked.action? {
                codes::RegisterAction::Register => RegisterAction::Register,
                codes::RegisterAction::Unregister => RegisterAction::Unregister,
                codes::RegisterAction::Replace => RegisterAction::Replace,
            };
            let persist = match asked.persist? {
                PersistChange::Keep => None,
                PersistChange::Clear => Some(false),
                PersistChange::Set => Some(true),
            };
            Act::Register { action, ignore_key: asked.ignore_key, current: keys.current.get(), new: keys.new.get(), persist }
        }
        IoOpcode::ReservationAcquire => {
            let (asked, keys) = (Acquire::of(command), AcquireData::read_from_bytes(data).ok()?);
            let action = match asked.action? {
                codes::AcquireAction::Acquire => AcquireAction::Acquire,
                codes::AcquireAction::Preempt | codes::AcquireAction::PreemptAndAbort => {
                    AcquireAction::Preempt { key: keys.preempted.get() }
                }
            };
            // Ignoring the key is for registering only.
            (!asked.ignore_key).then_some(Act::Acquire { action, current: keys.current.get(), kind: kind(asked.kind)? })?
        }
        IoOpcode::ReservationRelease => {
            let (asked, key) = (Release::of(command), ReleaseData::read_from_bytes(data).ok()?);
            let released = match asked.action? {
                ReleaseAction::Release => Some(kind(asked.kind)?),
                ReleaseAction::Clear => None,
            };
            (!asked.ignore_key).then_some(Act::Release { current: key.current.get(), kind: released })?
        }
        _ => return None,
    })
}
