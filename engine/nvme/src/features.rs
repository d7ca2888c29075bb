//! Features and the values they have (base 5.27.1). Knows no controller.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::quarters;

codes! {
    /// Features (FID).
    Feature: u8 {
        /// Arbitration.
        Arbitration = 0x01,
        /// Power Management.
        PowerManagement = 0x02,
        /// LBA Range Type.
        LbaRangeType = 0x03,
        /// Temperature Threshold.
        TemperatureThreshold = 0x04,
        /// Error Recovery.
        ErrorRecovery = 0x05,
        /// Volatile Write Cache.
        VolatileWriteCache = 0x06,
        /// Number of Queues.
        NumberOfQueues = 0x07,
        /// Interrupt Coalescing; not over fabrics.
        InterruptCoalescing = 0x08,
        /// Interrupt Vector Configuration; not over fabrics.
        InterruptVector = 0x09,
        /// Write Atomicity Normal.
        WriteAtomicity = 0x0a,
        /// Asynchronous Event Configuration.
        AsyncEvents = 0x0b,
        /// Autonomous Power State Transition.
        AutonomousPower = 0x0c,
        /// Host Memory Buffer; not over fabrics.
        HostMemory = 0x0d,
        /// Timestamp.
        Timestamp = 0x0e,
        /// Keep Alive Timer.
        KeepAlive = 0x0f,
        /// Host Controlled Thermal Management.
        ThermalManagement = 0x10,
        /// Non-Operational Power State Config.
        NonOperationalPower = 0x11,
        /// Read Recovery Level Config.
        ReadRecoveryLevel = 0x12,
        /// Host Behavior Support.
        HostBehavior = 0x16,
        /// Sanitize Config.
        Sanitize = 0x17,
        /// I/O Command Set Profile.
        CommandSetProfile = 0x19,
        /// Software Progress Marker.
        SoftwareProgress = 0x80,
        /// Host Identifier.
        HostIdentifier = 0x81,
        /// Reservation Notification Mask.
        ReservationNotificationMask = 0x82,
        /// Reservation Persistence.
        ReservationPersistence = 0x83,
        /// Namespace Write Protection Config.
        WriteProtection = 0x84,
    }
}

/// What can be done with a feature: the answer to [`FeatureSelect::Capabilities`](crate::admin::FeatureSelect::Capabilities).
pub mod capabilities {
    /// It can be saved.
    pub const SAVEABLE: u32 = 1 << 0;
    /// It is one of single namespaces.
    pub const OF_NAMESPACES: u32 = 1 << 1;
    /// It can be changed.
    pub const CHANGEABLE: u32 = 1 << 2;
}

/// Number of Queues: how many I/O queues a host asks for, or may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueCounts {
    /// I/O submission queues, 1 to 65,535.
    pub submission: u32,
    /// I/O completion queues, 1 to 65,535.
    pub completion: u32,
}

impl QueueCounts {
    /// Of a feature's value, in which both are one less than they are. 65,536 of something is a value that is not allowed.
    #[must_use]
    pub fn of(value: u32) -> Self {
        let (submission, completion) = quarters(value);
        Self { submission: u32::from(submission) + 1, completion: u32::from(completion) + 1 }
    }

    /// As the feature's value.
    ///
    /// # Panics
    /// If there is none of one kind, or too many.
    #[must_use]
    pub fn value(self) -> u32 {
        let less_one = |count: u32| {
            assert!((1..=0x1_0000).contains(&count), "{count} queues do not fit into the feature's value");
            count - 1
        };
        less_one(self.submission) | less_one(self.completion) << 16
    }
}

/// Asynchronous Event Configuration: which events a host wants to hear of. See also the field OAES of Identify, whose
/// optional events have the same bits.
pub mod async_events {
    /// SMART: spare, temperature, reliability, read only, backup, persistent memory.
    pub const SMART: u32 = 0x3f;
    /// Namespaces changed.
    pub const NAMESPACES: u32 = 1 << 8;
    /// Firmware is being activated.
    pub const FIRMWARE: u32 = 1 << 9;
    /// Asymmetric access changed.
    pub const ANA: u32 = 1 << 11;
    /// The discovery log changed; of discovery controllers.
    pub const DISCOVERY: u32 = 1 << 31;
}

/// Reservation Notification Mask: bits set are notices not wanted.
pub mod reservation_mask {
    /// A registration was preempted.
    pub const REGISTRATION_PREEMPTED: u32 = 1 << 1;
    /// The reservation was released.
    pub const RESERVATION_RELEASED: u32 = 1 << 2;
    /// The reservation was preempted.
    pub const RESERVATION_PREEMPTED: u32 = 1 << 3;
    /// All of them.
    pub const ALL: u32 = 0b1110;
}

/// Volatile Write Cache: on.
pub const WRITE_CACHE_ON: u32 = 1 << 0;
/// Reservation Persistence: reservations last through power loss.
pub const RESERVATIONS_PERSIST: u32 = 1 << 0;
/// Host Identifier: of 128 bits (EXHID), in dword 11.
pub const HOST_ID_128: u32 = 1 << 0;

codes! {
    /// Namespace Write Protection Config.
    WriteProtection: u8 {
        /// May be written.
        None = 0,
        /// May not.
        Protected = 1,
        /// May not until power is lost.
        UntilPowerCycle = 2,
        /// May never be written again.
        Permanent = 3,
    }
}

/// Data of Timestamp: the milliseconds, and whence they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Timestamp {
    value: U64,
}

const _: () = assert!(size_of::<Timestamp>() == 8);

impl Timestamp {
    /// So many milliseconds since 1970 (the lowest 48 bits of them), which the host had set, or else since the start.
    #[must_use]
    pub fn new(milliseconds: u64, set_by_host: bool) -> Self {
        // Bits 51:49 are the origin: 1 is "the host has set it", 0 "it was cleared by a reset".
        let origin = if set_by_host { 1 << 49 } else { 0 };
        Self { value: (milliseconds & ((1 << 48) - 1) | origin).into() }
    }

    /// The milliseconds.
    #[must_use]
    pub fn milliseconds(&self) -> u64 {
        self.value.get() & ((1 << 48) - 1)
    }
}

/// Data of Host Behavior Support, 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HostBehavior {
    /// The host waits as long as delays of retries say (ACRE).
    pub retry_delays: u8,
    /// It understands long telemetry (ETDAS).
    pub long_telemetry: u8,
    /// It knows formats above the sixteenth (LBAFEE).
    pub many_formats: u8,
    /// It knows dispersed namespaces (HDISNS).
    pub dispersed: u8,
    /// Formats of Copy's descriptors that it uses (CDFE).
    pub copy_formats: [u8; 2],
    reserved_6: [u8; 506],
}

const _: () = assert!(size_of::<HostBehavior>() == 512);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_queues_are_one_less_in_the_value() {
        let counts = QueueCounts { submission: 4, completion: 3 };
        assert_eq!((counts.value(), QueueCounts::of(0x0002_0003)), (0x0002_0003, counts));
        assert_eq!(QueueCounts::of(u32::MAX), QueueCounts { submission: 65_536, completion: 65_536 });
        assert_eq!(QueueCounts::of(u32::MAX).value(), u32::MAX);
    }

    #[test]
    fn a_timestamp_says_whence_it_is() {
        let stamp = Timestamp::new(0x0102_0304_0506, true);
        assert_eq!(stamp.as_bytes(), [6, 5, 4, 3, 2, 1, 0b10, 0]);
        assert_eq!((stamp.milliseconds(), Timestamp::new(u64::MAX, false).milliseconds()), (0x0102_0304_0506, (1 << 48) - 1));
    }
}
