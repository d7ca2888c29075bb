//! The TCP transport of NVMe over Fabrics: its PDUs, their digests, and the machine that receives them. Knows no socket,
//! no command and no queue.
//!
//! After the NVMe/TCP Transport Specification, revision 1.0: sections named here are its own.

pub mod build;
mod check;
pub mod digest;
pub mod exercise;
pub mod fault;
mod parse;
pub mod pdu;
pub mod receiver;
pub mod transfer;
pub mod value;

pub use build::Builder;
pub use digest::{Crc, DIGEST_BYTES};
pub use fault::{FatalStatus, Fault};
pub use pdu::{Alignment, PduType, Role};
pub use receiver::{Carrier, Event, Idle, Limits, Receiver, Step, Verdict};
pub use transfer::{Asked, Returned};
pub use value::{DataPdu, IcReq, IcResp, Pdu, R2t, Terminate, Terms};

#[cfg(test)]
mod tests;
