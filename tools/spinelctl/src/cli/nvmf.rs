//! The verbs of NVMe over Fabrics, as clap reads and explains them. It refuses to know what they do.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Nvmf {
    /// List the subsystems.
    #[command(visible_alias = "ls")]
    List,
    /// Offer a disk to hosts by TCP: makes whatever that needs and is not there yet.
    Export(Export),
    /// Make a subsystem, which hosts connect to.
    Create(Create),
    /// Delete a subsystem. Its hosts are disconnected.
    #[command(visible_alias = "rm")]
    Delete {
        /// The subsystem.
        nqn: String,
    },
    /// The disks of a subsystem.
    #[command(subcommand)]
    Namespace(Namespace),
    /// Where hosts connect to a subsystem.
    #[command(subcommand)]
    Listener(Listener),
    /// The hosts that may connect to a subsystem.
    #[command(subcommand)]
    Host(Host),
    /// Say how disks are reached by one address: hosts with several paths choose by that.
    Ana {
        #[command(flatten)]
        at: At,
        /// How.
        #[arg(long)]
        state: State,
        /// Which groups of disks; all without any.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<u32>,
    },
    /// List who is connected to a subsystem.
    Controllers {
        /// The subsystem; discovery without it.
        nqn: Option<String>,
    },
    /// Other places of discovery that hosts are told of.
    #[command(subcommand)]
    Referral(Referral),
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The disk.
    pub(crate) disk: String,
    /// The address where hosts connect, one of this machine's own; 0.0.0.0 is all of them.
    pub(crate) address: String,
    /// The port.
    #[arg(long, default_value = "4420")]
    pub(crate) port: String,
    /// The subsystem; one of its own, named after the disk, without it.
    #[arg(long)]
    pub(crate) nqn: Option<String>,
    /// The hosts that may connect, by their names (/etc/nvme/hostnqn); any without one.
    #[arg(long = "host", value_name = "HOSTNQN")]
    pub(crate) hosts: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name, such as nqn.2026-11.io.spinel:disks.
    pub(crate) nqn: String,
    /// Its serial number, at most 20 characters.
    #[arg(long)]
    pub(crate) serial: Option<String>,
    /// Its model, at most 40 characters.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Let any host connect.
    #[arg(long)]
    pub(crate) any_host: bool,
    /// Tell hosts by which paths disks are reached best.
    #[arg(long)]
    pub(crate) ana: bool,
    /// How many disks it may have.
    #[arg(long, value_name = "N")]
    pub(crate) max_namespaces: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Namespace {
    /// Add a disk. Hosts that are connected see it at once.
    Add {
        /// The subsystem.
        nqn: String,
        /// The disk.
        disk: String,
        /// Its number there; the lowest that is free without it.
        #[arg(long)]
        nsid: Option<u32>,
        /// The group whose paths it shares; one of its own without it.
        #[arg(long, value_name = "GROUP")]
        group: Option<u32>,
        /// A file in which reservations outlive the daemon.
        #[arg(long, value_name = "FILE")]
        reservations: Option<PathBuf>,
    },
    /// Take a disk away.
    #[command(visible_alias = "rm")]
    Remove {
        /// The subsystem.
        nqn: String,
        /// Its number there.
        nsid: u32,
    },
}

/// An address of a subsystem.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The subsystem.
    pub(crate) nqn: String,
    /// The address.
    pub(crate) address: String,
    /// The port.
    #[arg(default_value = "4420")]
    pub(crate) port: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Listener {
    /// Let hosts connect at an address.
    Add {
        #[command(flatten)]
        at: At,
        /// The address that hosts are told by discovery, if it is another one.
        #[arg(long, value_name = "ADDRESS")]
        advertise: Option<String>,
        /// How disks are reached by it.
        #[arg(long)]
        state: Option<State>,
    },
    /// Let hosts connect there no longer. Those that have are disconnected.
    #[command(visible_alias = "rm")]
    Remove {
        #[command(flatten)]
        at: At,
    },
    /// List the addresses, and the groups of disks that are not reached best by them.
    #[command(visible_alias = "ls")]
    List {
        /// The subsystem.
        nqn: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Host {
    /// Let a host connect.
    Add {
        /// The subsystem.
        nqn: String,
        /// The host's name.
        host: String,
        /// The key that it has to prove that it knows.
        #[arg(long)]
        key: Option<String>,
        /// The key that is proved to it in turn.
        #[arg(long, requires = "key")]
        controller_key: Option<String>,
    },
    /// Take a host's permission away. It is disconnected.
    #[command(visible_alias = "rm")]
    Remove {
        /// The subsystem.
        nqn: String,
        /// The host's name.
        host: String,
    },
    /// Let any host connect, or only those that are named.
    Any {
        /// The subsystem.
        nqn: String,
        /// Whether any may.
        #[arg(value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
        allow: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Referral {
    /// Tell hosts of a place.
    Add {
        /// Its address.
        address: String,
        /// Its port.
        #[arg(default_value = "8009")]
        port: String,
    },
    /// Tell hosts of it no longer.
    #[command(visible_alias = "rm")]
    Remove {
        /// Its address.
        address: String,
        /// Its port.
        #[arg(default_value = "8009")]
        port: String,
    },
    /// List them.
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Name a file that holds a secret, as `nvme gen-dhchap-key` prints it. Only its owner, the daemon's user, may read it.
    Add {
        /// The new name.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// Forget a name. The file stays.
    #[command(visible_alias = "rm")]
    Remove {
        /// The name.
        name: String,
    },
    /// List the names and files.
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    /// Best.
    Optimized,
    /// Possible.
    NonOptimized,
    /// Not now.
    Inaccessible,
}

impl State {
    /// SPDK's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non_optimized",
            Self::Inaccessible => "inaccessible",
        }
    }
}
