//! What `demo --keep` leaves running: remembered, talked to, stopped. It starts nothing.

use crate::Failure;
use crate::project::Project;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use spinel_testbed::guest::Left;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A guest and a daemon that go on running.
pub(crate) struct Kept {
    pub(crate) guest: Left,
    pub(crate) spineld: u32,
    pub(crate) sockets: PathBuf,
}

fn record(project: &Project) -> PathBuf {
    project.target.join("demo-kept.json")
}

impl Kept {
    /// Fails where an earlier one still runs: both would use one disk.
    pub(crate) fn refuse_a_second(project: &Project) -> Result<(), Failure> {
        match remembered(project) {
            Some(kept) if !running(&kept).is_empty() => {
                Err("the guest of `cargo xtask demo --keep` still runs: `cargo xtask stop` stops it".into())
            }
            _ => Ok(()),
        }
    }

    /// Writes down what runs, and says how to look around.
    pub(crate) fn remember(&self, project: &Project) -> Result<(), Failure> {
        let Self { guest, spineld, sockets } = self;
        let kept = json!({"processes": [guest.process_id, spineld], "console": guest.console, "sockets": sockets});
        fs::write(record(project), kept.to_string())?;
        let ctl = project.target.join("release/spinelctl");
        let ctl = format!("{} -s {}", ctl.display(), sockets.join("spineld.rpc").display());
        println!("\nThe guest (process {}) and spineld (process {spineld}) go on running. To look around:", guest.process_id);
        println!("  the guest's shell                   cargo xtask console");
        println!("  what the disk and the cores do      {ctl} top");
        println!("  everything else to ask and change   {ctl} --help");
        println!("  what the console has shown          {}", guest.log.display());
        println!("  stop both                           cargo xtask stop");
        Ok(())
    }
}

fn remembered(project: &Project) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(record(project)).ok()?).ok()
}

/// The remembered processes that still run, by a command line that names their sockets: ids are used again.
fn running(kept: &Value) -> Vec<Pid> {
    let sockets = kept["sockets"].as_str().unwrap_or_default();
    let ids = kept["processes"].as_array().into_iter().flatten().filter_map(Value::as_i64);
    let ours = |id: &i64| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        !sockets.is_empty() && String::from_utf8_lossy(&words).contains(sockets)
    };
    ids.filter(ours).filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?)).collect()
}

/// `cargo xtask stop`.
pub(crate) fn stop(project: &Project) -> Result<(), Failure> {
    let kept = remembered(project).ok_or("nothing was left running")?;
    let processes = running(&kept);
    for id in &processes {
        let process = pidfd_open(*id, PidfdFlags::empty())?;
        pidfd_send_signal(&process, Signal::TERM)?;
        rustix::event::poll(&mut [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)], None)?;
    }
    if let Some(sockets) = kept["sockets"].as_str() {
        remove_sockets(Path::new(sockets))?;
    }
    fs::remove_file(record(project))?;
    println!("{}", if processes.len() == 2 { "stopped both" } else { "stopped what still ran" });
    Ok(())
}

fn remove_sockets(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// `cargo xtask console`: lines go to the guest's shell, what it prints comes back.
pub(crate) fn console(project: &Project) -> Result<(), Failure> {
    let kept = remembered(project).ok_or("no guest was left running: `cargo xtask demo --keep` leaves one")?;
    let socket = kept["console"].as_str().unwrap_or_default();
    let console = UnixStream::connect(socket).map_err(|e| format!("the guest's console {socket} does not answer: {e}"))?;
    println!("This is the guest's shell. Ctrl-D leaves it running; 'exit' ends the guest.");
    let mut output = console.try_clone()?;
    std::thread::Builder::new().name("console".to_owned()).spawn(move || {
        let mut screen = Unbuffered(io::stdout());
        let _ = io::copy(&mut output, &mut screen);
        println!("\nThe guest has ended.");
        std::process::exit(0);
    })?;
    (&console).write_all(b"\n")?;
    io::copy(&mut io::stdin().lock(), &mut &console)?;
    Ok(())
}

/// Shows a prompt, which no line break follows.
struct Unbuffered(io::Stdout);

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
