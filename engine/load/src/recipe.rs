//! A load that is to run on some core. Knows no core yet.

use std::io;
use std::sync::Arc;

use spinel_core::{Core, Device, OpenError, Poller, Recipe};

use crate::feed::Outlet;
use crate::job::Job;
use crate::judge::Judge;
use crate::memory::Memory;
use crate::poller::LoadPoller;

/// A job with all it needs, made on a control thread. [`recipe`](Self::recipe) takes it to a core:
///
/// ```
/// use std::sync::Arc;
/// use spinel_core::{Mailbox, OpenError};
/// use spinel_load::{Job, Load, Memory, feed};
/// # use spinel_core::Device;
///
/// fn run(mailbox: &Mailbox, device: Arc<dyn Device>, job: Job) -> Result<u64, Box<dyn std::error::Error>> {
///     job.check(&device.geometry())?;
///     let memory = Memory::anonymous(&job)?;
///     let (outlet, intake) = feed(|kind| job.sends(kind));
///     let load = Load { name: "load".into(), job, device, memory, outlet, judge: None };
///     let poller = mailbox.add(load.recipe())?;
///     let mut requests = 0;
///     // Until the last tally was taken; whoever is in no hurry waits a little between two looks.
///     while let Ok(more) = intake.take(|tally| tally.requests()) {
///         requests += more.unwrap_or(0);
///     }
///     // A poller can be stopped before its end, too. What remains of it is dropped here, off the core.
///     drop(mailbox.stop(poller).recv());
///     Ok(requests)
/// }
/// ```
pub struct Load {
    /// What statistics call it.
    pub name: String,
    /// What to do.
    pub job: Job,
    /// Where.
    pub device: Arc<dyn Device>,
    /// Made for this job.
    pub memory: Memory,
    /// Made for this job.
    pub outlet: Outlet,
    /// Sees every request, if there is one.
    pub judge: Option<Box<dyn Judge>>,
}

impl Load {
    /// What makes the load's poller on a core, for [`Command::Add`](spinel_core::Command::Add).
    #[must_use]
    pub fn recipe(self) -> Recipe {
        Box::new(|core| self.start(core))
    }

    fn start(self, core: &mut Core) -> Result<Box<dyn Poller>, OpenError> {
        let Self { name, job, device, memory, outlet, judge } = self;
        let announced = memory.clone();
        announced.announce(core);
        let open = |core: &mut Core| {
            let channel = device.open(core, job.depth)?;
            let geometry = device.geometry();
            LoadPoller::new(job, geometry, channel, memory, outlet)
                .map_err(|error| OpenError::System { doing: "starting the load", source: io::Error::other(error) })
        };
        let poller = open(core).inspect_err(|_| announced.recall(core))?.named(name);
        Ok(Box::new(match judge {
            Some(judge) => poller.judged(judge),
            None => poller,
        }))
    }
}
