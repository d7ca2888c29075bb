//! Changes that count as made once every connection has confirmed them. Knows no change's content.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::super::note::ChangeId;
use super::super::view::ConnectionId;

/// A change that was begun. It is made whether anybody waits for it or not.
#[derive(Debug)]
#[must_use = "nothing has been confirmed yet"]
pub struct Pending(Receiver<()>);

impl Pending {
    /// Waits until every connection has confirmed it, which a hung device delays; false if that takes longer than `patience`.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        self.0.recv_timeout(patience).is_ok()
    }

    /// Whether every connection has confirmed it.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

/// What is done when a change is made.
#[derive(Debug)]
pub(super) enum Then {
    /// Whoever asked is told by this.
    Answer(Sender<()>),
    /// A host's command has changed reservations.
    Reserved { to: ConnectionId, token: u32 },
    /// Others keep away from some blocks.
    Held { to: ConnectionId, token: u32 },
}

/// What there is to wait for, and what comes then.
pub(super) fn pending() -> (Pending, Then) {
    let (sender, receiver) = bounded(1);
    (Pending(receiver), Then::Answer(sender))
}

#[derive(Debug)]
struct Change {
    waiting: BTreeSet<ConnectionId>,
    then: Then,
}

/// Changes that were not confirmed by everybody yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    next: u64,
    open: BTreeMap<ChangeId, Change>,
}

impl Changes {
    /// A name for the next change.
    pub(super) fn name(&mut self) -> ChangeId {
        self.next += 1;
        ChangeId(self.next)
    }

    /// Begins a change that these connections confirm. If there are none it is made already, and what comes then is answered.
    #[must_use]
    pub(super) fn begin(&mut self, id: ChangeId, waiting: BTreeSet<ConnectionId>, then: Then) -> Option<Then> {
        if waiting.is_empty() {
            return Some(then);
        }
        self.open.insert(id, Change { waiting, then });
        None
    }

    /// One connection has confirmed a change. Answers what comes then if it was the last.
    pub(super) fn confirm(&mut self, id: ChangeId, by: ConnectionId) -> Option<Then> {
        let change = self.open.get_mut(&id)?;
        change.waiting.remove(&by);
        if change.waiting.is_empty() { self.open.remove(&id).map(|change| change.then) } else { None }
    }

    /// A connection has ended, which confirms everything. Answers what comes then, oldest first.
    pub(super) fn gone(&mut self, who: ConnectionId) -> Vec<Then> {
        let ids: Vec<ChangeId> = self.open.iter().filter(|(_, change)| change.waiting.contains(&who)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.confirm(id, who)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_made_when_the_last_has_confirmed_it_or_gone() {
        let mut changes = Changes::default();
        let (one, other) = (ConnectionId(1), ConnectionId(2));
        let (pending, then) = super::pending();
        let id = changes.name();
        assert!(changes.begin(id, [one, other].into(), then).is_none());
        assert!(changes.confirm(id, one).is_none() && changes.confirm(id, one).is_none());
        assert!(!pending.is_made());
        let made = changes.gone(other);
        assert!(matches!(&made[..], [Then::Answer(_)]));
        if let Then::Answer(sender) = &made[0] {
            sender.send(()).unwrap();
        }
        assert!(pending.is_made());
        assert!(changes.confirm(id, other).is_none(), "it is forgotten");
        let id = changes.name();
        assert!(changes.begin(id, BTreeSet::new(), super::pending().1).is_some(), "nobody to wait for");
    }
}
