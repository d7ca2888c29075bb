//! The command line, as clap reads and explains it. Knows no target and no disk.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use spinel_units::parse_size;

use crate::parse::{self, SizeRange};
use crate::url::Url;

const TARGETS: &str = "\
Targets:
  file:PATH             a file or block device, by io_uring and O_DIRECT
  file+tokio:PATH       the same through tokio-uring, for comparison
  vhost:SOCKET          a vhost-user-blk server's socket, as a guest would use it
  rpc:SOCKET/BDEV       a disk inside a running spineld, without any transport
  nvme-tcp://HOST:PORT/SUBSYSTEM?nsid=1
                        a namespace on the network, by an initiator of this program; behind it
                        &way=HOST:PORT for another way, &rr=1 to take turns, &hdgst=1, &ddgst=1,
                        &fail=SECONDS, &keepalive=SECONDS, &host=NAME

Sizes take K, M, G, T and P (powers of 1024), times us, ms and s.

Exit codes:
  0  done
  1  requests failed, or verification found something
  2  the command line is wrong, or asks for what the disk cannot do
  3  the target cannot be reached, or went away
  4  a local file could not be read or written";

const EXAMPLES: &str = "\
Examples:
  A new file of 1 GiB on the file system you want to know about, 4k random reads, one at a time:
    spinelbench run file:/var/tmp/probe.img --create 1G

  The same at depth 32 for 30 s, with a page to send to somebody:
    spinelbench run file:/var/tmp/probe.img -d 32 -t 30s --html probe.html

  What latency does a mixed load of 20,000 requests a second see?
    spinelbench run file:/dev/nvme0n1 -w randrw --reads 70 --rate 20000 -d 64 --allow-writes";

/// Measures the latency of disks, and whether they keep what is written to them.
///
/// Latency in an open loop (--rate) is counted from when each request was due, not from when it could be sent: a
/// disk that stalls shows, however few requests it lets through meanwhile.
#[derive(Debug, Parser)]
#[command(name = "spinelbench", version, propagate_version = true, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = TARGETS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Measure one load on one target.
    #[command(after_help = EXAMPLES)]
    Run(Box<Run>),
    /// Raise the rate step by step, and find the knee: the rate above which latency takes off.
    Sweep(Box<Sweep>),
    /// Check, after a crash, that a disk holds what its log of writes says.
    Verify(Verify),
    /// Show reports kept with --json again: one as a table, several beside each other.
    Compare(Compare),
    /// What this instrument costs by itself, on this machine, now.
    Selftest(Selftest),
    /// Print a completion script: `source <(spinelbench completion bash)`.
    Completion {
        /// The shell it is for.
        shell: Shell,
    },
    /// Print the manual page of this program, or of a verb: `spinelbench man run | man -l -`.
    Man {
        /// The verb.
        verb: Option<String>,
    },
}

/// What is asked of the disk.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct Load {
    /// Which requests, and in which order
    #[arg(short, long, value_enum, default_value_t = Workload::Randread)]
    pub(crate) workload: Workload,
    /// Percent of reads in rw and randrw
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// Bytes of one request: a size, or a range such as 4K-64K
    #[arg(short, long, value_name = "SIZE", default_value = "4K", value_parser = parse::size_range)]
    pub(crate) block_size: SizeRange,
    /// Most requests in flight, for each job
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) depth: u16,
    /// Most requests sent, or seen to end, at once [default: 1 to files, 64 otherwise]
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) batch: Option<u16>,
    /// How many jobs do the same at once, each with a queue of its own
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// Which places random requests go to: uniform, zipf:0.99, or hot:90/10 (90 % of them to 10 % of the disk)
    #[arg(long, value_name = "HOW", default_value = "uniform", value_parser = parse::distribution)]
    pub(crate) distribution: parse::Distribution,
    /// Only a part of the disk: its length, or length@start, such as 1G or 1G@10G
    #[arg(long, value_name = "LENGTH[@START]", value_parser = parse::area)]
    pub(crate) area: Option<spinel_load::Area>,
    /// Flush after so many writes
    #[arg(long, value_name = "WRITES", default_value_t = 0)]
    pub(crate) flush_every: u32,
    /// Writes complete only when they are on the medium
    #[arg(long)]
    pub(crate) fua: bool,
    /// The same seed makes the same requests
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write to a disk even if there is something on it. What it holds will be lost
    #[arg(long)]
    pub(crate) allow_writes: bool,
    /// Make the file first, of this size, filled with data (file targets)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) create: Option<u64>,
}

/// How the target is used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct Way {
    /// The cores that the jobs run on, in turn: 1,4-5 [default: the last that this process may use]
    #[arg(long, value_name = "LIST", value_parser = parse::cores)]
    pub(crate) cores: Option<parse::Cores>,
    /// How completions are waited for
    #[arg(long, value_enum)]
    pub(crate) wait: Option<Wait>,
    /// Use packed rings (vhost)
    #[arg(long)]
    pub(crate) packed: bool,
    /// Entries of each ring (vhost) [default: enough for the depth]
    #[arg(long, value_name = "ENTRIES")]
    pub(crate) queue_size: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Wait {
    /// Never sleep: the least latency, a whole core
    Poll,
    /// Sleep in the kernel until one arrives, as most programs do
    Sleep,
    /// Spin for a learnt while, then sleep
    Adaptive,
}

/// Where figures go besides the table.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Outputs {
    /// Everything, as JSON; - for standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The same figures where scripts for fio look for them; - as above
    #[arg(long, value_name = "FILE")]
    pub(crate) fio_json: Option<PathBuf>,
    /// One page with the curves, which needs nothing but a browser
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// An HdrHistogram log, stretch by stretch
    #[arg(long, value_name = "FILE")]
    pub(crate) hlog: Option<PathBuf>,
    /// The percentiles as HdrHistogram's plotters read them
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
    /// No table and no progress; failures still show
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl Outputs {
    /// Every place that was named.
    pub(crate) fn places(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.json, &self.fio_json, &self.html, &self.hlog, &self.hgrm].into_iter().flatten()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What to measure
    #[arg(value_parser = Url::parse)]
    pub(crate) target: Url,
    /// What people call this run [default: the workload's and the target's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Requests a second, of all jobs together: an open loop
    #[arg(long, value_name = "PER_SECOND", value_parser = parse::rate, help_heading = "Load")]
    pub(crate) rate: Option<f64>,
    /// With --rate: at random moments instead of steadily
    #[arg(long, requires = "rate", help_heading = "Load")]
    pub(crate) poisson: bool,
    /// How long to measure, after the warm-up [default: 10s, unless --bytes or --requests is given]
    #[arg(short, long, value_name = "TIME", value_parser = parse::time, help_heading = "Load")]
    pub(crate) time: Option<u64>,
    /// Stop after so much data, for each job
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Load")]
    pub(crate) bytes: Option<u64>,
    /// Stop after so many requests, for each job
    #[arg(long, value_name = "COUNT", help_heading = "Load")]
    pub(crate) requests: Option<u64>,
    /// Not counted, before [default: 1s for runs by time, else none]
    #[arg(long, value_name = "TIME", value_parser = parse::time, help_heading = "Load")]
    pub(crate) warm_up: Option<u64>,
    /// Stamp every block that is written, and check every block that is read
    #[arg(long, help_heading = "Verification")]
    pub(crate) verify: bool,
    /// Keep a log of what was written and acknowledged, for `spinelbench verify` after a crash
    #[arg(long, value_name = "FILE", requires = "verify", help_heading = "Verification")]
    pub(crate) log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) way: Way,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// What to measure
    #[arg(value_parser = Url::parse)]
    pub(crate) target: Url,
    #[command(flatten)]
    pub(crate) load: Load,
    /// At random moments instead of steadily
    #[arg(long, help_heading = "Load")]
    pub(crate) poisson: bool,
    /// How long each rate lasts
    #[arg(short, long, value_name = "TIME", value_parser = parse::time, default_value = "3s", help_heading = "Load")]
    pub(crate) time: u64,
    /// How many rates are tried, evenly from the first to what a closed loop reaches; more follow around the knee
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=100), help_heading = "Load")]
    pub(crate) steps: u32,
    #[command(flatten)]
    pub(crate) way: Way,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The disk that was written, by whatever way there is to it now
    #[arg(value_parser = Url::parse)]
    pub(crate) target: Url,
    /// The log that `spinelbench run --verify --log` kept
    #[arg(long, value_name = "FILE")]
    pub(crate) log: PathBuf,
    /// What happened in between
    #[arg(long, value_enum, default_value_t = After::Kill)]
    pub(crate) after: After,
    /// No progress; findings still show
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum After {
    /// A program was killed: everything acknowledged must be there
    Kill,
    /// The power was cut: writes that were neither flushed nor FUA may be gone
    PowerCut,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Reports written with --json. The first is what the others are compared with
    #[arg(required = true, value_name = "REPORT")]
    pub(crate) reports: Vec<PathBuf>,
    /// One page with all of them
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Selftest {
    /// The core it runs on [default: the last that this process may use]
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<u16>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Workload {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Sequential reads and writes
    Rw,
    /// Random reads
    Randread,
    /// Random writes
    Randwrite,
    /// Random reads and writes
    Randrw,
    /// Sequential discards
    Trim,
    /// Random discards
    Randtrim,
    /// Sequential write zeroes
    WriteZeroes,
    /// Random write zeroes
    RandwriteZeroes,
    /// Nothing but flushes
    Flush,
}

impl Workload {
    /// What it is called on the command line.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
