//! What a controller has to tell its host, and when it may. Knows no log page's bytes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use spinel_nvme::features::async_events;
use spinel_nvme::log::AsyncEvent;
use spinel_nvme::status::StatusCode;
use spinel_nvme::status::StatusField;

use super::super::queue::{Desk, Phase, SlotId, Visitor};
use super::super::reservation::Notice;
use super::super::view::{Namespace, Scene, View};
use super::{ASYNC_EVENT_REQUESTS_MAX, Admin};

/// Notices about reservations that were not read; more are counted only.
const NOTICES_MAX: usize = 64;

/// One kind of event. It is told once, and again only after its log page was read.
#[derive(Default)]
struct Kind {
    raised: bool,
    told: bool,
}

/// The kinds, in the order in which they are told.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum What {
    Ana = 0,
    Namespaces = 1,
    Discovery = 2,
    Reservations = 3,
}

/// Stands for events that hosts cannot switch off here.
const ALWAYS: u32 = 0;

const KINDS: [(What, AsyncEvent, u32); 4] = [
    (What::Ana, AsyncEvent::ANA_CHANGED, async_events::ANA),
    (What::Namespaces, AsyncEvent::NAMESPACES_CHANGED, async_events::NAMESPACES),
    (What::Discovery, AsyncEvent::DISCOVERY_CHANGED, async_events::DISCOVERY),
    // Which of these are told has a feature of its own.
    (What::Reservations, AsyncEvent::RESERVATION_NOTICE, ALWAYS),
];

/// What there is to tell, and who waits for it.
pub(super) struct Events {
    requests: VecDeque<SlotId>,
    kinds: [Kind; KINDS.len()],
    /// Namespaces that have changed since the host has read which.
    changed: BTreeSet<u32>,
    notices: VecDeque<(u32, Notice)>,
    notices_count: u64,
    /// Changes of how groups are reached.
    ana_changes: u64,
}

impl Events {
    /// Nothing to tell.
    pub(super) fn new() -> Self {
        Self {
            requests: VecDeque::with_capacity(ASYNC_EVENT_REQUESTS_MAX),
            kinds: Default::default(),
            changed: BTreeSet::new(),
            notices: VecDeque::new(),
            notices_count: 0,
            ana_changes: 0,
        }
    }

    fn raise(&mut self, what: What) {
        self.kinds[what as usize].raised = true;
    }

    /// Notes what is different for this host.
    pub(super) fn compare(&mut self, before: &Scene, after: &Scene, visitor: &Visitor) {
        match (before, after) {
            (Scene::Storage(before), Scene::Storage(after)) => self.compare_views(before, after, visitor),
            (Scene::Discovery(before), Scene::Discovery(after)) if before.generation != after.generation => self.raise(What::Discovery),
            _ => {}
        }
    }

    fn compare_views(&mut self, before: &View, after: &View, visitor: &Visitor) {
        let seen = |namespace: &&Arc<Namespace>| namespace.visible.includes(&visitor.host);
        for namespace in before.namespaces.iter().filter(seen) {
            let same = after.namespace(namespace.nsid).filter(seen).filter(|now| now.change == namespace.change);
            // Another namespace under the same number is another one.
            if same.is_none_or(|now| now.ids != namespace.ids) {
                self.changed.insert(namespace.nsid);
            }
        }
        for namespace in after.namespaces.iter().filter(seen) {
            if before.namespace(namespace.nsid).filter(seen).is_none() {
                self.changed.insert(namespace.nsid);
            }
        }
        let groups = |view: &View| view.namespaces.iter().filter(seen).map(|namespace| namespace.group).collect::<BTreeSet<u32>>();
        if before.ana(visitor.port) != after.ana(visitor.port) || after.identity.ana && groups(before) != groups(after) {
            self.ana_changes += 1;
            self.raise(What::Ana);
        }
        if !self.changed.is_empty() {
            self.raise(What::Namespaces);
        }
    }

    /// Another host has taken something away.
    pub(super) fn notice(&mut self, nsid: u32, notice: Notice) {
        self.notices_count = self.notices_count.wrapping_add(1).max(1);
        if self.notices.len() < NOTICES_MAX {
            self.notices.push_back((nsid, notice));
        }
        self.raise(What::Reservations);
    }

    /// The oldest notice about reservations: its number, namespace and kind, and how many wait behind it.
    pub(super) fn next_notice(&self) -> Option<(u64, u32, Notice, usize)> {
        let (nsid, notice) = *self.notices.front()?;
        let waiting = self.notices.len() - 1;
        let number = self.notices_count.wrapping_sub(u64::try_from(waiting).expect("few"));
        Some((number, nsid, notice, waiting))
    }

    /// Namespaces that have changed.
    pub(super) fn changed(&self) -> &BTreeSet<u32> {
        &self.changed
    }

    /// How often the ways to groups have changed.
    pub(super) fn ana_changes(&self) -> u64 {
        self.ana_changes
    }

    /// The log page of a kind was read: it may be told again.
    pub(super) fn read(&mut self, what: What) {
        if what == What::Reservations {
            self.notices.pop_front();
        }
        self.kinds[what as usize] = Kind { raised: what == What::Reservations && !self.notices.is_empty(), told: false };
        if what == What::Namespaces {
            self.changed.clear();
        }
    }

    /// Takes a command from those that wait. Whether it was one.
    pub(super) fn forget(&mut self, id: SlotId) -> bool {
        let found = self.requests.iter().position(|request| *request == id);
        found.is_some_and(|at| self.requests.remove(at).is_some())
    }

    /// Nothing to tell, and nobody waits any more. Answers who did.
    pub(super) fn reset(&mut self) -> VecDeque<SlotId> {
        self.kinds = Default::default();
        self.changed.clear();
        self.notices.clear();
        std::mem::take(&mut self.requests)
    }
}

impl Admin {
    /// Asynchronous Event Request: waits for something to tell.
    pub(super) fn await_event(&mut self, desk: &mut Desk, id: SlotId) {
        if self.events.requests.len() >= ASYNC_EVENT_REQUESTS_MAX {
            return desk.answer(id, StatusCode::ASYNC_EVENT_LIMIT.permanent());
        }
        desk.slots.get_mut(id).phase = Phase::Away;
        self.events.requests.push_back(id);
        self.tell(desk);
    }

    /// Tells what there is to tell, as long as there is a request to answer.
    pub(super) fn tell(&mut self, desk: &mut Desk) {
        for (what, event, bit) in KINDS {
            let kind = &mut self.events.kinds[what as usize];
            let wanted = bit == ALWAYS || self.features.async_events() & bit != 0;
            if !kind.raised || kind.told || !wanted {
                continue;
            }
            let Some(request) = self.events.requests.pop_front() else { return };
            *kind = Kind { raised: false, told: true };
            desk.answer_with(request, StatusField::SUCCESS, event.result());
        }
    }
}
