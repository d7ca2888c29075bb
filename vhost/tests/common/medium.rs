//! A disk's medium in memory, of which every sector is written as a whole or not at all, whenever its writer is killed. Knows no request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use spinel_core::mem::{Array, Region};

pub(crate) const SECTOR_BYTES: usize = 512;
pub(crate) type Sector = [u8; SECTOR_BYTES];

/// Bytes of one sector: two places, and the word that says which of them counts.
const SHARE_BYTES: u64 = 2 * 512 + 4;

/// Disks promise that about sectors, and file systems and guests rely on it. A copy that ends
/// in the middle keeps no such promise: so what is written comes to the place that does not
/// count, and one store makes it the one that does. One thread writes.
pub(crate) struct Medium {
    places: Arc<Region>,
    /// By sector, the place that counts: 0 or 1.
    counts: Array<u32>,
}

impl Medium {
    /// Bytes that a medium of so many sectors takes.
    pub(crate) const fn bytes(sectors: u64) -> u64 {
        SHARE_BYTES * sectors
    }

    /// As large as the region lets it be. A region of zeroes is one of sectors of zeroes.
    pub(crate) fn over(region: &Arc<Region>) -> Self {
        let sectors = region.len_bytes() / SHARE_BYTES;
        let counts = region.array((SHARE_BYTES - 4) * sectors, u32::try_from(sectors).unwrap()).unwrap();
        Self { places: Arc::clone(region), counts }
    }

    /// Of zeroes, and for this process alone.
    pub(crate) fn anonymous(sectors: u64) -> Self {
        Self::over(&Region::anonymous(Self::bytes(sectors)).unwrap())
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.counts.count().into()
    }

    fn offset(&self, number: u64, place: u32) -> u64 {
        (2 * number + u64::from(place)) * 512
    }

    fn counts(&self, number: u64) -> u32 {
        self.counts.load(u32::try_from(number).unwrap(), Ordering::Acquire)
    }

    pub(crate) fn read(&self, number: u64) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        self.places.read(self.offset(number, self.counts(number)), &mut sector).unwrap();
        sector
    }

    pub(crate) fn write(&self, number: u64, sector: &Sector) {
        let spare = self.prepare(number, sector);
        self.counts.store(u32::try_from(number).unwrap(), spare, Ordering::Release);
    }

    /// All of a write but what makes it count, which is to store the place that is returned.
    pub(crate) fn prepare(&self, number: u64, sector: &Sector) -> u32 {
        let spare = 1 - self.counts(number);
        self.places.write(self.offset(number, spare), sector).unwrap();
        spare
    }
}
