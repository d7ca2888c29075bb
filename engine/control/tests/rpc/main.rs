//! The server, the client and the socket together, on real sockets.

mod hostile;
mod served;
mod socket;
mod waiting;
mod wire;
