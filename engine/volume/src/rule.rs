//! What is injected for one kind of request, and how many are left. Knows no request.

use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is not done, and ends with [`Status::Medium`](spinel_core::Status::Medium).
    Failure,
    /// It is not done until [`ErrorDevice::resume_pending`](crate::ErrorDevice::resume_pending).
    Pending,
    /// It is done, but one byte of its data comes out changed.
    Corrupt {
        /// The byte's place in the request. A request that ends before it is done faithfully, and counts.
        offset: u64,
        /// What the byte is exclusive-ored with; not 0.
        value: u8,
    },
    /// It is not done, and ends with [`Status::Capacity`](spinel_core::Status::Capacity): a submitter that retries such a request will see it done.
    NoMemory,
    /// A write is done at other blocks of the device, further on, and acknowledged. One that covers the whole device is not taken.
    MisdirectWrite,
    /// A write is not done, and acknowledged.
    LoseWrite,
    /// The first part of a write is done, and all of it acknowledged. Of a single block the part is sectors of 512 bytes, of more it is blocks; a write of 512 bytes is not taken.
    TearWrite,
    /// A read returns what blocks held before the last write to them, although another has returned what was written: a first
    /// one that did would be a write lost. While it is injected, the old content of writes is kept, of at most 64 KiB each, 8
    /// by a channel and 64 in all; of a channel's reads those are taken that meet one of them, once a read has covered it.
    StaleRead,
}

impl Fault {
    /// Whether only writes can suffer it.
    pub(crate) fn is_of_writes(self) -> bool {
        matches!(self, Self::MisdirectWrite | Self::LoseWrite | Self::TearWrite)
    }
}

const FAILURE: u64 = 0;
const PENDING: u64 = 1;
const NO_MEMORY: u64 = 2;
const CORRUPT: u64 = 3;
const MISDIRECT_WRITE: u64 = 4;
const LOSE_WRITE: u64 = 5;
const TEAR_WRITE: u64 = 6;
const STALE_READ: u64 = 7;

/// What is injected for one kind of request: replaced by control threads, counted down by all cores.
///
/// The ticket's upper half changes with every replacement and its lower half is what is
/// left to do. A core takes one by exchanging the whole ticket after it has read the
/// fields: if they were replaced meanwhile, the exchange fails.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    ticket: AtomicU64,
    fault: AtomicU64,
    offset: AtomicU64,
    queue_depth: AtomicU64,
}

const LEFT_MASK: u64 = 0xffff_ffff;

impl Rule {
    /// Replaces the rule. Control threads take turns.
    pub(crate) fn set(&self, fault: Fault, count: u32, queue_depth: u64) {
        let generation = (self.ticket.load(Ordering::Relaxed) | LEFT_MASK).wrapping_add(1);
        self.ticket.store(generation, Ordering::Release);
        let (code, offset) = match fault {
            Fault::Failure => (FAILURE, 0),
            Fault::Pending => (PENDING, 0),
            Fault::NoMemory => (NO_MEMORY, 0),
            Fault::MisdirectWrite => (MISDIRECT_WRITE, 0),
            Fault::LoseWrite => (LOSE_WRITE, 0),
            Fault::TearWrite => (TEAR_WRITE, 0),
            Fault::StaleRead => (STALE_READ, 0),
            Fault::Corrupt { offset, value } => (CORRUPT | u64::from(value) << 8, offset),
        };
        self.fault.store(code, Ordering::Release);
        self.offset.store(offset, Ordering::Release);
        self.queue_depth.store(queue_depth, Ordering::Release);
        self.ticket.store(generation | u64::from(count), Ordering::Release);
    }

    fn fault(&self) -> Fault {
        let [code, value, ..] = self.fault.load(Ordering::Acquire).to_le_bytes();
        match u64::from(code) {
            FAILURE => Fault::Failure,
            PENDING => Fault::Pending,
            NO_MEMORY => Fault::NoMemory,
            MISDIRECT_WRITE => Fault::MisdirectWrite,
            LOSE_WRITE => Fault::LoseWrite,
            TEAR_WRITE => Fault::TearWrite,
            STALE_READ => Fault::StaleRead,
            _ => Fault::Corrupt { offset: self.offset.load(Ordering::Acquire), value },
        }
    }

    /// What a request would suffer that finds `below` requests with the child, and the ticket to claim that with.
    fn look(&self, below: u64) -> Option<(u64, Fault)> {
        let ticket = self.ticket.load(Ordering::Acquire);
        let matches = ticket & LEFT_MASK > 0 && below >= self.queue_depth.load(Ordering::Acquire);
        matches.then(|| (ticket, self.fault()))
    }

    /// Takes one of what is left, unless anything has changed since the look at it.
    fn claim(&self, ticket: u64) -> bool {
        self.ticket.compare_exchange(ticket, ticket - 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether this fault is injected, and not used up.
    pub(crate) fn is(&self, wanted: Fault) -> bool {
        self.look(u64::MAX).is_some_and(|(_, fault)| fault == wanted)
    }

    /// What a request suffers that `can` suffer it. Another core's success is the only thing that makes it look again.
    pub(crate) fn take(&self, below: u64, mut can: impl FnMut(Fault) -> bool) -> Option<Fault> {
        loop {
            let (ticket, fault) = self.look(below)?;
            if !can(fault) {
                return None;
            }
            if self.claim(ticket) {
                return Some(fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_count_is_exact_over_all_cores() {
        const COUNT: u32 = 10_000;
        let rule = Rule::default();
        let stop = AtomicBool::new(false);
        let take = || {
            let mut taken = 0_u32;
            loop {
                let last_round = stop.load(Ordering::Acquire);
                while rule.take(0, |_| true).is_some() {
                    taken += 1;
                }
                if last_round {
                    return taken;
                }
            }
        };
        let taken: u32 = std::thread::scope(|scope| {
            let takers = [scope.spawn(take), scope.spawn(take), scope.spawn(take)];
            for _ in 0..20 {
                rule.set(Fault::Failure, COUNT, 0);
                while rule.look(0).is_some() {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Release);
            takers.map(|taker| taker.join().unwrap()).iter().sum()
        });
        assert_eq!(taken, 20 * COUNT);
    }

    #[test]
    fn a_look_at_a_rule_that_is_replaced_before_the_claim_is_void() {
        let rule = Rule::default();
        let fault = |value| Fault::Corrupt { offset: u64::from(value), value };
        for value in 1..=9 {
            rule.set(fault(value), 1, 0);
            let (ticket, seen) = rule.look(0).unwrap();
            assert_eq!(seen, fault(value));
            rule.set(fault(value + 1), 1, 0);
            assert!(!rule.claim(ticket), "the look saw what is no longer injected");
            let take = || rule.take(0, |_| true);
            assert_eq!((rule.take(0, |_| false), take(), take()), (None, Some(fault(value + 1)), None));
        }
    }
}
