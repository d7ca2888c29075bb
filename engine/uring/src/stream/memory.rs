//! Memory that a stream shares with the kernel: mapped whole at opening. Knows nothing of what lies in it.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A private mapping, zeroed, populated page by page when first touched.
pub(crate) struct Memory {
    base: NonNull<c_void>,
    len_bytes: usize,
}

impl Memory {
    pub(crate) fn new(len_bytes: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose, so no existing mapping is replaced.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len_bytes, protection, MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
        // What peers send must not end up in a core dump, nor in a forked child; neither is fatal.
        for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
            // SAFETY: the advice concerns only the mapping just made.
            let _ = unsafe { madvise(base, len_bytes, advice) };
        }
        Ok(Self { base: NonNull::new(base).expect("mmap never returns null"), len_bytes })
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The first of `len_bytes` bytes from `offset`.
    ///
    /// # Panics
    /// If they do not all lie inside.
    pub(crate) fn at(&self, offset: usize, len_bytes: usize) -> NonNull<c_void> {
        assert!(offset.checked_add(len_bytes).is_some_and(|end| end <= self.len_bytes), "offsets are our own");
        // SAFETY: the offset was just checked.
        unsafe { self.base.byte_add(offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the owner is going, and with it whoever had pointers.
        let unmapped = unsafe { munmap(self.base.as_ptr(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping goes as a whole: {unmapped:?}");
    }
}
