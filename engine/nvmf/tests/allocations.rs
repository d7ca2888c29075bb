//! A queue for I/O allocates nothing once it is connected: reads, writes with their data and by R2T, flushes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::host::{HOST, Talk};
use common::world::{SUBSYSTEM, World, address};
use spinel_core::mem::Segment;
use spinel_core::{Armed, Break, Stream, StreamState};
use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::fabrics::{Connect, ConnectData};
use spinel_nvme::io::{Blocks, flush};
use spinel_nvme::sgl::Sgl;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::Options;
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::{Alignment, Builder, DataPdu, IcReq, Terms};
use zerocopy::IntoBytes as _;

/// Says what it was given to say, as far as it may, and forgets what it is told.
struct Script {
    bytes: Vec<u8>,
    at: usize,
    /// How far it may go.
    end: Arc<AtomicUsize>,
    sent: u64,
    answered_bytes: Arc<AtomicUsize>,
    closed: bool,
}

impl Stream for Script {
    fn incoming(&self) -> &[u8] {
        &self.bytes[self.at..self.end.load(Ordering::Relaxed).max(self.at)]
    }

    fn take(&mut self, count: usize) {
        self.at += count;
    }

    fn room(&self) -> usize {
        128
    }

    fn send(&mut self, head: &[u8], body: &[Segment], tail: &[u8]) {
        let body: u32 = body.iter().map(Segment::len_bytes).sum();
        self.answered_bytes.fetch_add(head.len() + body as usize + tail.len(), Ordering::Relaxed);
        self.sent += 1;
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn kick(&mut self) {}

    fn state(&self) -> StreamState {
        if self.closed { StreamState::Broken(Break::Closed) } else { StreamState::Open }
    }

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn closed(&self) -> bool {
        self.closed
    }
}

fn capsule(command: Command, data: &[u8]) -> Vec<u8> {
    let mut head = [0; 160];
    let data_bytes = u32::try_from(data.len()).unwrap();
    let len = Builder::new(Terms::default()).put_command(command.as_bytes().try_into().unwrap(), data_bytes, &mut head);
    [&head[..len], data].concat()
}

/// Commands of every kind. Each is answered before the next comes, and leaves its slot to it.
fn round(number: u16) -> [Vec<u8>; 5] {
    let read = |count| Blocks::new(8, count).command(IoOpcode::Read, 1, Sgl::transport(count * 512));
    let write = Blocks::new(0, 8).command(IoOpcode::Write, 1, Sgl::capsule(0, 4096));
    let commands = [(read(8), vec![]), (read(256), vec![]), (write, vec![1; 4096]), (flush(1), vec![]), (read(1), vec![])];
    commands.map(|(command, data)| capsule(command.with_id(number * 8), &data))
}

/// A write whose data are asked for, and then come.
fn transfer(number: u16, transfer_tag: u16) -> (Vec<u8>, Vec<u8>) {
    let id = number * 8 + 1;
    let write = capsule(Blocks::new(0, 16).command(IoOpcode::Write, 1, Sgl::transport(8192)).with_id(id), &[]);
    let data = DataPdu { command_id: id, transfer_tag, offset: 0, len_bytes: 8192, last: true, success: false };
    let mut head = [0; 160];
    let len = Builder::new(Terms::default()).put_data_to_target(&data, &mut head);
    (write, [&head[..len], &[2; 8192]].concat())
}

fn opening(cntlid: u16) -> Vec<u8> {
    let asked = IcReq { alignment: Alignment::default(), header_digest: false, data_digest: false, r2ts_max_less_one: 0 };
    let mut bytes = vec![0; 128];
    put_request(&asked, &mut bytes);
    let name = |name: &str| Nqn::of_peer(name.as_bytes()).unwrap().field();
    let data = ConnectData::new([HOST.id; 16], name(HOST.host), name(SUBSYSTEM), cntlid);
    let connect =
        Connect { format: 0, queue: 1, size_less_one: 31, priority: 0, no_flow_control: false, deletes_queues: false, keep_alive_ms: 0 };
    bytes.extend(capsule(connect.command().with_id(7), data.as_bytes()));
    bytes
}

#[test]
fn commands_allocate_nothing() {
    const WARM_UP: u16 = 40;
    const ROUNDS: u16 = 1000;
    let mut world = World::new(Options::default());
    let (_admin, cntlid) = world.admin(&HOST, 0, Talk::PLAIN);
    let mut bytes = opening(cntlid);
    let mut ends = vec![bytes.len()];
    // Every one of these commands gets the same slot, and Connect was the first to have it.
    let mut taken = 1;
    // It is known which name the target gives to a transfer: that of the slot and of how often it was taken.
    for number in 0..ROUNDS {
        for said in round(number) {
            bytes.extend(said);
            ends.push(bytes.len());
        }
        taken += 6;
        let generation = (taken - 1) % 15 + 1;
        let (write, data) = transfer(number, generation << 12);
        bytes.extend(write);
        ends.push(bytes.len());
        bytes.extend(data);
        ends.push(bytes.len());
    }
    let (end, answered_bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stream = Script { bytes, at: 0, end: Arc::clone(&end), sent: 0, answered_bytes: Arc::clone(&answered_bytes), closed: false };
    assert!(world.target.admit(world.mailbox(), world.ports[0], "script".into(), address(0), move |_| Ok(stream)));
    let go = |world: &mut World, upto: &[usize]| {
        for place in upto {
            end.store(*place, Ordering::Relaxed);
            world.turns(3);
        }
    };
    let (warm_up, rest) = ends.split_at(1 + 7 * usize::from(WARM_UP));
    go(&mut world, warm_up);
    let (before, answered) = (spinel_counting::by_this_thread(), answered_bytes.load(Ordering::Relaxed));
    go(&mut world, rest);
    assert_eq!(spinel_counting::by_this_thread() - before, 0);
    // Three reads that say with their data that they are done, three other answers, and an R2T.
    let of_round = 3 * 24 + (8 + 256 + 1) * 512 + 3 * 24 + 24;
    assert_eq!(answered_bytes.load(Ordering::Relaxed) - answered, of_round * usize::from(ROUNDS - WARM_UP), "all of them were answered");
}
