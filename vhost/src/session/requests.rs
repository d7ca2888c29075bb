//! What each request does to a session. Knows no bytes on the wire.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, fstat};
use spinel_mem::GuestMap;

use super::feature::{self, protocol};
use super::front_end::FrontEnd;
use super::inflight::{self, Inflight, InflightError};
use super::{Outcome, Refusal, Session, Trouble, signal};
use crate::blk;
use crate::dirty::DirtyLog;
use crate::memory::SLOTS_MAX;
use crate::message::{CONFIG_BYTES_MAX, InflightPlace, Request, RingFd};
use crate::ring::PackedRing;

/// SET_CONFIG's flag for live migration, when read-only fields are written too.
const CONFIG_MIGRATION: u32 = 1;
/// Most descriptors of a ring (virtio 1.2, 2.7 and 2.8).
pub(super) const RING_SIZE_MAX: u32 = 32768;

/// SET_VRING_ADDR's flag for logging what is written to the used ring (`VHOST_VRING_F_LOG`).
const RING_LOGS: u32 = 1;

impl Session {
    /// Does what a request asks for, or nothing of it.
    pub(super) fn serve(&mut self, request: Request) -> Result<Outcome, Trouble> {
        match request {
            Request::GetFeatures => return Ok(number(self.offered())),
            Request::SetFeatures(bits) => self.set_features(bits)?,
            Request::GetProtocolFeatures => return Ok(number(protocol::OFFERED)),
            Request::SetProtocolFeatures(bits) => self.set_protocol_features(bits)?,
            Request::SetOwner => {}
            Request::ResetOwner => self.disable_all()?,
            Request::GetQueueCount => return Ok(number(u64::from(self.served.queues_max))),
            Request::ResetDevice => self.needing(protocol::RESET_DEVICE)?.reset()?,
            Request::SetStatus(value) => self.needing(protocol::STATUS)?.set_status(value)?,
            Request::GetStatus => return Ok(number(u64::from(self.needing(protocol::STATUS)?.status))),
            Request::SetBackEndSocket(fd) => self.needing(protocol::BACKEND_REQ)?.set_front_end(fd)?,
            Request::GetConfig { offset, size, flags } => return Ok(self.needing(protocol::CONFIG)?.config(offset, size, flags)),
            Request::SetConfig { offset, flags, content } => self.needing(protocol::CONFIG)?.set_config(offset, flags, &content)?,
            Request::GetMemorySlots => {
                self.needing(protocol::CONFIGURE_MEM_SLOTS)?;
                return Ok(number(u64::try_from(SLOTS_MAX).expect("a small count")));
            }
            Request::SetMemTable(offers) => self.set_memory(self.memory.with_table(&offers)?)?,
            Request::AddRegion(offer) => {
                let next = self.needing(protocol::CONFIGURE_MEM_SLOTS)?.memory.with_region(&offer)?;
                self.set_memory(next)?;
            }
            Request::RemoveRegion(place) => {
                let next = self.needing(protocol::CONFIGURE_MEM_SLOTS)?.memory.without(place)?;
                self.set_memory(next)?;
            }
            Request::GetInflight { place, answer_bytes } => {
                return Ok(self.needing(protocol::INFLIGHT_SHMFD)?.make_inflight(place, answer_bytes)?);
            }
            Request::SetInflight { place, fd } => self.needing(protocol::INFLIGHT_SHMFD)?.set_inflight(place, &fd)?,
            Request::SetLog { len_bytes, offset, fd } => {
                self.needing(protocol::LOG_SHMFD)?.set_log(&fd, offset, len_bytes)?;
                return Ok(number(0));
            }
            Request::SetLogEvent => {}
            ring => return self.serve_ring(ring),
        }
        Ok(Outcome::Done)
    }

    /// The requests that concern one ring.
    fn serve_ring(&mut self, request: Request) -> Result<Outcome, Trouble> {
        match request {
            Request::SetRingSize { index, size } => {
                let at = self.at(index)?;
                let fits = size.is_power_of_two() && size <= RING_SIZE_MAX;
                let fitting = u16::try_from(size).ok().filter(|_| fits).ok_or(Refusal::Size { size })?;
                self.halt(at)?;
                self.vrings[at].size = Some(fitting);
                self.vrings[at].moved();
            }
            Request::SetRingAddresses { index, flags, addresses } => {
                let at = self.at(index)?;
                // With the feature all writes are logged, those to rings too, whether their front end asks for that here or not.
                if flags & !RING_LOGS != 0 {
                    return Err(Refusal::RingFlags { flags }.into());
                }
                self.halt(at)?;
                self.vrings[at].addresses = Some(addresses);
                self.vrings[at].moved();
            }
            Request::SetRingBase { index, base } => {
                let at = self.at(index)?;
                let fits = if self.has(feature::RING_PACKED) { PackedRing::is_base(base) } else { base <= u32::from(u16::MAX) };
                if !fits {
                    return Err(Refusal::Base { base }.into());
                }
                self.halt(at)?;
                let vring = &mut self.vrings[at];
                // To begin with, the record of what was in flight knows better than a front end whose connection broke.
                (vring.base, vring.left_at, vring.anew) = (Some(base), None, vring.ran);
                vring.moved();
            }
            Request::GetRingBase { index } => {
                let at = self.at(index)?;
                self.halt(at)?;
                let vring = &mut self.vrings[at];
                (vring.started, vring.kick, vring.bar) = (false, None, None);
                let base = vring.base.or(vring.left_at);
                return Ok(state(index, base.unwrap_or_else(|| self.beginning())));
            }
            Request::EnableRing { index, enable } => {
                let at = self.at(index)?;
                if !enable {
                    self.halt(at)?;
                }
                self.vrings[at].enabled = enable;
            }
            Request::SetRingKick(RingFd { index, fd }) => {
                let at = self.at_eventfd(index, fd.as_ref())?;
                self.halt(at)?;
                let vring = &mut self.vrings[at];
                (vring.started, vring.kick, vring.bar) = (true, fd, None);
            }
            Request::SetRingCall(ring) => self.set_call(ring)?,
            Request::SetRingError(RingFd { index, fd }) => {
                let at = self.at_eventfd(index, fd.as_ref())?;
                self.vrings[at].error = fd;
            }
            _ => return Err(Refusal::Unknown.into()),
        }
        Ok(Outcome::Done)
    }

    /// The session, if this protocol feature was negotiated.
    fn needing(&mut self, protocol_feature: u64) -> Result<&mut Self, Refusal> {
        if self.negotiated(protocol_feature) { Ok(self) } else { Err(Refusal::NotNegotiated) }
    }

    /// A ring's place in the table.
    fn at(&self, index: u32) -> Result<usize, Refusal> {
        let at = usize::try_from(index).ok().filter(|at| *at < self.vrings.len());
        at.ok_or(Refusal::Index { index, queues: self.served.queues_max })
    }

    /// The same for a message with a descriptor: a core or this thread will write to it, which must not wait for anybody.
    fn at_eventfd(&self, index: u32, fd: Option<&OwnedFd>) -> Result<usize, Refusal> {
        let at = self.at(index)?;
        if fd.is_none_or(is_eventfd) { Ok(at) } else { Err(Refusal::NoEventfd) }
    }

    /// Where a ring begins that was never served.
    fn beginning(&self) -> u32 {
        if self.has(feature::RING_PACKED) { PackedRing::BEGINNING } else { 0 }
    }

    fn set_features(&mut self, bits: u64) -> Result<(), Trouble> {
        let strange = bits & !self.offered();
        if strange != 0 {
            return Err(Refusal::Features { bits: strange }.into());
        }
        if self.features != Some(bits) {
            self.halt_all()?;
            self.features = Some(bits);
            if bits & blk::feature::FLUSH == 0 && bits & blk::feature::CONFIG_WCE != 0 {
                // virtio 1.2, 5.2.5.2: a driver that cannot flush starts without a cache.
                self.cache_wanted = false;
            }
            self.publish_writeback();
        }
        if bits & feature::PROTOCOL_FEATURES == 0 {
            for vring in &mut self.vrings {
                vring.enabled = true;
            }
        }
        Ok(())
    }

    fn set_protocol_features(&mut self, bits: u64) -> Result<(), Refusal> {
        let strange = bits & !protocol::OFFERED;
        if strange != 0 {
            return Err(Refusal::Features { bits: strange });
        }
        self.protocol_features = bits;
        Ok(())
    }

    fn disable_all(&mut self) -> Result<(), Trouble> {
        self.halt_all()?;
        for vring in &mut self.vrings {
            vring.enabled = false;
        }
        Ok(())
    }

    /// Back to the state before SET_FEATURES. Memory, notifiers and what belongs to the connection stay: front ends do not send them again.
    fn reset(&mut self) -> Result<(), Trouble> {
        self.disable_all()?;
        for vring in &mut self.vrings {
            (vring.started, vring.kick, vring.bar) = (false, None, None);
            (vring.size, vring.addresses) = (None, None);
            // QEMU 7.2 resets the status of a device that it stops or moves away, and only then asks where the rings go on.
            vring.left_at = vring.base.take();
            vring.anew = true;
        }
        (self.features, self.status) = (None, 0);
        self.cache_wanted = self.served.disk.device.geometry().write_cache;
        self.publish_writeback();
        Ok(())
    }

    /// Device status (virtio 1.2, 2.1): the driver's word, except that zero resets the device.
    fn set_status(&mut self, value: u64) -> Result<(), Trouble> {
        let status = u8::try_from(value).map_err(|_| Refusal::Status { value })?;
        if status == 0 {
            self.reset()?;
        }
        self.status = status;
        Ok(())
    }

    fn set_front_end(&mut self, socket: OwnedFd) -> Result<(), Refusal> {
        self.front_end = Some(FrontEnd::new(socket).ok_or(Refusal::NoSocket)?);
        Ok(())
    }

    fn make_inflight(&self, wanted: InflightPlace, answer_bytes: usize) -> Result<Outcome, InflightError> {
        let (place, fd) = inflight::make(wanted, self.served.queues_max)?;
        let mut body = place.bytes().to_vec();
        body.resize(answer_bytes, 0);
        Ok(Outcome::ReplyWith(body, fd))
    }

    fn set_inflight(&mut self, place: InflightPlace, fd: &OwnedFd) -> Result<(), Trouble> {
        let next = Inflight::map(place, fd, self.served.queues_max)?;
        self.halt_all()?;
        self.inflight = Some(next);
        for vring in &mut self.vrings {
            vring.moved();
        }
        Ok(())
    }

    /// From the answer on nothing is written to an earlier log.
    fn set_log(&mut self, fd: &OwnedFd, offset: u64, len_bytes: u64) -> Result<(), Trouble> {
        let log = DirtyLog::map(fd, offset, len_bytes)?;
        self.halt_all()?;
        self.log = Some(Arc::new(log));
        for vring in &mut self.vrings {
            vring.moved();
        }
        Ok(())
    }

    fn set_memory(&mut self, next: GuestMap) -> Result<(), Trouble> {
        self.halt_all()?;
        let leaving = self.memory.replace(next);
        for vring in &mut self.vrings {
            vring.moved();
        }
        if self.served.pins.is_some() {
            self.unpinned =
                self.memory.map().ranges().iter().map(|range| &range.region).filter(|r| r.pins().is_none()).map(Arc::downgrade).collect();
        }
        Ok(self.leave(leaving)?)
    }

    fn set_call(&mut self, ring: RingFd) -> Result<(), Trouble> {
        let at = self.at_eventfd(ring.index, ring.fd.as_ref())?;
        let vring = &mut self.vrings[at];
        if vring.core().is_some() {
            let clone = ring.fd.as_ref().map(OwnedFd::try_clone).transpose();
            let index = u16::try_from(at).expect("at most 64 queues");
            vring.send_call(clone.map_err(|source| super::End::Descriptors { index, source })?);
        }
        vring.call = ring.fd;
        if let (true, Some(call)) = (vring.started, &vring.call) {
            // Something may have completed while the old eventfd was still in use; a notification too many is harmless.
            signal(call);
        }
        Ok(())
    }

    /// A part of the configuration space, or no content at all if it is not there (the protocol's way to say so).
    fn config(&self, offset: u32, size: u32, flags: u32) -> Outcome {
        let mut reply: Vec<u8> = [offset, size, flags].into_iter().flat_map(u32::to_ne_bytes).collect();
        // Front ends newer than our fields ask for more than there are: those read as zero.
        let mut space = [0; CONFIG_BYTES_MAX];
        let known = blk::config(&self.served.disk, self.served.queues_max, self.cache_wanted);
        space[..known.len()].copy_from_slice(&known);
        let content = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let content = content.and_then(|(offset, size)| space.get(offset..offset.checked_add(size)?)).unwrap_or(&[]);
        if content.is_empty() {
            reply.clear();
        }
        reply.extend_from_slice(content);
        Outcome::Reply(reply)
    }

    fn set_config(&mut self, offset: u32, flags: u32, content: &[u8]) -> Result<(), Refusal> {
        let offset = usize::try_from(offset).map_err(|_| Refusal::Config)?;
        let byte = blk::CONFIG_WRITEBACK.checked_sub(offset).and_then(|at| content.get(at)).copied();
        let value = match (flags, byte) {
            (CONFIG_MIGRATION, None) => return Ok(()),
            (CONFIG_MIGRATION, Some(value)) => value,
            (0, Some(value)) if content.len() == 1 && self.features.is_some_and(|bits| bits & blk::feature::CONFIG_WCE != 0) => value,
            _ => return Err(Refusal::Config),
        };
        if value > 1 {
            return Err(Refusal::Config);
        }
        self.cache_wanted = value == 1;
        self.publish_writeback();
        Ok(())
    }
}

/// Whether a descriptor is of the kernel's anonymous kind, as eventfds are: writing to one waits for no disk, peer or file server.
pub(super) fn is_eventfd(fd: &OwnedFd) -> bool {
    // Such files have no type at all.
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Unknown)
}

fn number(value: u64) -> Outcome {
    Outcome::Reply(value.to_ne_bytes().to_vec())
}

fn state(index: u32, value: u32) -> Outcome {
    Outcome::Reply([index, value].into_iter().flat_map(u32::to_ne_bytes).collect())
}
