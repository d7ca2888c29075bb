//! NVMe over Fabrics: machines of targets and initiators, and the TCP transport, without a socket.
#![forbid(unsafe_code)]

pub mod auth;
pub mod initiator;
pub mod nqn;
pub mod pool;
pub mod target;
pub mod tcp;
