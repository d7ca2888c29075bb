//! K1: objects of 64 KiB, got and put, in process and over vhost-user-blk. Knows no other row.

use std::path::Path;
use std::sync::Arc;

use spinel_core::Device;
use spinel_uring::{DeviceOptions, UringDevice};
use spinel_volume::{MemoryDevice, Shape};

use super::{Ran, SPINELD, hold, in_process, say_how_files_are_written, spineld_of_file};
use crate::claims::{Claim, Figure, Target};
use crate::contenders::{Served, Server, Shared};
use crate::contest::Entrant;
use crate::servers::{DISK_BYTES, Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace};

const OBJECT_BYTES: u32 = 64 << 10;
const WORKS: [Work; 3] = [
    Work::random_reads("64k get, 16 deep", OBJECT_BYTES, 16),
    Work::random_mix("64k put, 16 deep", 0, OBJECT_BYTES, 16),
    Work::random_mix("64k 70/30, 16 deep", 70, OBJECT_BYTES, 16),
];
/// Of our own floor, for each of the works. Nothing is asked of the mixture.
const TARGETS: [Target; 3] = [Target::AtLeast(0.80), Target::AtLeast(0.60), Target::Shown];
const IN_PROCESS: &str = "in process";
const DEVICES: [&str; 2] = ["memory", "file"];

/// Memory and a file over vhost-user-blk, beside the same devices under the same load in one process on one core.
pub(crate) fn k1(place: &Place, file: &Path, own_file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    println!("In process, load and device share the server's core; over vhost-user-blk the load has its own.");
    say_how_files_are_written(place);
    let entrants = vec![
        Entrant { device: "memory", name: SPINELD, contender: Box::new(served_memory(place)?) },
        Entrant {
            device: "memory",
            name: IN_PROCESS,
            contender: {
                let memory = in_process(Arc::new(MemoryDevice::new(Shape::new(512, DISK_BYTES / 512))?), place.cores.engine, false);
                memory.fill()?;
                Box::new(memory)
            },
        },
        Entrant { device: "file", name: SPINELD, contender: Box::new(spineld_of_file(place, file, 0)?) },
        Entrant {
            device: "file",
            name: IN_PROCESS,
            contender: {
                // Another file: an open device holds a lock on its own.
                let device: Arc<dyn Device> = Arc::new(UringDevice::open(own_file, &DeviceOptions::default())?);
                Box::new(in_process(device, place.cores.engine, true))
            },
        },
    ];
    let claims = DEVICES.iter().flat_map(|device| {
        WORKS.iter().zip(TARGETS).map(move |(work, target)| Claim {
            row: "K1",
            work: work.name,
            ours: (device, SPINELD),
            baseline: (device, IN_PROCESS),
            figure: Figure::Rate,
            target,
        })
    });
    hold(place, pace, "k1", &WORKS, entrants, &claims.collect::<Vec<_>>())
}

/// A spineld that serves memory, all of which is there.
fn served_memory(place: &Place) -> Result<Served, Failure> {
    let mut spineld = Spineld::start(place, &[])?;
    let socket = spineld.memory("disk")?;
    let served = Served { server: Shared::new(Server::Spineld(spineld)), socket, memory_bytes: 0, on_file: false };
    served.fill(place)?;
    Ok(served)
}
