//! A disk inside a running spineld, driven there by the daemon itself. Knows its RPC, and no other way to a disk.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::client::{CallError, Client};
use spinel_core::{Features, Geometry};
use spinel_load::{Job, Tally, WireTally};

use crate::crew::Crew;
use crate::failure::{Failure, with_causes};

/// The daemon, and which of its disks is meant.
pub(crate) struct Remote {
    daemon: Daemon,
    bdev: String,
    geometry: Geometry,
    server_pid: Option<i32>,
    allow_writes: bool,
}

/// One connection, which the target and its jobs take turns to use.
#[derive(Clone)]
struct Daemon(Rc<RefCell<Client>>);

impl Daemon {
    fn call(&self, method: &str, params: Value) -> Result<Value, Failure> {
        self.0.borrow_mut().call(method, Some(params)).map_err(|error| match error {
            CallError::Refused(error) => Failure::Usage(format!("the daemon refused {method}: {error}")),
            error => Failure::Unreachable(with_causes(&error)),
        })
    }
}

/// As `bdev_get_bdevs` describes a disk.
#[derive(Deserialize)]
struct Described {
    block_size: u32,
    num_blocks: u64,
    #[serde(default)]
    supported_io_types: Supported,
}

#[derive(Default, Deserialize)]
struct Supported {
    #[serde(default)]
    write: bool,
    #[serde(default)]
    unmap: bool,
    #[serde(default)]
    write_zeroes: bool,
}

impl Remote {
    /// Asks a daemon for a disk.
    ///
    /// # Errors
    /// When the daemon does not answer, or has no such disk.
    pub(crate) fn connect(socket: &Path, bdev: &str, allow_writes: bool) -> Result<Self, Failure> {
        let client = Client::connect(socket).map_err(|error| Failure::Unreachable(error.to_string()))?;
        let server_pid = client.server_pid().map(|pid| pid.as_raw_nonzero().get());
        let daemon = Daemon(Rc::new(RefCell::new(client)));
        let answer = daemon.call("bdev_get_bdevs", json!({"name": bdev}))?;
        let [Described { block_size, num_blocks, supported_io_types }]: [Described; 1] = understand("bdev_get_bdevs", answer)?;
        let geometry = Geometry {
            block_bytes: block_size,
            block_count: num_blocks,
            memory_align_bytes: 1,
            segments_max: 1,
            // The daemon knows, and says so when a job begins.
            transfer_max_bytes: u32::MAX,
            physical_block_bytes: block_size,
            write_cache: true,
            read_only: !supported_io_types.write,
            features: Features { discard: supported_io_types.unmap, write_zeroes: supported_io_types.write_zeroes },
        };
        Ok(Self { daemon, bdev: bdev.to_owned(), geometry, server_pid, allow_writes })
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The daemon's process, where it can be seen from here.
    pub(crate) fn server_pid(&self) -> Option<i32> {
        self.server_pid
    }
}

fn understand<T: for<'a> Deserialize<'a>>(method: &str, answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::Unreachable(format!(
            "the daemon's reply to {method} cannot be used: {error}; are its version and this program's the same?"
        ))
    })
}

/// Jobs inside the daemon.
pub(crate) struct RemoteCrew {
    daemon: Daemon,
    members: Vec<Member>,
}

struct Member {
    id: u64,
    is_over: bool,
    is_gone: bool,
}

/// As `bdev_bench_get` answers.
#[derive(Deserialize)]
struct Told {
    tallies: Vec<WireTally>,
}

impl RemoteCrew {
    /// Puts the jobs to work.
    ///
    /// # Errors
    /// When the daemon refuses one; those before it are stopped.
    pub(crate) fn start(remote: &Remote, jobs: &[Job]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Started {
            id: u64,
        }
        let mut crew = Self { daemon: remote.daemon.clone(), members: Vec::new() };
        for job in jobs {
            let params = json!({"name": remote.bdev, "job": job, "allow_writes": remote.allow_writes});
            let started = crew.daemon.call("bdev_bench_start", params).and_then(|answer| understand("bdev_bench_start", answer));
            match started {
                Ok(Started { id }) => crew.members.push(Member { id, is_over: false, is_gone: false }),
                Err(failure) => {
                    Box::new(crew).dismiss();
                    return Err(failure);
                }
            }
        }
        Ok(crew)
    }

    /// Calls a method about one member, and takes the tallies that it answers.
    fn ask(&mut self, number: usize, method: &str, take: &mut dyn FnMut(usize, &Tally)) -> Result<(), Failure> {
        let member = &mut self.members[number];
        let Told { tallies } = understand(method, self.daemon.call(method, json!({"id": member.id}))?)?;
        for wire in &tallies {
            let tally = Tally::try_from(wire).map_err(|error| Failure::Unreachable(with_causes(&error)))?;
            member.is_over |= tally.ended.is_some();
            take(number, &tally);
        }
        Ok(())
    }
}

impl Crew for RemoteCrew {
    fn collect(&mut self, take: &mut dyn FnMut(usize, &Tally)) -> Result<bool, Failure> {
        for number in 0..self.members.len() {
            if !self.members[number].is_over {
                self.ask(number, "bdev_bench_get", take)?;
            }
        }
        Ok(self.members.iter().all(|member| member.is_over))
    }

    fn stop(&mut self, take: &mut dyn FnMut(usize, &Tally)) -> Result<(), Failure> {
        for number in 0..self.members.len() {
            if !self.members[number].is_over {
                self.ask(number, "bdev_bench_stop", take)?;
                (self.members[number].is_over, self.members[number].is_gone) = (true, true);
            }
        }
        Ok(())
    }

    fn cpu_ns(&self) -> u64 {
        0
    }

    fn dismiss(mut self: Box<Self>) {
        for number in 0..self.members.len() {
            if !self.members[number].is_gone {
                // A daemon that is gone has nothing to take apart; one that refuses forgets it by itself.
                let _ = self.ask(number, "bdev_bench_stop", &mut |_, _| ());
            }
        }
    }
}
