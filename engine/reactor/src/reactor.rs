//! The loop's body: one turn, and how to come to rest. Knows no thread and no real clock, so that a simulator can own it.

use crossbeam_channel::Sender;
use spinel_core::{Armed, Command, Core, Inbox, Instant, Poller, PollerId, Progress, Recipe, Remains};

struct Running {
    id: PollerId,
    poller: Box<dyn Poller>,
    /// Who waits for its remains, once it was told to stop.
    retiring: Option<Sender<Remains>>,
    stopped: bool,
}

/// Whether a reactor may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Something is there already, or needs spinning for.
    Refused,
    /// Everything is armed: sleep until then, or until something happens.
    Granted(Option<Instant>),
}

/// One core's pollers, drivers and inbox. A turn is: drivers reap, one command, every poller polls, the stopped retire, drivers flush.
pub struct Reactor {
    core: Core,
    inbox: Inbox,
    pollers: Vec<Running>,
    next_id: u64,
    armed: usize,
    quitting: bool,
}

impl Reactor {
    /// A reactor without pollers, which its mailbox's bell wakes.
    #[must_use]
    pub fn new(mut core: Core, inbox: Inbox) -> Self {
        // For as long as the core lives; the bell's descriptor lives as long as the inbox, beside it.
        let _ = core.watch(inbox.bell().fd());
        Self { core, inbox, pollers: Vec::new(), next_id: 0, armed: 0, quitting: false }
    }

    /// How many pollers it runs.
    #[must_use]
    pub fn pollers(&self) -> usize {
        self.pollers.len()
    }

    /// Whether it was told to quit and nothing runs any more.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.quitting && self.pollers.is_empty()
    }

    /// One turn at `now`.
    pub fn turn(&mut self, now: Instant) -> Progress {
        let mut progress = self.core.reap(now);
        if let Some(command) = self.inbox.take() {
            self.obey(command);
            progress = Progress::Busy;
        }
        let mut stopped = false;
        for running in &mut self.pollers {
            let polled = running.poller.poll(now);
            running.stopped = polled == Progress::Stopped;
            stopped |= running.stopped;
            progress = progress.max(polled);
        }
        if stopped {
            self.retire_stopped();
            progress = Progress::Busy;
        }
        self.core.flush();
        progress
    }

    /// Arms every wake-up. After `Granted` the caller sleeps, and calls `disarm` in any case.
    pub fn arm(&mut self) -> Rest {
        self.inbox.bell().hang();
        if !self.inbox.is_empty() {
            return Rest::Refused;
        }
        let mut least = Armed::Idle;
        for running in &mut self.pollers {
            self.armed += 1;
            least = least.min(running.poller.arm());
            if least <= Armed::Spin {
                return Rest::Refused;
            }
        }
        self.core.flush();
        match least.min(self.core.arm()) {
            Armed::Ready | Armed::Spin => Rest::Refused,
            Armed::Until(until) => Rest::Granted(Some(until)),
            Armed::Idle => Rest::Granted(None),
        }
    }

    /// Sleeps as [`Rest::Granted`] said.
    pub fn sleep(&mut self, until: Option<Instant>, now: Instant) {
        self.core.sleep(until, now);
    }

    /// Undoes `arm` for those that were asked.
    pub fn disarm(&mut self) {
        for running in self.pollers.iter_mut().take(self.armed) {
            running.poller.disarm();
        }
        self.armed = 0;
        self.inbox.bell().unhang();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(recipe, reply) => {
                let _ = reply.send(self.add(recipe));
            }
            Command::Stop(id, reply) => {
                // An unknown id drops the reply, which the asker sees as a closed channel.
                if let Some(running) = self.pollers.iter_mut().find(|running| running.id == id) {
                    running.poller.stop();
                    running.retiring = Some(reply);
                }
            }
            Command::Resume(id, reply) => {
                let running = self.pollers.iter_mut().find(|running| running.id == id && running.retiring.is_some());
                let resumed = running.filter(|_| !self.quitting).is_some_and(|running| {
                    let resumed = running.poller.resume();
                    if resumed {
                        running.retiring = None;
                    }
                    resumed
                });
                let _ = reply.send(resumed);
            }
            Command::Map(region, reply) => {
                self.core.map(region);
                let _ = reply.send(());
            }
            Command::Unmap(id, reply) => {
                let _ = reply.send(self.core.unmap(id));
            }
            Command::List(reply) => {
                let _ = reply.send(self.pollers.iter().map(|running| (running.id, running.poller.name().to_owned())).collect());
            }
            Command::Visit(run) => run(&mut self.core),
            Command::Quit => {
                self.quitting = true;
                for running in &mut self.pollers {
                    running.poller.stop();
                }
            }
        }
    }

    fn add(&mut self, recipe: Recipe) -> Result<PollerId, spinel_core::OpenError> {
        if self.quitting {
            return Err(spinel_core::OpenError::Gone);
        }
        let poller = recipe(&mut self.core)?;
        let id = PollerId(self.next_id);
        self.next_id += 1;
        self.pollers.push(Running { id, poller, retiring: None, stopped: false });
        Ok(id)
    }

    fn retire_stopped(&mut self) {
        while let Some(at) = self.pollers.iter().position(|running| running.stopped) {
            let running = self.pollers.remove(at);
            let remains = running.poller.retire(&mut self.core);
            if let Some(reply) = running.retiring {
                let _ = reply.send(remains);
            }
        }
    }
}
