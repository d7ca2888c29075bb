//! 4k random reads over null, memory and a file, under the leanest client there is. Knows no other row.

use std::path::Path;

use super::{FIO, Ran, SPINELD, STORAGE_DAEMON, fio, hold};
use crate::client::BUFFERS_BYTES;
use crate::client::Client;
use crate::contenders::{Polled, Server, Shared, storage_daemon_of_file};
use crate::contest::Entrant;
use crate::servers::{DISK_BYTES, Place, Spineld, StorageDaemon};
use crate::work::Work;
use crate::{Failure, Pace};

const WORKS: [Work; 3] = [
    Work::random_reads("4k random reads, 1 deep", 4096, 1),
    Work::random_reads("4k random reads, 32 deep", 4096, 32),
    Work::random_reads("4k random reads, 128 deep", 4096, 128),
];

/// Spinel beside others, every server in a process of its own, so that none polls for another.
pub(crate) fn reads(place: &Place, file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    let entrants = vec![
        Entrant { device: "null", name: SPINELD, contender: Box::new(spineld(place, "null", file)?) },
        Entrant { device: "null", name: STORAGE_DAEMON, contender: Box::new(storage_daemon(place, None)?) },
        Entrant { device: "memory", name: SPINELD, contender: Box::new(spineld(place, "memory", file)?) },
        Entrant { device: "file", name: SPINELD, contender: Box::new(spineld(place, "file", file)?) },
        Entrant { device: "file", name: STORAGE_DAEMON, contender: Box::new(storage_daemon(place, Some(file))?) },
        Entrant { device: "file", name: FIO, contender: Box::new(fio(file)) },
    ];
    hold(place, pace, "reads", &WORKS, entrants, &[])
}

fn spineld(place: &Place, device: &str, file: &Path) -> Result<Polled, Failure> {
    let mut spineld = Spineld::start(place, &[])?;
    let socket = match device {
        "null" => spineld.null("disk"),
        "memory" => spineld.memory("disk"),
        _ => spineld.file("disk", file),
    }?;
    let mut client = Client::connect(&socket, BUFFERS_BYTES)?;
    if device == "memory" {
        // Memory that was never written is one page of zeroes, over and over.
        client.fill()?;
    }
    Ok(Polled { server: Shared::new(Server::Spineld(spineld)), client: Box::new(client) })
}

fn storage_daemon(place: &Place, file: Option<&Path>) -> Result<Polled, Failure> {
    let mut server = match file {
        None => StorageDaemon::start(place, &format!("driver=null-co,node-name=disk,size={DISK_BYTES},read-zeroes=off")),
        Some(file) => storage_daemon_of_file(place, file),
    }?;
    let client = server.connect(BUFFERS_BYTES)?;
    Ok(Polled { server: Shared::new(Server::StorageDaemon(server)), client: Box::new(client) })
}
