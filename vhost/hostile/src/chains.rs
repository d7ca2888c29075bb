//! Rings that break the rules, and requests that cannot be: what a guest alone can do, without its front end's help.

use std::sync::atomic::Ordering;

use crate::guest::{Kind, RING_SIZE};
use crate::pen::{Buffer, DISCARD, FLUSH, GET_ID, IN, INDIRECT, NEXT, OUT, Pen, WRITE, WRITE_ZEROES};
use crate::{Act, Entry, Must};

/// virtio 1.2, 5.2.6.
const OK: Must = Must::Answer(0);
const IOERR: Must = Must::Answer(1);
const UNSUPP: Must = Must::Answer(2);

const NOWHERE: Must = Must::Fault("are not all guest memory");
const LOOPS: Must = Must::Fault("longer than the ring, or loops");
const OUTSIDE: Must = Must::Fault("is outside its table");
const TABLE: Must = Must::Fault("ragged, too long, nested or not negotiated");
const NO_HEADER: Must = Must::Fault("does not begin with 16 readable bytes");
const NO_STATUS: Must = Must::Fault("does not end in a writable status byte");
const ORDER: Must = Must::Fault("has a readable buffer behind a writable one");
/// A ring is given up for it if the first is still in flight; beside others a server may take one a turn, and has ended it by then.
const IN_FLIGHT: Must = Must::Endure;

/// More sectors than the disk has.
const BEYOND: u64 = 1 << 40;

type Offer = fn(&mut Pen<'_>);

fn read(pen: &mut Pen<'_>, sector: u64, len_bytes: u32) {
    let data = pen.data(len_bytes, WRITE);
    pen.request(IN, sector, &[data]);
}

/// Discard or write zeroes: sector, sectors, flags.
fn range(pen: &mut Pen<'_>, kind: u32, sector: u64, sectors: u32, flags: u32) {
    let bytes = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
    let payload = pen.payload(&bytes);
    pen.request(kind, 0, &[payload]);
}

/// Requests that are answered.
const ANSWERED: [(&str, Must, Offer); 36] = [
    ("a request of type 99", UNSUPP, |pen| pen.request(99, 0, &[])),
    ("a request of the highest type", UNSUPP, |pen| pen.request(u32::MAX, 0, &[])),
    ("a SCSI command", UNSUPP, |pen| pen.request(2, 0, &[])),
    ("a lifetime", UNSUPP, |pen| pen.request(10, 0, &[pen.data(40, WRITE)])),
    ("a secure erase", UNSUPP, |pen| pen.request(14, 0, &[pen.payload(&[0; 16])])),
    ("a zone report", UNSUPP, |pen| pen.request(16, 0, &[pen.data(4096, WRITE)])),
    ("a read behind the disk", IOERR, |pen| read(pen, BEYOND, 512)),
    ("a read at the last sector there can be", IOERR, |pen| read(pen, u64::MAX, 512)),
    ("a read across the last sector there can be", IOERR, |pen| read(pen, u64::MAX, 4096)),
    ("a read across the end of the disk", IOERR, |pen| read(pen, (16 << 20) / 512 - 1, 128 << 10)),
    ("a read of 511 bytes", IOERR, |pen| read(pen, 0, 511)),
    ("a read of 513 bytes", IOERR, |pen| read(pen, 0, 513)),
    ("a read of nothing", IOERR, |pen| pen.request(IN, 0, &[])),
    ("a read into what may only be read", IOERR, |pen| pen.request(IN, 0, &[pen.data(512, 0)])),
    ("a read of 100 buffers of no bytes", IOERR, |pen| {
        let table = [&[pen.header(IN, 0)][..], &[pen.data(0, WRITE); 100], &[pen.status()]].concat();
        let table = pen.table(&table);
        pen.chain(&[table]);
    }),
    ("a read into 1,000 buffers", IOERR, |pen| {
        let table = [&[pen.header(IN, 0)][..], &[pen.data(512, WRITE); 1000], &[pen.status()]].concat();
        let table = pen.table(&table);
        pen.chain(&[table]);
    }),
    ("a read of 60 MiB into the same memory", IOERR, |pen| {
        let table = [&[pen.header(IN, 0)][..], &[pen.data(512 << 10, WRITE); 120], &[pen.status()]].concat();
        let table = pen.table(&table);
        pen.chain(&[table]);
    }),
    ("a write behind the disk", IOERR, |pen| pen.request(OUT, BEYOND, &[pen.data(4096, 0)])),
    ("a write of nothing", IOERR, |pen| pen.request(OUT, 0, &[])),
    ("a write of 1 byte", IOERR, |pen| pen.request(OUT, 0, &[pen.data(1, 0)])),
    ("a write of what the device writes", IOERR, |pen| pen.request(OUT, 0, &[pen.data(512, WRITE)])),
    ("a flush with data", OK, |pen| pen.request(FLUSH, u64::MAX, &[pen.data(512, 0)])),
    ("an id of 1 byte", IOERR, |pen| pen.request(GET_ID, 0, &[pen.data(1, WRITE)])),
    ("an id of 64 KiB", OK, |pen| pen.request(GET_ID, u64::MAX, &[pen.data(64 << 10, WRITE)])),
    ("a discard of no range", IOERR, |pen| pen.request(DISCARD, 0, &[])),
    ("a discard of 15 bytes of range", IOERR, |pen| pen.request(DISCARD, 0, &[pen.payload(&[0; 15])])),
    ("a discard of two ranges", IOERR, |pen| pen.request(DISCARD, 0, &[pen.payload(&[0; 32])])),
    ("a discard of a range in pieces", IOERR, |pen| pen.request(DISCARD, 0, &[pen.payload(&[0; 8]), pen.payload(&[0; 8])])),
    ("a discard of no sectors", IOERR, |pen| range(pen, DISCARD, 0, 0, 0)),
    ("a discard behind the disk", IOERR, |pen| range(pen, DISCARD, BEYOND, 8, 0)),
    ("a discard past the last sector there can be", IOERR, |pen| range(pen, DISCARD, u64::MAX, 8, 0)),
    ("a discard of 2 TiB", IOERR, |pen| range(pen, DISCARD, 0, u32::MAX, 0)),
    ("a discard that unmaps", UNSUPP, |pen| range(pen, DISCARD, 0, 8, 1)),
    ("zeroes with unknown flags", UNSUPP, |pen| range(pen, WRITE_ZEROES, 0, 8, 0x8000_0000)),
    ("zeroes of 2 TiB", IOERR, |pen| range(pen, WRITE_ZEROES, 0, u32::MAX, 1)),
    ("a header in three pieces", OK, |pen| {
        let header = pen.header(IN, 0);
        let piece = |from: u64, len_bytes| Buffer { address: header.address + from, len_bytes, ..header };
        pen.chain(&[piece(0, 1), piece(1, 8), piece(9, 7), pen.data(512, WRITE), pen.status()]);
    }),
];

/// Chains of either layout that cost their ring.
const BROKEN: [(&str, Must, Offer); 21] = [
    ("nothing at all", NO_HEADER, |pen| pen.chain(&[Buffer { address: pen.ring_at(), len_bytes: 0, flags: 0 }])),
    ("a header of 15 bytes", NO_HEADER, |pen| pen.chain(&[Buffer { len_bytes: 15, ..pen.header(IN, 0) }])),
    ("a header of 15 bytes and a status", NO_HEADER, |pen| pen.chain(&[Buffer { len_bytes: 15, ..pen.header(IN, 0) }, pen.status()])),
    ("a header that the device writes", NO_HEADER, |pen| pen.chain(&[Buffer { flags: WRITE, ..pen.header(IN, 0) }, pen.status()])),
    ("no status", NO_STATUS, |pen| pen.chain(&[pen.header(IN, 0)])),
    ("a status of no bytes", NO_STATUS, |pen| pen.chain(&[pen.header(IN, 0), Buffer { len_bytes: 0, ..pen.status() }])),
    ("a status that is only read", NO_STATUS, |pen| pen.chain(&[pen.header(IN, 0), Buffer { flags: 0, ..pen.status() }])),
    ("readable behind writable", ORDER, |pen| {
        pen.chain(&[pen.header(OUT, 0), pen.data(512, WRITE), pen.data(512, 0), pen.status()]);
    }),
    ("a header nowhere", NOWHERE, |pen| pen.chain(&[Buffer { address: 1, ..pen.header(IN, 0) }, pen.status()])),
    ("a header at the last address", NOWHERE, |pen| pen.chain(&[Buffer { address: u64::MAX - 4, ..pen.header(IN, 0) }, pen.status()])),
    ("a status nowhere", NOWHERE, |pen| pen.chain(&[pen.header(FLUSH, 0), Buffer { address: u64::MAX, ..pen.status() }])),
    ("data nowhere", NOWHERE, |pen| pen.request(IN, 0, &[Buffer { address: 4096, ..pen.data(512, WRITE) }])),
    ("data of 4 GiB", NOWHERE, |pen| pen.request(IN, 0, &[pen.data(u32::MAX, WRITE)])),
    ("data across the end of memory", NOWHERE, |pen| pen.request(OUT, 0, &[pen.data(1 << 20, 0)])),
    ("data that wraps round", NOWHERE, |pen| pen.request(IN, 0, &[Buffer { address: u64::MAX - 511, ..pen.data(1024, WRITE) }])),
    ("a table nowhere", NOWHERE, |pen| pen.chain(&[Buffer { address: 1, len_bytes: 48, flags: INDIRECT }])),
    ("a table at the last address", NOWHERE, |pen| pen.chain(&[Buffer { address: u64::MAX - 8, len_bytes: 48, flags: INDIRECT }])),
    ("a table of no entry", TABLE, |pen| pen.chain(&[Buffer { len_bytes: 0, flags: INDIRECT, ..pen.header(IN, 0) }])),
    ("a table of half an entry", TABLE, |pen| pen.chain(&[Buffer { len_bytes: 8, flags: INDIRECT, ..pen.header(IN, 0) }])),
    ("a table of 1,025 entries", TABLE, |pen| pen.chain(&[Buffer { len_bytes: 1025 * 16, flags: INDIRECT, ..pen.header(IN, 0) }])),
    ("a table as long as can be", TABLE, |pen| pen.chain(&[Buffer { len_bytes: 0xffff_fff0, flags: INDIRECT, ..pen.header(IN, 0) }])),
];

/// Offers a head that names nothing but a flush.
fn flush_at(pen: &mut Pen<'_>, heads: &[u16]) {
    let (header, status) = (pen.header(FLUSH, 0), pen.status());
    pen.descriptor(header, NEXT, 1);
    pen.descriptor(status, WRITE, 0);
    heads.iter().for_each(|head| pen.ring().offer(*head));
}

/// What only a split ring can say.
const SPLIT: [(&str, Must, Offer); 17] = [
    ("a head outside", OUTSIDE, |pen| pen.ring().offer(RING_SIZE)),
    ("the highest head there is", OUTSIDE, |pen| pen.ring().offer(u16::MAX)),
    ("a link outside", OUTSIDE, |pen| {
        let header = pen.header(IN, 0);
        pen.descriptor(header, NEXT, RING_SIZE);
        pen.ring().offer(0);
    }),
    ("the highest link there is", OUTSIDE, |pen| {
        let header = pen.header(IN, 0);
        pen.descriptor(header, NEXT, u16::MAX);
        pen.ring().offer(0);
    }),
    ("a descriptor that follows itself", LOOPS, |pen| {
        let header = pen.header(IN, 0);
        pen.descriptor(header, NEXT, 0);
        pen.ring().offer(0);
    }),
    ("two descriptors that follow each other", LOOPS, |pen| {
        let header = pen.header(IN, 0);
        pen.descriptor(header, NEXT, 1);
        pen.descriptor(header, NEXT, 0);
        pen.ring().offer(0);
    }),
    ("a chain through all of the ring and round again", LOOPS, |pen| {
        let header = pen.header(IN, 0);
        (0..RING_SIZE).for_each(|at| pen.descriptor(header, NEXT, (at + 1) % RING_SIZE));
        pen.ring().offer(7);
    }),
    ("one head offered twice", IN_FLIGHT, |pen| {
        // Something that takes a while: both are taken in one turn.
        let (header, status) = (pen.header(IN, 0), pen.status());
        let data = pen.data(256 << 10, WRITE);
        pen.chain(&[header, data, status]);
        (0..40).for_each(|_| pen.ring().offer(0));
    }),
    ("an index that jumps by more than the ring", Must::Fault("further than the ring is long"), |pen| {
        flush_at(pen, &[]);
        (0..RING_SIZE + 10).for_each(|_| pen.ring().offer(0));
    }),
    ("an index that goes back", Must::Fault("further than the ring is long"), |pen| {
        // It wraps round, to two before where it was.
        (0..u16::MAX - 1).for_each(|_| pen.ring().offer(0));
    }),
    ("a table with a successor", TABLE, |pen| {
        let table = pen.table(&[pen.header(FLUSH, 0), pen.status()]);
        pen.descriptor(table, INDIRECT | NEXT, 1);
        pen.ring().offer(0);
    }),
    ("a table in a table", TABLE, |pen| {
        let inner = Buffer { flags: INDIRECT, len_bytes: 32, ..pen.data(32, 0) };
        let table = pen.table(&[inner, pen.status()]);
        pen.chain(&[table]);
    }),
    ("a table that follows itself", LOOPS, |pen| {
        let table = pen.raw_table(&[pen.header(IN, 0), pen.status()], |_| (NEXT, 0));
        pen.chain(&[table]);
    }),
    ("a table whose link leads outside", OUTSIDE, |pen| {
        let table = pen.raw_table(&[pen.header(IN, 0), pen.status()], |_| (NEXT, 2));
        pen.chain(&[table]);
    }),
    ("a table of 1,024 entries of which one counts", NO_STATUS, |pen| {
        let table = pen.raw_table(&[pen.header(IN, 0); 1024], |_| (0, 0));
        pen.chain(&[table]);
    }),
    ("a usual table with a wrong link", OUTSIDE, |pen| {
        let table = pen.raw_table(&[pen.header(IN, 0), pen.data(512, WRITE), pen.status()], |at| (NEXT, [1, 7, 0][at]));
        pen.chain(&[table]);
    }),
    ("a table at the end of a chain, and a link in it back to the ring", LOOPS, |pen| {
        let header = pen.header(IN, 0);
        pen.descriptor(header, NEXT, 1);
        let table = pen.raw_table(&[header, pen.status()], |at| (NEXT, [1, 0][at]));
        pen.descriptor(table, INDIRECT, 0);
        pen.ring().offer(0);
    }),
];

/// What only a packed ring can say.
const PACKED: [(&str, Must, Offer); 9] = [
    ("an id as high as the ring is long", OUTSIDE, |pen| offer_flush(pen, RING_SIZE)),
    ("the highest id there is", OUTSIDE, |pen| offer_flush(pen, u16::MAX)),
    ("one id offered again and again", IN_FLIGHT, |pen| {
        let (header, status, data) = (pen.header(IN, 0), pen.status(), pen.data(256 << 10, WRITE));
        for _ in 0..20 {
            offer(pen, header, 3, NEXT);
            offer(pen, data, 3, NEXT | WRITE);
            offer(pen, status, 3, WRITE);
        }
    }),
    ("a chain without an end", LOOPS, |pen| {
        let header = pen.header(IN, 0);
        (0..RING_SIZE).for_each(|_| offer(pen, header, 0, NEXT));
    }),
    ("a chain that goes round twice", LOOPS, |pen| {
        let header = pen.header(IN, 0);
        (0..2 * RING_SIZE).for_each(|_| offer(pen, header, 0, NEXT));
    }),
    ("a table with a successor", TABLE, |pen| {
        let table = pen.table(&[pen.header(FLUSH, 0), pen.status()]);
        offer(pen, table, 1, INDIRECT | NEXT);
        let status = pen.status();
        offer(pen, status, 1, WRITE);
    }),
    ("a table at the end of a chain", TABLE, |pen| {
        let header = pen.header(IN, 0);
        offer(pen, header, 1, NEXT);
        let table = pen.table(&[header, pen.status()]);
        offer(pen, table, 1, INDIRECT);
    }),
    ("a table in a table is a buffer like any other", Must::Answer(0), |pen| {
        let header = Buffer { flags: INDIRECT, ..pen.header(FLUSH, 0) };
        let table = pen.table(&[header, pen.status()]);
        pen.chain(&[table]);
    }),
    ("descriptors of the lap to come", Must::Endure, |pen| {
        for at in 0..u32::from(RING_SIZE) {
            pen.ring().descriptors.set(at, [0, 1 << 63 | 16]);
        }
    }),
];

fn offer(pen: &mut Pen<'_>, buffer: Buffer, id: u16, flags: u16) {
    pen.ring().offer_descriptor(buffer.address, buffer.len_bytes, id, flags);
}

fn offer_flush(pen: &mut Pen<'_>, id: u16) {
    let (header, status) = (pen.header(FLUSH, 0), pen.status());
    offer(pen, header, id, NEXT);
    offer(pen, status, id, WRITE);
}

/// What may become anything, as long as the session goes on.
const STRANGE: [(&str, Must, Offer); 6] = [
    ("data over the ring itself", Must::Endure, |pen| {
        let data = Buffer { address: pen.ring_at(), ..pen.data(12 << 10, WRITE) };
        pen.request(IN, 0, &[data]);
    }),
    ("a status over the ring's index", Must::Endure, |pen| {
        let status = Buffer { address: pen.ring_at() + 8194, len_bytes: 1, flags: WRITE };
        let header = pen.header(FLUSH, 0);
        pen.chain(&[header, status]);
    }),
    ("a header over its own descriptors", Must::Endure, |pen| {
        let header = Buffer { address: pen.ring_at(), ..pen.header(IN, 0) };
        pen.chain(&[header, pen.status()]);
    }),
    ("header, data and status in the same bytes", Must::Endure, |pen| {
        let header = pen.header(IN, 0);
        pen.chain(&[header, Buffer { len_bytes: 512, flags: WRITE, ..header }, Buffer { len_bytes: 1, flags: WRITE, ..header }]);
    }),
    ("every word of the ring a random one", Must::Endure, |pen| {
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        for at in 0..u32::from(RING_SIZE) {
            let mut next = || {
                random = random.wrapping_mul(0xd129_0d3d_7a6c_d8c5).rotate_left(23) ^ u64::from(at);
                random
            };
            let pair = [next(), next()];
            pen.ring().descriptors.set(at, pair);
        }
        if pen.kind() == Kind::Split {
            (0..RING_SIZE).for_each(|head| pen.ring().offer(head));
        }
    }),
    ("every wish for notifications there can be", Must::Endure, |pen| {
        for wish in 0..=u16::MAX {
            pen.ring().available.store(0, wish, Ordering::Relaxed);
            pen.ring().available.store(if wish % 2 == 0 { 1 } else { 2 + u32::from(RING_SIZE) }, wish, Ordering::Relaxed);
        }
    }),
];

pub(crate) fn entries() -> Vec<Entry> {
    let both = |(name, must, offer): &(&str, Must, Offer)| {
        Kind::BOTH.map(|kind| Entry { name: format!("ring: {name}, {}", kind.word()), must: *must, act: Act::Chain(kind, *offer) })
    };
    let of = |kind: Kind| {
        move |(name, must, offer): &(&str, Must, Offer)| Entry {
            name: format!("ring: {name}, only {}", kind.word()),
            must: *must,
            act: Act::Chain(kind, *offer),
        }
    };
    let mut entries: Vec<Entry> = [&ANSWERED[..], &BROKEN, &STRANGE].into_iter().flatten().flat_map(both).collect();
    entries.extend(SPLIT.iter().map(of(Kind::Split)));
    entries.extend(PACKED.iter().map(of(Kind::Packed)));
    entries
}
