//! The front end against real servers: ours, and another that serves packed rings. Everything goes over real sockets, memory and eventfds.

mod connecting;
mod data;
mod dying;
mod front;
mod host;
mod packed;
mod packed_server;
mod refusing;
mod sleeping;
