//! The next process's side: everything is built from what is offered, and served once the other process has let go. Knows no device.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, never};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use spinel_control::RpcError;
use spinel_control::client::{CallError, Client, ConnectError};
use spinel_control::methods::Phase;
use spinel_control::socket::{self, BindError};
use spinel_handover::{Link, LinkError, VERSION};
use spinel_vhost::{HandOverError, Places};

use super::blackouts::Blackout;
use super::inherited::Inherited;
use super::{FromNew, FromOld, Offer};
use crate::engine::Engine;
use crate::events::Events;
use crate::kinds::chain;
use crate::methods::METHODS;
use crate::notify;

/// How long the other process may take to answer, and a message on its way.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a process that has closed the connection may take to end.
const END_TIME: Duration = Duration::from_secs(10);
/// How often something of it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// Why nothing was taken over. The other process goes on, if there is one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakingError {
    #[error("there is no daemon to take over from")]
    Absent(#[from] ConnectError),
    #[error("the running daemon is not handed over")]
    Refused(#[from] CallError),
    #[error("the socket for the takeover cannot be made")]
    Bind(#[from] BindError),
    #[error("the running daemon has not come to the socket {}", .0.display())]
    NotComing(PathBuf),
    #[error("the takeover failed, and the running daemon goes on")]
    Link(#[from] LinkError),
    #[error("the running daemon goes on by itself: {0}")]
    Kept(String),
    #[error("the running daemon said something else than what was expected")]
    OutOfTurn,
    #[error("the running daemon has closed the connection, but not ended; it is left alone")]
    Alive,
    #[error("what the running daemon serves cannot be served here")]
    Build(#[from] BuildError),
    #[error("this process was told to stop")]
    Stopping,
    #[error("the system refused")]
    System(#[from] io::Error),
}

/// What cannot be built of what was offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("{method}: {source}")]
    Call { method: String, source: RpcError },
    #[error("'{0}' was handed over, and nothing is made of it")]
    Left(String),
    #[error("what earlier takeovers took is no histogram")]
    Blackouts,
    #[error("the RPC socket does not listen")]
    Rpc,
    #[error(transparent)]
    Controller(#[from] HandOverError),
    #[error("'{0}' is not said to be where")]
    Placeless(String),
    #[error("the system refused a descriptor")]
    Descriptors(#[from] io::Error),
}

/// What was taken over.
pub(crate) struct Taken {
    /// The RPC socket.
    pub(crate) listener: UnixListener,
    /// The other process, which wants to hear when everything is served.
    link: Option<Link>,
    /// There was another process, alive or not.
    instead: bool,
}

impl Taken {
    /// Nothing: there was no other process.
    pub(crate) fn nothing(listener: UnixListener) -> Self {
        Self { listener, link: None, instead: false }
    }

    /// What the service manager is told once it is served.
    pub(crate) fn ready(&self) -> String {
        if self.instead { notify::ready_instead() } else { notify::READY.to_owned() }
    }

    /// Lets the other process end.
    pub(crate) fn say_serving(&self) {
        if let Some(Err(error)) = self.link.as_ref().map(|link| link.send(&FromNew::Serving, ANSWER_TIME)) {
            tracing::warn!("the daemon that ran before did not hear that this one serves: {}", chain(&error));
        }
    }
}

/// Takes over from the daemon at the RPC socket `rpc`, or, if that one dies in the middle of it, begins in its place.
///
/// # Errors
/// [`TakingError`]; the other daemon goes on then.
pub(crate) fn take_over(engine: &Engine, rpc: &Path, events: &Events) -> Result<Taken, TakingError> {
    let (link, old) = meet(rpc)?;
    let FromOld::Offer(offer) = hear(&link, ANSWER_TIME)? else { return Err(TakingError::OutOfTurn) };
    let ready = build(engine, &offer).map_err(TakingError::from);
    let ready = ready.and_then(|()| if events.is_due() { Err(TakingError::Stopping) } else { Ok(()) });
    if let Err(error) = ready {
        let _ = link.send(&FromNew::Failed(chain(&error)), ANSWER_TIME);
        return Err(error);
    }
    match switch(engine, &offer, &link, events) {
        Ok(blackouts) => {
            engine.blackouts().clone_from(&offer.blackouts);
            engine.blackouts().add(blackouts);
            let listener = offer.rpc.into_owned()?.into();
            Ok(Taken { listener, link: Some(link), instead: true })
        }
        Err(TakingError::Link(LinkError::Closed)) => {
            drop(link);
            begin_anew(engine, *offer, rpc, old.as_ref())
        }
        Err(error) => Err(error),
    }
}

/// Has the running daemon connect to a socket of this process.
fn meet(rpc: &Path) -> Result<(Link, Option<OwnedFd>), TakingError> {
    let mut client = Client::connect(rpc)?;
    let path = rpc.with_file_name(format!("takeover.{}", std::process::id()));
    let listener = socket::bind(&path)?;
    let asked = client.call("spinel_hand_over", Some(json!({"socket": path, "version": VERSION})));
    // What has come waits in the listener, whose file is of no use any more.
    let _ = std::fs::remove_file(&path);
    asked?;
    let stream = accept(&listener, ANSWER_TIME)?.ok_or(TakingError::NotComing(path))?;
    let link = Link::new(stream)?;
    let old = link.peer_pid().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    Ok((link, old))
}

fn accept(listener: &UnixListener, patience: Duration) -> io::Result<Option<UnixStream>> {
    let patience = Timespec::try_from(patience).ok();
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], patience.as_ref())? == 0 {
        return Ok(None);
    }
    Ok(Some(listener.accept()?.0))
}

/// What the other process says next, unless it is that it goes on.
fn hear(link: &Link, patience: Duration) -> Result<FromOld, TakingError> {
    match link.receive(patience)? {
        FromOld::Refused(because) => Err(TakingError::Kept(because)),
        said => Ok(said),
    }
}

/// Makes everything of what was handed over, and checks that nothing is left.
fn build(engine: &Engine, offer: &Offer) -> Result<(), BuildError> {
    make(engine, &offer.calls, Inherited::of(offer))?;
    if !offer.blackouts.is_valid() {
        return Err(BuildError::Blackouts);
    }
    match rustix::net::sockopt::socket_acceptconn(&offer.rpc) {
        Ok(true) => Ok(()),
        _ => Err(BuildError::Rpc),
    }
}

/// Makes everything by the calls that made it in the other process.
fn make(engine: &Engine, calls: &[(String, Value)], inherited: Inherited) -> Result<(), BuildError> {
    engine.disks().inherited = inherited;
    engine.initialise();
    for (method, params) in calls {
        let made = METHODS.call(engine, Phase::Runtime, method, Some(params));
        made.map_err(|source| BuildError::Call { method: method.clone(), source })?;
    }
    match engine.disks().inherited.left() {
        None => Ok(()),
        Some(left) => Err(BuildError::Left(left.to_owned())),
    }
}

/// From "ready" to running queues. Answers how long each disk stood still.
fn switch(engine: &Engine, offer: &Offer, link: &Link, events: &Events) -> Result<Vec<Blackout>, TakingError> {
    tracing::info!("ready to go on with what the running daemon serves");
    link.send(&FromNew::Ready, ANSWER_TIME)?;
    let FromOld::Stopped(places) = hear(link, ANSWER_TIME)? else { return Err(TakingError::OutOfTurn) };
    if let Err(error) = place(engine, &places) {
        let _ = link.send(&FromNew::Failed(chain(&error)), ANSWER_TIME);
        return Err(error.into());
    }
    if events.is_due() {
        let _ = link.send(&FromNew::Failed(chain(&TakingError::Stopping)), ANSWER_TIME);
        return Err(TakingError::Stopping);
    }
    link.send(&FromNew::Prepared, ANSWER_TIME)?;
    let FromOld::Commit = hear(link, ANSWER_TIME)? else { return Err(TakingError::OutOfTurn) };
    let blackouts = resume(engine, &places);
    announce_sizes(engine, offer);
    Ok(blackouts)
}

/// Tells each controller where its rings go on.
fn place(engine: &Engine, places: &[(String, Places)]) -> Result<(), BuildError> {
    for served in engine.disks().controllers() {
        let place = places.iter().find(|(name, _)| *name == served.name);
        let (_, places) = place.ok_or_else(|| BuildError::Placeless(served.name.clone()))?;
        served.controller().place(places.clone())?;
    }
    Ok(())
}

/// Lets all of them serve, side by side.
fn resume(engine: &Engine, places: &[(String, Places)]) -> Vec<Blackout> {
    let disks = engine.disks();
    let begun: Vec<(&str, Receiver<u64>)> =
        disks.controllers().iter().map(|served| (served.name.as_str(), served.controller().begin_resume())).collect();
    let mut blackouts = Vec::new();
    for (name, resumed) in begun {
        // Its thread lives as long as the controller.
        let Ok(resumed_ns) = resumed.recv() else { continue };
        let since_ns = places.iter().find(|(other, _)| other == name).and_then(|(_, places)| places.since_ns);
        if let Some(took_ns) = since_ns.map(|since_ns| resumed_ns.saturating_sub(since_ns)) {
            tracing::info!(controller = name, "was taken over; it stood still for {} us", took_ns / 1000);
            blackouts.push(Blackout { controller: name.to_owned(), took_ns });
        }
    }
    blackouts
}

/// A file may have grown or shrunk since the other process last looked.
fn announce_sizes(engine: &Engine, offer: &Offer) {
    let disks = engine.disks();
    for parcel in &offer.files {
        if disks.bdev(&parcel.bdev).is_ok_and(|bdev| bdev.device().geometry().block_count != parcel.blocks) {
            disks.announce_size(&parcel.bdev);
        }
    }
}

/// The other process has died before it let go: closes everything of its and begins by its configuration, as after a crash.
fn begin_anew(engine: &Engine, offer: Offer, rpc: &Path, old: Option<&OwnedFd>) -> Result<Taken, TakingError> {
    tracing::warn!("the running daemon died before it had handed over: beginning anew by its configuration");
    drop(std::mem::take(&mut *engine.disks()));
    let Offer { calls, memories, blackouts, rpc: listener, files, controllers } = offer;
    drop((listener, files, controllers));
    if let Some(old) = old {
        let end_time = Timespec::try_from(END_TIME).ok();
        if poll(&mut [PollFd::new(old, PollFlags::IN)], end_time.as_ref()).map_err(io::Error::from)? == 0 {
            return Err(TakingError::Alive);
        }
    }
    let listener = bind_patiently(rpc)?;
    make(engine, &calls, Inherited::of_memories(memories))?;
    *engine.blackouts() = blackouts;
    Ok(Taken { listener, link: None, instead: true })
}

/// Binds the RPC socket, which its last owner is about to let go.
fn bind_patiently(rpc: &Path) -> Result<UnixListener, TakingError> {
    let looks = END_TIME.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        match socket::bind(rpc) {
            Err(BindError::InUse { .. } | BindError::Locked { .. }) => {
                let _ = never::<()>().recv_timeout(LOOK);
            }
            bound => return Ok(bound?),
        }
    }
    Err(TakingError::Alive)
}
