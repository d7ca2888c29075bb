//! Submission entries for the steps of a request. Knows no queue.

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags};

use crate::files::Target;
use crate::slot::Step;

/// `BLOCK_URING_CMD_DISCARD` (linux/blkdev.h, `_IO(0x12, 0)`), since Linux 6.12.
const BLOCK_DISCARD: u32 = 0x1200;

/// Names the file of an entry the way its target does.
pub(crate) fn aimed(target: Target, entry: Entry) -> Entry {
    if target.registered { entry.flags(Flags::FIXED_FILE) } else { entry }
}

/// One stretch of memory for a transfer.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) address: *mut u8,
    pub(crate) len_bytes: u32,
    /// The registered buffer it lies in, if it does.
    pub(crate) registered: Option<u16>,
}

/// Flags of a write: through to the medium or not.
fn durability(fua: bool) -> i32 {
    if fua { libc::RWF_DSYNC } else { 0 }
}

/// A read or write of one stretch of memory.
pub(crate) fn transfer(target: Target, write: bool, fua: bool, offset: u64, buffer: Buffer) -> Entry {
    let Buffer { address, len_bytes, registered } = buffer;
    let fd = Fd(target.number);
    let entry = match (write, registered) {
        (false, None) => opcode::Read::new(fd, address, len_bytes).offset(offset).build(),
        (false, Some(index)) => opcode::ReadFixed::new(fd, address, len_bytes, index).offset(offset).build(),
        (true, None) => opcode::Write::new(fd, address, len_bytes).offset(offset).rw_flags(durability(fua)).build(),
        (true, Some(index)) => opcode::WriteFixed::new(fd, address, len_bytes, index).offset(offset).rw_flags(durability(fua)).build(),
    };
    aimed(target, entry)
}

/// A read or write of several stretches of memory.
pub(crate) fn vectored(target: Target, write: bool, fua: bool, offset: u64, buffers: &[libc::iovec]) -> Entry {
    let (first, count) = (buffers.as_ptr(), u32::try_from(buffers.len()).expect("at most a stride"));
    let fd = Fd(target.number);
    let entry = if write {
        opcode::Writev::new(fd, first, count).offset(offset).rw_flags(durability(fua)).build()
    } else {
        opcode::Readv::new(fd, first, count).offset(offset).build()
    };
    aimed(target, entry)
}

/// A step that moves no bytes of ours.
pub(crate) fn command(target: Target, step: Step, offset: u64, len_bytes: u64) -> Entry {
    let fd = Fd(target.number);
    let fallocate = |mode| opcode::Fallocate::new(fd, len_bytes).offset(offset).mode(mode).build();
    let entry = match step {
        Step::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        Step::Punch => fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
        Step::ZeroRange => fallocate(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE),
        Step::Trim => {
            // The block layer takes the start from `addr` and the length from `addr3`, where a command's own bytes begin.
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&len_bytes.to_ne_bytes());
            opcode::UringCmd16::new(fd, BLOCK_DISCARD).addr(Some(offset)).cmd(bytes).build()
        }
        Step::Read | Step::Write | Step::WriteZeroes => unreachable!("transfers have buffers"),
    };
    aimed(target, entry)
}
