//! A queue whose process is killed, and the one that serves its ring next: what was in flight is done again, in its order, and nothing else.

use std::sync::Arc;

use spinel_core::mem::Region;
use spinel_core::{OpKind, Progress};
use spinel_sim::guest::{GuestRequest, Layout, SimGuest};
use spinel_vhost::{AnyRing, RecordPlace, RingError};
use spinel_volume::{Cap, Limit, Throttle};

use crate::common::held::{HeldDevice, Stage};
use crate::common::medium::Medium;
use crate::common::{Bench, find};
use crate::layouts;

pub(crate) const SIZE: u16 = 32;
const SECTORS: u64 = 128;

/// What outlives the process that serves: the medium and the record. The guest comes and goes with its bench.
pub(crate) struct World {
    layout: Layout,
    medium: Arc<Medium>,
    place: RecordPlace,
    pub(crate) device: Arc<HeldDevice>,
}

impl World {
    pub(crate) fn new(layout: Layout) -> (Self, Bench) {
        let layout = Layout { size: SIZE, ..layout };
        let medium = Arc::new(Medium::anonymous(SECTORS));
        let place = RecordPlace { region: Region::anonymous(RecordPlace::bytes(SIZE)).unwrap(), offset: 0 };
        let device = HeldDevice::over(Arc::clone(&medium));
        let world = Self { layout, medium, place, device };
        let region = Region::anonymous(SimGuest::memory_bytes(layout)).unwrap();
        let bench = world.serve(SimGuest::new(region, layout));
        (world, bench)
    }

    fn serve(&self, guest: SimGuest) -> Bench {
        self.try_serve(guest).unwrap()
    }

    pub(crate) fn try_serve(&self, guest: SimGuest) -> Result<Bench, RingError> {
        Bench::on_record(Arc::clone(&self.device) as _, guest, self.layout, &self.place)
    }

    /// The process that serves is gone from one moment to the next, and another one has come.
    pub(crate) fn kill(&self, bench: Bench) -> Bench {
        self.serve(bench.guest)
    }

    pub(crate) fn ring(&self, guest: &SimGuest) -> AnyRing {
        find(guest, self.layout)
    }

    /// 16 bits of the record at a place of its layout.
    pub(crate) fn get(&self, offset: u64) -> u16 {
        let mut bytes = [0; 2];
        self.place.region.read(offset, &mut bytes).unwrap();
        u16::from_ne_bytes(bytes)
    }

    pub(crate) fn set(&self, offset: u64, value: u16) {
        self.place.region.write(offset, &value.to_ne_bytes()).unwrap();
    }

    /// Where an entry begins: a head's, or one of a packed ring's list.
    pub(crate) fn entry(&self, at: u16) -> u64 {
        if self.layout.packed { 32 + 32 * u64::from(at) } else { 16 + 16 * u64::from(at) }
    }

    /// Entries that say of a chain that it is in flight.
    fn flags(&self) -> usize {
        (0..SIZE).filter(|at| self.get(self.entry(*at)) & 0xff == 1).count()
    }

    fn fill_of(&self, sector: u64) -> u8 {
        self.medium.read(sector)[0]
    }
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(region.len_bytes()).unwrap()];
    region.read(0, &mut bytes).unwrap();
    bytes
}

/// Posts a write of one sector, all bytes of which are `fill`.
fn write(bench: &mut Bench, sector: u64, fill: u8) -> u16 {
    let head = bench.guest.next_head().unwrap();
    bench.guest.region().write(bench.guest.data_at(head), &[fill; 512]).unwrap();
    bench.guest.post(GuestRequest::write(sector, 512))
}

/// Posts reads of these sectors, and lets the queue take them.
pub(crate) fn read(bench: &mut Bench, sectors: &[u64]) -> Vec<u16> {
    let heads = sectors.iter().map(|sector| bench.guest.post(GuestRequest::read(*sector, 512))).collect();
    publish(bench);
    heads
}

fn publish(bench: &mut Bench) {
    bench.guest.publish();
    bench.turn();
    bench.turn();
}

/// The heads of all that has finished, each of them well.
fn reap(bench: &mut Bench) -> Vec<u16> {
    let finished: Vec<_> = std::iter::from_fn(|| bench.guest.reap()).collect();
    assert!(finished.iter().all(|finished| finished.status == 0));
    finished.iter().map(|finished| finished.head).collect()
}

/// The blocks at which what the device was asked begins.
fn asked(world: &World) -> Vec<u64> {
    world.device.take_asked().into_iter().map(|(_, start)| start).collect()
}

/// Turns, and lets everything complete that is to be done, until the queue has come so far.
fn finish_until(world: &World, bench: &mut Bench, progress: Progress) -> Vec<u16> {
    let mut heads = Vec::new();
    for _ in 0..1_000 {
        world.device.finish_all();
        let now = bench.turn();
        heads.extend(reap(bench));
        if now == progress {
            assert_eq!(world.flags(), 0, "nothing is left on record");
            return heads;
        }
    }
    panic!("{} have finished, and it goes on", heads.len());
}

fn finish_all(world: &World, bench: &mut Bench) -> Vec<u16> {
    finish_until(world, bench, Progress::Idle)
}

/// A queue that takes index 0 and counter 0 of its record for none at all loses this request (SPDK #3766).
#[test]
fn a_request_at_index_0_with_counter_0_is_done_again() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        let head = write(&mut bench, 5, 0xa5);
        publish(&mut bench);
        assert_eq!((head, asked(&world)), (0, vec![5]));
        // In flight, and a counter of zero: nothing else tells it from an entry that was never used.
        assert_eq!([0, 8, 10, 12, 14].map(|at| world.get(world.entry(0) + at)), [1, 0, 0, 0, 0]);
        let mut bench = world.kill(bench);
        bench.turn();
        assert_eq!(asked(&world), [5], "{layout:?}");
        assert_eq!(finish_all(&world, &mut bench), [head]);
        assert_eq!(world.fill_of(5), 0xa5);
    }
}

#[test]
fn what_is_in_flight_is_done_again_the_oldest_first_and_nothing_else() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        let heads = read(&mut bench, &[10, 20, 30, 40, 50, 60]);
        for sector in [40, 10] {
            world.device.finish(sector);
            bench.turn();
        }
        assert_eq!(reap(&mut bench), [heads[3], heads[0]]);
        // These two were posted after some had ended, at the places of those, and one more is not taken by anybody yet.
        let more = read(&mut bench, &[15, 5]);
        let new = bench.guest.post(GuestRequest::read(70, 512));
        bench.guest.publish();
        assert_eq!(asked(&world), [10, 20, 30, 40, 50, 60, 15, 5]);
        let mut bench = world.kill(bench);
        bench.turn();
        assert_eq!(asked(&world), [20, 30, 50, 60, 15, 5], "{layout:?}");
        bench.turn();
        assert_eq!(asked(&world), [70], "what is new comes behind all of these");
        let mut finished = finish_all(&world, &mut bench);
        finished.sort_unstable();
        let mut expected = [&heads[1..3], &heads[4..], &more, &[new]].concat();
        expected.sort_unstable();
        assert_eq!(finished, expected);
    }
}

#[test]
fn requests_of_several_pieces_and_all_kinds_survive_any_number_of_kills() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        let head = bench.guest.next_head().unwrap();
        let data: Vec<u8> = (0..=255).cycle().take(2048).collect();
        bench.guest.region().write(bench.guest.data_at(head), &data).unwrap();
        bench.guest.post(GuestRequest { pieces: 3, ..GuestRequest::write(8, 2048) });
        bench.guest.post(GuestRequest::flush());
        // One that needs no device is over at once, in the middle of the batch.
        let id = bench.guest.post(GuestRequest { kind: 8, ..GuestRequest::read(0, 20) });
        let read = bench.guest.post(GuestRequest { pieces: 2, ..GuestRequest::read(100, 1024) });
        publish(&mut bench);
        assert_eq!(reap(&mut bench), [id]);
        let all = [(OpKind::Write, 8), (OpKind::Flush, 0), (OpKind::Read, 100)];
        for _ in 0..5 {
            assert_eq!(world.device.take_asked(), all, "{layout:?}");
            bench = world.kill(bench);
            bench.turn();
        }
        world.device.finish(100);
        bench.turn();
        assert_eq!(reap(&mut bench), [read]);
        bench = world.kill(bench);
        bench.turn();
        assert_eq!(finish_all(&world, &mut bench).len(), 2);
        assert_eq!([8, 9, 10, 11].map(|sector| world.medium.read(sector)).as_flattened(), data);
    }
}

#[test]
fn a_ring_goes_round_many_times_with_a_kill_every_few_turns() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        let (mut posted, mut finished) = (0, 0);
        for round in 0_u64.. {
            // The indexes of a split ring have wrapped then.
            if posted > 70_000 {
                break;
            }
            while bench.guest.room() > 0 {
                bench.guest.post(GuestRequest::read(posted % 100, 512));
                posted += 1;
            }
            bench.guest.publish();
            let mut turn = 0;
            world.device.each(|held| {
                turn += 1;
                held.stage = if (turn + round) % 3 == 0 { Stage::Over } else { Stage::Asked };
            });
            bench.turn();
            finished += u64::try_from(reap(&mut bench).len()).unwrap();
            if round % 16 == 0 {
                bench = world.kill(bench);
                bench.turn();
            }
        }
        finished += u64::try_from(finish_all(&world, &mut bench).len()).unwrap();
        assert_eq!(finished, posted, "each exactly once");
        assert!(bench.events.try_recv().is_err());
    }
}

#[test]
fn a_write_waits_for_one_in_flight_to_the_same_place_and_is_never_undone_by_it() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        write(&mut bench, 7, 1);
        write(&mut bench, 7, 2);
        write(&mut bench, 9, 3);
        publish(&mut bench);
        assert_eq!(asked(&world), [7], "the second waits, and whatever stands behind it");
        // The first one has reached the medium when the process dies: it is done again, and only then the second one is.
        world.device.each(|held| held.stage = Stage::Executed);
        bench.turn();
        assert_eq!(world.fill_of(7), 1);
        let mut bench = world.kill(bench);
        bench.turn();
        bench.turn();
        assert_eq!(asked(&world), [7], "{layout:?}");
        world.device.finish_all();
        bench.turn();
        bench.turn();
        assert_eq!((asked(&world), reap(&mut bench).len()), (vec![7, 9], 1));
        world.device.finish(7);
        bench.turn();
        assert_eq!(world.fill_of(7), 2);
        let mut bench = world.kill(bench);
        bench.turn();
        assert_eq!(asked(&world), [9], "neither of them is done again");
        finish_all(&world, &mut bench);
        assert_eq!((world.fill_of(7), world.fill_of(9)), (2, 3));
    }
}

#[test]
fn writes_to_one_place_that_another_back_end_had_in_flight_together_come_one_after_the_other() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        write(&mut bench, 7, 1);
        let second = write(&mut bench, 8, 2);
        publish(&mut bench);
        // The second one's header says the first one's sector now.
        bench.guest.region().write(bench.guest.header_at(second) + 8, &7_u64.to_le_bytes()).unwrap();
        asked(&world);
        let mut bench = world.kill(bench);
        for expected in [vec![7], vec![7]] {
            bench.turn();
            bench.turn();
            assert_eq!(asked(&world), expected, "{layout:?}");
            world.device.finish_all();
            bench.turn();
        }
        assert_eq!(world.fill_of(7), 2);
        finish_all(&world, &mut bench);
    }
}

/// Three reads in flight, and the first two of them completed: the guest's memory and the record before and after.
struct Halfway {
    world: World,
    guest: SimGuest,
    heads: Vec<u16>,
    memory_before: Vec<u8>,
    memory_after: Vec<u8>,
    record_before: Vec<u8>,
}

impl Halfway {
    fn new(layout: Layout) -> Self {
        let (world, mut bench) = World::new(layout);
        let heads = read(&mut bench, &[10, 20, 30]);
        let (memory_before, record_before) = (contents(bench.guest.region()), contents(&world.place.region));
        world.device.finish(10);
        world.device.finish(20);
        bench.turn();
        let memory_after = contents(bench.guest.region());
        asked(&world);
        Self { world, guest: bench.guest, heads, memory_before, memory_after, record_before }
    }

    /// What the process had put on record that was killed between saying what it completes and taking that off the record.
    fn announced(&self) {
        let Self { world, heads, record_before, .. } = self;
        let place = &world.place.region;
        place.write(0, record_before).unwrap();
        if !world.layout.packed {
            // The list of what has ended: its newest, and the one before that. The used index is still the old one.
            world.set(12, heads[1]);
            world.set(world.entry(heads[1]) + 6, heads[0]);
            return;
        }
        // The entries of both chains are in the list of free ones, the second chain's first, and the place has moved on.
        let each = if world.layout.indirect { 1 } else { 3 };
        let (old_free, old_used) = (world.get(12), world.get(16));
        assert_eq!((old_free, old_used), (3 * each, 0));
        world.set(world.entry(each - 1) + 2, old_free);
        world.set(world.entry(2 * each - 1) + 2, 0);
        world.set(12, each);
        world.set(14, old_free);
        world.set(16, 2 * each);
        world.set(18, old_used);
    }
}

#[test]
fn what_was_published_and_not_settled_is_not_repeated() {
    for layout in layouts() {
        let state = Halfway::new(layout);
        state.announced();
        state.guest.region().write(0, &state.memory_after).unwrap();
        let Halfway { world, guest, heads, .. } = state;
        let mut bench = world.serve(guest);
        assert_eq!(world.flags(), 1);
        assert_eq!(reap(&mut bench), heads[..2]);
        bench.turn();
        assert_eq!(asked(&world), [30], "{layout:?}");
        assert_eq!(finish_all(&world, &mut bench), [heads[2]]);
        assert_eq!(bench.stop().base, bench.guest.base());
    }
}

#[test]
fn what_was_announced_and_not_published_is_repeated() {
    for layout in layouts() {
        let state = Halfway::new(layout);
        state.announced();
        state.guest.region().write(0, &state.memory_before).unwrap();
        let Halfway { world, guest, heads, .. } = state;
        let mut bench = world.serve(guest);
        assert_eq!(world.flags(), 3);
        bench.turn();
        assert_eq!(asked(&world), [10, 20, 30], "{layout:?}");
        assert!(reap(&mut bench).is_empty());
        assert_eq!(finish_all(&world, &mut bench), heads);
    }
}

#[test]
fn a_queue_that_is_stopped_while_requests_are_owed_finishes_them_and_nothing_else() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        write(&mut bench, 7, 1);
        read(&mut bench, &[10, 20]);
        let new = bench.guest.post(GuestRequest::read(30, 512));
        bench.guest.publish();
        asked(&world);
        let mut bench = world.kill(bench);
        bench.queue.as_mut().unwrap().stop();
        let finished = finish_until(&world, &mut bench, Progress::Stopped).len();
        assert_eq!((asked(&world), finished), (vec![7, 10, 20], 3), "{layout:?}");
        let base = bench.stop().base;
        assert_eq!(base, bench.guest.base());
        assert_eq!(base, world.ring(&bench.guest).on_record(&world.place, false).unwrap().base(), "the record says the same");
        let mut bench = world.serve(bench.guest);
        publish(&mut bench);
        assert_eq!((asked(&world), finish_all(&world, &mut bench)), (vec![30], vec![new]));
    }
}

#[test]
fn a_queue_that_is_stopped_while_a_write_waits_finishes_both() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        write(&mut bench, 7, 1);
        write(&mut bench, 7, 2);
        publish(&mut bench);
        bench.queue.as_mut().unwrap().stop();
        for _ in 0..3 {
            assert_eq!(bench.turn(), Progress::Waiting);
        }
        let finished = finish_until(&world, &mut bench, Progress::Stopped).len();
        assert_eq!((asked(&world), finished, world.fill_of(7)), (vec![7, 7], 2, 2), "{layout:?}");
        assert_eq!(bench.stop().base, bench.guest.base());
    }
}

#[test]
fn what_is_owed_does_not_wait_for_a_pace_when_the_queue_stops() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        read(&mut bench, &[10, 20, 30, 40]);
        let device = Throttle::new(Arc::clone(&world.device) as _);
        device.limits().set([(Cap::Ios, Some(Limit::new(1, 0).unwrap()))]);
        let mut bench = Bench::on_record(Arc::new(device), bench.guest, world.layout, &world.place).unwrap();
        bench.turn();
        bench.queue.as_mut().unwrap().stop();
        for _ in 0..10 {
            world.device.finish_all();
            bench.turn();
        }
        assert_eq!(reap(&mut bench).len(), 4, "{layout:?}");
        assert_eq!(bench.turn(), Progress::Stopped);
    }
}

#[test]
fn a_ring_that_begins_anew_forgets_what_is_on_record() {
    for layout in layouts() {
        let (world, mut bench) = World::new(layout);
        read(&mut bench, &[10, 20, 30]);
        drop(bench);
        let region = Region::anonymous(SimGuest::memory_bytes(world.layout)).unwrap();
        let guest = SimGuest::new(region, world.layout);
        let ring = world.ring(&guest).on_record(&world.place, true).unwrap();
        assert_eq!((ring.owed(), world.flags()), (0, 0));
        assert_eq!(ring.base(), if layout.packed { 0x8000_8000 } else { 0 });
        drop(ring);
        asked(&world);
        let mut bench = world.serve(guest);
        read(&mut bench, &[40]);
        assert_eq!(asked(&world), [40], "{layout:?}");
        finish_all(&world, &mut bench);
    }
}

#[test]
fn a_ring_of_one_descriptor_loses_nothing() {
    for layout in layouts().filter(|layout| layout.indirect) {
        let layout = Layout { size: 1, ..layout };
        let place = RecordPlace { region: Region::anonymous(RecordPlace::bytes(1)).unwrap(), offset: 0 };
        let device = HeldDevice::over(Arc::new(Medium::anonymous(SECTORS)));
        let guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout);
        let mut bench = Bench::on_record(Arc::clone(&device) as _, guest, layout, &place).unwrap();
        for round in 0..10 {
            read(&mut bench, &[round]);
            assert_eq!(device.take_asked(), [(OpKind::Read, round)]);
            bench = Bench::on_record(Arc::clone(&device) as _, bench.guest, layout, &place).unwrap();
            bench.turn();
            assert_eq!(device.take_asked(), [(OpKind::Read, round)], "{layout:?}");
            device.finish_all();
            bench.turn();
            assert_eq!(reap(&mut bench), [0]);
            bench = Bench::on_record(Arc::clone(&device) as _, bench.guest, layout, &place).unwrap();
            bench.turn();
            assert!(device.take_asked().is_empty());
        }
    }
}

/// A fault of the guest's ends the queue; what it owes stays on record and is not executed.
#[test]
fn a_fault_among_what_is_owed_ends_the_queue_and_no_more() {
    for layout in layouts().filter(|layout| layout.indirect) {
        let (world, mut bench) = World::new(layout);
        let heads = read(&mut bench, &[10, 20, 30]);
        asked(&world);
        // The second one's table is not where it was any more.
        let headers = bench.guest.data_at(0) - 4096 * u64::from(SIZE);
        let table = bench.guest.region().array::<[u64; 2]>(headers + 4096 * u64::from(heads[1]) + 64, 1).unwrap();
        table.set(0, [1, table.get(0)[1]]);
        let mut bench = world.kill(bench);
        bench.turn();
        assert!(bench.events.try_recv().is_ok(), "{layout:?}");
        assert_eq!(asked(&world), [10]);
        world.device.finish_all();
        bench.turn();
        assert_eq!(reap(&mut bench), heads[..1]);
        assert_eq!(bench.turn(), Progress::Idle);
        assert_eq!(world.flags(), 2);
        bench.stop();
    }
}
