//! Seeded, deterministic parts for tests: time, sleep, disks, connections, loads and their judge. Knows nothing of what it tests.
//!
//! Everything comes from a [`Prng`], nothing from the machine: the same seed gives the
//! same run, and the same [`Trace`] hash. A whole test of a device, or of any pile of layers over
//! one, is a [`Rig`] (one core), a [`Load`] (random requests) and a [`Checker`] (what may
//! be read back, also after the power was lost):
//!
//! ```
//! use spinel_core::Device;
//! use spinel_sim::{Checker, DiskOptions, Load, LoadOptions, Prng, Rig, SimDisk, every_seed};
//!
//! every_seed(20, |seed| {
//!     let mut prng = Prng::new(seed);
//!     let mut rig = Rig::new(prng.fork(), 1 << 20);
//!     let disk = SimDisk::new(DiskOptions::default(), prng.fork());
//!     let mut checker = Checker::new(7, &disk.geometry());
//!
//!     for _ in 0..3 {
//!         let mut load = Load::open(&mut rig, &disk, checker, LoadOptions::default(), prng.fork()).unwrap();
//!         load.sweep(&mut rig).unwrap();
//!         load.run(&mut rig, 100).unwrap();
//!
//!         disk.cut_power();
//!         checker = load.close();
//!         checker.cut_power();
//!     }
//!     assert!(checker.checked().stamps_read > 0, "a test that checks nothing shows nothing");
//! });
//! ```
//!
//! A disk can be told to be wrong ([`Bug`]): a test that does not notice is no test.
#![forbid(unsafe_code)]

mod clock;
mod disk;
pub mod guest;
mod load;
mod medium;
mod rig;
mod seeds;
mod sleeper;
mod stream;
mod trace;
mod wire;

pub use clock::Clock;
pub use disk::{Bug, DiskOptions, Mishap, SimDisk};
pub use load::{Failure, Load, LoadOptions};
pub use rig::{LostWakeUp, Rig};
pub use seeds::every_seed;
pub use sleeper::{Bed, Reason, SimSleeper};
pub use spinel_load::{Checked, Checker, Flush, Found, Prng, Read, SECTOR_BYTES, Stamp, Violation, Write, Wrong};
pub use stream::{SimNet, SimStream, SimWire};
pub use trace::Trace;
pub use wire::WireOptions;
