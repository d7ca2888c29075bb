//! One core's shared things: its drivers, its regions, its way to sleep. Knows no thread and no clock.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use spinel_mem::{Region, RegionId, Regions};

use crate::channel::Armed;
use crate::crowd::Crowd;
use crate::device::OpenError;
use crate::driver::{Driver, Sleeper, Watch};
use crate::poller::Progress;
use crate::units::Instant;

/// A core by its number in the operating system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CoreId(pub u16);

struct Shared {
    kind: TypeId,
    concrete: Rc<dyn Any>,
    driver: Rc<RefCell<dyn Driver>>,
}

/// What the pollers and channels of one core share. Lives on that core's thread only.
pub struct Core {
    id: CoreId,
    crowd: Rc<Crowd>,
    regions: Rc<Regions>,
    drivers: Vec<Shared>,
    announced: Vec<Arc<Region>>,
    sleeper: Box<dyn Sleeper>,
    /// Watched for life. After `sleeper`, so that they close when nothing watches them any more.
    watched: Vec<OwnedFd>,
}

impl Core {
    /// A core without drivers that waits by `sleeper`.
    #[must_use]
    pub fn new(id: CoreId, sleeper: Box<dyn Sleeper>) -> Self {
        let (crowd, regions) = Default::default();
        Self { id, crowd, regions, drivers: Vec::new(), announced: Vec::new(), sleeper, watched: Vec::new() }
    }

    /// Which core this is.
    #[must_use]
    pub fn id(&self) -> CoreId {
        self.id
    }

    /// Who works here, for those who leave room to each other.
    #[must_use]
    pub fn crowd(&self) -> Rc<Crowd> {
        Rc::clone(&self.crowd)
    }

    /// The regions announced here; leaves resolve segments through it.
    #[must_use]
    pub fn regions(&self) -> Rc<Regions> {
        Rc::clone(&self.regions)
    }

    /// The driver of type `D` on this core, made on first use. It learns of every region announced before.
    ///
    /// Keyed by type: a second ring of the same kind needs a type of its own.
    ///
    /// # Errors
    /// What `make` answers.
    pub fn share<D: Driver + 'static>(
        &mut self,
        make: impl FnOnce(&mut Self) -> Result<D, OpenError>,
    ) -> Result<Rc<RefCell<D>>, OpenError> {
        let kind = TypeId::of::<D>();
        if let Some(shared) = self.drivers.iter().find(|shared| shared.kind == kind) {
            let found: &Rc<RefCell<D>> = shared.concrete.downcast_ref().expect("keyed by its type");
            return Ok(Rc::clone(found));
        }
        let driver = make(self)?;
        Ok(self.adopt(Rc::new(RefCell::new(driver))))
    }

    /// Shares a driver that exists already, such as the ring this core sleeps in.
    pub fn adopt<D: Driver + 'static>(&mut self, driver: Rc<RefCell<D>>) -> Rc<RefCell<D>> {
        for region in &self.announced {
            driver.borrow_mut().map(region);
        }
        let concrete = Rc::new(Rc::clone(&driver));
        self.drivers.push(Shared { kind: TypeId::of::<D>(), concrete, driver: Rc::clone(&driver) as Rc<RefCell<dyn Driver>> });
        driver
    }

    /// Announces a region to this core and its drivers; again, once it has pins.
    pub fn map(&mut self, region: Arc<Region>) {
        for shared in &self.drivers {
            shared.driver.borrow_mut().map(&region);
        }
        self.announced.retain(|known| known.id() != region.id());
        self.announced.push(Arc::clone(&region));
        self.regions.insert(region);
    }

    /// Forgets a region and returns it, so that the last owner is not on this core. Every request that used it has completed.
    pub fn unmap(&mut self, id: RegionId) -> Option<Arc<Region>> {
        for shared in &self.drivers {
            shared.driver.borrow_mut().unmap(id);
        }
        self.announced.retain(|known| known.id() != id);
        self.regions.remove(id)
    }

    /// Lets `fd` wake this core from now on.
    pub fn watch(&mut self, fd: RawFd) -> Watch {
        self.sleeper.watch(fd)
    }

    /// Lets `fd` wake this core as long as the core lives: for a channel, which cannot end a watch when it is dropped.
    pub fn watch_owned(&mut self, fd: OwnedFd) {
        let _ = self.sleeper.watch(fd.as_raw_fd());
        self.watched.push(fd);
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, watch: Watch) {
        self.sleeper.unwatch(watch);
    }

    /// A turn begins: every driver reaps; the maximum of their progress.
    #[inline]
    pub fn reap(&mut self, now: Instant) -> Progress {
        self.crowd.turn(now);
        self.drivers.iter().map(|shared| shared.driver.borrow_mut().reap(now)).max().unwrap_or(Progress::Idle)
    }

    /// Every driver starts what waits in it.
    #[inline]
    pub fn flush(&mut self) {
        for shared in &self.drivers {
            shared.driver.borrow_mut().flush();
        }
    }

    /// Whether every driver would let this core sleep.
    pub fn arm(&mut self) -> Armed {
        self.drivers.iter().map(|shared| shared.driver.borrow_mut().arm()).min().unwrap_or(Armed::Idle)
    }

    /// Sleeps until something happens, or `until`. Only after everything was armed.
    pub fn sleep(&mut self, until: Option<Instant>, now: Instant) {
        self.sleeper.sleep(until, now);
    }
}
