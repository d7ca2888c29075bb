//! The log pages of a controller. Knows no feature's value.

use spinel_nvme::admin::GetLogPage;
use spinel_nvme::command::{AdminOpcode, IoOpcode};
use spinel_nvme::identify::padded;
use spinel_nvme::log::{
    AddressFamily, AnaGroup, AnaHead, AnaState as AnaCode, ChangedNamespaces, CommandEffects, DiscoveryEntry, DiscoveryHead, EntryKind,
    ErrorEntry, FeatureEffects, FirmwareSlots, GROUPS_ONLY, LogPage, ReservationEvent, ReservationNotice, Smart, SupportedLogs, effects,
    entry_flags, requirements,
};
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::{FromZeros as _, IntoBytes};

use super::super::queue::{Desk, SlotId};
use super::super::reservation::Notice;
use super::super::view::{AnaState, DiscoveryRecord, DiscoveryView, Family, PortId, Scene, View};
use super::Admin;
use super::events::What;
use super::features::FEATURES;

/// A temperature that worries nobody: nothing here is measured.
const TEMPERATURE_K: u16 = 303;

const PAGES: [LogPage; 10] = [
    LogPage::Supported,
    LogPage::Error,
    LogPage::Smart,
    LogPage::FirmwareSlots,
    LogPage::ChangedNamespaces,
    LogPage::CommandEffects,
    LogPage::FeatureEffects,
    LogPage::Reservation,
    LogPage::Ana,
    LogPage::Discovery,
];

impl Admin {
    /// Get Log Page.
    pub(super) fn get_log_page(&mut self, desk: &mut Desk, id: SlotId) {
        let asked = GetLogPage::of(&desk.slots.get(id).command);
        let len_bytes = u32::try_from(asked.len_bytes()).expect("its buffers are as long, which was checked");
        // Buffers first, so that what was read counts as read only once.
        if !desk.has_buffers(id, len_bytes) {
            return desk.park(id);
        }
        let page = LogPage::of(asked.page).filter(|page| self.has_page(*page));
        let begin = usize::try_from(asked.offset).unwrap_or(usize::MAX);
        let result = match page {
            None => Err(StatusCode::LOG_PAGE_INVALID.permanent()),
            Some(_) if asked.offset_is_index || begin % 4 != 0 => Err(StatusCode::INVALID_FIELD.permanent()),
            Some(page) => self.read_log(page, &asked, begin).ok_or(StatusCode::INVALID_FIELD.permanent()),
        };
        match result {
            Ok(bytes) => {
                desk.fill(id, &bytes);
                desk.answer(id, StatusField::SUCCESS);
            }
            Err(status) => desk.answer(id, status),
        }
        self.tell(desk);
    }

    fn has_page(&self, page: LogPage) -> bool {
        match &self.scene {
            Scene::Storage(view) => PAGES.contains(&page) && page != LogPage::Discovery && (page != LogPage::Ana || view.identity.ana),
            Scene::Discovery(_) => matches!(page, LogPage::Supported | LogPage::Error | LogPage::Discovery),
        }
    }

    /// A page from `begin` on, if it is that long. Then it was read, unless its event is to stay.
    fn read_log(&mut self, page: LogPage, asked: &GetLogPage, begin: usize) -> Option<Vec<u8>> {
        let bytes = match (page, &self.scene) {
            (LogPage::Discovery, Scene::Discovery(view)) => self.discovery_page(view, begin, asked.len_bytes())?,
            _ => self.log_page(page, asked).get(begin..)?.to_vec(),
        };
        let event = match page {
            LogPage::ChangedNamespaces => Some(What::Namespaces),
            LogPage::Ana => Some(What::Ana),
            LogPage::Reservation => Some(What::Reservations),
            LogPage::Discovery => Some(What::Discovery),
            _ => None,
        };
        if let Some(event) = event.filter(|_| !asked.retain_event) {
            self.events.read(event);
        }
        Some(bytes)
    }

    fn log_page(&self, page: LogPage, asked: &GetLogPage) -> Vec<u8> {
        match page {
            LogPage::Supported => {
                let pages: Vec<LogPage> = PAGES.into_iter().filter(|page| self.has_page(*page)).collect();
                SupportedLogs::new(&pages).as_bytes().to_vec()
            }
            LogPage::Error => ErrorEntry::new_zeroed().as_bytes().to_vec(),
            LogPage::Smart => smart().as_bytes().to_vec(),
            LogPage::FirmwareSlots => FirmwareSlots::one(padded(env!("CARGO_PKG_VERSION"))).as_bytes().to_vec(),
            LogPage::ChangedNamespaces => ChangedNamespaces::new(self.events.changed().iter().copied()).as_bytes().to_vec(),
            LogPage::CommandEffects => command_effects().as_bytes().to_vec(),
            LogPage::FeatureEffects => feature_effects().as_bytes().to_vec(),
            LogPage::Ana => {
                let page = self.view().map(|view| self.ana_page(view, asked.specific & GROUPS_ONLY != 0));
                page.unwrap_or_default()
            }
            LogPage::Reservation => {
                let page = self.events.next_notice().map(|(count, nsid, notice, waiting)| {
                    ReservationNotice::new(count, event(notice), u8::try_from(waiting).unwrap_or(u8::MAX), nsid)
                });
                page.unwrap_or_else(ReservationNotice::new_zeroed).as_bytes().to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// Every group that has namespaces which this host sees.
    fn ana_page(&self, view: &View, groups_only: bool) -> Vec<u8> {
        let mut members: Vec<(u32, u32)> = self.namespaces().map(|namespace| (namespace.group, namespace.nsid)).collect();
        members.sort_unstable();
        let groups: Vec<&[(u32, u32)]> = members.chunk_by(|one, other| one.0 == other.0).collect();
        let count = u16::try_from(groups.len()).expect("namespaces are few");
        let mut page = AnaHead::new(self.events.ana_changes(), count).as_bytes().to_vec();
        let states = view.ana(self.visitor.port);
        for members in groups {
            let group = members[0].0;
            let state = states.map_or(AnaState::Inaccessible, |states| states.state(group));
            let changes = states.map_or(0, |states| states.changes(group));
            let listed = if groups_only { &[][..] } else { members };
            let listed_count = u32::try_from(listed.len()).expect("namespaces are few");
            page.extend_from_slice(AnaGroup::new(group, code(state), changes, listed_count).as_bytes());
            listed.iter().for_each(|(_, nsid)| page.extend_from_slice(&nsid.to_le_bytes()));
        }
        page
    }

    /// So much of the page from `begin` on; none if it is not so long. The page may be long, so that no more of it is made.
    fn discovery_page(&self, view: &DiscoveryView, begin: usize, len_bytes: u64) -> Option<Vec<u8>> {
        const PART_BYTES: usize = size_of::<DiscoveryEntry>();
        const { assert!(size_of::<DiscoveryHead>() == PART_BYTES) };
        let records: Vec<&DiscoveryRecord> = view.records.iter().filter(|record| record.visible.includes(&self.visitor.host)).collect();
        let end = usize::try_from(len_bytes).ok()?.saturating_add(begin);
        let first = begin / PART_BYTES;
        let mut page = Vec::new();
        if first == 0 {
            let count = u64::try_from(records.len()).expect("few");
            page.extend_from_slice(DiscoveryHead::new(view.generation, count).as_bytes());
        }
        let (from, to) = (first.saturating_sub(1).min(records.len()), (end.div_ceil(PART_BYTES) - 1).min(records.len()));
        records[from..to.max(from)].iter().for_each(|record| page.extend_from_slice(self.discovery_entry(record).as_bytes()));
        // Its very end is nothing, but not too far.
        let inside = begin <= (records.len() + 1) * PART_BYTES;
        inside.then(|| page.get(begin - first * PART_BYTES..).map_or_else(Vec::new, <[u8]>::to_vec))
    }

    fn discovery_entry(&self, record: &DiscoveryRecord) -> DiscoveryEntry {
        let kind = if record.referral { EntryKind::Referral } else { EntryKind::Nvm };
        // A port that is everywhere is where this host has come by it.
        let address = record.address.as_ref().unwrap_or(&self.visitor.arrived);
        let family = match address.family {
            Family::Ipv4 => AddressFamily::Ipv4,
            Family::Ipv6 => AddressFamily::Ipv6,
        };
        let mut entry = DiscoveryEntry::tcp(kind, record.subsystem.field(), family, &address.host, &address.service);
        entry.port = record.port.map_or(0, |PortId(port)| port).into();
        if record.secure {
            entry.requirements = requirements::SECURE_CHANNEL_REQUIRED;
        }
        if record.referral {
            entry.flags = entry_flags::PERSISTENT.into();
        }
        entry
    }
}

fn code(state: AnaState) -> AnaCode {
    match state {
        AnaState::Optimized => AnaCode::Optimized,
        AnaState::NonOptimized => AnaCode::NonOptimized,
        AnaState::Inaccessible => AnaCode::Inaccessible,
    }
}

fn event(notice: Notice) -> ReservationEvent {
    match notice {
        Notice::RegistrationPreempted => ReservationEvent::RegistrationPreempted,
        Notice::ReservationReleased => ReservationEvent::ReservationReleased,
        Notice::ReservationPreempted => ReservationEvent::ReservationPreempted,
    }
}

fn smart() -> Smart {
    let mut page = Smart::new_zeroed();
    (page.temperature_k, page.spare_percent, page.spare_threshold_percent) = (TEMPERATURE_K.into(), 100, 10);
    page
}

fn command_effects() -> CommandEffects {
    let mut page = CommandEffects::new_zeroed();
    let admin = [
        AdminOpcode::GetLogPage,
        AdminOpcode::Identify,
        AdminOpcode::Abort,
        AdminOpcode::SetFeatures,
        AdminOpcode::GetFeatures,
        AdminOpcode::AsyncEventRequest,
        AdminOpcode::KeepAlive,
        AdminOpcode::Fabrics,
    ];
    admin.iter().for_each(|opcode| page.admin[usize::from(opcode.code())] = effects::SUPPORTED.into());
    let reads = [
        IoOpcode::Flush,
        IoOpcode::Read,
        IoOpcode::Compare,
        IoOpcode::ReservationRegister,
        IoOpcode::ReservationReport,
        IoOpcode::ReservationAcquire,
        IoOpcode::ReservationRelease,
        IoOpcode::Fabrics,
    ];
    reads.iter().for_each(|opcode| page.io[usize::from(opcode.code())] = effects::SUPPORTED.into());
    let writes = [IoOpcode::Write, IoOpcode::WriteZeroes, IoOpcode::DatasetManagement];
    let changes = effects::SUPPORTED | effects::CHANGES_BLOCKS;
    writes.iter().for_each(|opcode| page.io[usize::from(opcode.code())] = changes.into());
    page
}

fn feature_effects() -> FeatureEffects {
    let mut page = FeatureEffects::new_zeroed();
    for (feature, changeable, of_namespaces) in FEATURES {
        let scope = if of_namespaces { effects::OF_NAMESPACE } else { effects::OF_CONTROLLER };
        let change = if changeable { effects::CHANGES_CONTROLLER } else { 0 };
        page.features[usize::from(feature.code())] = (effects::SUPPORTED | scope | change).into();
    }
    page
}
