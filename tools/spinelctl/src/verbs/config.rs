//! `spinelctl save-config` and `load-config`: SPDK's configuration files, made and played back on
//! this side of the socket, as SPDK's own client does.

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::table;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// The largest configuration that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A configuration: what to call, in this order.
#[derive(Debug, Default)]
pub(super) struct Config {
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    method: String,
    #[serde(default)]
    params: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct File {
    subsystems: Vec<Subsystem>,
}

#[derive(Debug, Deserialize)]
struct Subsystem {
    #[serde(rename = "subsystem")]
    _name: String,
    config: Option<Vec<Entry>>,
}

/// Reads and checks the file, as far as that can be done without the daemon.
pub(super) fn read(path: &Path) -> Result<Config, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::local("read", path, &error))?;
    let file: File = serde_json::from_str(&text).map_err(|error| {
        Failure::Usage(format!(
            "{} is not a configuration: {error}; it must be {{\"subsystems\": [{{\"subsystem\": NAME, \"config\": [{{\"method\": .., \"params\": ..}}]}}]}}",
            path.display()
        ))
    })?;
    let entries = file.subsystems.into_iter().filter_map(|subsystem| subsystem.config).flatten();
    Ok(Config { entries: entries.collect() })
}

fn methods(daemon: &mut Daemon, current: bool) -> Result<BTreeSet<String>, Failure> {
    daemon.read("rpc_get_methods", Some(json!({"current": current})))
}

/// Calls what the configuration lists: before initialisation what belongs there, then the rest.
pub(super) fn load(daemon: &mut Daemon, config: &Config) -> Result<(), Failure> {
    // A method that is unknown is found before anything has been changed.
    let known = methods(daemon, false)?;
    if let Some(entry) = config.entries.iter().find(|entry| !known.contains(&entry.method)) {
        let method = &entry.method;
        return Err(Failure::Refused(format!("the configuration calls '{method}', which this daemon does not have; nothing was changed")));
    }
    let current = methods(daemon, true)?;
    let (now, later): (Vec<&Entry>, Vec<&Entry>) = config.entries.iter().partition(|entry| current.contains(&entry.method));
    let is_startup = current.contains("framework_start_init");
    let mut called = call_all(daemon, &now, 0, config.entries.len())?;
    if is_startup {
        daemon.call("framework_start_init", None)?;
        called = call_all(daemon, &later, called, config.entries.len())?;
    } else if !later.is_empty() {
        let names: BTreeSet<&str> = later.iter().map(|entry| entry.method.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        eprintln!("spinelctl: left out, because the daemon is initialised already: {}", table::printable(&names.join(", ")));
    }
    table::print(&format!("{called} calls made"))
}

/// Calls the entries, after `called` others of `total`. Returns how many have been called then.
fn call_all(daemon: &mut Daemon, entries: &[&Entry], mut called: usize, total: usize) -> Result<usize, Failure> {
    for entry in entries {
        if let Err(error) = daemon.ask(&entry.method, entry.params.clone())? {
            let Entry { method, params } = entry;
            let about = params.as_ref().and_then(|params| params.get("name").or(params.get("ctrlr"))).and_then(Value::as_str);
            let about = about.map(|name| format!(" for '{name}'")).unwrap_or_default();
            let state = match called {
                0 => format!("none of the other {} calls has been made", total - 1),
                _ => format!("of {total} calls {called} had been made, and stay in force"),
            };
            return Err(Failure::Refused(format!("the daemon refused {method}{about}: {error}; {state}")));
        }
        called += 1;
    }
    Ok(called)
}

/// Writes what runs to `file`, whole or not at all, or to standard output.
pub(super) fn save(daemon: &mut Daemon, file: Option<&Path>) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Subsystem {
        subsystem: String,
    }
    let subsystems: Vec<Subsystem> = daemon.read("framework_get_subsystems", None)?;
    let mut saved = Vec::new();
    for Subsystem { subsystem } in subsystems {
        let config = daemon.call("framework_get_config", Some(json!({"name": subsystem})))?;
        saved.push(json!({"subsystem": subsystem, "config": config}));
    }
    let config = json!({"subsystems": saved});
    let Some(path) = file else {
        return table::print_json(&config);
    };
    write_whole(path, &format!("{config:#}\n")).map_err(|error| Failure::local("write", path, &error))?;
    table::print(&format!("saved to {}", path.display()))
}

/// Replaces `path` by a file that holds `text`, so that a crash leaves the old or the new one.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = Path::new(&name);
    let written = (|| {
        let mut file = std::fs::File::create_new(new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(new, path)
    })();
    if written.is_err() {
        // The new file is of no use; the error is what counts.
        let _ = std::fs::remove_file(new);
    }
    written
}
