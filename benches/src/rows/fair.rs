//! Fairness: what a guest with one request in flight notices of another with a thousand on the same core. Knows no other row.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spinel_core::Device;
use spinel_load::{Job, Length, Memory};
use spinel_uring::{DeviceOptions, UringDevice};
use spinel_vhost_driver::{Options, VhostDisk};

use super::{Ran, hold};
use crate::claims::{Claim, Figure, Target};
use crate::contenders::{Served, Server, Shared};
use crate::contest::{Contender, Entrant, Seen};
use crate::loader::{self, Loader, Running, Used, Waits};
use crate::servers::{Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace};

const WORK: Work = Work::random_reads("4k random reads, 1 deep", 4096, 1);
const FLOOD: Work = Work::random_reads("4k random reads, 1024 deep", 4096, 1024);
/// As few as there are: both guests share the client's core, where the one is not to hold up the other.
const FLOOD_BATCH: u16 = 1;
/// So much of what it takes alone may the 99th of a hundred of the small guest's requests take.
const TARGET: Target = Target::AtMost(2.0);
const ALONE: &str = "alone";
const BESIDE: &str = "beside a flood";
const ELSEWHERE: &str = "flood elsewhere";
const DEVICES: [&str; 3] = ["null", "memory", "file"];

/// Disks of one spineld on one core, their guests on the other: one alone, and beside the other's flood.
///
/// A flood makes others on the same physical disk wait wherever it comes from. How much, shows one that goes past
/// spineld: from the client's core straight to a third file.
pub(crate) fn fair(place: &Place, [file, own, other]: [&Path; 3], pace: &Pace) -> Result<Ran, Failure> {
    println!("A guest 1 deep, alone and beside one that is 1024 deep, on disks of their own of the same kind. Both disks share");
    println!("the server's core, and both guests the client's, which sends and reaps one of the flood's requests at a time.");
    let mut entrants = Vec::new();
    for device in DEVICES {
        let mut spineld = Spineld::start(place, &[])?;
        let mut disk = |name: &str, path| match device {
            "null" => spineld.null(name),
            "memory" => spineld.memory(name),
            _ => spineld.file(name, path),
        };
        let (socket, flooded) = (disk("small", file)?, disk("flooded", own)?);
        let server = Shared::new(Server::Spineld(spineld));
        if device == "memory" {
            for socket in [&socket, &flooded] {
                Served { server: server.clone(), socket: socket.clone(), memory_bytes: 0, on_file: false }.fill(place)?;
            }
        }
        let mut floods = vec![(ALONE, None), (BESIDE, Some(Flooded::Served(flooded)))];
        if device == "file" {
            let straight: Arc<dyn Device> = Arc::new(UringDevice::open(other, &DeviceOptions::default())?);
            floods.push((ELSEWHERE, Some(Flooded::Straight(straight))));
        }
        for (name, flooded) in floods {
            let contender = Box::new(Guest { server: server.clone(), socket: socket.clone(), flooded });
            entrants.push(Entrant { device, name, contender });
        }
    }
    let claim = |device, baseline, target| Claim {
        row: "fair",
        work: WORK.name,
        ours: (device, BESIDE),
        baseline: (device, baseline),
        figure: Figure::P99,
        target,
    };
    let mut claims: Vec<Claim> = DEVICES.iter().map(|device| claim(device, ALONE, TARGET)).collect();
    claims.push(claim("file", ELSEWHERE, Target::Shown));
    hold(place, pace, "fair", &[WORK], entrants, &claims)
}

/// What another guest floods.
enum Flooded {
    /// A disk of the same server.
    Served(PathBuf),
    /// A device of this process.
    Straight(Arc<dyn Device>),
}

impl Flooded {
    /// Floods it until it is told to end.
    fn begin(&self, loader: &Loader, job: Job) -> Result<Running, Failure> {
        let job = Job { batch: FLOOD_BATCH, length: Length::default(), ..job };
        match self {
            Self::Served(socket) => {
                let (disk, memory) = connect(socket, &job)?;
                loader.begin(disk, memory, job)
            }
            Self::Straight(device) => loader.begin(Arc::clone(device), Memory::anonymous(&job)?, job),
        }
    }
}

/// A guest, and what another one floods meanwhile.
struct Guest {
    server: Shared,
    socket: PathBuf,
    flooded: Option<Flooded>,
}

/// A disk with room for a job, and the job's memory there.
fn connect(socket: &Path, job: &Job) -> Result<(Arc<VhostDisk>, Memory), Failure> {
    let memory_bytes = Memory::bytes_for(job).next_multiple_of(1 << 21);
    let options = Options { memory_bytes, ..Options::default() }.for_depth(job.depth);
    let disk = Arc::new(VhostDisk::connect(socket, &options)?);
    let memory = Memory::within(Arc::clone(disk.region()), 0, job)?;
    Ok((disk, memory))
}

impl Contender for Guest {
    fn pid(&self) -> Option<u32> {
        Some(self.server.pid())
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let loader = Loader::start(place.cores.client, Waits::Polling)?;
        let job = work.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
        let (disk, memory) = connect(&self.socket, &job)?;
        let flood = FLOOD.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
        let flood = self.flooded.as_ref().map(|flooded| flooded.begin(&loader, flood)).transpose()?;
        let mut looks = Vec::new();
        let tally = loader.run(disk, memory, job, &mut || {
            let (cpu_ns, busy_ns) = self.server.used()?;
            looks.push(Used::by_now(cpu_ns, busy_ns));
            Ok(())
        })?;
        let failed = flood.map_or(0, |flood| loader::seen(&loader.end(&flood), &[]).errors);
        if failed > 0 {
            return Err(format!("{failed} requests of the flood failed").into());
        }
        loader.quit();
        Ok(loader::seen(&tally, &looks))
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        self.server.end()
    }
}
