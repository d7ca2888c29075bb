//! Commands about reservations, as a queue takes them: their bytes. Knows no rule of reservations.

use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::status::{StatusCode, StatusField};

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
        if command.dword(11) & 1 == 0 {
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

/// How much a report is asked for: dwords, less one.
fn report_bytes(command: &Command) -> u32 {
    command.dword(10).saturating_add(1).saturating_mul(4)
}

/// A report with extended entries (base 2.0, Reservation Status Extended). Controllers of other hosts are not named.
fn report(reservations: &Reservations, host: &HostId, cntlid: u16) -> Vec<u8> {
    let registrants = reservations.registrants();
    let count = u16::try_from(registrants.len()).expect("registrants are few");
    let mut report = vec![0; 64];
    report[..4].copy_from_slice(&reservations.generation().to_le_bytes());
    report[4] = reservations.kind().map_or(0, Kind::code);
    report[5..7].copy_from_slice(&count.to_le_bytes());
    report[9] = u8::from(reservations.persists());
    for registrant in registrants {
        let mut entry = [0; 64];
        let controller = if registrant.host == *host { cntlid } else { 0xffff };
        entry[..2].copy_from_slice(&controller.to_le_bytes());
        entry[2] = u8::from(reservations.holds(&registrant.host));
        entry[8..16].copy_from_slice(&registrant.key.to_le_bytes());
        entry[16..32].copy_from_slice(&registrant.host.0);
        report.extend_from_slice(&entry);
    }
    report
}

/// What a command asks for; none if it makes no sense.
fn act(command: &Command, data: &[u8]) -> Option<Act> {
    let key = |at: usize| data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let dword = command.dword(10);
    let (action, ignore_key) = (dword & 7, dword & 1 << 3 != 0);
    let kind = u8::try_from(dword >> 8 & 0xff).ok().and_then(Kind::of);
    Some(match IoOpcode::of(command.opcode())? {
        IoOpcode::ReservationRegister => {
            let action = match action {
                0 => RegisterAction::Register,
                1 => RegisterAction::Unregister,
                2 => RegisterAction::Replace,
                _ => return None,
            };
            let persist = match dword >> 30 {
                0 => None,
                2 => Some(false),
                3 => Some(true),
                _ => return None,
            };
            Act::Register { action, ignore_key, current: key(0)?, new: key(8)?, persist }
        }
        // Ignoring the key is reserved for registering.
        _ if ignore_key => return None,
        IoOpcode::ReservationAcquire => {
            let action = match action {
                0 => AcquireAction::Acquire,
                1 | 2 => AcquireAction::Preempt { key: key(8)? },
                _ => return None,
            };
            Act::Acquire { action, current: key(0)?, kind: kind? }
        }
        IoOpcode::ReservationRelease => match action {
            0 => Act::Release { current: key(0)?, kind: Some(kind?) },
            1 => Act::Release { current: key(0)?, kind: None },
            _ => return None,
        },
        _ => return None,
    })
}
