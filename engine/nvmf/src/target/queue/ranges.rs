//! Ranges of blocks that are not needed any more (Dataset Management). Knows no device.

use spinel_core::Lba;
use spinel_nvme::command::Command;
use spinel_nvme::status::{StatusCode, StatusField};

use super::desk::Desk;
use super::slots::SlotId;

/// Bytes of one range.
const RANGE_BYTES: u32 = 16;

/// How many ranges a command has.
pub(super) fn count(command: &Command) -> u32 {
    (command.dword(10) & 0xff) + 1
}

/// Whether the data of a command are as long as its ranges.
///
/// # Errors
/// What it is answered with.
pub(super) fn check(command: &Command, len_bytes: u32) -> Result<(), StatusField> {
    let fits = len_bytes == count(command) * RANGE_BYTES;
    // Hosts may send the whole page.
    let page = len_bytes == 4096;
    if fits || page { Ok(()) } else { Err(StatusCode::SGL_LENGTH_INVALID.permanent()) }
}

/// The next range that is to be given back, if there is another; `step` of the command is where it is.
pub(super) fn next(desk: &mut Desk, id: SlotId) -> Option<(Lba, u32)> {
    let slot = desk.slots.get(id);
    let deallocates = slot.command.dword(11) & 1 << 2 != 0;
    let (count, mut step) = (count(&slot.command), slot.step);
    let mut found = None;
    if deallocates && let Some(chain) = &slot.data {
        let pool = desk.pool.borrow();
        while step < count && found.is_none() {
            let mut range = [0; RANGE_BYTES as usize];
            pool.read(chain, step * RANGE_BYTES, &mut range);
            let [_, _, _, _, a, b, c, d, start @ ..] = range;
            let (blocks, start) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(start));
            if blocks > 0 {
                found = Some((Lba(start), blocks));
            } else {
                step += 1;
            }
        }
    }
    desk.slots.get_mut(id).step = step;
    found
}
