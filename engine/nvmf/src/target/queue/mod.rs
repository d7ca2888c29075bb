//! One queue of a controller, whatever carries it: commands come in, answers go out. Knows no transport.
//!
//! A transport brings a command with [`Queue::take`], and the data that come with it; it asks the host for those that
//! [`Queue::next_fetch`] names; it sends what [`Queue::next_answer`] gives, and gives the buffers back once they are sent.
//! A queue begins as a stranger's: its first command says which one it is.

mod attached;
mod change;
mod desk;
mod fabrics;
mod io;
mod pair;
mod ranges;
mod reserve;
mod slots;

use std::rc::Rc;
use std::sync::Arc;

use spinel_core::{Armed, Core, Instant, OpenError};
use spinel_nvme::command::{Command, Direction, IoOpcode};
use spinel_nvme::sgl::Place;
use spinel_nvme::status::{StatusCode, StatusField};

use super::admin::Admin;
use super::control::Voice;
use super::hub::Seat;
use super::note::{Said, Told};
use super::options::{IN_CAPSULE_MAX_BYTES, Options};
use super::view::Scene;
use crate::pool::{Account, Chain, Pool, SharedPool};
pub(crate) use attached::Visitor;
pub(crate) use desk::Desk;
use desk::Reserved;
use fabrics::Asking;
pub(crate) use io::Io;
pub(crate) use slots::{Answer, Phase, SlotId};
use slots::{Overfull, Slots};

/// How many commands that wait are tried in vain in one turn: what they wait for hardly ever comes to one and not to others,
/// and a host that takes nothing may have all its commands wait for ever.
const RETRIES_IN_VAIN: usize = 4;
/// Entries of a queue that has not said yet how many it has.
const ENTRIES_OF_STRANGERS: u16 = 2;

/// What a queue is.
enum Role {
    /// It has not said yet.
    Stranger,
    /// It has, and that is being looked into.
    Asking(Box<Asking>),
    /// A controller's own.
    Admin(Box<Admin>),
    /// For I/O.
    Io(Box<Io>),
}

/// What becomes of a command that was brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// It was taken, and nothing more comes with it.
    Whole,
    /// It was taken, and the data that come with it belong into its buffers.
    Bring(SlotId),
    /// It was answered: nobody wants the data that come with it.
    Skip,
    /// There are no buffers for its data now: it is to be brought again.
    Later,
}

/// A host broke the rules of queues so that its connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// More commands than the queue has entries.
    Overfull,
}

/// How a queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Running,
    /// It ends once its answers are sent.
    Leaving,
    /// It takes and sends nothing more.
    Closed,
}

/// One queue.
pub(crate) struct Queue {
    desk: Desk,
    seat: Rc<Seat>,
    role: Role,
    state: State,
    /// When the last of the data came that the host was asked for by one R2T.
    fed: Instant,
    /// The host has to prove who it is,
    proves: bool,
    /// and has not yet.
    unproven: bool,
    /// How many that wait were tried in vain since one was not, or something came that any may wait for.
    in_vain: usize,
    /// How often buffers had been given back by then.
    given: u64,
}

impl Queue {
    /// A stranger's queue on this core.
    pub(crate) fn open(core: &mut Core, voice: Voice, options: Arc<Options>) -> Result<Self, OpenError> {
        let pool = Pool::of(core, options.pool)?;
        let seat = Seat::take(core, voice.id());
        let slots = Slots::new(ENTRIES_OF_STRANGERS);
        let desk = Desk { slots, pool, account: Account::default(), voice, options, now: Instant::default(), usual_ns: 0 };
        Ok(Self {
            desk,
            seat,
            role: Role::Stranger,
            state: State::Running,
            fed: Instant::default(),
            proves: false,
            unproven: false,
            in_vain: 0,
            given: 0,
        })
    }

    /// A command has come, and `capsule_bytes` of data come with it.
    ///
    /// # Errors
    /// [`Broken`]
    #[inline]
    pub(crate) fn take(&mut self, command: &Command, capsule_bytes: u32) -> Result<Taken, Broken> {
        let skip = if capsule_bytes > 0 { Taken::Skip } else { Taken::Whole };
        let to_controller = command.direction() == Direction::ToController;
        let len_bytes = match self.len_bytes(command, capsule_bytes, to_controller) {
            Ok(len_bytes) => len_bytes,
            Err(status) => {
                match self.desk.slots.take(command, self.desk.now) {
                    Ok(id) => self.desk.answer(id, status),
                    Err(overfull) => return self.refuse(command, overfull, skip),
                }
                return Ok(skip);
            }
        };
        let mut reserved = None;
        if to_controller && capsule_bytes > 0 {
            reserved = self.desk.reserve_for_brought(len_bytes, self.compares(command));
            if reserved.is_none() {
                return Ok(Taken::Later);
            }
        }
        let id = match self.desk.slots.take(command, self.desk.now) {
            Ok(id) => id,
            Err(overfull) => {
                self.desk.release(reserved);
                return self.refuse(command, overfull, skip);
            }
        };
        self.desk.slots.get_mut(id).len_bytes = len_bytes;
        if let Err(status) = self.check(id) {
            self.desk.release(reserved);
            self.desk.answer(id, status);
            return Ok(skip);
        }
        if let Some(Reserved { data, other }) = reserved {
            let slot = self.desk.slots.get_mut(id);
            (slot.data, slot.other, slot.phase) = (Some(data), other, Phase::Arriving);
            return Ok(Taken::Bring(id));
        }
        if to_controller && len_bytes > 0 {
            self.fetch(id);
        } else {
            self.run(id);
        }
        Ok(Taken::Whole)
    }

    /// Refuses a command that was not taken.
    #[cold]
    fn refuse(&mut self, command: &Command, overfull: Overfull, skip: Taken) -> Result<Taken, Broken> {
        match overfull {
            Overfull::Full => Err(Broken::Overfull),
            Overfull::Duplicate => {
                self.desk.slots.refuse(command.id(), StatusCode::ID_CONFLICT.permanent());
                Ok(skip)
            }
        }
    }

    /// Whether a command's data are compared with others, which need as many buffers.
    #[inline]
    fn compares(&self, command: &Command) -> bool {
        matches!(self.role, Role::Io(_)) && command.opcode() == IoOpcode::Compare.code()
    }

    /// How many bytes of data a command has.
    #[inline]
    fn len_bytes(&self, command: &Command, capsule_bytes: u32, to_controller: bool) -> Result<u32, StatusField> {
        if !command.uses_sgl() {
            return Err(StatusCode::INVALID_FIELD.permanent());
        }
        let len_bytes = match command.data().place() {
            Place::Transport { len_bytes } if capsule_bytes == 0 => len_bytes,
            Place::Capsule { offset: 0, len_bytes } if to_controller && len_bytes == capsule_bytes => {
                // What connects and proves may always bring so much, as what administers.
                let usual = matches!(self.role, Role::Io(_)) && !command.is_fabrics();
                let most = if usual { self.desk.options.in_capsule_bytes } else { IN_CAPSULE_MAX_BYTES };
                if len_bytes > most {
                    return Err(StatusCode::SGL_LENGTH_INVALID.permanent());
                }
                len_bytes
            }
            Place::Capsule { offset: 0, .. } if to_controller => return Err(StatusCode::SGL_LENGTH_INVALID.permanent()),
            Place::Capsule { .. } if to_controller => return Err(StatusCode::SGL_OFFSET_INVALID.permanent()),
            // Commands without data may say anything about where they are.
            _ if command.direction() == Direction::None && capsule_bytes == 0 => 0,
            _ => return Err(StatusCode::SGL_TYPE_INVALID.permanent()),
        };
        match command.direction() {
            Direction::None => Ok(0),
            _ if len_bytes > self.desk.options.transfer_bytes => Err(StatusCode::INVALID_FIELD.permanent()),
            _ => Ok(len_bytes),
        }
    }

    #[inline]
    fn check(&mut self, id: SlotId) -> Result<(), StatusField> {
        let command = &self.desk.slots.get(id).command;
        if command.is_fabrics() {
            return self.check_fabrics(id);
        }
        if self.unproven {
            return Err(StatusCode::AUTHENTICATION_REQUIRED.permanent());
        }
        match &mut self.role {
            Role::Io(io) => io.check(&mut self.desk, id),
            Role::Admin(admin) => admin.check(&self.desk, id),
            Role::Stranger | Role::Asking(_) => Err(StatusCode::SEQUENCE.permanent()),
        }
    }

    /// Has a command's data asked for as soon as there are buffers for them.
    #[inline]
    fn fetch(&mut self, id: SlotId) {
        let slot = self.desk.slots.get(id);
        let (len_bytes, twice) = (slot.len_bytes, self.compares(&slot.command));
        match self.desk.reserve(len_bytes, twice) {
            Some(Reserved { data, other }) => {
                let slot = self.desk.slots.get_mut(id);
                (slot.data, slot.other) = (Some(data), other);
                self.desk.slots.fetches.push_back(id);
            }
            None => self.desk.park(id),
        }
    }

    #[inline]
    fn run(&mut self, id: SlotId) {
        if self.desk.slots.get(id).command.is_fabrics() {
            return self.run_fabrics(id);
        }
        match &mut self.role {
            Role::Io(io) => io.run(&mut self.desk, id),
            Role::Admin(admin) => admin.run(&mut self.desk, id),
            Role::Stranger | Role::Asking(_) => unreachable!("nothing else was let in"),
        }
    }

    /// Some data of a command have come, that belong so far into them.
    #[inline]
    pub(crate) fn put(&mut self, id: SlotId, at: u32, bytes: &[u8]) {
        let chain = self.desk.slots.get(id).data.as_ref().expect("it has buffers while its data come");
        self.desk.pool.borrow().write(chain, at, bytes);
    }

    /// So many bytes of a command's data have come, and are what was sent or are not. With the last of them it goes on.
    #[inline]
    pub(crate) fn arrived(&mut self, id: SlotId, count: u32, right: bool) {
        if self.state == State::Closed {
            return;
        }
        let slot = self.desk.slots.get_mut(id);
        assert!(matches!(slot.phase, Phase::Arriving | Phase::Fetching), "its data were under way");
        slot.received += count;
        slot.spoiled |= !right;
        if slot.received < slot.len_bytes {
            return;
        }
        if slot.phase == Phase::Fetching {
            self.fed = self.desk.now;
        }
        (slot.arrived, slot.phase) = (true, Phase::Waiting);
        if slot.spoiled { self.spoiled(id) } else { self.run(id) }
    }

    /// The data of a command have come, and are not what was sent.
    #[cold]
    fn spoiled(&mut self, id: SlotId) {
        let status = StatusCode::TRANSIENT_TRANSPORT.retriable();
        match &mut self.role {
            Role::Io(io) => io.spoiled(&mut self.desk, id, status),
            _ => self.desk.answer(id, status),
        }
    }

    /// The next command whose data are to be asked for: its identifier, the name of the transfer, and how much.
    #[inline]
    pub(crate) fn next_fetch(&mut self) -> Option<(SlotId, u16, u16, u32)> {
        let id = self.desk.slots.fetches.pop_front()?;
        let slot = self.desk.slots.get_mut(id);
        (slot.phase, slot.asked) = (Phase::Fetching, self.desk.now);
        let (command, len_bytes) = (slot.command.id(), slot.len_bytes);
        Some((id, command, self.desk.slots.transfer_tag(id), len_bytes))
    }

    /// The command whose data were asked for by this name: its identifier, how much has come, and how much is to come in all.
    #[inline]
    pub(crate) fn asked(&self, transfer_tag: u16) -> Option<(SlotId, u16, u32, u32)> {
        let id = self.desk.slots.asked(transfer_tag)?;
        let slot = self.desk.slots.get(id);
        Some((id, slot.command.id(), slot.received, slot.len_bytes))
    }

    /// Since when a host has been asked for data that have not come, and has not brought any other.
    pub(crate) fn oldest_fetch(&self) -> Option<Instant> {
        let fetching = self.desk.slots.all().filter(|id| self.desk.slots.get(*id).phase == Phase::Fetching);
        fetching.map(|id| self.desk.slots.get(id).asked).min().map(|asked| asked.max(self.fed))
    }

    /// Whether more commands may be brought, as far as answers are concerned.
    #[inline]
    pub(crate) fn may_take(&self) -> bool {
        self.state == State::Running && self.desk.slots.may_take()
    }

    /// A turn begins: its time, what the control side has told, what devices have done. Whether there was anything.
    #[inline]
    pub(crate) fn begin_turn(&mut self, now: Instant) -> bool {
        self.desk.now = now;
        let told = self.seat.any();
        if told {
            self.listen();
        }
        let done = match &mut self.role {
            Role::Io(io) => io.reap(&mut self.desk),
            Role::Admin(admin) => {
                // One that still has to prove who it is cannot say that it is there: the connection gives it a time of its own.
                if !self.unproven && self.state == State::Running && admin.is_late(now) {
                    self.state = State::Leaving;
                }
                false
            }
            Role::Stranger | Role::Asking(_) => false,
        };
        if !self.desk.slots.waiting.is_empty() && self.state != State::Closed {
            let given = self.desk.pool.borrow().given();
            if std::mem::replace(&mut self.given, given) != given || told || done {
                self.in_vain = 0;
            }
            self.retry(if told { usize::MAX } else { RETRIES_IN_VAIN });
        }
        told || done
    }

    /// Lets those go on that wait, as far as they can, until so many in a row could not.
    #[inline(never)]
    fn retry(&mut self, in_vain_max: usize) {
        let mut in_vain = 0;
        for _ in 0..self.desk.slots.waiting.len() {
            let waiting = self.desk.slots.waiting.len();
            let Some(id) = self.desk.slots.waiting.pop_front() else { break };
            let slot = self.desk.slots.get(id);
            let needs_data = slot.command.direction() == Direction::ToController && slot.len_bytes > 0 && !slot.arrived;
            if needs_data && !slot.aborted {
                self.fetch(id);
            } else {
                self.run(id);
            }
            // Whoever has to wait on stands at the end of the line now, and the others have their turn in the next ones.
            let waits_on = self.desk.slots.waiting.len() == waiting;
            (in_vain, self.in_vain) = if waits_on { (in_vain + 1, self.in_vain + 1) } else { (0, 0) };
            if in_vain >= in_vain_max {
                break;
            }
        }
    }

    /// A turn ends: what was begun in it starts, and what has ended at once is collected. Whether there was anything.
    #[inline]
    pub(crate) fn end_turn(&mut self) -> bool {
        let Role::Io(io) = &mut self.role else { return false };
        let landed = io.kick(self.desk.now) && io.reap(&mut self.desk);
        if io.has_fences() {
            io.pass_fences(&self.desk);
        }
        landed
    }

    #[inline(never)]
    fn listen(&mut self) {
        while let Some(told) = self.seat.next() {
            match (told, &mut self.role) {
                (Told::Connected(result), _) => self.connected(result),
                (Told::Scene { scene: Scene::Storage(view), change }, Role::Io(io)) => io.see(&mut self.desk, view, change),
                (Told::Scene { scene, change }, Role::Admin(admin)) => admin.see(&mut self.desk, scene, change),
                (Told::Scene { change, .. }, _) => {
                    if let Some((change, _)) = change {
                        self.desk.voice.say(Said::Seen(change));
                    }
                }
                (Told::Opened { nsid, instance, channel }, Role::Io(io)) => io.opened(&self.desk, nsid, instance, channel),
                (Told::Reserved { token, result }, Role::Io(io)) => io.reserved(&mut self.desk, token, result),
                (Told::Reserved { token, result }, Role::Admin(admin)) => admin.persisted(&mut self.desk, token, result),
                (Told::Abort { by, token, id }, _) => {
                    let aborted = self.abort(id);
                    self.desk.voice.say(Said::Aborted { by, token, aborted });
                }
                (Told::Aborted { token, aborted }, Role::Admin(admin)) => admin.aborted(&mut self.desk, token, aborted),
                (Told::Held { token, granted }, Role::Io(io)) => io.held(&mut self.desk, token, granted),
                (Told::ProofTaken { token, standing }, _) => self.proved(token, Some(&[]), standing),
                (Told::ProofGiven { token, message, standing }, _) => self.proved(token, message.as_deref(), standing),
                (Told::Noticed { nsid, notice }, Role::Admin(admin)) => admin.noticed(&mut self.desk, nsid, notice),
                (Told::Close(why), _) => {
                    tracing::debug!("a queue ends: {why:?}");
                    self.state = State::Leaving;
                }
                (Told::Opened { .. } | Told::Reserved { .. } | Told::Held { .. } | Told::Noticed { .. } | Told::Aborted { .. }, _) => {}
            }
        }
    }

    /// Gives up a command that only waits. One that has begun ends by itself; between two steps it ends early.
    fn abort(&mut self, command_id: u16) -> bool {
        let Some(id) = self.desk.slots.find(command_id) else { return false };
        let slot = self.desk.slots.get_mut(id);
        slot.aborted = true;
        if slot.phase != Phase::Waiting || slot.begun {
            return false;
        }
        self.desk.slots.waiting.retain(|waiting| *waiting != id);
        self.desk.slots.fetches.retain(|waiting| *waiting != id);
        match &mut self.role {
            Role::Io(io) => io.end(&mut self.desk, id, StatusCode::ABORT_REQUESTED.retriable()),
            _ => self.desk.answer(id, StatusCode::ABORT_REQUESTED.retriable()),
        }
        true
    }

    /// The next answer.
    #[inline]
    pub(crate) fn next_answer(&mut self) -> Option<Answer> {
        self.desk.slots.next_answer()
    }

    /// Whether something waits to be sent.
    #[inline]
    pub(crate) fn has_answer(&self) -> bool {
        self.desk.slots.has_answer() || !self.desk.slots.fetches.is_empty()
    }

    /// The buffers of an answer are sent.
    #[inline]
    pub(crate) fn give_back(&mut self, chain: Chain) {
        self.desk.pool.borrow_mut().give(&mut self.desk.account, chain);
    }

    /// How long requests have taken lately, in nanoseconds.
    #[inline]
    pub(crate) fn usual_ns(&self) -> u64 {
        self.desk.usual_ns
    }

    /// The core's buffers.
    pub(crate) fn pool(&self) -> &SharedPool {
        &self.desk.pool
    }

    /// Whether it wants to end, for whatever reason, once its answers are sent.
    #[inline]
    pub(crate) fn is_leaving(&self) -> bool {
        self.state != State::Running
    }

    /// Whether its host has still to prove who it is.
    pub(crate) fn is_unproven(&self) -> bool {
        self.unproven
    }

    /// Whether it knows which queue it is.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.role, Role::Admin(_) | Role::Io(_))
    }

    /// It takes and sends nothing from now on: what flies is waited for.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        let all: Vec<SlotId> = self.desk.slots.all().collect();
        all.into_iter().for_each(|id| self.desk.slots.get_mut(id).aborted = true);
        self.desk.slots.waiting.clear();
        self.desk.slots.fetches.clear();
        if let Role::Io(io) = &mut self.role {
            io.let_go();
        }
    }

    /// Whether nothing of it flies any more.
    pub(crate) fn is_still(&self) -> bool {
        match &self.role {
            Role::Io(io) => io.flying() == 0,
            _ => true,
        }
    }

    /// How many commands are taken and not answered.
    pub(crate) fn held(&self) -> usize {
        self.desk.slots.held()
    }

    /// When it has to be looked at again.
    pub(crate) fn arm(&mut self) -> Armed {
        // Whoever waits is tried once more before the core sleeps: what wakes it may have come for somebody else before.
        if self.seat.any() || self.in_vain < self.desk.slots.waiting.len() {
            return Armed::Ready;
        }
        match &mut self.role {
            Role::Io(io) => io.arm(),
            Role::Admin(admin) if !self.unproven => admin.arm(),
            Role::Admin(_) | Role::Stranger | Role::Asking(_) => Armed::Idle,
        }
    }

    /// Leaves the core. Nothing of it flies, and nothing of it is sent.
    pub(crate) fn retire(mut self, core: &mut Core) {
        let chains: Vec<Chain> = self.desk.slots.take_chains().collect();
        chains.into_iter().for_each(|chain| self.give_back(chain));
        Seat::leave(core, self.desk.voice.id());
        drop(self.role);
        self.desk.voice.say(Said::Ended);
    }
}
