//! Commands of fabrics: Connect, Disconnect, properties and authentication (base 6). Knows no transport, and checks no name.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::{AdminOpcode, Command, halves, low_byte, quarters};
use crate::sgl::Sgl;

codes! {
    /// Types of commands of fabrics (FCTYPE).
    FabricsType: u8 {
        /// Property Set; of admin queues.
        PropertySet = 0x00,
        /// Connect; the first command of every queue.
        Connect = 0x01,
        /// Property Get; of admin queues.
        PropertyGet = 0x04,
        /// Authentication Send.
        AuthenticationSend = 0x05,
        /// Authentication Receive.
        AuthenticationReceive = 0x06,
        /// Disconnect; of I/O queues.
        Disconnect = 0x08,
    }
}

/// Asks for any controller of the subsystem, which chooses one (the dynamic controller model).
pub const CONTROLLER_ANY: u16 = 0xffff;
/// Asks for any controller whose settings lasted (the static controller model).
pub const CONTROLLER_ANY_STATIC: u16 = 0xfffe;
/// The largest number that a controller can have.
pub const CONTROLLER_ID_MAX: u16 = 0xffef;

fn command(kind: FabricsType) -> Command {
    Command::new(AdminOpcode::Fabrics.code(), u32::from(kind.code()))
}

/// The bytes of a Connect command that an answer may blame (IPO), counted from the command's first.
pub mod connect_offset {
    /// The record format.
    pub const FORMAT: u16 = 40;
    /// The queue's number.
    pub const QUEUE: u16 = 42;
    /// The queue's size.
    pub const SIZE: u16 = 44;
    /// The attributes.
    pub const ATTRIBUTES: u16 = 46;
    /// The keep-alive timeout.
    pub const KEEP_ALIVE: u16 = 48;
}

/// What Connect asks for (base 6.3): a queue. Who it is for stands in [`ConnectData`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect {
    /// The record format; 0 is the only one.
    pub format: u16,
    /// The queue's number; 0 is the admin queue, and makes a controller.
    pub queue: u16,
    /// How many commands the queue has less one (SQSIZE, 0's based).
    pub size_less_one: u16,
    /// The priority class, from 0, urgent, to 3, low.
    pub priority: u8,
    /// The host does not look at submission queue heads (CATTR bit 2).
    pub no_flow_control: bool,
    /// The host may disconnect single I/O queues (CATTR bit 3).
    pub deletes_queues: bool,
    /// Keep-alive timeout in milliseconds, 0 for none. Of the admin queue only.
    pub keep_alive_ms: u32,
}

impl Connect {
    /// Of a Connect command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let (format, queue) = quarters(command.dword(10));
        let (size_less_one, attributes) = quarters(command.dword(11));
        Self {
            format,
            queue,
            size_less_one,
            priority: low_byte(u32::from(attributes)) & 0b11,
            no_flow_control: attributes & 1 << 2 != 0,
            deletes_queues: attributes & 1 << 3 != 0,
            keep_alive_ms: command.dword(12),
        }
    }

    /// As a command, with data of [`ConnectData`] in the capsule.
    #[must_use]
    pub fn command(&self) -> Command {
        let attributes = u32::from(self.priority & 0b11) | u32::from(self.no_flow_control) << 2 | u32::from(self.deletes_queues) << 3;
        command(FabricsType::Connect)
            .with_data(Sgl::capsule(0, ConnectData::LEN_BYTES))
            .with_dword(10, u32::from(self.format) | u32::from(self.queue) << 16)
            .with_dword(11, u32::from(self.size_less_one) | attributes << 16)
            .with_dword(12, self.keep_alive_ms)
    }
}

/// The data of Connect: who wants a queue, and of what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// The host's 128-bit identifier.
    pub host_id: [u8; 16],
    /// The controller; see [`CONTROLLER_ANY`].
    pub controller: U16,
    reserved_18: [u8; 238],
    /// The subsystem's name, ended by a zero.
    pub subsystem: [u8; 256],
    /// The host's name, ended by a zero.
    pub host: [u8; 256],
    reserved_768: [u8; 256],
}

const _: () = assert!(size_of::<ConnectData>() == 1024);

impl ConnectData {
    /// How long it is.
    pub const LEN_BYTES: u32 = 1024;
    /// Where the controller stands, for an answer that blames it.
    pub const CONTROLLER_OFFSET: u16 = 16;
    /// Where the subsystem's name stands.
    pub const SUBSYSTEM_OFFSET: u16 = 256;
    /// Where the host's name stands.
    pub const HOST_OFFSET: u16 = 512;

    /// Of this host, for this controller of this subsystem; the names as fields, filled with zeroes.
    #[must_use]
    pub fn new(host_id: [u8; 16], host: [u8; 256], subsystem: [u8; 256], controller: u16) -> Self {
        Self { host_id, controller: controller.into(), subsystem, host, ..Self::new_zeroed() }
    }
}

/// What Connect is answered with, in dword 0, when it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connected {
    /// The controller.
    pub controller: u16,
    /// The queue has to authenticate before it is used (ATR).
    pub authenticate: bool,
    /// The same, over a secure channel (ASCR).
    pub authenticate_secured: bool,
}

impl Connected {
    /// Of a completion's result.
    #[must_use]
    pub fn of(result: u64) -> Self {
        let [low, high, required, ..] = result.to_le_bytes();
        Self {
            controller: u16::from_le_bytes([low, high]),
            authenticate: required & 1 << 1 != 0,
            authenticate_secured: required & 1 << 2 != 0,
        }
    }

    /// As a completion's result.
    #[must_use]
    pub fn result(self) -> u64 {
        u64::from(self.controller) | u64::from(self.authenticate) << 17 | u64::from(self.authenticate_secured) << 18
    }
}

/// Which byte is to blame, in dword 0 of an answer of [`CONNECT_PARAMETERS`](crate::status::StatusCode::CONNECT_PARAMETERS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectBlame {
    /// The byte's offset (IPO).
    pub offset: u16,
    /// In the data instead of in the command (IATTR).
    pub in_data: bool,
}

impl ConnectBlame {
    /// Of a completion's result.
    #[must_use]
    pub fn of(result: u64) -> Self {
        let [low, high, attributes, ..] = result.to_le_bytes();
        Self { offset: u16::from_le_bytes([low, high]), in_data: attributes & 1 != 0 }
    }

    /// As a completion's result.
    #[must_use]
    pub fn result(self) -> u64 {
        u64::from(self.offset) | u64::from(self.in_data) << 16
    }
}

/// Disconnect (base 6.4): ends the I/O queue that it is sent on. It has a record format, and 0 is the only one.
#[must_use]
pub fn disconnect() -> Command {
    command(FabricsType::Disconnect)
}

/// The record format of a Disconnect command.
#[must_use]
pub fn disconnect_format(command: &Command) -> u16 {
    quarters(command.dword(10)).0
}

/// Property Get and Property Set (base 6.5 and 6.6): a register of the controller, see [`crate::registers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Property {
    /// Where the property is.
    pub offset: u32,
    /// Its size.
    pub size: PropertySize,
}

codes! {
    /// How long a property is (ATTRIB bits 2:0).
    PropertySize: u8 {
        /// Four bytes.
        Four = 0,
        /// Eight bytes.
        Eight = 1,
    }
}

impl Property {
    /// Of a Property Get or Property Set command; `None` if its size is a reserved one.
    #[must_use]
    pub fn of(command: &Command) -> Option<Self> {
        let size = PropertySize::of(low_byte(command.dword(10)) & 0b111)?;
        Some(Self { offset: command.dword(11), size })
    }

    /// The value that a Property Set command carries.
    #[must_use]
    pub fn value_of(&self, command: &Command) -> u64 {
        match self.size {
            PropertySize::Four => u64::from(command.dword(12)),
            PropertySize::Eight => command.dwords(12),
        }
    }

    /// Asks for it; the value is the completion's result.
    #[must_use]
    pub fn get(&self) -> Command {
        command(FabricsType::PropertyGet).with_dword(10, u32::from(self.size.code())).with_dword(11, self.offset)
    }

    /// Sets it; of a property of four bytes only the lower half of `value` is sent.
    #[must_use]
    pub fn set(&self, value: u64) -> Command {
        let command = command(FabricsType::PropertySet).with_dword(10, u32::from(self.size.code())).with_dword(11, self.offset);
        match self.size {
            PropertySize::Four => command.with_dword(12, halves(value).0),
            PropertySize::Eight => command.with_dwords(12, value),
        }
    }
}

/// The security protocol of NVMe (SECP), the only one that is asked for here.
pub const SECURITY_PROTOCOL_NVME: u8 = 0xe9;
/// Both bytes that go with it (SPSP0 and SPSP1).
pub const SECURITY_SPECIFIC: u8 = 0x01;

/// Authentication Send and Authentication Receive (base 6.1 and 6.2): an envelope for one message of an authentication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authentication {
    /// The security protocol.
    pub protocol: u8,
    /// What is specific to it, byte 0.
    pub specific_0: u8,
    /// What is specific to it, byte 1.
    pub specific_1: u8,
    /// How long the message is (TL), or how long a message the host takes (AL).
    pub len_bytes: u32,
}

impl Authentication {
    /// An envelope for messages of NVMe.
    #[must_use]
    pub fn new(len_bytes: u32) -> Self {
        let specific = SECURITY_SPECIFIC;
        Self { protocol: SECURITY_PROTOCOL_NVME, specific_0: specific, specific_1: specific, len_bytes }
    }

    /// Of an Authentication Send or Authentication Receive command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let [_, specific_0, specific_1, protocol] = command.dword(10).to_le_bytes();
        Self { protocol, specific_0, specific_1, len_bytes: command.dword(11) }
    }

    /// Whether it is for messages of NVMe.
    #[must_use]
    pub fn is_nvme(&self) -> bool {
        *self == Self::new(self.len_bytes)
    }

    /// Sends a message, whose bytes lie where `data` says.
    #[must_use]
    pub fn send(&self, data: Sgl) -> Command {
        self.command(FabricsType::AuthenticationSend, data)
    }

    /// Asks for a message.
    #[must_use]
    pub fn receive(&self, data: Sgl) -> Command {
        self.command(FabricsType::AuthenticationReceive, data)
    }

    fn command(&self, kind: FabricsType, data: Sgl) -> Command {
        let dword = u32::from_le_bytes([0, self.specific_0, self.specific_1, self.protocol]);
        command(kind).with_data(data).with_dword(10, dword).with_dword(11, self.len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Direction;

    /// A command with these bytes from the fortieth on.
    fn bytes(kind: u8, sgl: [u8; 16], rest: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..5].copy_from_slice(&[0x7f, 0x40, 0, 0, kind]);
        bytes[24..40].copy_from_slice(&sgl);
        bytes[40..40 + rest.len()].copy_from_slice(rest);
        bytes
    }

    #[test]
    fn connect_lies_as_the_specification_draws_it() {
        let connect = Connect {
            format: 0,
            queue: 3,
            size_less_one: 127,
            priority: 2,
            no_flow_control: true,
            deletes_queues: true,
            keep_alive_ms: 5000,
        };
        let sgl = [0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0x01];
        let drawn = bytes(0x01, sgl, &[0, 0, 3, 0, 127, 0, 0b1110, 0, 0x88, 0x13]);
        assert_eq!(connect.command().as_bytes(), drawn);
        let command = Command::read_from_bytes(&drawn).unwrap();
        assert!(command.is_fabrics() && command.fabrics_type() == FabricsType::Connect.code());
        assert_eq!((Connect::of(&command), command.direction()), (connect, Direction::ToController));
    }

    #[test]
    fn names_of_connect_lie_where_answers_blame_them() {
        let data = ConnectData::new([7; 16], [b'h'; 256], [b's'; 256], 0x1234);
        let bytes = data.as_bytes();
        assert_eq!((&bytes[..16], &bytes[16..18], bytes[18]), (&[7; 16][..], &[0x34, 0x12][..], 0));
        assert_eq!((bytes[255], bytes[256], bytes[511], bytes[512], bytes[767], bytes[768]), (0, b's', b's', b'h', b'h', 0));
        assert_eq!((ConnectData::SUBSYSTEM_OFFSET, ConnectData::HOST_OFFSET), (256, 512));
    }

    #[test]
    fn answers_to_connect_are_read_back() {
        let connected = Connected { controller: 0x1234, authenticate: true, authenticate_secured: false };
        assert_eq!((connected.result(), Connected::of(0x0002_1234)), (0x0002_1234, connected));
        let secured = Connected { authenticate: false, authenticate_secured: true, ..connected };
        assert_eq!((secured.result(), Connected::of(0x0004_1234)), (0x0004_1234, secured));
        let blame = ConnectBlame { offset: ConnectData::HOST_OFFSET, in_data: true };
        assert_eq!((blame.result(), ConnectBlame::of(0x0001_0200)), (0x0001_0200, blame));
    }

    #[test]
    fn properties_lie_as_the_specification_draws_them() {
        let status = Property { offset: 0x1c, size: PropertySize::Four };
        assert_eq!(status.get().as_bytes(), bytes(0x04, [0; 16], &[0, 0, 0, 0, 0x1c]));
        let wide = Property { offset: 0x28, size: PropertySize::Eight };
        let drawn = bytes(0x00, [0; 16], &[1, 0, 0, 0, 0x28, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(wide.set(0x0102_0304_0506_0708).as_bytes(), drawn);
        let command = Command::read_from_bytes(&drawn).unwrap();
        assert_eq!(Property::of(&command), Some(wide));
        assert_eq!((wide.value_of(&command), status.value_of(&command)), (0x0102_0304_0506_0708, 0x0506_0708));
        assert_eq!(Property::of(&command.with_dword(10, 2)), None);
        assert_eq!(status.set(u64::MAX).dwords(12), u64::from(u32::MAX));
    }

    #[test]
    fn envelopes_of_authentication_lie_as_the_specification_draws_them() {
        let sgl = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x5a];
        let envelope = Authentication::new(256);
        let rest = [0, 1, 1, 0xe9, 0, 1, 0, 0];
        assert_eq!(envelope.send(Sgl::transport(256)).as_bytes(), bytes(0x05, sgl, &rest));
        assert_eq!(envelope.receive(Sgl::transport(256)).as_bytes(), bytes(0x06, sgl, &rest));
        let command = envelope.receive(Sgl::transport(256));
        assert_eq!((Authentication::of(&command), command.direction()), (envelope, Direction::ToHost));
        assert!(envelope.is_nvme() && !Authentication::of(&command.with_dword(10, 0x0001_0100)).is_nvme());
    }

    #[test]
    fn disconnect_has_nothing_but_its_format() {
        assert_eq!(disconnect().as_bytes(), bytes(0x08, [0; 16], &[]));
        assert_eq!(disconnect_format(&disconnect().with_dword(10, 5)), 5);
    }
}
