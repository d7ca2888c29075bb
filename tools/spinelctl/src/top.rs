//! `spinelctl top`: looks at disks and cores again and again, on a live screen or as plain text.
//! It refuses to know how a screen is drawn and what a look costs the daemon.

mod frame;
mod sample;
mod screen;
mod view;

use crate::cli::Top;
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::pause::pause;
use crate::table;
use frame::Frame;
use sample::Sampler;
use screen::{Screen, Wish};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Shows what changes from look to look, until told to stop.
pub(crate) fn run(daemon: &mut Daemon, top: &Top, json: bool) -> Result<(), Failure> {
    let interval = Duration::from_secs(top.interval.into());
    let iterations = if top.once { Some(1) } else { top.iterations };
    let socket = daemon.path().display().to_string();
    let mut sampler = Sampler::new(daemon, &top.disks);
    let is_live = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if is_live && !json && iterations.is_none() {
        let title = format!("{socket}   every {} s   q quits", top.interval);
        return watch(&mut sampler, interval, &title);
    }
    let mut before = sampler.take()?;
    let mut left = iterations;
    while left != Some(0) {
        pause(interval);
        let now = sampler.take()?;
        let frame = Frame::between(&before, &now);
        if json {
            table::print(&frame.to_json().to_string())?;
        } else {
            table::print(&format!("{}\n", view::text(&frame)))?;
        }
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// The live screen. It is left again however this ends.
fn watch(sampler: &mut Sampler<'_>, interval: Duration, title: &str) -> Result<(), Failure> {
    let failed = |error| Failure::Local(format!("cannot use the terminal: {error}"));
    let mut before = sampler.take()?;
    let mut screen = Screen::open().map_err(failed)?;
    let mut frame = Frame::between(&before, &before);
    loop {
        screen.draw(|width, height| view::screen(&frame, title, width, height)).map_err(failed)?;
        match screen.wait(interval).map_err(failed)? {
            Wish::Quit => return Ok(()),
            Wish::Redraw => {}
            Wish::Look => {
                let now = sampler.take()?;
                frame = Frame::between(&before, &now);
                before = now;
            }
        }
    }
}
