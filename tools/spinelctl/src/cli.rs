//! The verbs and their arguments, as clap reads and explains them. It refuses to know what they do.

mod nvmf;
mod remote;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use spinel_units::{parse_microseconds, parse_size};
use std::path::PathBuf;

pub(crate) use nvmf::{At, Create as CreateSubsystem, Export, Host, Key, Listener, Namespace, Nvmf, Referral, State};
pub(crate) use remote::{Attach, Discover, Patience, Remote, WayPolicy};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the daemon refused
  2  the command line, or JSON given with it, is wrong
  3  the daemon cannot be reached, or went away
  4  a local file could not be read or written

Sizes take the suffixes K, M, G, T and P (powers of 1024): 64M, 10G. Times take us, ms and s.";

/// Controls spineld, the Spinel storage daemon.
#[derive(Debug, Parser)]
#[command(name = "spinelctl", version, propagate_version = true, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The daemon's socket [default: $SPINEL_RPC_SOCKET, else /run/spinel/rpc.sock for root, else
    /// $XDG_RUNTIME_DIR/spinel/rpc.sock].
    #[arg(short, long, value_name = "RPC_SOCKET", global = true)]
    pub(crate) socket: Option<PathBuf>,

    /// Print the daemon's reply as JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How long to wait for a reply, in seconds; 0 waits for ever.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, global = true)]
    pub(crate) timeout: u32,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Disks: list, make, resize, delete.
    #[command(subcommand)]
    Disk(Disk),
    /// Vhost controllers: the sockets that guests attach to.
    #[command(subcommand)]
    Vhost(Vhost),
    /// NVMe over Fabrics: the subsystems that hosts connect to by TCP.
    #[command(subcommand)]
    Nvmf(Nvmf),
    /// Disks of other hosts, by NVMe over TCP.
    #[command(subcommand)]
    Remote(Remote),
    /// Secrets that hosts prove to know, each in a file.
    #[command(subcommand)]
    Key(Key),
    /// What each disk has done: operations, bytes, and percentiles of latency.
    Stats(Stats),
    /// How busy each core is.
    Cores(Cores),
    /// A live screen of disks and cores; q quits.
    Top(Top),
    /// The versions of this program and of the daemon.
    Version,
    /// Write the running configuration, for `load-config` and `spineld -c`.
    SaveConfig {
        /// Where to write it, replacing what is there; standard output without it.
        file: Option<PathBuf>,
    },
    /// Call what a configuration file lists.
    LoadConfig {
        /// The file; `-` reads standard input.
        file: PathBuf,
    },
    /// Show or set how much the daemon logs.
    LogLevel {
        /// The new level; without it, the present one is shown.
        #[arg(ignore_case = true)]
        level: Option<Level>,
    },
    /// Stop the daemon.
    Stop {
        /// The signal that the daemon gets.
        #[arg(long, value_name = "NAME", default_value = "SIGTERM")]
        signal: String,
        /// Return at once instead of when the daemon has ended.
        #[arg(long)]
        no_wait: bool,
    },
    /// Call any method, and print its result as JSON.
    Rpc {
        /// The method, such as bdev_get_bdevs; rpc_get_methods lists all.
        method: String,
        /// Its parameters, a JSON object; `-` reads it from standard input.
        #[arg(value_name = "JSON", allow_hyphen_values = true)]
        params: Option<String>,
    },
    /// Print a completion script: `source <(spinelctl completion bash)`.
    Completion {
        /// The shell it is for.
        shell: Shell,
    },
    /// Print the manual page of this program or of one verb: `spinelctl man disk create | man -l -`.
    Man {
        /// The verb; the program itself without it.
        verb: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// List the disks.
    #[command(visible_alias = "ls")]
    List,
    /// Show one disk in full.
    Show {
        /// The disk.
        name: String,
    },
    /// Make a disk.
    #[command(subcommand)]
    Create(Create),
    /// Delete a disk that no one uses. What a file holds stays.
    #[command(visible_alias = "rm")]
    Delete {
        /// The disk.
        name: String,
    },
    /// Make a null disk larger. (Disks on files: enlarge the file, then `disk rescan`.)
    Resize {
        /// The disk.
        name: String,
        /// Its new size, whole MiB.
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Look at a disk's file again, and tell guests if its size has changed.
    Rescan {
        /// The disk.
        name: String,
    },
    /// Make an error disk fail requests.
    Inject(Inject),
    /// Limit how fast a disk is. What is not named stays as it is.
    Limit(Limit),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Create {
    /// A file or block device, through io_uring.
    Uring(OnFile),
    /// The same under SPDK's other name, which can be read-only.
    Aio {
        #[command(flatten)]
        on_file: OnFile,
        /// Refuse writes.
        #[arg(long)]
        readonly: bool,
    },
    /// A disk in memory; what it holds is gone with the daemon.
    Memory(Sized),
    /// A disk that stores nothing: for measuring.
    Null(Sized),
    /// A disk that answers later than the one it lies on.
    Delay(Delay),
    /// A disk that fails when told to, on top of another: EE_ and the other's name.
    Error {
        /// The disk it lies on.
        base: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Its UUID; the daemon draws one without it.
    #[arg(long)]
    pub(crate) uuid: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OnFile {
    /// The new disk's name.
    pub(crate) name: String,
    /// The file or block device.
    pub(crate) file: PathBuf,
    /// Bytes to a block, 512 or 4096; the file's own without it.
    #[arg(short, long, value_parser = parse_size, value_name = "BYTES")]
    pub(crate) block_size: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Sized {
    /// The new disk's name.
    pub(crate) name: String,
    /// Its size, such as 64M or 10G.
    #[arg(value_parser = parse_size)]
    pub(crate) size: u64,
    /// Bytes to a block, 512 or 4096.
    #[arg(short, long, value_parser = parse_size, default_value = "512", value_name = "BYTES")]
    pub(crate) block_size: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Delay {
    /// The new disk's name.
    pub(crate) name: String,
    /// The disk it lies on.
    pub(crate) base: String,
    /// How long a read takes, such as 100us or 5ms.
    #[arg(long, value_parser = parse_microseconds, default_value = "0us", value_name = "TIME")]
    pub(crate) read: u64,
    /// How long one read in a hundred takes; as `--read` without it.
    #[arg(long, value_parser = parse_microseconds, value_name = "TIME")]
    pub(crate) read_p99: Option<u64>,
    /// How long a write takes.
    #[arg(long, value_parser = parse_microseconds, default_value = "0us", value_name = "TIME")]
    pub(crate) write: u64,
    /// How long one write in a hundred takes; as `--write` without it.
    #[arg(long, value_parser = parse_microseconds, value_name = "TIME")]
    pub(crate) write_p99: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Inject {
    /// The error disk.
    pub(crate) name: String,
    /// Which requests: read, write, unmap, flush or all; clear ends what was asked before.
    pub(crate) operation: String,
    /// What happens to them: failure, pending, corrupt_data or nomem; or without an error misdirect_write, lose_write, tear_write or stale_read.
    #[arg(default_value = "failure")]
    pub(crate) error: String,
    /// To how many.
    #[arg(short = 'n', long, default_value_t = 1)]
    pub(crate) count: u32,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("limits").required(true).multiple(true).args([
    "iops", "read_iops", "write_iops", "bandwidth", "read_bandwidth", "write_bandwidth", "none",
])))]
pub(crate) struct Limit {
    /// The disk.
    pub(crate) name: String,
    /// Requests a second, of every kind but flush; 0 lifts the limit.
    #[arg(long, value_name = "N")]
    pub(crate) iops: Option<u64>,
    /// Reads a second.
    #[arg(long, value_name = "N")]
    pub(crate) read_iops: Option<u64>,
    /// Writes a second, discards and write-zeroes among them.
    #[arg(long, value_name = "N")]
    pub(crate) write_iops: Option<u64>,
    /// Bytes read and written a second, whole MiB, such as 100M; 0 lifts the limit.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) bandwidth: Option<u64>,
    /// Bytes read a second.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) read_bandwidth: Option<u64>,
    /// Bytes written a second.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) write_bandwidth: Option<u64>,
    /// Of how long a time the share may come at once after a pause, whole milliseconds; for the limits given with it. 10ms unless it was set.
    #[arg(long, value_name = "TIME", value_parser = parse_microseconds)]
    pub(crate) burst: Option<u64>,
    /// Lift every limit.
    #[arg(long, conflicts_with_all = ["iops", "read_iops", "write_iops", "bandwidth", "read_bandwidth", "write_bandwidth", "burst"])]
    pub(crate) none: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vhost {
    /// List the controllers.
    #[command(visible_alias = "ls")]
    List,
    /// Offer a disk to a guest on a socket of its own.
    Create {
        /// The controller, which is also its socket's name.
        name: String,
        /// The disk.
        disk: String,
        /// Refuse the guest's writes.
        #[arg(long)]
        readonly: bool,
        /// The cores that may serve it, a mask such as 0x3; all without it.
        #[arg(long, value_name = "MASK")]
        cpumask: Option<String>,
    },
    /// Take a controller away; its guest loses the disk.
    #[command(visible_alias = "rm")]
    Delete {
        /// The controller.
        name: String,
    },
    /// Set how long completions may be collected before the guest is interrupted.
    Coalesce {
        /// The controller.
        name: String,
        /// How long, such as 20us; 0us interrupts at once.
        #[arg(value_parser = parse_microseconds)]
        delay: u64,
        /// Requests a second from which it applies.
        #[arg(default_value_t = 60_000)]
        iops_threshold: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// The disks; all without any.
    pub(crate) disks: Vec<String>,
    /// Set the counts back to zero after showing them.
    #[arg(long)]
    pub(crate) reset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Cores {
    /// Show the next so many seconds instead of all since the start.
    #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) interval: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The disks; all without any.
    pub(crate) disks: Vec<String>,
    /// Seconds between two looks.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) interval: u32,
    /// Print so many and end.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iterations: Option<u32>,
    /// Print one and end: `--iterations 1`.
    #[arg(long, conflicts_with = "iterations")]
    pub(crate) once: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

impl Level {
    /// SPDK's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}
