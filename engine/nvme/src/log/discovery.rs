//! The discovery log page (base 5.16.1.23): which subsystems there are, and where. Knows no listener.

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fabrics::CONTROLLER_ANY;

codes! {
    /// Transports (TRTYPE).
    TransportType: u8 {
        /// RDMA.
        Rdma = 1,
        /// Fibre Channel.
        FibreChannel = 2,
        /// TCP.
        Tcp = 3,
    }
}

codes! {
    /// Families of addresses (ADRFAM).
    AddressFamily: u8 {
        /// IPv4.
        Ipv4 = 1,
        /// IPv6.
        Ipv6 = 2,
        /// InfiniBand.
        InfiniBand = 3,
        /// Fibre Channel.
        FibreChannel = 4,
    }
}

codes! {
    /// What an entry is of (SUBTYPE).
    EntryKind: u8 {
        /// Another discovery service: a referral.
        Referral = 1,
        /// A subsystem with namespaces.
        Nvm = 2,
        /// This discovery subsystem.
        Current = 3,
    }
}

codes! {
    /// Security of TCP (SECTYPE).
    Security: u8 {
        /// None.
        None = 0,
        /// TLS 1.2.
        Tls12 = 1,
        /// TLS 1.3.
        Tls13 = 2,
    }
}

/// What the transport requires (TREQ).
pub mod requirements {
    /// A secure channel: bits 1:0, not said.
    pub const SECURE_CHANNEL_UNSPECIFIED: u8 = 0b00;
    /// A secure channel is required.
    pub const SECURE_CHANNEL_REQUIRED: u8 = 0b01;
    /// A secure channel is not required.
    pub const SECURE_CHANNEL_NOT_REQUIRED: u8 = 0b10;
    /// Submission queue flow control can be turned off.
    pub const FLOW_CONTROL_OPTIONAL: u8 = 1 << 2;
}

/// Flags of an entry (EFLAGS).
pub mod entry_flags {
    /// The same information is returned at every place of this subsystem (DUPRETINFO).
    pub const DUPLICATE: u16 = 1 << 0;
    /// Explicit persistent connections to this discovery subsystem are supported (EPCSD).
    pub const PERSISTENT: u16 = 1 << 1;
    /// It is no part of a centralized discovery service (NCC).
    pub const NO_CENTRAL: u16 = 1 << 2;
}

/// How the page begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHead {
    /// Counts changes: the same before and after means that what was read in between fits (GENCTR).
    pub generation: U64,
    /// Entries that follow (NUMREC).
    pub entries: U64,
    /// The format of entries; 0 is the only one (RECFMT).
    pub format: U16,
    reserved_18: [u8; 1006],
}

impl DiscoveryHead {
    /// So many entries follow.
    #[must_use]
    pub fn new(generation: u64, entries: u64) -> Self {
        Self { generation: generation.into(), entries: entries.into(), ..Self::new_zeroed() }
    }
}

/// Where a subsystem is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// The transport; see [`TransportType`].
    pub transport: u8,
    /// The family of its address; see [`AddressFamily`].
    pub family: u8,
    /// What it is of; see [`EntryKind`].
    pub kind: u8,
    /// See [`requirements`].
    pub requirements: u8,
    /// The port of the subsystem (PORTID).
    pub port: U16,
    /// The controller, or any: [`CONTROLLER_ANY`] (CNTLID).
    pub controller: U16,
    /// Most commands of an admin queue (ASQSZ); 32 at least.
    pub admin_queue_max: U16,
    /// See [`entry_flags`].
    pub flags: U16,
    reserved_12: [u8; 20],
    /// The service: a port's number in decimal (TRSVCID).
    pub service: [u8; 32],
    reserved_64: [u8; 192],
    /// The subsystem's name, ended by a zero (SUBNQN).
    pub subsystem: [u8; 256],
    /// The address (TRADDR).
    pub address: [u8; 256],
    /// What else the transport says (TSAS).
    pub transport_specific: [u8; 256],
}

const _: () = {
    assert!(size_of::<DiscoveryHead>() == 1024 && size_of::<DiscoveryEntry>() == 1024);
    assert!(offset_of!(DiscoveryEntry, service) == 32 && offset_of!(DiscoveryEntry, subsystem) == 256);
    assert!(offset_of!(DiscoveryEntry, address) == 512 && offset_of!(DiscoveryEntry, transport_specific) == 768);
};

/// A field of text, which zeroes fill. Cut where the field ends, but for a last zero.
fn zero_filled<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    field[..N - 1].iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    field
}

/// A field of text up to the zeroes or the spaces behind it; `None` if it is no text.
fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).ok().map(|text| text.trim_end_matches(' '))
}

impl DiscoveryEntry {
    /// A subsystem over TCP, of any controller, without security; the name as a field filled with zeroes.
    #[must_use]
    pub fn tcp(kind: EntryKind, subsystem: [u8; 256], family: AddressFamily, address: &str, service: &str) -> Self {
        Self {
            transport: TransportType::Tcp.code(),
            family: family.code(),
            kind: kind.code(),
            requirements: requirements::SECURE_CHANNEL_NOT_REQUIRED | requirements::FLOW_CONTROL_OPTIONAL,
            controller: CONTROLLER_ANY.into(),
            admin_queue_max: 32.into(),
            subsystem,
            address: zero_filled(address),
            service: zero_filled(service),
            ..Self::new_zeroed()
        }
    }

    /// The address as text; `None` if it is not.
    #[must_use]
    pub fn address_text(&self) -> Option<&str> {
        text(&self.address)
    }

    /// The service as text; `None` if it is not.
    #[must_use]
    pub fn service_text(&self) -> Option<&str> {
        text(&self.service)
    }

    /// Security of TCP; `None` if it is of an unknown kind.
    #[must_use]
    pub fn tcp_security(&self) -> Option<Security> {
        Security::of(self.transport_specific[0])
    }
}
