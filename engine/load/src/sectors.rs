//! What every sector of an area may hold: eight bytes each while nothing is under way, a register otherwise. Knows no request.
//!
//! ```text
//! bit 63  a register has it; bits 0 to 31 say which       bits 58-56  kind of the value, below
//!     62  a read has returned the value                        55-0   the write's sequence, or a checksum
//!     61-60  what is beneath the value
//! ```
//! A word of zeroes is a sector that nobody has touched, so an untouched area costs
//! address space only.

use crate::register::{Beneath, Register, Settled, Value};

/// A sequence or a checksum has so many bits.
pub(crate) const PAYLOAD_BITS: u32 = 56;
const PAYLOAD: u64 = (1 << PAYLOAD_BITS) - 1;
const BUSY: u64 = 1 << 63;
const SEEN: u64 = 1 << 62;
const BENEATH_AT: u32 = 60;
const KIND_AT: u32 = 56;

const UNTOUCHED: u64 = 0;
const UNKNOWN: u64 = 1;
const ZEROES: u64 = 2;
const STAMP: u64 = 3;
const OTHER: u64 = 4;
const ANY: u64 = 5;

fn pack(settled: Settled) -> u64 {
    let Settled { value, sequence, seen, beneath } = settled;
    let (kind, payload) = match value {
        None => (UNKNOWN, 0),
        Some(Value::Zeroes) => (ZEROES, sequence),
        Some(Value::Stamp(sequence)) => (STAMP, sequence),
        Some(Value::Other(checksum)) => (OTHER, checksum),
        Some(Value::Any) => (ANY, sequence),
    };
    assert!(payload <= PAYLOAD, "sequences and checksums have {PAYLOAD_BITS} bits");
    let beneath = match beneath {
        Beneath::Stamp => 0,
        Beneath::Zeroes => 1,
        Beneath::Anything => 2,
    };
    payload | kind << KIND_AT | beneath << BENEATH_AT | if seen { SEEN } else { 0 }
}

fn unpack(word: u64, initial: Option<Value>) -> Settled {
    let payload = word & PAYLOAD;
    let (value, sequence) = match word >> KIND_AT & 7 {
        UNTOUCHED => return Settled::initial(initial),
        UNKNOWN => (None, 0),
        ZEROES => (Some(Value::Zeroes), payload),
        STAMP => (Some(Value::Stamp(payload)), payload),
        OTHER => (Some(Value::Other(payload)), 0),
        _ => (Some(Value::Any), payload),
    };
    let beneath = match word >> BENEATH_AT & 3 {
        0 => Beneath::Stamp,
        1 => Beneath::Zeroes,
        _ => Beneath::Anything,
    };
    Settled { value, sequence, seen: word & SEEN != 0, beneath }
}

/// What is known of one sector.
pub(crate) enum Sector<'a> {
    Quiet(Settled),
    Busy(&'a mut Register),
}

/// See the module's first lines.
#[derive(Debug)]
pub(crate) struct Sectors {
    words: Vec<u64>,
    /// What a sector holds that nobody has touched.
    initial: Option<Value>,
    registers: Vec<Register>,
    /// Registers that no sector has.
    free: Vec<u32>,
}

impl Sectors {
    pub(crate) fn new(count: usize, initial: Option<Value>) -> Self {
        Self { words: vec![0; count], initial, registers: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.words.len()
    }

    /// How many sectors have a register.
    pub(crate) fn busy(&self) -> usize {
        self.registers.len() - self.free.len()
    }

    fn register_index(word: u64) -> Option<usize> {
        (word & BUSY != 0).then(|| usize::try_from(word & u64::from(u32::MAX)).expect("32 bits"))
    }

    pub(crate) fn get(&mut self, index: usize) -> Sector<'_> {
        let word = self.words[index];
        match Self::register_index(word) {
            Some(register) => Sector::Busy(&mut self.registers[register]),
            None => Sector::Quiet(unpack(word, self.initial)),
        }
    }

    /// The register of a sector, which gets one if it has none.
    pub(crate) fn register(&mut self, index: usize) -> &mut Register {
        let word = self.words[index];
        let register = Self::register_index(word).unwrap_or_else(|| {
            let free = self.free.pop().unwrap_or_else(|| {
                self.registers.push(Register::new());
                u32::try_from(self.registers.len() - 1).expect("registers take memory for less than 32 bits of them")
            });
            self.words[index] = BUSY | u64::from(free);
            let register = usize::try_from(free).expect("32 bits");
            self.registers[register].reset(unpack(word, self.initial));
            register
        });
        &mut self.registers[register]
    }

    /// The sector is quiet from now on; its register is free for another.
    pub(crate) fn settle(&mut self, index: usize, settled: Settled) {
        if let Some(register) = Self::register_index(self.words[index]) {
            self.free.push(u32::try_from(register).expect("made from 32 bits"));
        }
        self.words[index] = pack(settled);
    }

    /// Every register that a sector has.
    pub(crate) fn each_register(&mut self, mut act: impl FnMut(&mut Register)) {
        // The free ones do not mind.
        self.registers.iter_mut().for_each(&mut act);
    }

    /// Whether something has happened in this sector.
    pub(crate) fn touched(&self, index: usize) -> bool {
        self.words[index] != 0
    }

    /// Whether `sequence` is one of the writes remembered here, and if so whether a read has returned it.
    pub(crate) fn knows(&self, index: usize, sequence: u64) -> Option<bool> {
        let word = self.words[index];
        match Self::register_index(word) {
            Some(register) => self.registers[register].knows(sequence),
            None => Some(unpack(word, self.initial)).filter(|settled| settled.sequence == sequence).map(|settled| settled.seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_survives_being_packed() {
        let values = [None, Some(Value::Zeroes), Some(Value::Stamp(7)), Some(Value::Other(PAYLOAD)), Some(Value::Any)];
        for value in values {
            let sequence = match value {
                None | Some(Value::Other(_)) => 0,
                _ => 7,
            };
            for seen in [false, true] {
                for beneath in [Beneath::Stamp, Beneath::Zeroes, Beneath::Anything] {
                    let settled = Settled { value, sequence, seen, beneath };
                    assert_eq!(unpack(pack(settled), Some(Value::Zeroes)), settled);
                }
            }
        }
        assert_eq!(unpack(0, Some(Value::Zeroes)), Settled::initial(Some(Value::Zeroes)));
    }

    #[test]
    fn a_register_goes_back_and_is_used_again() {
        let mut sectors = Sectors::new(1000, None);
        for index in 0..1000 {
            sectors.register(index);
            sectors.settle(index, Settled::initial(Some(Value::Zeroes)));
        }
        assert_eq!((sectors.registers.len(), sectors.busy()), (1, 0));
        assert!(matches!(sectors.get(3), Sector::Quiet(Settled { value: Some(Value::Zeroes), .. })));
    }
}
