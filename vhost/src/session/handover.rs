//! A session that moves to another process: packed, paused, unpacked, put in its place. Knows no connection between the two.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use spinel_core::CoreId;
use spinel_handover::Fd;

use super::deadline::Deadline;
use super::feature::protocol;
use super::front_end::FrontEnd;
use super::inflight::Inflight;
use super::requests::{RING_SIZE_MAX, is_eventfd};
use super::vring::{Hung, Vring};
use super::{Refusal, Served, Session};
use crate::controller::Pin;
use crate::dirty::DirtyLog;
use crate::handover::{FrontEndParcel, LogParcel, Place, Places, RegionParcel, RingParcel, SessionParcel, now_ns};
use crate::message::{Inlet, RegionOffer, RegionPlace};
use crate::ring::RingAddresses;

/// Why a parcel cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("{what} is not what it can be")]
    Form { what: &'static str },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("no descriptor is left for it: {0}")]
    Descriptors(#[from] io::Error),
}

fn form(what: &'static str) -> UnpackError {
    UnpackError::Form { what }
}

impl Session {
    /// As it is now, but for where its rings go on. With what its front end has yet to hear, `resized` if that is one thing more.
    pub(crate) fn pack(&self, resized: bool) -> io::Result<SessionParcel> {
        let region = |range: &spinel_mem::GuestRange| {
            let file = range.region.file().expect("a client's memory is of files");
            Ok(RegionParcel {
                guest: range.guest,
                user: range.user,
                len_bytes: range.region.len_bytes(),
                offset: file.offset,
                file: Fd::of(&file.fd)?,
            })
        };
        Ok(SessionParcel {
            socket: Fd::of(&self.socket)?,
            unread: self.inlet.pack()?,
            features: self.features,
            protocol_features: self.protocol_features,
            status: self.status,
            cache_wanted: self.cache_wanted,
            config_changed: self.config_changed || resized,
            memory: self.memory.map().ranges().iter().map(region).collect::<io::Result<_>>()?,
            rings: (0..)
                .zip(&self.vrings)
                .map(|(at, vring)| pack_ring(vring, self.served.cores[self.core_of(at)].core()))
                .collect::<io::Result<_>>()?,
            inflight: self.inflight.as_ref().map(Inflight::pack).transpose()?,
            log: self.log.as_ref().map(|log| log.pack()).transpose()?,
            front_end: self.front_end.as_ref().map(FrontEnd::pack).transpose()?,
        })
    }

    /// Stops every queue and says where their rings go on.
    ///
    /// # Errors
    /// [`Hung`] if requests do not come back in time. Then the queues that wait for them go on as before, and the others
    /// when it [settles](Self::settle).
    pub(crate) fn pause(&mut self, patience: Duration) -> Result<Places, Hung> {
        let since_ns = self.runs().then(now_ns);
        let deadline = Deadline::after(patience);
        self.begin_stop_all();
        let mut hung = None;
        for vring in &mut self.vrings {
            if let Err(error) = vring.finish_stop(&self.served.disk, deadline) {
                hung.get_or_insert(error);
            }
        }
        if let Some(hung) = hung {
            self.vrings.iter_mut().for_each(|vring| vring.resume(&self.served.disk));
            return Err(hung);
        }
        self.take_events();
        let rings = self.vrings.iter().map(|vring| Place { base: vring.base, bar: vring.bar }).collect();
        Ok(Places { since_ns, rings })
    }

    /// A session of another process, up to where its rings go on. Its memory is mapped, pinned if it is to be, and known
    /// to the cores; nothing of it is written to.
    pub(crate) fn unpack(served: Arc<Served>, parcel: SessionParcel, pin: Option<&Pin>) -> Result<Self, UnpackError> {
        let SessionParcel {
            socket,
            unread,
            features,
            protocol_features,
            status,
            cache_wanted,
            config_changed,
            memory,
            rings,
            inflight,
            log,
            front_end,
        } = parcel;
        let mut session = Self::new(served, socket.into_owned()?);
        let strange = features.unwrap_or(0) & !session.offered() | protocol_features & !protocol::OFFERED;
        if strange != 0 {
            return Err(Refusal::Features { bits: strange }.into());
        }
        let fds = unread.fds.into_iter().map(Fd::into_owned).collect::<io::Result<_>>()?;
        session.inlet = Inlet::unpack(&unread.bytes, fds).ok_or(form("a message that has come in part"))?;
        (session.features, session.protocol_features, session.status) = (features, protocol_features, status);
        (session.cache_wanted, session.config_changed) = (cache_wanted, config_changed);
        session.front_end = front_end.map(unpack_front_end).transpose()?;
        let inflight = inflight.map(|parcel| Inflight::unpack(parcel, session.served.queues_max)).transpose();
        session.inflight = inflight.map_err(Refusal::from)?;
        session.log = log.map(unpack_log).transpose()?;
        if rings.len() != session.vrings.len() {
            return Err(form("the number of rings"));
        }
        for (index, ring) in (0..).zip(&rings) {
            if let Some(core) = session.served.cores.iter().position(|core| core.core() == CoreId(ring.core)) {
                session.served.homes.put(index, core);
            }
        }
        session.vrings = rings.into_iter().map(unpack_ring).collect::<Result<_, _>>()?;
        session.publish_writeback();
        session.unpack_memory(memory, pin)?;
        Ok(session)
    }

    fn unpack_memory(&mut self, regions: Vec<RegionParcel>, pin: Option<&Pin>) -> Result<(), UnpackError> {
        let offer = |region: RegionParcel| {
            let RegionParcel { guest, user, len_bytes, offset, file } = region;
            Ok(RegionOffer { place: RegionPlace { guest, user, len_bytes }, offset, fd: file.into_owned()? })
        };
        let offers = regions.into_iter().map(offer).collect::<io::Result<Vec<_>>>()?;
        let next = self.memory.with_table(&offers).map_err(Refusal::from)?;
        let leaving = self.memory.replace(next);
        self.memory.forget(leaving);
        if let Some(pin) = pin {
            let regions = self.memory.map().ranges().iter().map(|range| &range.region);
            regions.clone().for_each(|region| pin(region));
            self.unpinned = regions.filter(|region| region.pins().is_none()).map(Arc::downgrade).collect();
        }
        for at in 0..self.vrings.len() {
            if self.vrings[at].wanted() {
                self.memory.announce(self.core_of(at));
            }
        }
        Ok(())
    }

    /// Its rings go on from here.
    pub(crate) fn place(&mut self, places: &Places) -> Result<(), UnpackError> {
        if places.rings.len() != self.vrings.len() {
            return Err(form("the number of rings' places"));
        }
        for (vring, place) in self.vrings.iter_mut().zip(&places.rings) {
            (vring.base, vring.bar) = (place.base, place.bar);
        }
        Ok(())
    }
}

fn pack_ring(vring: &Vring, core: CoreId) -> io::Result<RingParcel> {
    Ok(RingParcel {
        size: vring.size,
        addresses: vring.addresses.map(|at| [at.descriptors, at.available, at.used]),
        started: vring.started,
        enabled: vring.enabled,
        ran: vring.ran,
        anew: vring.anew,
        core: core.0,
        kick: Fd::of_some(vring.kick.as_ref())?,
        call: Fd::of_some(vring.call.as_ref())?,
        error: Fd::of_some(vring.error.as_ref())?,
    })
}

fn unpack_ring(parcel: RingParcel) -> Result<Vring, UnpackError> {
    let RingParcel { size, addresses, started, enabled, ran, anew, core: _, kick, call, error } = parcel;
    if let Some(size) = size.filter(|size| !size.is_power_of_two() || u32::from(*size) > RING_SIZE_MAX) {
        return Err(Refusal::Size { size: size.into() }.into());
    }
    let eventfd = |fd: Option<Fd>| -> Result<Option<OwnedFd>, UnpackError> {
        let fd = fd.map(Fd::into_owned).transpose()?;
        if fd.as_ref().is_none_or(is_eventfd) { Ok(fd) } else { Err(Refusal::NoEventfd.into()) }
    };
    let mut vring = Vring::default();
    vring.addresses = addresses.map(|[descriptors, available, used]| RingAddresses { descriptors, available, used });
    (vring.size, vring.started, vring.enabled, vring.ran, vring.anew) = (size, started, enabled, ran, anew);
    (vring.kick, vring.call, vring.error) = (eventfd(kick)?, eventfd(call)?, eventfd(error)?);
    Ok(vring)
}

fn unpack_log(parcel: LogParcel) -> Result<Arc<DirtyLog>, UnpackError> {
    let LogParcel { offset, len_bytes, file } = parcel;
    Ok(Arc::new(DirtyLog::map(&file.into_owned()?, offset, len_bytes).map_err(Refusal::from)?))
}

fn unpack_front_end(parcel: FrontEndParcel) -> Result<FrontEnd, UnpackError> {
    let FrontEndParcel { socket, awaited, reply } = parcel;
    FrontEnd::unpack(socket.into_owned()?, awaited, &reply).ok_or(form("the channel to the front end"))
}

#[cfg(test)]
mod tests;
