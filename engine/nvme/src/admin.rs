//! What commands of admin queues ask for: identify, log pages, features, abort (base 5). Knows no page's content.

use crate::command::{AdminOpcode, Command, halves, low_byte, quarters};
use crate::sgl::Sgl;

codes! {
    /// What Identify is asked for (CNS, base 5.17.1).
    Cns: u8 {
        /// A namespace, of the NVM command set; see [`crate::identify::Namespace`].
        Namespace = 0x00,
        /// The controller; see [`crate::identify::Controller`].
        Controller = 0x01,
        /// Active namespaces above a number.
        ActiveNamespaces = 0x02,
        /// Identifiers of a namespace.
        NamespaceDescriptors = 0x03,
        /// NVM sets.
        NvmSets = 0x04,
        /// A namespace, of the command set that is asked for.
        NamespaceOfSet = 0x05,
        /// The controller, of the command set that is asked for.
        ControllerOfSet = 0x06,
        /// Active namespaces above a number, of the command set that is asked for.
        ActiveNamespacesOfSet = 0x07,
        /// A namespace, as far as it is the same for every command set.
        NamespaceCommon = 0x08,
        /// A format of blocks, without a namespace.
        NamespaceFormat = 0x09,
        /// A format of blocks, without a namespace, of the command set that is asked for.
        NamespaceFormatOfSet = 0x0a,
        /// Allocated namespaces above a number.
        AllocatedNamespaces = 0x10,
        /// An allocated namespace.
        AllocatedNamespace = 0x11,
        /// Controllers that a namespace is attached to, from a number on.
        ControllersOfNamespace = 0x12,
        /// Controllers of the subsystem, from a number on.
        Controllers = 0x13,
        /// Capabilities of a primary controller.
        PrimaryController = 0x14,
        /// Secondary controllers.
        SecondaryControllers = 0x15,
        /// Granularities of namespaces.
        NamespaceGranularities = 0x16,
        /// UUIDs of vendors.
        Uuids = 0x17,
        /// Domains.
        Domains = 0x18,
        /// Endurance groups.
        EnduranceGroups = 0x19,
        /// Allocated namespaces above a number, of the command set that is asked for.
        AllocatedNamespacesOfSet = 0x1a,
        /// An allocated namespace, of the command set that is asked for.
        AllocatedNamespaceOfSet = 0x1b,
        /// Combinations of command sets.
        CommandSets = 0x1c,
    }
}

codes! {
    /// Command sets (CSI, base 3.1.3.4).
    CommandSet: u8 {
        /// NVM: blocks.
        Nvm = 0,
        /// Keys and values.
        KeyValue = 1,
        /// Zones.
        Zoned = 2,
    }
}

/// How long every page of Identify is.
pub const IDENTIFY_LEN_BYTES: u32 = 4096;

/// Identify (base 5.17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identify {
    /// What is asked for; see [`Cns`].
    pub cns: u8,
    /// The namespace, or the number above which namespaces are listed.
    pub nsid: u32,
    /// The controller, or the number from which controllers are listed (CNTID).
    pub controller: u16,
    /// A number whose meaning depends on `cns`: an NVM set, a domain, a format (CNS specific identifier).
    pub specific: u16,
    /// The command set; see [`CommandSet`].
    pub set: u8,
    /// Which UUID of a vendor, 0 for none.
    pub uuid_index: u8,
}

impl Identify {
    /// Asks for one of the pages.
    #[must_use]
    pub fn new(cns: Cns, nsid: u32) -> Self {
        Self { cns: cns.code(), nsid, ..Self::default() }
    }

    /// Of an Identify command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let (cns, controller) = quarters(command.dword(10));
        let [specific_low, specific_high, _, set] = command.dword(11).to_le_bytes();
        Self {
            cns: low_byte(cns.into()),
            nsid: command.nsid(),
            controller,
            specific: u16::from_le_bytes([specific_low, specific_high]),
            set,
            uuid_index: low_byte(command.dword(14)) & 0x7f,
        }
    }

    /// As a command, its page to lie where `data` says.
    #[must_use]
    pub fn command(&self, data: Sgl) -> Command {
        Command::new(AdminOpcode::Identify.code(), self.nsid)
            .with_data(data)
            .with_dword(10, u32::from(self.cns) | u32::from(self.controller) << 16)
            .with_dword(11, u32::from(self.specific) | u32::from(self.set) << 24)
            .with_dword(14, u32::from(self.uuid_index & 0x7f))
    }
}

/// Get Log Page (base 5.16).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GetLogPage {
    /// The page; see [`crate::log::LogPage`].
    pub page: u8,
    /// The namespace, if the page is one of a namespace.
    pub nsid: u32,
    /// A field whose meaning depends on the page (LSP), seven bits.
    pub specific: u8,
    /// The asynchronous event that told of the page stays as it is (RAE).
    pub retain_event: bool,
    /// How many dwords less one (NUMD, 0's based).
    pub dwords_less_one: u32,
    /// A number whose meaning depends on the page (LSI).
    pub specific_id: u16,
    /// Where in the page to begin: bytes, or an index of its entries.
    pub offset: u64,
    /// The offset counts entries (OT).
    pub offset_is_index: bool,
    /// The command set; see [`CommandSet`].
    pub set: u8,
    /// Which UUID of a vendor, 0 for none.
    pub uuid_index: u8,
}

impl GetLogPage {
    /// Asks for `len_bytes` of a page from `offset` on.
    ///
    /// # Panics
    /// If the length is zero, not a multiple of four, or does not fit.
    #[must_use]
    pub fn new(page: u8, nsid: u32, offset: u64, len_bytes: u64) -> Self {
        let dwords = u32::try_from(len_bytes / 4).ok().filter(|_| len_bytes.is_multiple_of(4));
        let dwords_less_one = dwords.and_then(|dwords| dwords.checked_sub(1)).expect("a length of whole dwords");
        Self { page, nsid, offset, dwords_less_one, ..Self::default() }
    }

    /// Of a Get Log Page command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let [page, specific, ..] = command.dword(10).to_le_bytes();
        let (dwords_high, specific_id) = quarters(command.dword(11));
        let [uuid_index, _, flags, set] = command.dword(14).to_le_bytes();
        Self {
            page,
            nsid: command.nsid(),
            specific: specific & 0x7f,
            retain_event: specific & 0x80 != 0,
            dwords_less_one: u32::from(quarters(command.dword(10)).1) | u32::from(dwords_high) << 16,
            specific_id,
            offset: command.dwords(12),
            offset_is_index: flags & 0x80 != 0,
            set,
            uuid_index: uuid_index & 0x7f,
        }
    }

    /// How much is asked for.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        (u64::from(self.dwords_less_one) + 1) * 4
    }

    /// As a command, what it reads to lie where `data` says.
    #[must_use]
    pub fn command(&self, data: Sgl) -> Command {
        let (dwords_low, dwords_high) = quarters(self.dwords_less_one);
        let specific = self.specific & 0x7f | u8::from(self.retain_event) << 7;
        Command::new(AdminOpcode::GetLogPage.code(), self.nsid)
            .with_data(data)
            .with_dword(10, u32::from(self.page) | u32::from(specific) << 8 | u32::from(dwords_low) << 16)
            .with_dword(11, u32::from(dwords_high) | u32::from(self.specific_id) << 16)
            .with_dwords(12, self.offset)
            .with_dword(14, u32::from_le_bytes([self.uuid_index & 0x7f, 0, u8::from(self.offset_is_index) << 7, self.set]))
    }
}

codes! {
    /// Which value of a feature is asked for (SEL, base 5.15).
    FeatureSelect: u8 {
        /// The current one.
        Current = 0,
        /// The one it has at first.
        Default = 1,
        /// The one that lasts over resets.
        Saved = 2,
        /// What can be done with it; see [`crate::features::capabilities`].
        Capabilities = 3,
    }
}

/// Get Features (base 5.15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetFeature {
    /// The feature; see [`crate::features::Feature`].
    pub feature: u8,
    /// The namespace, if the feature is one of namespaces.
    pub nsid: u32,
    /// Which value; `None` if the field has a reserved value.
    pub select: Option<FeatureSelect>,
    /// What else the feature wants to know (dword 11).
    pub dword_11: u32,
}

impl GetFeature {
    /// Asks for the current value.
    #[must_use]
    pub fn new(feature: u8, nsid: u32) -> Self {
        Self { feature, nsid, select: Some(FeatureSelect::Current), dword_11: 0 }
    }

    /// Of a Get Features command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let [feature, select, ..] = command.dword(10).to_le_bytes();
        Self { feature, nsid: command.nsid(), select: FeatureSelect::of(select & 0b111), dword_11: command.dword(11) }
    }

    /// As a command; `data` is where a feature that is longer than a dword comes to lie.
    #[must_use]
    pub fn command(&self, data: Sgl) -> Command {
        let select = self.select.unwrap_or(FeatureSelect::Current).code();
        Command::new(AdminOpcode::GetFeatures.code(), self.nsid)
            .with_data(data)
            .with_dword(10, u32::from(self.feature) | u32::from(select) << 8)
            .with_dword(11, self.dword_11)
    }
}

/// Set Features (base 5.27).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetFeature {
    /// The feature; see [`crate::features::Feature`].
    pub feature: u8,
    /// The namespace, if the feature is one of namespaces.
    pub nsid: u32,
    /// The value is to last over resets (SV).
    pub save: bool,
    /// The value, or what says which (dword 11).
    pub value: u32,
}

impl SetFeature {
    /// Sets it for as long as the controller goes on.
    #[must_use]
    pub fn new(feature: u8, nsid: u32, value: u32) -> Self {
        Self { feature, nsid, save: false, value }
    }

    /// Of a Set Features command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let dword = command.dword(10);
        Self { feature: low_byte(dword), nsid: command.nsid(), save: dword & 1 << 31 != 0, value: command.dword(11) }
    }

    /// As a command; `data` is where a value that is longer than a dword lies.
    #[must_use]
    pub fn command(&self, data: Sgl) -> Command {
        Command::new(AdminOpcode::SetFeatures.code(), self.nsid)
            .with_data(data)
            .with_dword(10, u32::from(self.feature) | u32::from(self.save) << 31)
            .with_dword(11, self.value)
    }
}

/// Abort (base 5.1). It is done either way; bit 0 of the result is set if the other command was not aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// The queue of the command to abort.
    pub queue: u16,
    /// Its identifier.
    pub id: u16,
}

impl Abort {
    /// Of an Abort command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let (queue, id) = quarters(command.dword(10));
        Self { queue, id }
    }

    /// As a command.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::new(AdminOpcode::Abort.code(), 0).with_dword(10, u32::from(self.queue) | u32::from(self.id) << 16)
    }

    /// The result of an Abort command.
    #[must_use]
    pub fn result(aborted: bool) -> u64 {
        u64::from(!aborted)
    }

    /// What the result of an Abort command says: whether the other command was aborted.
    #[must_use]
    pub fn aborted(result: u64) -> bool {
        halves(result).0 & 1 == 0
    }
}

/// Keep Alive (base 5.18).
#[must_use]
pub fn keep_alive() -> Command {
    Command::new(AdminOpcode::KeepAlive.code(), 0)
}

/// Asynchronous Event Request (base 5.2); what it is answered with is a [`crate::log::AsyncEvent`].
#[must_use]
pub fn async_event_request() -> Command {
    Command::new(AdminOpcode::AsyncEventRequest.code(), 0)
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    /// A command without data, with this opcode, this namespace, and these bytes from the fortieth on.
    fn drawn(opcode: u8, nsid: u32, rest: &[u8]) -> Command {
        let mut bytes = [0; 64];
        bytes[..2].copy_from_slice(&[opcode, 0x40]);
        bytes[4..8].copy_from_slice(nsid.as_bytes());
        bytes[24..40].copy_from_slice(Sgl::transport(0).as_bytes());
        bytes[40..40 + rest.len()].copy_from_slice(rest);
        Command::read_from_bytes(&bytes).unwrap()
    }

    #[test]
    fn identify_lies_as_the_specification_draws_it() {
        let identify = Identify { controller: 0x0102, specific: 0x0304, set: 5, uuid_index: 6, ..Identify::new(Cns::CommandSets, 9) };
        let command = drawn(0x06, 9, &[0x1c, 0, 2, 1, 4, 3, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(identify.command(Sgl::transport(0)), command);
        assert_eq!(Identify::of(&command), identify);
    }

    #[test]
    fn get_log_page_lies_as_the_specification_draws_it() {
        let page = GetLogPage {
            specific: 0x0f,
            retain_event: true,
            specific_id: 0x0a0b,
            offset_is_index: true,
            set: 2,
            uuid_index: 3,
            ..GetLogPage::new(0x0c, 7, 0x0102_0304_0506_0708, 0x0004_000c)
        };
        let rest = [0x0c, 0x8f, 0x02, 0x00, 0x01, 0x00, 0x0b, 0x0a, 8, 7, 6, 5, 4, 3, 2, 1, 3, 0, 0x80, 2];
        let command = drawn(0x02, 7, &rest);
        assert_eq!(page.command(Sgl::transport(0)), command);
        assert_eq!((GetLogPage::of(&command), page.len_bytes()), (page, 0x0004_000c));
        let all = drawn(0x02, 0, &[0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(GetLogPage::of(&all).len_bytes(), 1 << 34);
    }

    #[test]
    fn features_lie_as_the_specification_draws_them() {
        let get = GetFeature { select: Some(FeatureSelect::Saved), dword_11: 1, ..GetFeature::new(0x0f, 3) };
        let command = drawn(0x0a, 3, &[0x0f, 2, 0, 0, 1]);
        assert_eq!((get.command(Sgl::transport(0)), GetFeature::of(&command)), (command, get));
        assert_eq!(GetFeature::of(&drawn(0x0a, 3, &[0x0f, 4])).select, None);
        let set = SetFeature { save: true, ..SetFeature::new(0x07, 0, 0x0003_0003) };
        let command = drawn(0x09, 0, &[0x07, 0, 0, 0x80, 3, 0, 3]);
        assert_eq!((set.command(Sgl::transport(0)), SetFeature::of(&command)), (command, set));
    }

    #[test]
    fn abort_names_a_queue_and_a_command() {
        let abort = Abort { queue: 0x0102, id: 0x0304 };
        let command = abort.command();
        assert_eq!((&command.as_bytes()[40..44], Abort::of(&command)), (&[2, 1, 4, 3][..], abort));
        assert_eq!((Abort::result(true), Abort::result(false), Abort::aborted(0), Abort::aborted(1)), (0, 1, true, false));
        assert_eq!((keep_alive().opcode(), async_event_request().opcode()), (0x18, 0x0c));
    }
}
