//! What every kind of queue works with: its commands, buffers, and the way to the control side. Knows no opcode.

use std::sync::Arc;

use spinel_core::Instant;
use spinel_nvme::command::Direction;
use spinel_nvme::status::StatusField;

use super::super::control::Voice;
use super::super::options::Options;
use super::slots::{SlotId, Slots};
use crate::pool::{Account, Chain, SharedPool};

/// Buffers for a command whose data come.
pub(crate) struct Reserved {
    pub(crate) data: Chain,
    pub(crate) other: Option<Chain>,
}

pub(crate) struct Desk {
    pub(crate) slots: Slots,
    pub(crate) pool: SharedPool,
    pub(crate) account: Account,
    pub(crate) voice: Voice,
    pub(crate) options: Arc<Options>,
    /// The turn's time.
    pub(crate) now: Instant,
    /// How long requests have taken lately, in nanoseconds.
    pub(crate) usual_ns: u64,
}

impl Desk {
    /// Answers a command. Data go with it only to the host, and only if all went well.
    #[inline]
    pub(crate) fn answer(&mut self, id: SlotId, status: StatusField) {
        self.answer_with(id, status, 0);
    }

    /// The same with a result.
    #[inline]
    pub(crate) fn answer_with(&mut self, id: SlotId, status: StatusField, result: u64) {
        let slot = self.slots.get(id);
        if slot.data.is_some() && !(status.is_success() && slot.command.direction() == Direction::ToHost) || slot.other.is_some() {
            self.drop_buffers(id);
        }
        self.slots.finish(id, status, result);
    }

    #[inline(never)]
    fn drop_buffers(&mut self, id: SlotId) {
        let slot = self.slots.get_mut(id);
        let mut pool = self.pool.borrow_mut();
        for chain in [slot.data.take(), slot.other.take()].into_iter().flatten() {
            pool.give(&mut self.account, chain);
        }
    }

    /// Whether a command has buffers for so many bytes, now at least.
    #[inline]
    pub(crate) fn has_buffers(&mut self, id: SlotId, len_bytes: u32) -> bool {
        let slot = self.slots.get_mut(id);
        if slot.data.is_none() && len_bytes > 0 {
            slot.data = self.pool.borrow_mut().take(&mut self.account, len_bytes);
            return slot.data.is_some();
        }
        true
    }

    /// Buffers for the host's data and, beside them, for what they are compared with: all that the command will need, so
    /// that none holds some and waits for more.
    #[inline]
    pub(crate) fn reserve(&mut self, len_bytes: u32, twice: bool) -> Option<Reserved> {
        let mut pool = self.pool.borrow_mut();
        if twice {
            let [data, other] = pool.take_two(&mut self.account, len_bytes)?;
            return Some(Reserved { data, other: Some(other) });
        }
        pool.take(&mut self.account, len_bytes).map(|data| Reserved { data, other: None })
    }

    /// The same for a command whose data come with it: as long as they are not taken, nothing behind them comes.
    pub(crate) fn reserve_for_brought(&mut self, len_bytes: u32, twice: bool) -> Option<Reserved> {
        let taken = self.pool.borrow_mut().take_brought(&mut self.account, len_bytes, twice);
        taken.map(|(data, other)| Reserved { data, other })
    }

    /// Gives reserved buffers back that are not needed after all.
    #[cold]
    pub(crate) fn release(&mut self, reserved: Option<Reserved>) {
        let mut pool = self.pool.borrow_mut();
        for chain in reserved.into_iter().flat_map(|Reserved { data, other }| [Some(data), other]).flatten() {
            pool.give(&mut self.account, chain);
        }
    }

    /// Puts bytes where they go to the host from. What the host does not want is left out, and zeroes follow what there is.
    pub(crate) fn fill(&mut self, id: SlotId, bytes: &[u8]) {
        let Some(chain) = &self.slots.get(id).data else { return };
        let (pool, len) = (self.pool.borrow(), chain.len_bytes());
        let wanted = bytes.len().min(len as usize);
        pool.write(chain, 0, &bytes[..wanted]);
        let mut at = u32::try_from(wanted).expect("no longer than the chain");
        while at < len {
            const ZEROES: [u8; 512] = [0; 512];
            let here = (len - at).min(512);
            pool.write(chain, at, &ZEROES[..here as usize]);
            at += here;
        }
    }

    /// Bytes that came from the host.
    pub(crate) fn host_data(&self, id: SlotId) -> Vec<u8> {
        let Some(chain) = &self.slots.get(id).data else { return Vec::new() };
        let mut bytes = vec![0; chain.len_bytes() as usize];
        self.pool.borrow().read(chain, 0, &mut bytes);
        bytes
    }

    /// Lets a command wait for something that time brings.
    #[inline]
    pub(crate) fn park(&mut self, id: SlotId) {
        self.slots.get_mut(id).phase = super::slots::Phase::Waiting;
        self.slots.waiting.push_back(id);
    }
}
