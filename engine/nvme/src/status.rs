//! How commands end: codes, their names, what they mean for who asked (base 3.3.3.2.1, NVM 3.1). Knows no command.

use std::fmt;

use spinel_core::{OpKind, Status};

/// A status code together with its type (SCT and SC): the type in the upper byte.
///
/// Codes 180h to 1BFh mean one thing to commands of the NVM command set and another to commands of fabrics; see
/// [`StatusCode::fabrics_name`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusCode(u16);

/// The type of a status code (SCT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusType {
    /// Any command may end so.
    Generic,
    /// What it means depends on the command.
    Command,
    /// The medium, or the integrity of data.
    Media,
    /// The way to the namespace; another path may do (base 2.4.1, 8.1).
    Path,
    /// Reserved, or of a vendor.
    Other,
}

macro_rules! status_codes {
    ($table:ident: $($(#[$meta:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl StatusCode {
            $($(#[$meta])* #[doc = concat!($text, ".")] pub const $name: Self = Self($code);)*
        }

        const $table: &[(u16, &str)] = &[$(($code, $text),)*];
    };
}

status_codes! { GENERIC:
    SUCCESS = 0x00, "Successful Completion";
    INVALID_OPCODE = 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0x02, "Invalid Field in Command";
    ID_CONFLICT = 0x03, "Command ID Conflict";
    DATA_TRANSFER = 0x04, "Data Transfer Error";
    ABORTED_POWER_LOSS = 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL = 0x06, "Internal Error";
    ABORT_REQUESTED = 0x07, "Command Abort Requested";
    ABORTED_QUEUE_DELETED = 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FUSED_FAILED = 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_FUSED_MISSING = 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0x0b, "Invalid Namespace or Format";
    SEQUENCE = 0x0c, "Command Sequence Error";
    SGL_SEGMENT_INVALID = 0x0d, "Invalid SGL Segment Descriptor";
    SGL_COUNT_INVALID = 0x0e, "Invalid Number of SGL Descriptors";
    SGL_LENGTH_INVALID = 0x0f, "Data SGL Length Invalid";
    SGL_METADATA_LENGTH_INVALID = 0x10, "Metadata SGL Length Invalid";
    SGL_TYPE_INVALID = 0x11, "SGL Descriptor Type Invalid";
    MEMORY_BUFFER_MISUSED = 0x12, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = 0x13, "PRP Offset Invalid";
    ATOMIC_UNIT_EXCEEDED = 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0x15, "Operation Denied";
    SGL_OFFSET_INVALID = 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT = 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_INVALID = 0x1a, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPTED = 0x1b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0x1c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0x1d, "Sanitize In Progress";
    SGL_GRANULARITY_INVALID = 0x1e, "SGL Data Block Granularity Invalid";
    QUEUE_IN_MEMORY_BUFFER = 0x1f, "Command Not Supported for Queue in CMB";
    WRITE_PROTECTED = 0x20, "Namespace is Write Protected";
    INTERRUPTED = 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT = 0x22, "Transient Transport Error";
    LOCKED_DOWN = 0x23, "Command Prohibited by Command and Feature Lockdown";
    MEDIA_NOT_READY = 0x24, "Admin Command Media Not Ready";
    INVALID_KEY_TAG = 0x25, "Invalid Key Tag";
    HOST_DISPERSED_OFF = 0x26, "Host Dispersed Namespace Support Not Enabled";
    HOST_ID_MISSING = 0x27, "Host Identifier Not Initialized";
    INCORRECT_KEY = 0x28, "Incorrect Key";
    LBA_RANGE = 0x80, "LBA Out of Range";
    CAPACITY = 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0x84, "Format In Progress";
}

status_codes! { COMMAND:
    COMPLETION_QUEUE_INVALID = 0x100, "Completion Queue Invalid";
    QUEUE_ID_INVALID = 0x101, "Invalid Queue Identifier";
    QUEUE_SIZE_INVALID = 0x102, "Invalid Queue Size";
    ABORT_LIMIT = 0x103, "Abort Command Limit Exceeded";
    ASYNC_EVENT_LIMIT = 0x105, "Asynchronous Event Request Limit Exceeded";
    FIRMWARE_SLOT_INVALID = 0x106, "Invalid Firmware Slot";
    FIRMWARE_IMAGE_INVALID = 0x107, "Invalid Firmware Image";
    INTERRUPT_VECTOR_INVALID = 0x108, "Invalid Interrupt Vector";
    LOG_PAGE_INVALID = 0x109, "Invalid Log Page";
    FORMAT_INVALID = 0x10a, "Invalid Format";
    FIRMWARE_NEEDS_RESET = 0x10b, "Firmware Activation Requires Conventional Reset";
    QUEUE_DELETION_INVALID = 0x10c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 0x10d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 0x10e, "Feature Not Changeable";
    FEATURE_NOT_OF_NAMESPACE = 0x10f, "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x110, "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = 0x111, "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_NEEDS_TIME = 0x112, "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_PROHIBITED = 0x113, "Firmware Activation Prohibited";
    RANGES_OVERLAP = 0x114, "Overlapping Range";
    NAMESPACE_CAPACITY = 0x115, "Namespace Insufficient Capacity";
    NAMESPACE_ID_UNAVAILABLE = 0x116, "Namespace Identifier Unavailable";
    NAMESPACE_ATTACHED = 0x118, "Namespace Already Attached";
    NAMESPACE_PRIVATE = 0x119, "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = 0x11a, "Namespace Not Attached";
    THIN_UNSUPPORTED = 0x11b, "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = 0x11c, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 0x11d, "Device Self-test In Progress";
    BOOT_PARTITION_PROTECTED = 0x11e, "Boot Partition Write Prohibited";
    CONTROLLER_ID_INVALID = 0x11f, "Invalid Controller Identifier";
    SECONDARY_STATE_INVALID = 0x120, "Invalid Secondary Controller State";
    RESOURCES_INVALID = 0x121, "Invalid Number of Controller Resources";
    RESOURCE_ID_INVALID = 0x122, "Invalid Resource Identifier";
    SANITIZE_PROHIBITED = 0x123, "Sanitize Prohibited While Persistent Memory Region is Enabled";
    ANA_GROUP_INVALID = 0x124, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 0x125, "ANA Attach Failed";
    CAPACITY_INSUFFICIENT = 0x126, "Insufficient Capacity";
    ATTACHMENT_LIMIT = 0x127, "Namespace Attachment Limit Exceeded";
    PROHIBITION_UNSUPPORTED = 0x128, "Prohibition of Command Execution Not Supported";
    COMMAND_SET_UNSUPPORTED = 0x129, "I/O Command Set Not Supported";
    COMMAND_SET_DISABLED = 0x12a, "I/O Command Set Not Enabled";
    COMMAND_SETS_REJECTED = 0x12b, "I/O Command Set Combination Rejected";
    COMMAND_SET_INVALID = 0x12c, "Invalid I/O Command Set";
    ID_UNAVAILABLE = 0x12d, "Identifier Unavailable";
    ATTRIBUTES_CONFLICT = 0x180, "Conflicting Attributes";
    PROTECTION_INVALID = 0x181, "Invalid Protection Information";
    RANGE_READ_ONLY = 0x182, "Attempted Write to Read Only Range";
    COMMAND_TOO_LARGE = 0x183, "Command Size Limit Exceeded";
}

status_codes! { FABRICS:
    CONNECT_FORMAT = 0x180, "Incompatible Format";
    CONNECT_BUSY = 0x181, "Controller Busy";
    CONNECT_PARAMETERS = 0x182, "Connect Invalid Parameters";
    CONNECT_RESTART_DISCOVERY = 0x183, "Connect Restart Discovery";
    CONNECT_HOST = 0x184, "Connect Invalid Host";
    QUEUE_TYPE_INVALID = 0x185, "Invalid Queue Type";
    DISCOVER_RESTART = 0x190, "Discover Restart";
    AUTHENTICATION_REQUIRED = 0x191, "Authentication Required";
}

status_codes! { MEDIA_AND_PATH:
    WRITE_FAULT = 0x280, "Write Fault";
    UNRECOVERED_READ = 0x281, "Unrecovered Read Error";
    GUARD_CHECK = 0x282, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK = 0x283, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK = 0x284, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 0x285, "Compare Failure";
    ACCESS_DENIED = 0x286, "Access Denied";
    UNWRITTEN = 0x287, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK = 0x288, "End-to-end Storage Tag Check Error";
    PATH_INTERNAL = 0x300, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 0x301, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 0x302, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 0x303, "Asymmetric Access Transition";
    PATH_CONTROLLER = 0x360, "Controller Pathing Error";
    PATH_HOST = 0x370, "Host Pathing Error";
    PATH_ABORTED_BY_HOST = 0x371, "Command Aborted By Host";
}

impl StatusCode {
    /// The code of these numbers.
    ///
    /// # Panics
    /// If it has more than eleven bits.
    #[must_use]
    pub const fn new(code: u16) -> Self {
        assert!(code < 1 << 11, "a status code and its type have eleven bits");
        Self(code)
    }

    /// Type and code: the type in the upper byte.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Its type.
    #[must_use]
    pub const fn kind(self) -> StatusType {
        match self.0 >> 8 {
            0 => StatusType::Generic,
            1 => StatusType::Command,
            2 => StatusType::Media,
            3 => StatusType::Path,
            _ => StatusType::Other,
        }
    }

    /// What it is called, if any but a command of fabrics ended so.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.named_in(&[GENERIC, COMMAND, MEDIA_AND_PATH, FABRICS])
    }

    /// What it is called, if a command of fabrics ended so.
    #[must_use]
    pub fn fabrics_name(self) -> &'static str {
        self.named_in(&[FABRICS, GENERIC, COMMAND, MEDIA_AND_PATH])
    }

    fn named_in(self, tables: &[&[(u16, &'static str)]]) -> &'static str {
        let of = |table: &&[(u16, &'static str)]| table.iter().find(|(code, _)| *code == self.0).map(|(_, name)| *name);
        tables.iter().find_map(of).unwrap_or("an unknown status")
    }

    /// As an answer that may be followed by the same command again.
    #[must_use]
    pub const fn retriable(self) -> StatusField {
        StatusField(self.0)
    }

    /// As an answer after which the same command would fail again (DNR).
    #[must_use]
    pub const fn permanent(self) -> StatusField {
        StatusField(self.0 | DO_NOT_RETRY)
    }
}

/// Name and number.
impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#05x})", self.name(), self.0)
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

const MORE: u16 = 1 << 13;
const DO_NOT_RETRY: u16 = 1 << 14;

/// The fifteen bits of a completion that say how the command ended, without the phase tag: the code, its type, and what
/// stands beside them (base 3.3.3.2.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StatusField(u16);

impl StatusField {
    /// It was done.
    pub const SUCCESS: Self = Self(0);

    /// Of the completion's last two bytes.
    #[must_use]
    #[inline]
    pub const fn of_completion(bits: u16) -> Self {
        Self(bits >> 1)
    }

    /// As the completion's last two bytes, with the phase tag zero, as it is over fabrics.
    #[must_use]
    #[inline]
    pub const fn in_completion(self) -> u16 {
        self.0 << 1
    }

    /// As entries of the error log have it (base 5.16.1.2): the phase tag stands in the lowest bit here too.
    #[must_use]
    pub const fn in_log(self) -> u16 {
        self.0 << 1
    }

    /// Type and code.
    #[must_use]
    #[inline]
    pub const fn code(self) -> StatusCode {
        StatusCode(self.0 & 0x7ff)
    }

    /// Whether the command was done.
    #[must_use]
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether the same command would fail again, on any controller of the subsystem.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// Which of the controller's three delays to wait before a retry (CRD); 0 is none.
    #[must_use]
    pub fn retry_delay_index(self) -> u8 {
        (self.0 >> 11).to_le_bytes()[0] & 0b11
    }

    /// The same with one of the controller's delays.
    ///
    /// # Panics
    /// If `index` is above 3.
    #[must_use]
    pub fn with_retry_delay_index(self, index: u8) -> Self {
        assert!(index < 4, "there are three delays, and none");
        Self(self.0 & !(0b11 << 11) | u16::from(index) << 11)
    }

    /// Whether the error log has more about it.
    #[must_use]
    pub const fn has_more(self) -> bool {
        self.0 & MORE != 0
    }

    /// The same with a note in the error log about it.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Of a command that a device of our own did or did not do.
    #[must_use]
    pub const fn of_device(status: Status, kind: OpKind) -> Self {
        match status {
            Status::Ok => Self::SUCCESS,
            Status::Medium if matches!(kind, OpKind::Read) => StatusCode::UNRECOVERED_READ.permanent(),
            Status::Medium => StatusCode::WRITE_FAULT.permanent(),
            Status::Unsupported => StatusCode::INVALID_OPCODE.permanent(),
            Status::Aborted => StatusCode::ABORT_REQUESTED.retriable(),
            Status::Capacity => StatusCode::CAPACITY.permanent(),
            Status::Range => StatusCode::LBA_RANGE.permanent(),
            Status::Protected => StatusCode::WRITE_PROTECTED.permanent(),
            // What came from outside was checked before: this is our own fault, and repeating does not mend it.
            Status::Malformed => StatusCode::INTERNAL.permanent(),
        }
    }

    /// What it means to who asked us for it, once there is no path left to try.
    #[must_use]
    pub const fn to_device(self) -> Status {
        match self.code() {
            StatusCode::SUCCESS => Status::Ok,
            StatusCode::INVALID_OPCODE => Status::Unsupported,
            StatusCode::CAPACITY | StatusCode::NAMESPACE_CAPACITY => Status::Capacity,
            StatusCode::LBA_RANGE => Status::Range,
            StatusCode::WRITE_PROTECTED
            | StatusCode::RANGE_READ_ONLY
            | StatusCode::RESERVATION_CONFLICT
            | StatusCode::ACCESS_DENIED
            | StatusCode::OPERATION_DENIED => Status::Protected,
            StatusCode::ABORT_REQUESTED
            | StatusCode::ABORTED_QUEUE_DELETED
            | StatusCode::ABORTED_PREEMPTED
            | StatusCode::PATH_ABORTED_BY_HOST => Status::Aborted,
            StatusCode::INVALID_FIELD | StatusCode::SGL_LENGTH_INVALID | StatusCode::SGL_TYPE_INVALID => Status::Malformed,
            _ => Status::Medium,
        }
    }

    /// Whether it says nothing of the namespace, only of the way to it: another path may do (base 8.1.4, and the status
    /// type for it).
    #[must_use]
    pub const fn is_of_path(self) -> bool {
        matches!(self.code().kind(), StatusType::Path)
    }
}

/// Name, number, and whether to try again.
impl fmt::Display for StatusField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.code(), if self.is_permanent() { ", do not retry" } else { "" })
    }
}

impl fmt::Debug for StatusField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_has_its_parts_where_the_specification_draws_them() {
        // DNR is bit 31 of the dword, M bit 30, CRD bits 29:28, SCT bits 27:25, SC bits 24:17, P bit 16.
        let field = StatusCode::RESERVATION_CONFLICT.permanent().with_more().with_retry_delay_index(2);
        assert_eq!(field.in_completion(), 1 << 15 | 1 << 14 | 2 << 12 | 0x83 << 1);
        let read = StatusField::of_completion(field.in_completion() | 1);
        assert_eq!(read, field);
        assert!(read.is_permanent() && read.has_more() && !read.is_success());
        assert_eq!((read.code(), read.retry_delay_index()), (StatusCode::RESERVATION_CONFLICT, 2));
        assert_eq!(StatusCode::ANA_INACCESSIBLE.retriable().in_completion(), 0x302 << 1);
    }

    #[test]
    fn codes_of_fabrics_have_their_own_names() {
        assert_eq!(StatusCode::CONNECT_PARAMETERS.fabrics_name(), "Connect Invalid Parameters");
        assert_eq!(StatusCode::CONNECT_PARAMETERS.name(), "Attempted Write to Read Only Range");
        assert_eq!(StatusCode::AUTHENTICATION_REQUIRED.name(), "Authentication Required");
        assert_eq!(StatusCode::new(0x7ff).name(), "an unknown status");
        assert_eq!(StatusCode::LBA_RANGE.permanent().to_string(), "LBA Out of Range (0x080), do not retry");
    }

    #[test]
    fn what_our_devices_answer_comes_back_as_it_was() {
        for status in [Status::Ok, Status::Medium, Status::Unsupported, Status::Aborted, Status::Capacity, Status::Range, Status::Protected]
        {
            assert_eq!(StatusField::of_device(status, OpKind::Write).to_device(), status);
            assert_eq!(StatusField::of_device(status, OpKind::Read).to_device(), status);
        }
        assert_eq!(StatusField::of_device(Status::Medium, OpKind::Read).code(), StatusCode::UNRECOVERED_READ);
        assert_eq!(StatusField::of_device(Status::Medium, OpKind::Flush).code(), StatusCode::WRITE_FAULT);
    }

    #[test]
    fn only_what_the_path_is_to_blame_for_is_tried_on_another() {
        assert!(StatusCode::ANA_TRANSITION.retriable().is_of_path() && StatusCode::PATH_HOST.retriable().is_of_path());
        assert!(!StatusCode::UNRECOVERED_READ.retriable().is_of_path() && !StatusCode::INTERNAL.retriable().is_of_path());
    }

    #[test]
    fn no_code_is_in_a_table_twice() {
        for table in [GENERIC, COMMAND, FABRICS, MEDIA_AND_PATH] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
