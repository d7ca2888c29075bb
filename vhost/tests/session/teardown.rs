//! Clients that die with requests in flight: memory stays until the last completion, then everything goes; a hung device is waited for, once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use spinel_core::{Device, OpKind};
use spinel_sim::guest::GuestRequest;
use spinel_uring::{DeviceOptions, UringDevice};
use spinel_vhost::ControllerState;
use spinel_volume::{DelayDevice, ErrorDevice, Fault, Injection, Latencies, Target};

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, Options, Served, memory_disk};
use crate::journal;

pub(crate) const DEPTH: u64 = 64;

pub(crate) fn writes() -> impl Iterator<Item = GuestRequest> {
    (0..DEPTH).map(|at| GuestRequest::write(8 * at, 4096))
}

/// Reads and writes take half a second each.
fn slow_disk() -> Arc<dyn Device> {
    let half = 500_000;
    let latencies = Latencies { average_read_us: half, p99_read_us: half, average_write_us: half, p99_write_us: half };
    Arc::new(DelayDevice::new(memory_disk(), latencies).unwrap())
}

/// The first `DEPTH` writes stay out until they are told to come back.
pub(crate) fn hung_disk() -> Arc<ErrorDevice> {
    let disk = Arc::new(ErrorDevice::new(memory_disk()).unwrap());
    let count = u32::try_from(DEPTH).unwrap();
    disk.inject(Injection { target: Target::Write, fault: Fault::Pending, count, queue_depth: 0 }).unwrap();
    disk
}

/// Lets the requests come back; a sleeping core has to be told to look.
pub(crate) fn resume(host: &Host, disk: &ErrorDevice) {
    disk.resume_pending();
    for core in host.cores() {
        core.visit(|_| ());
    }
}

fn file_disk(folder: &Path) -> Arc<dyn Device> {
    let path = folder.join("image");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    Arc::new(UringDevice::open(&path, &DeviceOptions::default()).unwrap())
}

/// Waits until the controller serves again, which it does when the client before is gone for good.
fn wait_served(served: &Served) -> Client {
    let mut client = Client::connect(&served.path);
    client.sync();
    client
}

const CHILD: &str = "SPINEL_TEST_CLIENT_OF";

/// Not a test by itself: the client that the next one runs as a process, and kills.
#[test]
fn child_client() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let mut guest = Guest::new(1);
    let _client = guest.attach(Path::new(&path));
    println!("memory {}", guest.name);
    loop {
        guest.queues[0].post(writes());
        guest.queues[0].finish(usize::try_from(DEPTH).unwrap());
        println!("finished");
    }
}

/// A client process that keeps requests in flight, and the name of its memory.
fn start_client(served: &Served) -> (Child, String, impl Iterator<Item = String>) {
    let test = ["--exact", "teardown::child_client", "--nocapture"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command.args(test).env(CHILD, &served.path).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut lines = lines.filter(|line| line.starts_with("memory ") || line == "finished");
    let memory = lines.next().unwrap();
    (child, format!("{} ", memory.trim_start_matches("memory ").trim()), lines)
}

#[test]
fn after_a_kill_everything_drains_and_is_freed() {
    let host = Host::new();
    let file = host.serve(file_disk(host.folder()));
    let slow = host.serve(slow_disk());
    for (served, kills, least) in [(&file, 20, DEPTH / 2), (&slow, 3, DEPTH)] {
        let mut in_flight = 0;
        for kill in 0..kills {
            let (mut child, memory, mut finished) = start_client(served);
            // At some point of its stream, and as deep as it is seen to get: the file answers while one looks.
            for _ in 0..if least < DEPTH { kill % 4 } else { 0 } {
                finished.next().unwrap();
            }
            while served.meters.snapshot().in_flight < least {}
            in_flight += least;
            child.kill().unwrap();
            child.wait().unwrap();
            wait_served(served);
            assert_eq!(crate::host::mappings_of(&memory), 0, "a mapping is left");
            assert_eq!(served.meters.snapshot().in_flight, 0);
        }
        println!("{kills} kills with at least {in_flight} requests in flight in all");
    }
}

#[test]
fn memory_stays_until_the_last_completion_and_a_returning_client_waits_for_it() {
    let host = Host::new();
    let served = host.serve(slow_disk());
    let mut guest = Guest::new(2);
    let client = guest.attach(&served.path);
    guest.queues[0].post(writes());
    guest.queues[1].post(writes());
    while served.meters.snapshot().in_flight < 2 * DEPTH {}
    drop(client);
    let client = wait_served(&served);
    assert_eq!((guest.foreign_mappings(), served.meters.snapshot().in_flight), (0, 0));
    assert_eq!(served.meters.snapshot().of(OpKind::Write).ops(), 2 * DEPTH, "all of them completed");
    for queue in &mut guest.queues {
        assert!(queue.finish(usize::try_from(DEPTH).unwrap()).iter().all(|finished| finished.status == 0), "and were answered");
    }
    drop(client);
    guest.attach(&served.path);
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
    assert!(!served.path.exists());
}

/// A controller whose client is attached with requests that hang.
fn hang(host: &Host, disk: &Arc<ErrorDevice>) -> (Served, Guest, Client) {
    let options = Options { drain_deadline: Duration::from_millis(200), ..Options::default() };
    let served = host.serve_with(Arc::clone(disk) as _, options);
    let mut guest = Guest::new(2);
    let client = guest.attach(&served.path);
    guest.queues[0].post(writes());
    while served.meters.snapshot().in_flight < DEPTH {}
    guest.queues[1].post([GuestRequest::read(0, 4096)]);
    guest.queues[1].finish(1);
    (served, guest, client)
}

#[test]
fn a_hung_device_puts_its_client_into_quarantine_until_it_answers() {
    let host = Host::new();
    let disk = hung_disk();
    let (served, guest, client) = hang(&host, &disk);
    // Asking for the ring to stop is the polite way to find out.
    client.send_packet(&Packet::new(GET_VRING_BASE, words(&[0, 0]), &[]), PLAIN);
    client.wait_closed();
    journal::assert_has(&served.name, "64 requests did not complete within 200ms of stopping their queue");
    journal::assert_has(&served.name, "outstanding=64");
    assert_eq!(served.controller.info().state, ControllerState::Quarantined { outstanding: 64 });
    assert_eq!(guest.foreign_mappings(), 1, "the device may still write there");
    // Another client connects meanwhile and is served only when the old requests are over.
    let waiting = Client::connect(&served.path);
    waiting.send(&header(GET_FEATURES, PLAIN, 0), &[]);
    assert_eq!(served.controller.info().state, ControllerState::Quarantined { outstanding: 64 });
    resume(&host, &disk);
    let mut waiting = waiting;
    waiting.reply(GET_FEATURES);
    assert_eq!(guest.foreign_mappings(), 0);
    journal::assert_has(&served.name, "the quarantine is over");
    drop(waiting);
    let mut guest = Guest::new(1);
    let _client = guest.attach(&served.path);
    guest.queues[0].check(0, 1);
}

#[test]
fn a_client_that_dies_on_a_hung_device_is_quarantined_as_well() {
    let host = Host::new();
    let disk = hung_disk();
    let (served, guest, client) = hang(&host, &disk);
    drop(client);
    // The owner's call is answered after the session was ended and its deadline has passed.
    let busy = served.controller.stop(Duration::ZERO).unwrap_err();
    assert_eq!((busy.name.as_str(), busy.outstanding), (served.name.as_str(), DEPTH));
    assert_eq!(guest.foreign_mappings(), 1);
    assert!(!served.path.exists(), "nobody can come any more");
    assert!(served.controller.stop(Duration::ZERO).is_err(), "still busy");
    resume(&host, &disk);
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
    assert_eq!(served.controller.info().state, ControllerState::Stopped);
    assert_eq!(guest.foreign_mappings(), 0);
    assert_eq!(served.controller.stop(Duration::ZERO), Ok(()), "stopping what has stopped is no error");
}

#[test]
fn a_memory_change_on_a_hung_device_quarantines_and_changes_nothing() {
    let host = Host::new();
    let disk = hung_disk();
    let (served, guest, client) = hang(&host, &disk);
    client.send_packet(&Packet::new(SET_MEM_TABLE, words(&[0, 0]), &[]), PLAIN);
    client.wait_closed();
    assert_eq!(served.controller.info().state, ControllerState::Quarantined { outstanding: 64 });
    assert_eq!(guest.foreign_mappings(), 1);
    resume(&host, &disk);
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
    assert_eq!(guest.foreign_mappings(), 0);
}

#[test]
fn a_controller_that_stops_frees_its_device_and_its_path() {
    let host = Host::new();
    let device = memory_disk();
    let served = host.serve(Arc::clone(&device));
    let mut guest = Guest::new(2);
    let client = guest.attach(&served.path);
    guest.queues[0].check(0, 1);
    guest.queues[1].post(writes());
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
    client.wait_closed();
    assert_eq!(Arc::strong_count(&device), 1, "nobody else holds the device");
    assert_eq!(guest.foreign_mappings(), 0);
    assert!(!served.path.exists());
}
