//! What is asked of a controller one after the other, from its first property to its last namespace, and again when it tells
//! of changes. Knows no connection and no clock.

use std::collections::{BTreeMap, VecDeque};

use spinel_nvme::admin::{Cns, GetLogPage, Identify, SetFeature};
use spinel_nvme::command::Command;
use spinel_nvme::fabrics::{Property, PropertySize};
use spinel_nvme::features::{Feature, QueueCounts, async_events};
use spinel_nvme::identify::{Controller as ControllerPage, ControllerKind, Descriptors, Namespace, NamespaceList};
use spinel_nvme::log::{AnaLog, AnaState, DiscoveryEntry, DiscoveryHead, GROUPS_ONLY, LogPage};
use spinel_nvme::registers::{Capabilities, Configuration, ControllerStatus, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::FromBytes as _;

use super::super::note::Reply;
use super::super::queue::End;
use super::discovery::{Found, found};
use super::facts::{ControllerFacts, NamespaceFacts};

/// Bytes of a page of Identify.
const PAGE_BYTES: u32 = 4096;
/// Bytes of a log that are asked for at a time, and most bytes of one.
const LOG_BYTES: u32 = 8 << 10;
const LOG_BYTES_MAX: usize = 1 << 20;
/// Bytes of a log that is only read so that its event is told again, unless it has a size of its own.
const TAKEN_BACK_BYTES: u32 = 512;
/// Bytes of the list of changed namespaces. Linux' target gives all of it or nothing (internal error).
const CHANGED_BYTES: u32 = 4096;
/// Bytes that the discovery log begins with, and most of its entries that are looked at.
const DISCOVERY_HEAD_BYTES: u32 = 1024;
const ENTRIES_MAX: usize = 1000;
/// How often a command is repeated that failed for a reason that passes.
const REPEATS_MAX: u32 = 5;
/// Most namespaces of one controller that are looked at.
const NAMESPACES_MAX: usize = 4096;

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Task {
    Capabilities,
    Enable,
    AwaitReady,
    IdentifyController,
    Queues,
    Events,
    /// The log of asymmetric access, so much of which was read.
    Ana(Vec<u8>),
    /// The active namespaces, so many of which are known.
    List(Vec<u32>),
    Namespace(u32),
    Descriptors(u32, Box<Namespace>),
    /// The discovery log, so much of which was read.
    Discovery(Vec<u8>),
    /// Whether the discovery log is still of this generation.
    Generation(u64, Vec<Found>),
    /// Read a log, so that its event is told again.
    TakeBack(u8),
    /// All is known: it may be used.
    Settle,
    Disable,
    AwaitDisabled,
}

/// What to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asking {
    pub(super) command: Command,
    pub(super) room_bytes: u32,
}

/// What a step led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The next one follows.
    On,
    /// The same has to be asked again a little later.
    Again,
    /// The controller has stopped, and everything that it was asked.
    Disabled,
}

/// Why a controller cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScriptError {
    /// A command failed.
    #[error("{what} failed: {status}")]
    Refused {
        /// Which one.
        what: &'static str,
        /// How.
        status: String,
    },
    /// The connection was lost meanwhile.
    #[error("the connection was lost while {what} was outstanding")]
    Lost {
        /// Which command.
        what: &'static str,
    },
    /// An answer makes no sense.
    #[error("the controller answers {what} with something that cannot be: {why}")]
    Nonsense {
        /// Which command.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },
}

/// What is known of a controller, and what is still to be asked.
#[derive(Debug, Default)]
pub(super) struct Script {
    tasks: VecDeque<Task>,
    capabilities: Capabilities,
    pub(super) controller: Option<ControllerFacts>,
    pub(super) io_queues: u16,
    io_queues_wanted: u16,
    /// How often the same was asked again.
    repeats: u32,
    pub(super) ana: BTreeMap<u32, AnaState>,
    pub(super) namespaces: BTreeMap<u32, NamespaceFacts>,
    /// Subsystems that a discovery controller names.
    pub(super) found: Vec<Found>,
    is_discovery: bool,
}

fn property(offset: u32, size: PropertySize) -> Property {
    Property { offset, size }
}

impl Task {
    fn what(&self) -> &'static str {
        match self {
            Self::Capabilities => "reading the capabilities",
            Self::Enable => "enabling the controller",
            Self::AwaitReady | Self::AwaitDisabled => "reading the controller's status",
            Self::IdentifyController => "Identify Controller",
            Self::Queues => "Set Features (Number of Queues)",
            Self::Events => "Set Features (Asynchronous Event Configuration)",
            Self::Ana(_) => "Get Log Page (Asymmetric Namespace Access)",
            Self::List(_) => "Identify (active namespaces)",
            Self::Namespace(_) => "Identify Namespace",
            Self::Descriptors(..) => "Identify (namespace descriptors)",
            Self::Discovery(_) | Self::Generation(..) => "Get Log Page (Discovery)",
            Self::TakeBack(_) => "Get Log Page",
            Self::Settle => "settling",
            Self::Disable => "disabling the controller",
        }
    }

    /// Whether its answer says something that has to be known.
    fn tells(&self) -> bool {
        !matches!(self, Self::Events | Self::TakeBack(_))
    }

    /// Whether a refusal of it does no harm.
    fn may_fail(&self) -> bool {
        matches!(self, Self::Events | Self::Descriptors(..) | Self::TakeBack(_) | Self::Namespace(_))
    }
}

impl Script {
    /// What is asked of a controller that was just connected.
    pub(super) fn start(io_queues: u16, is_discovery: bool) -> Self {
        let tasks = [Task::Capabilities, Task::Enable, Task::AwaitReady, Task::IdentifyController].into();
        Self { tasks, io_queues_wanted: io_queues, is_discovery, ..Self::default() }
    }

    /// Namespaces have changed.
    pub(super) fn rescan(&mut self) {
        let tasks = [Task::TakeBack(LogPage::ChangedNamespaces.code()), Task::List(Vec::new())];
        tasks.into_iter().for_each(|task| self.add(task));
    }

    /// Asymmetric access has changed, or seems to have.
    pub(super) fn look_at_ana(&mut self) {
        if self.controller.as_ref().is_some_and(|controller| controller.reports_ana) {
            self.add(Task::Ana(Vec::new()));
        }
        self.add(Task::Settle);
    }

    /// There are other subsystems than before.
    pub(super) fn discover(&mut self) {
        self.add(Task::Discovery(Vec::new()));
    }

    /// Something was told whose log has to be read before it is told again.
    pub(super) fn take_back(&mut self, page: u8) {
        self.add(Task::TakeBack(page));
    }

    /// Nothing else matters any more: it is to stop.
    pub(super) fn stop(&mut self) {
        self.tasks = [Task::Disable, Task::AwaitDisabled].into();
    }

    /// Adds a step, unless the same is still to come.
    fn add(&mut self, task: Task) {
        if !self.tasks.iter().skip(1).any(|known| *known == task) {
            self.tasks.push_back(task);
        }
    }

    /// How long it may take to become ready or to stop.
    pub(super) fn patience_ns(&self) -> u64 {
        u64::from(self.capabilities.timeout_500ms.max(1)) * 500_000_000
    }

    /// What to ask next; none if nothing is to be asked.
    pub(super) fn next(&self) -> Option<Asking> {
        let none = Sgl::transport(0);
        let (command, room_bytes) = match self.tasks.front()? {
            Task::Capabilities => (property(offset::CAPABILITIES, PropertySize::Eight).get(), 0),
            Task::Enable => {
                let configuration = Configuration::enabled().register();
                (property(offset::CONFIGURATION, PropertySize::Four).set(configuration.into()), 0)
            }
            Task::Disable => {
                let configuration = Configuration { enable: false, ..Configuration::enabled() }.register();
                (property(offset::CONFIGURATION, PropertySize::Four).set(configuration.into()), 0)
            }
            Task::AwaitReady | Task::AwaitDisabled => (property(offset::STATUS, PropertySize::Four).get(), 0),
            Task::IdentifyController => (Identify::new(Cns::Controller, 0).command(none), PAGE_BYTES),
            Task::Queues => {
                let count = u32::from(self.io_queues_wanted);
                let value = QueueCounts { submission: count, completion: count }.value();
                (SetFeature::new(Feature::NumberOfQueues.code(), 0, value).command(none), 0)
            }
            Task::Events => {
                let told = self.controller.as_ref().map_or(0, |controller| controller.events);
                let wanted = told & (async_events::NAMESPACES | async_events::ANA | async_events::DISCOVERY);
                (SetFeature::new(Feature::AsyncEvents.code(), 0, wanted).command(none), 0)
            }
            Task::Ana(read) => {
                let at = u64::try_from(read.len()).expect("bounded");
                let log = GetLogPage { specific: GROUPS_ONLY, ..GetLogPage::new(LogPage::Ana.code(), 0, at, LOG_BYTES.into()) };
                (log.command(none), LOG_BYTES)
            }
            Task::List(found) => (Identify::new(Cns::ActiveNamespaces, found.last().copied().unwrap_or(0)).command(none), PAGE_BYTES),
            Task::Namespace(nsid) => (Identify::new(Cns::Namespace, *nsid).command(none), PAGE_BYTES),
            Task::Descriptors(nsid, _) => (Identify::new(Cns::NamespaceDescriptors, *nsid).command(none), PAGE_BYTES),
            Task::Discovery(read) => {
                let at = u64::try_from(read.len()).expect("bounded");
                (GetLogPage::new(LogPage::Discovery.code(), 0, at, LOG_BYTES.into()).command(none), LOG_BYTES)
            }
            Task::Generation(..) => {
                let head = DISCOVERY_HEAD_BYTES;
                (GetLogPage::new(LogPage::Discovery.code(), 0, 0, head.into()).command(none), head)
            }
            Task::TakeBack(page) => {
                let bytes = if *page == LogPage::ChangedNamespaces.code() { CHANGED_BYTES } else { TAKEN_BACK_BYTES };
                (GetLogPage::new(*page, spinel_nvme::command::NSID_ALL, 0, bytes.into()).command(none), bytes)
            }
            Task::Settle => return None,
        };
        Some(Asking { command, room_bytes })
    }

    /// Whether there is a step that asks nothing.
    pub(super) fn settles(&mut self) -> bool {
        let settles = self.tasks.front() == Some(&Task::Settle);
        if settles {
            self.tasks.pop_front();
        }
        settles
    }

    /// Takes the answer to what was asked.
    ///
    /// # Errors
    /// If the controller cannot be used.
    pub(super) fn answered(&mut self, reply: &Reply) -> Result<Outcome, ScriptError> {
        let task = self.tasks.pop_front().expect("what is answered was asked");
        let what = task.what();
        let (status, result) = match reply.end {
            End::Answered { status, result, .. } => (status, result),
            End::Lost => return Err(ScriptError::Lost { what }),
        };
        if !status.is_success() {
            return self.refused(task, status);
        }
        self.repeats = 0;
        let data = &reply.data[..];
        match task {
            Task::Capabilities => self.capabilities = Capabilities::of(result),
            Task::Enable | Task::Disable | Task::Events | Task::TakeBack(_) | Task::Settle => {}
            Task::AwaitReady | Task::AwaitDisabled => return self.status(task, result),
            Task::IdentifyController => self.identified(page_of(what, data)?)?,
            Task::Queues => {
                let granted = QueueCounts::of(u32::try_from(result & u64::from(u32::MAX)).expect("masked"));
                let granted = u16::try_from(granted.submission.min(granted.completion)).unwrap_or(u16::MAX);
                self.io_queues = granted.min(self.io_queues_wanted);
            }
            Task::Ana(read) => self.ana_read(read, data)?,
            Task::List(found) => self.listed(found, page_of(what, data)?)?,
            Task::Namespace(nsid) => {
                let page: &Namespace = page_of(what, data)?;
                self.tasks.push_front(Task::Descriptors(nsid, Box::new(*page)));
            }
            Task::Descriptors(nsid, page) => self.described(nsid, &page, Some(page_of(what, data)?)),
            Task::Discovery(read) => self.discovery_read(read, data)?,
            Task::Generation(generation, found) => {
                let head: &DiscoveryHead = page_of(what, data)?;
                // What was read in parts fits together only if nothing has changed meanwhile.
                self.tasks.push_front(if head.generation.get() == generation { Task::Settle } else { Task::Discovery(Vec::new()) });
                self.found = found;
            }
        }
        Ok(Outcome::On)
    }

    fn refused(&mut self, task: Task, status: StatusField) -> Result<Outcome, ScriptError> {
        let what = task.what();
        if is_passing(status) && self.repeats < REPEATS_MAX {
            self.repeats += 1;
            self.tasks.push_front(task);
            return Ok(Outcome::Again);
        }
        self.repeats = 0;
        // It says nothing of what was asked for: a namespace whose page was spoilt on its way is still there.
        if is_passing(status) && task.tells() {
            return Err(ScriptError::Refused { what, status: status.to_string() });
        }
        match task {
            // Controllers before 1.3 have none.
            Task::Descriptors(nsid, page) => self.described(nsid, &page, None),
            Task::Namespace(nsid) => {
                self.namespaces.remove(&nsid);
            }
            task if task.may_fail() => {}
            _ => return Err(ScriptError::Refused { what, status: status.to_string() }),
        }
        tracing::debug!("{what} is refused: {status}");
        Ok(Outcome::On)
    }

    fn status(&mut self, task: Task, result: u64) -> Result<Outcome, ScriptError> {
        let status = ControllerStatus::of(u32::try_from(result & u64::from(u32::MAX)).expect("masked"));
        let is_ready = task == Task::AwaitReady;
        if status.fatal {
            return Err(ScriptError::Nonsense { what: task.what(), why: "it has failed (CFS)".into() });
        }
        if status.ready != is_ready {
            self.tasks.push_front(task);
            return Ok(Outcome::Again);
        }
        Ok(if is_ready { Outcome::On } else { Outcome::Disabled })
    }

    fn identified(&mut self, page: &ControllerPage) -> Result<(), ScriptError> {
        let facts = ControllerFacts::of(page, &self.capabilities);
        let nonsense = |why: String| Err(ScriptError::Nonsense { what: Task::IdentifyController.what(), why });
        if self.is_discovery {
            if facts.kind == Some(ControllerKind::Io) {
                return nonsense("it is no discovery controller".into());
            }
            self.tasks.extend([Task::Events, Task::Discovery(Vec::new())]);
        } else {
            if matches!(facts.kind, Some(ControllerKind::Discovery | ControllerKind::Administrative)) {
                return nonsense("it does no I/O".into());
            }
            if facts.transfer_bytes < PAGE_BYTES {
                return nonsense(format!("transfers of {} bytes at most", facts.transfer_bytes));
            }
            self.tasks.extend([Task::Queues, Task::Events]);
            if facts.reports_ana {
                self.tasks.push_back(Task::Ana(Vec::new()));
            }
            self.tasks.push_back(Task::List(Vec::new()));
        }
        self.controller = Some(facts);
        Ok(())
    }

    fn ana_read(&mut self, mut read: Vec<u8>, data: &[u8]) -> Result<(), ScriptError> {
        read.extend_from_slice(data);
        let what = Task::Ana(Vec::new()).what();
        let nonsense = |why: &str| ScriptError::Nonsense { what, why: why.into() };
        let log = AnaLog::of(&read).ok_or_else(|| nonsense("it is too short"))?;
        let groups: Result<Vec<_>, _> = log.groups().map(|group| group.map(|(group, _)| (group.group.get(), group.state()))).collect();
        match groups {
            Ok(groups) => {
                self.ana = groups.into_iter().filter_map(|(group, state)| Some((group, state?))).collect();
                Ok(())
            }
            Err(_) if data.is_empty() || read.len() >= LOG_BYTES_MAX => Err(nonsense("it does not end")),
            Err(_) => {
                self.tasks.push_front(Task::Ana(read));
                Ok(())
            }
        }
    }

    fn discovery_read(&mut self, mut read: Vec<u8>, data: &[u8]) -> Result<(), ScriptError> {
        read.extend_from_slice(data);
        let what = Task::Discovery(Vec::new()).what();
        let nonsense = |why: String| ScriptError::Nonsense { what, why };
        let (head, entries) = DiscoveryHead::ref_from_prefix(&read).map_err(|_| nonsense("it is too short".into()))?;
        if head.format.get() != 0 {
            return Err(nonsense(format!("its entries are of format {}", head.format)));
        }
        let count = usize::try_from(head.entries.get()).ok().filter(|count| *count <= ENTRIES_MAX);
        let count = count.ok_or_else(|| nonsense(format!("{} entries", head.entries)))?;
        match <[DiscoveryEntry]>::ref_from_prefix_with_elems(entries, count) {
            Ok((entries, _)) => {
                let found = entries.iter().filter_map(found).collect();
                self.tasks.push_front(Task::Generation(head.generation.get(), found));
            }
            Err(_) if data.is_empty() => return Err(nonsense("it ends before its entries do".into())),
            Err(_) => self.tasks.push_front(Task::Discovery(read)),
        }
        Ok(())
    }

    fn listed(&mut self, mut found: Vec<u32>, page: &NamespaceList) -> Result<(), ScriptError> {
        let what = Task::List(Vec::new()).what();
        for nsid in page.ids() {
            if found.last().is_some_and(|last| nsid <= *last) {
                return Err(ScriptError::Nonsense { what, why: format!("namespace {nsid} does not follow in order") });
            }
            found.push(nsid);
        }
        if page.is_full() && found.len() < NAMESPACES_MAX {
            self.tasks.push_front(Task::List(found));
            return Ok(());
        }
        found.truncate(NAMESPACES_MAX);
        self.namespaces.retain(|nsid, _| found.binary_search(nsid).is_ok());
        // Each of them, and then what is known is shown.
        self.tasks.push_front(Task::Settle);
        found.into_iter().rev().for_each(|nsid| self.tasks.push_front(Task::Namespace(nsid)));
        Ok(())
    }

    fn described(&mut self, nsid: u32, page: &Namespace, descriptors: Option<&Descriptors>) {
        match NamespaceFacts::of(page, descriptors) {
            Ok(Some(facts)) => {
                self.namespaces.insert(nsid, facts);
            }
            Ok(None) => {
                self.namespaces.remove(&nsid);
            }
            Err(unusable) => {
                tracing::warn!("namespace {nsid} cannot be used: {unusable}");
                self.namespaces.remove(&nsid);
            }
        }
    }

    /// Whether it is changing how the controller reaches a namespace.
    pub(super) fn is_changing(&self) -> bool {
        self.namespaces.values().any(|namespace| self.state_of(namespace) == AnaState::Change)
    }

    /// How the controller reaches a namespace that it has.
    pub(super) fn state_of(&self, namespace: &NamespaceFacts) -> AnaState {
        match &self.controller {
            // A group that is not told of is not to be used: its state is changing.
            Some(controller) if controller.reports_ana => self.ana.get(&namespace.group).copied().unwrap_or(AnaState::Change),
            _ => AnaState::Optimized,
        }
    }
}

/// Whether the same command may succeed a little later.
fn is_passing(status: StatusField) -> bool {
    !status.is_permanent()
        && matches!(
            status.code(),
            StatusCode::DATA_TRANSFER
                | StatusCode::INTERNAL
                | StatusCode::INTERRUPTED
                | StatusCode::NAMESPACE_NOT_READY
                | StatusCode::TRANSIENT_TRANSPORT
                | StatusCode::MEDIA_NOT_READY
        )
}

/// A page, if all of it came.
fn page_of<'a, T>(what: &'static str, data: &'a [u8]) -> Result<&'a T, ScriptError>
where
    T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_bytes(data).map_err(|_| ScriptError::Nonsense { what, why: format!("{} bytes", data.len()) })
}

#[cfg(test)]
mod tests {
    use spinel_nvme::admin::GetLogPage;
    use spinel_nvme::status::StatusCode;

    use super::*;

    /// How many bytes of which log are asked for.
    fn log(script: &Script) -> (u8, u64, u32) {
        let Asking { command, room_bytes } = script.next().expect("something is asked");
        let log = GetLogPage::of(&command);
        (log.page, log.len_bytes(), room_bytes)
    }

    fn refuse(script: &mut Script, status: StatusField) -> Result<Outcome, ScriptError> {
        script.answered(&Reply { end: End::Answered { status, result: 0, come_bytes: 0 }, data: Vec::new() })
    }

    #[test]
    fn the_list_of_changed_namespaces_is_read_as_a_whole_and_other_logs_as_far_as_their_event_needs_it() {
        let mut script = Script::default();
        script.rescan();
        assert_eq!(log(&script), (LogPage::ChangedNamespaces.code(), 4096, 4096));
        let mut script = Script::default();
        script.take_back(LogPage::Smart.code());
        assert_eq!(log(&script), (LogPage::Smart.code(), 512, 512));
    }

    #[test]
    fn a_log_that_cannot_be_read_keeps_nothing_from_being_looked_at() {
        let mut script = Script::default();
        script.rescan();
        for _ in 0..REPEATS_MAX {
            assert!(matches!(refuse(&mut script, StatusCode::INTERNAL.retriable()), Ok(Outcome::Again)));
        }
        assert!(matches!(refuse(&mut script, StatusCode::INTERNAL.retriable()), Ok(Outcome::On)));
        // The list of namespaces itself has to be known.
        for _ in 0..REPEATS_MAX {
            assert!(matches!(refuse(&mut script, StatusCode::INTERNAL.retriable()), Ok(Outcome::Again)));
        }
        assert!(refuse(&mut script, StatusCode::INTERNAL.retriable()).is_err());
    }
}
