//! An initiator against arbitrary targets: whatever they say in place of an answer, attaching is decided, every request ends
//! once, and detaching leaves nothing.
//!
//! An input says which digests are asked for and what is requested, and then, for each question that the target is asked,
//! whether it answers as it should or what it says instead.
#![no_main]

mod hostile;
#[path = "../../tests/initiator/world.rs"]
#[allow(dead_code)]
mod world;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use spinel_core::{Channel, Completions, Lba, Op, Request, Tag};
use spinel_nvme::status::StatusField;
use spinel_nvmf::initiator::{OnTimeout, Patience, Settings};
use spinel_nvmf::target::Options;
use spinel_sim::{Prng, WireOptions};

use hostile::{At, Say};
use world::{World, lab};

/// Requests at a time, and of one input.
const DEPTH: u16 = 4;
const REQUESTS_MAX: u32 = 12;
const REQUEST_BYTES_MAX: u64 = 16 << 10;
/// Nothing takes more turns than this.
const TURNS_MAX: u32 = 200_000;

thread_local! {
    static INPUTS: Cell<u64> = const { Cell::new(0) };
    static SAID: Rc<Cell<u64>> = Rc::default();
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
    let inputs = INPUTS.get() + 1;
    INPUTS.set(inputs);
    if inputs.is_multiple_of(1 << 14) {
        let kib = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4));
        eprintln!("{inputs} sessions, {} questions were answered, {} KiB", SAID.with(|said| said.get()), kib.unwrap_or(0));
    }
});

/// What a target says in place of answers, until there is nothing left.
struct Script {
    bytes: Vec<u8>,
    at: usize,
}

impl Script {
    fn next(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.next()))
    }

    fn some(&mut self) -> Vec<u8> {
        let len = usize::from(self.next() & 0x7f);
        (0..len).map(|_| self.next()).collect()
    }

    fn id(&mut self, say: &Say) -> u16 {
        let other = u16::from(self.next());
        if other & 3 == 0 { other >> 2 } else { say.id }
    }

    fn len(&mut self, say: &Say) -> u32 {
        match self.next() & 7 {
            0 => u32::from(self.next()) * 16 + 4,
            1 => say.len_bytes / 2 + 1,
            2 => say.len_bytes + 4,
            _ => say.len_bytes.max(1),
        }
        .min(20 << 10)
    }

    /// Says something else, or answers that it does not.
    fn play(&mut self, at: At, say: &mut Say) -> bool {
        let choice = self.next();
        if choice < 0x90 {
            return false;
        }
        match choice & 0xf {
            0 => _ = say.raw(&self.some()),
            1 => say.closes = true,
            2 => {}
            3 => {
                // Anything at all as its status.
                let status = StatusField::of_completion(u16::from_le_bytes([self.next(), self.next()]));
                let (id, result) = (self.id(say), self.word().into());
                say.end_of(id, status, result);
            }
            4 => {
                let (id, result) = (self.id(say), self.word().into());
                say.end_of(id, StatusField::SUCCESS, result);
            }
            5..=8 => {
                let (id, len, fill, bits) = (self.id(say), self.len(say), self.next(), self.next());
                let mut data = vec![fill; len as usize];
                for (place, byte) in data.iter_mut().zip(self.some()) {
                    *place = byte;
                }
                let offset = if bits & 0xc0 == 0 { self.word() >> 2 } else { 0 };
                let last = bits & 0x30 != 0;
                say.data_of(id, offset, &data, last, last && bits & 1 != 0);
                if bits & 2 != 0 {
                    say.end_of(id, StatusField::SUCCESS, 0);
                }
            }
            9 | 10 => {
                let (id, tag, len) = (self.id(say), self.next().into(), self.len(say));
                let offset = if self.next() & 3 == 0 { self.word() >> 2 } else { 0 };
                say.ask(id, tag, offset, len);
                if self.next() & 1 != 0 {
                    say.ask(id, tag, offset, len);
                }
            }
            11 => {
                let mut bytes = vec![0; 24];
                (bytes[0], bytes[2], bytes[4], bytes[8]) = (3, 24, 24, self.next());
                say.raw(&bytes);
            }
            12 => _ = say.done().done(),
            13 => {
                // In pieces.
                let (id, len) = (say.id, say.len_bytes.min(20 << 10));
                let data = vec![self.next(); len as usize];
                let cut = (usize::from(self.next()) * 16 + 1).min(data.len().max(1));
                let mut offset = 0;
                for piece in data.chunks(cut) {
                    let here = u32::try_from(piece.len()).unwrap_or(0);
                    say.data_of(id, offset, piece, offset + here == len, false);
                    offset += here;
                }
                say.done();
            }
            14 if at == At::Event => {
                let result = self.word().into();
                say.end(StatusField::SUCCESS, result);
            }
            _ => {
                let mut bytes = vec![0; 128];
                (bytes[0], bytes[2], bytes[4]) = (1, 128, 128);
                for place in bytes.iter_mut().take(20).skip(8) {
                    *place = self.next();
                }
                say.raw(&bytes);
            }
        }
        true
    }
}

fn world(u: &mut Unstructured<'_>) -> Result<World> {
    let wire = WireOptions {
        sends: 4096,
        window_bytes: 1 << 20,
        stall_one_in: 0,
        cut_bytes: 1..=u.int_in_range(1..=8)? * 1000,
        ..WireOptions::default()
    };
    let settings = Settings {
        keep_alive: Duration::from_secs(1),
        admin_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(2),
        timeout: Some(Duration::from_secs(2)),
        on_timeout: if u.arbitrary()? { OnTimeout::Reset } else { OnTimeout::Abort },
        ..Settings::default()
    };
    Ok(World::new(1, Options::default(), settings, wire, u.arbitrary::<u8>()?.into()))
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut world = world(u)?;
    let (header_digest, data_digest, requests) = (u.arbitrary()?, u.arbitrary()?, u.int_in_range(0..=REQUESTS_MAX)?);
    let plan: u32 = u.arbitrary()?;
    let spoils: u8 = u.arbitrary()?;
    let mut script = Script { bytes: u.bytes(u.len())?.to_vec(), at: 0 };
    let said = SAID.with(Rc::clone);
    lab(|lab| {
        lab.scripted = Some(Vec::new());
        lab.spoils_one_in = if spoils < 32 { 12 } else { 0 };
        lab.prng = Some(Prng::new(spoils.into()));
        lab.script = Some(Box::new(move |at, say| {
            said.set(said.get() + 1);
            script.play(at, say)
        }));
    });
    let mut spec = world.spec("far", 0);
    (spec.header_digest, spec.data_digest) = (header_digest, data_digest);
    spec.patience = Patience {
        fail_after: Some(Duration::from_secs(3)),
        lost_after: Some(Duration::from_secs(9)),
        reconnect_delay: Duration::from_secs(1),
    };
    let attached = world.attach(spec);
    if attached.is_ok() {
        if let Some(device) = world.devices.values().next().cloned() {
            use_it(&mut world, &device, requests, plan);
        }
        if let Ok(mut detaching) = world.initiator.detach("far", None) {
            world.until("it is detached", |_| detaching.is_done());
        }
    }
    lab(|lab| lab.script = None);
    world.until("nothing is left", |world| world.initiator.controllers().is_empty() && world.devices.is_empty());
    Ok(())
}

/// Reads and writes, of which each ends once.
fn use_it(world: &mut World, device: &std::sync::Arc<dyn spinel_core::Device>, requests: u32, plan: u32) {
    let geometry = device.geometry();
    let memory = world.memory(u64::from(DEPTH) * REQUEST_BYTES_MAX);
    let mut channel: Box<dyn Channel> = world.channel(device, 0, DEPTH);
    let mut done = Completions::limited(DEPTH.into());
    let (mut next, mut ended, mut flying) = (0, 0, [false; DEPTH as usize]);
    for _ in 0..TURNS_MAX {
        while let Some(slot) = flying.iter().position(|flies| !flies).filter(|_| next < requests && channel.room() > 0) {
            let kind = plan >> (2 * (next % 16)) & 3;
            let block_bytes = u64::from(geometry.block_bytes);
            let blocks = [1, 8][kind as usize & 1].min(REQUEST_BYTES_MAX / block_bytes).max(1);
            if blocks * block_bytes > REQUEST_BYTES_MAX || blocks > geometry.block_count {
                return;
            }
            let op = if kind & 2 == 0 { Op::Read } else { Op::Write { fua: kind & 1 != 0 } };
            let len_bytes = u32::try_from(blocks * block_bytes).expect("small");
            let segment = memory.segment(slot as u64 * REQUEST_BYTES_MAX, len_bytes).expect("inside");
            let (tag, blocks) = (Tag(u32::try_from(slot).expect("few")), u32::try_from(blocks).expect("few"));
            channel.submit(Request { tag, op, at: world.now, start: Lba(0), blocks, segments: &[segment] });
            (flying[slot], next) = (true, next + 1);
        }
        channel.kick();
        world.turn_at_most(1_000_000);
        done.clear();
        channel.poll(world.now, &mut done);
        for completion in done.as_slice() {
            let flies = &mut flying[completion.tag.0 as usize];
            assert!(std::mem::take(flies), "a request ends once");
            ended += 1;
        }
        if ended == requests {
            break;
        }
    }
    assert_eq!(ended, requests, "every request ends: {:?}", world.initiator.controllers());
}
