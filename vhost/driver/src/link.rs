//! A connection that has been agreed on: memory both sides see, queues, and whether the server is still there. Knows no request.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use spinel_core::mem::Region;
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags as Blk, VirtioFeatureFlags as Virtio, VirtioTransport};

use crate::between::{Cut, pass_on};
use crate::disk::Options;
use crate::error::Reason;
use crate::ring::{Ring, Shared};

type Transport = VhostUser<VirtioBlkConfig, Shared>;

/// Each queue's memory begins at a multiple of this, so that no two share a cache line.
const PAGE_BYTES: usize = 4096;

/// What all queues of one connection share.
pub(crate) struct Link {
    /// The rings' memory and the eventfds.
    pub(crate) transport: Transport,
    pub(crate) region: Arc<Region>,
    /// The server ends the session when this closes.
    server: UnixStream,
}

/// What was agreed on.
pub(crate) struct Agreed {
    /// To be dropped before `link`, in whose memory they lie.
    pub(crate) rings: Vec<Ring>,
    pub(crate) link: Link,
    pub(crate) config: VirtioBlkConfig,
    pub(crate) features: Blk,
}

impl Link {
    /// Whether the server has closed its end, as the kernel does for one that died. A system call.
    pub(crate) fn closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.server, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// Connects, and does everything that goes over the socket.
pub(crate) fn agree(socket: &Path, options: &Options) -> Result<Agreed, Reason> {
    let system = |doing| move |source| Reason::System { doing, source };
    let server = reach(socket, options.patience)?;
    let memory = memory(options.memory_bytes)?;
    let talk = |path: &Path| talk(path, options, &memory);
    let (outcome, cut) = pass_on(&server, options.patience, talk).map_err(system("passing on a handshake"))?;
    let patience = options.patience;
    let talked = outcome.map_err(|reason| match (reason, cut) {
        (Reason::Refused { .. }, Some(Cut::Silent { spoke: false })) => Reason::Busy { patience },
        (Reason::Refused { doing, .. }, Some(Cut::Silent { spoke: true })) => Reason::Silent { doing, patience },
        (Reason::Refused { doing, .. }, Some(Cut::Closed)) => Reason::Closed { doing },
        (reason, _) => reason,
    })?;
    let Talked { rings, transport, config, features } = talked;
    Ok(Agreed { rings, link: Link { transport, region: memory.region, server }, config, features })
}

/// A connection to the server, whose backlog is not waited for.
fn reach(socket: &Path, patience: Duration) -> Result<UnixStream, Reason> {
    let address = SocketAddrUnix::new(socket).map_err(|errno| Reason::Unreachable(errno.into()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let stream = stream.map_err(|errno| Reason::System { doing: "making a socket", source: errno.into() })?;
    connect(&stream, &address).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Reason::Missing,
        Errno::CONNREFUSED if is_socket(socket) => Reason::Deserted,
        Errno::CONNREFUSED => Reason::NoSocket,
        Errno::AGAIN => Reason::Busy { patience },
        errno => Reason::Unreachable(errno.into()),
    })?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false).map_err(Reason::Unreachable)?;
    Ok(stream)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

struct Memory {
    region: Arc<Region>,
    file: OwnedFd,
}

/// Zeroed memory that can be shared, of which only what is used is ever there.
fn memory(memory_bytes: u64) -> Result<Memory, Reason> {
    let system = |errno: Errno| Reason::System { doing: "making memory to share", source: errno.into() };
    let file = memfd_create("vhost-buffers", MemfdFlags::CLOEXEC).map_err(system)?;
    ftruncate(&file, memory_bytes).map_err(system)?;
    let region = Region::of_file(file.as_fd(), 0, memory_bytes).map_err(|source| Reason::Memory { memory_bytes, source })?;
    Ok(Memory { region, file })
}

struct Talked {
    rings: Vec<Ring>,
    transport: Transport,
    config: VirtioBlkConfig,
    features: Blk,
}

/// What is asked for where the server has it, besides the ring's format.
fn wanted() -> Blk {
    Blk::SIZE_MAX
        | Blk::SEG_MAX
        | Blk::RO
        | Blk::BLK_SIZE
        | Blk::FLUSH
        | Blk::TOPOLOGY
        | Blk::CONFIG_WCE
        | Blk::MQ
        | Blk::DISCARD
        | Blk::WRITE_ZEROES
}

/// Everything that is said over the socket, in the order of the protocol. The path is one of ours.
fn talk(path: &Path, options: &Options, memory: &Memory) -> Result<Talked, Reason> {
    let during = |doing| move |source: io::Error| Reason::Refused { doing, source };
    let mut ring = Virtio::VERSION_1;
    ring.set(Virtio::RING_PACKED, options.packed);
    ring.set(Virtio::RING_EVENT_IDX, options.has_event_idx());
    let path = path.to_str().ok_or_else(|| Reason::System {
        doing: "making a socket in the folder for temporary files, whose path is not UTF-8",
        source: io::ErrorKind::InvalidFilename.into(),
    })?;
    let agreeing = "agreeing on features";
    let mut transport = Transport::new(path, ring.bits() | wanted().bits()).map_err(during(agreeing))?;
    let got = transport.get_features();
    let missing = ring - Virtio::from_bits_truncate(got);
    for (feature, reason) in
        [(Virtio::VERSION_1, Reason::NoVersion1), (Virtio::RING_PACKED, Reason::NoPacked), (Virtio::RING_EVENT_IDX, Reason::NoEventIdx)]
    {
        if missing.contains(feature) {
            return Err(reason);
        }
    }
    let config = transport.get_config().map_err(during("reading its configuration"))?;
    let features = Blk::from_bits_truncate(got);
    let in_config = if features.contains(Blk::MQ) { u16::from(config.num_queues) } else { 1 };
    let max = transport.max_queues().map_or(in_config, |max| u16::try_from(max).map_or(in_config, |max| max.min(in_config)));
    if options.queues > max {
        return Err(Reason::Queues { asked: options.queues, max });
    }
    let len = usize::try_from(memory.region.len_bytes()).expect("a mapping's length");
    let mapped = transport.map_mem_region(memory.region.as_ptr().addr(), len, memory.file.as_raw_fd(), 0);
    mapped.map_err(during("sharing memory"))?;
    let rings = rings(&mut transport, options, Virtio::from_bits_truncate(got)).map_err(during("setting up queues"))?;
    Ok(Talked { rings, transport, config, features })
}

/// Makes the queues and tells the server where they are.
#[allow(unsafe_code, reason = "the driver crate borrows the queues' memory, which the transport owns")]
fn rings(transport: &mut Transport, options: &Options, features: Virtio) -> io::Result<Vec<Ring>> {
    let mut layout = VirtqueueLayout::new::<Shared>(options.queues.into(), options.queue_size.into(), features)?;
    layout.end_offset = layout.end_offset.next_multiple_of(PAGE_BYTES);
    let translators: Vec<_> = (0..options.queues).map(|_| transport.iova_translator()).collect();
    let memory = transport.alloc_queue_mem(&layout)?;
    let places = memory.chunks_exact_mut(layout.end_offset).zip(translators);
    let make = |(place, translator): (&mut [u8], _)| {
        // SAFETY: the pieces do not overlap, and nobody else touches them on this side. They are mapped until the transport
        // is dropped, which whoever holds a ring drops later: `Talked`, `Agreed`, the disk and its channels, by their fields' order.
        let place = unsafe { std::slice::from_raw_parts_mut(place.as_mut_ptr(), place.len()) };
        Virtqueue::new(translator, place, options.queue_size, features)
    };
    let queues: Vec<_> = places.map(make).collect::<io::Result<_>>()?;
    transport.setup_queues(&queues)?;
    Ok(queues.into_iter().map(Ring::new).collect())
}
