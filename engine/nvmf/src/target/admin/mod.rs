//! A controller: what hosts do on its admin queue, and what it tells them. Knows no transport and no block.

mod events;
mod features;
mod identify;
mod logs;

use std::sync::Arc;

use spinel_core::{Armed, Instant};
use spinel_nvme::admin::{Abort, GetLogPage, IDENTIFY_LEN_BYTES};
use spinel_nvme::command::AdminOpcode;
use spinel_nvme::fabrics::{Property, PropertySize};
use spinel_nvme::registers::{Capabilities, Configuration, ControllerStatus, ShutdownNotice, ShutdownProgress, Version, offset};
use spinel_nvme::status::{StatusCode, StatusField};

use super::note::{ChangeId, ReserveError, Said, Until};
use super::options::Options;
use super::queue::{Desk, Phase, SlotId, Visitor};
use super::reservation::Notice;
use super::view::{Namespace, Scene, View};
use events::Events;
use features::Features;

/// The version whose rules it keeps.
const VERSION: Version = Version::V2_0;
/// Commands of the admin queue that wait for something to happen.
pub(super) const ASYNC_EVENT_REQUESTS_MAX: usize = 4;
/// How long it takes to become ready at most, in steps of 500 ms.
const READY_500MS: u8 = 30;

/// A controller.
pub(crate) struct Admin {
    scene: Scene,
    visitor: Visitor,
    cntlid: u16,
    configuration: u32,
    status: ControllerStatus,
    features: Features,
    events: Events,
    /// When the host was heard of last.
    heard: Instant,
}

impl Admin {
    pub(crate) fn new(desk: &Desk, scene: Scene, visitor: Visitor, cntlid: u16, keep_alive_ms: u32) -> Self {
        let events = Events::new();
        let status =
            ControllerStatus { ready: false, fatal: false, shutdown: Some(ShutdownProgress::None), subsystem_reset: false, paused: false };
        let features = Features::new(keep_alive_ms);
        Self { scene, visitor, cntlid, configuration: 0, status, features, events, heard: desk.now }
    }

    /// Whether a command may come now.
    pub(crate) fn check(&self, desk: &Desk, id: SlotId) -> Result<(), StatusField> {
        let slot = desk.slots.get(id);
        let opcode = AdminOpcode::of(slot.command.opcode()).ok_or(StatusCode::INVALID_OPCODE.permanent())?;
        // Of the commands of a controller that does not work yet, none is known.
        if !self.status.ready {
            return Err(StatusCode::SEQUENCE.permanent());
        }
        match opcode {
            AdminOpcode::Identify if slot.len_bytes < IDENTIFY_LEN_BYTES => Err(StatusCode::SGL_LENGTH_INVALID.permanent()),
            AdminOpcode::GetLogPage if u64::from(slot.len_bytes) < GetLogPage::of(&slot.command).len_bytes() => {
                Err(StatusCode::SGL_LENGTH_INVALID.permanent())
            }
            _ => Ok(()),
        }
    }

    /// Does what a command says.
    pub(crate) fn run(&mut self, desk: &mut Desk, id: SlotId) {
        match AdminOpcode::of(desk.slots.get(id).command.opcode()) {
            Some(AdminOpcode::KeepAlive) => {
                self.heard = desk.now;
                desk.answer(id, StatusField::SUCCESS);
            }
            Some(AdminOpcode::AsyncEventRequest) => self.await_event(desk, id),
            Some(AdminOpcode::Identify) => self.identify(desk, id),
            Some(AdminOpcode::GetLogPage) => self.get_log_page(desk, id),
            Some(AdminOpcode::GetFeatures) => self.get_feature(desk, id),
            Some(AdminOpcode::SetFeatures) => self.set_feature(desk, id),
            Some(AdminOpcode::Abort) => self.abort(desk, id),
            _ => desk.answer(id, StatusCode::INVALID_OPCODE.permanent()),
        }
    }

    /// Answers with a page of so many bytes, of which `page` is the beginning, or lets the command wait for buffers.
    fn reply(desk: &mut Desk, id: SlotId, len_bytes: u32, page: impl FnOnce() -> Vec<u8>) {
        if desk.has_buffers(id, len_bytes) {
            desk.fill(id, &page());
            desk.answer(id, StatusField::SUCCESS);
        } else {
            desk.park(id);
        }
    }

    /// Commands that wait can be given up. What is at a device ends by itself.
    fn abort(&mut self, desk: &mut Desk, id: SlotId) {
        let abort = Abort::of(&desk.slots.get(id).command);
        if abort.queue > 0 {
            desk.slots.get_mut(id).phase = Phase::Away;
            return desk.voice.say(Said::Abort { token: id.tag().0, qid: abort.queue, id: abort.id });
        }
        let found = desk.slots.find(abort.id).filter(|found| self.events.forget(*found));
        if let Some(found) = found {
            desk.answer(found, StatusCode::ABORT_REQUESTED.retriable());
        }
        desk.answer_with(id, StatusField::SUCCESS, Abort::result(found.is_some()));
    }

    /// Another queue has given a command up, or has not.
    pub(crate) fn aborted(&mut self, desk: &mut Desk, token: u32, aborted: bool) {
        let id = SlotId(u16::try_from(token).expect("tokens of this queue are slots"));
        if desk.slots.get(id).phase == Phase::Away {
            desk.answer_with(id, StatusField::SUCCESS, Abort::result(aborted));
        }
    }

    /// Property Get.
    pub(crate) fn get_property(&mut self, desk: &mut Desk, id: SlotId) {
        let property = Property::of(&desk.slots.get(id).command);
        let value = property.and_then(|property| self.property(&desk.options, property));
        match value {
            Some(value) => desk.answer_with(id, StatusField::SUCCESS, value),
            // Without any bit beside it: hosts that read every property take only this for one that there is not.
            None => desk.answer(id, StatusCode::INVALID_FIELD.retriable()),
        }
    }

    fn property(&self, options: &Options, property: Property) -> Option<u64> {
        Some(match (property.offset, property.size) {
            (offset::CAPABILITIES, PropertySize::Eight) => capabilities(options).register(),
            (offset::VERSION, PropertySize::Four) => VERSION.register().into(),
            (offset::CONFIGURATION, PropertySize::Four) => self.configuration.into(),
            (offset::STATUS, PropertySize::Four) => self.status.register().into(),
            (offset::SUBSYSTEM_RESET, PropertySize::Four) => 0,
            (offset::READY_TIMEOUTS, PropertySize::Four) => READY_500MS.into(),
            _ => return None,
        })
    }

    /// Property Set: only the configuration can be set.
    pub(crate) fn set_property(&mut self, desk: &mut Desk, id: SlotId) {
        let command = desk.slots.get(id).command;
        match Property::of(&command) {
            Some(property @ Property { offset: offset::CONFIGURATION, size: PropertySize::Four }) => {
                let value = u32::try_from(property.value_of(&command)).expect("it has four bytes");
                let status = self.configure(desk, value);
                desk.answer(id, status);
            }
            _ => desk.answer(id, StatusCode::INVALID_FIELD.permanent()),
        }
    }

    fn configure(&mut self, desk: &mut Desk, value: u32) -> StatusField {
        let (before, after) = (Configuration::of(self.configuration), Configuration::of(value));
        if after.enable && !before.enable {
            let sizes = (after.submission_entry_power, after.completion_entry_power);
            let storage = matches!(self.scene, Scene::Storage(_));
            if after.sets != 0 || after.page_power != 0 || after.arbitration != 0 || storage && sizes != (6, 4) {
                return StatusCode::INVALID_FIELD.permanent();
            }
            self.status.ready = true;
            self.status.shutdown = Some(ShutdownProgress::None);
            self.heard = desk.now;
            desk.voice.say(Said::Enabled(true));
        }
        if !after.enable && before.enable {
            self.status.ready = false;
            self.reset(desk);
        }
        if after.shutdown != 0 && before.shutdown == 0 && ShutdownNotice::of(after.shutdown).is_some() {
            // Nothing here is kept that a shutdown would have to save.
            self.status.shutdown = Some(ShutdownProgress::Complete);
            desk.voice.say(Said::Enabled(false));
        }
        self.configuration = value;
        StatusField::SUCCESS
    }

    /// Everything as it was at first; queues for I/O end.
    fn reset(&mut self, desk: &mut Desk) {
        for request in self.events.reset() {
            desk.answer(request, StatusCode::ABORT_REQUESTED.retriable());
        }
        self.features = Features::new(self.features.keep_alive_ms());
        desk.voice.say(Said::Enabled(false));
    }

    /// What it belongs to is like this from now on.
    pub(crate) fn see(&mut self, desk: &mut Desk, scene: Scene, change: Option<(ChangeId, Until)>) {
        self.events.compare(&self.scene, &scene, &self.visitor);
        self.scene = scene;
        if let Some((change, _)) = change {
            desk.voice.say(Said::Seen(change));
        }
        self.tell(desk);
    }

    /// Another host has taken something away.
    pub(crate) fn noticed(&mut self, desk: &mut Desk, nsid: u32, notice: Notice) {
        if self.features.tells_of(nsid, notice) {
            self.events.notice(nsid, notice);
            self.tell(desk);
        }
    }

    /// The control side has set whether reservations persist, or has not.
    pub(crate) fn persisted(&mut self, desk: &mut Desk, token: u32, result: Result<(), ReserveError>) {
        let id = SlotId(u16::try_from(token).expect("tokens of this queue are slots"));
        if desk.slots.get(id).phase == Phase::Away {
            let status = match result {
                Ok(()) => StatusField::SUCCESS,
                Err(ReserveError::NoNamespace) => StatusCode::INVALID_NAMESPACE.permanent(),
                Err(ReserveError::Refused(_)) => StatusCode::FEATURE_NOT_CHANGEABLE.permanent(),
                Err(ReserveError::NotSaved) => StatusCode::INTERNAL.permanent(),
            };
            desk.answer(id, status);
        }
    }

    /// The host has shown that it is there.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Whether the host has not been heard of for longer than it said it would.
    #[inline]
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        let late = self.features.keep_alive_ns().is_some_and(|ns| now.since_ns(self.heard) > ns);
        if late {
            self.say_late();
        }
        late
    }

    #[cold]
    fn say_late(&self) {
        let (host, cntlid, ms) = (&self.visitor.host, self.cntlid, self.features.keep_alive_ms());
        tracing::warn!("{host} was not heard of for {ms} ms: its controller {cntlid} ends");
    }

    /// When it has to be looked at again.
    pub(crate) fn arm(&self) -> Armed {
        self.features.keep_alive_ns().map_or(Armed::Idle, |ns| Armed::Until(self.heard.after_ns(ns + 1)))
    }

    /// The subsystem with namespaces, if that is what it belongs to.
    fn view(&self) -> Option<&Arc<View>> {
        match &self.scene {
            Scene::Storage(view) => Some(view),
            Scene::Discovery(_) => None,
        }
    }

    /// The namespaces that this host sees.
    fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        let all = self.view().map_or(&[][..], |view| &view.namespaces);
        all.iter().filter(|namespace| namespace.visible.includes(&self.visitor.host))
    }

    fn namespace(&self, nsid: u32) -> Option<&Arc<Namespace>> {
        self.view()?.namespace(nsid).filter(|namespace| namespace.visible.includes(&self.visitor.host))
    }
}

fn capabilities(options: &Options) -> Capabilities {
    Capabilities {
        queue_max_less_one: options.io_queue_entries - 1,
        contiguous: true,
        timeout_500ms: READY_500MS,
        nvm: true,
        ready_with_media: true,
        ..Capabilities::default()
    }
}
