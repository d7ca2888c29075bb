//! An initiator against our own target, over simulated connections.

mod load;
mod world;

mod basics;
mod changes;
mod hostile;
mod losses;
