//! Ranges of blocks that are not needed any more (Dataset Management). Knows no device.

use spinel_core::Lba;
use spinel_nvme::command::Command;
use spinel_nvme::dsm::{DatasetManagement, Range};
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::desk::Desk;
use super::slots::SlotId;

/// What some hosts send, however many ranges there are in it.
const PAGE_BYTES: u32 = 4096;

/// Whether the data of a command are as long as its ranges.
///
/// # Errors
/// What it is answered with.
pub(super) fn check(command: &Command, len_bytes: u32) -> Result<(), StatusField> {
    let fits = len_bytes == DatasetManagement::of(command).len_bytes() || len_bytes == PAGE_BYTES;
    if fits { Ok(()) } else { Err(StatusCode::SGL_LENGTH_INVALID.permanent()) }
}

/// The next range that is to be given back, if there is another; `step` of the command is where it is.
pub(super) fn next(desk: &mut Desk, id: SlotId) -> Option<(Lba, u32)> {
    let slot = desk.slots.get(id);
    let DatasetManagement { ranges, deallocate } = DatasetManagement::of(&slot.command);
    let mut step = slot.step;
    let mut found = None;
    if deallocate && let Some(chain) = &slot.data {
        let pool = desk.pool.borrow();
        while step < u32::from(ranges) && found.is_none() {
            let mut range = Range::new_zeroed();
            pool.read(chain, step * 16, range.as_mut_bytes());
            if range.blocks() > 0 {
                found = Some((Lba(range.start()), range.blocks()));
            } else {
                step += 1;
            }
        }
    }
    desk.slots.get_mut(id).step = step;
    found
}
