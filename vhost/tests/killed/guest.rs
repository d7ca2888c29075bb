//! The guest that outlives its servers: it posts whatever comes to mind and checks every answer. Knows no server.

use std::sync::Arc;

use spinel_core::{Device, Lba, Status};
use spinel_sim::guest::{Finished, GuestRequest, Layout, SimGuest};
use spinel_sim::{Checked, Checker, Flush, Prng, Read, Write};

use crate::common::held::HeldDevice;
use crate::common::medium::Medium;
use crate::server::{SECTORS, SECTORS_WANTED};

const SECTOR_BYTES: u32 = 512;
/// Most sectors of one request.
const SECTORS_MAX: u64 = 8;
/// virtio-blk's GET_ID, and how many bytes that is.
const GET_ID: u32 = 8;
const ID_BYTES: u32 = 20;

/// A request that has not completed.
#[derive(Debug)]
enum Asked {
    Read(Read, u32),
    Write(Write),
    Flush(Flush),
    Id,
}

pub(crate) struct Guest {
    ring: SimGuest,
    checker: Checker,
    prng: Prng,
    /// By head.
    asked: Vec<Option<Asked>>,
    completed: u64,
    ids: u64,
}

impl Guest {
    pub(crate) fn new(ring: SimGuest, layout: Layout) -> Self {
        let geometry = HeldDevice::over(Arc::new(Medium::anonymous(SECTORS))).geometry();
        let checker = Checker::new(7, &geometry).without_power_cuts();
        let asked = (0..layout.size).map(|_| None).collect();
        Self { ring, checker, prng: Prng::new(layout.size.into()), asked, completed: 0, ids: 0 }
    }

    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }

    /// How many asked for the disk's name.
    pub(crate) fn ids(&self) -> u64 {
        self.ids
    }

    pub(crate) fn checked(&self) -> Checked {
        self.checker.checked()
    }

    /// Requests that have not completed.
    pub(crate) fn posted(&self) -> u64 {
        u64::try_from(self.asked.iter().flatten().count()).unwrap()
    }

    /// The same in words.
    pub(crate) fn outstanding(&self) -> String {
        format!("{:?}", self.asked.iter().enumerate().filter(|(_, asked)| asked.is_some()).collect::<Vec<_>>())
    }

    /// Posts some requests, if there is room.
    pub(crate) fn post(&mut self) {
        // Two are as many descriptors as any request takes.
        let room = self.ring.room().saturating_sub(1);
        if room == 0 {
            return;
        }
        for _ in 0..self.prng.within(1..=u64::try_from(room).unwrap()) {
            if self.ring.room() > 1 {
                self.post_one();
            }
        }
        self.ring.publish();
    }

    fn post_one(&mut self) {
        let head = self.ring.next_head().unwrap();
        let sectors = self.prng.within(1..=SECTORS_MAX);
        let among = if self.prng.one_in(4) { SECTORS_WANTED } else { SECTORS };
        let start = self.prng.below(among - sectors + 1);
        let pieces = u16::try_from(self.prng.within(1..=3)).unwrap();
        let blocks = u32::try_from(sectors).unwrap();
        let len_bytes = blocks * SECTOR_BYTES;
        let (request, asked) = match self.prng.below(20) {
            0 => (GuestRequest { kind: GET_ID, ..GuestRequest::read(0, ID_BYTES) }, Asked::Id),
            1 => (GuestRequest::flush(), Asked::Flush(self.checker.begin_flush())),
            2..=9 => (
                GuestRequest { pieces, ..GuestRequest::read(start, len_bytes) },
                Asked::Read(self.checker.begin_read(Lba(start), blocks), blocks),
            ),
            _ => {
                let (write, bytes) = self.checker.begin_write(1, Lba(start), blocks, false);
                self.ring.region().write(self.ring.data_at(head), &bytes).unwrap();
                (GuestRequest { pieces, ..GuestRequest::write(start, len_bytes) }, Asked::Write(write))
            }
        };
        self.post_as(request, asked);
    }

    fn post_as(&mut self, request: GuestRequest, asked: Asked) {
        if request.device_writes {
            let head = self.ring.next_head().unwrap();
            self.ring.region().write(self.ring.data_at(head), &[0xee; 4096]).unwrap();
        }
        let head = self.ring.post(request);
        assert!(self.asked[usize::from(head)].replace(asked).is_none());
    }

    /// Takes what has completed, and says how much.
    pub(crate) fn reap(&mut self) -> u64 {
        let mut count = 0;
        while let Some(finished) = self.ring.reap() {
            self.check(finished);
            count += 1;
        }
        self.completed += count;
        count
    }

    fn check(&mut self, Finished { head, written_bytes, status }: Finished) {
        let asked = self.asked[usize::from(head)].take().expect("a request completes once");
        assert_eq!(status, 0, "{asked:?}");
        let data = |len_bytes: u32| {
            assert_eq!(written_bytes, len_bytes + 1);
            let mut bytes = vec![0; usize::try_from(len_bytes).unwrap()];
            self.ring.region().read(self.ring.data_at(head), &mut bytes).unwrap();
            bytes
        };
        match asked {
            Asked::Read(read, blocks) => {
                let bytes = data(blocks * SECTOR_BYTES);
                self.checker.end_read(read, Status::Ok, &bytes).unwrap_or_else(|violation| panic!("{violation}"));
            }
            Asked::Write(write) => {
                data(0);
                self.checker.end_write(write, Status::Ok);
            }
            Asked::Flush(flush) => {
                data(0);
                self.checker.end_flush(flush, Status::Ok);
            }
            Asked::Id => {
                assert_eq!(data(ID_BYTES)[..6], *b"disk0\0");
                self.ids += 1;
            }
        }
    }

    /// Reads the whole disk; `wait` waits for so many requests.
    pub(crate) fn read_everything(&mut self, mut wait: impl FnMut(&mut Self, u64)) {
        for start in (0..SECTORS).step_by(usize::try_from(SECTORS_MAX).unwrap()) {
            let blocks = u32::try_from(SECTORS_MAX.min(SECTORS - start)).unwrap();
            let asked = Asked::Read(self.checker.begin_read(Lba(start), blocks), blocks);
            self.post_as(GuestRequest::read(start, blocks * SECTOR_BYTES), asked);
            self.ring.publish();
            wait(self, 1);
        }
    }
}
