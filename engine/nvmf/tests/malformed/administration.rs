//! What hosts say on admin queues: properties, pages, logs, features, events and aborts that cannot be.

use spinel_nvme::admin::{Abort, Cns, GetLogPage, Identify, SetFeature, async_event_request, keep_alive};
use spinel_nvme::command::{AdminOpcode, Command, NSID_ALL};
use spinel_nvme::fabrics::{Property, PropertySize};
use spinel_nvme::registers::{Configuration, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;

use super::stage::Start::{Connected, Enabled, Io};
use super::stage::{Case, Stage, Then};

const FIELD: Then = Then::Is(StatusCode::INVALID_FIELD);
const LENGTH: Then = Then::Is(StatusCode::SGL_LENGTH_INVALID);
const NAMESPACE: Then = Then::Is(StatusCode::INVALID_NAMESPACE);
const DONE: Then = Then::Is(StatusCode::SUCCESS);

fn connected(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Connected, then, act)
}

fn enabled(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Enabled, then, act)
}

fn get(stage: &mut Stage<'_>, offset: u32, size: PropertySize) {
    stage.ask(Property { offset, size }.get());
}

fn set(stage: &mut Stage<'_>, offset: u32, size: PropertySize, value: u64) {
    stage.ask(Property { offset, size }.set(value));
}

fn configure(stage: &mut Stage<'_>, configuration: Configuration) {
    set(stage, offset::CONFIGURATION, PropertySize::Four, configuration.register().into());
}

fn identify(stage: &mut Stage<'_>, cns: Cns, nsid: u32) {
    stage.ask(Identify::new(cns, nsid).command(Sgl::transport(4096)));
}

fn log(stage: &mut Stage<'_>, change: impl FnOnce(&mut GetLogPage)) {
    let mut asked = GetLogPage::new(2, NSID_ALL, 0, 512);
    change(&mut asked);
    stage.ask(asked.command(Sgl::transport(512)));
}

fn feature(stage: &mut Stage<'_>, feature: u8, nsid: u32, value: u32) {
    stage.ask(SetFeature::new(feature, nsid, value).command(Sgl::transport(0)));
}

fn await_event(stage: &mut Stage<'_>) -> u16 {
    stage.send(async_event_request().with_data(Sgl::transport(0)), &[], &[])
}

fn abort(stage: &mut Stage<'_>, queue: u16, id: u16) -> bool {
    Abort::aborted(stage.ask(Abort { queue, id }.command().with_data(Sgl::transport(0))).result)
}

pub(crate) fn cases() -> Vec<Case> {
    [properties(), pages(), logs(), features(), events(), every()].into_iter().flatten().collect()
}

fn properties() -> Vec<Case> {
    use PropertySize::{Eight, Four};
    vec![
        connected("half of the capabilities", FIELD, |s| get(s, offset::CAPABILITIES, Four)),
        connected("the other half of the capabilities", FIELD, |s| get(s, offset::CAPABILITIES + 4, Four)),
        connected("the version and what follows it", FIELD, |s| get(s, offset::VERSION, Eight)),
        connected("a property between others", FIELD, |s| get(s, offset::VERSION + 2, Four)),
        connected("a property of other transports", FIELD, |s| get(s, offset::ADMIN_QUEUES, Four)),
        connected("a property at the end of all", FIELD, |s| get(s, u32::MAX, Eight)),
        connected("a property of sixteen bytes", FIELD, |s| {
            s.ask(Property { offset: offset::CONFIGURATION, size: Four }.get().with_dword(10, 2));
        }),
        connected("every offset of every width", DONE, |s| {
            s.ask_all((0..0x80).flat_map(|offset| [Four, Eight].map(|size| Property { offset, size }.get())));
            get(s, offset::VERSION, Four);
        }),
        connected("capabilities that are set", FIELD, |s| set(s, offset::CAPABILITIES, Eight, u64::MAX)),
        connected("a status that is set", FIELD, |s| set(s, offset::STATUS, Four, 1)),
        connected("a configuration of eight bytes", FIELD, |s| set(s, offset::CONFIGURATION, Eight, 0x46_0001)),
        connected("a reset of the subsystem", FIELD, |s| set(s, offset::SUBSYSTEM_RESET, Four, 0x4e56_4d65)),
        connected("pages of 8 KiB", FIELD, |s| configure(s, Configuration { page_power: 1, ..Configuration::enabled() })),
        connected("all command sets", FIELD, |s| configure(s, Configuration { sets: 6, ..Configuration::enabled() })),
        connected("an arbitration that there is not", FIELD, |s| {
            configure(s, Configuration { arbitration: 7, ..Configuration::enabled() })
        }),
        connected("entries of one byte", FIELD, |s| configure(s, Configuration { submission_entry_power: 0, ..Configuration::enabled() })),
        connected("every bit of the configuration", FIELD, |s| set(s, offset::CONFIGURATION, Four, u32::MAX.into())),
        enabled("enabled twice", DONE, |s| configure(s, Configuration::enabled())),
        enabled("disabled and enabled a hundred times", DONE, |s| {
            let values = [Configuration::default(), Configuration::enabled()].map(|value| value.register().into());
            s.ask_all((0..200).map(|turn| Property { offset: offset::CONFIGURATION, size: Four }.set(values[turn % 2])));
        }),
        enabled("shut down, twice, and shut down again", DONE, |s| {
            for shutdown in [1, 1, 2, 3, 0, 2] {
                configure(s, Configuration { shutdown, ..Configuration::enabled() });
            }
        }),
        Case::new("a reset in the middle of requests", Io, Then::Closes, |s| {
            s.host.end.set_deaf(true);
            for block in 0..10 {
                s.host.read(block, 8);
                s.host.write(block, &[1; 512], true);
                s.host.write(block, &[1; 8192], false);
            }
            let admin = s.admin.as_mut().expect("there is one");
            admin.await_event();
            let reset = Property { offset: offset::CONFIGURATION, size: Four }.set(0);
            admin.send(reset, &[], &[]);
            s.turns(20);
            s.host.end.set_deaf(false);
        }),
    ]
}

fn pages() -> Vec<Case> {
    vec![
        enabled("Identify of namespace 0", NAMESPACE, |s| identify(s, Cns::Namespace, 0)),
        enabled("Identify of a namespace beyond the last", NAMESPACE, |s| identify(s, Cns::Namespace, 33)),
        enabled("Identify of the last number but one", NAMESPACE, |s| identify(s, Cns::Namespace, u32::MAX - 1)),
        enabled("descriptors of namespace 0", NAMESPACE, |s| identify(s, Cns::NamespaceDescriptors, 0)),
        enabled("descriptors of every namespace", NAMESPACE, |s| identify(s, Cns::NamespaceDescriptors, NSID_ALL)),
        enabled("namespaces above the last number", NAMESPACE, |s| identify(s, Cns::ActiveNamespaces, NSID_ALL)),
        enabled("what is common to namespace 0", NAMESPACE, |s| identify(s, Cns::NamespaceCommon, 0)),
        enabled("controllers of namespace 0", NAMESPACE, |s| identify(s, Cns::ControllersOfNamespace, 0)),
        enabled("a page that there is not", FIELD, |s| {
            _ = s.ask(Identify { cns: 0xff, ..Identify::default() }.command(Sgl::transport(4096)))
        }),
        enabled("a page of another command set", FIELD, |s| {
            s.ask(Identify { cns: 5, nsid: 1, set: 2, ..Identify::default() }.command(Sgl::transport(4096)));
        }),
        enabled("Identify without room", LENGTH, |s| _ = s.ask(Identify::new(Cns::Controller, 0).command(Sgl::transport(0)))),
        enabled("Identify with room for all but four bytes", LENGTH, |s| {
            s.ask(Identify::new(Cns::Controller, 0).command(Sgl::transport(4092)));
        }),
        enabled("Identify with room for four gigabytes", FIELD, |s| {
            s.ask(Identify::new(Cns::Controller, 0).command(Sgl::transport(u32::MAX)));
        }),
        enabled("Identify at an address", Then::Is(StatusCode::SGL_TYPE_INVALID), |s| {
            s.ask(Identify::new(Cns::Controller, 0).command(Sgl::address(4096, 4096)));
        }),
        enabled("Identify with data", Then::Is(StatusCode::SGL_TYPE_INVALID), |s| {
            s.ask_with(Identify::new(Cns::Controller, 0).command(Sgl::transport(4096)), &[0; 64], &[]);
        }),
        enabled("every page of every namespace", DONE, |s| {
            let asked = (0..=255).flat_map(|cns| [0, 1, 2, 33, NSID_ALL].map(|nsid| Identify { cns, nsid, ..Identify::default() }));
            let asked: Vec<Identify> = asked.collect();
            let answers = s.ask_all(asked.iter().map(|asked| asked.command(Sgl::transport(4096))));
            for (asked, answer) in asked.iter().zip(answers) {
                let code = answer.status.code();
                let fits = matches!(code, StatusCode::SUCCESS | StatusCode::INVALID_FIELD | StatusCode::INVALID_NAMESPACE);
                assert!(fits && (answer.data.len() == 4096) == (code == StatusCode::SUCCESS), "{asked:?}: {code:?}");
            }
            identify(s, Cns::Controller, 0);
        }),
    ]
}

fn logs() -> Vec<Case> {
    vec![
        enabled("a log page that there is not", Then::Is(StatusCode::LOG_PAGE_INVALID), |s| log(s, |asked| asked.page = 0x0d)),
        enabled("the log page of discovery elsewhere", Then::Is(StatusCode::LOG_PAGE_INVALID), |s| log(s, |asked| asked.page = 0x70)),
        enabled("a log page from its second byte on", FIELD, |s| log(s, |asked| asked.offset = 1)),
        enabled("a log page from behind its end on", FIELD, |s| log(s, |asked| asked.offset = 516)),
        enabled("a log page from the end of time on", FIELD, |s| log(s, |asked| asked.offset = u64::MAX - 3)),
        enabled("a log page by its entries", FIELD, |s| log(s, |asked| asked.offset_is_index = true)),
        enabled("four bytes more of a log page than there is room", LENGTH, |s| log(s, |asked| asked.dwords_less_one = 128)),
        enabled("16 GiB of a log page", LENGTH, |s| log(s, |asked| asked.dwords_less_one = u32::MAX)),
        enabled("every log page, at every end", DONE, |s| {
            let ends = [(0, true), (0, false), (4, true), (508, true), (4096, false), (1 << 40, false)];
            let asked = (0..=255).flat_map(|page| {
                ends.map(|(offset, retain_event)| GetLogPage { retain_event, ..GetLogPage::new(page, NSID_ALL, offset, 512) })
            });
            let asked: Vec<GetLogPage> = asked.collect();
            let answers = s.ask_all(asked.iter().map(|asked| asked.command(Sgl::transport(512))));
            for (asked, answer) in asked.iter().zip(answers) {
                let code = answer.status.code();
                let fits = matches!(code, StatusCode::SUCCESS | StatusCode::INVALID_FIELD | StatusCode::LOG_PAGE_INVALID);
                assert!(fits && (answer.data.len() == 512) == (code == StatusCode::SUCCESS), "{asked:?}: {code:?}");
            }
            log(s, |_| ());
        }),
    ]
}

fn features() -> Vec<Case> {
    vec![
        enabled("a feature that there is not", FIELD, |s| feature(s, 0x7f, 0, 1)),
        enabled("a feature that is to last", Then::Is(StatusCode::FEATURE_NOT_SAVEABLE), |s| {
            s.ask(SetFeature { save: true, ..SetFeature::new(0x0b, 0, 1) }.command(Sgl::transport(0)));
        }),
        enabled("a cache that cannot be switched off", Then::Is(StatusCode::FEATURE_NOT_CHANGEABLE), |s| feature(s, 0x06, 0, 0)),
        enabled("65536 queues", FIELD, |s| feature(s, 0x07, 0, 0xffff_ffff)),
        enabled("a state of power that there is not", FIELD, |s| feature(s, 0x02, 0, 31)),
        enabled("what the host can do, in 511 bytes", LENGTH, |s| {
            s.ask_with(SetFeature::new(0x16, 0, 0).command(Sgl::capsule(0, 511)), &[1; 511], &[]);
        }),
        enabled("what the host can do, without a word", LENGTH, |s| feature(s, 0x16, 0, 0)),
        enabled("a mask of a namespace that there is not", NAMESPACE, |s| feature(s, 0x82, 7, 0)),
        enabled("reservations that last where there is no file", Then::Is(StatusCode::FEATURE_NOT_CHANGEABLE), |s| feature(s, 0x83, 1, 1)),
        enabled("reservations that last in no namespace", NAMESPACE, |s| feature(s, 0x83, 0, 1)),
        enabled("every feature, every way to ask for it", DONE, |s| {
            let get = Command::new(AdminOpcode::GetFeatures.code(), 1).with_data(Sgl::transport(4096));
            let words = (0..=255_u32).flat_map(|code| (0..8).map(move |select| code | select << 8));
            for answer in s.ask_all(words.map(|word| get.with_dword(10, word))) {
                let code = answer.status.code();
                let fits = matches!(code, StatusCode::SUCCESS | StatusCode::INVALID_FIELD | StatusCode::HOST_ID_INCONSISTENT);
                assert!(fits, "{code:?}");
            }
            s.ask(keep_alive().with_data(Sgl::transport(0)));
        }),
        enabled("every feature is set to everything", DONE, |s| {
            // Not how long it may be silent.
            let codes = (0..=255).filter(|code| *code != 0x0f);
            s.ask_all(codes.map(|code| SetFeature::new(code, 1, u32::MAX).command(Sgl::transport(0))));
            s.ask(keep_alive().with_data(Sgl::transport(0)));
        }),
    ]
}

fn events() -> Vec<Case> {
    vec![
        enabled("more questions for events than may wait", Then::Is(StatusCode::ASYNC_EVENT_LIMIT), |s| {
            (0..4).for_each(|_| _ = await_event(s));
            let id = await_event(s);
            s.wait(id);
        }),
        enabled("a question for events under a name in use", Then::Is(StatusCode::ID_CONFLICT), |s| {
            let id = await_event(s);
            s.host.send_as(id, keep_alive().with_data(Sgl::transport(0)), &[], &[]);
            s.wait(id);
        }),
        enabled("an abort of nothing", DONE, |s| assert!(!abort(s, 0, 0x4444))),
        enabled("an abort of itself", DONE, |s| {
            let id = s.host.send_as(0x5555, Abort { queue: 0, id: 0x5555 }.command().with_data(Sgl::transport(0)), &[], &[]);
            assert!(!Abort::aborted(s.wait(id).result));
        }),
        enabled("an abort of a question for events", Then::Is(StatusCode::ABORT_REQUESTED), |s| {
            let id = await_event(s);
            assert!(abort(s, 0, id));
            s.wait(id);
        }),
        enabled("an abort in a queue that there is not", DONE, |s| assert!(!abort(s, 77, 1))),
        enabled("an abort in the last queue that can be named", DONE, |s| assert!(!abort(s, 0xffff, 0xffff))),
        enabled("a thousand aborts", DONE, |s| {
            s.ask_all((0..1000).map(|id| Abort { queue: id % 3, id }.command().with_data(Sgl::transport(0))));
        }),
        enabled("aborts and resets at once", DONE, |s| {
            for _ in 0..4 {
                let id = s.host.await_event();
                s.host.send(Abort { queue: 0, id }.command().with_data(Sgl::transport(0)), &[], &[]);
                s.host.send(Abort { queue: 1, id }.command().with_data(Sgl::transport(0)), &[], &[]);
            }
            configure(s, Configuration::default());
            configure(s, Configuration::enabled());
        }),
    ]
}

/// Everything that an opcode can be, and more at a time than fits.
fn every() -> Vec<Case> {
    vec![
        enabled("every opcode of an admin queue without data", DONE, |s| {
            // Not questions for events, which wait.
            let opcodes: Vec<u8> = (0..=255).filter(|opcode| *opcode != AdminOpcode::AsyncEventRequest.code()).collect();
            let answers = s.ask_all(opcodes.iter().map(|opcode| Command::new(*opcode, 1).with_data(Sgl::transport(0))));
            for (opcode, answer) in opcodes.iter().zip(answers) {
                let (known, code) = (AdminOpcode::of(*opcode).is_some(), answer.status.code());
                assert!(known || matches!(code, StatusCode::INVALID_OPCODE | StatusCode::SGL_TYPE_INVALID), "{opcode:#x}: {code:?}");
            }
            s.ask(keep_alive().with_data(Sgl::transport(0)));
        }),
        enabled("every opcode of an admin queue with data", DONE, |s| {
            for opcode in (0..=255).filter(|opcode| *opcode != AdminOpcode::AsyncEventRequest.code()) {
                s.ask_with(Command::new(opcode, 1).with_data(Sgl::capsule(0, 128)), &[0xa5; 128], &[]);
            }
            s.ask(keep_alive().with_data(Sgl::transport(0)));
        }),
        enabled("commands of other transports", Then::Is(StatusCode::INVALID_OPCODE), |s| {
            s.ask(Command::new(AdminOpcode::CreateSubmissionQueue.code(), 0).with_data(Sgl::capsule(0, 0)));
        }),
        enabled("more commands that wait for data than there are entries", Then::Closes, |s| {
            s.host.answers_r2ts = false;
            for _ in 0..40 {
                s.host.send(SetFeature::new(0x16, 0, 0).command(Sgl::transport(512)), &[], &[1; 512]);
            }
        }),
        enabled("it is not heard of any more", Then::Closes, |s| s.pass(12)),
    ]
}
