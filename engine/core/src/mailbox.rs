//! The one way onto a core from other threads: commands, and a bell that wakes it. Knows nothing of what the commands do.
//!
//! The bell's protocol, both sides, on every platform:
//! the sleeper stores `asleep`, fences, and looks at the inbox once more before it
//! sleeps; the sender puts its message in, fences, and looks at `asleep`. One of the
//! two sees the other, so no message is slept through.

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use spinel_mem::{Region, RegionId};

use crate::core::{Core, CoreId};
use crate::device::OpenError;
use crate::poller::{PollerId, Recipe, Remains};

/// Wakes a sleeping core.
#[derive(Debug)]
pub struct Bell {
    asleep: AtomicBool,
    /// How often somebody came to ring, asleep or not: once for each message.
    rung: AtomicU64,
    fd: OwnedFd,
}

impl Bell {
    /// The descriptor that becomes readable when the bell rings.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Says that this core is about to sleep; what is sent from now on rings. Look at the inbox again afterwards.
    pub fn hang(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that this core is awake. Empties the descriptor if somebody rang.
    pub fn unhang(&self) {
        if !self.asleep.swap(false, Ordering::SeqCst) {
            // Somebody took the flag to ring: the descriptor is, or is about to be, readable. One early wake-up at worst.
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.fd, &mut count);
        }
    }

    /// Rings if the core sleeps, or is about to. Call after the message is in.
    pub fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            let written = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
            debug_assert!(written.is_ok(), "an eventfd takes a small count");
        }
    }
}

/// What a core can be told to do. Control only: the data path sends no messages.
pub enum Command {
    /// Makes a poller by its recipe and runs it.
    Add(Recipe, Sender<Result<PollerId, OpenError>>),
    /// Stops a poller; the reply comes when nothing of it flies any more.
    Stop(PollerId, Sender<Remains>),
    /// Takes a stop back whose reply has not come. Says whether the poller goes on; if so, that reply never comes.
    Resume(PollerId, Sender<bool>),
    /// Announces a region.
    Map(Arc<Region>, Sender<()>),
    /// Forgets a region; the reply carries it away, so that it is never unmapped on the core.
    Unmap(RegionId, Sender<Option<Arc<Region>>>),
    /// Asks for the pollers that run, with their names.
    List(Sender<Vec<(PollerId, String)>>),
    /// Runs something short on the core.
    Visit(Box<dyn FnOnce(&mut Core) + Send>),
    /// Ends the reactor once its pollers have been stopped.
    Quit,
}

/// The sending end: one per core, cloned freely.
#[derive(Clone, Debug)]
pub struct Mailbox {
    core: CoreId,
    sender: Sender<Command>,
    bell: Arc<Bell>,
}

/// The receiving end, on the core.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Command>,
    /// How many were taken.
    taken: Cell<u64>,
    bell: Arc<Bell>,
}

/// Makes the two ends of a core's mailbox.
///
/// # Errors
/// When the system gives no eventfd.
pub fn mailbox(core: CoreId) -> Result<(Mailbox, Inbox), OpenError> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| OpenError::System { doing: "making an eventfd for a core's mailbox", source: error.into() })?;
    let bell = Arc::new(Bell { asleep: AtomicBool::new(false), rung: AtomicU64::new(0), fd });
    // Not bounded: a bounded channel keeps what arrives as its receiver goes, and with it the reply's sender, so that
    // whoever asked would wait for ever. Senders wait for each answer, so their number is the bound.
    let (sender, receiver) = unbounded();
    Ok((Mailbox { core, sender, bell: Arc::clone(&bell) }, Inbox { receiver, taken: Cell::new(0), bell }))
}

impl Mailbox {
    /// Which core this reaches.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Sends a command. A core that has quit drops it, and with it the reply's sender.
    pub fn post(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            self.bell.ring();
        }
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Receiver<T> {
        let (reply, answer) = bounded(1);
        self.post(command(reply));
        answer
    }

    /// Makes a poller on the core and waits until it runs.
    ///
    /// # Errors
    /// What the recipe answers; [`OpenError::Gone`] if the core has quit.
    pub fn add(&self, recipe: Recipe) -> Result<PollerId, OpenError> {
        self.begin_add(recipe).recv().unwrap_or(Err(OpenError::Gone))
    }

    /// The same without waiting. The receiver yields when it runs, or why it does not; nothing if the core has quit.
    #[must_use]
    pub fn begin_add(&self, recipe: Recipe) -> Receiver<Result<PollerId, OpenError>> {
        self.ask(|reply| Command::Add(recipe, reply))
    }

    /// Asks a poller to stop. The receiver yields its remains once it has drained, which a hung device may delay for ever.
    #[must_use]
    pub fn stop(&self, id: PollerId) -> Receiver<Remains> {
        self.ask(|reply| Command::Stop(id, reply))
    }

    /// Takes a stop back. False if it is too late, because the remains are there or on their way, or if the poller cannot.
    #[must_use]
    pub fn resume(&self, id: PollerId) -> bool {
        self.ask(|reply| Command::Resume(id, reply)).recv().unwrap_or(false)
    }

    /// Announces a region and waits until the core knows it.
    pub fn map(&self, region: Arc<Region>) {
        let _ = self.ask(|reply| Command::Map(region, reply)).recv();
    }

    /// Forgets a region and brings it back from the core.
    pub fn unmap(&self, id: RegionId) -> Option<Arc<Region>> {
        self.ask(|reply| Command::Unmap(id, reply)).recv().ok().flatten()
    }

    /// The pollers that run on the core, with their names.
    #[must_use]
    pub fn list(&self) -> Vec<(PollerId, String)> {
        self.ask(Command::List).recv().unwrap_or_default()
    }

    /// Runs something short on the core and waits for its answer; `None` if the core has quit.
    pub fn visit<T: Send + 'static>(&self, run: impl FnOnce(&mut Core) -> T + Send + 'static) -> Option<T> {
        let visit = |reply: Sender<T>| {
            Command::Visit(Box::new(move |core: &mut Core| {
                let _ = reply.send(run(core));
            }))
        };
        self.ask(visit).recv().ok()
    }
}

impl Inbox {
    /// The next command, if there is one.
    #[must_use]
    #[inline]
    pub fn take(&self) -> Option<Command> {
        // Every turn asks, nearly all in vain, and a channel fences before it says that it has no message.
        let taken = self.taken.get();
        if self.bell.rung.load(Ordering::Acquire) == taken { None } else { self.receive(taken) }
    }

    #[cold]
    fn receive(&self, taken: u64) -> Option<Command> {
        let command = self.receiver.try_recv().ok()?;
        self.taken.set(taken + 1);
        Some(command)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// The bell that rings for this inbox.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_a_core_that_is_gone_gets_an_answer() {
        let (mailbox, inbox) = mailbox(CoreId(0)).unwrap();
        let asked = mailbox.stop(PollerId(7));
        drop(inbox);
        assert!(asked.recv().is_err(), "a question that came before the end");
        assert!(mailbox.stop(PollerId(7)).recv().is_err(), "and one that came after it");
        assert!(mailbox.list().is_empty());
    }
}
