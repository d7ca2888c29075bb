//! What channels know of a device: by which ways it is reached, and how it stands. Knows no connection.

use spinel_nvme::log::AnaState;

/// Names a controller that is connected again and again; never used for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PathId(pub(crate) u64);

/// Names a device; never used for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DeviceId(pub(crate) u64);

/// One way to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    pub(crate) path: PathId,
    pub(crate) nsid: u32,
    /// How well the controller reaches it.
    pub(crate) state: AnaState,
    /// The administrator prefers it.
    pub(crate) preferred: bool,
}

/// Whether requests may wait for a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    /// They wait.
    Patient,
    /// They fail: it has been out of reach for too long.
    Failing,
    /// They fail: the device has gone.
    Gone,
}

/// Which of several ways a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// The same as the one before, as long as it is among the best.
    #[default]
    ActivePassive,
    /// One of the best after the other, each for so many requests.
    RoundRobin {
        /// At least one.
        requests: u32,
    },
    /// The one of the best with the fewest requests under way.
    QueueDepth,
}

/// What a device can do, as far as it limits single commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Most blocks of one Write Zeroes.
    pub(crate) zeroes_blocks: u32,
    /// Most blocks of one range that is given back.
    pub(crate) discard_blocks: u32,
    /// How often a request is sent again that failed without a word that this is in vain.
    pub(crate) retries: u32,
}

/// A device as channels see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    pub(crate) ways: Vec<Way>,
    pub(crate) mood: Mood,
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
}
