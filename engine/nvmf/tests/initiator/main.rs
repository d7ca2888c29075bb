//! An initiator against our own target, over simulated connections.

mod load;
mod world;

mod allocations;
mod basics;
mod changes;
mod discovery;
mod hostile;
mod losses;
mod proofs;
