//! The daemon as a process of its own, called over its socket. Knows nothing of what is inside it.
#![forbid(unsafe_code)]

mod bench;
mod calls;
mod cores;
mod guest;
mod harness;
mod hostile;
mod load;
mod nvmf;
mod process;
mod qos;
mod refusals;
mod remote;
mod saving;
mod served;
mod successor;
mod takeover;
