//! The 16 bytes of a completion (base 3.3.3.2). Knows no queue.

use std::fmt;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::halves;
use crate::status::{StatusCode, StatusField};

/// A completion queue entry.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Completion {
    result: U64,
    submission_head: U16,
    submission_queue: U16,
    id: U16,
    status: U16,
}

const _: () = assert!(size_of::<Completion>() == 16);

impl Completion {
    /// The command of this identifier ended so.
    #[must_use]
    #[inline]
    pub fn new(id: u16, status: StatusField) -> Self {
        Self {
            result: U64::ZERO,
            submission_head: U16::ZERO,
            submission_queue: U16::ZERO,
            id: id.into(),
            status: status.in_completion().into(),
        }
    }

    /// The same with a result: dword 0 is its lower half, dword 1 the upper.
    #[must_use]
    #[inline]
    pub fn with_result(self, result: u64) -> Self {
        Self { result: result.into(), ..self }
    }

    /// The same with the submission queue's head, which tells the host how far its entries are taken.
    #[must_use]
    #[inline]
    pub fn with_submission_head(self, head: u16) -> Self {
        Self { submission_head: head.into(), ..self }
    }

    /// The same from this submission queue. Reserved over fabrics.
    #[must_use]
    pub fn with_submission_queue(self, queue: u16) -> Self {
        Self { submission_queue: queue.into(), ..self }
    }

    /// Dwords 0 (the lower half) and 1.
    #[must_use]
    #[inline]
    pub fn result(&self) -> u64 {
        self.result.get()
    }

    /// Dword 0, where most commands have all of their result.
    #[must_use]
    pub fn dword_0(&self) -> u32 {
        halves(self.result.get()).0
    }

    /// How far the submission queue's entries are taken.
    #[must_use]
    pub fn submission_head(&self) -> u16 {
        self.submission_head.get()
    }

    /// Which submission queue; reserved over fabrics.
    #[must_use]
    pub fn submission_queue(&self) -> u16 {
        self.submission_queue.get()
    }

    /// The command's identifier.
    #[must_use]
    #[inline]
    pub fn id(&self) -> u16 {
        self.id.get()
    }

    /// How the command ended.
    #[must_use]
    #[inline]
    pub fn status(&self) -> StatusField {
        StatusField::of_completion(self.status.get())
    }

    /// The phase tag: over fabrics zero; in memory it turns with every round of the queue.
    #[must_use]
    #[inline]
    pub fn phase(&self) -> bool {
        self.status.get() & 1 != 0
    }

    /// What the command ended with, if it was not done.
    ///
    /// # Errors
    /// Its status.
    pub fn ok(&self) -> Result<u64, StatusField> {
        if self.status().is_success() { Ok(self.result()) } else { Err(self.status()) }
    }

    /// Whether it ended with this code.
    #[must_use]
    pub fn is(&self, code: StatusCode) -> bool {
        self.status().code() == code
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Completion id {:#06x}: {}, result {:#x}", self.id(), self.status(), self.result())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_lies_as_the_specification_draws_it() {
        let completion = Completion::new(0xbeef, StatusCode::INVALID_FIELD.permanent())
            .with_result(0x8877_6655_4433_2211)
            .with_submission_head(0x0102)
            .with_submission_queue(0x0304);
        let bytes = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x02, 0x01, 0x04, 0x03, 0xef, 0xbe, 0x04, 0x80];
        assert_eq!(completion.as_bytes(), bytes);
        let read = Completion::read_from_bytes(&bytes).unwrap();
        assert_eq!((read.result(), read.dword_0(), read.id()), (0x8877_6655_4433_2211, 0x4433_2211, 0xbeef));
        assert_eq!((read.submission_head(), read.submission_queue(), read.phase()), (0x0102, 0x0304, false));
        assert!(read.is(StatusCode::INVALID_FIELD) && read.ok() == Err(StatusCode::INVALID_FIELD.permanent()));
        assert_eq!(Completion::new(1, StatusField::SUCCESS).with_result(7).ok(), Ok(7));
    }
}
