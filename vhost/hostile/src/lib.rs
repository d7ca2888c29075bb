//! A table of what a front end that means harm can do to the live server of a disk, and what must become of it. Knows no server.
//!
//! Each [`Entry`] does one thing wrong over the disk's socket, sees to it that the server did
//! what it must, and then lets a guest that keeps all rules use the same disk. Whoever runs
//! the table watches what it cannot see: that the server's process lives on, holds nothing
//! that it did not hold before, and that other disks notice nothing.
//!
//! Memory that entries share is named [`MEMORY_NAME`], so that mappings of it can be counted.
#![forbid(unsafe_code)]

mod chains;
mod files;
mod floods;
mod guest;
mod messages;
mod pen;
mod races;
mod records;
mod regions;
mod sequences;
mod wire;

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

pub use guest::MEMORY_NAME;
use guest::{Guest, Kind, take};
use pen::Pen;
use spinel_mem::Region;
use wire::{Client, NEED_REPLY, PLAIN, Packet};

/// What the server of a disk must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Must {
    /// Close the connection.
    Close(&'static str),
    /// Refuse the request where a reply was asked for, and change nothing; close the connection where none was.
    Refuse(&'static str),
    /// Serve the ring no longer, and tell its front end.
    Fault(&'static str),
    /// Answer the request with this status.
    Answer(u8),
    /// Go on with the session, whatever becomes of what was asked.
    Endure,
}

impl Must {
    /// What the server's log says about it; nothing if it need not say anything.
    fn reason(self) -> &'static str {
        match self {
            Self::Close(reason) | Self::Refuse(reason) | Self::Fault(reason) => reason,
            Self::Answer(_) | Self::Endure => "",
        }
    }
}

impl fmt::Display for Must {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(_) => write!(f, "closes the connection"),
            Self::Refuse(_) => write!(f, "refuses it"),
            Self::Fault(_) => write!(f, "gives the ring up"),
            Self::Answer(status) => write!(f, "answers status {status}"),
            Self::Endure => write!(f, "goes on"),
        }
    }
}

/// Where a disk is served.
#[derive(Clone, Debug)]
pub struct Target {
    /// The disk's socket. The disk has 16 MiB, in blocks of 512 bytes, and nobody else uses it.
    pub socket: PathBuf,
    /// Where the server's log goes; without, nothing is looked for there.
    pub log: Option<PathBuf>,
}

/// What was not as it must be.
#[derive(Debug)]
pub struct Surprise(String);

impl Surprise {
    fn of(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Surprise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Surprise {}

impl From<std::io::Error> for Surprise {
    fn from(error: std::io::Error) -> Self {
        Self(format!("the connection, or this machine, failed: {error}"))
    }
}

impl From<rustix::io::Errno> for Surprise {
    fn from(errno: rustix::io::Errno) -> Self {
        std::io::Error::from(errno).into()
    }
}

type Outcome = Result<(), Surprise>;

/// Makes what is sent anew each time, for descriptors are used up.
type MakeBroken = dyn Fn() -> Result<Broken, Surprise> + Send + Sync;
type MakePacket = dyn Fn(&Guest) -> Result<Packet, Surprise> + Send + Sync;

/// How an entry is done.
enum Act {
    /// Bytes and descriptors as they are, on a session whose rings run.
    Bytes(Box<MakeBroken>),
    /// A message of good form.
    Request(Box<MakePacket>),
    /// A chain in a ring.
    Chain(Kind, fn(&mut Pen<'_>)),
    /// What is found on record when the first ring starts.
    Recorded(Kind, fn(&Region)),
    /// Anything, on a session whose rings run.
    Story(Kind, fn(&mut Visit) -> Outcome),
    /// Anything, without a session.
    Free(fn(&Target) -> Outcome),
}

/// Bytes and descriptors of no good form.
struct Broken {
    bytes: Vec<u8>,
    fds: Vec<std::os::fd::OwnedFd>,
}

/// A session whose rings run, in the hands of an entry.
struct Visit {
    client: Client,
    guest: Guest,
}

/// One thing that a front end does wrong.
pub struct Entry {
    /// Its name, unique in the table.
    pub name: String,
    /// What the server must do.
    pub must: Must,
    act: Act,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("must", &self.must).finish_non_exhaustive()
    }
}

/// Everything, in groups: messages, descriptors, memory, sequences, records, chains, races.
#[must_use]
pub fn table() -> Vec<Entry> {
    let groups = [
        messages::malformed(),
        messages::impossible(),
        messages::cut(),
        floods::entries(),
        files::entries(),
        regions::entries(),
        sequences::entries(),
        records::entries(),
        chains::entries(),
        races::entries(),
    ];
    groups.into_iter().flatten().collect()
}

impl Entry {
    fn story(name: &str, must: Must, kind: Kind, act: fn(&mut Visit) -> Outcome) -> Self {
        Self { name: name.to_owned(), must, act: Act::Story(kind, act) }
    }

    /// The same with rings of either layout.
    fn stories(name: &str, must: Must, act: fn(&mut Visit) -> Outcome) -> [Self; 2] {
        Kind::BOTH.map(|kind| Self::story(&format!("{name}, {}", kind.word()), must, kind, act))
    }

    fn request(name: &str, must: Must, packet: impl Fn(&Guest) -> Result<Packet, Surprise> + Send + Sync + 'static) -> Self {
        Self { name: name.to_owned(), must, act: Act::Request(Box::new(packet)) }
    }

    fn free(name: &str, act: fn(&Target) -> Outcome) -> Self {
        Self { name: name.to_owned(), must: Must::Endure, act: Act::Free(act) }
    }

    /// Does it, and has the disk serve a good guest afterwards.
    ///
    /// # Errors
    /// What the server did not do as it must.
    pub fn run(&self, target: &Target) -> Result<(), Surprise> {
        let log = Log::of(target)?;
        match &self.act {
            Act::Bytes(broken) => {
                let Visit { client, .. } = Visit::begin(target, Kind::Split)?;
                let Broken { bytes, fds } = broken()?;
                let fds: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
                client.try_send(&bytes, &fds);
                client.wait_closed()?;
            }
            Act::Request(packet) => self.ask(target, packet.as_ref())?,
            Act::Chain(kind, offer) => {
                let mut visit = Visit::begin(target, *kind)?;
                visit.guest.queues[0].check(0, 1)?;
                let mut pen = Pen::new(&mut visit.guest);
                offer(&mut pen);
                let seen = pen.seen(self.must)?;
                visit.expect(self.must, seen)?;
            }
            Act::Recorded(kind, write) => {
                let mut visit = Visit::begin_unset(target, *kind)?;
                let record = records::lend(&mut visit, &guest::new_memory(records::RECORD_BYTES)?, 0)?;
                write(&record);
                visit.guest.set_up(&mut visit.client)?;
                visit.expect(self.must, true)?;
            }
            Act::Story(kind, act) => {
                let mut visit = Visit::begin(target, *kind)?;
                act(&mut visit)?;
                visit.expect(self.must, false)?;
            }
            Act::Free(act) => act(target)?,
        }
        log.says(self.must.reason())?;
        serve_well(target)
    }

    /// Sends a message with a wish for a reply, and then without.
    fn ask(&self, target: &Target, packet: &MakePacket) -> Outcome {
        let mut visit = Visit::begin(target, Kind::Split)?;
        if let Must::Refuse(_) = self.must {
            if visit.client.result_of(&packet(&visit.guest)?)? == 0 {
                return Err(Surprise::of("it was not refused".to_owned()));
            }
            visit.guest.queues[0].check(0, 1)?;
            visit.guest.queues[1].check(8, 2)?;
        }
        visit.client.send_packet(&packet(&visit.guest)?, if let Must::Endure = self.must { NEED_REPLY } else { PLAIN })?;
        if let Must::Endure = self.must { visit.client.leave() } else { visit.client.wait_closed() }
    }
}

impl Visit {
    /// Attaches a guest with two queues.
    fn begin(target: &Target, kind: Kind) -> Result<Self, Surprise> {
        let guest = Guest::new(kind, 2)?;
        let client = guest.attach(&target.socket)?;
        Ok(Self { client, guest })
    }

    /// Connects for such a guest, which has yet to set up anything.
    fn begin_unset(target: &Target, kind: Kind) -> Result<Self, Surprise> {
        let guest = Guest::new(kind, 2)?;
        Ok(Self { client: Client::negotiated(&target.socket, kind.features())?, guest })
    }

    /// Sees to it that the server did what it must, with the first ring if that has to be given up, and leaves.
    /// `others_run` says whether the second ring is still to be served.
    fn expect(mut self, must: Must, others_run: bool) -> Outcome {
        match must {
            Must::Close(_) => return self.client.wait_closed(),
            Must::Refuse(_) => unreachable!("only requests are refused"),
            Must::Fault(_) => take(&self.guest.queues[0].error, "a ring that was given up")?,
            Must::Answer(_) | Must::Endure => {}
        }
        self.client.sync()?;
        if others_run && matches!(must, Must::Fault(_) | Must::Answer(_)) {
            self.guest.queues[1].check(8, 3)?;
        }
        self.client.leave()
    }

    fn tell(&mut self, code: u32, body: Vec<u8>) -> Outcome {
        self.client.tell(&Packet::new(code, body))
    }

    fn tell_with(&mut self, code: u32, body: Vec<u8>, file: std::os::fd::OwnedFd) -> Outcome {
        self.client.tell(&Packet::with(code, body, vec![file]))
    }
}

/// Attaches guests that keep all rules, with rings of either layout, has them use two queues, and leaves in order.
///
/// # Errors
/// What did not work.
pub fn serve_well(target: &Target) -> Result<(), Surprise> {
    for kind in Kind::BOTH {
        let served = || {
            let mut visit = Visit::begin(target, kind)?;
            visit.guest.queues[0].check(0, 0x5a)?;
            visit.guest.queues[1].check(16, 0xa5)?;
            visit.client.leave()
        };
        served()
            .map_err(|surprise| Surprise(format!("a guest with {} rings that keeps all rules was not served: {surprise}", kind.word())))?;
    }
    Ok(())
}

/// The part of a server's log that is written from now on.
struct Log<'a> {
    target: &'a Target,
    from: u64,
}

impl<'a> Log<'a> {
    fn of(target: &'a Target) -> Result<Self, Surprise> {
        let from = match &target.log {
            Some(path) => std::fs::metadata(path)?.len(),
            None => 0,
        };
        Ok(Self { target, from })
    }

    /// Sees to it that something was said. What the server does is logged before its client can notice it.
    fn says(&self, reason: &str) -> Outcome {
        let Some(path) = self.target.log.as_ref().filter(|_| !reason.is_empty()) else { return Ok(()) };
        let mut text = String::new();
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(self.from))?;
        file.read_to_string(&mut text)?;
        if text.contains(reason) {
            return Ok(());
        }
        Err(Surprise(format!("the log does not say \"{reason}\" but:\n{text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_long_and_every_entry_has_a_name_of_its_own() {
        let table = table();
        assert!(table.len() >= 100, "{} entries", table.len());
        for (at, entry) in table.iter().enumerate() {
            assert!(table[..at].iter().all(|other| other.name != entry.name), "{} twice", entry.name);
        }
    }
}
