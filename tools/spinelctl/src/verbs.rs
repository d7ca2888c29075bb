//! What each verb does, one file to a family. It refuses to know how a call travels.

mod cores;
mod disk;
mod limit;
mod nvmf;
mod remote;
mod stats;
mod vhost;

mod config;
mod general;

pub(crate) use cores::Usage;

use crate::cli::{Cli, Verb};
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::table;
use crate::top;
use serde_json::Value;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.verb {
        // These two need no daemon.
        Verb::Completion { shell } => return general::completion(*shell),
        Verb::Man { verb } => return general::man(verb),
        Verb::Version => return general::version(cli.socket, cli.timeout, cli.json),
        _ => {}
    }
    // What can be wrong on this side is found before the daemon is asked anything.
    if let Verb::Rpc { method, params } = &cli.verb {
        let params = general::rpc_params(params.as_deref())?;
        let mut daemon = Daemon::connect(cli.socket, cli.timeout)?;
        return table::print_json(&daemon.call(method, params)?);
    }
    let config = match &cli.verb {
        Verb::LoadConfig { file } => Some(config::read(file)?),
        _ => None,
    };
    let mut session = Session { daemon: Daemon::connect(cli.socket, cli.timeout)?, json: cli.json };
    match cli.verb {
        Verb::Disk(disk) => disk::run(&mut session, disk),
        Verb::Vhost(vhost) => vhost::run(&mut session, vhost),
        Verb::Nvmf(nvmf) => nvmf::run(&mut session, nvmf),
        Verb::Remote(remote) => remote::run(&mut session, remote),
        Verb::Key(key) => nvmf::key(&mut session, key),
        Verb::Stats(stats) => stats::run(&mut session, stats),
        Verb::Cores(cores) => cores::run(&mut session, &cores),
        Verb::Top(top) => top::run(&mut session.daemon, &top, session.json),
        Verb::SaveConfig { file } => config::save(&mut session.daemon, file.as_deref()),
        Verb::LoadConfig { .. } => config::load(&mut session.daemon, &config.unwrap_or_default()),
        Verb::LogLevel { level } => general::log_level(&mut session, level),
        Verb::Stop { signal, no_wait } => general::stop(session, &signal, !no_wait),
        Verb::Version | Verb::Rpc { .. } | Verb::Completion { .. } | Verb::Man { .. } => Ok(()),
    }
}

/// A daemon, and how its answers are to be shown.
pub(crate) struct Session {
    daemon: Daemon,
    json: bool,
}

impl Session {
    /// Calls a method that changes something; shows `done`, or its result where JSON is wanted.
    fn change(&mut self, method: &str, params: Value, done: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        let result = self.daemon.call(method, Some(params))?;
        if self.json { table::print_json(&result) } else { table::print(&table::printable(&done(&result))) }
    }
}
