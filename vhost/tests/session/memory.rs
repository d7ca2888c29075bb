//! Guest memory: how it comes and goes while queues run, and what it costs.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use spinel_core::mem::{Region, RegionId};
use spinel_core::{Armed, Channel, Core, Device, Driver, Geometry, Instant, OpenError, Progress};
use spinel_vhost::{ControllerState, MemoryInfo, Pin};

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, Options, Served, mappings_of, memory_disk, name};

fn memory(served: &Served) -> Vec<MemoryInfo> {
    match served.controller.info().state {
        ControllerState::Connected(session) => session.memory,
        other => panic!("nobody is connected: {other:?}"),
    }
}

fn memfd(len_bytes: u64) -> (OwnedFd, String) {
    let name = name("more-memory-");
    let fd = memfd_create(&name, MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len_bytes).unwrap();
    (fd, format!("{name} "))
}

fn slot(guest: u64, len_bytes: u64, offset: u64) -> Vec<u8> {
    longs(&[0, guest, len_bytes, guest, offset])
}

#[test]
fn regions_come_and_go_while_a_queue_runs() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let (more, more_name) = memfd(64 << 12);
    for round in 0..10 {
        for at in 0..8 {
            client.tell(ADD_MEM_REG, &slot(0x9000_0000 + (at << 12), 4096, at << 12), &[&more]);
            guest.queues[0].check(8 * at, round);
        }
        client.sync();
        assert_eq!(memory(&served).len(), 9);
        assert_eq!(mappings_of(&more_name), 8);
        for at in 0..8 {
            // A descriptor that comes with a removal is closed unused.
            let fds: Vec<&OwnedFd> = (at == 3).then_some(&more).into_iter().collect();
            client.tell(REM_MEM_REG, &slot(0x9000_0000 + (at << 12), 4096, 0), &fds);
            guest.queues[0].check(8 * at, round + 1);
        }
        assert_eq!(mappings_of(&more_name), 0, "removed regions are unmapped");
    }
    assert_ne!(client.try_tell(REM_MEM_REG, &slot(0x9000_0000, 4096, 0), &[]), 0, "it is gone already");
}

#[test]
fn a_new_table_replaces_the_old_one_and_all_its_mappings() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(2);
    let mut client = guest.attach(&served.path);
    for round in 0..10 {
        client.tell(SET_MEM_TABLE, &[words(&[1, 0]), longs(&guest.region())].concat(), &[&guest.memory]);
        guest.queues[0].check(0, round);
        guest.queues[1].check(8, round);
        assert_eq!(guest.foreign_mappings(), 1);
    }
    // A table without the rings parks them; they run again when it is back.
    client.tell(SET_MEM_TABLE, &words(&[0, 0]), &[]);
    assert_eq!(guest.foreign_mappings(), 0);
    client.tell(SET_MEM_TABLE, &[words(&[1, 0]), longs(&guest.region())].concat(), &[&guest.memory]);
    guest.queues[0].check(0, 77);
}

#[test]
fn a_table_that_cannot_be_mapped_leaves_the_old_one_in_use() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let [address, len_bytes, user, _] = guest.region();
    let table = [words(&[2, 0]), longs(&guest.region()), longs(&[address + len_bytes, len_bytes, user + len_bytes, 4096])].concat();
    assert_ne!(client.try_tell(SET_MEM_TABLE, &table, &[&guest.memory, &guest.memory]), 0);
    assert_eq!(guest.foreign_mappings(), 1);
    guest.queues[0].check(0, 7);
}

#[test]
fn a_client_with_16_gib_attaches_without_a_page_of_it_being_touched() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::with(1, LAYOUT, 16 << 30);
    let before = fstat(&guest.memory).unwrap().st_blocks;
    let _client = guest.attach(&served.path);
    let after = fstat(&guest.memory).unwrap().st_blocks;
    assert!(after - before <= 64, "{} sectors were touched", after - before);
    guest.queues[0].check(0, 1);
    assert_eq!(memory(&served)[0].len_bytes, guest.len_bytes);
}

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a core's driver was told: whether the region had pins by then.
type Announced = Arc<crossbeam_channel::Sender<bool>>;

/// A memory disk whose cores have a driver that passes on what it is told of regions.
struct Watched(Arc<dyn Device>, Announced);

struct Watcher(Announced);

impl Driver for Watcher {
    fn reap(&mut self, _: Instant) -> Progress {
        Progress::Idle
    }
    fn flush(&mut self) {}
    fn map(&mut self, region: &Arc<Region>) {
        self.0.send(region.pins().is_some()).unwrap();
    }
    fn unmap(&mut self, _: RegionId) {}
    fn arm(&mut self) -> Armed {
        Armed::Idle
    }
}

impl Device for Watched {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        core.share(|_| Ok(Watcher(Arc::clone(&self.1))))?;
        self.0.open(core, depth)
    }
}

#[test]
fn pinning_happens_behind_the_running_queues_and_is_announced() {
    let host = Host::new();
    let pins = Arc::new(AtomicUsize::new(0));
    let (done, pinned) = bounded(8);
    let (may, begin) = bounded::<()>(8);
    let counted = Arc::clone(&pins);
    let pin: Pin = Arc::new(move |region: &Arc<Region>| {
        begin.recv().unwrap();
        spinel_uring::pin(region).unwrap();
        counted.fetch_add(1, Ordering::Relaxed);
        done.send(()).unwrap();
    });
    let (announce, announced) = crossbeam_channel::unbounded();
    let disk = Arc::new(Watched(memory_disk(), Arc::new(announce)));
    let served = host.serve_with(disk, Options { pin: Some(pin), ..Options::default() });
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    guest.queues[0].check(0, 1);
    assert!(!announced.recv_timeout(PATIENCE).unwrap());
    assert!(!memory(&served)[0].pinned, "the queue runs although nothing is pinned yet");
    may.send(()).unwrap();
    pinned.recv_timeout(PATIENCE).unwrap();
    assert!(announced.recv_timeout(PATIENCE).unwrap(), "announced again, with its pins");
    guest.queues[0].check(0, 2);
    client.sync();
    assert!(memory(&served)[0].pinned);
    // A region that comes later is pinned as well, and the pinned one not twice.
    let (more, _) = memfd(4096);
    client.tell(ADD_MEM_REG, &slot(0x9000_0000, 4096, 0), &[&more]);
    assert!(!announced.recv_timeout(PATIENCE).unwrap());
    may.send(()).unwrap();
    pinned.recv_timeout(PATIENCE).unwrap();
    assert!(announced.recv_timeout(PATIENCE).unwrap());
    client.sync();
    assert!(memory(&served).iter().all(|region| region.pinned));
    assert_eq!(pins.load(Ordering::Relaxed), 2);
    guest.queues[0].check(0, 3);
}
