//! Too much of what is allowed. Knows no ring's content.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::guest::{Guest, Kind, new_memory, ring_up};
use crate::wire::{Client, GET_FEATURES, PLAIN, Packet, header};
use crate::{Entry, Must, Outcome, Surprise, Target, Visit};

pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = vec![
        Entry::free("flood: questions whose answers nobody reads", questions),
        Entry::free("flood: 3,200 descriptors that nobody asked for", descriptors),
        Entry::free("flood: 200 clients that leave at once", |target| {
            for _ in 0..200 {
                UnixStream::connect(&target.socket)?;
            }
            Ok(())
        }),
        Entry::free("flood: more clients than may wait", more_than_may_wait),
        Entry::free("flood: an urgent byte, ahead of all others", |target| {
            let client = Client::connect(&target.socket)?;
            rustix::net::send(client.socket(), &[1], SendFlags::OOB | SendFlags::NOSIGNAL)?;
            client.leave()
        }),
        Entry::free("flood: a client that says nothing", |target| Client::connect(&target.socket)?.leave()),
        Entry::story("flood: 10,000 questions in one go", Must::Endure, Kind::Split, |visit| {
            for _ in 0..100 {
                visit.client.send(&header(GET_FEATURES, PLAIN, 0).repeat(100), &[])?;
                for _ in 0..100 {
                    visit.client.receive(GET_FEATURES)?;
                }
            }
            Ok(())
        }),
    ];
    entries.extend(Entry::stories("flood: kicks without end", Must::Endure, kicks));
    entries
}

fn questions(target: &Target) -> Outcome {
    let client = Client::connect(&target.socket)?;
    let questions = header(GET_FEATURES, PLAIN, 0).repeat(1000);
    // Ends with a broken pipe once the server has given up.
    while client.try_send(&questions, &[]) {}
    client.wait_closed()
}

fn descriptors(target: &Target) -> Outcome {
    let file = new_memory(4096)?;
    let flood: [BorrowedFd<'_>; 32] = [file.as_fd(); 32];
    for _ in 0..10 {
        let client = Client::connect(&target.socket)?;
        for _ in 0..10 {
            client.try_send(&header(77, PLAIN, 0), &flood);
        }
        client.wait_closed()?;
    }
    let mut client = Client::negotiated(&target.socket, Kind::Split.features())?;
    for _ in 0..10 {
        let fds = flood.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>()?;
        if client.result_of(&Packet::with(77, vec![], fds))? == 0 {
            return Err(Surprise::of("a request that there is not was done".to_owned()));
        }
    }
    client.leave()
}

/// Connects without waiting, to a server that serves somebody else, until there is no more room.
fn more_than_may_wait(target: &Target) -> Outcome {
    let guest = Guest::new(Kind::Split, 1)?;
    let first = guest.attach(&target.socket)?;
    let address = SocketAddrUnix::new(&target.socket)?;
    let mut waiting = Vec::new();
    for _ in 0..1000 {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        if connect(&socket, &address).is_err() {
            break;
        }
        waiting.push(socket);
    }
    if waiting.len() == 1000 {
        return Err(Surprise::of("any number of clients may wait".to_owned()));
    }
    first.leave()
}

/// Kicks as fast as the system can while both rings are used.
fn kicks(visit: &mut Visit) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let kick = visit.guest.queues[0].kick.try_clone()?;
    let body = move || {
        while !stopped.load(Ordering::Relaxed) && ring_up(&kick).is_ok() {}
    };
    let thread = std::thread::Builder::new().name("kicks".to_owned()).spawn(body)?;
    let used = (0..100).try_for_each(|round| {
        visit.guest.queues[0].check(8 * round, 1)?;
        visit.guest.queues[1].check(1600 + 8 * round, 2)
    });
    stop.store(true, Ordering::Relaxed);
    assert!(thread.join().is_ok(), "it does nothing that could panic");
    used
}
