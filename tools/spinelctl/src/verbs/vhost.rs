//! `spinelctl vhost`: the controllers that guests attach to.

use super::Session;
use crate::cli::Vhost;
use crate::failure::Failure;
use crate::reply::Controller;
use crate::table::{self, Table};
use serde_json::{Value, json};

pub(super) fn run(session: &mut Session, vhost: Vhost) -> Result<(), Failure> {
    match vhost {
        Vhost::List => list(session),
        Vhost::Create { name, disk, readonly, cpumask } => create(session, &name, &disk, readonly, cpumask),
        Vhost::Delete { name } => session.change("vhost_delete_controller", json!({"ctrlr": name}), |_| format!("deleted {name}")),
        Vhost::Coalesce { name, delay, iops_threshold } => {
            let params = json!({"ctrlr": name, "delay_base_us": delay, "iops_threshold": iops_threshold});
            session.change("vhost_controller_set_coalescing", params, |_| match delay {
                0 => format!("{name} interrupts its guest at once"),
                _ => format!("{name} collects completions for {delay} us from {iops_threshold} requests a second on"),
            })
        }
    }
}

fn list(session: &mut Session) -> Result<(), Failure> {
    if session.json {
        return table::print_json(&session.daemon.call("vhost_get_controllers", None)?);
    }
    let controllers: Vec<Controller> = session.daemon.read("vhost_get_controllers", None)?;
    let mut table = Table::new(&["NAME", "DISK", "ACCESS", ">GUESTS", "CORES", "SOCKET"]);
    for controller in &controllers {
        let block = &controller.backend_specific["block"];
        let access = if block["readonly"].as_bool() == Some(true) { "read-only" } else { "read-write" };
        let guests = controller.sessions.as_ref().map_or_else(|| "-".into(), |sessions| sessions.len().to_string());
        let socket = controller.socket.as_deref().unwrap_or("-");
        table.row(&[&controller.ctrlr, block["bdev"].as_str().unwrap_or("-"), access, &guests, &controller.cpumask, socket]);
    }
    table.print()
}

fn create(session: &mut Session, name: &str, disk: &str, readonly: bool, cpumask: Option<String>) -> Result<(), Failure> {
    let mut params = json!({"ctrlr": name, "dev_name": disk});
    if readonly {
        params["readonly"] = true.into();
    }
    if let Some(cpumask) = cpumask {
        params["cpumask"] = cpumask.into();
    }
    let result = session.daemon.call("vhost_create_blk_controller", Some(params))?;
    if session.json {
        return table::print_json(&result);
    }
    // Where its socket is, is a courtesy: the controller has been made either way.
    let found = session.daemon.ask("vhost_get_controllers", Some(json!({"name": name})))?.unwrap_or(Value::Null);
    table::print(&table::printable(&format!("created {name} on {disk}")))?;
    match found[0]["socket"].as_str() {
        Some(socket) => table::print(&format!("QEMU attaches it with\n{}", qemu(&table::printable(name), &table::printable(socket)))),
        None => Ok(()),
    }
}

/// The options of a QEMU that has this controller as a disk. The guest's memory must be shared.
fn qemu(name: &str, socket: &str) -> String {
    // A comma ends an option's value; QEMU reads two as one.
    let (name, socket) = (name.replace(',', ",,"), socket.replace(',', ",,"));
    format!(
        "  -object memory-backend-memfd,id=mem,size=1G,share=on -machine memory-backend=mem -m 1G \\\n  \
         -chardev socket,id={name},path={socket} -device vhost-user-blk-pci,chardev={name}"
    )
}
