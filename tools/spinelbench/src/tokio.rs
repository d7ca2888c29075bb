//! A load on a file through tokio-uring, to show what its way of waiting costs. Knows no other target.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spinel_core::{Geometry, Instant, OpKind, Status};
use spinel_load::{Arrival, Ask, Ended, Generator, Job, Outlet};
use spinel_reactor::Clock;
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::fs::{File, OpenOptions};

use crate::failure::Failure;

/// What direct I/O wants of memory; enough for every disk.
const ALIGN_BYTES: usize = 4096;

/// What the tasks of one job share. They take turns on one thread.
struct Shared {
    job: Job,
    block_bytes: u64,
    file: File,
    generator: RefCell<Generator>,
    outlet: RefCell<Outlet>,
    clock: Clock,
    /// When the warm-up ends.
    warm: Instant,
    end: Option<Instant>,
    next_interval: Cell<Instant>,
    requests_left: Cell<u64>,
    bytes_left: Cell<u64>,
    stop: Arc<AtomicBool>,
}

/// Whether a job can be run this way.
///
/// # Errors
/// What it cannot do, for the user.
pub(crate) fn check(job: &Job) -> Result<(), Failure> {
    match job.arrival {
        Arrival::Closed => Ok(()),
        Arrival::Steady { .. } | Arrival::Poisson { .. } => {
            Err(Failure::usage("file+tokio: knows no rate, because tokio's timers count in milliseconds; use file: instead"))
        }
    }
}

/// Runs a job to its end on the calling thread.
pub(crate) fn run(path: &Path, job: Job, geometry: &Geometry, outlet: Outlet, stop: Arc<AtomicBool>) -> io::Result<()> {
    let generator = Generator::new(&job, geometry).map_err(io::Error::other)?;
    let (path, block_bytes) = (path.to_owned(), u64::from(geometry.block_bytes));
    tokio_uring::start(async move {
        let file = open(path, job.mix.changes_data()).await?;
        let clock = Clock::system();
        let now = clock.now();
        let warm = now.after_ns(job.warm_up_ns);
        let shared = Rc::new(Shared {
            block_bytes,
            file,
            generator: RefCell::new(generator),
            outlet: RefCell::new(outlet),
            clock,
            warm,
            end: job.length.time_ns.map(|time_ns| warm.after_ns(time_ns)),
            next_interval: Cell::new(warm.after_ns(job.interval_ns)),
            requests_left: Cell::new(job.length.requests.unwrap_or(u64::MAX)),
            bytes_left: Cell::new(job.length.bytes.unwrap_or(u64::MAX)),
            stop,
            job,
        });
        shared.outlet.borrow_mut().current().from = warm;
        let tasks: Vec<_> = (0..shared.job.depth).map(|seed| tokio_uring::spawn(work(Rc::clone(&shared), seed))).collect();
        for task in tasks {
            task.await.map_err(io::Error::other)?;
        }
        let Ok(shared) = Rc::try_unwrap(shared) else { unreachable!("all tasks have ended") };
        let ended = if shared.stop.load(Ordering::Relaxed) { Ended::Stopped } else { Ended::Done };
        shared.outlet.into_inner().close(shared.clock.now(), ended, 0);
        shared.file.close().await
    })
}

async fn open(path: PathBuf, write: bool) -> io::Result<File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag of open(2)");
    OpenOptions::new().read(true).write(write).custom_flags(direct).open(path).await
}

impl Shared {
    /// The next request and when it is sent; `None` when the job is over.
    fn next(&self) -> Option<(Ask, Instant)> {
        let now = self.clock.now();
        let over = self.stop.load(Ordering::Relaxed) || self.end.is_some_and(|end| now >= end);
        if over || self.requests_left.get() == 0 || self.bytes_left.get() == 0 {
            return None;
        }
        let ask = self.generator.borrow_mut().draw();
        if now >= self.warm {
            self.requests_left.set(self.requests_left.get().saturating_sub(1));
            self.bytes_left.set(self.bytes_left.get().saturating_sub(u64::from(ask.blocks) * self.block_bytes));
        }
        Some((ask, now))
    }

    fn done(&self, ask: Ask, sent: Instant, status: Status) {
        let now = self.clock.now();
        let mut outlet = self.outlet.borrow_mut();
        if sent >= self.warm {
            outlet.current().record(ask.kind, u64::from(ask.blocks) * self.block_bytes, now.since_ns(sent), status);
        }
        if now >= self.next_interval.get() {
            outlet.turn_over(now);
            self.next_interval.set(now.after_ns(self.job.interval_ns));
        }
    }
}

/// One request after the other, through one piece of memory.
async fn work(shared: Rc<Shared>, seed: u16) {
    let max_bytes = usize::try_from(shared.job.sizes.max_bytes).expect("requests fit memory");
    let mut memory = vec![0; max_bytes + ALIGN_BYTES];
    spinel_load::Prng::new(shared.job.seed ^ u64::from(seed) << 32).fill(&mut memory);
    let start = memory.as_ptr().align_offset(ALIGN_BYTES);
    while let Some((ask, sent)) = shared.next() {
        let offset = ask.start.0 * shared.block_bytes;
        let len_bytes = u64::from(ask.blocks) * shared.block_bytes;
        let len = usize::try_from(len_bytes).expect("requests fit memory");
        let moved = match ask.kind {
            OpKind::Read => {
                let (moved, slice) = shared.file.read_at(memory.slice(start..start + len), offset).await;
                memory = slice.into_inner();
                moved
            }
            OpKind::Write => {
                let (moved, slice) = shared.file.write_at(memory.slice(start..start + len), offset).submit().await;
                memory = slice.into_inner();
                match moved {
                    Ok(_) if shared.job.fua => shared.file.sync_data().await.and(moved),
                    _ => moved,
                }
            }
            OpKind::Flush => shared.file.sync_data().await.map(|()| 0),
            OpKind::Discard => fallocate(&shared, offset, len_bytes, libc::FALLOC_FL_PUNCH_HOLE).await.map(|()| len),
            OpKind::WriteZeroes => fallocate(&shared, offset, len_bytes, libc::FALLOC_FL_ZERO_RANGE).await.map(|()| len),
        };
        shared.done(ask, sent, status_of(&moved, len));
    }
}

async fn fallocate(shared: &Shared, offset: u64, len_bytes: u64, mode: i32) -> io::Result<()> {
    shared.file.fallocate(offset, len_bytes, mode | libc::FALLOC_FL_KEEP_SIZE).await
}

fn status_of(moved: &io::Result<usize>, len: usize) -> Status {
    match moved {
        Ok(moved) if *moved == len => Status::Ok,
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Status::Capacity,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Status::Unsupported,
        _ => Status::Medium,
    }
}
