//! Which bdevs, controllers and benches there are, what they are called, and who uses whom. Knows no parameters of any method.

use std::sync::Arc;

use spinel_control::{RpcError, params};
use spinel_core::Device;
use spinel_nvmf::target::Target;
use spinel_volume::{Limits, Throttle};
use uuid::Uuid;

use crate::bench::{BENCHES_MAX, Bench};
use crate::counts::Counts;
use crate::kinds::Kind;
use crate::served::Served;
use crate::takeover::Inherited;

/// How many bdevs there may be.
pub(crate) const BDEVS_MAX: usize = 4096;
/// How many controllers there may be.
pub(crate) const CONTROLLERS_MAX: usize = 4096;
/// The longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// The system's error numbers, negative, as SPDK's clients know them.
pub(crate) mod errno {
    pub(crate) const EXISTS: i32 = -17;
    pub(crate) const NO_DEVICE: i32 = -19;
    pub(crate) const BUSY: i32 = -16;
    pub(crate) const NO_SPACE: i32 = -28;
    pub(crate) const NO_MEMORY: i32 = -12;
    pub(crate) const IO: i32 = -5;
}

/// A block device with a name.
pub(crate) struct Bdev {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) kind: Kind,
    pub(crate) counts: Counts,
    /// What everybody uses of it.
    throttle: Arc<Throttle>,
}

impl Bdev {
    /// A new bdev, which nobody uses yet. Without a UUID it gets one by chance.
    pub(crate) fn new(name: String, uuid: Option<Uuid>, kind: Kind) -> Self {
        let throttle = Arc::new(Throttle::new(kind.device()));
        Self { name, uuid: uuid.unwrap_or_else(Uuid::new_v4), kind, counts: Counts::default(), throttle }
    }

    /// The device, as far as its limits allow.
    pub(crate) fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.throttle) as _
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> &Limits {
        self.throttle.limits()
    }
}

/// All bdevs, controllers and benches, in the order of their creation: what is made of something comes after it.
#[derive(Default)]
pub(crate) struct Disks {
    bdevs: Vec<Bdev>,
    controllers: Vec<Served>,
    benches: Vec<Bench>,
    /// How many benches there have been.
    benches_started: u64,
    /// How many mallocs were named by us.
    pub(crate) mallocs_named: u64,
    /// What another process has handed over and nobody has taken into use yet.
    pub(crate) inherited: Inherited,
    /// Who offers them to hosts.
    target: Option<Target>,
}

impl Disks {
    /// No disks yet; this target may offer them to hosts.
    pub(crate) fn exported_by(target: Target) -> Self {
        Self { target: Some(target), ..Self::default() }
    }

    /// Every bdev, in the order of creation.
    pub(crate) fn bdevs(&self) -> &[Bdev] {
        &self.bdevs
    }

    /// Every bdev, to be changed.
    pub(crate) fn bdevs_mut(&mut self) -> &mut [Bdev] {
        &mut self.bdevs
    }

    /// Every controller, in the order of creation.
    pub(crate) fn controllers(&self) -> &[Served] {
        &self.controllers
    }

    fn place(&self, name: &str) -> Option<usize> {
        let by_name = self.bdevs.iter().position(|bdev| bdev.name == name);
        let by_uuid = || {
            let uuid = Uuid::parse_str(name).ok()?;
            self.bdevs.iter().position(|bdev| bdev.uuid == uuid)
        };
        by_name.or_else(by_uuid)
    }

    fn known_place(&self, name: &str) -> Result<usize, RpcError> {
        self.place(name)
            .ok_or_else(|| RpcError::errno(errno::NO_DEVICE, format!("there is no bdev '{name}'; bdev_get_bdevs lists those there are")))
    }

    /// Whether there is a bdev of this name or UUID.
    pub(crate) fn has_bdev(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// The bdev of this name or UUID; -19 if there is none.
    pub(crate) fn bdev(&self, name: &str) -> Result<&Bdev, RpcError> {
        let place = self.known_place(name)?;
        Ok(&self.bdevs[place])
    }

    /// The bdev of this name or UUID, to be changed; -19 if there is none.
    pub(crate) fn bdev_mut(&mut self, name: &str) -> Result<&mut Bdev, RpcError> {
        let place = self.known_place(name)?;
        Ok(&mut self.bdevs[place])
    }

    /// Refuses a new bdev of this name and UUID if it could not be added.
    pub(crate) fn check_vacant(&self, parameter: &str, name: &str, uuid: Option<Uuid>) -> Result<(), RpcError> {
        check_name(parameter, name)?;
        if self.bdevs.len() >= BDEVS_MAX {
            return Err(RpcError::errno(errno::NO_SPACE, format!("there are {BDEVS_MAX} bdevs already; delete one first")));
        }
        if self.has_bdev(name) {
            return Err(RpcError::errno(
                errno::EXISTS,
                format!("there is a bdev '{name}' already; choose another name, or delete it first"),
            ));
        }
        let owner = uuid.and_then(|uuid| self.bdevs.iter().find(|bdev| bdev.uuid == uuid));
        match owner {
            Some(owner) => {
                Err(RpcError::errno(errno::EXISTS, format!("bdev '{}' has the UUID {} already; choose another", owner.name, owner.uuid)))
            }
            None => Ok(()),
        }
    }

    /// Adds a bdev whose name was found vacant, and answers with its name.
    pub(crate) fn add(&mut self, bdev: Bdev) -> String {
        let name = bdev.name.clone();
        tracing::info!("bdev '{name}' is there: {}, {} bytes", bdev.kind.product(), bdev.device().geometry().len_bytes());
        self.bdevs.push(bdev);
        name
    }

    /// Who uses the bdev called exactly `name`, each as a phrase.
    pub(crate) fn users(&self, name: &str) -> Vec<String> {
        let layers = self.bdevs.iter().filter(|bdev| bdev.kind.base() == Some(name));
        let layers = layers.map(|bdev| format!("bdev '{}' is made of it", bdev.name));
        let controllers = self.controllers.iter().filter(|served| served.bdev == name);
        let controllers = controllers.map(|served| format!("controller '{}' serves it", served.name));
        let benches = self.benches.iter().filter(|bench| bench.bdev == name && !bench.is_over());
        let namespaces = self.target.iter().flat_map(|target| target.users_of(name));
        let namespaces = namespaces.map(|(nqn, nsid)| format!("it is namespace {nsid} of subsystem '{nqn}'"));
        layers
            .chain(controllers)
            .chain(namespaces)
            .chain(benches.map(|bench| format!("bench {} runs on it (bdev_bench_stop ends it)", bench.id)))
            .collect()
    }

    /// Refuses (-16) what cannot be done with the bdev called exactly `name` while somebody uses it.
    pub(crate) fn check_unused(&self, name: &str) -> Result<(), RpcError> {
        match self.users(name).first() {
            None => Ok(()),
            Some(user) => Err(RpcError::errno(errno::BUSY, format!("bdev '{name}' is in use: {user}; delete that first"))),
        }
    }

    /// Refuses (-16) a bench that changes what a bdev holds for others, who keep their data there.
    pub(crate) fn check_unserved(&self, bdev: &Bdev) -> Result<(), RpcError> {
        let layer = self.bdevs.iter().find(|other| other.kind.base() == Some(&bdev.name));
        let layer = layer.map(|layer| format!("bdev '{}' is made of it", layer.name));
        let controller = || self.controllers.iter().find(|served| served.bdev == bdev.name);
        let controller = || controller().map(|served| format!("controller '{}' serves it", served.name));
        let namespace = || self.target.iter().flat_map(|target| target.users_of(&bdev.name)).next();
        let namespace = || namespace().map(|(nqn, nsid)| format!("it is namespace {nsid} of subsystem '{nqn}'"));
        match layer.or_else(controller).or_else(namespace) {
            None => Ok(()),
            Some(user) => {
                let message = format!("bdev '{}' is in use: {user}; a job there may only read", bdev.name);
                Err(RpcError::errno(errno::BUSY, message))
            }
        }
    }

    /// Takes out an unused bdev of the kind that `delete` deletes.
    pub(crate) fn remove(&mut self, name: &str, delete: &str) -> Result<Bdev, RpcError> {
        let place = self.known_place(name)?;
        let bdev = &self.bdevs[place];
        if bdev.kind.delete_method() != delete {
            let (name, product, right) = (&bdev.name, bdev.kind.product(), bdev.kind.delete_method());
            return Err(RpcError::errno(errno::NO_DEVICE, format!("bdev '{name}' is of the kind '{product}'; {right} deletes it")));
        }
        self.check_unused(&bdev.name)?;
        let bdev = self.bdevs.remove(place);
        tracing::info!("bdev '{}' was deleted", bdev.name);
        Ok(bdev)
    }

    /// A namespace has gone: what it was as a bdev fails from now on.
    pub(crate) fn vanished(&mut self, name: &str) {
        if let Some(Kind::Nvme { gone, .. }) = self.bdevs.iter_mut().find(|bdev| bdev.name == name).map(|bdev| &mut bdev.kind) {
            *gone = true;
        }
    }

    /// Takes out a bdev whose namespace has gone, unless somebody uses it. Whether there is none of this name any more.
    pub(crate) fn remove_vanished(&mut self, name: &str) -> bool {
        let Some(place) = self.bdevs.iter().position(|bdev| bdev.name == name) else { return true };
        let removable = matches!(self.bdevs[place].kind, Kind::Nvme { gone: true, .. }) && self.check_unused(name).is_ok();
        if removable {
            self.bdevs.remove(place);
            tracing::info!("bdev '{name}' has gone");
        }
        removable
    }

    /// Tells the guests of this bdev, and of those made of it, that its size has changed.
    pub(crate) fn announce_size(&self, name: &str) {
        self.served_over(name).for_each(|served| served.controller().resized());
        self.exported_over(name, Target::resized);
    }

    /// Lets the guests of this bdev, and of those made of it, open it again, because its first limit was set or its last lifted.
    pub(crate) fn reopen(&self, name: &str) {
        self.served_over(name).for_each(|served| served.controller().reopen());
        self.exported_over(name, Target::reopen);
    }

    /// Tells the target of this bdev and of those made of it.
    fn exported_over(&self, name: &str, tell: impl Fn(&Target, &str)) {
        if let Some(target) = &self.target {
            self.over(name).into_iter().for_each(|name| tell(target, name));
        }
    }

    /// This bdev and those made of it.
    fn over<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let mut over = vec![name];
        // What is made of something comes after it, so one walk finds all.
        for bdev in &self.bdevs {
            if bdev.kind.base().is_some_and(|base| over.contains(&base)) {
                over.push(&bdev.name);
            }
        }
        over
    }

    /// The controllers of this bdev and of those made of it.
    fn served_over<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Served> {
        let over = self.over(name);
        self.controllers.iter().filter(move |served| over.contains(&served.bdev.as_str()))
    }

    /// The controller of this name; -19 if there is none.
    pub(crate) fn controller(&self, name: &str) -> Result<&Served, RpcError> {
        self.controllers.iter().find(|served| served.name == name).ok_or_else(|| no_controller(name))
    }

    /// The controller of this name, to be changed; -19 if there is none.
    pub(crate) fn controller_mut(&mut self, name: &str) -> Result<&mut Served, RpcError> {
        self.controllers.iter_mut().find(|served| served.name == name).ok_or_else(|| no_controller(name))
    }

    /// Refuses a new controller of this name if it could not be added.
    pub(crate) fn check_controller_vacant(&self, name: &str) -> Result<(), RpcError> {
        if self.controllers.len() >= CONTROLLERS_MAX {
            return Err(RpcError::errno(errno::NO_SPACE, format!("there are {CONTROLLERS_MAX} controllers already; delete one first")));
        }
        match self.controller(name) {
            Ok(_) => Err(RpcError::errno(errno::EXISTS, format!("there is a controller '{name}' already; choose another name"))),
            Err(_) => Ok(()),
        }
    }

    /// Refuses (-16) to serve a bdev that another is made of: writes past that one would be lost on it. Two controllers may
    /// serve one bdev, as in SPDK, for guests that share it or that follow each other.
    pub(crate) fn check_servable(&self, bdev: &Bdev) -> Result<(), RpcError> {
        if let Some(layer) = self.bdevs.iter().find(|other| other.kind.base() == Some(&bdev.name)) {
            let message =
                format!("bdev '{}' is in use: bdev '{}' is made of it; serve that one, or delete it first", bdev.name, layer.name);
            return Err(RpcError::errno(errno::BUSY, message));
        }
        let hung = |served: &&Served| served.bdev == bdev.name && served.quarantined();
        if let Some(served) = self.controllers.iter().find(hung) {
            let message = format!(
                "requests of controller '{}' to bdev '{}' have not come back: an old write could land on top of a newer one; wait, or delete that controller first",
                served.name, bdev.name
            );
            return Err(RpcError::errno(errno::BUSY, message));
        }
        if let Some(bench) = self.benches.iter().find(|bench| bench.bdev == bdev.name && bench.writes && !bench.is_over()) {
            let message = format!("bdev '{}' is in use: bench {} writes to it; stop that first", bdev.name, bench.id);
            return Err(RpcError::errno(errno::BUSY, message));
        }
        if let Some(served) = self.controllers.iter().find(|served| served.bdev == bdev.name && !served.read_only) {
            tracing::warn!("bdev '{}' is served twice: controller '{}' may write to it, too", bdev.name, served.name);
        }
        Ok(())
    }

    /// Adds a controller whose name was found vacant.
    pub(crate) fn add_controller(&mut self, served: Served) {
        self.controllers.push(served);
    }

    /// Takes out a controller that has stopped.
    pub(crate) fn remove_controller(&mut self, name: &str) -> Result<Served, RpcError> {
        let place = self.controllers.iter().position(|served| served.name == name).ok_or_else(|| no_controller(name))?;
        let served = self.controllers.remove(place);
        tracing::info!("controller '{name}' was deleted");
        Ok(served)
    }

    /// Every bench that is remembered, in the order of their starts.
    pub(crate) fn benches(&self) -> &[Bench] {
        &self.benches
    }

    /// The bench of this number, to be asked or stopped; -19 if there is none.
    pub(crate) fn bench_mut(&mut self, id: u64) -> Result<&mut Bench, RpcError> {
        let bench = self.benches.iter_mut().find(|bench| bench.id == id);
        bench.ok_or_else(|| RpcError::errno(errno::NO_DEVICE, format!("there is no bench {id}; those that ended are soon forgotten")))
    }

    /// Refuses another bench if too many run; forgets one that has ended if too many are remembered.
    pub(crate) fn check_bench_vacant(&mut self) -> Result<(), RpcError> {
        if self.benches.len() < BENCHES_MAX {
            return Ok(());
        }
        if let Some(place) = self.benches.iter().position(Bench::is_over) {
            self.benches.remove(place);
            return Ok(());
        }
        Err(RpcError::errno(errno::NO_SPACE, format!("there are {BENCHES_MAX} benches already; stop one first")))
    }

    /// The number of the bench that starts next.
    pub(crate) fn next_bench(&self) -> u64 {
        self.benches_started + 1
    }

    /// Adds a bench that has started, and answers with its number.
    pub(crate) fn add_bench(&mut self, bench: Bench) -> u64 {
        self.benches_started = bench.id;
        self.benches.push(bench);
        self.benches_started
    }

    /// Forgets a bench that was stopped.
    pub(crate) fn remove_bench(&mut self, id: u64) {
        self.benches.retain(|bench| bench.id != id);
    }

    /// Takes benches that have ended from their cores, and forgets those that nobody asked for.
    pub(crate) fn tidy_benches(&mut self, now_ns: u64) {
        self.benches.iter_mut().for_each(|bench| bench.settle(now_ns));
        self.benches.retain(|bench| !bench.is_stale(now_ns));
    }

    /// Takes out all controllers.
    pub(crate) fn take_controllers(&mut self) -> Vec<Served> {
        std::mem::take(&mut self.controllers)
    }
}

fn no_controller(name: &str) -> RpcError {
    RpcError::errno(errno::NO_DEVICE, format!("there is no controller '{name}'; vhost_get_controllers lists those there are"))
}

/// Refuses what cannot be a bdev's name.
pub(crate) fn check_name(parameter: &str, name: &str) -> Result<(), RpcError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let must_be = format!("a name of 1 to {NAME_BYTES_MAX} bytes without control characters");
        return Err(params::refuse(parameter, name, must_be));
    }
    Ok(())
}
