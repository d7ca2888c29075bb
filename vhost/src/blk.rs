//! virtio-blk requests (virtio 1.2, 5.2): from untrusted chains to checked requests, and the configuration space. Knows no ring layout.

use std::sync::Arc;

use spinel_core::mem::{GuestMap, Look, Segment, Spot};
use spinel_core::{Device, Geometry, Lba, Meters, Op, Status};

use crate::ring::{Descriptor, RingFault, Usual};

/// A disk as vhost serves it.
pub struct Disk {
    /// The block device's name; its first 20 bytes are the answer to VIRTIO_BLK_T_GET_ID.
    pub serial: String,
    /// The device itself.
    pub device: Arc<dyn Device>,
    /// Where each queue's counts are gathered.
    pub meters: Arc<Meters>,
    /// Whether the guest may only read, whatever the device allows.
    pub read_only: bool,
}

/// The negotiated features that change what a request may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkFeatures {
    /// VIRTIO_BLK_F_FLUSH: the driver knows how to flush; without it every write must be stable when it completes.
    pub flush: bool,
    /// VIRTIO_BLK_F_DISCARD.
    pub discard: bool,
    /// VIRTIO_BLK_F_WRITE_ZEROES.
    pub write_zeroes: bool,
}

impl BlkFeatures {
    /// The part of the negotiated feature bits that concerns requests.
    #[must_use]
    pub fn negotiated(bits: u64) -> Self {
        Self { flush: bits & feature::FLUSH != 0, discard: bits & feature::DISCARD != 0, write_zeroes: bits & feature::WRITE_ZEROES != 0 }
    }
}

/// virtio feature bits of a block device (virtio 1.2, 5.2.3).
pub mod feature {
    /// `size_max` is valid.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub const READ_ONLY: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The device can flush.
    pub const FLUSH: u64 = 1 << 9;
    /// The topology fields are valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The driver may switch the write cache.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// There is more than one queue.
    pub const MQ: u64 = 1 << 12;
    /// The device can discard.
    pub const DISCARD: u64 = 1 << 13;
    /// The device can write zeroes.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Bytes of a virtio sector, whatever the disk's blocks are (virtio 1.2, 5.2.4).
const SECTOR_BYTES: u32 = 512;
/// Most sectors of one discard or write-zeroes request: 1 GiB.
const RANGE_SECTORS_MAX: u32 = 1 << 21;
/// Bytes of the configuration space up to and with the write-zeroes fields.
pub const CONFIG_BYTES: usize = 60;
/// Where the writeback byte lies in it.
pub const CONFIG_WRITEBACK: usize = 32;

/// What the disk offers, as virtio feature bits (device-specific ones only).
#[must_use]
pub fn features(disk: &Disk, queues: u16) -> u64 {
    let geometry = disk.device.geometry();
    let mut bits = feature::SIZE_MAX | feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY;
    bits |= feature::FLUSH | feature::CONFIG_WCE;
    let writable = !(disk.read_only || geometry.read_only);
    for (offered, bit) in [
        (!writable, feature::READ_ONLY),
        (queues > 1, feature::MQ),
        (writable && geometry.features.discard, feature::DISCARD),
        (writable && geometry.features.write_zeroes, feature::WRITE_ZEROES),
    ] {
        bits |= if offered { bit } else { 0 };
    }
    bits
}

/// The configuration space (virtio 1.2, 5.2.4), little-endian, as of now.
#[must_use]
pub fn config(disk: &Disk, queues: u16, writeback: bool) -> [u8; CONFIG_BYTES] {
    let geometry = disk.device.geometry();
    let physical_sectors = (geometry.physical_block_bytes / SECTOR_BYTES).max(1);
    let range_max = RANGE_SECTORS_MAX.to_le_bytes();
    let mut space = [0; CONFIG_BYTES];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(geometry.len_bytes() / u64::from(SECTOR_BYTES)).to_le_bytes());
    put(8, &geometry.transfer_max_bytes.to_le_bytes());
    // Header and status take a descriptor each; a driver that fills a 128-entry ring then just fits.
    put(12, &u32::from(geometry.segments_max.saturating_sub(2).max(1)).to_le_bytes());
    put(20, &geometry.block_bytes.to_le_bytes());
    let exponent = (geometry.physical_block_bytes / geometry.block_bytes).checked_ilog2().unwrap_or(0);
    put(24, &[u8::try_from(exponent).unwrap_or(0)]);
    put(26, &1_u16.to_le_bytes());
    put(CONFIG_WRITEBACK, &[u8::from(writeback)]);
    put(34, &queues.to_le_bytes());
    if geometry.features.discard {
        put(36, &range_max);
        put(40, &1_u32.to_le_bytes());
        put(44, &physical_sectors.to_le_bytes());
    }
    if geometry.features.write_zeroes {
        put(48, &range_max);
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
    }
    space
}

/// The status byte of a request that succeeded (virtio 1.2, 5.2.6).
pub(crate) const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const IN: u64 = T_IN as u64;
const OUT: u64 = T_OUT as u64;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
const ID_BYTES: u32 = 20;

/// What a guest is told about how its request ended.
pub(crate) fn status_byte(status: Status) -> u8 {
    match status {
        Status::Ok => S_OK,
        Status::Unsupported => S_UNSUPP,
        Status::Medium | Status::Aborted | Status::Capacity | Status::Range | Status::Protected | Status::Malformed => S_IOERR,
    }
}

/// The buffers of one chain: the header's bytes, the data as segments in a reused space, and where the status goes.
#[derive(Debug)]
pub(crate) struct Chain {
    header: [u64; 2],
    segments: Vec<Segment>,
    /// How many of the segments the device only reads; they come first.
    readable: usize,
    status: Option<Spot>,
    overflow: bool,
}

const HEADER_BYTES: u32 = 16;

impl Chain {
    /// Where the status byte goes.
    #[inline]
    pub(crate) fn status(&self) -> Spot {
        self.status.expect("gather found it or failed")
    }

    /// The data that the device may write.
    pub(crate) fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }

    /// Space for `segments_max` data segments, and a few seams between memory regions.
    pub(crate) fn new(segments_max: u16) -> Self {
        let segments = Vec::with_capacity(usize::from(segments_max) + 8);
        Self { header: [0; 2], segments, readable: 0, status: None, overflow: false }
    }

    /// Reads a chain's buffers: 16 readable bytes of header, data, one writable byte of status.
    #[inline]
    pub(crate) fn gather(&mut self, head: u16, chain: &[[u64; 2]], guest: &GuestMap) -> Result<(), RingFault> {
        self.segments.clear();
        self.readable = 0;
        self.overflow = false;
        if let [first, data @ .., last] = chain {
            let (first, last) = (Descriptor(*first), Descriptor(*last));
            let ordinary = first.len_bytes() == HEADER_BYTES && !first.writable() && last.len_bytes() == 1 && last.writable();
            if ordinary && guest.load(first.address(), std::slice::from_mut(&mut self.header)).is_ok() {
                for raw in data {
                    self.add(head, Descriptor(*raw), guest)?;
                }
                return guest.segments(last.address(), 1, |segment| self.status = segment.first()).map_err(RingFault::Memory);
            }
        }
        self.gather_any(head, chain, guest)
    }

    #[inline(always)]
    fn add(&mut self, head: u16, buffer: Descriptor, guest: &GuestMap) -> Result<(), RingFault> {
        // Readable buffers come before writable ones (virtio 1.2, 2.7.4.2).
        if !buffer.writable() && self.segments.len() > self.readable {
            return Err(RingFault::Order(head));
        }
        if buffer.len_bytes() == 0 {
            return Ok(());
        }
        let each = |segment| {
            if self.segments.len() == self.segments.capacity() {
                self.overflow = true;
                // The last one is kept in any case: its end may be the status.
                self.segments.pop();
            }
            self.segments.push(segment);
        };
        guest.segments(buffer.address(), buffer.len_bytes(), each).map_err(RingFault::Memory)?;
        if !buffer.writable() {
            self.readable = self.segments.len();
        }
        Ok(())
    }

    /// Any other cut: drivers need not give header and status buffers of their own (virtio 1.2, 2.7.4.4).
    #[cold]
    fn gather_any(&mut self, head: u16, chain: &[[u64; 2]], guest: &GuestMap) -> Result<(), RingFault> {
        let mut bytes = [0; HEADER_BYTES as usize];
        let mut filled: u32 = 0;
        for raw in chain {
            let mut buffer = Descriptor(*raw);
            if filled < HEADER_BYTES {
                if buffer.writable() {
                    return Err(RingFault::NoHeader(head));
                }
                let here = buffer.len_bytes().min(HEADER_BYTES - filled);
                let into = &mut bytes[filled as usize..(filled + here) as usize];
                guest.load(buffer.address(), into).map_err(RingFault::Memory)?;
                filled += here;
                buffer = buffer.without_first(here);
            }
            self.add(head, buffer, guest)?;
        }
        if filled < HEADER_BYTES {
            return Err(RingFault::NoHeader(head));
        }
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        self.header = [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)];
        let last = self.segments[self.readable..].last_mut().ok_or(RingFault::NoStatus(head))?;
        let (data, status) = last.split_at(last.len_bytes() - 1);
        self.status = status.first();
        if data.len_bytes() == 0 {
            self.segments.pop();
        } else {
            *last = data;
        }
        Ok(())
    }

    /// The request type and the sector.
    fn header(&self) -> (u32, u64) {
        let [a, b, c, d, ..] = u64::from_le(self.header[0]).to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]), u64::from_le(self.header[1]))
    }
}

/// What a chain asks for.
#[derive(Debug)]
pub(crate) enum Asked<'a> {
    /// A request for the device.
    Submit { op: Op, start: Lba, blocks: u32, segments: &'a [Segment] },
    /// Nothing for the device: the answer is known.
    Answer { status: u8, written_bytes: u32 },
}

/// The circumstances under which a request is judged; fixed while a queue runs, but for `stable_writes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) features: BlkFeatures,
    pub(crate) block_bytes: u32,
    /// Its power of two.
    block_shift: u32,
    /// Most blocks whose bytes have 32 bits, and are less than those can count.
    blocks_max: u32,
    /// Sectors per block, as a power of two.
    sectors_shift: u32,
    /// The bits of a sector's number that say where in a block it lies.
    sector_in_block: u64,
    pub(crate) segments_max: u16,
    pub(crate) read_only: bool,
    /// Whether a write must be on the medium before it completes.
    pub(crate) stable_writes: bool,
}

impl Terms {
    pub(crate) fn new(disk: &Disk, geometry: &Geometry, features: BlkFeatures) -> Self {
        Self {
            features,
            block_bytes: geometry.block_bytes,
            block_shift: geometry.block_bytes.ilog2(),
            blocks_max: u32::MAX / geometry.block_bytes,
            sectors_shift: (geometry.block_bytes / SECTOR_BYTES).ilog2(),
            sector_in_block: u64::from(geometry.block_bytes / SECTOR_BYTES) - 1,
            segments_max: geometry.segments_max,
            read_only: disk.read_only || geometry.read_only,
            stable_writes: false,
        }
    }

    /// What a usual chain does whose buffer the device writes, or reads; nothing if it may not.
    #[inline(always)]
    pub(crate) fn op(&self, writable: bool) -> Option<Op> {
        match writable {
            true => Some(Op::Read),
            false if self.read_only => None,
            false => Some(Op::Write { fua: self.stable_writes }),
        }
    }

    fn blocks(&self, sector: u64, sectors: u64) -> Option<(Lba, u32)> {
        let blocks = u32::try_from(sectors >> self.sectors_shift).ok()?;
        ((sector | sectors) & self.sector_in_block == 0).then_some((Lba(sector >> self.sectors_shift), blocks))
    }
}

const FAILED: Asked<'static> = Asked::Answer { status: S_IOERR, written_bytes: 1 };
const UNSUPPORTED: Asked<'static> = Asked::Answer { status: S_UNSUPP, written_bytes: 1 };

/// Turns a chain into a request. Whatever is wrong with the request alone is answered, not punished.
#[inline]
pub(crate) fn parse<'a>(chain: &'a Chain, guest: &GuestMap, terms: &Terms, serial: &str) -> Asked<'a> {
    let (kind, sector) = chain.header();
    let (readable, writable) = chain.segments.split_at(chain.readable);
    if chain.overflow {
        return FAILED;
    }
    match kind {
        T_IN => transfer(Op::Read, sector, writable, terms),
        T_OUT if terms.read_only => FAILED,
        T_OUT => transfer(Op::Write { fua: terms.stable_writes }, sector, readable, terms),
        T_FLUSH => Asked::Submit { op: Op::Flush, start: Lba(0), blocks: 0, segments: &[] },
        T_GET_ID => identify(guest, writable, serial),
        T_DISCARD if terms.features.discard && !terms.read_only => range(false, guest, readable, terms),
        T_WRITE_ZEROES if terms.features.write_zeroes && !terms.read_only => range(true, guest, readable, terms),
        _ => UNSUPPORTED,
    }
}

/// What a usual chain has beside its buffer, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// Guest-physical address of the header.
    pub(crate) header: u64,
    pub(crate) status: Spot,
    /// Whether the device writes the buffer.
    pub(crate) writable: bool,
}

/// A usual chain's parts and its buffer, if they can be seen.
#[inline(always)]
pub(crate) fn parts_of(chain: &Usual, guest: impl Look) -> Option<(Parts, Segment)> {
    let data = guest.segment(chain.data, chain.len_bytes)?;
    let status = guest.spot(chain.status)?;
    Some((Parts { header: chain.header, status, writable: chain.writable }, data))
}

/// Which blocks a usual chain, with a buffer of so many bytes, reads or writes, if it is one that does `op` and can be given to
/// the device as it is. `None` leaves the judgement to [`parse`].
#[inline(always)]
pub(crate) fn blocks_of(parts: &Parts, len_bytes: u32, op: Op, guest: impl Look, terms: &Terms) -> Option<(Lba, u32)> {
    let wanted = if op == Op::Read { (IN, true) } else { (OUT, false) };
    let [kind, sector] = guest.words::<2>(parts.header)?;
    if (kind & u64::from(u32::MAX), parts.writable) != wanted {
        return None;
    }
    // Bytes beyond whole blocks become the highest bits, no blocks at all the highest number.
    let blocks = len_bytes.rotate_right(terms.block_shift);
    if blocks.wrapping_sub(1) >= terms.blocks_max {
        return None;
    }
    // So do sectors beyond whole blocks: no device has such a block, and it says so.
    Some((Lba(sector.rotate_right(terms.sectors_shift)), blocks))
}

#[inline]
fn transfer<'a>(op: Op, sector: u64, segments: &'a [Segment], terms: &Terms) -> Asked<'a> {
    let len_bytes: u64 = segments.iter().map(|segment| u64::from(segment.len_bytes())).sum();
    let whole = len_bytes.is_multiple_of(u64::from(SECTOR_BYTES)) && segments.len() <= usize::from(terms.segments_max);
    // The used length has 32 bits and also counts the status byte.
    match terms.blocks(sector, len_bytes / u64::from(SECTOR_BYTES)) {
        Some((start, blocks)) if whole && blocks > 0 && len_bytes < u64::from(u32::MAX) => Asked::Submit { op, start, blocks, segments },
        _ => FAILED,
    }
}

/// Discard and write zeroes carry their range in a payload: sector, count, flags (virtio 1.2, 5.2.6). One range at a time, as the configuration says.
fn range(zeroes: bool, guest: &GuestMap, payload: &[Segment], terms: &Terms) -> Asked<'static> {
    let [only] = payload else { return FAILED };
    let mut bytes = [0; 16];
    let copied = guest.region(only).is_some_and(|region| region.read(only.offset(), &mut bytes).is_ok());
    if only.len_bytes() != 16 || !copied {
        return FAILED;
    }
    let [first @ .., a, b, c, d, e, f, g, h] = bytes;
    let (sectors, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    let unmap = flags & 1 != 0;
    if flags & !u32::from(zeroes) != 0 {
        return UNSUPPORTED;
    }
    match terms.blocks(u64::from_le_bytes(first), u64::from(sectors)) {
        Some((start, blocks)) if blocks > 0 && sectors <= RANGE_SECTORS_MAX => {
            let op = if zeroes { Op::WriteZeroes { unmap, fua: terms.stable_writes } } else { Op::Discard };
            Asked::Submit { op, start, blocks, segments: &[] }
        }
        _ => FAILED,
    }
}

fn identify(guest: &GuestMap, segments: &[Segment], serial: &str) -> Asked<'static> {
    // Nothing is written for what fails.
    if segments.iter().map(|segment| u64::from(segment.len_bytes())).sum::<u64>() < ID_BYTES.into() {
        return FAILED;
    }
    let mut id = [0; ID_BYTES as usize];
    let len = serial.len().min(id.len());
    id[..len].copy_from_slice(&serial.as_bytes()[..len]);
    let mut rest: &[u8] = &id;
    for segment in segments {
        let (now, later) = rest.split_at(rest.len().min(segment.len_bytes() as usize));
        if guest.region(segment).is_none_or(|region| region.write(segment.offset(), now).is_err()) {
            return FAILED;
        }
        rest = later;
    }
    Asked::Answer { status: S_OK, written_bytes: ID_BYTES + 1 }
}

#[cfg(test)]
mod tests;
