//! Data of one transfer, in order and to the end: what was asked for by an R2T, and what a command brings back. Knows no
//! buffer and no queue.

use super::fault::Fault;
use super::pdu::PduType;
use super::value::{DataPdu, R2t};

/// Data that an R2T asked for, as far as they have come (NVMe/TCP 1.0, section 3.3.2.1). The owner finds it by the transfer tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    command_id: u16,
    next: u32,
    left: u32,
}

impl Asked {
    /// Nothing has come of what it asks for.
    #[must_use]
    pub fn new(r2t: &R2t) -> Self {
        Self { command_id: r2t.command_id, next: r2t.offset, left: r2t.len_bytes }
    }

    /// Counts the data of this header. They lie within what was asked for, and begin where the last ones ended. True: they are
    /// the last.
    ///
    /// # Errors
    /// If they are not what comes next.
    pub fn expect(&mut self, data: &DataPdu) -> Result<bool, Fault> {
        let kind = PduType::H2cData;
        if data.command_id != self.command_id {
            return Err(Fault::UnknownCommand { kind, command_id: data.command_id });
        }
        advance(kind, data, &mut self.next, &mut self.left)
    }
}

/// Data that a command brings back, as far as they have come (section 3.3.2.2). The owner finds it by the command's identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Returned {
    next: u32,
    left: u32,
}

impl Returned {
    /// A command that brings back at most so many bytes.
    #[must_use]
    pub fn new(len_bytes: u32) -> Self {
        Self { next: 0, left: len_bytes }
    }

    /// Counts the data of this header. They begin where the last ones ended, and do not exceed the command's. True: they are
    /// the last, which they may be before the command's end.
    ///
    /// # Errors
    /// If they are not what comes next.
    pub fn expect(&mut self, data: &DataPdu) -> Result<bool, Fault> {
        let kind = PduType::C2hData;
        if data.last && data.len_bytes < self.left {
            let mut left = data.len_bytes;
            advance(kind, data, &mut self.next, &mut left)?;
            self.left = 0;
            return Ok(true);
        }
        advance(kind, data, &mut self.next, &mut self.left)
    }

    /// How many bytes have come.
    #[must_use]
    pub fn come_bytes(&self) -> u32 {
        self.next
    }
}

fn advance(kind: PduType, data: &DataPdu, next: &mut u32, left: &mut u32) -> Result<bool, Fault> {
    if data.offset != *next {
        return Err(Fault::WrongOffset { kind, given: data.offset, expected: *next });
    }
    if data.len_bytes > *left {
        return Err(Fault::OutOfRange { kind, offset: data.offset, len_bytes: data.len_bytes });
    }
    if data.last != (data.len_bytes == *left) {
        return Err(Fault::WrongLast { kind, given: data.last });
    }
    *next += data.len_bytes;
    *left -= data.len_bytes;
    Ok(data.last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(offset: u32, len_bytes: u32, last: bool) -> DataPdu {
        DataPdu { command_id: 7, transfer_tag: 0, offset, len_bytes, last, success: false }
    }

    fn asked() -> Asked {
        Asked::new(&R2t { command_id: 7, transfer_tag: 1, offset: 1000, len_bytes: 100 })
    }

    #[test]
    fn what_was_asked_for_comes_in_order_and_once() {
        let mut transfer = asked();
        assert_eq!(transfer.expect(&data(1000, 60, false)), Ok(false));
        assert_eq!(transfer.expect(&data(1060, 40, true)), Ok(true));
        let more = transfer.expect(&data(1100, 1, true));
        assert_eq!(more, Err(Fault::OutOfRange { kind: PduType::H2cData, offset: 1100, len_bytes: 1 }));
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let kind = PduType::H2cData;
        for (data, fault, status, info) in [
            (DataPdu { command_id: 8, ..data(1000, 100, true) }, Fault::UnknownCommand { kind, command_id: 8 }, 1, 8),
            (data(0, 100, true), Fault::WrongOffset { kind, given: 0, expected: 1000 }, 1, 12),
            (data(999, 100, true), Fault::WrongOffset { kind, given: 999, expected: 1000 }, 1, 12),
            (data(1004, 96, true), Fault::WrongOffset { kind, given: 1004, expected: 1000 }, 1, 12),
            (data(1000, 101, true), Fault::OutOfRange { kind, offset: 1000, len_bytes: 101 }, 4, 0),
            (data(1000, 99, true), Fault::WrongLast { kind, given: true }, 1, 1),
            (data(1000, 100, false), Fault::WrongLast { kind, given: false }, 1, 1),
        ] {
            let mut transfer = asked();
            assert_eq!(transfer.expect(&data), Err(fault));
            assert_eq!((fault.status().code(), fault.info()), (status, info));
            assert_eq!(transfer, asked(), "what is refused does not count");
        }
    }

    #[test]
    fn a_command_brings_back_no_more_than_it_was_given_room_for() {
        let kind = PduType::C2hData;
        let mut back = Returned::new(100);
        assert_eq!(back.expect(&data(0, 60, false)), Ok(false));
        assert_eq!(back.expect(&data(0, 40, true)), Err(Fault::WrongOffset { kind, given: 0, expected: 60 }));
        assert_eq!(back.expect(&data(60, 41, true)), Err(Fault::OutOfRange { kind, offset: 60, len_bytes: 41 }));
        assert_eq!(back.expect(&data(60, 40, false)), Err(Fault::WrongLast { kind, given: false }));
        assert_eq!(back.expect(&data(60, 40, true)), Ok(true));
        assert_eq!(back.come_bytes(), 100);
    }

    #[test]
    fn a_command_may_bring_back_less() {
        let mut back = Returned::new(100);
        assert_eq!(back.expect(&data(0, 60, true)), Ok(true));
        assert_eq!(back.come_bytes(), 60);
        assert!(back.expect(&data(60, 1, true)).is_err(), "the last data were the last");
    }
}
