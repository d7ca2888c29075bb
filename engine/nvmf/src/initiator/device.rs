//! A namespace of a far controller as a device like any other. Knows how it looks from here, and no way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;
use spinel_core::{Channel, Core, Device, Features, Geometry, OpenError};

use super::channel::WayChannel;
use super::host::{Host, Network};
use super::note::Said;
use super::view::DeviceId;

/// Most segments of one request.
pub(super) const SEGMENTS_MAX: u16 = 128;
/// Most requests of one channel at a time.
const DEPTH_MAX: u16 = 4096;

/// What a namespace is like. Its size may change, and it may go.
#[derive(Debug)]
pub(super) struct Shared {
    fixed: Geometry,
    block_count: AtomicU64,
    read_only: AtomicBool,
    gone: AtomicBool,
}

impl Shared {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            fixed: geometry,
            block_count: AtomicU64::new(geometry.block_count),
            read_only: AtomicBool::new(geometry.read_only),
            gone: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(super) fn block_bytes(&self) -> u32 {
        self.fixed.block_bytes
    }

    #[inline]
    pub(super) fn block_count(&self) -> u64 {
        self.block_count.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn features(&self) -> Features {
        self.fixed.features
    }

    #[inline]
    pub(super) fn transfer_max_bytes(&self) -> u32 {
        self.fixed.transfer_max_bytes
    }

    pub(super) fn geometry(&self) -> Geometry {
        Geometry { block_count: self.block_count(), read_only: self.read_only(), ..self.fixed }
    }

    /// It has so many blocks from now on, and may or may not be written to. Whether anything changed.
    pub(super) fn change(&self, block_count: u64, read_only: bool) -> bool {
        let resized = self.block_count.swap(block_count, Ordering::Relaxed) != block_count;
        let protected = self.read_only.swap(read_only, Ordering::Relaxed) != read_only;
        resized || protected
    }

    pub(super) fn vanish(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// A namespace.
pub struct RemoteDevice<N> {
    pub(super) id: DeviceId,
    pub(super) shared: Arc<Shared>,
    pub(super) network: Arc<N>,
    pub(super) said: Sender<Said>,
}

impl<N: Network> Device for RemoteDevice<N> {
    fn geometry(&self) -> Geometry {
        self.shared.geometry()
    }

    /// A channel waits for nothing: its requests do, until there is a way.
    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        if self.shared.gone.load(Ordering::Relaxed) {
            return Err(OpenError::Gone);
        }
        if depth == 0 || depth > DEPTH_MAX {
            return Err(OpenError::Depth { asked: depth, max: DEPTH_MAX });
        }
        let host = Host::of(core, &*self.network, &self.said)?;
        Ok(Box::new(WayChannel::new(host, self.id, Arc::clone(&self.shared), depth)))
    }
}
