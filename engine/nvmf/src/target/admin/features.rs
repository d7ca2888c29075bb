//! A controller's features: what hosts set, and what they find. Knows no log and no page.

use std::collections::BTreeMap;

use spinel_nvme::admin::{FeatureSelect, GetFeature, SetFeature};
use spinel_nvme::command::NSID_ALL;
use spinel_nvme::features::{
    Feature, HOST_ID_128, HostBehavior, QueueCounts, RESERVATIONS_PERSIST, WRITE_CACHE_ON, async_events, capabilities, reservation_mask,
};
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::{FromZeros as _, IntoBytes};

use super::super::note::Said;
use super::super::queue::{Desk, Phase, SlotId};
use super::super::reservation::Notice;
use super::super::view::Scene;
use super::Admin;
use super::identify::KEEP_ALIVE_100MS;

/// Bytes of a host identifier.
const HOST_ID_BYTES: u32 = 16;

/// The features that there are, and whether they can be changed, and are of single namespaces.
pub(super) const FEATURES: [(Feature, bool, bool); 14] = [
    (Feature::Arbitration, true, false),
    (Feature::PowerManagement, true, false),
    (Feature::TemperatureThreshold, true, false),
    (Feature::ErrorRecovery, true, false),
    (Feature::VolatileWriteCache, false, false),
    (Feature::NumberOfQueues, true, false),
    (Feature::WriteAtomicity, true, false),
    (Feature::AsyncEvents, true, false),
    (Feature::KeepAlive, true, false),
    (Feature::HostBehavior, true, false),
    (Feature::HostIdentifier, false, false),
    (Feature::ReservationNotificationMask, true, true),
    (Feature::ReservationPersistence, true, true),
    (Feature::WriteProtection, false, true),
];

/// What a host has set.
pub(super) struct Features {
    /// Of those features that are a number which nobody looks at but the host.
    numbers: BTreeMap<u8, u32>,
    async_events: u32,
    keep_alive_ms: u32,
    behavior: HostBehavior,
    /// By namespace: which notices about reservations are not wanted.
    masks: BTreeMap<u32, u32>,
}

impl Features {
    pub(super) fn new(keep_alive_ms: u32) -> Self {
        Self {
            numbers: BTreeMap::new(),
            async_events: 0,
            keep_alive_ms: rounded(keep_alive_ms),
            behavior: HostBehavior::new_zeroed(),
            masks: BTreeMap::new(),
        }
    }

    pub(super) fn async_events(&self) -> u32 {
        self.async_events
    }

    pub(super) fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms
    }

    pub(super) fn keep_alive_ns(&self) -> Option<u64> {
        (self.keep_alive_ms > 0).then(|| u64::from(self.keep_alive_ms) * 1_000_000)
    }

    /// Whether the host wants to hear of this.
    pub(super) fn tells_of(&self, nsid: u32, notice: Notice) -> bool {
        let bit = match notice {
            Notice::RegistrationPreempted => reservation_mask::REGISTRATION_PREEMPTED,
            Notice::ReservationReleased => reservation_mask::RESERVATION_RELEASED,
            Notice::ReservationPreempted => reservation_mask::RESERVATION_PREEMPTED,
        };
        self.masks.get(&nsid).is_none_or(|mask| mask & bit == 0)
    }
}

/// A keep-alive timeout in whole steps of the timer.
fn rounded(ms: u32) -> u32 {
    ms.checked_next_multiple_of(u32::from(KEEP_ALIVE_100MS) * 100).unwrap_or(u32::MAX)
}

impl Admin {
    /// Get Features.
    pub(super) fn get_feature(&mut self, desk: &mut Desk, id: SlotId) {
        let asked = GetFeature::of(&desk.slots.get(id).command);
        let invalid = StatusCode::INVALID_FIELD.permanent();
        let Some((feature, changeable, of_namespaces)) = self.feature(asked.feature) else { return desk.answer(id, invalid) };
        match asked.select {
            None => desk.answer(id, invalid),
            Some(FeatureSelect::Capabilities) => {
                let change = if changeable { capabilities::CHANGEABLE } else { 0 };
                let of = if of_namespaces { capabilities::OF_NAMESPACES } else { 0 };
                desk.answer_with(id, StatusField::SUCCESS, u64::from(change | of));
            }
            // Nothing is saved, so what is saved is what it was at first.
            Some(FeatureSelect::Default | FeatureSelect::Saved) => {
                let value = if feature == Feature::VolatileWriteCache { WRITE_CACHE_ON } else { 0 };
                desk.answer_with(id, StatusField::SUCCESS, value.into());
            }
            Some(FeatureSelect::Current) => self.current(desk, id, feature, &asked),
        }
    }

    fn feature(&self, code: u8) -> Option<(Feature, bool, bool)> {
        let of_discovery = |feature| matches!(feature, Feature::AsyncEvents | Feature::KeepAlive);
        let found = FEATURES.into_iter().find(|(feature, ..)| feature.code() == code);
        found.filter(|(feature, ..)| matches!(self.scene, Scene::Storage(_)) || of_discovery(*feature))
    }

    fn current(&self, desk: &mut Desk, id: SlotId, feature: Feature, asked: &GetFeature) {
        let value = match feature {
            Feature::VolatileWriteCache => Ok(WRITE_CACHE_ON),
            Feature::NumberOfQueues => Ok(queues(u32::MAX, desk)),
            Feature::AsyncEvents => Ok(self.features.async_events),
            Feature::KeepAlive => Ok(self.features.keep_alive_ms),
            Feature::HostBehavior => {
                let behavior = self.features.behavior;
                return Self::reply(desk, id, 512, || behavior.as_bytes().to_vec());
            }
            Feature::HostIdentifier if asked.dword_11 & HOST_ID_128 == 0 => Err(StatusCode::HOST_ID_INCONSISTENT.permanent()),
            Feature::HostIdentifier => {
                let host_id = self.visitor.host_id.0;
                return Self::reply(desk, id, HOST_ID_BYTES, || host_id.to_vec());
            }
            Feature::ReservationNotificationMask => {
                self.of_namespace(asked.nsid).map(|_| self.features.masks.get(&asked.nsid).copied().unwrap_or(0))
            }
            Feature::ReservationPersistence => self.of_namespace(asked.nsid).map(u32::from),
            Feature::WriteProtection => self.of_namespace(asked.nsid).map(|_| 0),
            other => Ok(self.features.numbers.get(&other.code()).copied().unwrap_or(0)),
        };
        match value {
            Ok(value) => desk.answer_with(id, StatusField::SUCCESS, value.into()),
            Err(status) => desk.answer(id, status),
        }
    }

    /// Whether reservations of a namespace persist, if the host sees it.
    fn of_namespace(&self, nsid: u32) -> Result<bool, StatusField> {
        let namespace = self.namespace(nsid).ok_or(StatusCode::INVALID_NAMESPACE.permanent())?;
        Ok(namespace.reservations.persists())
    }

    /// Set Features.
    pub(super) fn set_feature(&mut self, desk: &mut Desk, id: SlotId) {
        let asked = SetFeature::of(&desk.slots.get(id).command);
        let result = match self.feature(asked.feature) {
            None => Err(StatusCode::INVALID_FIELD.permanent()),
            Some(_) if asked.save => Err(StatusCode::FEATURE_NOT_SAVEABLE.permanent()),
            Some((_, false, _)) => Err(StatusCode::FEATURE_NOT_CHANGEABLE.permanent()),
            Some((Feature::ReservationPersistence, ..)) => {
                desk.slots.get_mut(id).phase = Phase::Away;
                let persist = asked.value & RESERVATIONS_PERSIST != 0;
                return desk.voice.say(Said::Persist { token: id.tag().0, nsid: asked.nsid, persist });
            }
            Some((feature, ..)) => self.set(desk, id, feature, &asked),
        };
        match result {
            Ok(result) => desk.answer_with(id, StatusField::SUCCESS, result.into()),
            Err(status) => desk.answer(id, status),
        }
        self.tell(desk);
    }

    fn set(&mut self, desk: &Desk, id: SlotId, feature: Feature, asked: &SetFeature) -> Result<u32, StatusField> {
        let invalid = StatusCode::INVALID_FIELD.permanent();
        match feature {
            Feature::NumberOfQueues => {
                let (low, high) = (asked.value & 0xffff, asked.value >> 16);
                if low == 0xffff || high == 0xffff {
                    return Err(invalid);
                }
                return Ok(queues(asked.value, desk));
            }
            Feature::AsyncEvents => {
                let known = async_events::SMART | async_events::NAMESPACES | async_events::FIRMWARE;
                self.features.async_events = asked.value & (known | async_events::ANA | async_events::DISCOVERY);
            }
            Feature::KeepAlive => {
                self.features.keep_alive_ms = rounded(asked.value);
                self.heard = desk.now;
            }
            Feature::HostBehavior => {
                let data = desk.host_data(id);
                let bytes: &[u8; 512] =
                    data.get(..512).and_then(|data| data.try_into().ok()).ok_or(StatusCode::SGL_LENGTH_INVALID.permanent())?;
                self.features.behavior = zerocopy::transmute!(*bytes);
            }
            Feature::PowerManagement if asked.value & 0x1f != 0 => return Err(invalid),
            Feature::ReservationNotificationMask => {
                let mask = asked.value & reservation_mask::ALL;
                let all: Vec<u32> = self.namespaces().map(|namespace| namespace.nsid).collect();
                let chosen = all.into_iter().filter(|nsid| asked.nsid == NSID_ALL || *nsid == asked.nsid).collect::<Vec<u32>>();
                if chosen.is_empty() {
                    return Err(StatusCode::INVALID_NAMESPACE.permanent());
                }
                self.features.masks.extend(chosen.into_iter().map(|nsid| (nsid, mask)));
            }
            other => {
                self.features.numbers.insert(other.code(), asked.value);
            }
        }
        Ok(0)
    }
}

/// How many queues for I/O a host may have of those it wants.
fn queues(wanted: u32, desk: &Desk) -> u32 {
    let wanted = QueueCounts::of(wanted);
    let most = u32::from(desk.options.io_queues);
    QueueCounts { submission: wanted.submission.min(most), completion: wanted.completion.min(most) }.value()
}
