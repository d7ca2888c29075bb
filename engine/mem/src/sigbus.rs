//! The table of live regions, and what happens when one of them loses its file. Knows nothing of queues or sessions.
//!
//! A peer that shares its memory by file descriptor can truncate the file at any time;
//! the next touch of a missing page raises SIGBUS. The handler finds the region the
//! address belongs to, puts zeroed private memory in the page's place and marks the
//! region poisoned, so that one faulty peer costs its own device only. A SIGBUS
//! anywhere else keeps its default meaning.

use std::sync::Once;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::region::REGIONS_MAX;

struct Slot {
    state: AtomicU8,
    base: AtomicUsize,
    len_bytes: AtomicUsize,
    losses: AtomicUsize,
}

/// Pages of one region that are replaced singly; at the next loss the whole region is.
const PAGES_MAX: usize = 64;

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const LIVE: u8 = 2;

static SLOTS: [Slot; REGIONS_MAX as usize] =
    [const { Slot { state: AtomicU8::new(FREE), base: AtomicUsize::new(0), len_bytes: AtomicUsize::new(0), losses: AtomicUsize::new(0) } };
        REGIONS_MAX as usize];
static LOSSES: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();

/// Claims an id for a mapping and watches its first `len_bytes`, none for memory without a file; `None` if all ids are taken.
pub(crate) fn guard(base: usize, len_bytes: usize) -> Option<u16> {
    INSTALL.call_once(install);
    let index = SLOTS.iter().position(|slot| slot.state.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    let slot = &SLOTS[index];
    slot.base.store(base, Ordering::Relaxed);
    slot.len_bytes.store(len_bytes, Ordering::Relaxed);
    slot.losses.store(0, Ordering::Relaxed);
    slot.state.store(LIVE, Ordering::Release);
    Some(u16::try_from(index).expect("below REGIONS_MAX"))
}

pub(crate) fn release(index: u16) {
    SLOTS[usize::from(index)].state.store(FREE, Ordering::Release);
}

pub(crate) fn poisoned(index: u16) -> bool {
    SLOTS[usize::from(index)].losses.load(Ordering::Relaxed) > 0
}

/// How many times memory of any region was found missing in this process. Cheap: look at single regions only when it has changed.
#[must_use]
pub fn losses() -> usize {
    LOSSES.load(Ordering::Relaxed)
}

fn install() {
    // SAFETY: an all-zero sigaction is a valid value of that C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is initialised and the handler is async-signal-safe: atomics and mmap only.
    let rc = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(rc, 0, "SIGBUS can always be handled");
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS is a signal for which si_addr is defined.
    let address = unsafe { info.si_addr() }.addr();
    // Only a page that its file no longer has is mended; failed memory (BUS_MCEERR_*) must not read as zeroes.
    if info.si_code != libc::BUS_ADRERR || !mend(address) {
        // Not ours: restore the default action and return, so that the access faults again and kills us visibly.
        // SAFETY: resetting a signal's disposition is async-signal-safe.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

/// Puts zeroed memory under a faulting address if it lies in a live region.
fn mend(address: usize) -> bool {
    for slot in &SLOTS {
        if slot.state.load(Ordering::Acquire) != LIVE {
            continue;
        }
        let base = slot.base.load(Ordering::Relaxed);
        let len_bytes = slot.len_bytes.load(Ordering::Relaxed);
        if address < base || address - base >= len_bytes {
            continue;
        }
        LOSSES.fetch_add(1, Ordering::Relaxed);
        let few = slot.losses.fetch_add(1, Ordering::Relaxed) < PAGES_MAX;
        // Each page replaced is a mapping more, of which a process may have only so many. A huge page cannot be replaced in part.
        return (few && replace(address & !4095, 4096)) || replace(base, len_bytes);
    }
    false
}

fn replace(address: usize, len_bytes: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
    // SAFETY: the range lies inside a live region's mapping, whose content is lost already.
    let map = unsafe { libc::mmap(at, len_bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    map != libc::MAP_FAILED
}
