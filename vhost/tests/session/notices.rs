//! The way back to the front end: changes of the configuration.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use spinel_volume::{NullDevice, Shape};

use crate::client::*;
use crate::guest::{FEATURES, Guest};
use crate::host::Host;
use crate::journal;

const CONFIG_CHANGE: u32 = 2;

/// A channel for the back end's requests: its end, ours.
fn channel() -> (OwnedFd, UnixStream) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (theirs.into(), ours)
}

fn next(socket: &mut UnixStream) -> Vec<u8> {
    let mut head = vec![0; 12];
    socket.read_exact(&mut head).unwrap();
    head
}

fn nothing_in(socket: &mut UnixStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let nothing = socket.read(&mut [0; 12]).is_err();
    socket.set_nonblocking(false).unwrap();
    nothing
}

fn capacity(client: &mut Client) -> u64 {
    u64::from_le_bytes(client.ask(GET_CONFIG, &words(&[0, 8, 0]))[12..].try_into().unwrap())
}

#[test]
fn a_running_guest_hears_of_a_new_size() {
    let host = Host::new();
    for acknowledged in [true, false] {
        let disk = Arc::new(NullDevice::new(Shape::new(512, 2048)).unwrap());
        let served = host.serve(Arc::clone(&disk) as _);
        let guest = Guest::new(1);
        let (theirs, mut ours) = channel();
        let mut client = guest.attach(&served.path);
        if !acknowledged {
            client.negotiate(BACKEND_REQ | CONFIG | MQ, FEATURES);
        }
        client.tell(SET_BACKEND_REQ_FD, &[], &[&theirs]);
        assert_eq!(capacity(&mut client), 2048);
        for (round, result) in [(1, 0_u64), (2, 5), (3, 0)] {
            disk.resize(2048 << round).unwrap();
            served.controller.resized();
            let flags = if acknowledged { NEED_REPLY } else { PLAIN };
            assert_eq!(next(&mut ours), header(CONFIG_CHANGE, flags, 0));
            assert_eq!(capacity(&mut client), 2048 << round, "asked before the notice is acknowledged");
            if acknowledged {
                // In two pieces, as a stream may deliver it.
                let reply = [header(CONFIG_CHANGE, 5, 8), longs(&[result])].concat();
                ours.write_all(&reply[..7]).unwrap();
                client.sync();
                ours.write_all(&reply[7..]).unwrap();
                client.sync();
            }
        }
        if acknowledged {
            journal::assert_has(&served.name, "result=5");
        }
    }
}

#[test]
fn a_suspended_device_keeps_the_notice_until_it_runs() {
    let host = Host::new();
    let disk = Arc::new(NullDevice::new(Shape::new(512, 2048)).unwrap());
    let served = host.serve(Arc::clone(&disk) as _);
    let guest = Guest::new(1);
    let (theirs, mut ours) = channel();
    let mut client = guest.attach(&served.path);
    client.tell(SET_BACKEND_REQ_FD, &[], &[&theirs]);
    client.ask(GET_VRING_BASE, &words(&[0, 0]));
    served.controller.resized();
    client.sync();
    assert!(nothing_in(&mut ours), "nothing is sent while every ring is stopped");
    client.tell(SET_VRING_KICK, &longs(&[0]), &[&guest.queues[0].kick]);
    assert_eq!(next(&mut ours), header(CONFIG_CHANGE, NEED_REPLY, 0));
    client.sync();
    assert!(nothing_in(&mut ours), "once");
}

#[test]
fn a_front_end_that_answers_nonsense_or_hangs_up_loses_the_channel_only() {
    let host = Host::new();
    let disk = Arc::new(NullDevice::new(Shape::new(512, 2048)).unwrap());
    let served = host.serve(Arc::clone(&disk) as _);
    let guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    assert_ne!(client.try_tell(SET_BACKEND_REQ_FD, &[], &[&guest.memory]), 0, "a memfd is no socket");
    for nonsense in [Some([0xff; 20]), None] {
        let (theirs, mut ours) = channel();
        client.tell(SET_BACKEND_REQ_FD, &[], &[&theirs]);
        drop(theirs);
        served.controller.resized();
        next(&mut ours);
        if let Some(nonsense) = nonsense {
            ours.write_all(&nonsense).unwrap();
            assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0, "the channel is closed");
        }
        drop(ours);
        client.sync();
        served.controller.resized();
        client.sync();
    }
    journal::assert_has(&served.name, "is broken and no longer used");
}
