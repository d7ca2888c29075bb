//! Throttled devices in virtual time. Knows no core's thread and no real clock.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use spinel_core::{CoreId, Lba, Op};
use spinel_sim::{Prng, Rig, SimSleeper};

use super::*;
use crate::{Limit, NullDevice, Shape};

const SECOND_NS: u64 = 1_000_000_000;
const TURN_NS: u64 = 1_000;
const READ: Op = Op::Read;
const WRITE: Op = Op::Write { fua: false };
const ZEROES: Op = Op::WriteZeroes { unmap: false, fua: false };

fn throttle(limits: &[(Cap, u64, u64)]) -> Throttle {
    let device = Throttle::new(Arc::new(NullDevice::new(Shape::new(512, 1 << 20)).unwrap()));
    set(&device, limits);
    device
}

fn set(device: &Throttle, limits: &[(Cap, u64, u64)]) {
    device.limits().set(limits.iter().map(|(cap, per_second, burst_ms)| (*cap, Some(Limit::new(*per_second, *burst_ms).unwrap()))));
}

/// A guest with one ring: it asks for the next thing whenever fewer than `depth` are in flight, and is served as a queue serves it.
struct Guest<A> {
    channel: Box<dyn Channel>,
    depth: usize,
    /// The how-many-eth request it is: what to do, and to how many blocks.
    ask: A,
    asked: usize,
    /// What ended, by the order of asking.
    ended: Vec<bool>,
    in_flight: usize,
    reads: u64,
    writes: u64,
    bytes: u64,
}

impl<A: FnMut(usize) -> (Op, u32)> Guest<A> {
    fn new(device: &Throttle, depth: u16, ask: A) -> Self {
        let mut core = Core::new(CoreId(0), Box::new(SimSleeper::new().0));
        let channel = device.open(&mut core, depth).unwrap();
        let depth = usize::from(depth);
        Self { channel, depth, ask, asked: 0, ended: Vec::new(), in_flight: 0, reads: 0, writes: 0, bytes: 0 }
    }

    /// One turn; whether anything happened.
    fn turn(&mut self, now: Instant, asks: bool) -> bool {
        let mut done = Completions::new();
        self.channel.poll(now, &mut done);
        for Completion { tag, status } in done.as_slice() {
            assert_eq!(*status, Status::Ok);
            assert!(!std::mem::replace(&mut self.ended[tag.index()], true), "request {} ended twice", tag.0);
            let (op, blocks) = (self.ask)(tag.index());
            self.bytes += u64::from(blocks) * 512;
            *if op == READ { &mut self.reads } else { &mut self.writes } += 1;
        }
        self.in_flight -= done.as_slice().len();
        let room = if asks { self.channel.room().min(self.depth - self.in_flight).min(64) } else { 0 };
        for _ in 0..room {
            let (op, blocks) = (self.ask)(self.asked);
            self.channel.submit(Request { tag: Tag::of(self.asked), op, at: now, start: Lba(0), blocks, segments: &[] });
            self.asked += 1;
            self.ended.push(false);
        }
        self.in_flight += room;
        room + done.as_slice().len() > 0
    }

    fn done(&self) -> u64 {
        self.reads + self.writes
    }
}

/// Turns all guests from `from` to `until`: a turn after another while there is work, else when the first has to be polled.
/// Time that `late` takes is lost whenever all of them slept.
fn run<A: FnMut(usize) -> (Op, u32)>(guests: &mut [Guest<A>], from: Instant, until: Instant, mut late: impl FnMut() -> u64) {
    let mut now = from;
    while now < until {
        let busy = guests.iter_mut().fold(false, |busy, guest| busy | guest.turn(now, true));
        let armed = guests.iter_mut().map(|guest| guest.channel.arm()).min().unwrap();
        now = match armed {
            _ if busy => now.after_ns(TURN_NS),
            Armed::Ready | Armed::Spin => now.after_ns(TURN_NS),
            Armed::Until(due) => {
                assert!(due > now, "a core that was told to sleep until {} at {} would spin", due.ns, now.ns);
                due.after_ns(late())
            }
            Armed::Idle => panic!("lost wake-up at {} ns", now.ns),
        };
    }
}

fn at(ns: u64) -> Instant {
    Instant { ns }
}

fn seconds(count: u64) -> Instant {
    at(count * SECOND_NS)
}

#[test]
fn a_rate_is_kept_to_the_request_even_by_a_core_that_wakes_late() {
    for per_second in [1, 300, 5_000, 17_777] {
        let mut prng = Prng::new(per_second);
        for lateness_ns in [0, 3_000_000] {
            let device = throttle(&[(Cap::Ios, per_second, 10)]);
            let mut guests = [Guest::new(&device, 32, |_| (READ, 8))];
            run(&mut guests, at(0), seconds(10), || prng.within(0..=lateness_ns));
            run(&mut guests, seconds(10), seconds(20), || 0);
            // The burst, the one that may always come, and the rate; the last turn or two may be to come.
            let exact = per_second / 100 + 1 + 20 * per_second;
            let missing = exact - guests[0].done();
            assert!(missing <= 1, "{per_second} a second: {} of {exact}", guests[0].done());
        }
    }
}

#[test]
fn bytes_are_charged_whole_whatever_the_sizes() {
    let sizes = [1, 8, 8, 64, 2_048, 8, 256];
    let per_second = 100 << 20;
    let device = throttle(&[(Cap::Bytes, per_second, 10)]);
    let mut guests = [Guest::new(&device, 16, |number| (if number % 3 == 0 { WRITE } else { READ }, sizes[number % sizes.len()]))];
    run(&mut guests, at(0), seconds(10), || 0);
    let (bytes, exact) = (guests[0].bytes, 10 * per_second);
    // The burst more, and what the last before the debt overdrew.
    assert!((exact..=exact + per_second / 100 + (1 << 20)).contains(&bytes), "{bytes} of {exact}");
    assert!(guests[0].writes > 0);
}

#[test]
fn a_burst_comes_at_once_after_a_pause_and_no_more_however_long_that_was() {
    let device = throttle(&[(Cap::Ios, 1_000, 50), (Cap::ReadIos, 1_000_000, 0)]);
    let mut guest = Guest::new(&device, 512, |_| (WRITE, 8));
    for start in [seconds(1), seconds(2), seconds(500)] {
        let before = guest.done();
        guest.turn(start, false);
        for turn in 1..=900 {
            guest.turn(start.after_ns(turn * TURN_NS), true);
        }
        let kept = u64::from(before > 0);
        assert_eq!(guest.done() - before, 51 + kept, "50 ms of 1,000 a second, the one that always may, and a place in line that was kept");
    }
}

#[test]
fn channels_share_a_rate_evenly_whatever_their_depth_and_order() {
    for caps in [&[(Cap::Ios, 1_000, 10)][..], &[(Cap::Bytes, 4_096_000, 10)], &[(Cap::WriteIos, 1_000, 10)]] {
        let device = throttle(caps);
        let mut guests = [256, 1, 8].map(|depth| Guest::new(&device, depth, |_| (WRITE, 8)));
        run(&mut guests, at(0), seconds(1), || 0);
        let before = guests.each_ref().map(|guest| guest.done());
        run(&mut guests, seconds(1), seconds(11), || 0);
        let [deep, single, middle] = std::array::from_fn(|index| guests[index].done() - before[index]);
        assert!((9_990..=10_010).contains(&(deep + single + middle)), "{caps:?}: {deep}, {single} and {middle} are not 10,000");
        if caps[0].0 != Cap::WriteIos {
            assert!(deep.abs_diff(single) <= 20 && deep.abs_diff(middle) <= 20, "{caps:?}: {deep}, {single} and {middle}");
        }
        assert!(single > 30, "{caps:?}: {single}");
    }
}

#[test]
fn a_cap_on_one_direction_does_not_hold_the_other_back() {
    for (cap, limited, free) in [(Cap::ReadIos, READ, WRITE), (Cap::ReadBytes, READ, WRITE), (Cap::WriteIos, WRITE, READ)] {
        let per_second = if cap == Cap::ReadBytes { 100 * 4096 } else { 100 };
        let device = throttle(&[(cap, per_second, 10)]);
        // 32 of the one and 32 of the other, each asking again when one of its own ended: in one ring, whose order is theirs.
        let mut ring = Guest::new(&device, 64, |_| (READ, 8));
        let mut wanted: std::collections::VecDeque<Op> = (0..64).map(|number| if number % 2 == 0 { limited } else { free }).collect();
        let mut ops = Vec::new();
        let (mut slow, mut fast, mut now) = (0, 0, at(0));
        while now < seconds(2) {
            let mut done = Completions::new();
            ring.channel.poll(now, &mut done);
            for completion in done.as_slice() {
                let op: Op = ops[completion.tag.index()];
                wanted.push_back(op);
                *if op == limited { &mut slow } else { &mut fast } += 1;
            }
            while ring.channel.room() > 0
                && let Some(op) = wanted.pop_front()
            {
                ring.channel.submit(Request { tag: Tag::of(ops.len()), op, at: now, start: Lba(0), blocks: 8, segments: &[] });
                ops.push(op);
            }
            now = now.after_ns(100_000);
        }
        assert!((200..=202).contains(&slow), "{cap:?}: {slow}");
        assert!(fast > 32 * 19_000, "{cap:?}: {fast} of 32 in each of 20,000 turns");
    }
}

#[test]
fn a_change_concerns_what_is_under_way_too() {
    let device = throttle(&[(Cap::ReadIos, 1, 0)]);
    let mut guests = [Guest::new(&device, 64, |_| (READ, 8))];
    run(&mut guests, at(0), seconds(5), || 0);
    assert_eq!((guests[0].done(), guests[0].in_flight), (5, 64));
    set(&device, &[(Cap::ReadIos, 1_000, 0)]);
    run(&mut guests, seconds(5), seconds(6), || 0);
    let done = guests[0].done();
    assert!((1_000..=5 + 64 + 64 + 1_000).contains(&done), "{done}: nobody waits for a minute any more");
    device.limits().set([(Cap::ReadIos, None)]);
    assert!(guests[0].turn(seconds(6), false));
    guests[0].turn(seconds(6).after_ns(TURN_NS), false);
    assert_eq!(guests[0].in_flight, 0, "lifting it lets go of what was held");
    let before = guests[0].done();
    let mut now = seconds(6).after_ns(TURN_NS);
    for _ in 0..1_000 {
        now = now.after_ns(TURN_NS);
        guests[0].turn(now, true);
    }
    assert!(guests[0].done() - before >= 999 * 64 / 2, "nothing limits it");
    assert!(guests[0].ended.iter().filter(|ended| **ended).count() as u64 == guests[0].done(), "each ended once");
}

#[test]
fn a_core_that_found_no_room_does_not_sleep_if_there_is_some_when_it_arms() {
    let device = throttle(&[(Cap::Ios, 1, 0)]);
    let mut guests = [(); 2].map(|()| Guest::new(&device, 4, |_| (READ, 8)));
    guests[1].turn(at(0), false);
    guests[0].turn(at(0), true);
    assert_eq!(guests[1].channel.room(), 0);
    // As if another core had given back what it had taken in advance.
    set(&device, &[(Cap::Ios, 1, 0)]);
    assert_eq!(guests[1].channel.arm(), Armed::Ready);
    guests[1].turn(at(1), false);
    assert_eq!((guests[1].channel.room(), guests[1].channel.arm()), (1, Armed::Idle));
}

#[test]
fn what_the_child_still_has_when_limits_change_is_not_held_by_the_old_ones() {
    let device = throttle(&[(Cap::ReadIos, 1, 0)]);
    let mut guest = Guest::new(&device, 8, |_| (READ, 8));
    guest.turn(at(0), true);
    set(&device, &[(Cap::ReadIos, 2, 0)]);
    guest.turn(at(TURN_NS), false);
    assert_eq!((guest.done(), guest.in_flight), (8, 0));
}

#[test]
fn a_limit_that_is_lifted_opens_the_room_of_a_channel_with_nothing_in_flight() {
    let device = throttle(&[(Cap::Ios, 1, 0)]);
    let mut guest = Guest::new(&device, 4, |_| (READ, 8));
    guest.turn(seconds(1), true);
    guest.turn(seconds(1).after_ns(1), true);
    assert_eq!((guest.in_flight, guest.channel.room(), guest.channel.arm()), (0, 0, Armed::Until(seconds(2))));
    device.limits().set([(Cap::Ios, None)]);
    guest.turn(seconds(1).after_ns(2), false);
    assert_eq!((guest.channel.room(), guest.channel.arm()), (4, Armed::Idle));
}

#[test]
fn a_channel_that_ends_lets_go_of_everything_and_what_it_owes_stays_owed() {
    let device = throttle(&[(Cap::WriteIos, 10, 0), (Cap::Ios, 100, 1_000)]);
    let mut guest = Guest::new(&device, 8, |_| (WRITE, 8));
    for turn in 0..3 {
        guest.turn(at(turn * TURN_NS), true);
    }
    assert_eq!((guest.done(), guest.in_flight), (1, 8));
    guest.channel.let_go();
    guest.turn(at(4 * TURN_NS), false);
    assert_eq!(guest.in_flight, 0);
    let mut next = Guest::new(&device, 1, |_| (WRITE, 8));
    next.turn(at(5 * TURN_NS), true);
    next.turn(at(6 * TURN_NS), true);
    assert_eq!(next.channel.arm(), Armed::Until(at(900_000_000)), "nine were done before");
}

#[test]
fn a_channel_that_does_not_end_after_all_keeps_its_pace_again() {
    let device = throttle(&[(Cap::WriteIos, 10, 0)]);
    let mut guest = Guest::new(&device, 8, |_| (WRITE, 8));
    guest.turn(at(0), true);
    guest.channel.let_go();
    guest.channel.hold_on();
    guest.turn(at(TURN_NS), true);
    guest.turn(at(2 * TURN_NS), true);
    assert!(guest.in_flight > 0 && guest.channel.arm() > Armed::Ready, "what comes from here on is held back");
}

#[test]
fn a_place_in_line_is_given_back_by_a_channel_that_ends() {
    let device = throttle(&[(Cap::Ios, 1, 0)]);
    let mut channels = [(); 3].map(|()| Guest::new(&device, 1, |_| (WRITE, 8)));
    channels[0].turn(at(0), true);
    for (index, due) in [(1, 1), (2, 2)] {
        channels[index].turn(at(0), true);
        assert_eq!(channels[index].channel.arm(), Armed::Until(seconds(due)));
    }
    channels[2].channel.let_go();
    assert_eq!((channels[2].channel.room(), channels[2].channel.arm()), (1, Armed::Ready), "what it still has to do is not paced");
    channels[0].turn(at(TURN_NS), true);
    assert_eq!(channels[0].channel.arm(), Armed::Until(seconds(2)));
}

#[test]
fn a_flush_is_not_charged_and_a_discard_is_one_request_without_bytes() {
    let count = |caps: &[(Cap, u64, u64)], op| {
        let device = throttle(caps);
        let mut guest = Guest::new(&device, 64, move |_| (op, 2_048));
        for turn in 0..100 {
            guest.turn(at(turn * TURN_NS), true);
        }
        guest.done()
    };
    // One in each turn at least: how many more would fit is guessed from the limit.
    let full = 90;
    for op in [Op::Flush, Op::Discard, ZEROES] {
        assert!(count(&[(Cap::Bytes, 1, 0), (Cap::WriteBytes, 1, 0), (Cap::ReadBytes, 1, 0)], op) >= full, "{op:?}");
    }
    for op in [Op::Discard, ZEROES, WRITE] {
        assert_eq!((count(&[(Cap::Ios, 1, 0)], op), count(&[(Cap::WriteIos, 1, 0)], op)), (1, 1), "{op:?}");
        assert!(count(&[(Cap::ReadIos, 1, 0)], op) >= full, "{op:?}");
    }
    assert!(count(&[(Cap::Ios, 1, 0), (Cap::WriteIos, 1, 0), (Cap::ReadIos, 1, 0)], Op::Flush) >= full);
}

/// A device that tells where the last of its channels lies.
struct Probe(NullDevice, AtomicUsize);

fn place_of(channel: &dyn Channel) -> usize {
    std::ptr::from_ref(channel).addr()
}

impl Device for Probe {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let channel = self.0.open(core, depth)?;
        self.1.store(place_of(&*channel), Ordering::Relaxed);
        Ok(channel)
    }
}

#[test]
fn without_a_limit_the_childs_own_channel_is_handed_out() {
    let mut rig = Rig::new(Prng::new(1), 4096);
    let probe = Arc::new(Probe(NullDevice::new(Shape::new(512, 8)).unwrap(), AtomicUsize::new(0)));
    let device = Throttle::new(Arc::clone(&probe) as _);
    let mut is_childs = || place_of(&*device.open(&mut rig.core, 4).unwrap()) == probe.1.load(Ordering::Relaxed);
    assert!(is_childs());
    set(&device, &[(Cap::WriteBytes, 1, 0)]);
    assert!(!is_childs());
    device.limits().set([(Cap::WriteBytes, None)]);
    assert!(is_childs());
    assert_eq!(device.geometry(), probe.geometry());
}

proptest! {
    /// Whatever the cores' turns, no stretch of time sees more than the rate, the burst, one more, and what cores took at the same moment.
    #[test]
    fn no_stretch_of_time_sees_more_than_the_rate_and_the_burst(
        per_second in 1_000_u64..1_000_000,
        burst_ms in 0_u64..5,
        turns in proptest::collection::vec((0_usize..3, 1_u64..2_000_000), 1..400),
    ) {
        let device = throttle(&[(Cap::Ios, per_second, burst_ms)]);
        let mut guests = [64, 3, 1].map(|depth| Guest::new(&device, depth, |_| (READ, 8)));
        let mut now = at(0);
        let mut starts = Vec::new();
        for (index, pause_ns) in turns {
            now = now.after_ns(pause_ns);
            let before = guests[index].asked;
            guests[index].turn(now, true);
            starts.push((now, u64::try_from(guests[index].asked - before).unwrap()));
        }
        let allowed = |time_ns: u64| time_ns * per_second / SECOND_NS + burst_ms * per_second / 1_000;
        for (first, (from, _)) in starts.iter().enumerate() {
            let mut sum = 0;
            for (until, count) in &starts[first..] {
                sum += count;
                // One that always may, and for each channel the place that it had paid for and kept.
                prop_assert!(sum <= allowed(until.since_ns(*from)) + 2 + 3, "{sum} from {} to {}", from.ns, until.ns);
            }
        }
    }
}
