//! The TCP transport of NVMe over Fabrics: its PDUs, their digests, and the machine that receives them. Knows no socket,
//! no command and no queue.
//!
//! After the NVMe/TCP Transport Specification, revision 1.0: sections named here are its own.

pub mod digest;
pub mod fault;
pub mod pdu;
