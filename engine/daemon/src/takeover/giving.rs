//! The running process's side: everything is offered, stopped and let go, or goes on as before. Knows no device.

use std::io;
use std::time::Duration;

use crossbeam_channel::Receiver;
use spinel_handover::{Fd, Link, LinkError};
use spinel_vhost::{HandOverError, Places};

use super::{FromNew, FromOld, Offer};
use crate::engine::{Engine, Front};
use crate::events::Events;
use crate::kinds::{Kind, chain};
use crate::methods::framework::all_calls;

/// How long the next process may take to build everything; pinning memory takes seconds.
const BUILD_TIME: Duration = Duration::from_secs(120);
/// How often it is looked meanwhile whether this process was told to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long requests in flight may take to come back, with every disk standing still.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// How long the next process may take to say that it knows where the rings go on.
const PREPARE_TIME: Duration = Duration::from_secs(5);
/// How long a message may take on its way.
const SEND_TIME: Duration = Duration::from_secs(10);

/// Why this process goes on by itself.
#[derive(Debug, thiserror::Error)]
enum KeptError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the next process could not serve everything: {0}")]
    Failed(String),
    #[error("the next process said something else than what was expected")]
    OutOfTurn,
    #[error("the next process was not ready within {} s", BUILD_TIME.as_secs())]
    Late,
    #[error("this process was told to stop")]
    Stopping,
    #[error(transparent)]
    Controller(#[from] HandOverError),
    #[error("the system refused a descriptor")]
    Descriptors(#[from] io::Error),
}

/// What became of it.
pub(crate) enum Given {
    /// This process goes on as before.
    Kept,
    /// The next process serves. This one has nothing left to do, and must not clean up: what it would remove is that one's.
    Gone,
    /// It was handed over, and the next process has ended before it said that it serves.
    Lost,
}

/// Gives everything to the process at the other end, if all goes well.
pub(crate) fn hand_over(engine: &Engine, front: &Front, link: &Link, events: &Events) -> Given {
    let peer = link.peer_pid().map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    tracing::info!("{peer} is taking over");
    let held = Held { engine, front };
    if let Err(error) = held.offer_and_commit(link, events) {
        let because = chain(&error);
        tracing::warn!("{peer} has not taken over, and nothing has changed: {because}");
        // The other end may be gone, and then knows as much.
        let _ = link.send(&FromOld::Refused(because), SEND_TIME);
        drop(held);
        engine.end_handing_over();
        return Given::Kept;
    }
    std::mem::forget(held);
    match link.receive::<FromNew>(Duration::MAX) {
        Ok(FromNew::Serving) => {
            tracing::info!("{peer} serves now; this one ends");
            Given::Gone
        }
        Ok(_) | Err(_) => {
            tracing::error!("{peer} has taken over and ended before it served");
            Given::Lost
        }
    }
}

/// Controllers that stand still, or are about to. Dropped, they go on.
struct Held<'a> {
    engine: &'a Engine,
    front: &'a Front,
}

impl Held<'_> {
    fn offer_and_commit(&self, link: &Link, events: &Events) -> Result<(), KeptError> {
        link.send(&FromOld::Offer(Box::new(self.offer()?)), SEND_TIME)?;
        let looks = BUILD_TIME.as_millis() / LOOK.as_millis();
        let mut looked = 0;
        while !link.wait(LOOK)? {
            looked += 1;
            if events.is_due() {
                return Err(KeptError::Stopping);
            }
            if looked > looks {
                return Err(KeptError::Late);
            }
        }
        expect(link, SEND_TIME, |said| matches!(said, FromNew::Ready))?;
        self.front.gate.close();
        link.send(&FromOld::Stopped(self.pause()?), SEND_TIME)?;
        expect(link, PREPARE_TIME, |said| matches!(said, FromNew::Prepared))?;
        if events.is_due() {
            return Err(KeptError::Stopping);
        }
        // So short that it goes as a whole or not at all.
        Ok(link.send(&FromOld::Commit, SEND_TIME)?)
    }

    fn offer(&self) -> Result<Offer, KeptError> {
        let disks = self.engine.disks();
        let (mut files, mut memories, mut controllers) = (Vec::new(), Vec::new(), Vec::new());
        for bdev in disks.bdevs() {
            if let Some(file) = bdev.kind.file() {
                files.push(file.pack(&bdev.name)?);
            }
            if let Kind::Malloc(device) = &bdev.kind {
                memories.push((bdev.name.clone(), Fd::of(device.memory())?));
            }
        }
        for served in disks.controllers() {
            controllers.push((served.name.clone(), served.controller().hold()?));
        }
        let remote = crate::methods::remote_calls(self.engine).into_iter();
        let calls = remote.chain(all_calls(self.engine.policy(), &disks)).map(|(method, params)| (method.to_owned(), params)).collect();
        Ok(Offer { calls, rpc: Fd::of(&self.front.listener)?, files, memories, controllers, blackouts: self.engine.blackouts().clone() })
    }

    /// Stops all queues, side by side, and says where they are.
    fn pause(&self) -> Result<Vec<(String, Places)>, KeptError> {
        let disks = self.engine.disks();
        let begun = disks.controllers().iter().map(|served| (served, served.controller().begin_pause(DRAIN_TIME)));
        let begun: Vec<_> = begun.collect();
        let gone = |name: &str| HandOverError::Unready { name: name.to_owned() };
        let wait = |(served, paused): (&crate::served::Served, Receiver<Result<Places, HandOverError>>)| {
            let places = paused.recv().unwrap_or_else(|_| Err(gone(&served.name)))?;
            Ok((served.name.clone(), places))
        };
        // All are waited for: one that is told to go on must have answered.
        let paused: Vec<Result<_, KeptError>> = begun.into_iter().map(wait).collect();
        paused.into_iter().collect()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let disks = self.engine.disks();
        let resumed: Vec<Receiver<u64>> = disks.controllers().iter().map(|served| served.controller().begin_resume()).collect();
        for resumed in resumed {
            // One that was not held drops the question.
            let _ = resumed.recv();
        }
        self.front.gate.open();
    }
}

fn expect(link: &Link, patience: Duration, is_it: impl FnOnce(&FromNew) -> bool) -> Result<(), KeptError> {
    match link.receive::<FromNew>(patience)? {
        FromNew::Failed(because) => Err(KeptError::Failed(because)),
        said if is_it(&said) => Ok(()),
        _ => Err(KeptError::OutOfTurn),
    }
}
