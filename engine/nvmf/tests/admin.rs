//! A controller as its host sees it: properties, features, log pages, events, keep-alive, and what an administrator changes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::host::{HOST, Host, OTHER, Talk, bytes};
use common::world::{BLOCKS, SUBSYSTEM, World, address};
use spinel_core::{Channel, Core, Device, Geometry, OpenError};
use spinel_nvme::admin::{Abort, Cns, FeatureSelect, GetFeature, GetLogPage};
use spinel_nvme::command::{AdminOpcode, Command, IoOpcode};
use spinel_nvme::fabrics::{Property, PropertySize};
use spinel_nvme::features::{Feature, QueueCounts, async_events};
use spinel_nvme::identify::{Namespace, NamespaceList};
use spinel_nvme::io::Blocks;
use spinel_nvme::log::{AnaGroup, AnaHead, AnaState as AnaCode, AsyncEvent, ChangedNamespaces, DiscoveryEntry, DiscoveryHead, LogPage};
use spinel_nvme::registers::{Capabilities, Configuration, ControllerStatus, Version, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::nqn::{DISCOVERY_NQN, Nqn};
use spinel_nvmf::target::{AnaState, HostSecrets, ListenerSpec, NamespaceSpec, Options, ReferralSpec};
use spinel_volume::{MemoryDevice, NullDevice, Shape};
use zerocopy::FromBytes as _;

/// Asks for every event.
fn wants_events(world: &mut World, admin: &mut Host) {
    let all = async_events::NAMESPACES | async_events::ANA | async_events::DISCOVERY;
    assert!(admin.set_feature(world, Feature::AsyncEvents.code(), all).status.is_success());
}

fn event(world: &mut World, admin: &mut Host, request: u16) -> AsyncEvent {
    AsyncEvent::of(admin.wait(world, request).result)
}

#[test]
fn properties_say_what_the_controller_can_do_and_whether_it_works() {
    let mut world = World::new(Options::default());
    let mut admin = world.dial(0, Talk::PLAIN);
    admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    let capabilities = Capabilities::of(admin.property(&mut world, offset::CAPABILITIES, PropertySize::Eight));
    assert_eq!((capabilities.queue_max_less_one, capabilities.nvm, capabilities.contiguous), (127, true, true));
    assert_eq!(admin.property(&mut world, offset::VERSION, PropertySize::Four), u64::from(Version::V2_0.register()));
    let ready = |world: &mut World, admin: &mut Host| {
        let status = admin.property(world, offset::STATUS, PropertySize::Four);
        ControllerStatus::of(u32::try_from(status).unwrap()).ready
    };
    assert!(!ready(&mut world, &mut admin));
    assert_eq!(admin.identify(&mut world, Cns::Controller, 0).status.code(), StatusCode::SEQUENCE, "not before it works");
    admin.enable(&mut world);
    assert!(ready(&mut world, &mut admin));
    let configuration = admin.property(&mut world, offset::CONFIGURATION, PropertySize::Four);
    assert!(Configuration::of(u32::try_from(configuration).unwrap()).enable);
    for (offset, size) in [(offset::CAPABILITIES, PropertySize::Four), (offset::VERSION, PropertySize::Eight), (0x1000, PropertySize::Four)]
    {
        let answer = admin.ask(&mut world, Property { offset, size }.get(), &[], &[]);
        assert_eq!(answer.status.code(), StatusCode::INVALID_FIELD, "{offset:#x}");
    }
    let answer = admin.ask(&mut world, Property { offset: offset::STATUS, size: PropertySize::Four }.set(1), &[], &[]);
    assert_eq!(answer.status.code(), StatusCode::INVALID_FIELD);
}

#[test]
fn a_reset_ends_the_queues_and_the_controller_works_again_afterwards() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let request = admin.await_event();
    let configuration = Property { offset: offset::CONFIGURATION, size: PropertySize::Four };
    admin.done(&mut world, configuration.set(0), &[], &[]);
    assert_eq!(admin.wait(&mut world, request).status.code(), StatusCode::ABORT_REQUESTED);
    io.settle(&mut world);
    assert!(io.end.is_closed());
    let mut early = world.dial(0, Talk::PLAIN);
    assert_eq!(early.connect(&mut world, &HOST, SUBSYSTEM, 1, 1).status.code(), StatusCode::SEQUENCE, "it does not work now");
    admin.enable(&mut world);
    let mut io = world.queue(&HOST, 0, 1, 1, Talk::PLAIN);
    let id = io.read(0, 1);
    assert!(io.wait(&mut world, id).status.is_success());
}

#[test]
fn features_are_kept_and_those_that_there_are_not_are_refused() {
    let mut world = World::new(Options::default());
    let (mut admin, _io) = world.pair(Talk::PLAIN);
    let get = |feature: u8| GetFeature::new(feature, 0).command(Sgl::transport(0));
    let wanted = QueueCounts { submission: 4, completion: 4 };
    let answer = admin.set_feature(&mut world, Feature::NumberOfQueues.code(), wanted.value());
    assert_eq!(QueueCounts::of(u32::try_from(answer.result).unwrap()), wanted);
    let many = QueueCounts { submission: 1000, completion: 1000 };
    let answer = admin.set_feature(&mut world, Feature::NumberOfQueues.code(), many.value());
    assert_eq!(QueueCounts::of(u32::try_from(answer.result).unwrap()).submission, 127);
    assert_eq!(admin.set_feature(&mut world, Feature::NumberOfQueues.code(), 0xffff).status.code(), StatusCode::INVALID_FIELD);
    admin.set_feature(&mut world, Feature::KeepAlive.code(), 12_345);
    assert_eq!(admin.done(&mut world, get(Feature::KeepAlive.code()), &[], &[]).result, 13_000, "in whole seconds");
    admin.set_feature(&mut world, Feature::Arbitration.code(), 7);
    assert_eq!(admin.done(&mut world, get(Feature::Arbitration.code()), &[], &[]).result, 7);
    let capabilities = GetFeature { select: Some(FeatureSelect::Capabilities), ..GetFeature::new(Feature::Arbitration.code(), 0) };
    assert_eq!(admin.done(&mut world, capabilities.command(Sgl::transport(0)), &[], &[]).result, 4);
    assert_eq!(admin.ask(&mut world, get(0x3f), &[], &[]).status.code(), StatusCode::INVALID_FIELD);
    assert_eq!(admin.set_feature(&mut world, Feature::VolatileWriteCache.code(), 0).status.code(), StatusCode::FEATURE_NOT_CHANGEABLE);
    let host_id = GetFeature { dword_11: 1, ..GetFeature::new(Feature::HostIdentifier.code(), 0) };
    assert_eq!(admin.done(&mut world, host_id.command(Sgl::transport(16)), &[], &[]).data, [1; 16]);
}

#[test]
fn namespaces_that_come_grow_and_go_are_told() {
    let mut world = World::new(Options::default());
    let (mut admin, _io) = world.pair(Talk::PLAIN);
    assert!(admin.set_feature(&mut world, Feature::AsyncEvents.code(), async_events::NAMESPACES).status.is_success());
    let request = admin.await_event();
    let device = Arc::new(NullDevice::new(Shape::new(512, 100)).unwrap());
    let spec = NamespaceSpec { device: Arc::clone(&device) as _, ..world.spec("null") };
    let (nsid, pending) = world.target.add_namespace(SUBSYSTEM, spec).unwrap();
    world.made(&pending);
    assert_eq!(event(&mut world, &mut admin, request), AsyncEvent::NAMESPACES_CHANGED);
    let request = admin.await_event();
    let extra = world.add_disk("more", 64);
    admin.settle(&mut world);
    assert!(admin.answer(request).is_none(), "not again before it was read");
    let list = |world: &mut World, admin: &mut Host| {
        let page = admin.log(world, LogPage::ChangedNamespaces.code(), 4096).data;
        ChangedNamespaces::read_from_bytes(&page).unwrap().ids().collect::<Vec<_>>()
    };
    let behind = GetLogPage::new(LogPage::ChangedNamespaces.code(), u32::MAX, 8192, 4096).command(Sgl::transport(4096));
    assert_eq!(admin.ask(&mut world, behind, &[], &[]).status.code(), StatusCode::INVALID_FIELD);
    assert_eq!(list(&mut world, &mut admin), [nsid, extra], "what was refused was not read");
    assert_eq!(list(&mut world, &mut admin), [], "it was read");
    device.resize(200).unwrap();
    world.target.resized("null");
    assert_eq!(event(&mut world, &mut admin, request), AsyncEvent::NAMESPACES_CHANGED);
    assert_eq!(list(&mut world, &mut admin), [nsid]);
    let page = admin.identify(&mut world, Cns::Namespace, nsid).data;
    assert_eq!(Namespace::read_from_bytes(&page).unwrap().size_blocks.get(), 200);
    let request = admin.await_event();
    let pending = world.target.remove_namespace(SUBSYSTEM, nsid).unwrap();
    world.made(&pending);
    assert_eq!(event(&mut world, &mut admin, request), AsyncEvent::NAMESPACES_CHANGED);
    let ids = admin.identify(&mut world, Cns::ActiveNamespaces, 0).data;
    assert_eq!(NamespaceList::read_from_bytes(&ids).unwrap().ids().collect::<Vec<_>>(), [1, extra]);
}

#[test]
fn a_namespace_that_was_removed_is_used_by_nobody() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let device = Arc::new(MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap());
    let spec = NamespaceSpec { device: Arc::clone(&device) as _, ..world.spec("second") };
    let (nsid, pending) = world.target.add_namespace(SUBSYSTEM, spec).unwrap();
    world.made(&pending);
    let read = Blocks::new(0, 8).command(IoOpcode::Read, nsid, Sgl::transport(4096));
    io.done(&mut world, read, &[], &[]);
    assert_eq!(world.meters.live(), 1);
    let ids: Vec<u16> = (0..16).map(|_| io.send(read, &[], &[])).collect();
    let pending = world.target.remove_namespace(SUBSYSTEM, nsid).unwrap();
    world.made(&pending);
    assert_eq!(Arc::strong_count(&device), 1, "no channel and no view holds it");
    world.turns(5);
    assert_eq!(world.meters.live(), 0);
    for id in ids {
        let status = io.wait(&mut world, id).status;
        assert!(status.is_success() || status.code() == StatusCode::INVALID_NAMESPACE, "{status}");
    }
    assert_eq!(io.ask(&mut world, read, &[], &[]).status.code(), StatusCode::INVALID_NAMESPACE);
    // Another one under the same number is another one.
    let again = world.add_disk("third", BLOCKS);
    assert_eq!(again, nsid);
    assert_eq!(io.done(&mut world, read, &[], &[]).data, vec![0; 4096]);
}

/// A disk that counts how often it was opened.
struct Counted {
    disk: MemoryDevice,
    opened: AtomicUsize,
}

impl Device for Counted {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.disk.open(core, depth)
    }
}

#[test]
fn channels_that_serve_no_longer_are_opened_again_under_load() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let device = Arc::new(Counted { disk: MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap(), opened: AtomicUsize::new(0) });
    let spec = NamespaceSpec { device: Arc::clone(&device) as _, ..world.spec("counted") };
    let (nsid, pending) = world.target.add_namespace(SUBSYSTEM, spec).unwrap();
    world.made(&pending);
    let blocks = Blocks::new(8, 8);
    for round in 0..50 {
        let data = bytes(4096, round);
        let id = io.send(blocks.command(IoOpcode::Write, nsid, Sgl::capsule(0, 4096)), &data, &[]);
        let read = blocks.command(IoOpcode::Read, nsid, Sgl::transport(4096));
        let reads: Vec<u16> = (0..4).map(|_| io.send(read, &[], &[])).collect();
        world.target.reopen("counted");
        assert!(io.wait(&mut world, id).status.is_success());
        reads.into_iter().for_each(|id| assert!(io.wait(&mut world, id).status.is_success()));
        assert_eq!(io.done(&mut world, read, &[], &[]).data, data);
    }
    world.turns(5);
    assert!(device.opened.load(Ordering::Relaxed) >= 50);
    assert_eq!(world.meters.live(), 1, "the channels before are closed");
}

/// Groups and their states, as the log page has them.
fn groups(world: &mut World, admin: &mut Host) -> Vec<(u32, AnaCode, Vec<u32>)> {
    let page = admin.log(world, LogPage::Ana.code(), 1024).data;
    let (head, mut rest) = AnaHead::read_from_prefix(&page).unwrap();
    let mut groups = Vec::new();
    for _ in 0..head.groups.get() {
        let (group, behind) = AnaGroup::read_from_prefix(rest).unwrap();
        let (members, behind) = behind.split_at(4 * group.namespaces.get() as usize);
        let members = members.chunks(4).map(|id| u32::from_le_bytes(id.try_into().unwrap())).collect();
        groups.push((group.group.get(), group.state().unwrap(), members));
        rest = behind;
    }
    groups
}

#[test]
fn ways_to_groups_change_for_one_port_at_a_time_and_all_at_once() {
    let mut world = World::new(Options::default());
    world.add_disk("second", 64);
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let (mut far, _) = world.admin(&HOST, 1, Talk::PLAIN);
    wants_events(&mut world, &mut admin);
    wants_events(&mut world, &mut far);
    let (request, far_request) = (admin.await_event(), far.await_event());
    assert_eq!(groups(&mut world, &mut admin), [(1, AnaCode::Optimized, vec![1]), (2, AnaCode::Optimized, vec![2])]);
    let states = [(Some(1), AnaState::Inaccessible), (Some(2), AnaState::NonOptimized)];
    let pending = world.target.set_ana_states(SUBSYSTEM, world.ports[0], &states).unwrap();
    world.made(&pending);
    assert_eq!(event(&mut world, &mut admin, request), AsyncEvent::ANA_CHANGED);
    assert_eq!(groups(&mut world, &mut admin), [(1, AnaCode::Inaccessible, vec![1]), (2, AnaCode::NonOptimized, vec![2])]);
    assert_eq!(groups(&mut world, &mut far), [(1, AnaCode::Optimized, vec![1]), (2, AnaCode::Optimized, vec![2])]);
    far.settle(&mut world);
    assert!(far.answer(far_request).is_none());
    let id = io.read(0, 1);
    let status = io.wait(&mut world, id).status;
    assert_eq!((status.code(), status.is_permanent()), (StatusCode::ANA_INACCESSIBLE, false));
    let pending = world.target.set_ana_states(SUBSYSTEM, world.ports[0], &[(None, AnaState::Optimized)]).unwrap();
    world.made(&pending);
    let id = io.read(0, 1);
    assert!(io.wait(&mut world, id).status.is_success());
    let pending = world.target.set_namespace_group(SUBSYSTEM, 2, 1).unwrap();
    world.made(&pending);
    assert_eq!(groups(&mut world, &mut admin), [(1, AnaCode::Optimized, vec![1, 2])]);
}

#[test]
fn a_listener_that_goes_takes_its_connections_and_no_others() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let (mut far, cntlid) = world.admin(&HOST, 1, Talk::PLAIN);
    let mut far_io = world.queue(&HOST, 1, cntlid, 1, Talk::PLAIN);
    let pending = world.target.remove_listener(SUBSYSTEM, world.ports[0]).unwrap();
    world.made(&pending);
    admin.settle(&mut world);
    io.settle(&mut world);
    assert!(admin.end.is_closed() && io.end.is_closed());
    let id = far_io.read(0, 1);
    assert!(far_io.wait(&mut world, id).status.is_success());
    assert!(far.identify(&mut world, Cns::Controller, 0).status.is_success());
    let mut late = world.dial(0, Talk::PLAIN);
    assert_eq!(late.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff).status.code(), StatusCode::CONNECT_PARAMETERS);
    let listener = ListenerSpec { port: world.ports[0], state: AnaState::NonOptimized };
    let pending = world.target.add_listener(SUBSYSTEM, &listener).unwrap();
    world.made(&pending);
    assert!(late.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff).status.is_success());
}

#[test]
fn a_host_that_is_not_heard_of_loses_its_controller() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    for _ in 0..10 {
        world.pass(Duration::from_secs(6));
        let id = admin.keep_alive();
        assert!(admin.wait(&mut world, id).status.is_success());
    }
    let before = world.pollers();
    world.pass(Duration::from_secs(9));
    assert_eq!(world.pollers(), before);
    world.pass(Duration::from_secs(2));
    admin.settle(&mut world);
    io.settle(&mut world);
    assert!(admin.end.is_closed() && io.end.is_closed());
    assert_eq!((world.pollers(), world.target.subsystems()[0].controllers.len()), (0, 0));
}

#[test]
fn events_are_asked_for_a_few_times_and_given_up() {
    let mut world = World::new(Options::default());
    let (mut admin, _io) = world.pair(Talk::PLAIN);
    let requests: Vec<u16> = (0..4).map(|_| admin.await_event()).collect();
    let fifth = admin.await_event();
    assert_eq!(admin.wait(&mut world, fifth).status.code(), StatusCode::ASYNC_EVENT_LIMIT);
    let abort = |id| Abort { queue: 0, id }.command().with_data(Sgl::transport(0));
    assert!(Abort::aborted(admin.done(&mut world, abort(requests[2]), &[], &[]).result));
    assert_eq!(admin.wait(&mut world, requests[2]).status.code(), StatusCode::ABORT_REQUESTED);
    assert!(!Abort::aborted(admin.done(&mut world, abort(999), &[], &[]).result));
}

#[test]
fn log_pages_that_there_are_can_be_read_and_others_are_refused() {
    let mut world = World::new(Options::default());
    let (mut admin, _io) = world.pair(Talk::PLAIN);
    for (page, len) in [
        (LogPage::Supported, 1024),
        (LogPage::Error, 64),
        (LogPage::Smart, 512),
        (LogPage::FirmwareSlots, 512),
        (LogPage::ChangedNamespaces, 4096),
        (LogPage::CommandEffects, 4096),
        (LogPage::FeatureEffects, 1024),
        (LogPage::Reservation, 64),
        (LogPage::Ana, 16),
    ] {
        let answer = admin.log(&mut world, page.code(), len);
        assert!(answer.status.is_success() && answer.data.len() == len as usize, "{page:?}: {}", answer.status);
    }
    for page in [LogPage::SelfTest.code(), LogPage::Discovery.code(), 0xc0] {
        assert_eq!(admin.log(&mut world, page, 512).status.code(), StatusCode::LOG_PAGE_INVALID, "{page:#x}");
    }
    let from = |offset| GetLogPage { offset, ..GetLogPage::new(LogPage::Smart.code(), 0, 0, 64) }.command(Sgl::transport(64));
    let whole = admin.log(&mut world, LogPage::Smart.code(), 512).data;
    assert_eq!(admin.done(&mut world, from(0), &[], &[]).data, whole[..64]);
    assert_eq!(admin.done(&mut world, from(32), &[], &[]).data, whole[32..96]);
    assert_eq!(admin.ask(&mut world, from(2), &[], &[]).status.code(), StatusCode::INVALID_FIELD);
    assert_eq!(admin.ask(&mut world, from(1 << 40), &[], &[]).status.code(), StatusCode::INVALID_FIELD);
}

#[test]
fn admin_commands_that_there_are_not_are_refused() {
    let mut world = World::new(Options::default());
    let (mut admin, _io) = world.pair(Talk::PLAIN);
    for opcode in [AdminOpcode::Format, AdminOpcode::CreateSubmissionQueue, AdminOpcode::NamespaceManagement, AdminOpcode::Sanitize] {
        let answer = admin.ask(&mut world, Command::new(opcode.code(), 1).with_data(Sgl::transport(0)), &[], &[]);
        assert_eq!(answer.status.code(), StatusCode::INVALID_OPCODE, "{opcode:?}");
    }
    for cns in [Cns::NvmSets, Cns::PrimaryController, Cns::EnduranceGroups] {
        assert_eq!(admin.identify(&mut world, cns, 0).status.code(), StatusCode::INVALID_FIELD, "{cns:?}");
    }
    assert_eq!(admin.identify(&mut world, Cns::Namespace, 99).status.code(), StatusCode::INVALID_NAMESPACE);
    assert_eq!(admin.identify(&mut world, Cns::Namespace, 2).data, vec![0; 4096], "one that could be is all zeroes");
}

/// A discovery controller.
fn discovers(world: &mut World, who: &common::host::Who) -> Host {
    let mut host = world.dial(0, Talk::PLAIN);
    assert!(host.connect(world, who, DISCOVERY_NQN, 0, 0xffff).status.is_success());
    host.enable(world);
    host
}

fn found(world: &mut World, host: &mut Host) -> (u64, Vec<DiscoveryEntry>) {
    let page = host.log(world, LogPage::Discovery.code(), 16 << 10).data;
    let (head, mut rest) = DiscoveryHead::read_from_prefix(&page).unwrap();
    let entries = (0..head.entries.get()).map(|_| {
        let (entry, behind) = DiscoveryEntry::read_from_prefix(rest).unwrap();
        rest = behind;
        entry
    });
    (head.generation.get(), entries.collect())
}

#[test]
fn discovery_tells_each_host_what_it_may_connect_to() {
    let mut world = World::new(Options::default());
    let mut host = discovers(&mut world, &HOST);
    let (generation, entries) = found(&mut world, &mut host);
    let services: Vec<_> = entries.iter().map(|entry| entry.service_text().unwrap().to_owned()).collect();
    assert_eq!(services, ["4420", "4421"]);
    assert!(entries.iter().all(|entry| entry.address_text() == Some("127.0.0.1") && entry.subsystem.starts_with(SUBSYSTEM.as_bytes())));
    wants_events(&mut world, &mut host);
    let request = host.await_event();
    let elsewhere = ReferralSpec { subsystem: Nqn::parse(DISCOVERY_NQN).unwrap(), address: address(100), secure: false };
    world.target.add_referral(elsewhere.clone()).unwrap();
    assert_eq!(event(&mut world, &mut host, request), AsyncEvent::DISCOVERY_CHANGED);
    let (later, entries) = found(&mut world, &mut host);
    assert!(later > generation);
    assert_eq!((entries.len(), entries[2].kind, entries[2].service_text()), (3, 1, Some("4520")));
    world.target.remove_referral(&elsewhere.subsystem, &elsewhere.address).unwrap();
    let request = host.await_event();
    world.target.allow_any_host(SUBSYSTEM, false).unwrap();
    world.target.add_host(SUBSYSTEM, &Nqn::of_peer(OTHER.host.as_bytes()).unwrap(), HostSecrets::default()).unwrap();
    assert_eq!(event(&mut world, &mut host, request), AsyncEvent::DISCOVERY_CHANGED);
    assert_eq!(found(&mut world, &mut host).1.len(), 0);
    let mut other = discovers(&mut world, &OTHER);
    assert_eq!(found(&mut world, &mut other).1.len(), 2);
    let mut queue = world.dial(0, Talk::PLAIN);
    assert_eq!(queue.connect(&mut world, &HOST, DISCOVERY_NQN, 1, 1).status.code(), StatusCode::CONNECT_PARAMETERS, "it has no I/O");
}

#[test]
fn the_page_of_discovery_is_the_same_in_pieces() {
    let mut world = World::new(Options::default());
    let mut host = discovers(&mut world, &HOST);
    let mut read = |offset: u64, len: u32| {
        let command = GetLogPage::new(LogPage::Discovery.code(), 0, offset, len.into()).command(Sgl::transport(len));
        host.ask(&mut world, command, &[], &[])
    };
    let whole = read(0, 4096).data;
    assert!(whole[2048..3072].iter().any(|byte| *byte != 0) && whole[3072..] == [0; 1024], "a head and two entries");
    for (offset, len) in [(0, 16), (4, 1024), (1020, 8), (1024, 1024), (1024, 2048), (2000, 2096), (2048, 4), (3068, 8), (3072, 4)] {
        let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + len as usize);
        assert!(read(offset, len).data == whole[from..to], "{len} bytes from {offset}");
    }
    for offset in [3076, 1 << 20, u64::MAX - 3] {
        assert_eq!(read(offset, 4).status.code(), StatusCode::INVALID_FIELD, "from {offset}");
    }
}

#[test]
fn discovery_advertises_what_it_is_told_to() {
    let mut world = World::new(Options::default());
    let everywhere = spinel_nvmf::target::Address { host: "0.0.0.0".into(), ..address(7) };
    let port = world.target.add_port(everywhere, None).unwrap();
    let hidden = world.target.add_port(address(8), Some(address(9))).unwrap();
    for port in [port, hidden] {
        let pending = world.target.add_listener(SUBSYSTEM, &ListenerSpec { port, state: AnaState::Optimized }).unwrap();
        world.made(&pending);
    }
    let mut host = discovers(&mut world, &HOST);
    let services: Vec<_> = found(&mut world, &mut host).1.iter().map(|entry| entry.service_text().unwrap().to_owned()).collect();
    assert_eq!(services, ["4420", "4421", "4420", "4429"], "a port that is everywhere is where the host has come");
}

#[test]
fn a_command_that_waits_can_be_given_up_and_one_that_is_under_way_ends() {
    let mut world = World::new(Options::default());
    let base: Arc<dyn Device> = Arc::new(MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap());
    let throttle = Arc::new(spinel_volume::Throttle::new(base));
    throttle.limits().set([(spinel_volume::Cap::Ios, Some(spinel_volume::Limit::new(1, 0).unwrap()))]);
    let spec = NamespaceSpec { device: throttle, ..world.spec("slow") };
    let (nsid, pending) = world.target.add_namespace(SUBSYSTEM, spec).unwrap();
    world.made(&pending);
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let read = Blocks::new(0, 1).command(IoOpcode::Read, nsid, Sgl::transport(512));
    let ids: Vec<u16> = (0..6).map(|_| io.send(read, &[], &[])).collect();
    io.settle(&mut world);
    let abort = |queue, id| Abort { queue, id }.command().with_data(Sgl::transport(0));
    assert!(Abort::aborted(admin.done(&mut world, abort(1, ids[5]), &[], &[]).result));
    assert_eq!(io.wait(&mut world, ids[5]).status.code(), StatusCode::ABORT_REQUESTED);
    assert!(!Abort::aborted(admin.done(&mut world, abort(1, 999), &[], &[]).result), "no such command");
    assert!(!Abort::aborted(admin.done(&mut world, abort(9, ids[4]), &[], &[]).result), "no such queue");
    world.turn_ns = 100_000_000;
    for id in &ids[..5] {
        assert!(io.wait(&mut world, *id).status.is_success());
    }
}
