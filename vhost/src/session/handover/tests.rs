//! Sessions packed and unpacked, and parcels that cannot be what they say. No queue runs.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_core::{CoreId, Meters, mailbox};
use spinel_handover::Link;
use spinel_volume::{MemoryDevice, Shape};

use super::*;
use crate::blk::Disk;
use crate::handover::Unread;
use crate::message::{InflightPlace, Request, RingFd};
use crate::queue::Poked;
use crate::session::{Homes, feature};

const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY_BYTES: u64 = 1 << 20;

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn memory(len_bytes: u64) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len_bytes).unwrap();
    file
}

/// A controller of two queues, whose cores answer nothing.
fn served() -> Arc<Served> {
    served_on([0, 1])
}

fn served_on(cores: [u16; 2]) -> Arc<Served> {
    let device = Arc::new(MemoryDevice::new(Shape::new(512, 2048)).unwrap());
    let disk = Disk { serial: "disk".to_owned(), device, meters: Arc::new(Meters::default()), read_only: false };
    Arc::new(Served {
        name: "disk".to_owned(),
        disk: Arc::new(disk),
        cores: cores.map(|core| mailbox(CoreId(core)).unwrap().0).into(),
        homes: Homes::spread(2, 0, 2),
        queues_max: 2,
        drain_deadline: PATIENCE,
        pins: None,
        poke: Arc::new(Poked(event())),
    })
}

/// A session with something of everything, and the front end's end of its socket.
fn session() -> (Session, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut session = Session::new(served(), ours.into());
    let region = RegionOffer {
        place: RegionPlace { guest: 0, user: 0x7000_0000, len_bytes: MEMORY_BYTES / 2 },
        offset: 4096,
        fd: memory(MEMORY_BYTES),
    };
    let place = InflightPlace { len_bytes: MEMORY_BYTES, offset: 0, queues: 2, size: 64 };
    let addresses = RingAddresses { descriptors: 0x7000_0000, available: 0x7000_1000, used: 0x7000_2000 };
    let requests = [
        Request::SetProtocolFeatures(protocol::OFFERED),
        Request::SetFeatures(feature::VERSION_1 | feature::PROTOCOL_FEATURES | feature::EVENT_IDX),
        Request::SetMemTable(vec![region]),
        Request::SetBackEndSocket(UnixStream::pair().unwrap().0.into()),
        Request::SetInflight { place, fd: memory(MEMORY_BYTES) },
        Request::SetLog { offset: 0, len_bytes: 4096, fd: memory(4096) },
        Request::SetStatus(7),
        Request::SetRingSize { index: 1, size: 64 },
        Request::SetRingAddresses { index: 1, flags: 0, addresses },
        Request::SetRingBase { index: 1, base: 9 },
        Request::SetRingCall(RingFd { index: 1, fd: Some(event()) }),
        Request::SetRingError(RingFd { index: 1, fd: Some(event()) }),
        Request::SetRingKick(RingFd { index: 1, fd: Some(event()) }),
    ];
    for request in requests {
        let shown = format!("{request:?}");
        assert!(session.serve(request).is_ok(), "{shown}");
    }
    std::io::Write::write_all(&mut theirs, &[15, 0, 0, 0, 1]).unwrap();
    assert!(session.receive().is_ok());
    (session, theirs)
}

/// A parcel as it comes out of a connection, and its text on the way.
fn passed_on(parcel: &SessionParcel) -> (SessionParcel, String) {
    let (one, other) = UnixStream::pair().unwrap();
    let (one, other) = (Link::new(one).unwrap(), Link::new(other).unwrap());
    one.send(parcel, PATIENCE).unwrap();
    one.send(parcel, PATIENCE).unwrap();
    let text = other.receive_raw(PATIENCE).unwrap().0;
    (other.receive(PATIENCE).unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn a_session_that_was_unpacked_is_the_one_that_was_packed() {
    let (session, mut theirs) = session();
    let (parcel, text) = passed_on(&session.pack(true).unwrap());
    let mut heir = Session::unpack(served(), parcel, None).unwrap();
    heir.place(&Places { since_ns: None, rings: session.vrings.iter().map(|vring| Place { base: vring.base, bar: vring.bar }).collect() })
        .unwrap();
    assert_eq!(heir.vrings[1].base, Some(9));
    assert_eq!(passed_on(&heir.pack(false).unwrap()).1, text);
    drop(session);
    // The rest of a message, and its answer.
    std::io::Write::write_all(&mut theirs, &[0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(heir.receive().is_ok());
    let mut answer = [0; 20];
    std::io::Read::read_exact(&mut theirs, &mut answer).unwrap();
    assert_eq!(u64::from_ne_bytes(answer[12..].try_into().unwrap()), protocol::OFFERED);
}

#[test]
fn a_queue_stays_on_its_core_wherever_that_stands_among_the_others() {
    let (session, _theirs) = session();
    session.served.homes.put(0, 1);
    for (cores, expected) in [([1, 0], [0, 0]), ([0, 1], [1, 1]), ([5, 1], [1, 1]), ([4, 5], [0, 1])] {
        let heir = Session::unpack(served_on(cores), session.pack(false).unwrap(), None).unwrap();
        assert_eq!([heir.core_of(0), heir.core_of(1)], expected, "{cores:?}");
    }
}

#[test]
fn a_parcel_that_cannot_be_what_it_says_is_refused() {
    type Spoil = fn(&mut SessionParcel);
    let cases: [(&str, Spoil); 18] = [
        ("feature bits", |parcel| parcel.features = Some(1 << 63)),
        ("feature bits", |parcel| parcel.protocol_features = 1 << 63),
        ("in part", |parcel| parcel.unread.bytes = vec![0; 1 << 20]),
        ("in part", |parcel| parcel.unread.bytes = [&[15, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[0]].concat()),
        ("in part", |parcel| parcel.unread = Unread { bytes: vec![], fds: vec![event().into()] }),
        ("number of rings", |parcel| drop(parcel.rings.pop())),
        ("ring of 63", |parcel| parcel.rings[1].size = Some(63)),
        ("ring of 0", |parcel| parcel.rings[1].size = Some(0)),
        ("eventfd", |parcel| parcel.rings[1].kick = Some(memory(1).into())),
        ("eventfd", |parcel| parcel.rings[1].call = Some(memory(1).into())),
        ("eventfd", |parcel| parcel.rings[1].error = Some(memory(1).into())),
        ("cannot be mapped", |parcel| parcel.memory[0].len_bytes = MEMORY_BYTES + 1),
        ("overlaps", |parcel| parcel.memory.push(parcel.memory[0].clone())),
        ("file system", |parcel| parcel.memory[0].file = event().into()),
        ("record", |parcel| parcel.inflight.as_mut().unwrap().queues = 3),
        ("record", |parcel| parcel.inflight.as_mut().unwrap().len_bytes = 1),
        ("log", |parcel| parcel.log.as_mut().unwrap().len_bytes = 0),
        ("channel to the front end", |parcel| parcel.front_end.as_mut().unwrap().reply = vec![0; 5]),
    ];
    for (number, (because, spoil)) in cases.into_iter().enumerate() {
        let (session, _theirs) = session();
        let mut parcel = session.pack(false).unwrap();
        assert!(Session::unpack(served(), parcel.clone(), None).is_ok());
        spoil(&mut parcel);
        let error = Session::unpack(served(), parcel, None).err().unwrap_or_else(|| panic!("case {number}: {because}")).to_string();
        assert!(error.contains(because), "case {number}: {error}, not {because}");
    }
}

#[test]
fn there_is_a_place_for_each_ring() {
    let (mut session, _theirs) = session();
    assert!(session.place(&Places::default()).is_err());
}
