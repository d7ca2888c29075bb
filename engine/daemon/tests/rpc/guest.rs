//! A guest with one queue, played by virtio-driver. Knows no RPC. It asks for what needs no memory of its own.

use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_driver::{VhostUser, VirtioBlkQueue, VirtioBlkTransport};

/// How long a request may take that is not being measured.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// VIRTIO_F_VERSION_1, and of a block device: read-only, block size, flush, several queues, discard, write zeroes.
const FEATURES: u64 = 1 << 32 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14;

/// A connected guest. It leaves when it is dropped.
pub(crate) struct Guest {
    // Before the transport, in whose memory it lives.
    queue: VirtioBlkQueue<'static, u32>,
    transport: Box<VirtioBlkTransport>,
}

impl Guest {
    /// Connects to a controller's socket and sets its queue up.
    pub(crate) fn connect(socket: &Path) -> Self {
        let transport = VhostUser::new(socket.to_str().expect("a path in UTF-8"), FEATURES).expect("the controller serves");
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let queue = VirtioBlkQueue::setup_queues(&mut *transport, 1, 64).expect("a queue").pop().expect("one queue");
        Self { queue, transport }
    }

    /// The disk's size in bytes, as the configuration space has it now.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        let config = self.transport.get_config().expect("a configuration");
        let sectors = config.capacity;
        u64::from(sectors) * 512
    }

    /// Sends a flush.
    pub(crate) fn flush(&mut self) {
        self.queue.flush(0).expect("room in the ring");
        self.notify();
    }

    /// Discards or zeroes the first so many bytes.
    pub(crate) fn discard(&mut self, len_bytes: u64) {
        self.queue.discard(0, len_bytes, 0).expect("room in the ring");
        self.notify();
    }

    /// Zeroes the first so many bytes.
    pub(crate) fn write_zeroes(&mut self, len_bytes: u64) {
        self.queue.write_zeroes(0, len_bytes, false, 0).expect("room in the ring");
        self.notify();
    }

    fn notify(&self) {
        self.transport.get_submission_notifier(0).notify().expect("an eventfd");
    }

    /// Waits for a completion: 0, or a negative error number.
    pub(crate) fn ended(&mut self) -> i32 {
        let call = self.transport.get_completion_fd(0);
        loop {
            if let Some(completion) = self.queue.completions().next() {
                return completion.ret;
            }
            let ready = poll(&mut [PollFd::from_borrowed_fd(call.as_fd(), PollFlags::IN)], Some(&PATIENCE)).expect("a descriptor");
            assert!(ready == 1, "no completion came");
            call.read().expect("it is readable");
        }
    }
}
