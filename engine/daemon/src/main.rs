//! `spineld`: the one place where devices, reactors, guests' queues and the RPC meet.
#![forbid(unsafe_code)]

mod args;
mod balance;
mod bench;
mod config;
mod cores;
mod counts;
mod detach;
mod disks;
mod engine;
mod events;
mod files;
mod initiator;
mod keyring;
mod kinds;
mod limits;
mod log;
mod methods;
mod notify;
mod nvmf;
mod scheduler;
mod served;
mod takeover;

use std::error::Error;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use crossbeam_channel::bounded;
use serde_json::Value;
use spinel_control::{RpcError, Service, server, socket};

use crate::args::Args;
use crate::cores::CoreList;
use crate::engine::{Engine, Front};
use crate::events::{Event, Events};
use crate::log::Log;
use crate::methods::METHODS;
use crate::takeover::{Given, Taken};

/// How long requests under way are waited for when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(text) = args.completions.map(args::completions).or_else(|| args.man.then(args::manual)) {
        return if std::io::stdout().write_all(&text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if args.detach {
        return detach::start(&args.rpc_socket());
    }
    let log = Log::start(args.log_level, &args.log_flags);
    limits::apply();
    limits::abort_with_data_path();
    match run(&args, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", kinds::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Starts everything, serves until told to stop, and stops everything.
fn run(args: &Args, log: Log) -> Result<(), Box<dyn Error>> {
    let cores = CoreList::granted(args.cores())?;
    if !args.no_pin {
        // Before there is any other thread.
        cores.leave()?;
    }
    let events = Events::install()?;
    // First of all, so that a second daemon on the same socket touches nothing else.
    let listener = if args.takeover { None } else { Some(socket::bind(&args.rpc_socket())?) };
    let socket = listener.is_some().then(|| OwnSocket(args.rpc_socket()));
    served::make_folder(&args.vhost_folder())?;
    let engine = Arc::new(Engine::start(args, &cores, log)?);
    let served = begin(args, &engine, listener, &events).and_then(|taken| {
        let socket = socket.unwrap_or_else(|| OwnSocket(args.rpc_socket()));
        serve(&engine, taken, events, socket)
    });
    let ended = wind_up(engine);
    served?;
    if !ended {
        return Err(format!("requests are still under way after {} s: ending without them", STOP_TIME.as_secs()).into());
    }
    tracing::info!("stopped");
    Ok(())
}

/// Takes over from the daemon that runs, if there is no socket of our own, or loads the configuration.
fn begin(args: &Args, engine: &Engine, listener: Option<UnixListener>, events: &Events) -> Result<Taken, Box<dyn Error>> {
    let Some(listener) = listener else { return Ok(takeover::take_over(engine, &args.rpc_socket(), events)?) };
    if let Some(file) = &args.config {
        config::load(file, &METHODS, engine, || engine.initialise())?;
    } else if !args.wait_for_rpc {
        engine.initialise();
    }
    Ok(Taken::nothing(listener))
}

/// Answers calls until told to stop.
fn serve(engine: &Arc<Engine>, taken: Taken, events: Events, socket: OwnSocket) -> Result<(), Box<dyn Error>> {
    let listener = taken.listener.try_clone()?.into();
    let server = server::start(taken.listener.try_clone()?, Arc::new(Rpc(Arc::clone(engine))))?;
    engine.set_front(Front { listener, gate: server.gate(), events: events.sender() });
    tracing::info!("spineld {} runs on {} and listens on {}", env!("CARGO_PKG_VERSION"), engine.place(), socket.0.display());
    notify::notify(&taken.ready());
    taken.say_serving();
    drop(taken);
    while let Event::HandOver(link) = events.next() {
        let front = engine.front().expect("set above");
        match takeover::hand_over(engine, front, &link, &events) {
            Given::Kept => {}
            // Without cleaning up: sockets and locks are the other process's by now.
            Given::Gone => std::process::exit(0),
            Given::Lost => std::process::exit(1),
        }
    }
    events.lose_patience();
    notify::notify(notify::STOPPING);
    drop(socket);
    server.stop();
    Ok(())
}

/// The methods, as the RPC server calls them.
struct Rpc(Arc<Engine>);

impl Service for Rpc {
    fn call(&self, method: &str, params: Option<&Value>) -> Result<Value, RpcError> {
        methods::check_harmless(&self.0, method)?;
        METHODS.call(&self.0, self.0.phase(), method, params)
    }

    fn patience(&self, method: &str, params: Option<&Value>) -> Duration {
        methods::patience(&self.0, method, params)
    }
}

/// The RPC socket's file, which goes with this: while it is still ours, for once the listener is closed, another daemon may
/// have put its own in that place.
struct OwnSocket(PathBuf);

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!("the socket {} stays: {error}", self.0.display());
        }
    }
}

/// Stops the engine; whether everything in flight has ended in time.
fn wind_up(engine: Arc<Engine>) -> bool {
    let (done, ended) = bounded(1);
    let stopping = std::thread::Builder::new().name("spinel-stop".into()).spawn(move || {
        let engine = Arc::into_inner(engine).expect("the server, which had the other one, has stopped");
        engine.stop();
        let _ = done.send(());
    });
    stopping.is_ok() && ended.recv_timeout(STOP_TIME).is_ok()
}
