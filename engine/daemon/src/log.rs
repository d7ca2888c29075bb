//! The log on stderr: SPDK's levels and flags over tracing's. Knows nothing of what is logged.

use std::fmt;

use spinel_control::RpcError;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, reload};

/// SPDK's log levels, from the most urgent; each stands for one of tracing's, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Level {
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

impl Level {
    pub(crate) const ALL: [Self; 5] = [Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug];

    /// As SPDK writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }

    /// The level of this name, in whatever case.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Notice => LevelFilter::INFO,
            Self::Info => LevelFilter::DEBUG,
            Self::Debug => LevelFilter::TRACE,
        }
    }

    fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO => Self::Notice,
            tracing::Level::DEBUG => Self::Info,
            tracing::Level::TRACE => Self::Debug,
        }
    }

    /// The priority by which syslog and the journal know it (RFC 5424, section 6.2.1).
    fn priority(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

/// A part of the program that can be made to log everything.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    target: &'static str,
}

/// The flags there are.
pub(crate) const FLAGS: &[Flag] = &[
    Flag { name: "daemon", target: "spineld" },
    Flag { name: "rpc", target: "spinel_control" },
    Flag { name: "vhost", target: "spinel_vhost" },
];

#[derive(Clone, Debug)]
struct Wanted {
    level: Level,
    flags: Vec<&'static str>,
}

impl Wanted {
    fn filter(&self) -> Targets {
        let loud = FLAGS.iter().filter(|flag| self.flags.contains(&flag.name));
        Targets::new().with_default(self.level.filter()).with_targets(loud.map(|flag| (flag.target, LevelFilter::TRACE)))
    }

    fn set_flag(&mut self, flag: &str, on: bool) {
        for known in FLAGS.iter().filter(|known| flag == "all" || flag == known.name) {
            self.flags.retain(|name| *name != known.name);
            if on {
                self.flags.push(known.name);
            }
        }
    }
}

/// The running log.
#[derive(Debug)]
pub(crate) struct Log {
    #[allow(clippy::disallowed_types, reason = "changed by control threads only")]
    wanted: std::sync::Mutex<Wanted>,
    filter: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Starts logging to stderr. Once per process.
    pub(crate) fn start(level: Level, flags: &[String]) -> Self {
        let mut wanted = Wanted { level, flags: Vec::new() };
        flags.iter().for_each(|flag| wanted.set_flag(flag, true));
        let (filter, handle) = reload::Layer::new(wanted.filter());
        let line = Line { journal: goes_to_journal() };
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).event_format(line);
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
        #[allow(clippy::disallowed_types, reason = "see the field")]
        Self { wanted: std::sync::Mutex::new(wanted), filter: handle }
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) -> Result<(), RpcError> {
        let mut wanted = self.wanted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut changed = wanted.clone();
        change(&mut changed);
        let reloaded = self.filter.reload(changed.filter());
        reloaded.map_err(|error| RpcError::internal(format!("the log's filter cannot be changed: {error}")))?;
        *wanted = changed;
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        self.wanted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Which level is logged.
    pub(crate) fn level(&self) -> Level {
        self.wanted().level
    }

    /// Changes which level is logged.
    pub(crate) fn set_level(&self, level: Level) -> Result<(), RpcError> {
        self.change(|wanted| wanted.level = level)
    }

    /// Each flag, and whether it is set.
    pub(crate) fn flags(&self) -> Vec<(&'static str, bool)> {
        let wanted = self.wanted();
        FLAGS.iter().map(|flag| (flag.name, wanted.flags.contains(&flag.name))).collect()
    }

    /// Sets or clears one flag, or `all`. The caller has checked that it is one.
    pub(crate) fn set_flag(&self, flag: &str, on: bool) -> Result<(), RpcError> {
        self.change(|wanted| wanted.set_flag(flag, on))
    }
}

/// Whether stderr is the systemd journal's socket, as `$JOURNAL_STREAM` says (systemd.exec(5)).
fn goes_to_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// One line for each event: to the journal with its priority in front (sd-daemon(3)), elsewhere with the time.
struct Line {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = Level::of(*event.metadata().level());
        if self.journal {
            write!(writer, "<{}>", level.priority())?;
        } else {
            SystemTime.format_time(&mut writer)?;
            write!(writer, " {:7} ", level.name())?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_by_name_in_any_case() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(&level.name().to_lowercase()), Some(level));
        }
        assert_eq!(Level::from_name("LOUD"), None);
    }

    #[test]
    fn each_of_tracings_levels_passes_the_filter_of_its_own_and_not_of_the_one_before() {
        use tracing::Level as T;
        for (traced, before) in [(T::WARN, T::ERROR), (T::INFO, T::WARN), (T::DEBUG, T::INFO), (T::TRACE, T::DEBUG)] {
            assert!(Level::of(traced).filter() >= traced);
            assert!(Level::of(before).filter() < traced);
        }
    }

    #[test]
    fn a_flag_lets_its_part_through_and_no_other() {
        let mut wanted = Wanted { level: Level::Error, flags: Vec::new() };
        wanted.set_flag("vhost", true);
        let filter = wanted.filter();
        assert!(filter.would_enable("spinel_vhost::session", &tracing::Level::TRACE));
        assert!(!filter.would_enable("spineld", &tracing::Level::WARN));
        wanted.set_flag("all", true);
        wanted.set_flag("vhost", false);
        assert_eq!(wanted.flags, ["daemon", "rpc"]);
    }
}
