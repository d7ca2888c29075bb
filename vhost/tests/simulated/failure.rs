//! Everything that a run can find wrong. Knows neither how it was found nor why.

use std::fmt;

use spinel_sim::Violation;
use spinel_vhost::RingFault;

/// What was wrong first.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A read returned what it must not.
    Violation(Violation),
    /// A core sleeps, published chains wait in the ring of a queue that it serves, and nobody was asked to kick.
    LostWakeUp { core: usize, queue: usize, waiting: u16 },
    /// A core sleeps, requests of a queue that it serves are with the device, and nothing will make it look.
    SleepsForGood { core: usize, queue: usize, in_flight: u16 },
    /// A kick was wanted although the core was awake. With EVENT_IDX that may happen once after every sleep.
    NeedlessKick { core: usize, queue: usize },
    /// A driver waits for a notification, finished chains wait in its ring, and nobody notifies it.
    LostNotification { queue: usize },
    /// Nothing acts any more, or things go round in circles, and not everything has ended.
    Stuck { outstanding: usize },
    /// The device was asked for something that the driver has not published, or not like this, or a second time.
    Unasked { queue: usize, head: u32 },
    /// A turn ended after which the device was not told to start what it was asked for.
    Unstarted { queue: usize },
    /// A head came back that was not offered.
    Unposted { queue: usize, head: u32 },
    /// A request ended for the driver in another way than for the device (status byte, bytes written), or before it did.
    Misreported { queue: usize, head: u16, expected: Option<(u8, u32)>, got: (u8, u32) },
    /// GET_ID was answered with another name.
    Misnamed { queue: usize },
    /// The queue says that the driver broke the ring's rules.
    Fault { queue: usize, fault: RingFault },
    /// A stopped queue wants to go on in another place than behind the chains it has taken.
    WrongBase { queue: usize, says: u32, taken: u32 },
    /// A queue that was told to stop went on to take chains.
    TookMore { queue: usize },
    /// A queue was given up while requests of it were with the device.
    StoppedInFlight { queue: usize, in_flight: u16 },
    /// The disk's meters counted other numbers of requests and errors than the driver.
    Miscounted { queue: usize, metered: (u64, u64), seen: (u64, u64) },
    /// A core did not give a region of guest memory back.
    MemoryKept { core: usize },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => write!(f, "{violation}"),
            Self::LostWakeUp { core, queue, waiting } => {
                write!(f, "core {core} sleeps while {waiting} chains of queue {queue} wait unseen")
            }
            Self::SleepsForGood { core, queue, in_flight } => write!(f, "core {core} sleeps on {in_flight} requests of queue {queue}"),
            Self::NeedlessKick { core, queue } => write!(f, "queue {queue} wants a kick while core {core} is awake"),
            Self::LostNotification { queue } => write!(f, "the driver of queue {queue} was not told that something has finished"),
            Self::Stuck { outstanding } => write!(f, "nothing goes on, {outstanding} requests have not ended"),
            Self::Unasked { queue, head } => write!(f, "the device did what head {head} of queue {queue} does not ask for"),
            Self::Unstarted { queue } => write!(f, "the device was asked for something by queue {queue} and not told to start"),
            Self::Unposted { queue, head } => write!(f, "head {head} of queue {queue} came back and was not offered"),
            Self::Misreported { queue, head, expected, got } => {
                write!(f, "head {head} of queue {queue} ended as {got:?} where {expected:?} is right (status, bytes written)")
            }
            Self::Misnamed { queue } => write!(f, "queue {queue} says another name"),
            Self::Fault { queue, fault } => write!(f, "queue {queue} accuses its driver: {fault}"),
            Self::WrongBase { queue, says, taken } => write!(f, "queue {queue} stopped at {says:#x} and has taken all up to {taken:#x}"),
            Self::TookMore { queue } => write!(f, "queue {queue} was told to stop and took more"),
            Self::StoppedInFlight { queue, in_flight } => write!(f, "queue {queue} is gone and {in_flight} requests of it fly"),
            Self::Miscounted { queue, metered, seen } => {
                write!(f, "queue {queue} metered {metered:?} where {seen:?} is right (requests, errors)")
            }
            Self::MemoryKept { core } => write!(f, "core {core} keeps guest memory"),
        }
    }
}
