//! Reservations as two hosts see them, through a loss of power, and what they do to commands under way.

mod common;

use common::host::{Answer, HOST, Host, OTHER, Talk};
use common::world::{SUBSYSTEM, World};
use spinel_nvme::admin::{GetFeature, SetFeature};
use spinel_nvme::features::Feature;
use spinel_nvme::log::{AsyncEvent, LogPage, ReservationNotice};
use spinel_nvme::reservation::{
    Acquire, AcquireAction, AcquireData, PersistChange, Register, RegisterAction, RegisterData, RegistrantExtended, Release, ReleaseAction,
    ReleaseData, Report, ReportHead, ReservationType,
};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::target::{NamespaceSpec, Options};
use zerocopy::{FromBytes as _, IntoBytes as _};

const NSID: u32 = 1;

/// A host with a controller and a queue.
struct Party {
    admin: Host,
    io: Host,
    key: u64,
}

impl Party {
    fn new(world: &mut World, who: &common::host::Who, key: u64) -> Self {
        let (admin, cntlid) = world.admin(who, usize::from(key.is_multiple_of(2)), Talk::PLAIN);
        let io = world.queue(who, usize::from(key.is_multiple_of(2)), cntlid, 1, Talk::PLAIN);
        Self { admin, io, key }
    }

    fn register(&mut self, world: &mut World, action: RegisterAction, persist: PersistChange) -> Answer {
        let data = RegisterData { current: self.key.into(), new: self.key.into() };
        let command = Register { action: Some(action), ignore_key: false, persist: Some(persist) };
        self.io.ask(world, command.command(NSID, Sgl::capsule(0, 16)), data.as_bytes(), &[])
    }

    fn acquire(&mut self, world: &mut World, action: AcquireAction, kind: ReservationType, preempted: u64) -> Answer {
        let data = AcquireData { current: self.key.into(), preempted: preempted.into() };
        let command = Acquire { action: Some(action), ignore_key: false, kind: Some(kind) };
        self.io.ask(world, command.command(NSID, Sgl::transport(16)), &[], data.as_bytes())
    }

    fn release(&mut self, world: &mut World, kind: ReservationType) -> Answer {
        let data = ReleaseData { current: self.key.into() };
        let command = Release { action: Some(ReleaseAction::Release), ignore_key: false, kind: Some(kind) };
        self.io.ask(world, command.command(NSID, Sgl::capsule(0, 8)), data.as_bytes(), &[])
    }

    fn report(&mut self, world: &mut World) -> (ReportHead, Vec<RegistrantExtended>) {
        let command = Report { dwords_less_one: 255, extended: true }.command(NSID, Sgl::transport(1024));
        let data = self.io.done(world, command, &[], &[]).data;
        let (head, _) = ReportHead::read_from_prefix(&data).unwrap();
        let entries = data[64..].chunks_exact(64).take(usize::from(head.registrants.get()));
        (head, entries.map(|entry| RegistrantExtended::read_from_bytes(entry).unwrap()).collect())
    }

    fn reads(&mut self, world: &mut World) -> StatusCode {
        let id = self.io.read(0, 1);
        self.io.wait(world, id).status.code()
    }

    fn writes(&mut self, world: &mut World) -> StatusCode {
        let id = self.io.write(0, &[1; 512], true);
        self.io.wait(world, id).status.code()
    }
}

const OK: StatusCode = StatusCode::SUCCESS;
const CONFLICT: StatusCode = StatusCode::RESERVATION_CONFLICT;

fn parties(world: &mut World) -> (Party, Party) {
    let (mut one, mut other) = (Party::new(world, &HOST, 0x11), Party::new(world, &OTHER, 0x22));
    for party in [&mut one, &mut other] {
        assert!(party.register(world, RegisterAction::Register, PersistChange::Keep).status.is_success());
    }
    (one, other)
}

#[test]
fn what_one_host_reserves_the_other_may_not_change() {
    let mut world = World::new(Options::default());
    let (mut one, mut other) = parties(&mut world);
    assert!(one.acquire(&mut world, AcquireAction::Acquire, ReservationType::WriteExclusive, 0).status.is_success());
    assert_eq!((one.reads(&mut world), one.writes(&mut world)), (OK, OK));
    assert_eq!((other.reads(&mut world), other.writes(&mut world)), (OK, CONFLICT));
    let taken = other.acquire(&mut world, AcquireAction::Acquire, ReservationType::WriteExclusive, 0);
    assert_eq!(taken.status.code(), CONFLICT);
    let (head, registrants) = other.report(&mut world);
    assert_eq!((head.kind, registrants.len()), (1, 2));
    assert_eq!(
        registrants.iter().map(|entry| (entry.key.get(), entry.status, entry.host_id[0])).collect::<Vec<_>>(),
        [(0x11, 1, 1), (0x22, 0, 2)]
    );
    assert!(one.release(&mut world, ReservationType::WriteExclusive).status.is_success());
    assert_eq!(other.writes(&mut world), OK);
    let short = Report { dwords_less_one: 5, extended: false }.command(NSID, Sgl::transport(24));
    assert_eq!(one.io.ask(&mut world, short, &[], &[]).status.code(), StatusCode::HOST_ID_INCONSISTENT);
}

#[test]
fn whoever_preempts_may_rely_on_it_at_once() {
    let mut world = World::new(Options::default());
    let (mut one, mut other) = parties(&mut world);
    one.acquire(&mut world, AcquireAction::Acquire, ReservationType::ExclusiveAccess, 0);
    assert_eq!((other.reads(&mut world), other.writes(&mut world)), (CONFLICT, CONFLICT));
    let request = one.admin.await_event();
    // Writes of the one who loses are under way while the other one takes.
    let late: Vec<u16> = (0..8).map(|_| one.io.write(0, &[7; 512], true)).collect();
    assert!(other.acquire(&mut world, AcquireAction::PreemptAndAbort, ReservationType::WriteExclusive, 0x11).status.is_success());
    assert_eq!(other.writes(&mut world), OK);
    for id in late {
        let code = one.io.wait(&mut world, id).status.code();
        assert!([OK, CONFLICT].contains(&code));
    }
    let id = other.io.read(0, 1);
    assert_eq!(other.io.wait(&mut world, id).data, [1; 512], "no old write has come after the new one");
    assert_eq!((one.reads(&mut world), one.writes(&mut world)), (OK, CONFLICT));
    assert_eq!(AsyncEvent::of(one.admin.wait(&mut world, request).result), AsyncEvent::RESERVATION_NOTICE);
    let notice = one.admin.log(&mut world, LogPage::Reservation.code(), 64).data;
    let notice = ReservationNotice::read_from_bytes(&notice).unwrap();
    assert_eq!((notice.count.get(), notice.event, notice.nsid.get()), (1, 1, NSID));
    let again = one.admin.log(&mut world, LogPage::Reservation.code(), 64).data;
    assert_eq!(ReservationNotice::read_from_bytes(&again).unwrap().event, 0, "it was read");
    assert_eq!(one.release(&mut world, ReservationType::WriteExclusive).status.code(), CONFLICT, "it is not registered any more");
}

#[test]
fn notices_that_a_host_does_not_want_are_not_told() {
    let mut world = World::new(Options::default());
    let (mut one, mut other) = parties(&mut world);
    let mask = SetFeature::new(Feature::ReservationNotificationMask.code(), NSID, 0b1110).command(Sgl::transport(0));
    one.admin.done(&mut world, mask, &[], &[]);
    let request = one.admin.await_event();
    one.acquire(&mut world, AcquireAction::Acquire, ReservationType::WriteExclusive, 0);
    other.acquire(&mut world, AcquireAction::Preempt, ReservationType::WriteExclusive, 0x11);
    one.admin.settle(&mut world);
    assert!(one.admin.answer(request).is_none());
}

#[test]
fn a_queue_of_the_same_host_has_the_same_rights() {
    let mut world = World::new(Options::default());
    let (mut one, _other) = parties(&mut world);
    one.acquire(&mut world, AcquireAction::Acquire, ReservationType::WriteExclusive, 0);
    let mut second = Party::new(&mut world, &HOST, 0x12);
    assert_eq!((second.reads(&mut world), second.writes(&mut world)), (OK, OK));
}

#[test]
fn reservations_survive_a_loss_of_power_if_they_are_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reservations");
    let world_with = |file: &std::path::Path| {
        let mut world = World::new(Options::default());
        let pending = world.target.remove_namespace(SUBSYSTEM, NSID).unwrap();
        world.made(&pending);
        let spec = NamespaceSpec { reservations_file: Some(file.to_owned()), ..world.spec("disk1") };
        let (nsid, pending) = world.target.add_namespace(SUBSYSTEM, spec).unwrap();
        world.made(&pending);
        assert_eq!(nsid, NSID);
        world
    };
    let mut world = world_with(&file);
    let mut one = Party::new(&mut world, &HOST, 0x11);
    assert!(one.register(&mut world, RegisterAction::Register, PersistChange::Set).status.is_success());
    assert!(file.exists(), "it is there before the answer is");
    one.acquire(&mut world, AcquireAction::Acquire, ReservationType::WriteExclusive, 0);
    drop((one, world));

    let mut world = world_with(&file);
    let mut other = Party::new(&mut world, &OTHER, 0x22);
    assert_eq!((other.reads(&mut world), other.writes(&mut world)), (OK, CONFLICT));
    let (head, registrants) = other.report(&mut world);
    assert_eq!((head.kind, head.persists, registrants.len(), registrants[0].controller.get()), (1, 1, 1, 0xffff));
    let mut one = Party::new(&mut world, &HOST, 0x11);
    assert_eq!(one.writes(&mut world), OK);
    let persistence = GetFeature::new(Feature::ReservationPersistence.code(), NSID).command(Sgl::transport(0));
    assert_eq!(one.admin.done(&mut world, persistence, &[], &[]).result, 1);
    let forget = SetFeature::new(Feature::ReservationPersistence.code(), NSID, 0).command(Sgl::transport(0));
    one.admin.done(&mut world, forget, &[], &[]);
    assert!(!file.exists());
    drop((one, other, world));

    let mut world = world_with(&file);
    let mut other = Party::new(&mut world, &OTHER, 0x22);
    assert_eq!(other.writes(&mut world), OK, "nothing was to survive");
}

#[test]
fn nothing_can_survive_where_there_is_no_file() {
    let mut world = World::new(Options::default());
    let mut one = Party::new(&mut world, &HOST, 0x11);
    assert_eq!(one.register(&mut world, RegisterAction::Register, PersistChange::Set).status.code(), StatusCode::INVALID_FIELD);
    let keep = SetFeature::new(Feature::ReservationPersistence.code(), NSID, 1).command(Sgl::transport(0));
    assert_eq!(one.admin.ask(&mut world, keep, &[], &[]).status.code(), StatusCode::FEATURE_NOT_CHANGEABLE);
}

#[test]
fn what_was_begun_before_a_preemption_has_ended_when_it_is_answered() {
    let mut world = World::new(Options::default());
    world.slow_down(2_000);
    let (mut one, mut other) = parties(&mut world);
    one.acquire(&mut world, AcquireAction::Acquire, ReservationType::WriteExclusive, 0);
    assert_eq!(one.writes(&mut world), OK);
    let late: Vec<u16> = (0..4).map(|block| one.io.write(block, &[7; 512], true)).collect();
    world.turns(20);
    one.io.take();
    assert!(late.iter().all(|id| one.io.answer(*id).is_none()), "they take a while");
    assert!(other.acquire(&mut world, AcquireAction::Preempt, ReservationType::WriteExclusive, 0x11).status.is_success());
    one.io.take();
    for id in late {
        assert!(one.io.answer(id).is_some_and(|answer| answer.status.is_success()), "it had ended by then");
    }
    assert_eq!(one.writes(&mut world), CONFLICT);
}
