//! Files, block devices and TCP connections through io_uring. Knows no guest, no protocol above and no configuration.
//!
//! [`core`](core()) makes a core that sleeps in its own ring, to be called on the reactor's
//! thread. [`UringDevice`] opens a file or a block device, whose channels share that
//! ring. [`pin`](pin()) registers memory once, off the reactor, so that each core may
//! clone the registration. [`TcpStream`] is a connection on a core's ring, and
//! [`Listener`] where they come in.
//!
//! This package is one of the few that contain `unsafe`; what it exports is safe.

mod buffers;
mod channel;
mod device;
mod entry;
mod file;
mod files;
mod listener;
mod options;
mod party;
mod pin;
mod polled;
mod pool;
mod queues;
mod ring;
mod sleep;
mod slot;
mod stream;
mod vectors;
mod watch;

pub use device::UringDevice;
pub use file::{DeviceOptions, FileError};
pub use listener::{Accept, ListenError, Listener};
pub use options::{Options, Setup};
pub use pin::{PinError, pin};
pub use ring::Ring;
pub use sleep::core;
pub use stream::{StreamOptions, TcpDialer, TcpStream};
