//! What controllers say of themselves and of their namespaces, as far as it is believed. Knows no connection.

use spinel_core::{Features, Geometry};
use spinel_nvme::identify::{Controller, ControllerKind, Descriptor, Descriptors, Namespace, flags, ns_flags, unpadded};
use spinel_nvme::registers::Capabilities;
use zerocopy::IntoBytes as _;

use super::super::device::SEGMENTS_MAX;
use super::super::view::Limits;
use super::ghost::Rest;

/// Most bytes of one transfer, whatever a controller allows.
pub(super) const TRANSFER_BYTES: u32 = 1 << 20;
/// Most data that go with a command, whatever a controller allows.
const CAPSULE_BYTES: u64 = 64 << 10;
/// Where the page of the controller has the time that it needs to come to rest, in milliseconds (CQT, base 2.1).
const QUIESCE_AT: usize = 386;

/// A controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ControllerFacts {
    pub(super) number: u16,
    pub(super) serial: String,
    pub(super) model: String,
    pub(super) firmware: String,
    pub(super) subsystem: String,
    pub(super) kind: Option<ControllerKind>,
    pub(super) transfer_bytes: u32,
    pub(super) capsule_bytes: u32,
    pub(super) reports_ana: bool,
    pub(super) events: u32,
    pub(super) event_requests: u16,
    pub(super) commands: u16,
    pub(super) commands_max: u16,
    pub(super) write_cache: bool,
    pub(super) granularity_ns: u64,
    pub(super) by_traffic: bool,
    pub(super) quiesce_ns: u64,
}

const MS: u64 = 1_000_000;

impl ControllerFacts {
    pub(super) fn of(page: &Controller, capabilities: &Capabilities) -> Self {
        let transfer = page.transfer_max_bytes(capabilities.page_min_bytes()).unwrap_or(u64::MAX).min(TRANSFER_BYTES.into());
        let name = &page.subsystem[..page.subsystem.iter().position(|byte| *byte == 0).unwrap_or(page.subsystem.len())];
        let [low, high] = [page.as_bytes()[QUIESCE_AT], page.as_bytes()[QUIESCE_AT + 1]];
        // Data that begin elsewhere than behind the command are not sent.
        let capsule = if page.capsule_data_offset.get() == 0 { page.capsule_data_max_bytes().min(CAPSULE_BYTES) } else { 0 };
        Self {
            number: page.id.get(),
            serial: unpadded(&page.serial),
            model: unpadded(&page.model),
            firmware: unpadded(&page.firmware),
            subsystem: String::from_utf8_lossy(name).into_owned(),
            kind: page.controller_kind(),
            transfer_bytes: u32::try_from(transfer).expect("bounded"),
            capsule_bytes: u32::try_from(capsule).expect("bounded"),
            reports_ana: page.multipath & flags::CMIC_ANA != 0,
            events: page.async_events.get(),
            event_requests: u16::from(page.async_events_max_less_one) + 1,
            commands: page.commands.get(),
            commands_max: page.commands_max.get(),
            write_cache: page.write_cache & flags::VWC_PRESENT != 0,
            granularity_ns: u64::from(page.keep_alive_granularity.get()) * 100 * MS,
            by_traffic: page.attributes.get() & flags::CTRATT_TRAFFIC_KEEP_ALIVE != 0,
            quiesce_ns: u64::from(u16::from_le_bytes([low, high])) * MS,
        }
    }

    pub(super) fn rest(&self, keep_alive_ns: u64) -> Rest {
        let Self { granularity_ns, by_traffic, quiesce_ns, .. } = *self;
        Rest { keep_alive_ns, granularity_ns, by_traffic, quiesce_ns }
    }
}

/// A namespace, by one controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NamespaceFacts {
    pub(super) identity: Identity,
    pub(super) block_bytes: u32,
    pub(super) block_count: u64,
    pub(super) read_only: bool,
    pub(super) group: u32,
    physical_block_bytes: u32,
}

/// What tells a namespace from all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Identity {
    pub(super) uuid: [u8; 16],
    pub(super) nguid: [u8; 16],
    pub(super) eui64: [u8; 8],
}

/// Why a namespace is none for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("blocks of {0:?} bytes are not supported, only of 512 and 4096")]
    Blocks(Option<u32>),
    #[error("metadata and protection information are not supported")]
    Metadata,
    #[error("{0} blocks are more than can be counted in bytes")]
    Size(u64),
    #[error("its command set is not that of blocks")]
    CommandSet,
}

impl NamespaceFacts {
    /// Of its pages; `None` if there is no such namespace any more.
    pub(super) fn of(page: &Namespace, descriptors: Option<&Descriptors>) -> Result<Option<Self>, Unusable> {
        if page.size_blocks.get() == 0 {
            return Ok(None);
        }
        let block_bytes = page.block_bytes();
        let Some(block_bytes) = block_bytes.filter(|bytes| matches!(bytes, 512 | 4096)) else {
            return Err(Unusable::Blocks(block_bytes));
        };
        if page.current_format().metadata_bytes.get() != 0 || page.protection_set & 0b111 != 0 {
            return Err(Unusable::Metadata);
        }
        let block_count = page.size_blocks.get();
        if block_count.checked_mul(block_bytes.into()).and_then(|bytes| i64::try_from(bytes).ok()).is_none() {
            return Err(Unusable::Size(block_count));
        }
        let mut identity = Identity { uuid: [0; 16], nguid: page.nguid, eui64: page.eui64 };
        for descriptor in descriptors.into_iter().flat_map(Descriptors::iter) {
            match descriptor {
                Descriptor::Uuid(uuid) => identity.uuid = uuid,
                Descriptor::Nguid(nguid) => identity.nguid = nguid,
                Descriptor::Eui64(eui64) => identity.eui64 = eui64,
                Descriptor::CommandSet(0) => {}
                Descriptor::CommandSet(_) => return Err(Unusable::CommandSet),
            }
        }
        let preferred = (u32::from(page.write_granularity_less_one.get()) + 1) * block_bytes;
        let preferred =
            if page.features & ns_flags::NSFEAT_PREFERENCES != 0 && preferred.is_power_of_two() { preferred } else { block_bytes };
        Ok(Some(Self {
            identity,
            block_bytes,
            block_count,
            read_only: page.attributes & ns_flags::NSATTR_WRITE_PROTECTED != 0,
            group: page.ana_group.get(),
            physical_block_bytes: preferred.min(1 << 20),
        }))
    }

    /// How it looks from here, by this controller.
    pub(super) fn geometry(&self, controller: &ControllerFacts) -> Geometry {
        let does = |bit: u16| controller.commands & bit != 0;
        Geometry {
            block_bytes: self.block_bytes,
            block_count: self.block_count,
            memory_align_bytes: 1,
            segments_max: SEGMENTS_MAX,
            transfer_max_bytes: controller.transfer_bytes / self.block_bytes * self.block_bytes,
            physical_block_bytes: self.physical_block_bytes,
            write_cache: controller.write_cache,
            read_only: self.read_only,
            features: Features { discard: does(flags::ONCS_DATASET_MANAGEMENT), write_zeroes: does(flags::ONCS_WRITE_ZEROES) },
        }
    }

    /// What limits single commands by this controller.
    pub(super) fn limits(&self, controller: &ControllerFacts, retries: u32) -> Limits {
        // Without a word about it, Write Zeroes is limited as a transfer is.
        let zeroes_blocks = (controller.transfer_bytes / self.block_bytes).clamp(1, 1 << 16);
        Limits { zeroes_blocks, discard_blocks: u32::MAX, retries }
    }
}
