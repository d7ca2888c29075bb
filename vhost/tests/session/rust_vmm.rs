//! The front end that rust-vmm's virtual machines use, as a second opinion on every message.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use spinel_sim::guest::{GUEST_BASE, GuestRequest, USER_BASE};
use spinel_vhost::ControllerState;
use spinel_volume::{NullDevice, Shape};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use crate::PACKED;
use crate::client::PROTOCOL_ALL;
use crate::guest::{BEGINNING, FEATURES, Guest, LAYOUT};
use crate::host::Host;

/// Counts the notices that reach the front end.
#[derive(Default)]
struct Notices(AtomicU32);

impl VhostUserFrontendReqHandler for Notices {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(0)
    }
}

fn region(guest: &Guest, at: u64, len_bytes: u64) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST_BASE + at,
        memory_size: len_bytes,
        userspace_addr: USER_BASE + at,
        mmap_offset: at,
        mmap_handle: guest.memory.as_raw_fd(),
    }
}

/// Sets a queue up by every message there is for one, and reads through it.
fn use_queue(front_end: &mut Frontend, guest: &mut Guest, index: usize) {
    let [desc_table_addr, avail_ring_addr, used_ring_addr] = guest.queues[index].ring.addresses();
    let place = VringConfigData {
        queue_max_size: LAYOUT.size,
        queue_size: LAYOUT.size,
        flags: 0,
        desc_table_addr,
        used_ring_addr,
        avail_ring_addr,
        log_addr: None,
    };
    let [kick, call, error] = [(); 3].map(|()| EventFd::new(0).unwrap());
    front_end.set_vring_num(index, LAYOUT.size).unwrap();
    front_end.set_vring_addr(index, &place).unwrap();
    front_end.set_vring_base(index, u16::try_from(BEGINNING & 0xffff).unwrap()).unwrap();
    front_end.set_vring_call(index, &call).unwrap();
    front_end.set_vring_err(index, &error).unwrap();
    front_end.set_vring_kick(index, &kick).unwrap();
    front_end.set_vring_enable(index, true).unwrap();
    let ring = &mut guest.queues[index].ring;
    ring.post(GuestRequest::read(0, 4096));
    ring.publish();
    kick.write(1).unwrap();
    let finished = loop {
        match ring.reap() {
            Some(finished) => break finished,
            None => call.read().unwrap(),
        };
    };
    assert_eq!(finished.status, 0);
}

#[test]
fn a_front_end_that_is_not_ours_agrees_on_every_message() {
    let host = Host::new();
    let disk = Arc::new(NullDevice::new(Shape::new(512, 4096)).unwrap());
    let served = host.serve(Arc::clone(&disk) as _);
    let mut guest = Guest::new(2);
    let mut front_end = Frontend::connect(&served.path, 2).unwrap();
    front_end.set_owner().unwrap();
    assert_eq!(front_end.get_features().unwrap() & FEATURES, FEATURES);
    front_end.set_features(FEATURES).unwrap();
    let protocol = front_end.get_protocol_features().unwrap();
    assert_eq!(protocol, VhostUserProtocolFeatures::from_bits_retain(PROTOCOL_ALL));
    front_end.set_protocol_features(protocol).unwrap();
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!((front_end.get_queue_num().unwrap(), front_end.get_max_mem_slots().unwrap()), (2, 64));

    let (_, config) = front_end.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]).unwrap();
    assert_eq!(config[..8], 4096_u64.to_le_bytes());
    front_end.set_config(32, VhostUserConfigFlags::WRITABLE, &[1]).unwrap();
    assert!(front_end.set_config(32, VhostUserConfigFlags::WRITABLE, &[2]).is_err());

    // The first queue's memory in a table, the second one's in a slot.
    let half = guest.len_bytes / 2;
    front_end.set_mem_table(&[region(&guest, 0, half)]).unwrap();
    front_end.add_mem_region(&region(&guest, half, half)).unwrap();
    assert!(front_end.add_mem_region(&region(&guest, half, half)).is_err(), "it overlaps itself");
    for index in 0..2 {
        use_queue(&mut front_end, &mut guest, index);
    }

    let notices = Arc::new(Notices::default());
    let mut channel = FrontendReqHandler::new(Arc::clone(&notices)).unwrap();
    channel.set_reply_ack_flag(true);
    front_end.set_backend_request_fd(&channel.get_tx_raw_fd()).unwrap();
    disk.resize(8192).unwrap();
    served.controller.resized();
    channel.handle_request().unwrap();
    assert_eq!(notices.0.load(Ordering::Relaxed), 1);

    for index in 0..2 {
        assert_eq!(front_end.get_vring_base(index).unwrap(), BEGINNING + if PACKED { 0x1_0001 } else { 1 });
    }
    front_end.remove_mem_region(&region(&guest, half, half)).unwrap();
    front_end.reset_device().unwrap();
    front_end.reset_owner().unwrap();
    front_end.get_features().unwrap();
    let ControllerState::Connected(session) = served.controller.info().state else { panic!("the session is over") };
    assert_eq!((session.features, session.queues.len(), session.memory.len()), (0, 0, 1));
    drop(front_end);
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
}
