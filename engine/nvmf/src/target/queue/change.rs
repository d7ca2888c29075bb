//! What a queue for I/O makes of changes to its subsystem: namespaces that are different, or gone, and who waits for what was
//! begun before. Knows no command.

use std::sync::Arc;

use spinel_core::{Channel, Meter, OpenError};

use super::super::note::{ChangeId, Said, Until};
use super::super::view::View;
use super::attached::{Door, Way};
use super::desk::Desk;
use super::io::{Io, NOWHERE};
use super::slots::SlotId;

/// Requests to a namespace that somebody waits for.
pub(super) struct Fence {
    pub(super) change: ChangeId,
    pub(super) nsid: u32,
    pub(super) epoch: u32,
    pub(super) owed: u32,
}

impl Io {
    /// The subsystem is like this from now on.
    pub(crate) fn see(&mut self, desk: &mut Desk, view: Arc<View>, change: Option<(ChangeId, Until)>) {
        self.send_batch(desk.now);
        self.view = view;
        for at in (0..self.attached.len()).rev() {
            let nsid = self.attached[at].namespace.nsid;
            let visible = self.view.namespace(nsid).filter(|namespace| namespace.visible.includes(&self.visitor.host));
            let left = match visible {
                Some(namespace) => self.attached[at].look(&Arc::clone(namespace), &self.view, &self.visitor),
                None => self.attached[at].vanish(),
            };
            self.leaving.extend(left);
            if visible.is_none() {
                self.detach(at);
            }
        }
        match change {
            None => {}
            Some((change, Until::Seen)) => desk.voice.say(Said::Seen(change)),
            Some((change, Until::Drained(nsid))) => {
                self.epoch += 1;
                let begun = |id: &SlotId| desk.slots.get(*id).begun && desk.slots.get(*id).command.nsid() == nsid;
                let owed = u32::try_from(desk.slots.all().filter(begun).count()).expect("a queue is small");
                self.fences.push(Fence { change, nsid, epoch: self.epoch, owed });
            }
        }
        self.pass_fences(desk);
    }

    /// Forgets a namespace that has vanished. Commands that were begun there end all the same.
    fn detach(&mut self, at: usize) {
        let gone = self.attached.swap_remove(at);
        self.places[gone.namespace.nsid as usize] = NOWHERE;
        if let Some(moved) = self.attached.get(at) {
            self.places[moved.namespace.nsid as usize] = u16::try_from(at).expect("namespaces are few");
        }
    }

    /// Tells whoever waits that what was begun before has ended, and that nothing holds the device any more.
    pub(crate) fn pass_fences(&mut self, desk: &Desk) {
        let leaving = &self.leaving;
        let passed = |fence: &mut Fence| fence.owed == 0 && leaving.iter().all(|way| way.nsid != fence.nsid);
        for fence in self.fences.extract_if(.., passed) {
            desk.voice.say(Said::Seen(fence.change));
        }
    }

    /// Whether somebody waits.
    pub(crate) fn has_fences(&self) -> bool {
        !self.fences.is_empty()
    }

    /// A channel has come.
    pub(crate) fn opened(&mut self, desk: &Desk, nsid: u32, instance: u64, channel: Result<(Box<dyn Channel>, Arc<Meter>), OpenError>) {
        let place = self.places.get(nsid as usize).filter(|place| **place != NOWHERE).map(|place| usize::from(*place));
        let attached = place.map(|place| &mut self.attached[place]);
        let wanted = attached.filter(|attached| matches!(attached.door, Door::Asked) && attached.namespace.instance == instance);
        match (wanted, channel) {
            (Some(attached), Ok((channel, meter))) => {
                attached.door = Door::Open(Way { nsid, instance, channel, meter, flying: 0, shut: false });
            }
            (wanted, refused) => {
                if let (Some(attached), Err(_)) = (wanted, &refused) {
                    attached.door = Door::Refused;
                }
                // There is no channel, or it leads to what is not there any more.
                desk.voice.say(Said::Closed { nsid, instance });
            }
        }
        // One that was asked for before the namespace changed is asked for again by the commands that wait.
        for attached in &mut self.attached {
            if matches!(attached.door, Door::Asked) && attached.namespace.nsid == nsid {
                attached.door = Door::Closed;
            }
        }
    }
}
