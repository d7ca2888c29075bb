//! What registering, acquiring, preempting, releasing and clearing do, and what a crash leaves.

use super::*;
use proptest::prelude::*;

const HOSTS: [HostId; 3] = [HostId([1; 16]), HostId([2; 16]), HostId([3; 16])];
const KINDS: [Kind; 6] = [
    Kind::WriteExclusive,
    Kind::ExclusiveAccess,
    Kind::WriteExclusiveRegistrantsOnly,
    Kind::ExclusiveAccessRegistrantsOnly,
    Kind::WriteExclusiveAllRegistrants,
    Kind::ExclusiveAccessAllRegistrants,
];

struct Table(Reservations);

impl Table {
    /// Host 0 and 1 are registered with keys 10 and 11; host 2 is not.
    fn new() -> Self {
        let mut table = Self(Reservations::default());
        table.register(0, RegisterAction::Register, 0, 10).unwrap();
        table.register(1, RegisterAction::Register, 0, 11).unwrap();
        table
    }

    fn act(&mut self, host: usize, act: Act) -> Result<Told, Refusal> {
        self.0.apply(HOSTS[host], &Nqn::of_peer(format!("host {host}").as_bytes()).unwrap(), act, true)
    }

    fn register(&mut self, host: usize, action: RegisterAction, current: u64, new: u64) -> Result<Told, Refusal> {
        self.act(host, Act::Register { action, ignore_key: false, current, new, persist: None })
    }

    fn acquire(&mut self, host: usize, current: u64, kind: Kind) -> Result<Told, Refusal> {
        self.act(host, Act::Acquire { action: AcquireAction::Acquire, current, kind })
    }

    fn preempt(&mut self, host: usize, current: u64, key: u64, kind: Kind) -> Result<Told, Refusal> {
        self.act(host, Act::Acquire { action: AcquireAction::Preempt { key }, current, kind })
    }

    fn release(&mut self, host: usize, current: u64, kind: Option<Kind>) -> Result<Told, Refusal> {
        self.act(host, Act::Release { current, kind })
    }

    fn rights(&self) -> [(bool, bool); 3] {
        HOSTS.map(|host| self.0.rights(&host)).map(|rights| (rights.read, rights.write))
    }
}

#[test]
fn who_may_do_what_depends_on_the_type() {
    const ALL: (bool, bool) = (true, true);
    const READ: (bool, bool) = (true, false);
    const NONE: (bool, bool) = (false, false);
    let expected = [[ALL, READ, READ], [ALL, NONE, NONE], [ALL, ALL, READ], [ALL, ALL, NONE], [ALL, ALL, READ], [ALL, ALL, NONE]];
    for (kind, expected) in KINDS.into_iter().zip(expected) {
        let mut table = Table::new();
        assert_eq!(table.rights(), [ALL; 3], "nothing is reserved");
        table.acquire(0, 10, kind).unwrap();
        assert_eq!(table.rights(), expected, "{kind:?}");
        let holders = HOSTS.map(|host| table.0.holds(&host));
        assert_eq!(holders, [true, kind.all_hold(), false], "{kind:?}");
    }
}

#[test]
fn keys_are_looked_at_before_anything_changes() {
    let mut table = Table::new();
    let before = table.0.clone();
    for refused in [
        table.register(0, RegisterAction::Register, 0, 12),
        table.register(2, RegisterAction::Replace, 0, 12),
        table.register(2, RegisterAction::Unregister, 0, 0),
        table.register(0, RegisterAction::Replace, 11, 12),
        table.register(0, RegisterAction::Unregister, 11, 0),
        table.acquire(2, 0, Kind::WriteExclusive),
        table.acquire(0, 11, Kind::WriteExclusive),
        table.preempt(0, 10, 99, Kind::WriteExclusive),
        table.release(2, 0, None),
        table.release(0, 11, Some(Kind::WriteExclusive)),
    ] {
        assert_eq!(refused, Err(Refusal::Conflict));
    }
    assert_eq!(table.register(2, RegisterAction::Register, 0, 0), Err(Refusal::Invalid), "zero is no key");
    assert_eq!(table.preempt(0, 10, 0, Kind::WriteExclusive), Err(Refusal::Invalid));
    assert_eq!(table.0, before);
    assert_eq!(table.register(0, RegisterAction::Register, 0, 10), Ok(Told::new()), "the same key once more");
    assert_eq!(table.0, before);
}

#[test]
fn a_reservation_is_acquired_once_and_released_by_its_holder_with_its_type() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::WriteExclusiveRegistrantsOnly).unwrap();
    table.acquire(0, 10, Kind::WriteExclusiveRegistrantsOnly).unwrap();
    assert_eq!(table.acquire(0, 10, Kind::ExclusiveAccess), Err(Refusal::Conflict));
    assert_eq!(table.acquire(1, 11, Kind::WriteExclusiveRegistrantsOnly), Err(Refusal::Conflict));
    assert_eq!(table.release(1, 11, Some(Kind::WriteExclusiveRegistrantsOnly)), Ok(Told::new()), "nothing of its own");
    assert!(table.0.kind().is_some());
    assert_eq!(table.release(0, 10, Some(Kind::WriteExclusive)), Err(Refusal::Invalid));
    let told = table.release(0, 10, Some(Kind::WriteExclusiveRegistrantsOnly)).unwrap();
    assert_eq!((told, table.0.kind()), (vec![(HOSTS[1], Notice::ReservationReleased)], None));
}

#[test]
fn what_all_hold_ends_with_the_last_of_them() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::WriteExclusiveAllRegistrants).unwrap();
    table.acquire(1, 11, Kind::WriteExclusiveAllRegistrants).unwrap();
    table.register(0, RegisterAction::Unregister, 10, 0).unwrap();
    assert_eq!(table.rights()[0], (true, false), "not registered any more");
    table.register(1, RegisterAction::Unregister, 11, 0).unwrap();
    assert_eq!((table.0.kind(), table.rights()), (None, [(true, true); 3]));
}

#[test]
fn the_holders_reservation_goes_with_its_registration() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::ExclusiveAccessRegistrantsOnly).unwrap();
    let told = table.register(0, RegisterAction::Unregister, 10, 0).unwrap();
    assert_eq!((told, table.0.kind()), (vec![(HOSTS[1], Notice::ReservationReleased)], None));
}

#[test]
fn preempting_the_holder_takes_its_reservation_and_its_registration() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::WriteExclusive).unwrap();
    let generation = table.0.generation();
    let told = table.preempt(1, 11, 10, Kind::ExclusiveAccess).unwrap();
    assert_eq!(told, [(HOSTS[0], Notice::RegistrationPreempted)]);
    assert_eq!(table.rights(), [(false, false), (true, true), (false, false)]);
    assert_eq!((table.0.registrants().len(), table.0.generation()), (1, generation + 1));
    assert_eq!(table.release(0, 10, None), Err(Refusal::Conflict), "it is not registered any more");
}

#[test]
fn preempting_another_than_the_holder_takes_its_registration_only() {
    let mut table = Table::new();
    table.register(2, RegisterAction::Register, 0, 12).unwrap();
    table.acquire(0, 10, Kind::WriteExclusive).unwrap();
    let told = table.preempt(1, 11, 12, Kind::ExclusiveAccess).unwrap();
    assert_eq!(told, [(HOSTS[2], Notice::RegistrationPreempted)]);
    assert_eq!((table.0.kind(), table.0.holds(&HOSTS[0])), (Some(Kind::WriteExclusive), true));
}

#[test]
fn preempting_everybody_ends_what_all_hold() {
    let mut table = Table::new();
    table.register(2, RegisterAction::Register, 0, 12).unwrap();
    table.acquire(0, 10, Kind::WriteExclusiveAllRegistrants).unwrap();
    let told = table.preempt(1, 11, 0, Kind::WriteExclusive).unwrap();
    assert_eq!(told, [(HOSTS[0], Notice::RegistrationPreempted), (HOSTS[2], Notice::RegistrationPreempted)]);
    assert_eq!((table.0.registrants().len(), table.0.kind(), table.0.holds(&HOSTS[1])), (1, Some(Kind::WriteExclusive), true));
}

#[test]
fn preempting_oneself_changes_the_type() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::WriteExclusiveRegistrantsOnly).unwrap();
    let told = table.preempt(0, 10, 10, Kind::ExclusiveAccess).unwrap();
    assert_eq!(told, [(HOSTS[1], Notice::ReservationReleased)]);
    assert_eq!((table.0.kind(), table.0.registrants().len()), (Some(Kind::ExclusiveAccess), 2));
}

#[test]
fn clearing_leaves_nothing() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::WriteExclusive).unwrap();
    assert_eq!(table.release(1, 11, None).unwrap(), [(HOSTS[0], Notice::ReservationPreempted)]);
    assert_eq!((table.0.kind(), table.0.registrants()), (None, &[][..]));
}

#[test]
fn persistence_is_refused_where_there_is_no_file() {
    let mut reservations = Reservations::default();
    let act = |persist| Act::Register { action: RegisterAction::Register, ignore_key: false, current: 0, new: 1, persist };
    let name = Nqn::of_peer(b"host").unwrap();
    assert_eq!(reservations.apply(HOSTS[0], &name, act(Some(true)), false), Err(Refusal::Invalid));
    assert_eq!(reservations, Reservations::default());
    reservations.apply(HOSTS[0], &name, act(Some(true)), true).unwrap();
    assert!(reservations.persists());
}

#[test]
fn there_is_a_bound_to_registrants() {
    let mut reservations = Reservations::default();
    let name = Nqn::of_peer(b"host").unwrap();
    let act = Act::Register { action: RegisterAction::Register, ignore_key: false, current: 0, new: 1, persist: None };
    let mut register = |number: usize| reservations.apply(HostId(u128::try_from(number).unwrap().to_be_bytes()), &name, act, false);
    assert!((0..REGISTRANTS_MAX).all(|number| register(number).is_ok()));
    assert_eq!(register(REGISTRANTS_MAX), Err(Refusal::Conflict));
}

#[test]
fn a_text_that_was_cut_or_changed_is_refused() {
    let mut table = Table::new();
    table.acquire(0, 10, Kind::WriteExclusive).unwrap();
    let text = table.0.saved();
    for end in 0..text.len() - 1 {
        assert!(Reservations::restored(&text[..end]).is_err(), "{}", &text[..end]);
    }
    for (from, to) in [("registrant", "registrar"), ("held 1", "held 5"), ("held 1 01", "held 1 09"), ("000b", "0000"), (" 1\n", " 2\n")] {
        assert!(text.contains(from) && Reservations::restored(&text.replacen(from, to, 1)).is_err(), "{from}");
    }
}

fn acts() -> impl Strategy<Value = (usize, Act)> {
    let key = 10..13_u64;
    let kind = proptest::sample::select(&KINDS[..]);
    let register = (
        proptest::sample::select(vec![RegisterAction::Register, RegisterAction::Unregister, RegisterAction::Replace]),
        any::<bool>(),
        key.clone(),
        key.clone(),
    )
        .prop_map(|(action, ignore_key, current, new)| Act::Register { action, ignore_key, current, new, persist: Some(true) });
    let acquire = (key.clone(), kind.clone(), proptest::option::of(0..13_u64)).prop_map(|(current, kind, preempted)| Act::Acquire {
        action: preempted.map_or(AcquireAction::Acquire, |key| AcquireAction::Preempt { key }),
        current,
        kind,
    });
    let release = (key, proptest::option::of(kind)).prop_map(|(current, kind)| Act::Release { current, kind });
    (0..3_usize, prop_oneof![3 => register, 2 => acquire, 1 => release])
}

proptest! {
    #[test]
    fn whatever_is_done_somebody_who_is_registered_holds_and_the_text_brings_all_of_it_back(acts in proptest::collection::vec(acts(), 1..60)) {
        let mut table = Table(Reservations::default());
        for (host, act) in acts {
            let before = table.0.clone();
            if table.act(host, act).is_err() {
                prop_assert_eq!(&table.0, &before, "a refusal changes nothing");
            }
            let holders = HOSTS.iter().filter(|host| table.0.holds(host)).count();
            prop_assert_eq!(holders > 0, table.0.kind().is_some());
            if let Some(kind) = table.0.kind() {
                prop_assert!(kind.all_hold() || holders == 1);
            }
            let restored = Reservations::restored(&table.0.saved());
            prop_assert_eq!(restored, Ok(Reservations { persists: true, ..table.0.clone() }));
        }
    }
}
