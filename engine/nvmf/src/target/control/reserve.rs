//! Commands of hosts that the control side carries out: reservations, and blocks to work on alone. Knows no command's bytes.

use std::sync::Arc;

use super::super::note::{ReserveError, Told, Until};
use super::super::reservation::{Act, HostId, Notice, Reservations};
use super::super::view::{ConnectionId, Hold};
use super::subsystem::{Kept, Subsystem, Waiter};
use super::{State, Then, file};
use crate::nqn::Nqn;

impl State {
    /// A host changes the reservations of a namespace. It is answered when they hold everywhere, and are saved.
    pub(super) fn reserve(&mut self, from: ConnectionId, token: u32, nsid: u32, act: Act) {
        match self.try_reserve(from, nsid, act) {
            Ok(done) => {
                self.tell_noticed(&done.nqn, nsid, &done.told);
                let until = if done.takes { Until::Drained(nsid) } else { Until::Seen };
                self.publish(&done.nqn, until, Some(Then::Reserved { to: from, token }));
            }
            Err(error) => self.tell(from, move || Told::Reserved { token, result: Err(error) }),
        }
    }

    fn try_reserve(&mut self, from: ConnectionId, nsid: u32, act: Act) -> Result<Reserved, ReserveError> {
        let (subsystem, belongs) = self.home(from).ok_or(ReserveError::NoNamespace)?;
        let controller = subsystem.controllers.by_id.get(&belongs.cntlid).ok_or(ReserveError::NoNamespace)?;
        let (host, host_id) = (controller.host.clone(), controller.host_id);
        let kept = visible(subsystem, nsid, &host).ok_or(ReserveError::NoNamespace)?;
        let before = Arc::clone(&kept.namespace.reservations);
        let mut after = Reservations::clone(&before);
        let told = after.apply(host_id, &host, act, kept.namespace.may_persist).map_err(ReserveError::Refused)?;
        save(kept, &after)?;
        kept.namespace.reservations = Arc::new(after);
        let after = Arc::clone(&kept.namespace.reservations);
        let mut hosts = subsystem.controllers.by_id.values().map(|controller| controller.host_id);
        let takes = hosts.any(|host| {
            let (had, has) = (before.rights(&host), after.rights(&host));
            (had.read && !has.read) || (had.write && !has.write)
        });
        Ok(Reserved { nqn: subsystem.identity.nqn.clone(), told, takes })
    }

    /// Tells the admin queues of other hosts what was taken from them.
    fn tell_noticed(&self, nqn: &Nqn, nsid: u32, told: &[(HostId, Notice)]) {
        let Some(subsystem) = self.subsystems.get(nqn) else { return };
        for (host, notice) in told {
            let of_host = subsystem.controllers.by_id.values().filter(|controller| controller.host_id == *host);
            for admin in of_host.filter_map(|controller| controller.queues.get(&0)) {
                let notice = *notice;
                self.tell(*admin, move || Told::Noticed { nsid, notice });
            }
        }
    }

    /// A host sets whether reservations of a namespace survive a loss of power.
    pub(super) fn persist(&mut self, from: ConnectionId, token: u32, nsid: u32, persist: bool) {
        let result = self.try_persist(from, nsid, persist);
        match result {
            Ok(nqn) => self.publish(&nqn, Until::Seen, Some(Then::Reserved { to: from, token })),
            Err(error) => self.tell(from, move || Told::Reserved { token, result: Err(error) }),
        }
    }

    fn try_persist(&mut self, from: ConnectionId, nsid: u32, persist: bool) -> Result<Nqn, ReserveError> {
        let (subsystem, belongs) = self.home(from).ok_or(ReserveError::NoNamespace)?;
        let host = subsystem.controllers.by_id.get(&belongs.cntlid).map(|controller| controller.host.clone());
        let nqn = subsystem.identity.nqn.clone();
        let kept = host.and_then(|host| visible(subsystem, nsid, &host)).ok_or(ReserveError::NoNamespace)?;
        if persist && !kept.namespace.may_persist {
            return Err(ReserveError::Refused(super::super::reservation::Refusal::Invalid));
        }
        let mut after = Reservations::clone(&kept.namespace.reservations);
        after.set_persists(persist);
        save(kept, &after)?;
        kept.namespace.reservations = Arc::new(after);
        Ok(nqn)
    }

    /// A connection wants to work on blocks alone. It is answered when nothing of others is under way there.
    pub(super) fn hold(&mut self, from: ConnectionId, token: u32, nsid: u32, start: u64, blocks: u32) {
        let waiter = Waiter { hold: Hold { by: from, start, blocks }, token };
        let found = self.home(from).and_then(|(subsystem, _)| {
            subsystem.namespaces.get_mut(&nsid)?.holds.push_back(waiter);
            Some(subsystem.identity.nqn.clone())
        });
        match found {
            Some(nqn) => drop(self.next_hold(&nqn, nsid)),
            None => self.tell(from, move || Told::Held { token, granted: false }),
        }
    }

    /// A connection has done what it wanted to do alone.
    pub(super) fn unhold(&mut self, from: ConnectionId, nsid: u32) {
        let found = self.home(from).and_then(|(subsystem, _)| {
            let kept = subsystem.namespaces.get_mut(&nsid)?;
            kept.namespace.hold.take_if(|hold| hold.by == from)?;
            Some(subsystem.identity.nqn.clone())
        });
        if let Some(nqn) = found
            && !self.next_hold(&nqn, nsid)
        {
            self.publish(&nqn, Until::Seen, None);
        }
    }

    /// Grants the next hold of a namespace, if there is one and none now. Whether it did.
    fn next_hold(&mut self, nqn: &Nqn, nsid: u32) -> bool {
        let granted = self.subsystems.get_mut(nqn).and_then(|subsystem| {
            let kept = subsystem.namespaces.get_mut(&nsid).filter(|kept| kept.namespace.hold.is_none())?;
            let waiter = kept.holds.pop_front()?;
            kept.namespace.hold = Some(waiter.hold);
            Some(waiter)
        });
        let Some(Waiter { hold, token }) = granted else { return false };
        self.publish(nqn, Until::Drained(nsid), Some(Then::Held { to: hold.by, token }));
        true
    }

    /// A connection has gone, and with it all it wanted to do alone.
    pub(super) fn drop_holds(&mut self, nqn: &Nqn, who: ConnectionId) {
        let Some(subsystem) = self.subsystems.get_mut(nqn) else { return };
        let mut freed = Vec::new();
        for (nsid, kept) in &mut subsystem.namespaces {
            kept.holds.retain(|waiter| waiter.hold.by != who);
            if kept.namespace.hold.take_if(|hold| hold.by == who).is_some() {
                freed.push(*nsid);
            }
        }
        for nsid in freed {
            if !self.next_hold(nqn, nsid) {
                self.publish(nqn, Until::Seen, None);
            }
        }
    }
}

/// Reservations that were changed.
struct Reserved {
    nqn: Nqn,
    told: Vec<(HostId, Notice)>,
    /// Somebody may do less than before.
    takes: bool,
}

fn visible<'a>(subsystem: &'a mut Subsystem, nsid: u32, host: &Nqn) -> Option<&'a mut Kept> {
    subsystem.namespaces.get_mut(&nsid).filter(|kept| kept.namespace.visible.includes(host))
}

/// Sees to it that reservations are found again after a loss of power if they are to be, and else that none are.
fn save(kept: &Kept, after: &Reservations) -> Result<(), ReserveError> {
    let Some(path) = &kept.reservations_file else { return Ok(()) };
    let saved = if after.persists() {
        file::save(path, &after.saved())
    } else if kept.namespace.reservations.persists() {
        file::remove(path)
    } else {
        Ok(())
    };
    saved.map_err(|error| {
        tracing::error!("reservations of namespace {} cannot be saved in {}: {error}", kept.namespace.nsid, path.display());
        ReserveError::NotSaved
    })
}
