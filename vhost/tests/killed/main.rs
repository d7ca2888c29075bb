//! A process that serves a queue, killed with SIGKILL at random instants, hundreds of times, under a guest that checks every byte.
//!
//! This process is the guest, and it owns what outlives the other one: the guest's memory,
//! the record and the medium. The other one is this very executable: it serves until it is
//! killed, completes in any order, and keeps requests whose bytes have moved already. Every
//! request must complete exactly once and well. `SPINEL_KILLS` is the number of kills for
//! each kind of ring.

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../common/mod.rs"]
mod common;
mod guest;
mod server;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use common::medium::Medium;
use guest::Guest;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use server::{MEDIUM_BYTES, NOTES_BYTES, Notes};
use spinel_core::mem::Region;
use spinel_sim::Prng;
use spinel_sim::guest::{Layout, SimGuest};
use spinel_vhost::RecordPlace;

/// Turns of a server without any completion after which a request counts as lost.
const PATIENCE: u32 = 50_000;
/// In an entry of the record: its chain is in flight.
const IN_FLIGHT: u8 = 1;

/// Not a test by itself: the process that the tests run, and kill.
#[test]
fn child_server() {
    if let Ok(told) = std::env::var(server::TOLD) {
        server::serve(&told);
    }
}

/// What outlives a server.
struct World {
    layout: Layout,
    /// The guest's memory, the record, and the medium with the server's notes behind it.
    files: [OwnedFd; 3],
    record: std::sync::Arc<Region>,
    notes: Notes,
}

impl World {
    fn new(layout: Layout) -> (Self, Guest) {
        let sizes = [SimGuest::memory_bytes(layout), RecordPlace::bytes(layout.size), MEDIUM_BYTES + NOTES_BYTES];
        let files = sizes.map(|len_bytes| {
            let file = memfd_create("killed", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, len_bytes).unwrap();
            file
        });
        let map = |at: usize, offset, len_bytes| Region::of_file(files[at].as_fd(), offset, len_bytes).unwrap();
        let guest = Guest::new(SimGuest::new(map(0, 0, sizes[0]), layout), layout);
        let notes = Notes::over(&map(2, MEDIUM_BYTES, NOTES_BYTES));
        let record = map(1, 0, sizes[1]);
        (Self { layout, files, record, notes }, guest)
    }

    fn start_server(&self, seed: u64) -> Server {
        let [guest, record, medium] = self.files.each_ref().map(AsRawFd::as_raw_fd);
        let Layout { size, packed, indirect, event_idx, .. } = self.layout;
        let told = format!("{} {guest} {record} {medium} {size} {packed} {indirect} {event_idx} {seed}", std::process::id());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_server"]).env(server::TOLD, told).stdout(Stdio::null());
        Server(command.spawn().unwrap())
    }

    /// How many chains are on record as in flight.
    fn in_flight(&self) -> usize {
        let (first, step) = if self.layout.packed { (32, 32) } else { (16, 16) };
        let mut bytes = vec![0; usize::try_from(self.record.len_bytes()).unwrap()];
        self.record.read(0, &mut bytes).unwrap();
        bytes[first..].iter().step_by(step).take(self.layout.size.into()).filter(|flag| **flag == IN_FLIGHT).count()
    }
}

/// A process that serves, and does not outlive this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Goes on for a while, so that a kill comes at no particular place.
fn dawdle(guest: &mut Guest, turns: u64) {
    for turn in 0..turns {
        std::hint::black_box(turn);
        if turn % 256 == 0 {
            guest.post();
            guest.reap();
        }
    }
}

/// Lets the guest go on until so many requests have completed.
fn run(guest: &mut Guest, server: &mut Server, notes: &Notes, count: u64, posts: bool) {
    let (mut completed, mut since) = (0, notes.turns());
    while completed < count {
        if posts {
            guest.post();
        }
        let more = guest.reap();
        completed += more;
        if more > 0 {
            since = notes.turns();
            continue;
        }
        assert!(notes.turns().wrapping_sub(since) < PATIENCE, "lost: {}", guest.outstanding());
        assert!(server.0.try_wait().unwrap().is_none(), "a server ended by itself");
        std::thread::yield_now();
    }
}

fn survives(layout: Layout) {
    let kills = std::env::var("SPINEL_KILLS").map_or(75, |kills| kills.parse::<u64>().expect("SPINEL_KILLS is a number"));
    let (world, mut guest) = World::new(layout);
    let mut prng = Prng::new(u64::from(layout.packed) << 1 | u64::from(layout.indirect));
    let mut in_flight = Vec::new();
    for _ in 0..kills {
        let lives = world.notes.lives();
        let mut server = world.start_server(prng.bits());
        match prng.below(8) {
            // While it takes over, or long before.
            0 => {}
            1 | 2 => {
                while world.notes.lives() == lives {
                    std::thread::yield_now();
                }
            }
            _ => {
                let count = 1 + prng.below(40);
                run(&mut guest, &mut server, &world.notes, count, true);
            }
        }
        let turns = *prng.pick(&[100, 1_000, 10_000, 100_000]);
        dawdle(&mut guest, prng.below(turns));
        drop(server);
        in_flight.push(world.in_flight());
    }
    let mut server = world.start_server(prng.bits());
    let outstanding = guest.posted();
    run(&mut guest, &mut server, &world.notes, outstanding, false);
    guest.read_everything(|guest, count| run(guest, &mut server, &world.notes, count, false));
    in_flight.sort_unstable();
    let [least, median, most] = [0, in_flight.len() / 2, in_flight.len() - 1].map(|at| in_flight[at]);
    let (replays, checked) = (world.notes.replays(), guest.checked());
    println!(
        "{layout:?}: {kills} kills, {least}/{median}/{most} in flight (least/median/most), {replays} done again, {} requests, {checked:?}",
        guest.completed()
    );
    assert!(most > 0 && replays > 0 && checked.stamps_read > 0 && checked.writes > 0 && checked.flushes > 0 && guest.ids() > 0);
    assert_eq!(world.in_flight(), 0, "nothing is left on record");
}

const LAYOUT: Layout = Layout { size: 32, packed: false, event_idx: true, indirect: true, data_bytes: 4096 };

#[test]
fn a_split_ring_loses_nothing_when_its_server_is_killed() {
    survives(LAYOUT);
}

#[test]
fn a_split_ring_without_tables_loses_nothing_when_its_server_is_killed() {
    survives(Layout { size: 128, indirect: false, event_idx: false, ..LAYOUT });
}

#[test]
fn a_packed_ring_loses_nothing_when_its_server_is_killed() {
    survives(Layout { packed: true, ..LAYOUT });
}

#[test]
fn a_packed_ring_without_tables_loses_nothing_when_its_server_is_killed() {
    survives(Layout { size: 128, packed: true, indirect: false, event_idx: false, ..LAYOUT });
}

/// A server that is killed while it writes leaves every sector as it was or as it should be.
#[test]
fn half_a_sector_is_none() {
    let medium = Medium::anonymous(3);
    for fill in 1..=4 {
        assert_eq!(medium.read(1), [fill - 1; 512]);
        medium.prepare(1, &[0xee; 512]);
        assert_eq!(medium.read(1), [fill - 1; 512], "one that was prepared, and no more");
        medium.write(1, &[fill; 512]);
    }
    assert_eq!([0, 1, 2].map(|sector| medium.read(sector)), [0, 4, 0].map(|fill| [fill; 512]));
}
