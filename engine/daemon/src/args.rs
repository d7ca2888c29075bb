//! The command line: what may be said on it, and its manual. Knows nothing of what is done with it.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use spinel_reactor::{Mode, PaceLimits};

use crate::cores::CoreList;
use crate::log::{FLAGS, Level};

const LONG_ABOUT: &str = "\
spineld serves virtual disks to virtual machines. Each disk is a file, a block device, or memory; each is offered \
to QEMU on a vhost-user-blk socket. One thread per core polls the disks' queues: while there is work, requests pass \
without interrupts and context switches; when there is none, the threads sleep.

The daemon needs no root, no huge pages and no kernel module. It stays in the foreground, logs to stderr, and is \
controlled over a Unix socket by JSON-RPC with the methods of SPDK, so that SPDK's clients work with it; spinelctl \
is its own.";

/// What the manual has beyond the options: titles and texts. Lines that are indented are shown as they are.
const SECTIONS: &[(&str, &str)] = &[
    (
        "Files",
        "\
The RPC socket is $SPINEL_RPC_SOCKET, or else /run/spinel/rpc.sock for root,
$XDG_RUNTIME_DIR/spinel/rpc.sock for others, and /tmp/spinel-UID/rpc.sock where
that variable is not set. The disks' sockets lie in the folder 'vhost' beside it,
each under its controller's name. Sockets have mode 0600, in folders of mode 0700
which are made if they are missing: only root and the daemon's own user can use
them, so QEMU has to run as one of these.",
    ),
    (
        "Configuration",
        "\
A configuration is a JSON file in SPDK's form, a list of the calls that recreate
what ran. 'spinelctl save-config' writes it. A call that fails stops the start:
the daemon runs with all of it, or not at all.
  {\"subsystems\": [{\"subsystem\": \"bdev\", \"config\": [
    {\"method\": \"bdev_uring_create\", \"params\": {\"name\": \"disk0\", \"filename\": \"/srv/disk0.img\"}}]}]}",
    ),
    (
        "Signals",
        "\
SIGINT and SIGTERM stop the daemon: it takes no more requests, waits until those
under way have ended (10 seconds at most), and removes its sockets. Another one,
half a second later or more, ends it at once. SIGHUP and SIGUSR1 are ignored.",
    ),
    (
        "Upgrade",
        "\
A new binary goes on with what runs, without the guests noticing:
  spineld --takeover
It starts beside the running daemon, is given all that one has open, and that one
ends: disks stand still for some milliseconds meanwhile. If it cannot serve
everything, it says why and ends, and the running daemon goes on. It has to run as
the same user, and names the same RPC socket; other options are its own, so that
they can be changed in this way, too. Under systemd: 'systemctl reload spineld'.
Counts begin at zero, and injected errors (bdev_error_inject_error) are forgotten.
'spinelctl rpc spinel_get_takeovers' shows how long disks stood still.",
    ),
    (
        "Exit status",
        "\
0 after a clean stop; 1 if it could not start, or if requests were still under
way when it stopped; 2 if the command line was wrong.",
    ),
    (
        "Environment",
        "\
SPINEL_RPC_SOCKET and XDG_RUNTIME_DIR: see Files. NOTIFY_SOCKET: where systemd is
told that the daemon is ready. JOURNAL_STREAM: if stderr is the journal, lines
carry their priority instead of the time.",
    ),
    (
        "Examples",
        "\
One core, sockets in the default places; then a disk, and a socket for QEMU:
  spineld
  spinelctl rpc bdev_uring_create '{\"name\": \"disk0\", \"filename\": \"/srv/disk0.img\"}'
  spinelctl rpc vhost_create_blk_controller '{\"ctrlr\": \"vm0\", \"dev_name\": \"disk0\"}'
Cores 1 and 2, which never sleep:
  spineld -m 0x6 --mode poll
What was saved before:
  spineld -c /etc/spinel/spineld.json",
    ),
];

/// The sections as the long help shows them.
fn after_help() -> String {
    let indented = |text: &str| text.lines().map(|line| format!("  {line}\n")).collect::<String>();
    let sections: Vec<String> = SECTIONS.iter().map(|(title, text)| format!("{title}:\n{}", indented(text))).collect();
    sections.join("\n").trim_end().to_owned()
}

/// How the cores' threads wait for work.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ModeName {
    /// Spins for a while, then sleeps until a request, a completion or a message wakes it
    Adaptive,
    /// Never sleeps while it serves a guest: the least latency, for a whole core each
    Poll,
}

/// The storage daemon of Spinel: disks for virtual machines, polled in user space
#[derive(Debug, Parser)]
#[command(name = "spineld", version, about, long_about = LONG_ABOUT, after_long_help = after_help(), disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Args {
    /// Recreates what this file describes before the first call is answered
    #[arg(short = 'c', long = "config", visible_alias = "json", value_name = "FILE", conflicts_with = "wait_for_rpc")]
    pub(crate) config: Option<PathBuf>,

    /// Where the RPC socket is made [default: see Files]
    #[arg(short = 'r', long, value_name = "SOCKET")]
    rpc_socket: Option<PathBuf>,

    /// The folder in which the disks' vhost-user sockets are made [default: 'vhost' beside the RPC socket]
    #[arg(short = 'S', long = "vhost-dir", value_name = "DIR")]
    vhost_folder: Option<PathBuf>,

    /// The cores to run on, as a mask such as 0x6, or as a list in brackets such as [1,4-5]
    #[arg(short = 'm', long = "cpumask", value_name = "CPUMASK", conflicts_with = "cores", value_parser = CoreList::parse_mask)]
    mask: Option<CoreList>,

    /// The cores to run on, as a list such as 1,4-5 [default: the last that may be used]
    ///
    /// By default, the daemon runs on one core, the last of those it may use: one core serves many disks, the machine
    /// keeps the others, and interrupts usually go to the first.
    #[arg(long, value_name = "LIST", value_parser = CoreList::parse_list)]
    cores: Option<CoreList>,

    /// How the cores' threads wait for work
    #[arg(long, value_enum, value_name = "MODE", default_value = "adaptive")]
    mode: ModeName,

    /// In adaptive mode, the longest a core spins before it sleeps, in microseconds
    ///
    /// It should exceed the disks' usual latency. How long a core spins below that is learnt from how long it had to
    /// wait before.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = PaceLimits::default().spin_max_ns / 1000,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    spin_us: u64,

    /// Pins guests' memory, so that the kernel need not look it up for each request
    ///
    /// It saves about half a microsecond per request, but all memory of a guest is then in RAM for as long as it runs, and the
    /// limit of locked memory (ulimit -l) must allow that, or the daemon have CAP_IPC_LOCK. What cannot be pinned is served
    /// all the same.
    #[arg(long)]
    pub(crate) pin_guest_memory: bool,

    /// Lets the kernel move the threads between the cores
    ///
    /// Without it, each core's thread stays where it is, and the daemon's other threads keep off these cores if they may run
    /// on others: one that wakes there would hold up all disks of the core for milliseconds.
    #[arg(long)]
    pub(crate) no_pin: bool,

    /// Waits for the call framework_start_init before anything can be created
    #[arg(long)]
    pub(crate) wait_for_rpc: bool,

    /// Takes over from the daemon that runs on the RPC socket, without its guests noticing
    ///
    /// This one starts its cores and checks that it can serve everything that the other one serves; then that one stops
    /// its queues, this one goes on with them, and that one ends. If anything is in the way, this one says so and ends, and
    /// the other one goes on. Disks and controllers are the other one's; the remaining options are this one's own.
    #[arg(long, conflicts_with_all = ["config", "wait_for_rpc"])]
    pub(crate) takeover: bool,

    /// With --takeover: leaves the daemon in the background once it serves, and fails if it does not come to that
    #[arg(long, requires = "takeover")]
    pub(crate) detach: bool,

    /// What is logged: this level and those before it
    #[arg(long, value_name = "LEVEL", default_value = "NOTICE", ignore_case = true, value_parser = level_parser())]
    pub(crate) log_level: Level,

    /// Logs everything that this part says, or every part with 'all'; may be repeated
    #[arg(short = 'L', long = "logflag", value_name = "FLAG", value_parser = flag_parser())]
    pub(crate) log_flags: Vec<String>,

    /// Prints the version
    #[arg(short = 'v', long, visible_short_alias = 'V', action = ArgAction::Version)]
    version: (),

    /// Prints the completions for a shell
    #[arg(long, value_enum, value_name = "SHELL", exclusive = true)]
    pub(crate) completions: Option<Shell>,

    /// Prints the manual page
    #[arg(long, exclusive = true)]
    pub(crate) man: bool,
}

fn level_parser() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(Level::name)).map(|name| Level::from_name(&name).expect("one of the possible values"))
}

fn flag_parser() -> PossibleValuesParser {
    PossibleValuesParser::new(FLAGS.iter().map(|flag| flag.name).chain(["all"]))
}

impl Args {
    /// Where the RPC socket is to be.
    pub(crate) fn rpc_socket(&self) -> PathBuf {
        self.rpc_socket.clone().unwrap_or_else(spinel_control::socket::default_path)
    }

    /// Where the disks' sockets are to be.
    pub(crate) fn vhost_folder(&self) -> PathBuf {
        self.vhost_folder.clone().unwrap_or_else(|| self.rpc_socket().with_file_name("vhost"))
    }

    /// The cores that were named, if any.
    pub(crate) fn cores(&self) -> Option<&CoreList> {
        self.mask.as_ref().or(self.cores.as_ref())
    }

    /// Whether the cores may sleep.
    pub(crate) fn mode(&self) -> Mode {
        match self.mode {
            ModeName::Adaptive => Mode::Adaptive,
            ModeName::Poll => Mode::Poll,
        }
    }

    /// How long the cores spin.
    pub(crate) fn limits(&self) -> PaceLimits {
        PaceLimits { spin_max_ns: self.spin_us * 1000, ..PaceLimits::default() }
    }
}

/// The completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "spineld", &mut script);
    script
}

/// The manual page, as roff.
pub(crate) fn manual() -> Vec<u8> {
    let mut page = Vec::new();
    // Without the sections, which clap would set as one paragraph.
    let man = clap_mangen::Man::new(Args::command().after_long_help(None::<&str>)).section("8");
    man.render(&mut page).expect("a vector takes everything");
    for (title, text) in SECTIONS {
        page.extend_from_slice(format!(".SH {}\n", title.to_uppercase()).as_bytes());
        for line in text.lines() {
            page.extend_from_slice(roff(line).as_bytes());
        }
    }
    page
}

/// One line of a section: as it is if it is indented, else as part of a paragraph.
fn roff(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    match text.strip_prefix(' ') {
        Some(literal) => format!(".nf\n\\&{literal}\n.fi\n"),
        None => format!("{text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_config_and_waiting_for_calls_exclude_each_other() {
        for line in ["-c x --wait-for-rpc", "-m 1 --cores 0", "--mode often", "--spin-us -1", "-L nothing", "--log-level loud"] {
            assert!(Args::try_parse_from(["spineld"].into_iter().chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn the_vhost_folder_lies_beside_the_rpc_socket() {
        let args = Args::try_parse_from(["spineld", "-r", "/a/b/rpc.sock"]).unwrap();
        assert_eq!(args.vhost_folder(), PathBuf::from("/a/b/vhost"));
        let args = Args::try_parse_from(["spineld", "-r", "/a/b/rpc.sock", "-S", "/c", "--log-level", "DEBUG"]).unwrap();
        assert_eq!((args.vhost_folder(), args.log_level), (PathBuf::from("/c"), Level::Debug));
    }

    #[test]
    fn the_manual_and_the_completions_can_be_made() {
        let page = String::from_utf8(manual()).unwrap();
        assert!(page.contains(".SH SIGNALS") && page.contains("vhost\\-dir"), "{page}");
        assert!(!completions(Shell::Bash).is_empty());
    }
}
