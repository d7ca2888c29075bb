//! In a steady state a core allocates nothing, from the guest's ring to the device and back: counted, not believed.

mod rig;

use std::io::Write;
use std::sync::Arc;

use rig::{Asked, DATA_BYTES, Pattern, Rig};
use spinel_core::{Armed, Channel, Completions, Core, Device, Geometry, Instant, OpenError, Request};
use spinel_sim::guest::GuestRequest;
use spinel_uring::{DeviceOptions, UringDevice};
use spinel_volume::{CAPS, Cap, Limit, MemoryDevice, Shape, Throttle};

const DISK_BYTES: u64 = 16 << 20;
const SECTORS: u64 = DISK_BYTES / 512;
/// Enough of every kind that whatever is allocated once, on first use, has been.
const WARM_UP: u64 = 2_000;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A read or write in `pieces`.
fn transfer(write: bool, sector: u64, pieces: u16) -> GuestRequest {
    let whole = if write { GuestRequest::write(sector, DATA_BYTES) } else { GuestRequest::read(sector, DATA_BYTES) };
    GuestRequest { pieces, ..whole }
}

/// A discard (11) or write-zeroes (13) of eight sectors (virtio 1.2, 5.2.6).
fn wipe(kind: u32, sector: u64) -> Asked {
    let mut range = [0; 16];
    range[..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&8_u32.to_le_bytes());
    let request = GuestRequest { kind, sector: 0, len_bytes: 16, device_writes: false, pieces: 1 };
    Asked { request, data: Some(range), status: OK }
}

/// A guest's mixture: mostly reads, some of everything else, and a few requests that are refused.
fn mixture(number: u64) -> Asked {
    let sector = number.wrapping_mul(2_654_435_761) % (SECTORS / 8) * 8;
    let plain = |request, status| Asked { request, data: None, status };
    match number % 512 {
        0 => plain(GuestRequest::flush(), OK),
        1 => wipe(11, sector),
        2 => wipe(13, sector),
        3 => plain(transfer(false, SECTORS, 1), IO_ERROR),
        4 => plain(GuestRequest { kind: 8, sector: 0, len_bytes: 20, device_writes: true, pieces: 1 }, OK),
        5 => plain(GuestRequest { kind: 77, sector: 0, len_bytes: 512, device_writes: true, pieces: 1 }, UNSUPPORTED),
        6..16 => plain(transfer(true, sector, 1), OK),
        16..20 => plain(transfer(true, sector, 4), OK),
        20..84 => plain(transfer(false, sector, 4), OK),
        _ => plain(transfer(false, sector, 1), OK),
    }
}

/// Runs a device in both patterns over both kinds of rings and answers how many requests that were.
fn count(name: &str, device: &Arc<dyn Device>, spinning: u64, sleeping: u64) -> u64 {
    let runs = [(Pattern::Spinning, spinning), (Pattern::Sleeping, sleeping)];
    for (packed, (pattern, requests)) in runs.map(|run| [(false, run), (true, run)]).concat() {
        let requests = requests / 2;
        let mut rig = Rig::new(Arc::clone(device), packed, pattern);
        rig.run(WARM_UP, &mut mixture);
        let counted = rig.run(requests, &mut mixture);
        println!("{name}, {pattern:?}, packed {packed}, {requests} requests: {counted:?}");
        assert_eq!(counted.allocations, 0, "{name}, {pattern:?}, packed {packed}");
        match pattern {
            // A core without a queue sleeps in any mode, and that sleep is published when the queue has turned for a while.
            Pattern::Spinning => assert!(counted.sleeps <= 1, "{name}, packed {packed}: {counted:?}"),
            Pattern::Sleeping => assert!(counted.sleeps > 100, "the core must have slept often for this to mean anything"),
        }
        rig.end();
    }
    spinning + sleeping
}

#[test]
fn a_million_requests_allocate_nothing() {
    let memory: Arc<dyn Device> = Arc::new(MemoryDevice::new(Shape::new(512, SECTORS)).unwrap());
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let len_bytes = usize::try_from(DISK_BYTES).unwrap();
    file.write_all(&vec![7; len_bytes]).unwrap();
    let options = DeviceOptions { block_bytes: Some(512), ..DeviceOptions::default() };
    let file: Arc<dyn Device> = Arc::new(UringDevice::open(file.path(), &options).unwrap());
    let requests = count("memory", &memory, 700_000, 150_000) + count("file", &file, 120_000, 30_000);
    assert_eq!(requests, 1_000_000);
}

#[test]
fn requests_that_wait_for_a_limit_allocate_nothing() {
    let device = || Throttle::new(Arc::new(MemoryDevice::new(Shape::new(512, SECTORS)).unwrap()));
    // A cap on everything, which closes the room, and one on a direction, which holds completions; then all at once.
    for caps in [&[Cap::Ios][..], &[Cap::ReadIos], &CAPS] {
        let device = device();
        let per_second = |cap| if matches!(cap, Cap::Bytes | Cap::ReadBytes | Cap::WriteBytes) { 400 << 20 } else { 100_000 };
        device.limits().set(caps.iter().map(|cap| (*cap, Some(Limit::new(per_second(*cap), 1).unwrap()))));
        let device: Arc<dyn Device> = Arc::new(device);
        count(&format!("limited {caps:?}"), &device, 20_000, 8_000);
    }
}

/// A layer with the fault that is looked for: now and then it allocates on the data path.
struct Leaky(MemoryDevice);

struct LeakyChannel {
    below: Box<dyn Channel>,
    submitted: Vec<u64>,
    seen: u32,
}

impl Device for Leaky {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Ok(Box::new(LeakyChannel { below: self.0.open(core, depth)?, submitted: Vec::new(), seen: 0 }))
    }
}

impl Channel for LeakyChannel {
    fn room(&self) -> usize {
        self.below.room()
    }

    fn submit(&mut self, request: Request<'_>) {
        self.seen += 1;
        if self.seen.is_multiple_of(1024) {
            self.submitted = Vec::new();
            self.submitted.push(request.start.0);
        }
        self.below.submit(request);
    }

    fn kick(&mut self) {
        self.below.kick();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.below.poll(now, done);
    }

    fn arm(&mut self) -> Armed {
        self.below.arm()
    }
}

#[test]
fn one_allocation_in_a_thousand_requests_is_found() {
    let device = Leaky(MemoryDevice::new(Shape::new(512, SECTORS)).unwrap());
    let mut rig = Rig::new(Arc::new(device), false, Pattern::Sleeping);
    rig.run(WARM_UP, &mut mixture);
    let counted = rig.run(10 * 1024, &mut |number| Asked { request: GuestRequest::read(number, 512), data: None, status: OK });
    assert_eq!(counted.allocations, 10);
    rig.end();
}
