//! How controllers are connected, used, lost, stopped and connected again. Knows no request and no device's blocks.

use spinel_core::Instant;
use spinel_nvme::admin::{Abort, async_event_request};
use spinel_nvme::command::Command;
use spinel_nvme::fabrics::{CONTROLLER_ANY, Connect, ConnectData, Connected};
use spinel_nvme::log::AsyncEvent;
use spinel_nvme::status::StatusField;

use super::super::device::SEGMENTS_MAX;
use super::super::host::Network;
use super::super::note::{Association, HostId, LaneId, Plan, Reply, Said, Told};
use super::super::options::OnTimeout;
use super::super::queue::{End, Loss, Manner};
use super::super::view::PathId;
use super::State;
use super::facts::TRANSFER_BYTES;
use super::ghost::Ghost;
use super::path::{IO_AGAIN_NS, Stage, Use, Wire};
use super::script::{Outcome, Script};

/// Commands of an admin queue at a time.
const ADMIN_COMMANDS: u16 = 31;
/// Event requests at a time.
const EVENT_REQUESTS: u16 = 2;
/// Access that is changing is looked at again after so long, in case nobody tells.
const LOOK_NS: u64 = 1_000_000_000;
/// A status that is not yet as it has to be is asked again after so long; and a way that led nowhere is looked at again.
const AGAIN_NS: u64 = 100_000_000;

impl<N: Network> State<N> {
    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Nothing => {}
            Said::Here(host, link) => {
                self.hosts.insert(host, link);
            }
            Said::Home(host) => {
                self.homes.insert(host);
            }
            Said::Gone(host) => self.host_gone(host),
            Said::Wanted { host, device, wanted } => self.wanted(host, device, wanted),
            Said::Connected { lane, answer } => self.connected(lane, answer),
            Said::Answer { lane, ask, reply } => self.answered(lane, ask, reply),
            Said::Ending { lane } => self.ending(lane),
            Said::Lost { lane, loss } => self.lost(lane, loss),
            Said::Overdue { lane, command_id } => self.overdue(lane, command_id),
            Said::Trouble { path } => self.troubled(path),
        }
    }

    /// Does what has become due.
    pub(super) fn keep_time(&mut self) {
        let now = self.now;
        let due: Vec<PathId> =
            self.paths.iter().filter(|(_, path)| path.next_at().is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        for id in due {
            self.keep_time_of(id);
        }
        let over: Vec<Association> =
            self.ghosts.iter().filter(|ghost| ghost.over_at().is_some_and(|at| at <= now)).map(|ghost| ghost.association).collect();
        for association in over {
            self.ghosts.retain(|ghost| ghost.association != association);
            self.hosts.values().for_each(|link| link.tell(Told::Over(association)));
        }
    }

    fn keep_time_of(&mut self, id: PathId) {
        let now = self.now;
        let path = self.path(id);
        if path.given_up_at().is_some_and(|at| at <= now) {
            tracing::error!("controller '{}' at {} is given up", path.spec.name, path.spec.address);
            return self.leave(id);
        }
        if path.fails_at().is_some_and(|at| at <= now) {
            path.failing = true;
            let name = path.spec.name.clone();
            self.publish(&name, false);
        }
        let path = self.path(id);
        if path.asking.is_some_and(|(_, until)| until <= now) {
            return self.fail(id, "a command was not answered in time");
        }
        match path.stage {
            Stage::Resting(at) if at <= now => self.connect(id),
            Stage::Stopping(until) if until <= now => self.close(id),
            _ => {}
        }
        let path = self.path(id);
        if path.again.take_if(|at| *at <= now).is_some() {
            self.go_on(id);
        }
        if self.path(id).io_again.take_if(|at| *at <= now).is_some() {
            self.reach(id);
        }
    }

    /// When something becomes due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let later = |at: &Instant| *at > self.now;
        let paths = self.paths.values().filter_map(|path| path.next_at().map(|at| at.max(self.now.after_ns(1))));
        paths.chain(self.ghosts.iter().filter_map(Ghost::over_at).filter(later)).min()
    }

    /// Begins to connect a controller.
    fn connect(&mut self, id: PathId) {
        let load = |home: &HostId| self.paths.values().flat_map(|path| path.wires.values()).filter(|wire| wire.host == *home).count();
        let Some(home) = self.homes.iter().copied().min_by_key(load) else {
            let later = self.now.after_ns(AGAIN_NS);
            self.path(id).stage = Stage::Resting(later);
            return;
        };
        let association = Association(self.next());
        let keep_alive_ms = u32::try_from(self.settings.keep_alive.as_millis()).unwrap_or(u32::MAX);
        let path = self.path(id);
        (path.stage, path.association, path.number) = (Stage::Starting, association, None);
        path.script = Script::start(path.spec.io_queues, path.spec.subsystem.is_discovery());
        (path.again, path.repeating, path.io_again, path.asking) = (None, None, None, None);
        path.event_asks.clear();
        path.aborted.clear();
        self.open(id, home, Use::Admin, ADMIN_COMMANDS, keep_alive_ms);
    }

    /// Has a core open a connection.
    fn open(&mut self, id: PathId, host: HostId, what: Use, commands: u16, keep_alive_ms: u32) {
        let lane = LaneId(self.next());
        let within_ns = u64::try_from(self.settings.connect_timeout.as_nanos()).unwrap_or(u64::MAX);
        let path = self.path(id);
        let spec = &path.spec;
        let (number, controller) = match what {
            Use::Admin => (0, CONTROLLER_ANY),
            Use::Io { number, .. } => (number, path.number.expect("a controller that is live has a number")),
        };
        let manner = Manner {
            header_digest: spec.header_digest,
            data_digest: spec.data_digest,
            commands,
            segments_max: if what == Use::Admin { 1 } else { SEGMENTS_MAX },
            transfer_bytes: TRANSFER_BYTES,
        };
        let connect = Connect {
            format: 0,
            queue: number,
            // One entry stays free, so that full and empty can be told apart.
            size_less_one: commands,
            priority: 0,
            no_flow_control: false,
            deletes_queues: false,
            keep_alive_ms,
        };
        let data = ConnectData::new(spec.me.id, spec.me.name.field(), spec.subsystem.field(), controller);
        let (address, association) = (spec.address, path.association);
        path.wires.insert(lane, Wire { host, what });
        self.lanes.insert(lane, id);
        let plan = Plan { lane, path: id, association, address, manner, connect, data: Box::new(data), within_ns };
        self.tell(host, Told::Open(Box::new(plan)));
    }

    fn connected(&mut self, lane: LaneId, answer: Result<Connected, (StatusField, u64)>) {
        let keep_alive_ns = u64::try_from(self.settings.keep_alive.as_nanos()).unwrap_or(u64::MAX);
        let Some((id, path)) = self.path_of(lane) else { return };
        let Some(wire) = path.wires.get(&lane).copied() else { return };
        match (answer, wire.what) {
            (Err((status, _)), Use::Admin) => {
                let code = status.code();
                self.fail(id, &format!("it refuses to be connected: {} ({:#05x})", code.fabrics_name(), code.code()));
            }
            (Err((status, _)), Use::Io { number, .. }) => {
                tracing::warn!("queue {number} of controller '{}' is refused: {}", path.spec.name, status.code().fabrics_name());
                self.tell(wire.host, Told::Close { lane, loss: Loss::Closed });
            }
            (Ok(connected), Use::Admin) => {
                path.number = Some(connected.controller);
                self.prove_by_number(id, connected.controller);
                self.tell(wire.host, Told::KeepAlive { lane, timeout_ns: keep_alive_ns });
                if connected.authenticate || connected.authenticate_secured {
                    self.authenticate(id, lane, connected);
                } else {
                    self.go_on(id);
                }
            }
            (Ok(connected), Use::Io { .. }) => {
                if path.number != Some(connected.controller) {
                    return self.fail(id, "a queue was connected to another controller");
                }
                if connected.authenticate || connected.authenticate_secured {
                    self.authenticate(id, lane, connected);
                } else {
                    self.serve(id, lane);
                }
            }
        }
    }

    /// A controller of the same subsystem that was lost does not have the number any more that another one was given.
    fn prove_by_number(&mut self, id: PathId, number: u16) {
        let path = &self.paths[&id];
        let association = path.association;
        let subsystem = path.spec.subsystem.clone();
        for ghost in &mut self.ghosts {
            let same = ghost.subsystem == subsystem && ghost.controller == number && ghost.association != association;
            ghost.proved |= same && ghost.closed.is_some();
        }
    }

    /// A connection for I/O is ready.
    pub(super) fn serve(&mut self, id: PathId, lane: LaneId) {
        let timeout_ns = self.settings.timeout.map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let keep_alive_ns = u64::try_from(self.settings.keep_alive.as_nanos()).unwrap_or(u64::MAX);
        let path = self.path(id);
        let (Some(facts), Some(controller)) = (&path.script.controller, path.number) else { return };
        let (capsule_bytes, rest) = (facts.capsule_bytes, facts.rest(keep_alive_ns));
        let (association, subsystem) = (path.association, path.spec.subsystem.clone());
        let Some(wire) = path.wires.get_mut(&lane) else { return };
        let host = wire.host;
        if let Use::Io { serves, .. } = &mut wire.what {
            *serves = true;
        }
        // From here on it may have commands that outlive it.
        if self.ghost(association).is_none() {
            self.ghosts.push(Ghost { association, subsystem, controller, rest, closed: None, proved: false });
        }
        self.tell(host, Told::Serve { lane, capsule_bytes, timeout_ns });
    }

    fn answered(&mut self, lane: LaneId, ask: u64, reply: Reply) {
        let Some((id, path)) = self.path_of(lane) else { return };
        if path.asking.is_some_and(|(asking, _)| asking == ask) {
            path.asking = None;
            return self.script_answered(id, &reply);
        }
        if path.event_asks.remove(&ask) {
            return self.event(id, &reply);
        }
        self.auth_answered(id, lane, ask, &reply);
    }

    fn script_answered(&mut self, id: PathId, reply: &Reply) {
        let (now, again) = (self.now, self.now.after_ns(AGAIN_NS));
        let path = self.path(id);
        match path.script.answered(reply) {
            Ok(Outcome::On) => {
                path.repeating = None;
                self.go_on(id);
            }
            Ok(Outcome::Again) => {
                let since = *path.repeating.get_or_insert(now);
                if now.since_ns(since) > path.script.patience_ns() {
                    return self.fail(id, "it does not become ready, or does not stop, in the time it says it takes");
                }
                path.again = Some(again);
            }
            Ok(Outcome::Disabled) => {
                let association = path.association;
                if let Some(ghost) = self.ghost(association) {
                    ghost.proved = true;
                }
                self.close(id);
            }
            Err(error) => self.fail(id, &error.to_string()),
        }
    }

    /// Asks the next question of the script, or uses what is known by now.
    pub(super) fn go_on(&mut self, id: PathId) {
        let path = self.path(id);
        if path.asking.is_some() || path.again.is_some() || !matches!(path.stage, Stage::Starting | Stage::Live | Stage::Stopping(_)) {
            return;
        }
        if path.script.settles() {
            self.settle(id);
            return self.go_on(id);
        }
        let Some(asking) = path.script.next() else { return };
        let until = self.now.after(self.settings.admin_timeout);
        if let Some(ask) = self.ask(id, asking.command, Vec::new(), asking.room_bytes) {
            self.path(id).asking = Some((ask, until));
        }
    }

    /// Asks a controller something by its admin queue.
    fn ask(&mut self, id: PathId, command: Command, out: Vec<u8>, room_bytes: u32) -> Option<u64> {
        let ask = self.next();
        let (lane, host) = self.path(id).admin()?;
        self.tell(host, Told::Ask { lane, ask, command, out, room_bytes });
        Some(ask)
    }

    /// All is known of a controller, for the first time or again.
    fn settle(&mut self, id: PathId) {
        let path = self.path(id);
        let name = path.spec.name.clone();
        if path.stage == Stage::Starting {
            let facts = path.script.controller.as_ref();
            if facts.is_some_and(|facts| Some(facts.number) != path.number) {
                return self.fail(id, "it says another number than when it was connected");
            }
            tracing::info!("controller '{name}' at {} is there", path.spec.address);
            (path.stage, path.attempts, path.lost, path.trouble) = (Stage::Live, 0, None, None);
            path.failing = false;
            let requests = facts.map_or(1, |facts| facts.event_requests).min(EVENT_REQUESTS);
            (0..requests).for_each(|_| self.await_event(id));
        }
        self.update(&name);
        self.reach(id);
        self.publish(&name, true);
        if self.path(id).spec.subsystem.is_discovery() {
            self.follow(id);
        }
        self.answer_awaited(id);
        let later = self.now.after_ns(LOOK_NS);
        let path = self.path(id);
        if path.script.is_changing() {
            path.script.look_at_ana();
            path.again = Some(later);
        }
    }

    fn await_event(&mut self, id: PathId) {
        if let Some(ask) = self.ask(id, async_event_request(), Vec::new(), 0) {
            self.path(id).event_asks.insert(ask);
        }
    }

    fn event(&mut self, id: PathId, reply: &Reply) {
        let End::Answered { status, result, .. } = reply.end else { return };
        if !status.is_success() {
            // It is not asked again: a controller that refuses once would for ever.
            return;
        }
        let event = AsyncEvent::of(result);
        let path = self.path(id);
        tracing::debug!("controller '{}' tells of {event:?}", path.spec.name);
        match event {
            AsyncEvent::NAMESPACES_CHANGED => path.script.rescan(),
            AsyncEvent::ANA_CHANGED => path.script.look_at_ana(),
            AsyncEvent::DISCOVERY_CHANGED => path.script.discover(),
            other => path.script.take_back(other.page),
        }
        path.again = None;
        self.await_event(id);
        self.go_on(id);
    }

    /// Somebody was told that a controller does not lead to a namespace.
    fn troubled(&mut self, id: PathId) {
        let later = self.now.after_ns(AGAIN_NS);
        let Some(path) = self.paths.get_mut(&id) else { return };
        if path.is_live() {
            path.script.look_at_ana();
            if path.asking.is_none() && path.again.is_none() {
                // A little later: it may be about to change.
                path.again = Some(later);
            }
        }
    }

    /// Opens the connections for I/O that are missing.
    pub(super) fn reach(&mut self, id: PathId) {
        let Some(path) = self.paths.get(&id).filter(|path| path.is_live()) else { return };
        let Some(group) = self.groups.get(&path.spec.name) else { return };
        let wanted = |device| self.wanted.get(&device).into_iter().flatten().copied();
        let hosts: std::collections::BTreeSet<HostId> =
            group.devices().flat_map(wanted).filter(|host| !path.reaches(*host) && self.hosts.contains_key(host)).collect();
        let most = path.script.controller.as_ref().map_or(0, |facts| facts.commands_max);
        let commands = if most == 0 { self.settings.queue_requests } else { self.settings.queue_requests.min(most) };
        for host in hosts {
            let Some(number) = self.path(id).free_number() else {
                tracing::error!("controller '{}' allows too few queues for all cores", self.paths[&id].spec.name);
                return;
            };
            self.open(id, host, Use::Io { number, serves: false }, commands.max(1), 0);
        }
    }

    /// A connection begins to end.
    fn ending(&mut self, lane: LaneId) {
        let Some((id, path)) = self.path_of(lane) else { return };
        let Some(wire) = path.wires.get(&lane).copied() else { return };
        match (path.stage, wire.what) {
            (Stage::Live, Use::Io { serves: true, .. }) if self.hosts.contains_key(&wire.host) => {
                self.stop(id, "a connection for I/O was lost");
            }
            (Stage::Starting | Stage::Live | Stage::Stopping(_), Use::Admin) => self.close(id),
            _ => {}
        }
    }

    /// A connection has ended, and nothing of it is left.
    fn lost(&mut self, lane: LaneId, loss: Loss) {
        let again = self.now.after_ns(IO_AGAIN_NS);
        let Some((id, path)) = self.path_of(lane) else { return };
        if loss != Loss::Closed {
            tracing::warn!("a connection of controller '{}' at {}: {loss}", path.spec.name, path.spec.address);
            path.trouble.get_or_insert_with(|| loss.to_string());
        }
        path.wires.remove(&lane);
        if path.is_live() {
            path.io_again = Some(again);
        }
        self.lanes.remove(&lane);
        self.auths.remove(&lane);
        self.ended(id);
    }

    /// Looks whether anything is left of an association that is to end.
    fn ended(&mut self, id: PathId) {
        let now = self.now;
        let path = self.path(id);
        if path.stage != Stage::Closing || !path.wires.is_empty() {
            return;
        }
        let association = path.association;
        path.lost.get_or_insert(now);
        path.stage = Stage::Resting(path.rest_until(now));
        // Without any patience one attempt to connect again is made.
        let in_vain = path.spec.patience.lost_after.is_some_and(|after| after.is_zero()) && path.attempts > 1;
        let (leaving, failed) = (path.leaving || in_vain, path.awaited.is_some());
        if let Some(ghost) = self.ghost(association) {
            ghost.closed = Some(now);
        }
        if leaving || failed {
            self.forget(id);
        }
    }

    /// A controller cannot be used as it is.
    pub(super) fn fail(&mut self, id: PathId, why: &str) {
        let path = self.path(id);
        tracing::warn!("controller '{}' at {}: {why}", path.spec.name, path.spec.address);
        path.trouble.get_or_insert_with(|| why.to_owned());
        self.close(id);
    }

    /// Stops a controller by its admin queue, so that it is known when it has ended everything; and connects it again.
    pub(super) fn stop(&mut self, id: PathId, why: &str) {
        let now = self.now;
        let admin_timeout = self.settings.admin_timeout;
        let path = self.path(id);
        if !path.is_live() {
            return;
        }
        tracing::warn!("controller '{}' at {} is reset: {why}", path.spec.name, path.spec.address);
        path.trouble.get_or_insert_with(|| why.to_owned());
        path.stage = Stage::Stopping(now.after_ns(path.script.patience_ns()).after(admin_timeout));
        path.lost.get_or_insert(now);
        path.script.stop();
        (path.asking, path.again, path.repeating) = (None, None, None);
        let name = path.spec.name.clone();
        self.close_wires(id, |wire| wire.what != Use::Admin);
        self.publish(&name, false);
        self.go_on(id);
    }

    /// Closes everything of a controller.
    pub(super) fn close(&mut self, id: PathId) {
        let now = self.now;
        let path = self.path(id);
        if matches!(path.stage, Stage::Resting(_) | Stage::Closing) {
            return;
        }
        path.stage = Stage::Closing;
        path.lost.get_or_insert(now);
        (path.asking, path.again, path.io_again) = (None, None, None);
        path.event_asks.clear();
        let name = path.spec.name.clone();
        self.close_wires(id, |_| true);
        self.publish(&name, false);
        self.ended(id);
    }

    fn close_wires(&mut self, id: PathId, which: impl Fn(&Wire) -> bool) {
        let wires: Vec<(LaneId, HostId)> =
            self.paths[&id].wires.iter().filter(|(_, wire)| which(wire)).map(|(lane, wire)| (*lane, wire.host)).collect();
        wires.into_iter().for_each(|(lane, host)| self.tell(host, Told::Close { lane, loss: Loss::Closed }));
    }

    /// A core takes part no more.
    fn host_gone(&mut self, host: HostId) {
        self.hosts.remove(&host);
        self.homes.remove(&host);
        self.wanted.values_mut().for_each(|hosts| {
            hosts.remove(&host);
        });
        let gone: Vec<LaneId> =
            self.paths.values().flat_map(|path| path.wires.iter()).filter(|(_, wire)| wire.host == host).map(|(lane, _)| *lane).collect();
        for lane in gone {
            self.ending(lane);
            self.lost(lane, Loss::Closed);
        }
    }

    /// A command takes too long.
    fn overdue(&mut self, lane: LaneId, command_id: u16) {
        let on_timeout = self.settings.on_timeout;
        let Some((id, path)) = self.path_of(lane) else { return };
        let Some(Wire { what: Use::Io { number, .. }, .. }) = path.wires.get(&lane).copied() else { return };
        tracing::warn!("controller '{}': command {command_id:#06x} of queue {number} takes too long", path.spec.name);
        match on_timeout {
            OnTimeout::Nothing => {}
            OnTimeout::Abort if path.aborted.insert((lane, command_id)) => {
                self.ask(id, Abort { queue: number, id: command_id }.command(), Vec::new(), 0);
            }
            OnTimeout::Abort | OnTimeout::Reset => self.stop(id, "a command takes too long"),
        }
    }
}
