//! The process that is killed: it serves one queue over memory of its parent's, and never ends by itself. Knows no guest.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use spinel_core::mem::{Array, Region};
use spinel_sim::Prng;
use spinel_sim::guest::{Layout, SimGuest};
use spinel_vhost::RecordPlace;

use crate::common::held::{HeldDevice, Stage};
use crate::common::medium::Medium;
use crate::common::{Bench, find};

/// The variable by which a server is told what to serve.
pub(crate) const TOLD: &str = "SPINEL_TEST_SERVER_OF";
/// Sectors of the disk; of these the first few are wanted most, so that requests often meet.
pub(crate) const SECTORS: u64 = 1024;
pub(crate) const SECTORS_WANTED: u64 = 48;
/// The medium of the disk, in whole pages.
pub(crate) const MEDIUM_BYTES: u64 = Medium::bytes(SECTORS);
/// Behind the medium: what its server counts.
pub(crate) const NOTES_BYTES: u64 = 4096;

/// What servers count, one after the other: how many there were, how many requests they have done again, and their turns.
pub(crate) struct Notes(Array<u32>);

impl Notes {
    pub(crate) fn over(region: &Arc<Region>) -> Self {
        Self(region.array(0, 3).unwrap())
    }

    pub(crate) fn lives(&self) -> u32 {
        self.0.load(0, Ordering::Acquire)
    }

    pub(crate) fn replays(&self) -> u32 {
        self.0.load(1, Ordering::Acquire)
    }

    pub(crate) fn turns(&self) -> u32 {
        self.0.load(2, Ordering::Acquire)
    }

    fn add(&self, at: u32, more: u32) {
        self.0.store(at, self.0.load(at, Ordering::Relaxed).wrapping_add(more), Ordering::Release);
    }
}

/// Turns between two looks at who the parent is.
const TURNS: u32 = 64;
/// Turns without a completion after which a request completes that would be kept back: some other may wait for it.
const LULL_MAX: u32 = 2_000;

/// How a server treats requests.
struct Manner {
    /// So many stay where they are.
    keeps: u64,
    /// Of the others one in so many completes in a turn.
    one_in: u64,
}

/// Tells requests how far to go. Says whether any completes.
fn tell(device: &HeldDevice, prng: &mut Prng, manner: &Manner, hurries: bool) -> bool {
    let (mut held, mut completes) = (0, false);
    device.each(|_| held += 1);
    device.each(|request| {
        let goes = held > manner.keeps && prng.one_in(manner.one_in) || hurries && !completes;
        if goes {
            (request.stage, completes) = (Stage::Over, true);
            held -= 1;
        } else if prng.one_in(16) {
            request.stage = request.stage.max(Stage::Executed);
        }
    });
    completes
}

/// Serves until it is killed, or its parent is gone.
pub(crate) fn serve(told: &str) {
    let mut told = told.split(' ');
    let mut next = || told.next().unwrap();
    let parent = next().to_owned();
    let mut file = || File::options().read(true).write(true).open(format!("/proc/{parent}/fd/{}", next())).unwrap();
    let [guest, record, medium] = [file(), file(), file()];
    let [size, packed, indirect, event_idx, seed] = [(); 5].map(|()| next());
    let flag = |text: &str| text.parse().unwrap();
    let layout = Layout {
        size: size.parse().unwrap(),
        packed: flag(packed),
        indirect: flag(indirect),
        event_idx: flag(event_idx),
        data_bytes: 4096,
    };
    let mut prng = Prng::new(seed.parse().unwrap());
    let map = |file: &File, offset, len_bytes| Region::of_file(file.as_fd(), offset, len_bytes).unwrap();
    let guest = SimGuest::new(map(&guest, 0, SimGuest::memory_bytes(layout)), layout);
    let place = RecordPlace { region: map(&record, 0, RecordPlace::bytes(size.parse().unwrap())), offset: 0 };
    let device = HeldDevice::over(Arc::new(Medium::over(&map(&medium, 0, MEDIUM_BYTES))));
    let notes = Notes::over(&map(&medium, MEDIUM_BYTES, NOTES_BYTES));
    notes.add(0, 1);
    let ring = find(&guest, layout).on_record(&place, false).unwrap();
    notes.add(1, u32::try_from(ring.owed()).unwrap());
    let mut bench = Bench::serve(Arc::clone(&device) as _, guest, ring, false);
    let manner = Manner { keeps: prng.below(12), one_in: *prng.pick(&[1, 2, 4, 16]) };
    let mut lull = 0;
    while parent_id().to_string() == parent {
        for _ in 0..TURNS {
            lull = if tell(&device, &mut prng, &manner, lull > LULL_MAX) { 0 } else { lull + 1 };
            bench.turn();
            assert!(bench.events.try_recv().is_err(), "the guest breaks no rule");
        }
        notes.add(2, TURNS);
    }
}
