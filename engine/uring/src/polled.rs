//! A second ring, whose completions are polled from the device (IOPOLL). Knows only reads and writes.

use std::sync::Arc;

use spinel_core::{Armed, Driver, Instant, OpenError, Progress};
use spinel_mem::{Region, RegionId};

use crate::entry::{self, Buffer};
use crate::options::Options;
use crate::ring::{Event, Ring};

/// A core's ring for devices that can be polled. No interrupt ends a request here, so nothing wakes a core that waits for one.
pub(crate) struct PolledRing(Ring);

impl PolledRing {
    /// A second ring beside the one made with the same options.
    pub(crate) fn new(options: &Options) -> Result<Self, OpenError> {
        Ok(Self(Ring::with(&Options { sqpoll: false, bounce_chunks: 1, ..*options }, true)?))
    }

    /// One that is not polled after all, for machines without a device that could be.
    #[cfg(test)]
    pub(crate) fn unpolled() -> Self {
        Self(Ring::new(&Options::default()).unwrap())
    }

    pub(crate) fn ring(&mut self) -> &mut Ring {
        &mut self.0
    }

    /// Whether a file accepts being polled, found out by reading its first block. The caller made sure that it has one.
    pub(crate) fn accepts(&mut self, fd: std::os::fd::RawFd, block_bytes: u32) -> bool {
        let ring = &mut self.0;
        let Ok(port) = ring.open_port(1) else { return false };
        let target = ring.add_file(fd);
        let buffer = Buffer { address: ring.chunk(port, 0), len_bytes: block_bytes, registered: None };
        // SAFETY: the chunk belongs to this ring and to nobody else, and the answer is waited for here.
        unsafe { ring.submit(port, 0, entry::transfer(target, false, false, 0, buffer), false) };
        let answer = loop {
            ring.wait();
            ring.reap(Instant::default());
            if let Some((_, Event::Answer(answer))) = ring.next(port) {
                break answer;
            }
        };
        ring.close_port(port);
        ring.remove_file(target);
        answer > 0
    }
}

impl Driver for PolledRing {
    fn reap(&mut self, now: Instant) -> Progress {
        if self.0.in_flight() > 0 {
            // Entering is what polls the device.
            self.0.enter();
        }
        self.0.reap(now)
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn map(&mut self, region: &Arc<Region>) {
        self.0.map(region);
    }

    fn unmap(&mut self, id: RegionId) {
        self.0.unmap(id);
    }

    fn arm(&mut self) -> Armed {
        if self.0.in_flight() > 0 { Armed::Spin } else { self.0.arm() }
    }
}
