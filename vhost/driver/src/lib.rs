//! A vhost-user-blk disk as a device: the front end's side of the protocol. Knows no server.
#![deny(unsafe_code)]
