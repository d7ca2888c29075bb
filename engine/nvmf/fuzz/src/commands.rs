//! What hosts of this fuzzer say: commands that mostly make sense, and what belongs to them.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use spinel_nvme::admin::{Abort, GetFeature, GetLogPage, Identify, SetFeature, async_event_request, keep_alive};
use spinel_nvme::command::{Command, Direction, Fused, IoOpcode};
use spinel_nvme::dsm::DatasetManagement;
use spinel_nvme::fabrics::{Authentication, Connect, ConnectData, Property, PropertySize, disconnect};
use spinel_nvme::io::{Blocks, flush};
use spinel_nvme::registers::{Configuration, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvmf::auth::{Group, Hash, HostAuth, Key, Parties, Policy, Step};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::HostSecrets;
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::{Alignment, IcReq};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::peer::Peer;

pub(crate) const SUBSYSTEM: &str = "nqn.2026-11.io.spinel:open";
pub(crate) const GUARDED: &str = "nqn.2026-11.io.spinel:guarded";
pub(crate) const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
pub(crate) const HOST: &str = "nqn.2026-11.io.spinel:host";
/// Another one, with which it shares namespaces.
pub(crate) const SECOND: &str = "nqn.2026-11.io.spinel:second";
pub(crate) const NEIGHBOUR: &str = "nqn.2026-11.io.spinel:neighbour";

/// ICReq: two bits are digests, the others the alignment.
pub(crate) fn request(how: u8) -> Vec<u8> {
    let asked = IcReq {
        alignment: Alignment::of(how >> 3).unwrap_or_default(),
        header_digest: how & 1 != 0,
        data_digest: how & 2 != 0,
        r2ts_max_less_one: 0,
    };
    let mut bytes = vec![0; 128];
    put_request(&asked, &mut bytes);
    bytes
}

/// What sets up or ends a connection, perhaps not quite.
pub(crate) fn setup(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = request(u.arbitrary()?);
    if u.arbitrary()? {
        bytes.truncate(24);
        (bytes[0], bytes[2], bytes[4]) = (2, 24, 24);
    }
    if u.ratio(1, 4)? {
        let at = u.choose_index(bytes.len().min(20))?;
        bytes[at] = u.arbitrary()?;
    }
    Ok(bytes)
}

pub(crate) fn connect(queue: u16, keep_alive_ms: u32) -> Command {
    let keep_alive_ms = if queue == 0 { keep_alive_ms } else { 0 };
    Connect { format: 0, queue, size_less_one: 15, priority: 0, no_flow_control: false, deletes_queues: false, keep_alive_ms }.command()
}

pub(crate) fn connect_data(host: &str, subsystem: &str, controller: u16) -> Vec<u8> {
    let name = |name: &str| Nqn::of_peer(name.as_bytes()).expect("a name").field();
    let id = [host.as_bytes()[host.len() - 1]; 16];
    ConnectData::new(id, name(host), name(subsystem), controller).as_bytes().to_vec()
}

pub(crate) fn enable() -> Command {
    let property = Property { offset: offset::CONFIGURATION, size: PropertySize::Four };
    property.set(Configuration::enabled().register().into()).with_data(Sgl::transport(0))
}

pub(crate) fn secrets(key: &str) -> HostSecrets {
    HostSecrets { host: Some(("key".into(), Key::parse(key).expect("a key"))), controller: None }
}

/// A host that proves who it is.
pub(crate) fn prover(key: &str) -> HostAuth {
    let parties = Parties {
        host: Nqn::parse(HOST).expect("a name"),
        subsystem: Nqn::parse(GUARDED).expect("a name"),
        host_key: Key::parse(key).expect("a key"),
        controller_key: None,
    };
    HostAuth::new(parties, Policy::new(&Hash::ALL, &[Group::Null]).expect("a policy"), 1)
}

/// The next message of a proof, or another one.
pub(crate) fn proof(u: &mut Unstructured<'_>, peer: &mut Peer, auth: &mut HostAuth) -> Result<Vec<u8>> {
    let id = peer.fresh_id();
    let (mut bytes, receives) = match auth.step() {
        Step::Send(bytes) => {
            let bytes = bytes.to_vec();
            auth.sent();
            (bytes, None)
        }
        Step::Receive { room_bytes } => (Vec::new(), u32::try_from(room_bytes).ok()),
        Step::End(_) => (u.arbitrary::<[u8; 24]>()?.to_vec(), None),
    };
    if let Some(room_bytes) = receives {
        // What came last may be the answer to the one before.
        if u.arbitrary()? {
            auth.received(&peer.data, &mut |bytes: &mut [u8]| bytes.fill(7));
        }
        let room_bytes = if u.ratio(1, 8)? { u.arbitrary::<u16>()?.into() } else { room_bytes };
        let command = Authentication::new(room_bytes).receive(Sgl::transport(room_bytes)).with_id(id);
        return Ok(peer.command(&command, &[], false));
    }
    if u.ratio(1, 4)? && !bytes.is_empty() {
        let at = u.choose_index(bytes.len())?;
        bytes[at] = u.arbitrary()?;
    }
    if u.ratio(1, 8)? {
        bytes.truncate(u.int_in_range(0..=bytes.len())?);
    }
    let len = u32::try_from(bytes.len()).expect("short");
    let command = Authentication::new(len).send(Sgl::capsule(0, len)).with_id(id);
    Ok(peer.command(&command, &bytes, false))
}

fn nsid(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=15_u8)? {
        0 => 0,
        1 => u32::MAX,
        2 => 2,
        3 => u.arbitrary()?,
        _ => 1,
    })
}

/// A command, whole, with the data that come with it.
pub(crate) fn command(u: &mut Unstructured<'_>, peer: &mut Peer, cntlid: u16) -> Result<Vec<u8>> {
    let (mut command, mut bytes) = match u.int_in_range(0..=23_u8)? {
        0..=7 => blocks(u)?,
        8 => (flush(nsid(u)?), 0),
        9 => {
            let ranges = u.int_in_range(1..=8)?;
            (DatasetManagement { ranges, deallocate: u.arbitrary()? }.command(nsid(u)?, Sgl::transport(0)), u32::from(ranges) * 16)
        }
        10 | 11 => reservation(u)?,
        12 => (Command::read_from_bytes(&u.arbitrary::<[u8; 64]>()?).expect("64 bytes"), u.int_in_range(0..=64)?),
        13 => return joins(u, peer, cntlid),
        _ => administers(u)?,
    };
    if u.ratio(1, 12)? {
        bytes = u.int_in_range(0..=20_000)?;
    }
    let id = match u.int_in_range(0..=15_u8)? {
        0 => u.int_in_range(0..=8)?,
        _ => peer.fresh_id(),
    };
    command = command.with_id(id);
    let in_capsule = command.direction() == Direction::ToController && bytes <= 8192 && u.arbitrary()?;
    command = command.with_data(match u.int_in_range(0..=31_u8)? {
        0 => Sgl::read_from_bytes(&u.arbitrary::<[u8; 16]>()?).expect("16 bytes"),
        1 => Sgl::capsule(u.arbitrary::<u16>()?.into(), bytes),
        _ if in_capsule => Sgl::capsule(0, bytes),
        _ => Sgl::transport(bytes),
    });
    if u.ratio(1, 16)? {
        command = command.with_dword(u.int_in_range(10..=15)?, u.arbitrary()?);
    }
    if u.ratio(1, 32)? {
        let mut raw: [u8; 64] = command.as_bytes().try_into().expect("64 bytes");
        raw[u.choose_index(64)?] = u.arbitrary()?;
        command = Command::read_from_bytes(&raw).expect("64 bytes");
    }
    let mut data = if in_capsule { vec![u.arbitrary()?; bytes as usize] } else { Vec::new() };
    if matches!(command.opcode(), 0x0d | 0x11 | 0x15) {
        // So few keys that they are the right ones now and then.
        for key in data.chunks_exact_mut(8) {
            key.copy_from_slice(&u64::from(u.int_in_range(0..=2_u8)?).to_le_bytes());
        }
    }
    let spoilt = u.ratio(1, 16)?;
    Ok(peer.command(&command, &data, spoilt))
}

/// Reads, writes and their like, also as halves of pairs.
fn blocks(u: &mut Unstructured<'_>) -> Result<(Command, u32)> {
    let start = if u.ratio(1, 16)? { u.arbitrary()? } else { u.int_in_range(0..=64_u64)? };
    let count = if u.ratio(1, 16)? { u.int_in_range(1..=65536)? } else { u.int_in_range(1..=24_u32)? };
    let opcode =
        *u.choose(&[IoOpcode::Read, IoOpcode::Read, IoOpcode::Write, IoOpcode::Write, IoOpcode::Compare, IoOpcode::WriteZeroes])?;
    let bytes = if opcode == IoOpcode::WriteZeroes { 0 } else { (count * 512).min(1 << 20) };
    let mut blocks = Blocks::new(start, count);
    (blocks.fua, blocks.deallocate) = (u.arbitrary()?, u.arbitrary()?);
    let command = blocks.command(opcode, nsid(u)?, Sgl::transport(0));
    let fused = match (opcode, u.int_in_range(0..=3_u8)?) {
        (IoOpcode::Compare, 0 | 1) | (IoOpcode::Read, 0) => Fused::First,
        (IoOpcode::Write, 0) => Fused::Second,
        _ => Fused::No,
    };
    if fused != Fused::No && u.arbitrary()? {
        // So that pairs meet.
        return Ok((Blocks::new(3, 1).command(opcode, 1, Sgl::transport(0)).with_fused(fused), 512));
    }
    Ok((command.with_fused(fused), bytes))
}

fn reservation(u: &mut Unstructured<'_>) -> Result<(Command, u32)> {
    let (opcode, bytes) = *u.choose(&[
        (IoOpcode::ReservationRegister, 16),
        (IoOpcode::ReservationAcquire, 16),
        (IoOpcode::ReservationRelease, 8),
        (IoOpcode::ReservationReport, 256),
    ])?;
    let command = Command::new(opcode.code(), nsid(u)?);
    if opcode == IoOpcode::ReservationReport {
        return Ok((command.with_dword(10, 63).with_dword(11, u.arbitrary::<bool>()?.into()), bytes));
    }
    let word =
        u32::from(u.int_in_range(0..=15_u8)?) | u32::from(u.int_in_range(0..=7_u8)?) << 8 | u32::from(u.int_in_range(0..=3_u8)?) << 30;
    Ok((command.with_dword(10, word), bytes))
}

/// A Connect, perhaps not quite.
fn joins(u: &mut Unstructured<'_>, peer: &mut Peer, cntlid: u16) -> Result<Vec<u8>> {
    let queue = u.int_in_range(0..=3)?;
    let host = *u.choose(&[HOST, HOST, SECOND, NEIGHBOUR])?;
    let subsystem = *u.choose(&[SUBSYSTEM, SUBSYSTEM, GUARDED, DISCOVERY])?;
    let controller = match u.int_in_range(0..=7_u8)? {
        0 => u.arbitrary()?,
        _ if queue == 0 => 0xffff,
        _ => cntlid,
    };
    let mut data = connect_data(host, subsystem, controller);
    let mut command = connect(queue, u.arbitrary::<u16>()?.into()).with_id(peer.fresh_id());
    if u.ratio(1, 4)? {
        let at = u.choose_index(data.len())?;
        data[at] = u.arbitrary()?;
    }
    if u.ratio(1, 4)? {
        command = command.with_dword(u.int_in_range(10..=12)?, u.arbitrary()?);
    }
    if u.ratio(1, 8)? {
        let command = command.with_data(Sgl::transport(1024));
        return Ok(peer.command(&command, &[], false));
    }
    Ok(peer.command(&command, &data, false))
}

fn administers(u: &mut Unstructured<'_>) -> Result<(Command, u32)> {
    Ok(match u.int_in_range(0..=9_u8)? {
        0 | 1 => {
            let cns = *u.choose(&[0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x1a, 0x1b, 0x1c, 0x20])?;
            let identify = Identify { cns, nsid: nsid(u)?, controller: u.arbitrary()?, ..Identify::default() };
            (identify.command(Sgl::transport(0)), 4096)
        }
        2 | 3 => {
            let page = *u.choose(&[0, 1, 2, 3, 4, 5, 0x0c, 0x12, 0x70, 0x80, 0x99])?;
            let bytes = 4 * u.int_in_range(1..=2048_u32)?;
            let offset = if u.ratio(1, 4)? { u.arbitrary()? } else { 4 * u64::from(u.arbitrary::<u8>()?) };
            let asked = GetLogPage {
                retain_event: u.arbitrary()?,
                specific: u.arbitrary()?,
                ..GetLogPage::new(page, nsid(u)?, offset, bytes.into())
            };
            (asked.command(Sgl::transport(0)), bytes)
        }
        4 => (GetFeature::new(u.arbitrary()?, nsid(u)?).command(Sgl::transport(0)), 512),
        5 => {
            let feature = *u.choose(&[1, 2, 4, 5, 6, 7, 0x0a, 0x0b, 0x0f, 0x16, 0x81, 0x82, 0x83, 0x84])?;
            let bytes = if feature == 0x16 { 512 } else { 0 };
            (SetFeature::new(feature, nsid(u)?, u.arbitrary()?).command(Sgl::transport(0)), bytes)
        }
        6 => (async_event_request(), 0),
        7 => {
            let id = if u.arbitrary()? { u.int_in_range(0..=40)? } else { u.arbitrary()? };
            (Abort { queue: u.int_in_range(0..=3)?, id }.command(), 0)
        }
        8 => (keep_alive(), 0),
        _ => {
            let size = *u.choose(&[PropertySize::Four, PropertySize::Four, PropertySize::Eight])?;
            let offset = *u.choose(&[0, 8, 0x14, 0x14, 0x1c, 0x20, 0x68, 0x24])?;
            let property = Property { offset, size };
            let value = *u.choose(&[0, 0x46_0001, 0x46_4001, 0x46_8001, 0xffff_ffff])?;
            let disconnects = u.ratio(1, 8)?;
            (
                if disconnects {
                    disconnect()
                } else if u.arbitrary()? {
                    property.get()
                } else {
                    property.set(value)
                },
                0,
            )
        }
    })
}
