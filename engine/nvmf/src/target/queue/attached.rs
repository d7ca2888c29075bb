//! A namespace as one queue uses it: its gates, its channel, and what was begun there. Knows no command.

use std::sync::Arc;

use spinel_core::{Channel, Meter};
use spinel_nvme::status::{StatusCode, StatusField};

use super::super::reservation::HostId;
use super::super::view::{Address, AnaState, Namespace, PortId, View};

/// A channel and what is in it.
pub(crate) struct Way {
    pub(crate) nsid: u32,
    pub(crate) instance: u64,
    pub(crate) channel: Box<dyn Channel>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) flying: usize,
    /// It had no room when it was last asked.
    pub(crate) shut: bool,
}

/// The way to a namespace's device.
pub(crate) enum Door {
    /// Nobody has asked for one.
    Closed,
    /// It is on its way.
    Asked,
    /// There it is.
    Open(Way),
    /// There is none: the device or the system refused.
    Refused,
}

/// What a command meets before it reaches the device: success, or why it does not.
#[derive(Clone, Copy)]
pub(crate) struct Gates {
    pub(crate) read: StatusField,
    pub(crate) write: StatusField,
}

/// A namespace that a queue has used.
pub(crate) struct Attached {
    pub(crate) namespace: Arc<Namespace>,
    /// Blocks have two to the power of so many bytes.
    pub(crate) shift: u32,
    pub(crate) block_count: u64,
    pub(crate) gates: Gates,
    pub(crate) door: Door,
    /// Counts the namespaces that a queue has used: one that was taken away and added again is another one.
    pub(crate) use_number: u32,
}

/// Who uses namespaces, and by which way.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    pub(crate) host: crate::nqn::Nqn,
    pub(crate) host_id: HostId,
    pub(crate) port: PortId,
    /// Where it has arrived.
    pub(crate) arrived: Address,
}

impl Attached {
    pub(crate) fn new(namespace: &Arc<Namespace>, view: &View, visitor: &Visitor, use_number: u32) -> Self {
        let mut attached = Self {
            namespace: Arc::clone(namespace),
            shift: 9,
            block_count: 0,
            gates: Gates { read: StatusField::SUCCESS, write: StatusField::SUCCESS },
            door: Door::Closed,
            use_number,
        };
        attached.look(namespace, view, visitor);
        attached
    }

    /// The namespace is like this now. Answers the channel that does not lead there any more.
    pub(crate) fn look(&mut self, namespace: &Arc<Namespace>, view: &View, visitor: &Visitor) -> Option<Way> {
        let moved = self.namespace.instance != namespace.instance;
        self.namespace = Arc::clone(namespace);
        let geometry = namespace.device.geometry();
        (self.shift, self.block_count) = (geometry.block_bytes.ilog2(), geometry.block_count);
        self.gates = gates(namespace, geometry.read_only, view, visitor);
        if moved { self.close() } else { None }
    }

    /// The namespace is not there any more.
    pub(crate) fn vanish(&mut self) -> Option<Way> {
        let gone = StatusCode::INVALID_NAMESPACE.permanent();
        self.gates = Gates { read: gone, write: gone };
        self.close()
    }

    /// Closes the door. One that was asked for is refused when it comes.
    fn close(&mut self) -> Option<Way> {
        match std::mem::replace(&mut self.door, Door::Closed) {
            Door::Open(way) => Some(way),
            _ => None,
        }
    }
}

fn gates(namespace: &Namespace, read_only: bool, view: &View, visitor: &Visitor) -> Gates {
    // By a way that was taken from the subsystem nothing is reached.
    let state = view.ana(visitor.port).map_or(AnaState::Inaccessible, |states| states.state(namespace.group));
    let path = if state == AnaState::Inaccessible { StatusCode::ANA_INACCESSIBLE.retriable() } else { StatusField::SUCCESS };
    let rights = namespace.rights(&visitor.host_id);
    let conflict = StatusCode::RESERVATION_CONFLICT.permanent();
    let first = |refusals: &[(bool, StatusField)]| {
        refusals.iter().find(|(refuses, _)| *refuses).map_or(StatusField::SUCCESS, |(_, status)| *status)
    };
    let inaccessible = !path.is_success();
    Gates {
        read: first(&[(inaccessible, path), (!rights.read, conflict)]),
        write: first(&[(inaccessible, path), (!rights.write, conflict), (read_only, StatusCode::WRITE_PROTECTED.permanent())]),
    }
}
