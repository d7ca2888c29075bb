//! The table: what a target says in place of what it should, and what comes of it.

use spinel_nvme::admin::Cns;
use spinel_nvme::identify::{Controller, Descriptor, Descriptors, Namespace, NamespaceList};
use spinel_nvme::log::{AnaHead, AsyncEvent};
use spinel_nvme::registers::offset;
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::IntoBytes as _;

use super::scripted::{controller, namespace};
use super::{At, Mischief, Say};

/// What comes of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// The controller is not attached, for a reason with these words.
    Refused(&'static str),
    /// All works, in the end.
    Works,
    /// The controller is there, but no namespace.
    Nothing,
}

pub(super) struct Case {
    pub(super) name: &'static str,
    at: At,
    times: u32,
    pub(super) digests: bool,
    act: fn(&mut Say),
    pub(super) then: Then,
}

impl Case {
    pub(super) fn mischief(&self) -> Mischief {
        Mischief { at: self.at, left: self.times, act: Box::new(self.act), done: 0 }
    }
}

const ALWAYS: u32 = u32::MAX;
const RULES: Then = Then::Refused("broke the rules");

/// Something that is said each time.
fn always(name: &'static str, at: At, then: Then, act: fn(&mut Say)) -> Case {
    Case { name, at, times: ALWAYS, digests: false, act, then }
}

/// Something that is said once; then all works.
fn once(name: &'static str, at: At, act: fn(&mut Say)) -> Case {
    Case { name, at, times: 1, digests: false, act, then: Then::Works }
}

fn setup_response(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[0] = 1;
    bytes[2] = 128;
    bytes[4] = 128;
    bytes[12..16].copy_from_slice(&8192_u32.to_le_bytes());
    change(&mut bytes);
    bytes
}

fn give_up(say: &mut Say) {
    let mut bytes = vec![0; 24];
    (bytes[0], bytes[2], bytes[4], bytes[8]) = (3, 24, 24, 2);
    say.raw(&bytes);
}

fn close(say: &mut Say) {
    say.closes = true;
}

fn setups() -> Vec<Case> {
    let with = |name, then, act| always(name, At::Setup, then, act);
    vec![
        with("bytes that are no PDU", RULES, |say| _ = say.raw(&[0xff; 64])),
        with("it gives up at once", Then::Refused("gave up"), give_up),
        with("another version", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[8] = 1))),
        with("a header that is too short", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[2] = 127))),
        with("a whole that is too short", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[4] = 127))),
        with("a whole that is huge", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[7] = 0xff))),
        with("no data in one PDU", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[12..16].fill(0)))),
        with("data that do not end at four bytes", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[12] = 2))),
        with("an alignment that there is not", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[10] = 32))),
        with("digests that were not asked for", RULES, |say| _ = say.raw(&setup_response(|bytes| bytes[11] = 3))),
        Case {
            digests: true,
            ..with("no digests though they were asked for", Then::Refused("digests"), |say| _ = say.raw(&setup_response(|_| ())))
        },
        with("set up twice", RULES, |say| _ = say.raw(&setup_response(|_| ())).raw(&setup_response(|_| ()))),
        with("an answer first", RULES, |say| _ = say.done()),
        with("a question for data first", RULES, |say| _ = say.ask(0, 1, 0, 512)),
        with("data first", RULES, |say| _ = say.data(0, &[0; 512], true, true)),
        with("a command", RULES, |say| _ = say.raw(&[4, 0, 72, 0, 72, 0, 0, 0]).raw(&[0; 64])),
        with("a type that there is not", RULES, |say| _ = say.raw(&[0x0a, 0, 24, 0, 24, 0, 0, 0])),
        with("it closes", Then::Refused("closed the connection"), close),
        with("it says nothing", Then::Refused("not set up"), |_| ()),
        with("it says a half", Then::Refused("not set up"), |say| _ = say.raw(&setup_response(|_| ())[..64])),
    ]
}

fn connects() -> Vec<Case> {
    let with = |name, then, act| always(name, At::Connect(0), then, act);
    let io = |name, act| once(name, At::Connect(1), act);
    vec![
        with("it refuses this host", Then::Refused("Connect Invalid Host"), |say| _ = say.end(StatusCode::CONNECT_HOST.permanent(), 0)),
        with("it answers another command", RULES, |say| _ = say.end_of(say.id ^ 1, StatusField::SUCCESS, 1)),
        with("it answers another command of the slot", RULES, |say| _ = say.end_of(say.id ^ 0x8000, StatusField::SUCCESS, 1)),
        with("it answers twice", RULES, |say| _ = say.end(StatusField::SUCCESS, 1).end(StatusField::SUCCESS, 1)),
        with("it does not answer", Then::Refused("Connect was not answered"), |_| ()),
        with("it brings data", RULES, |say| _ = say.data(0, &[0; 512], true, true)),
        with("it asks for data that it has", RULES, |say| _ = say.ask(say.id, 1, 0, 1024)),
        with("it wants a proof", Then::Refused("prove who it is"), |say| _ = say.end(StatusField::SUCCESS, 1 | 1 << 17)),
        with("it wants a secure channel", Then::Refused("secure channel"), |say| _ = say.end(StatusField::SUCCESS, 1 | 1 << 18)),
        with("it has another number later", Then::Refused("another number"), |say| _ = say.end(StatusField::SUCCESS, 7)),
        io("a queue is refused", |say| _ = say.end(StatusCode::CONNECT_BUSY.retriable(), 0)),
        io("a queue is another controller's", |say| _ = say.end(StatusField::SUCCESS, 9)),
        io("a queue is not answered", |_| ()),
        io("a queue is answered by no PDU", |say| _ = say.raw(&[0xee; 200])),
        io("a queue is closed", close),
    ]
}

fn registers() -> Vec<Case> {
    let status = |name, then, act| always(name, At::Get(offset::STATUS), then, act);
    vec![
        always("all capabilities", At::Get(offset::CAPABILITIES), Then::Works, |say| _ = say.end(StatusField::SUCCESS, u64::MAX)),
        always("no capabilities", At::Get(offset::CAPABILITIES), Then::Works, |say| _ = say.end(StatusField::SUCCESS, 0)),
        always("capabilities are refused", At::Get(offset::CAPABILITIES), Then::Refused("capabilities"), |say| {
            say.end(StatusCode::INVALID_FIELD.permanent(), 0);
        }),
        status("it has failed", Then::Refused("CFS"), |say| _ = say.end(StatusField::SUCCESS, 2)),
        status("it never becomes ready", Then::Refused("ready"), |say| _ = say.end(StatusField::SUCCESS, 0)),
        always("it grants as many queues as there can be", At::Queues, Then::Works, |say| _ = say.end(StatusField::SUCCESS, u64::MAX)),
        always("it grants no queue", At::Queues, Then::Refused("Number of Queues"), |say| _ = say.end(StatusCode::INTERNAL.permanent(), 0)),
        always("it tells of what there is not", At::Event, Then::Works, |say| _ = say.end(StatusField::SUCCESS, 0x7f_ff_07)).limited(40),
        always("it tells of namespaces all the time", At::Event, Then::Works, |say| {
            say.end(StatusField::SUCCESS, AsyncEvent::NAMESPACES_CHANGED.result());
        })
        .limited(40),
        always("it tells of access all the time", At::Event, Then::Works, |say| {
            _ = say.end(StatusField::SUCCESS, AsyncEvent::ANA_CHANGED.result())
        })
        .limited(40),
        always("it refuses to tell of anything", At::Event, Then::Works, |say| _ = say.end(StatusCode::ASYNC_EVENT_LIMIT.permanent(), 0)),
        always("it refuses to be kept alive", At::KeepAlive, Then::Works, |say| _ = say.end(StatusCode::INVALID_OPCODE.permanent(), 0)),
        once("it does not answer that it is alive", At::KeepAlive, |_| ()),
        once("it brings data that nobody asked for", At::KeepAlive, |say| _ = say.data(0, &[1; 512], true, true)),
    ]
}

impl Case {
    fn limited(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

/// The page of a controller that has something else.
fn page(say: &mut Say, change: impl Fn(&mut Controller)) {
    let mut page = controller();
    change(&mut page);
    say.data(0, page.as_bytes(), true, true);
}

fn controllers() -> Vec<Case> {
    let with = |name, then, act| always(name, At::Identify(Cns::Controller), then, act);
    vec![
        with("half a page", Then::Refused("2048 bytes"), |say| _ = say.data(0, &[1; 2048], true, true)),
        with("more than a page", RULES, |say| _ = say.data(0, &[1; 4100], true, true)),
        with("a page that begins later", RULES, |say| _ = say.data(512, &[1; 512], true, true)),
        with("a page in two parts that overlap", RULES, |say| _ = say.data(0, &[1; 2048], false, false).data(1024, &[1; 2048], true, true)),
        with("a page of which more comes after its last part", RULES, |say| {
            _ = say.data(0, &[1; 512], true, false).data(512, &[1; 512], true, true)
        }),
        with("a success before the last data", RULES, |say| {
            let at = say.out.len();
            say.data(0, &[1; 512], false, false).out[at + 1] |= 8;
        }),
        with("data that are said to be others", RULES, |say| {
            let at = say.out.len();
            say.data(0, &[1; 512], true, true).out[at + 16] ^= 4;
        }),
        with("data without an end", Then::Refused("not answered in time"), |say| _ = say.data(0, &[1; 4096], true, false)),
        with("an end without data", Then::Refused("0 bytes"), |say| _ = say.done()),
        with("data of another command", RULES, |say| _ = say.data_of(say.id ^ 2, 0, &[1; 4096], true, true)),
        with("transfers without a limit", Then::Works, |say| page(say, |page| page.transfer_max_power = 0)),
        with("transfers of any power", Then::Works, |say| page(say, |page| page.transfer_max_power = 255)),
        with("no data in a capsule", Then::Works, |say| page(say, |page| page.command_capsule_16_bytes = 0.into())),
        with("all data in a capsule", Then::Works, |say| page(say, |page| page.command_capsule_16_bytes = u32::MAX.into())),
        with("data far behind a command", Then::Works, |say| page(say, |page| page.capsule_data_offset = u16::MAX.into())),
        with("it is for discovery", Then::Refused("no I/O"), |say| page(say, |page| page.kind = 2)),
        with("a page of ones", Then::Refused("another number"), |say| _ = say.data(0, &[0xff; 4096], true, true)),
        with("a page of zeroes", Then::Refused("another number"), |say| _ = say.data(0, &[0; 4096], true, true)),
    ]
}

/// The log of asymmetric access with such a head, and nothing else.
fn access(say: &mut Say, groups: u16, fill: u8) {
    let mut log = vec![fill; say.len_bytes as usize];
    log[..16].copy_from_slice(AnaHead::new(1, groups).as_bytes());
    say.data(0, &log, true, true);
}

fn changed(say: &mut Say, change: impl Fn(&mut Namespace)) {
    let mut page = namespace();
    change(&mut page);
    say.data(0, page.as_bytes(), true, true);
}

fn namespaces() -> Vec<Case> {
    let list = |name, then, act| always(name, At::Identify(Cns::ActiveNamespaces), then, act);
    let page = |name, act| always(name, At::Identify(Cns::Namespace), Then::Nothing, act);
    let ids = |name, then, act| always(name, At::Identify(Cns::NamespaceDescriptors), then, act);
    vec![
        always("groups without an end", At::Log, Then::Refused("does not end"), |say| access(say, u16::MAX, 0)),
        always("groups of more namespaces than there can be", At::Log, Then::Refused("does not end"), |say| access(say, 1, 0xff)),
        once("no groups", At::Log, |say| access(say, 0, 0)),
        always("access is not told", At::Log, Then::Refused("Asymmetric"), |say| _ = say.end(StatusCode::LOG_PAGE_INVALID.permanent(), 0)),
        list("namespaces without an order", Then::Refused("order"), |say| {
            say.data(0, NamespaceList::new([5, 3].into_iter()).as_bytes(), true, true);
        }),
        list("the same namespaces again and again", Then::Refused("order"), |say| {
            _ = say.data(0, NamespaceList::new(1..).as_bytes(), true, true)
        }),
        list("no namespaces", Then::Nothing, |say| _ = say.data(0, &[0; 4096], true, true)),
        page("a namespace of no blocks", |say| changed(say, |page| page.size_blocks = 0.into())),
        page("blocks of no bytes", |say| changed(say, |page| page.formats[0].data_power = 0)),
        page("blocks of two gigabytes", |say| changed(say, |page| page.formats[0].data_power = 31)),
        page("blocks of a power that there is not", |say| changed(say, |page| page.formats[0].data_power = 255)),
        page("a format that there is not", |say| changed(say, |page| page.format = 0xff)),
        page("more blocks than can be counted", |say| changed(say, |page| page.size_blocks = u64::MAX.into())),
        page("blocks with metadata", |say| changed(say, |page| page.formats[0].metadata_bytes = 8.into())),
        page("blocks with protection", |say| changed(say, |page| page.protection_set = 1)),
        page("a namespace that is refused", |say| _ = say.end(StatusCode::INVALID_NAMESPACE.permanent(), 0)),
        ids("identifiers of ones", Then::Works, |say| _ = say.data(0, &[0xff; 4096], true, true)),
        ids("identifiers of another command set", Then::Nothing, |say| {
            say.data(0, Descriptors::new(&[Descriptor::CommandSet(1)]).as_bytes(), true, true);
        }),
        ids("identifiers are refused", Then::Works, |say| _ = say.end(StatusCode::INVALID_FIELD.permanent(), 0)),
    ]
}

/// Data of the right length that are not what is on the disk.
fn wrong(len_bytes: u32) -> Vec<u8> {
    vec![0xee; len_bytes as usize]
}

fn reads() -> Vec<Case> {
    let with = |name, act| once(name, At::Read, act);
    vec![
        with("a success without data", |say| _ = say.done()),
        with("a success with a half", |say| _ = say.data(0, &wrong(say.len_bytes / 2), true, true)),
        with("more than was asked for", |say| _ = say.data(0, &wrong(say.len_bytes + 512), true, true)),
        with("a second half first", |say| _ = say.data(say.len_bytes / 2, &wrong(say.len_bytes / 2), true, true)),
        with("the same data twice", |say| {
            let half = wrong(say.len_bytes / 2);
            say.data(0, &half, false, false).data(0, &half, true, true);
        }),
        with("data and then a failure", |say| {
            say.data(0, &wrong(say.len_bytes), true, false).end(StatusCode::INTERNAL.retriable(), 0);
        }),
        with("data of another command", |say| _ = say.data_of(say.id ^ 1, 0, &wrong(say.len_bytes), true, true)),
        with("data of an older command", |say| _ = say.data_of(say.id ^ 0x8000, 0, &wrong(say.len_bytes), true, true)),
        with("data are asked for", |say| _ = say.ask(say.id, 1, 0, say.len_bytes)),
        with("another command is answered", |say| _ = say.end_of(say.id ^ 1, StatusField::SUCCESS, 0)),
        with("it is answered twice", |say| {
            let status = StatusCode::NAMESPACE_NOT_READY.retriable();
            say.end(status, 0).end(status, 0);
        }),
        with("it fails, and may be repeated", |say| _ = say.end(StatusCode::NAMESPACE_NOT_READY.retriable(), 0)),
        with("it fails, and another way may do", |say| _ = say.end(StatusCode::ANA_INACCESSIBLE.retriable(), 0)),
        with("it fails by a path that is internal", |say| _ = say.end(StatusCode::PATH_INTERNAL.retriable(), 0)),
        with("a PDU ends in the middle", |say| {
            let bytes = wrong(say.len_bytes);
            let at = say.out.len();
            let len = say.data(0, &bytes, true, true).out.len();
            say.out.truncate(at + (len - at) / 2);
        }),
        with("it closes", close),
        with("it gives up", give_up),
        with("it says nothing", |_| ()),
        with("bytes that are no PDU", |say| _ = say.raw(&[0x55; 300])),
        Case {
            digests: true,
            ..with("data with a wrong digest", |say| {
                let bytes = wrong(say.len_bytes);
                *say.data(0, &bytes, true, true).out.last_mut().unwrap() ^= 1;
            })
        },
        Case {
            digests: true,
            ..with("a header with a wrong digest", |say| {
                let bytes = wrong(say.len_bytes);
                let at = say.out.len();
                say.data(0, &bytes, true, true).out[at + 24] ^= 1;
            })
        },
        Case {
            digests: true,
            ..with("data without a digest", |say| {
                let bytes = wrong(say.len_bytes);
                let at = say.out.len();
                say.data(0, &bytes, true, true).out[at + 1] &= !2;
            })
        },
    ]
}

/// A write whose data did not go with it.
fn large(say: &mut Say, act: fn(&mut Say)) {
    if say.len_bytes > 4096 {
        act(say);
    } else {
        say.done();
    }
}

fn writes() -> Vec<Case> {
    // The first write is a small one, the second one is not.
    let with = |name, act| Case { times: 2, ..once(name, At::Write, act) };
    vec![
        once("data that have come are asked for", At::Write, |say| _ = say.ask(say.id, 1, 0, say.len_bytes)),
        once("a write brings data", At::Write, |say| _ = say.data(0, &wrong(say.len_bytes), true, true)),
        once("a write is not answered", At::Write, |_| ()),
        once("a write is answered by closing", At::Write, close),
        with("more is asked for than there is", |say| large(say, |say| _ = say.ask(say.id, 1, 0, say.len_bytes + 4))),
        with("data at four gigabytes", |say| large(say, |say| _ = say.ask(say.id, 1, u32::MAX - 512, 512))),
        with("a second half is asked for first", |say| large(say, |say| _ = say.ask(say.id, 1, 4096, 4096))),
        with("nothing is asked for", |say| {
            large(say, |say| {
                let at = say.out.len();
                say.ask(say.id, 1, 0, 4).out[at + 16] = 0;
            })
        }),
        with("it is asked for twice", |say| {
            large(say, |say| {
                let id = say.id;
                say.ask(id, 1, 0, 4096).ask(id, 2, 0, 4096);
            })
        }),
        with("two stretches at a time", |say| {
            large(say, |say| {
                let id = say.id;
                say.ask(id, 1, 0, 16 << 10).ask(id, 2, 16 << 10, 16 << 10);
            })
        }),
        with("data of another command are asked for", |say| large(say, |say| _ = say.ask(say.id ^ 1, 1, 0, 4096))),
        with("it fails while data are on their way", |say| {
            large(say, |say| {
                say.ask(say.id, 1, 0, say.len_bytes).end(StatusCode::INTERNAL.retriable(), 0);
            })
        }),
        with("it succeeds before data were asked for", |say| large(say, |say| _ = say.done())),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [setups(), connects(), registers(), controllers(), namespaces(), reads(), writes()].into_iter().flatten().collect()
}
