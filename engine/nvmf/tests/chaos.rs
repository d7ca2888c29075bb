//! Hosts that work and check what they read, while everything around them changes: nothing is lost, nothing hangs, and nothing
//! is left when all have gone.

mod common;

use std::collections::BTreeMap;

use common::host::{Answer, HOST, Host, OTHER, Talk, Who};
use common::world::{SUBSYSTEM, World};
use spinel_nvme::admin::Abort;
use spinel_nvme::command::{Fused, IoOpcode};
use spinel_nvme::io::{Blocks, flush};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::{StatusCode, StatusField};
use spinel_nvmf::target::{AnaState, ListenerSpec, Options, Pending};
use spinel_sim::Prng;

/// Blocks that one worker has for itself.
const OWN_BLOCKS: u64 = 256;

/// What a worker waits for.
enum Wanted {
    Read { start: u64, blocks: u64 },
    Write { start: u64, blocks: u64, value: u8 },
    Other,
}

/// A queue that writes and reads blocks of its own, and remembers what they hold.
struct Worker {
    who: Who,
    port: usize,
    admin: Host,
    io: Host,
    first: u64,
    /// What each block holds, or may hold: whatever was written last, or was under way when the connection broke.
    content: Vec<Vec<u8>>,
    wanted: BTreeMap<u16, Wanted>,
    busy: Vec<bool>,
    checked: u64,
}

impl Worker {
    fn new(world: &mut World, number: u64, prng: &mut Prng) -> Self {
        let who = if number.is_multiple_of(2) { HOST } else { OTHER };
        let port = usize::from(number % 4 > 1);
        let (admin, io) = connect(world, &who, port, prng);
        let content = vec![vec![0]; OWN_BLOCKS.try_into().unwrap()];
        let busy = vec![false; content.len()];
        Self { who, port, admin, io, first: number * OWN_BLOCKS, content, wanted: BTreeMap::new(), busy, checked: 0 }
    }

    fn range(&self, prng: &mut Prng) -> Option<(u64, u64)> {
        let blocks = [1, 1, 1, 8, 9, 32][usize::try_from(prng.within(0..=5)).unwrap()];
        let start = prng.within(0..=OWN_BLOCKS - blocks);
        let free = (start..start + blocks).all(|block| !self.busy[usize::try_from(block).unwrap()]);
        free.then_some((start, blocks))
    }

    fn set_busy(&mut self, start: u64, blocks: u64, busy: bool) {
        (start..start + blocks).for_each(|block| self.busy[usize::try_from(block).unwrap()] = busy);
    }

    /// Begins something at random.
    fn begin(&mut self, prng: &mut Prng) {
        if self.wanted.len() > 24 {
            return;
        }
        let Some((start, blocks)) = self.range(prng) else { return };
        let (at, count) = (self.first + start, u32::try_from(blocks).unwrap());
        let value = u8::try_from(prng.within(1..=255)).unwrap();
        let data = vec![value; usize::try_from(blocks * 512).unwrap()];
        match prng.within(0..=9) {
            0..=3 => {
                let id = self.io.read(at, count);
                self.wanted.insert(id, Wanted::Read { start, blocks });
            }
            4..=7 => {
                let id = self.io.write(at, &data, data.len() <= 4096 && value % 2 == 0);
                self.wanted.insert(id, Wanted::Write { start, blocks, value });
            }
            8 => {
                let id = self.io.send(flush(1), &[], &[]);
                self.wanted.insert(id, Wanted::Other);
                return;
            }
            _ => {
                let command = Blocks::new(at, count).command(IoOpcode::WriteZeroes, 1, Sgl::transport(0));
                let id = self.io.send(command, &[], &[]);
                self.wanted.insert(id, Wanted::Write { start, blocks, value: 0 });
            }
        }
        self.set_busy(start, blocks, true);
    }

    /// Takes what has come.
    fn collect(&mut self) {
        self.io.take();
        self.admin.take();
        let ids: Vec<u16> = self.wanted.keys().copied().collect();
        for id in ids {
            if let Some(answer) = self.io.answer(id) {
                let wanted = self.wanted.remove(&id).unwrap();
                self.settle(wanted, Some(&answer));
            }
        }
    }

    fn settle(&mut self, wanted: Wanted, answer: Option<&Answer>) {
        let done = answer.is_some_and(|answer| answer.status.is_success());
        if let Some(answer) = answer {
            assert!(done || expected(answer.status), "{}", answer.status);
        }
        match wanted {
            Wanted::Other => {}
            Wanted::Read { start, blocks } => {
                self.set_busy(start, blocks, false);
                if let Some(answer) = answer.filter(|_| done) {
                    for (block, bytes) in (start..).zip(answer.data.chunks(512)) {
                        let may = &mut self.content[usize::try_from(block).unwrap()];
                        assert!(
                            may.contains(&bytes[0]) && bytes.iter().all(|byte| *byte == bytes[0]),
                            "block {block}: {} of {may:?}",
                            bytes[0]
                        );
                        *may = vec![bytes[0]];
                        self.checked += 1;
                    }
                }
            }
            Wanted::Write { start, blocks, value } => {
                self.set_busy(start, blocks, false);
                for block in start..start + blocks {
                    let may = &mut self.content[usize::try_from(block).unwrap()];
                    if done {
                        *may = vec![value];
                    } else {
                        may.push(value);
                    }
                }
            }
        }
    }

    /// Breaks both connections, at once or one after the other, and comes back.
    fn come_back(&mut self, world: &mut World, prng: &mut Prng) {
        if prng.within(0..=1) == 0 {
            self.io.end.end();
        }
        self.admin.end.end();
        self.io.end.end();
        self.collect();
        for (_, wanted) in std::mem::take(&mut self.wanted) {
            self.settle(wanted, None);
        }
        // What is under way ends before anybody looks.
        while !self.io.end.is_closed() {
            world.turn();
        }
        world.turns(5);
        (self.admin, self.io) = connect(world, &self.who, self.port, prng);
    }
}

/// Failures that changes around a host bring.
fn expected(status: StatusField) -> bool {
    matches!(
        status.code(),
        StatusCode::ANA_INACCESSIBLE
            | StatusCode::ABORT_REQUESTED
            | StatusCode::COMPARE_FAILURE
            | StatusCode::ABORTED_FUSED_FAILED
            | StatusCode::ABORTED_FUSED_MISSING
    )
}

fn connect(world: &mut World, who: &Who, port: usize, prng: &mut Prng) -> (Host, Host) {
    let digests = |prng: &mut Prng| prng.within(0..=1) == 0;
    let talk = Talk { header_digest: digests(prng), data_digest: digests(prng), alignment: [0, 3][usize::from(digests(prng))] };
    let (mut admin, cntlid) = world.admin(who, port, talk);
    if digests(prng) {
        world.rotate();
    }
    let io = world.queue(who, port, cntlid, 1, talk);
    if prng.within(0..=2) == 0 {
        io.end.cut(usize::try_from(prng.within(1..=700)).unwrap());
    }
    admin.await_event();
    (admin, io)
}

/// Changes something that hosts do not choose.
fn change(world: &mut World, prng: &mut Prng, pending: &mut Vec<Pending>, gone: &mut Option<usize>) {
    match prng.within(0..=9) {
        0..=2 => world.target.reopen("disk1"),
        3 => world.target.resized("disk1"),
        4 | 5 => {
            let port = usize::try_from(prng.within(0..=1)).unwrap();
            let states = [AnaState::Optimized, AnaState::NonOptimized, AnaState::Inaccessible];
            let state = states[usize::try_from(prng.within(0..=2)).unwrap()];
            pending.extend(world.target.set_ana_states(SUBSYSTEM, world.ports[port], &[(Some(1), state)]));
        }
        6 => {
            let spec = world.spec("extra");
            pending.extend(world.target.add_namespace(SUBSYSTEM, spec).map(|(_, pending)| pending));
        }
        7 => pending.extend(world.target.remove_namespace(SUBSYSTEM, u32::try_from(prng.within(2..=4)).unwrap())),
        _ => {
            let port = gone.take();
            match port {
                Some(port) => {
                    let listener = ListenerSpec { port: world.ports[port], state: AnaState::Optimized };
                    pending.extend(world.target.add_listener(SUBSYSTEM, &listener));
                }
                None => {
                    let port = usize::try_from(prng.within(0..=1)).unwrap();
                    *gone = Some(port);
                    pending.extend(world.target.remove_listener(SUBSYSTEM, world.ports[port]));
                }
            }
        }
    }
}

fn run(seed: u64) -> u64 {
    let mut prng = Prng::new(seed);
    let mut world = World::new(Options::default());
    let (mut pending, mut gone) = (Vec::new(), None);
    let mut workers: Vec<Worker> = (0..4).map(|number| Worker::new(&mut world, number, &mut prng)).collect();
    for _ in 0..1500 {
        let which = usize::try_from(prng.within(0..=3)).unwrap();
        match prng.within(0..=99) {
            0..=69 => workers[which].begin(&mut prng),
            70..=71 => change(&mut world, &mut prng, &mut pending, &mut gone),
            72 if gone.is_none() => workers[which].come_back(&mut world, &mut prng),
            73 => pair(&mut workers[which]),
            74 => abort(&mut workers[which], &mut prng),
            _ => world.turns(usize::try_from(prng.within(1..=4)).unwrap()),
        }
        workers.iter_mut().for_each(Worker::collect);
        // A listener that has gone takes its connections.
        for worker in &mut workers {
            if worker.io.end.is_closed() || worker.admin.end.is_closed() {
                if let Some(port) = gone.take() {
                    let listener = ListenerSpec { port: world.ports[port], state: AnaState::Optimized };
                    let added = world.target.add_listener(SUBSYSTEM, &listener).unwrap();
                    world.made(&added);
                }
                worker.come_back(&mut world, &mut prng);
            }
        }
    }
    for port in 0..2 {
        if gone != Some(port) {
            pending.extend(world.target.set_ana_states(SUBSYSTEM, world.ports[port], &[(None, AnaState::Optimized)]));
        }
    }
    pending.iter().for_each(|pending| world.made(pending));
    for worker in &mut workers {
        for _ in 0..5_000 {
            if worker.wanted.is_empty() || worker.io.end.is_closed() {
                break;
            }
            world.turn();
            worker.collect();
        }
        assert!(worker.wanted.is_empty() || worker.io.end.is_closed(), "seed {seed}: {} commands hang", worker.wanted.len());
        worker.admin.end.end();
        worker.io.end.end();
    }
    world.turns(50);
    assert_eq!((world.pollers(), world.meters.live()), (0, 0), "seed {seed}: nothing is left");
    workers.iter().map(|worker| worker.checked).sum()
}

/// A compare-and-write whose comparison fails, on a block of the worker's own that nothing is under way on.
fn pair(worker: &mut Worker) {
    let at = Blocks::new(worker.first, 1);
    if worker.busy[0] {
        return;
    }
    worker.set_busy(0, 1, true);
    let compare = at.command(IoOpcode::Compare, 1, Sgl::capsule(0, 512)).with_fused(Fused::First);
    let write = at.command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::Second);
    // What nothing ever holds: a block of two values.
    let mut never = [1; 512];
    never[511] = 2;
    let id = worker.io.send(compare, &never, &[]);
    worker.wanted.insert(id, Wanted::Other);
    let id = worker.io.send(write, &[3; 512], &[]);
    worker.wanted.insert(id, Wanted::Read { start: 0, blocks: 1 });
}

fn abort(worker: &mut Worker, prng: &mut Prng) {
    let at = usize::try_from(prng.within(0..=23)).unwrap();
    let Some(id) = worker.wanted.keys().nth(at) else { return };
    worker.admin.send(Abort { queue: 1, id: *id }.command().with_data(Sgl::transport(0)), &[], &[]);
}

#[test]
fn whatever_changes_around_them_hosts_read_what_they_wrote() {
    let checked: u64 = (0..40).map(run).sum();
    assert!(checked > 20_000, "{checked} blocks were checked");
}
