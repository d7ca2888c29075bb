//! The running engine: its reactors, its disks, its phase. Knows no method and no socket of the RPC.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;
use spinel_control::methods::Phase;
use spinel_control::server::Gate;
use spinel_core::Command;
use spinel_handover::Link;
use spinel_reactor::{Clock, Handle, ReactorConfig, StartError};
use spinel_vhost::Pin;

use crate::args::Args;
use crate::cores::CoreList;
use crate::disks::Disks;
use crate::events::Event;
use crate::initiator::Remote;
use crate::keyring::Keyring;
use crate::kinds::chain;
use crate::log::Log;
use crate::nvmf::Nvmf;
use crate::scheduler::{Policy, Scheduler};
use crate::served::Served;
use crate::takeover::Blackouts;

/// Ticks in a second, in every reply that counts ticks: they are nanoseconds.
pub(crate) const TICK_RATE: u64 = 1_000_000_000;

/// How RPC clients reach the engine, and its methods the main thread.
pub(crate) struct Front {
    /// What they connect to.
    pub(crate) listener: OwnedFd,
    /// What keeps them waiting.
    pub(crate) gate: Gate,
    /// The main thread's way to do what a method cannot.
    pub(crate) events: Sender<Event>,
}

impl Front {
    /// Has the main thread give everything to the process at the other end. Nothing may be changed from here on.
    pub(crate) fn begin_handing_over(&self, engine: &Engine, link: Link) {
        engine.handing_over.store(true, Ordering::Relaxed);
        // It ends only with the process.
        let _ = self.events.send(Event::HandOver(link));
    }
}

/// Everything the methods work on.
pub(crate) struct Engine {
    reactors: Vec<Handle>,
    log: Log,
    vhost_folder: PathBuf,
    pin: Option<Pin>,
    initialised: AtomicBool,
    handing_over: AtomicBool,
    front: OnceLock<Front>,
    blackouts: Locked<Blackouts>,
    disks: Arc<Locked<Disks>>,
    keyring: Keyring,
    nvmf: Nvmf,
    remote: Remote,
    scheduler: Locked<Scheduler>,
}

#[allow(clippy::disallowed_types, reason = "control threads only; no reactor ever takes it")]
pub(crate) type Locked<T> = std::sync::Mutex<T>;

/// For one caller at a time.
#[allow(clippy::disallowed_types, reason = "see the type")]
pub(crate) fn locked<T>(mutex: &Locked<T>) -> std::sync::MutexGuard<'_, T> {
    // A method that panicked was answered as our own fault; every change is made in one step at its end.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Engine {
    /// Starts a reactor on each of `cores`.
    ///
    /// # Errors
    /// Why one did not start; those that did are stopped.
    pub(crate) fn start(args: &Args, cores: &CoreList, log: Log) -> Result<Self, StartError> {
        let mut reactors = Vec::new();
        for core in cores.ids() {
            let config = ReactorConfig {
                core: *core,
                mode: args.mode(),
                limits: args.limits(),
                pin: !args.no_pin,
                make_core: Box::new(|core| spinel_uring::core(core, spinel_uring::Options::default())),
            };
            match spinel_reactor::start(config) {
                Ok(reactor) => reactors.push(reactor),
                Err(error) => {
                    reactors.into_iter().for_each(Handle::quit);
                    return Err(error);
                }
            }
        }
        let mailboxes: Vec<_> = reactors.iter().map(|reactor| reactor.mailbox().clone()).collect();
        let nvmf = match Nvmf::start(mailboxes.clone()) {
            Ok(nvmf) => nvmf,
            Err(error) => {
                reactors.into_iter().for_each(Handle::quit);
                return Err(StartError::Thread(error));
            }
        };
        let disks = Arc::new(Locked::new(Disks::exported_by(nvmf.target().clone())));
        let remote = match Remote::start(mailboxes, Arc::clone(&disks)) {
            Ok(remote) => remote,
            Err(error) => {
                reactors.into_iter().for_each(Handle::quit);
                return Err(StartError::Thread(error));
            }
        };
        Ok(Self {
            reactors,
            log,
            vhost_folder: args.vhost_folder(),
            pin: args.pin_guest_memory.then(pin),
            initialised: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
            front: OnceLock::new(),
            blackouts: Locked::default(),
            disks,
            keyring: Keyring::default(),
            nvmf,
            remote,
            scheduler: Locked::default(),
        })
    }

    /// One for each core, in ascending order of the cores.
    pub(crate) fn reactors(&self) -> &[Handle] {
        &self.reactors
    }

    /// Where it runs, in words.
    pub(crate) fn place(&self) -> String {
        let cores = self.cores();
        format!("core{} {cores}", if cores.ids().len() == 1 { "" } else { "s" })
    }

    /// The cores it runs on.
    pub(crate) fn cores(&self) -> CoreList {
        CoreList::of(self.reactors.iter().map(|reactor| reactor.mailbox().core().0.into())).expect("it runs on one at least")
    }

    /// Lets every core take a turn, so that it sees what was changed from here.
    pub(crate) fn wake(&self) {
        for reactor in &self.reactors {
            reactor.mailbox().post(Command::Visit(Box::new(|_| ())));
        }
    }

    /// The log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Where controllers' sockets are made.
    pub(crate) fn vhost_folder(&self) -> &Path {
        &self.vhost_folder
    }

    /// How guest memory is pinned for devices, if it is.
    pub(crate) fn pin(&self) -> Option<Pin> {
        self.pin.clone()
    }

    /// Whether anything can be created yet.
    pub(crate) fn phase(&self) -> Phase {
        if self.initialised.load(Ordering::Relaxed) { Phase::Runtime } else { Phase::Startup }
    }

    /// From now on things can be created.
    pub(crate) fn initialise(&self) {
        self.initialised.store(true, Ordering::Relaxed);
    }

    /// The disks, for one caller at a time.
    #[allow(clippy::disallowed_types, reason = "see the type")]
    pub(crate) fn disks(&self) -> std::sync::MutexGuard<'_, Disks> {
        locked(&self.disks)
    }

    /// Secrets by name.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// NVMe over Fabrics.
    pub(crate) fn nvmf(&self) -> &Nvmf {
        &self.nvmf
    }

    /// Disks of other hosts.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Whether queues are moved between cores.
    pub(crate) fn policy(&self) -> Policy {
        locked(&self.scheduler).policy
    }

    /// Moves queues by another policy from now on.
    pub(crate) fn follow(&self, policy: Policy) -> io::Result<()> {
        locked(&self.scheduler).follow(policy, self.reactors.iter().map(Handle::gauge).collect(), &self.disks)
    }

    /// How RPC clients reach it; none before they do.
    pub(crate) fn front(&self) -> Option<&Front> {
        self.front.get()
    }

    /// RPC clients reach it.
    pub(crate) fn set_front(&self, front: Front) {
        let set = self.front.set(front);
        assert!(set.is_ok(), "there is one server");
    }

    /// Whether another process is about to take over, so that nothing may change.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Relaxed)
    }

    /// No other process takes over any more.
    pub(crate) fn end_handing_over(&self) {
        self.handing_over.store(false, Ordering::Relaxed);
    }

    /// For how long disks stood still while one process took over from another.
    #[allow(clippy::disallowed_types, reason = "see the field")]
    pub(crate) fn blackouts(&self) -> std::sync::MutexGuard<'_, Blackouts> {
        locked(&self.blackouts)
    }

    /// Nanoseconds since the daemon started.
    pub(crate) fn ticks(&self) -> u64 {
        Clock::system().now().ns
    }

    /// Stops every controller and every reactor, which waits for what is in flight.
    pub(crate) fn stop(mut self) {
        locked(&self.scheduler).stop();
        let controllers = {
            let mut disks = self.disks();
            // What an error bdev holds back would never end.
            disks.bdevs().iter().for_each(|bdev| bdev.kind.let_go());
            disks.take_controllers()
        };
        // First all, so that they drain side by side; then each. A stop wakes every core with it.
        controllers.iter().for_each(Served::begin_to_stop);
        for served in controllers {
            if let Err(error) = served.stop() {
                tracing::error!("{error}");
            }
        }
        self.nvmf.stop();
        self.remote.stop();
        self.reactors.into_iter().for_each(Handle::quit);
    }
}

/// Pins what the kernel lets it pin; the rest is served unpinned.
fn pin() -> Pin {
    Arc::new(|region| match spinel_uring::pin(region) {
        Ok(()) => tracing::debug!("{} bytes of guest memory are pinned", region.len_bytes()),
        Err(error) => tracing::warn!("guest memory stays unpinned: {}", chain(&error)),
    })
}
