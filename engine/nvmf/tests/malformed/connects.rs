//! How queues are connected, in wrong ways, and what comes before and behind that too early.

use spinel_nvme::admin::{Cns, Identify, keep_alive};
use spinel_nvme::command::{AdminOpcode, Command, IoOpcode};
use spinel_nvme::fabrics::{Authentication, Connect, ConnectData, Property, PropertySize, disconnect};
use spinel_nvme::io::Blocks;
use spinel_nvme::registers::{Configuration, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::tcp::FatalStatus::InvalidHeader;
use zerocopy::IntoBytes as _;

use super::stage::Start::{Agreed, Connected, Enabled, Io};
use super::stage::{Case, Stage, Then, capsule, connect, data};
use crate::common::host::HOST;
use crate::common::world::SUBSYSTEM;

const PARAMETERS: Then = Then::Is(StatusCode::CONNECT_PARAMETERS);
const SEQUENCE: Then = Then::Is(StatusCode::SEQUENCE);
const LENGTH: Then = Then::Is(StatusCode::SGL_LENGTH_INVALID);
const TYPE: Then = Then::Is(StatusCode::SGL_TYPE_INVALID);
const FIELD: Then = Then::Is(StatusCode::INVALID_FIELD);

/// A Connect of the admin queue, changed.
fn connects(stage: &mut Stage<'_>, change: impl FnOnce(&mut Connect, &mut ConnectData)) {
    let (mut connect, mut data) = (connect(0), data(SUBSYSTEM, HOST.host, 0xffff));
    change(&mut connect, &mut data);
    stage.ask_with(connect.command(), data.as_bytes(), &[]);
}

/// A Connect of the admin queue with these data, and that descriptor of them.
fn described(stage: &mut Stage<'_>, sgl: Sgl, bytes: usize) {
    let mut all = data(SUBSYSTEM, HOST.host, 0xffff).as_bytes().to_vec();
    all.resize(bytes, 0);
    stage.ask_with(connect(0).command().with_data(sgl), &all, &[]);
}

fn agreed(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Agreed, then, act)
}

fn set(value: u32) -> Command {
    Property { offset: offset::CONFIGURATION, size: PropertySize::Four }.set(value.into())
}

pub(crate) fn cases() -> Vec<Case> {
    [early(), admin_queues(), descriptors(), io_queues(), twice()].into_iter().flatten().collect()
}

/// Commands before any queue is connected, or enabled.
fn early() -> Vec<Case> {
    vec![
        agreed("a property before it has connected", SEQUENCE, |s| {
            s.ask(Property { offset: offset::VERSION, size: PropertySize::Four }.get());
        }),
        agreed("Identify before it has connected", SEQUENCE, |s| {
            _ = s.ask(Identify::new(Cns::Controller, 0).command(Sgl::transport(4096)))
        }),
        agreed("a read before it has connected", SEQUENCE, |s| {
            s.ask(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(512)));
        }),
        agreed("a proof before it has connected", SEQUENCE, |s| {
            s.ask_with(Authentication::new(64).send(Sgl::capsule(0, 64)), &[0; 64], &[]);
        }),
        agreed("Disconnect before it has connected", SEQUENCE, |s| _ = s.ask(disconnect())),
        agreed("a command of fabrics that there is not", FIELD, |s| {
            s.ask(Command::new(AdminOpcode::Fabrics.code(), 0x7c).with_data(Sgl::transport(0)));
        }),
        agreed("commands behind a Connect that is not answered yet", SEQUENCE, |s| {
            let id = s.host.send(keep_alive().with_data(Sgl::transport(0)), &[], &[]);
            s.wait(id);
            s.host.send(connect(0).command(), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), &[]);
            let id = s.host.send(Identify::new(Cns::Controller, 0).command(Sgl::transport(4096)), &[], &[]);
            s.wait(id);
        }),
        Case::new("Identify before it is enabled", Connected, SEQUENCE, |s| {
            s.ask(Identify::new(Cns::Controller, 0).command(Sgl::transport(4096)));
        }),
        Case::new("a keep-alive before it is enabled", Connected, SEQUENCE, |s| _ = s.ask(keep_alive().with_data(Sgl::transport(0)))),
        Case::new("a queue for I/O before it is enabled", Connected, SEQUENCE, |s| s.join(0, |_, _| ())),
        Case::new("a queue for I/O behind a shutdown", Connected, SEQUENCE, |s| {
            s.ask(set(Configuration::enabled().register()));
            s.ask(set(Configuration { shutdown: 1, ..Configuration::enabled() }.register()));
            s.join(0, |_, _| ());
        }),
        Case::new("a proof that nobody asked for", Connected, SEQUENCE, |s| {
            s.ask_with(Authentication::new(64).send(Sgl::capsule(0, 64)), &[0; 64], &[]);
        }),
        Case::new("Disconnect of an admin queue", Connected, Then::Is(StatusCode::QUEUE_TYPE_INVALID), |s| _ = s.ask(disconnect())),
    ]
}

fn admin_queues() -> Vec<Case> {
    vec![
        agreed("another format", Then::Is(StatusCode::CONNECT_FORMAT), |s| connects(s, |connect, _| connect.format = 1)),
        agreed("a queue of one entry", PARAMETERS, |s| connects(s, |connect, _| connect.size_less_one = 0)),
        agreed("a queue of 129 entries", PARAMETERS, |s| connects(s, |connect, _| connect.size_less_one = 128)),
        agreed("a queue of 65536 entries", PARAMETERS, |s| connects(s, |connect, _| connect.size_less_one = 0xffff)),
        agreed("a controller of a certain number", PARAMETERS, |s| connects(s, |_, data| data.controller = 5.into())),
        agreed("a static controller", PARAMETERS, |s| connects(s, |_, data| data.controller = 0xfffe.into())),
        agreed("no host identifier", PARAMETERS, |s| connects(s, |_, data| data.host_id = [0; 16])),
        agreed("a host without a name", PARAMETERS, |s| connects(s, |_, data| data.host = [0; 256])),
        agreed("a host's name without an end", PARAMETERS, |s| connects(s, |_, data| data.host = [b'a'; 256])),
        agreed("a host's name of 224 bytes", PARAMETERS, |s| connects(s, |_, data| data.host[..224].fill(b'a'))),
        agreed("a host's name that is no text", PARAMETERS, |s| connects(s, |_, data| data.host[3] = 0xff)),
        agreed("a host's name with a line break", PARAMETERS, |s| connects(s, |_, data| data.host[3] = b'\n')),
        agreed("a subsystem without a name", PARAMETERS, |s| connects(s, |_, data| data.subsystem = [0; 256])),
        agreed("a subsystem that there is not", PARAMETERS, |s| connects(s, |_, data| data.subsystem[5] ^= 1)),
        agreed("a keep-alive timeout of seven weeks", Then::Is(StatusCode::SUCCESS), |s| {
            connects(s, |connect, _| connect.keep_alive_ms = u32::MAX);
        }),
        agreed("names of which much follows", Then::Is(StatusCode::SUCCESS), |s| connects(s, |_, data| data.host[200..].fill(0xff))),
        agreed("three wrong Connects and a right one", Then::Is(StatusCode::SUCCESS), |s| {
            (0..3).for_each(|_| connects(s, |connect, _| connect.format = 7));
            connects(s, |_, _| ());
        }),
    ]
}

/// Data of a Connect that are of another length, or somewhere else.
fn descriptors() -> Vec<Case> {
    vec![
        agreed("a Connect of 1023 bytes", LENGTH, |s| described(s, Sgl::capsule(0, 1023), 1023)),
        agreed("a Connect of 1025 bytes", LENGTH, |s| described(s, Sgl::capsule(0, 1025), 1025)),
        agreed("a Connect of which half has come", LENGTH, |s| described(s, Sgl::capsule(0, 1024), 512)),
        agreed("a Connect whose data begin later", Then::Is(StatusCode::SGL_OFFSET_INVALID), |s| {
            described(s, Sgl::capsule(64, 1024), 1024)
        }),
        agreed("a Connect whose data begin at the end of time", Then::Is(StatusCode::SGL_OFFSET_INVALID), |s| {
            described(s, Sgl::capsule(u64::MAX, 1024), 1024);
        }),
        agreed("a Connect without data", LENGTH, |s| _ = s.ask(connect(0).command().with_data(Sgl::transport(0)))),
        agreed("a Connect at an address", TYPE, |s| described(s, Sgl::address(0x1000, 1024), 1024)),
        agreed("a Connect under a key", TYPE, |s| described(s, Sgl::keyed(0x1000, 1024, 7, true), 1024)),
        agreed("a Connect with both kinds of data", TYPE, |s| described(s, Sgl::transport(1024), 1024)),
        agreed("a Connect of four gigabytes", FIELD, |s| _ = s.ask(connect(0).command().with_data(Sgl::transport(u32::MAX)))),
        agreed("a Connect with pages instead of a descriptor", FIELD, |s| {
            let id = 1;
            let said = capsule(connect(0).command().with_id(id), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), |b| b[9] &= 0x3f);
            s.say(&said);
            s.wait(id);
        }),
        agreed("a Connect with a list of descriptors", FIELD, |s| {
            let id = 1;
            let said = capsule(connect(0).command().with_id(id), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), |b| b[9] |= 0xc0);
            s.say(&said);
            s.wait(id);
        }),
        agreed("every other descriptor that there is", TYPE, |s| {
            for identifier in (0..=255_u8).filter(|kind| ![0x01, 0x5a].contains(kind)) {
                let id = 300 + u16::from(identifier);
                let command = connect(0).command().with_id(id);
                let said = capsule(command, data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), |b| b[8 + 39] = identifier);
                s.say(&said);
                assert_eq!(s.wait(id).status.code(), StatusCode::SGL_TYPE_INVALID, "{identifier:#x}");
            }
        }),
        agreed("data of a Connect under a wrong name", Then::Ends(InvalidHeader), |s| {
            s.host.answers_r2ts = false;
            s.send(connect(0).command().with_data(Sgl::transport(1024)), &[], &[0; 1024]);
            let r2t = s.host.r2ts[0];
            s.data(&r2t, |data| data.transfer_tag ^= 0x2000);
        }),
    ]
}

fn io_queues() -> Vec<Case> {
    let with = |name, then, act| Case::new(name, Enabled, then, act);
    vec![
        agreed("a queue for I/O of no controller", PARAMETERS, |s| {
            s.ask_with(connect(1).command(), data(SUBSYSTEM, HOST.host, 0x1234).as_bytes(), &[]);
        }),
        agreed("a queue for I/O of any controller", PARAMETERS, |s| {
            s.ask_with(connect(1).command(), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), &[]);
        }),
        with("a queue for I/O of another controller", PARAMETERS, |s| s.join(0, |_, data| data.controller = 0x2222.into())),
        with("a queue for I/O beyond the last", PARAMETERS, |s| s.join(0, |connect, _| connect.queue = 128)),
        with("the last queue for I/O that can be named", PARAMETERS, |s| s.join(0, |connect, _| connect.queue = 0xffff)),
        with("a queue for I/O of another host", PARAMETERS, |s| s.join(0, |_, data| data.host[0] ^= 1)),
        with("a queue for I/O of another host identifier", PARAMETERS, |s| s.join(0, |_, data| data.host_id[15] ^= 1)),
        with("a queue for I/O of another subsystem", PARAMETERS, |s| s.join(0, |_, data| data.subsystem[9] ^= 1)),
        with("a queue for I/O of discovery", PARAMETERS, |s| {
            s.join(0, |_, data| *data = super::stage::data("nqn.2014-08.org.nvmexpress.discovery", HOST.host, 1));
        }),
        with("a queue for I/O by another port", PARAMETERS, |s| s.join(1, |_, _| ())),
        with("a queue for I/O of one entry", PARAMETERS, |s| s.join(0, |connect, _| connect.size_less_one = 0)),
        with("a queue for I/O with too many entries", PARAMETERS, |s| s.join(0, |connect, _| connect.size_less_one = 128)),
    ]
}

/// What can be done once only.
fn twice() -> Vec<Case> {
    vec![
        Case::new("a Connect on a queue that is connected", Connected, SEQUENCE, |s| connects(s, |_, _| ())),
        Case::new("a Connect on a queue for I/O", Io, SEQUENCE, |s| connects(s, |_, _| ())),
        Case::new("the same queue for I/O twice", Io, PARAMETERS, |s| s.join(0, |_, _| ())),
        agreed("two Connects at once", SEQUENCE, |s| {
            let data = data(SUBSYSTEM, HOST.host, 0xffff);
            s.host.send(connect(0).command(), data.as_bytes(), &[]);
            let id = s.host.send(connect(0).command(), data.as_bytes(), &[]);
            s.wait(id);
        }),
        agreed("forty Connects at once", Then::Closes, |s| {
            let data = data(SUBSYSTEM, HOST.host, 0xffff);
            (0..40).for_each(|_| _ = s.host.send(connect(0).command(), data.as_bytes(), &[]));
        }),
    ]
}
