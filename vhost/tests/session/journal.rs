//! What the engine logged, by controller. Knows no format.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Once, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[allow(clippy::disallowed_types, reason = "a test's journal, written by control threads")]
type Lines = Arc<std::sync::Mutex<BTreeMap<String, Vec<String>>>>;

static LINES: OnceLock<Lines> = OnceLock::new();
static INSTALL: Once = Once::new();

struct Journal;

#[derive(Default)]
struct Line {
    controller: String,
    text: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "controller" => self.controller = format!("{value:?}").trim_matches('"').to_owned(),
            name => write!(self.text, "{name}={value:?} ").unwrap(),
        }
    }
}

impl Subscriber for Journal {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        lines().lock().unwrap_or_else(PoisonError::into_inner).entry(line.controller).or_default().push(line.text);
    }
}

fn lines() -> &'static Lines {
    LINES.get_or_init(Lines::default)
}

/// Begins to listen, once for all tests.
pub(crate) fn install() {
    INSTALL.call_once(|| tracing::subscriber::set_global_default(Journal).unwrap());
}

/// What a controller logged so far.
pub(crate) fn of(controller: &str) -> Vec<String> {
    lines().lock().unwrap_or_else(PoisonError::into_inner).get(controller).cloned().unwrap_or_default()
}

/// Asserts that a controller logged a line with this text in it.
pub(crate) fn assert_has(controller: &str, text: &str) {
    let lines = of(controller);
    assert!(lines.iter().any(|line| line.contains(text)), "{controller} logged nothing with {text:?}: {lines:#?}");
}
