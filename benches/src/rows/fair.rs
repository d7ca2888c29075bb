//! Fairness: what a guest with one request in flight notices of another with a thousand on the same core. Knows no other row.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spinel_load::{Job, Length, Memory};
use spinel_vhost_driver::{Options, VhostDisk};

use super::{Ran, hold};
use crate::claims::{Claim, Figure, Target};
use crate::contenders::{Served, Server, Shared};
use crate::contest::{Contender, Entrant, Seen};
use crate::loader::{self, Loader, Used, Waits};
use crate::servers::{Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace};

const WORK: Work = Work::random_reads("4k random reads, 1 deep", 4096, 1);
const HOG: Work = Work::random_reads("4k random reads, 1024 deep", 4096, 1024);
/// As few as there are: both guests share the client's core, where the hog is not to hold up the other one.
const HOG_BATCH: u16 = 1;
/// So much of what it takes alone may the 99th of a hundred of its requests take.
const TARGET: Target = Target::AtMost(2.0);
const ALONE: &str = "alone";
const BESIDE: &str = "beside a hog";
const DEVICES: [&str; 3] = ["null", "memory", "file"];

/// Two disks of one spineld on one core, their guests on the other: one alone, and beside the other's flood.
pub(crate) fn fair(place: &Place, file: &Path, own_file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    println!("A guest 1 deep, alone and beside one that is 1024 deep, on disks of their own of the same kind. Both disks share");
    println!("the server's core, and both guests the client's, which sends and reaps one of the hog's requests at a time.");
    let mut entrants = Vec::new();
    for device in DEVICES {
        let mut spineld = Spineld::start(place, &[])?;
        let mut disk = |name: &str, path| match device {
            "null" => spineld.null(name),
            "memory" => spineld.memory(name),
            _ => spineld.file(name, path),
        };
        let (socket, hog) = (disk("victim", file)?, disk("hog", own_file)?);
        let server = Shared::new(Server::Spineld(spineld));
        if device == "memory" {
            for socket in [&socket, &hog] {
                Served { server: server.clone(), socket: socket.clone(), memory_bytes: 0, on_file: false }.fill(place)?;
            }
        }
        for (name, hog) in [(ALONE, None), (BESIDE, Some(hog))] {
            let contender = Box::new(Guest { server: server.clone(), socket: socket.clone(), hog });
            entrants.push(Entrant { device, name, contender });
        }
    }
    let claim = |device| Claim {
        row: "fair",
        work: WORK.name,
        ours: (device, BESIDE),
        baseline: (device, ALONE),
        figure: Figure::P99,
        target: TARGET,
    };
    hold(place, pace, "fair", &[WORK], entrants, &DEVICES.map(claim))
}

/// A guest, and perhaps another one beside it.
struct Guest {
    server: Shared,
    socket: PathBuf,
    hog: Option<PathBuf>,
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
        let begin = |hog: &PathBuf| {
            let flood = HOG.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
            let flood = Job { batch: HOG_BATCH, length: Length::default(), ..flood };
            let (disk, memory) = connect(hog, &flood)?;
            loader.begin(disk, memory, flood)
        };
        let hog = self.hog.as_ref().map(begin).transpose()?;
        let mut looks = Vec::new();
        let tally = loader.run(disk, memory, job, &mut || {
            let (cpu_ns, busy_ns) = self.server.used()?;
            looks.push(Used::by_now(cpu_ns, busy_ns));
            Ok(())
        })?;
        if let Some(hog) = hog {
            let flooded = loader::seen(&loader.end(&hog), &[]);
            if std::env::var_os("SHOW").is_some() {
                eprintln!("hog {} {:?} k/s {:?}", flooded.requests, flooded.requests * 1_000_000 / flooded.took_ns, flooded.latency);
            }
            if flooded.errors > 0 {
                return Err(format!("{} of the hog's requests failed", flooded.errors).into());
            }
        }
        loader.quit();
        Ok(loader::seen(&tally, &looks))
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        self.server.end()
    }
}
