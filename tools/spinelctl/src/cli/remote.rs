//! The verbs of disks of other hosts, as clap reads and explains them. It refuses to know what they do.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// List the controllers elsewhere, each way to them by itself.
    #[command(visible_alias = "ls")]
    List,
    /// Connect to a subsystem by TCP; its namespaces become disks. Once more with the same name: another way to them.
    Attach(Attach),
    /// Disconnect: its disks go.
    Detach {
        /// The controllers' name.
        name: String,
        /// Only the way by this address.
        #[arg(long)]
        address: Option<String>,
        /// The port of that address.
        #[arg(long, default_value = "4420", requires = "address")]
        port: String,
    },
    /// Stop controllers and connect them again; requests wait meanwhile.
    Reset {
        /// Their name.
        name: String,
    },
    /// List by which ways disks are reached.
    Paths {
        /// The disk; all of them without it.
        disk: Option<String>,
    },
    /// Say which of several ways requests take.
    Policy {
        /// The controllers' name.
        name: String,
        /// Which.
        policy: WayPolicy,
        /// How many requests one takes before the next one, for round-robin.
        #[arg(long, value_name = "REQUESTS")]
        requests: Option<u32>,
    },
    /// Ask a discovery controller what there is, and attach that, now and whenever it changes.
    Discover(Discover),
    /// Ask it no more, and detach what it has led to.
    Forget {
        /// The name that was given with discover.
        name: String,
    },
    /// List the discovery controllers that are asked, and what they have led to.
    Discoveries,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// What the controller is called here; its disks are called so with n1, n2 and so on behind.
    pub(crate) name: String,
    /// The subsystem.
    pub(crate) nqn: String,
    /// Where it is.
    pub(crate) address: String,
    /// The port.
    #[arg(long, default_value = "4420")]
    pub(crate) port: String,
    /// Digests of everything that goes over the network: headers and data.
    #[arg(long)]
    pub(crate) digests: bool,
    /// What this host calls itself.
    #[arg(long, value_name = "HOSTNQN")]
    pub(crate) host: Option<String>,
    /// The secret that this host proves to know, by its name (`spinelctl key`).
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The secret that the controller has to prove to know.
    #[arg(long, value_name = "KEY", requires = "key")]
    pub(crate) controller_key: Option<String>,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// Seconds after which a lost controller is given up; -1 is never.
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) give_up: Option<i32>,
    /// Seconds after which requests to a lost controller fail, instead of waiting.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) fail: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// What it is called here; what it leads to is called so with a number behind.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) address: String,
    /// The port.
    #[arg(long, default_value = "8009")]
    pub(crate) port: String,
    /// What this host calls itself.
    #[arg(long, value_name = "HOSTNQN")]
    pub(crate) host: Option<String>,
    /// Return when all that it names is attached.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WayPolicy {
    /// The same as long as it is among the best.
    Failover,
    /// One of the best after the other.
    RoundRobin,
    /// The one of the best with the fewest requests under way.
    QueueDepth,
}
