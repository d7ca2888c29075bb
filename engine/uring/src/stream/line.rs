//! One connection as its ring sees it: what it wants to submit, what came of it, how it stands. Knows no protocol.

use std::os::fd::OwnedFd;

use io_uring::opcode::AsyncCancel2;
use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Fd, Fixed};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use spinel_core::{Break, StreamState};

use super::dial::Dial;
use super::inbox::Inbox;
use super::outbox::Outbox;
use crate::files::Target;
use crate::party::{Answer, Party, Registered};

/// Which of a connection's submissions an answer is for. Of each there is one at a time.
mod slot {
    pub(super) const RECEIVE: u32 = 0;
    pub(super) const SEND: u32 = 1;
    pub(super) const CONNECT: u32 = 2;
    pub(super) const DEADLINE: u32 = 3;
    pub(super) const CANCEL: u32 = 4;
}

/// How far connecting is.
enum Connecting {
    /// The address is known, the kernel not yet told.
    Wanted(Dial),
    /// The kernel was told of the address, and then of the deadline.
    Dialled(Dial),
    /// Both are with the kernel.
    Flying(#[allow(dead_code, reason = "the kernel may still read it")] Dial),
    /// It is connected, or never will be.
    Over,
}

/// One connection: shared by its stream and its ring.
pub(crate) struct Line {
    socket: OwnedFd,
    target: Target,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    state: StreamState,
    connecting: Connecting,
    receiving: bool,
    /// It was closed on this side.
    closed: bool,
    /// A cancellation of everything is to be submitted.
    cancel: bool,
    /// Submissions whose last answer has not come.
    owed: u32,
}

impl Line {
    /// A connection to be: at once, or as soon as it is dialled.
    pub(crate) fn new(socket: OwnedFd, target: Target, inbox: Inbox, outbox: Outbox, dial: Option<Dial>) -> Self {
        let connecting = dial.map_or(Connecting::Over, Connecting::Wanted);
        let state = StreamState::Open;
        Self { socket, target, inbox, outbox, state, connecting, receiving: false, closed: false, cancel: false, owed: 0 }
    }

    pub(crate) fn state(&self) -> StreamState {
        self.state
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, StreamState::Broken(_))
    }

    /// Whether the other side has answered. A connection that was handed over is connected.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.connecting, Connecting::Over) && !self.is_broken()
    }

    /// Whether nothing is in flight after it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed && self.owed == 0
    }

    /// Whether [`next`](Party::next) has something.
    pub(crate) fn is_eager(&self) -> bool {
        match self.connecting {
            _ if self.cancel => true,
            _ if self.is_broken() => false,
            Connecting::Wanted(_) | Connecting::Dialled(_) => true,
            Connecting::Flying(_) => false,
            Connecting::Over => self.outbox.waits() || self.wants_to_receive() && self.inbox.has_room(),
        }
    }

    fn wants_to_receive(&self) -> bool {
        !self.receiving && self.state == StreamState::Open
    }

    /// Ends the connection. What is in flight is called back; the other side sees the end at once.
    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.cancel = self.owed > 0;
            self.break_off(Break::Closed);
        }
    }

    /// Notes why nothing comes or goes any more, if there was no reason before.
    pub(crate) fn break_off(&mut self, reason: Break) {
        if !self.is_broken() {
            self.state = StreamState::Broken(reason);
            // What is still in flight ends by this, and the other side sees it. Where nothing was connected nothing is to end.
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
        self.settle();
    }

    /// What was queued on a broken connection counts as sent as soon as the kernel has let go of it. To be called after queueing.
    pub(crate) fn settle(&mut self) {
        if self.is_broken() && !self.outbox.calling() {
            self.outbox.abandon();
        }
    }

    fn received(&mut self, answer: Answer) {
        self.receiving &= answer.more;
        match answer.result {
            0 if self.state == StreamState::Open => self.state = StreamState::Ended,
            0 => {}
            1.. => self.inbox.received(answer),
            // All buffers are full: received again as soon as one is not.
            code if code == -Errno::NOBUFS.raw_os_error() => {}
            code => self.break_off(Break::System(-code)),
        }
    }

    fn sent(&mut self, result: i32) {
        self.outbox.called(usize::try_from(result).unwrap_or(0));
        let is = |errno: Errno| result == -errno.raw_os_error();
        let passing = is(Errno::AGAIN) || is(Errno::INTR) || is(Errno::FAULT) && self.outbox.touch();
        if result < 0 && !passing {
            self.break_off(Break::System(-result));
        }
        self.settle();
    }

    fn connected(&mut self, result: i32) {
        self.connecting = Connecting::Over;
        if result < 0 {
            // It is the deadline that calls it back, unless we have closed it, which is on record then.
            let late = result == -Errno::CANCELED.raw_os_error();
            self.break_off(Break::System(if late { Errno::TIMEDOUT.raw_os_error() } else { -result }));
        }
    }

    /// The deadline was reached, or is no longer needed; or it could not be set, and then there is no waiting without one.
    fn timed(&mut self, result: i32) {
        let usual = [Errno::TIME, Errno::CANCELED, Errno::NOENT, Errno::ALREADY].map(|errno| -errno.raw_os_error());
        if result < 0 && !usual.contains(&result) && !matches!(self.connecting, Connecting::Over) {
            self.cancel = true;
        }
    }

    fn submitted(&mut self, slot: u32, entry: Entry) -> Option<(u32, Entry)> {
        self.owed += 1;
        Some((slot, entry))
    }
}

// SAFETY: buffers, vectors and addresses lie in memory of the line that neither moves nor changes while the kernel may use it.
// Segments stay mapped until they are counted as sent, which is what the users of a stream keep; from those of a stream that
// was dropped nothing is read any more, because its socket was shut down.
unsafe impl Party for Line {
    fn answer(&mut self, slot: u32, answer: Answer) -> bool {
        self.owed -= u32::from(!answer.more);
        match slot {
            slot::RECEIVE => self.received(answer),
            slot::SEND => self.sent(answer.result),
            slot::CONNECT => self.connected(answer.result),
            slot::DEADLINE => self.timed(answer.result),
            _ => {}
        }
        self.is_eager()
    }

    fn next(&mut self) -> Option<(u32, Entry)> {
        if std::mem::take(&mut self.cancel) {
            let number = self.target.number;
            let mine = match u32::try_from(number) {
                Ok(place) if self.target.registered => CancelBuilder::fd(Fixed(place)),
                _ => CancelBuilder::fd(Fd(number)),
            };
            return self.submitted(slot::CANCEL, AsyncCancel2::new(mine.all()).build());
        }
        if self.is_broken() {
            return None;
        }
        match std::mem::replace(&mut self.connecting, Connecting::Over) {
            Connecting::Wanted(dial) => {
                let entry = dial.connect(self.target);
                self.connecting = Connecting::Dialled(dial);
                return self.submitted(slot::CONNECT, entry);
            }
            Connecting::Dialled(dial) => {
                let entry = dial.deadline();
                self.connecting = Connecting::Flying(dial);
                return self.submitted(slot::DEADLINE, entry);
            }
            flying @ Connecting::Flying(_) => {
                self.connecting = flying;
                return None;
            }
            Connecting::Over => {}
        }
        if let Some(entry) = self.outbox.call(self.target) {
            return self.submitted(slot::SEND, entry);
        }
        let entry = self.wants_to_receive().then(|| self.inbox.receive(self.target)).flatten()?;
        self.receiving = true;
        self.submitted(slot::RECEIVE, entry)
    }

    fn is_still(&self) -> bool {
        self.owed == 0
    }

    fn registered(&self) -> Registered {
        Registered { file: self.target, group: self.inbox.group() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    fn line(dial: Option<Dial>) -> Line {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let target = Target { number: socket.as_raw_fd(), registered: false };
        Line::new(socket.into(), target, Inbox::new(4, 1000).unwrap(), Outbox::new(8).unwrap(), dial)
    }

    fn slots(line: &mut Line) -> Vec<u32> {
        std::iter::from_fn(|| line.next()).map(|(slot, _)| slot).collect()
    }

    fn answer(result: i32) -> Answer {
        Answer { result, more: false, buffer: None }
    }

    #[test]
    fn a_close_calls_back_what_is_in_flight_and_waits_for_it() {
        let mut line = line(None);
        line.outbox.queue(b"some", std::iter::empty(), b"");
        assert_eq!(slots(&mut line), [slot::SEND, slot::RECEIVE]);
        line.close();
        assert_eq!(slots(&mut line), [slot::CANCEL]);
        for (slot, result, sent) in [(slot::CANCEL, 2, 0), (slot::RECEIVE, -125, 0), (slot::SEND, -125, 1)] {
            assert!(!line.is_closed());
            assert!(!line.answer(slot, answer(result)), "nothing is wanted any more");
            assert_eq!(line.outbox.sent(), sent);
        }
        assert!(line.is_closed());
        assert_eq!(line.state(), StreamState::Broken(Break::Closed));
    }

    #[test]
    fn a_deadline_that_cannot_be_set_ends_the_dialling() {
        let dial = Dial::new(([127, 0, 0, 1], 1).into(), Duration::from_secs(1));
        let mut line = line(Some(dial));
        assert_eq!(slots(&mut line), [slot::CONNECT, slot::DEADLINE]);
        assert!(line.answer(slot::DEADLINE, answer(-22)));
        assert_eq!(slots(&mut line), [slot::CANCEL]);
        line.answer(slot::CONNECT, answer(-125));
        assert_eq!(line.state(), StreamState::Broken(Break::System(Errno::TIMEDOUT.raw_os_error())));
    }

    #[test]
    fn a_receive_that_finds_no_room_is_asked_for_again_when_there_is_some() {
        let mut line = line(None);
        assert_eq!(slots(&mut line), [slot::RECEIVE]);
        assert!(line.answer(slot::RECEIVE, answer(4000 - 1)), "there is room for a byte");
        assert_eq!(slots(&mut line), [slot::RECEIVE]);
        assert!(!line.answer(slot::RECEIVE, answer(1)));
        assert!(!line.is_eager());
        line.inbox.take(1);
        assert!(line.is_eager());
    }
}
