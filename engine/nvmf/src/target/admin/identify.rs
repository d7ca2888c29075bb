//! What a controller, its namespaces and its subsystem are. Knows no log and no feature.

use spinel_nvme::admin::{Cns, CommandSet, IDENTIFY_LEN_BYTES, Identify};
use spinel_nvme::command::{NSID_ALL, NSID_MAX};
use spinel_nvme::identify::{
    CommandSets, Controller, ControllerKind, ControllerList, ControllerNvm, Descriptor, Descriptors, Namespace as Page, NamespaceCommon,
    NamespaceList, NamespaceNvm, flags, ns_flags, padded,
};
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::{FromZeros as _, IntoBytes};

use super::super::options::Options;
use super::super::queue::{Desk, SlotId};
use super::super::view::{Namespace, Scene, View};
use super::{ASYNC_EVENT_REQUESTS_MAX, Admin, VERSION};
use crate::nqn::DISCOVERY_NQN;

/// The keep-alive timer counts in steps of so many times 100 ms.
pub(super) const KEEP_ALIVE_100MS: u16 = 10;
/// The kelvins of a machine that nobody measures.
const WARNING_K: u16 = 343;
const CRITICAL_K: u16 = 353;
/// Ways to ANA groups change within so many seconds.
const ANA_TRANSITION_S: u8 = 10;
/// The largest write of zeroes: 32 MiB, as many blocks of 512 bytes as a command can name.
const WRITE_ZEROES_MAX_POWER: u8 = 13;
/// The page of any command set: there is no volatile cache (base 2.1, CNS 08h, NSFEAT bit 5).
const NSFEAT_NO_CACHE: u8 = 1 << 5;

impl Admin {
    /// Identify.
    pub(super) fn identify(&self, desk: &mut Desk, id: SlotId) {
        let asked = Identify::of(&desk.slots.get(id).command);
        // Buffers first: whether there is such a page is told with it.
        if !desk.has_buffers(id, IDENTIFY_LEN_BYTES) {
            return desk.park(id);
        }
        match self.page(&asked, &desk.options) {
            Ok(page) => {
                desk.fill(id, &page);
                desk.answer(id, StatusField::SUCCESS);
            }
            Err(status) => desk.answer(id, status),
        }
    }

    fn page(&self, asked: &Identify, options: &Options) -> Result<Vec<u8>, StatusField> {
        let invalid = StatusCode::INVALID_FIELD.permanent();
        let cns = Cns::of(asked.cns).ok_or(invalid)?;
        let view = match (&self.scene, cns) {
            (_, Cns::Controller) => return Ok(self.controller(options).as_bytes().to_vec()),
            (Scene::Discovery(_), _) => return Err(invalid),
            (Scene::Storage(view), _) => view,
        };
        let nvm = asked.set == CommandSet::Nvm.code();
        match cns {
            Cns::Namespace => self.namespace_page(view, asked.nsid),
            Cns::AllocatedNamespace => self.namespace_page(view, asked.nsid),
            Cns::NamespaceDescriptors => self.descriptors(asked.nsid),
            Cns::ActiveNamespaces | Cns::AllocatedNamespaces => self.list(asked.nsid),
            Cns::ActiveNamespacesOfSet | Cns::AllocatedNamespacesOfSet if nvm => self.list(asked.nsid),
            Cns::NamespaceOfSet | Cns::AllocatedNamespaceOfSet if nvm => {
                self.known(asked.nsid)?;
                Ok(NamespaceNvm::new_zeroed().as_bytes().to_vec())
            }
            Cns::NamespaceCommon => self.common(view, asked.nsid),
            Cns::ControllerOfSet if nvm => Ok(controller_nvm().as_bytes().to_vec()),
            Cns::ControllersOfNamespace => {
                self.known(asked.nsid)?;
                Ok(self.controllers(asked.controller))
            }
            Cns::Controllers => Ok(self.controllers(asked.controller)),
            Cns::CommandSets => Ok(CommandSets::only(CommandSet::Nvm).as_bytes().to_vec()),
            _ => Err(invalid),
        }
    }

    /// A namespace that may be asked about; none if there is none of a number that there could be.
    fn known(&self, nsid: u32) -> Result<Option<&Namespace>, StatusField> {
        let most = self.view().map_or(0, |view| view.identity.namespaces_max);
        if nsid == 0 || nsid > most {
            return Err(StatusCode::INVALID_NAMESPACE.permanent());
        }
        Ok(self.namespace(nsid).map(|namespace| &**namespace))
    }

    fn namespace_page(&self, view: &View, nsid: u32) -> Result<Vec<u8>, StatusField> {
        // What all namespaces have in common.
        if nsid == NSID_ALL {
            return Ok(Page::new_zeroed().as_bytes().to_vec());
        }
        // One that is not there is all zeroes.
        let page = self.known(nsid)?.map_or_else(Page::new_zeroed, |namespace| namespace_page(view, namespace));
        Ok(page.as_bytes().to_vec())
    }

    fn common(&self, view: &View, nsid: u32) -> Result<Vec<u8>, StatusField> {
        let page = self.known(nsid)?.map_or_else(NamespaceCommon::new_zeroed, |namespace| {
            let mut page = NamespaceCommon::of(&namespace_page(view, namespace));
            if !namespace.device.geometry().write_cache {
                page.features |= NSFEAT_NO_CACHE;
            }
            page
        });
        Ok(page.as_bytes().to_vec())
    }

    fn descriptors(&self, nsid: u32) -> Result<Vec<u8>, StatusField> {
        let namespace = self.known(nsid)?.ok_or(StatusCode::INVALID_NAMESPACE.permanent())?;
        let ids = &namespace.ids;
        let descriptors = [
            (ids.eui64 != [0; 8]).then_some(Descriptor::Eui64(ids.eui64)),
            (ids.nguid != [0; 16]).then_some(Descriptor::Nguid(ids.nguid)),
            (ids.uuid != [0; 16]).then_some(Descriptor::Uuid(ids.uuid)),
            Some(Descriptor::CommandSet(CommandSet::Nvm.code())),
        ];
        let descriptors: Vec<Descriptor> = descriptors.into_iter().flatten().collect();
        Ok(Descriptors::new(&descriptors).as_bytes().to_vec())
    }

    fn list(&self, above: u32) -> Result<Vec<u8>, StatusField> {
        if above >= NSID_MAX {
            return Err(StatusCode::INVALID_NAMESPACE.permanent());
        }
        let ids = self.namespaces().map(|namespace| namespace.nsid).filter(|nsid| *nsid > above);
        Ok(NamespaceList::new(ids).as_bytes().to_vec())
    }

    /// Of other controllers it does not know.
    fn controllers(&self, from: u16) -> Vec<u8> {
        ControllerList::new([self.cntlid].into_iter().filter(|cntlid| *cntlid >= from)).as_bytes().to_vec()
    }

    fn controller(&self, options: &Options) -> Controller {
        let mut page = Controller::new_zeroed();
        page.firmware = padded(env!("CARGO_PKG_VERSION"));
        page.id = self.cntlid.into();
        page.version = VERSION.register().into();
        page.transfer_max_power = options.mdts();
        page.attributes = flags::CTRATT_HOST_ID_128.into();
        page.async_events_max_less_one = u8::try_from(ASYNC_EVENT_REQUESTS_MAX - 1).expect("few");
        page.aborts_max_less_one = 3;
        page.keep_alive_granularity = KEEP_ALIVE_100MS.into();
        page.log_pages = flags::LPA_EXTENDED | flags::LPA_SUPPORTED;
        page.error_log_less_one = 0;
        page.sgls = (flags::SGLS_SUPPORTED | flags::SGLS_OFFSET | flags::SGLS_TRANSPORT).into();
        match &self.scene {
            Scene::Storage(view) => self.describe_storage(&mut page, view, options),
            Scene::Discovery(_) => {
                page.kind = ControllerKind::Discovery.code();
                page.serial = padded("");
                page.model = padded("Spinel discovery");
                page.async_events = flags::OAES_DISCOVERY.into();
                page.commands_max = options.admin_queue_entries.into();
                page.subsystem[..DISCOVERY_NQN.len()].copy_from_slice(DISCOVERY_NQN.as_bytes());
            }
        }
        page
    }

    fn describe_storage(&self, page: &mut Controller, view: &View, options: &Options) {
        let identity = &view.identity;
        page.kind = ControllerKind::Io.code();
        page.serial = padded(&identity.serial);
        page.model = padded(&identity.model);
        page.subsystem = identity.nqn.field();
        page.multipath = flags::CMIC_PORTS | flags::CMIC_CONTROLLERS;
        page.async_events = flags::OAES_NAMESPACES.into();
        page.firmware_slots = flags::FRMW_FIRST_READ_ONLY | flags::FRMW_ONE_SLOT;
        page.log_pages |= flags::LPA_COMMANDS;
        page.temperature_warning_k = WARNING_K.into();
        page.temperature_critical_k = CRITICAL_K.into();
        page.submission_entry = 0x66;
        page.completion_entry = 0x44;
        page.commands_max = options.io_queue_entries.into();
        page.namespace_max = identity.namespaces_max.into();
        page.namespaces_max = identity.namespaces_max.into();
        let commands = flags::ONCS_COMPARE | flags::ONCS_DATASET_MANAGEMENT | flags::ONCS_WRITE_ZEROES;
        page.commands = (commands | flags::ONCS_SAVE | flags::ONCS_RESERVATIONS).into();
        page.fused = flags::FUSES_COMPARE_AND_WRITE.into();
        page.write_cache = flags::VWC_PRESENT | flags::VWC_FLUSH_ALL_REFUSED;
        page.command_capsule_16_bytes = (4 + options.in_capsule_bytes / 16).into();
        page.response_capsule_16_bytes = 1.into();
        page.data_blocks_max = 1;
        page.fabrics_commands = flags::OFCS_DISCONNECT.into();
        if identity.ana {
            page.multipath |= flags::CMIC_ANA;
            page.async_events |= flags::OAES_ANA;
            page.ana = flags::ANACAP_OPTIMIZED | flags::ANACAP_NON_OPTIMIZED | flags::ANACAP_INACCESSIBLE;
            page.ana_transition_s = ANA_TRANSITION_S;
            page.ana_group_max = identity.namespaces_max.into();
            page.ana_groups = identity.namespaces_max.into();
        }
    }
}

fn controller_nvm() -> ControllerNvm {
    let mut page = ControllerNvm::new_zeroed();
    page.write_zeroes_max_power = WRITE_ZEROES_MAX_POWER;
    page
}

fn namespace_page(view: &View, namespace: &Namespace) -> Page {
    let geometry = namespace.device.geometry();
    let mut page = Page::new(geometry.block_count, geometry.block_bytes);
    page.capacity_bytes = u128::from(geometry.len_bytes()).into();
    page.features = ns_flags::NSFEAT_IDS_NOT_REUSED;
    page.multipath = ns_flags::NMIC_SHARED;
    page.reservations = ns_flags::RESCAP_ALL_TYPES | ns_flags::RESCAP_IGNORE_KEY;
    if namespace.may_persist {
        page.reservations |= ns_flags::RESCAP_PERSIST;
    }
    if view.identity.ana {
        page.ana_group = namespace.group.into();
    }
    if geometry.read_only {
        page.attributes = ns_flags::NSATTR_WRITE_PROTECTED;
    }
    if geometry.features.write_zeroes {
        page.deallocated = ns_flags::DLFEAT_WRITE_ZEROES;
    }
    let blocks = geometry.physical_block_bytes / geometry.block_bytes;
    if let Some(less_one) = u16::try_from(blocks).ok().and_then(|blocks| blocks.checked_sub(1)).filter(|less_one| *less_one > 0) {
        page.features |= ns_flags::NSFEAT_PREFERENCES;
        page.write_granularity_less_one = less_one.into();
        page.write_alignment_less_one = less_one.into();
    }
    page.nguid = namespace.ids.nguid;
    page.eui64 = namespace.ids.eui64;
    page
}
