//! Why a disk could not be connected, in words for whoever asked. Knows no message.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use spinel_core::mem::MapError;

/// A disk that could not be connected.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .socket.display())]
pub struct ConnectError {
    /// Where it was looked for.
    pub socket: PathBuf,
    /// Why it could not be.
    #[source]
    pub reason: Reason,
}

/// Why a disk could not be connected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Reason {
    #[error("there is no such socket; is the path right, and has its server been started?")]
    Missing,
    #[error("this is not a socket but something else; give the path of a vhost-user-blk socket")]
    NoSocket,
    #[error("nobody listens there; the server that made the socket is gone, start it again")]
    Deserted,
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the server does not answer (waited {patience:?}); it serves one front end at a time, and another one is probably connected")]
    Busy { patience: Duration },
    #[error("the server has stopped answering (waited {patience:?}) while {doing}")]
    Silent { doing: &'static str, patience: Duration },
    #[error("the server has closed the connection while {doing}; its log may say why")]
    Closed { doing: &'static str },
    #[error("the server refused, while {doing}: {source}")]
    Refused { doing: &'static str, source: io::Error },
    #[error("the server serves split rings only, leave out packed")]
    NoPacked,
    #[error("the server does not know EVENT_IDX, leave it out")]
    NoEventIdx,
    #[error("the server does not speak virtio 1, which is needed")]
    NoVersion1,
    #[error("{asked} queues were asked for, the server has {max}")]
    Queues { asked: u16, max: u16 },
    #[error(
        "queues of {queue_size} descriptors, for requests of up to {segments_max} segments, are not possible; \
         the size has to be a power of two up to 32768, and a request takes two descriptors more than it has segments"
    )]
    QueueSize { queue_size: u16, segments_max: u16 },
    #[error("a disk of {sectors} sectors with blocks of {block_bytes} bytes; only whole blocks of 512 or 4096 bytes can be used")]
    Shape { sectors: u64, block_bytes: u32 },
    #[error("{memory_bytes} bytes of memory could not be shared: {source}")]
    Memory { memory_bytes: u64, source: MapError },
    #[error("the system refused: {doing}")]
    System { doing: &'static str, source: io::Error },
}
