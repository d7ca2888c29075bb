//! `spinelctl disk`: the disks, whatever they are made of.

use super::{Session, limit};
use crate::cli::{Create, Delay, Disk, Inject, OnFile, Sized};
use crate::failure::Failure;
use crate::reply::{Bdev, Kind};
use crate::table::{self, Table};
use serde_json::{Map, Value, json};
use spinel_units::size;

pub(super) fn run(session: &mut Session, disk: Disk) -> Result<(), Failure> {
    match disk {
        Disk::List => list(session),
        Disk::Show { name } => show(session, &name),
        Disk::Create(create) => make(session, create),
        Disk::Delete { name } => {
            let kind = kind_of(session, &name, "delete")?;
            session.change(&kind.method("delete"), json!({"name": name}), |_| format!("deleted {name}"))
        }
        Disk::Resize { name, size } => resize(session, &name, size),
        Disk::Rescan { name } => rescan(session, &name),
        Disk::Inject(inject) => self::inject(session, inject),
        Disk::Limit(limit) => limit::run(session, &limit),
    }
}

fn list(session: &mut Session) -> Result<(), Failure> {
    if session.json {
        return table::print_json(&session.daemon.call("bdev_get_bdevs", None)?);
    }
    let disks: Vec<Bdev> = session.daemon.read("bdev_get_bdevs", None)?;
    let mut table = Table::new(&["NAME", "KIND", ">SIZE", ">BLOCK", "USED", "ON"]);
    for disk in &disks {
        let used = if disk.claimed { "yes" } else { "no" };
        table.row(&[&disk.name, word(disk), &size(disk.size()), &disk.block_size.to_string(), used, disk.backing()]);
    }
    table.print()
}

/// The verbs' word for its kind, or the product's name where there is none.
fn word(disk: &Bdev) -> &str {
    disk.kind().map_or(disk.product_name.as_str(), |kind| kind.word())
}

fn show(session: &mut Session, name: &str) -> Result<(), Failure> {
    let params = json!({"name": name});
    if session.json {
        let found = session.daemon.call("bdev_get_bdevs", Some(params))?;
        return table::print_json(found.get(0).unwrap_or(&found));
    }
    let disk = find(session, name)?;
    let mut lines = vec![
        ("name", disk.name.clone()),
        ("kind", word(&disk).to_owned()),
        ("size", format!("{} ({} blocks of {} bytes)", size(disk.size()), disk.num_blocks, disk.block_size)),
        ("uuid", disk.uuid.clone()),
        ("also called", disk.aliases.iter().filter(|alias| **alias != disk.uuid).cloned().collect::<Vec<_>>().join(", ")),
        ("used", if disk.claimed { "yes" } else { "no" }.to_owned()),
        ("limited to", limit::shown(&disk)),
    ];
    let can = disk.supported_io_types.iter().filter(|(_, can)| can.as_bool() == Some(true));
    lines.push(("can", can.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")));
    for members in disk.driver_specific.values().filter_map(Value::as_object) {
        let members = members.iter().filter(|(_, value)| !value.is_object() && !value.is_array());
        lines.extend(members.map(|(name, value)| (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))));
    }
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = lines.map(|(name, value)| table::printable(&format!("{:<18}{value}", format!("{name}:")))).collect();
    table::print(&lines.join("\n"))
}

pub(super) fn find(session: &mut Session, name: &str) -> Result<Bdev, Failure> {
    let method = "bdev_get_bdevs";
    let found: Vec<Bdev> = session.daemon.read(method, Some(json!({"name": name})))?;
    found.into_iter().next().ok_or_else(|| Failure::reply(method, "it is empty"))
}

/// The kind of the disk, which says by which method something is done to it.
fn kind_of(session: &mut Session, name: &str, act: &str) -> Result<Kind, Failure> {
    let disk = find(session, name)?;
    disk.kind().ok_or_else(|| {
        let product = disk.product_name;
        Failure::Refused(format!("there is no verb to {act} a disk of the kind '{product}'; call its method with `spinelctl rpc`"))
    })
}

/// Parameters, of which those that were not given are left out.
fn params<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let given = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

fn make(session: &mut Session, create: Create) -> Result<(), Failure> {
    let (kind, name, params) = match create {
        Create::Uring(on_file) => (Kind::Uring, on_file.name.clone(), on_file_params(on_file, None)?),
        Create::Aio { on_file, readonly } => (Kind::Aio, on_file.name.clone(), on_file_params(on_file, Some(readonly))?),
        Create::Memory(sized) => (Kind::Memory, sized.name.clone(), sized_params(sized)?),
        Create::Null(sized) => (Kind::Null, sized.name.clone(), sized_params(sized)?),
        Create::Delay(delay) => (Kind::Delay, delay.name.clone(), delay_params(delay)),
        Create::Error { base, common } => {
            let params = params([("base_name", Some(json!(base))), ("uuid", common.uuid.map(Value::from))]);
            (Kind::Error, format!("EE_{base}"), params)
        }
    };
    session.change(&kind.method("create"), params, |made| {
        let name = made.as_str().unwrap_or(&name);
        format!("created {name}; `spinelctl vhost create CONTROLLER {name}` offers it to a guest")
    })
}

fn on_file_params(on_file: OnFile, readonly: Option<bool>) -> Result<Value, Failure> {
    let OnFile { name, file, block_size, common } = on_file;
    // The daemon's working folder is not ours.
    let file = std::path::absolute(&file).map_err(|error| Failure::local("find", &file, &error))?;
    let Some(file) = file.to_str() else {
        return Err(Failure::Usage(format!("the path {} is not UTF-8, which JSON cannot carry", file.display())));
    };
    Ok(params([
        ("name", Some(json!(name))),
        ("filename", Some(json!(file))),
        ("block_size", block_size.map(Value::from)),
        ("readonly", readonly.filter(|readonly| *readonly).map(Value::from)),
        ("uuid", common.uuid.map(Value::from)),
    ]))
}

fn sized_params(sized: Sized) -> Result<Value, Failure> {
    let Sized { name, size, block_size, common } = sized;
    if block_size == 0 || size % block_size != 0 || size == 0 {
        return Err(Failure::Usage(format!("the size, {size} bytes, must be a multiple of the block size, {block_size} bytes")));
    }
    Ok(params([
        ("name", Some(json!(name))),
        ("num_blocks", Some(json!(size / block_size))),
        ("block_size", Some(json!(block_size))),
        ("uuid", common.uuid.map(Value::from)),
    ]))
}

fn delay_params(delay: Delay) -> Value {
    params([
        ("name", Some(json!(delay.name))),
        ("base_bdev_name", Some(json!(delay.base))),
        ("avg_read_latency", Some(json!(delay.read))),
        ("p99_read_latency", Some(json!(delay.read_p99.unwrap_or(delay.read)))),
        ("avg_write_latency", Some(json!(delay.write))),
        ("p99_write_latency", Some(json!(delay.write_p99.unwrap_or(delay.write)))),
        ("uuid", delay.common.uuid.map(Value::from)),
    ])
}

fn resize(session: &mut Session, name: &str, new_size: u64) -> Result<(), Failure> {
    const MIB: u64 = 1 << 20;
    if !new_size.is_multiple_of(MIB) {
        return Err(Failure::Usage(format!("the new size, {new_size} bytes, must be whole MiB")));
    }
    match kind_of(session, name, "resize")? {
        Kind::Null => {}
        Kind::Uring | Kind::Aio => {
            return Err(Failure::Refused(format!(
                "{name} is as large as its file: enlarge the file (truncate -s), then `spinelctl disk rescan {name}`"
            )));
        }
        kind => return Err(Failure::Refused(format!("{name} cannot be resized: it is a {} disk", kind.word()))),
    }
    let params = json!({"name": name, "new_size": new_size / MIB});
    session.change("bdev_null_resize", params, |_| format!("{name} is now {}", size(new_size)))
}

fn rescan(session: &mut Session, name: &str) -> Result<(), Failure> {
    let kind = kind_of(session, name, "rescan")?;
    if !matches!(kind, Kind::Uring | Kind::Aio) {
        return Err(Failure::Refused(format!("{name} has no file to look at: it is a {} disk", kind.word())));
    }
    let result = session.daemon.call(&kind.method("rescan"), Some(json!({"name": name})))?;
    if session.json {
        return table::print_json(&result);
    }
    let disk = find(session, name)?;
    table::print(&table::printable(&format!("{name} is now {}", size(disk.size()))))
}

fn inject(session: &mut Session, inject: Inject) -> Result<(), Failure> {
    let Inject { name, operation, error, count } = inject;
    let params = json!({"name": name, "io_type": operation, "error_type": error, "num": count});
    session.change("bdev_error_inject_error", params, |_| match operation.as_str() {
        "clear" => format!("{name} fails nothing more"),
        _ => format!("{name} answers {count} x {operation} with {error}"),
    })
}
