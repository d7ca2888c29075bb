//! The terminal as `top` uses it, given back as it was whatever happens. It refuses to know what
//! is drawn.

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyModifiers, poll, read};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size};
use crossterm::{execute, queue};
use std::io::{self, Stdout, Write as _};
use std::time::{Duration, Instant};

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is time for the next look.
    Look,
    /// The screen has changed its size.
    Redraw,
    /// Somebody pressed q, Escape or Ctrl-C.
    Quit,
}

/// The terminal's second screen, until this is dropped.
#[derive(Debug)]
pub(super) struct Screen {
    output: Stdout,
    /// When the next look is due.
    due: Option<Instant>,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on dropping it gives everything back.
        let mut screen = Self { output: io::stdout(), due: None };
        execute!(screen.output, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Draws the lines that `lines` makes for a width and a height; the first one inverted.
    pub(super) fn draw(&mut self, lines: impl FnOnce(usize, usize) -> Vec<String>) -> io::Result<()> {
        let (width, height) = size()?;
        let lines = lines(width.into(), height.into());
        for (row, line) in (0..).zip(&lines) {
            let attribute = if row == 0 { Attribute::Reverse } else { Attribute::Reset };
            queue!(self.output, MoveTo(0, row), SetAttribute(attribute), Print(line), SetAttribute(Attribute::Reset))?;
            // After a full line the cursor still stands on its last character, which must stay.
            if line.chars().count() < width.into() {
                queue!(self.output, Clear(ClearType::UntilNewLine))?;
            }
        }
        if let Ok(row) = u16::try_from(lines.len())
            && row < height
        {
            queue!(self.output, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        }
        self.output.flush()
    }

    /// Waits for a key, a new size, or the next look, which is due an `interval` after the last.
    #[allow(clippy::disallowed_methods, reason = "a key must not put off the next look, so the time that is left is measured")]
    pub(super) fn wait(&mut self, interval: Duration) -> io::Result<Wish> {
        let due = *self.due.get_or_insert_with(|| Instant::now() + interval);
        while poll(due.saturating_duration_since(Instant::now()))? {
            match read()? {
                Event::Key(key) => {
                    let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                    if is_interrupt || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc) {
                        return Ok(Wish::Quit);
                    }
                }
                Event::Resize(..) => return Ok(Wish::Redraw),
                _ => {}
            }
        }
        self.due = None;
        Ok(Wish::Look)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone cannot be given back, and there is nobody left to tell.
        let _ = execute!(self.output, SetAttribute(Attribute::Reset), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
