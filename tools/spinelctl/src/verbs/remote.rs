//! `spinelctl remote`: controllers elsewhere, whose namespaces are disks here.

use super::Session;
use crate::cli::{Attach, Discover, Patience, Remote, WayPolicy};
use crate::failure::Failure;
use crate::table::{self, Table};
use serde_json::{Value, json};

pub(super) fn run(session: &mut Session, remote: Remote) -> Result<(), Failure> {
    match remote {
        Remote::List => list(session),
        Remote::Attach(attach) => self::attach(session, &attach),
        Remote::Detach { name, address, port } => {
            let mut params = json!({"name": name});
            if let Some(address) = &address {
                place_in(&mut params, address, &port);
            }
            session.change("bdev_nvme_detach_controller", params, |_| format!("detached {name}"))
        }
        Remote::Reset { name } => session.change("bdev_nvme_reset_controller", json!({"name": name}), |_| format!("{name} is being reset")),
        Remote::Paths { disk } => paths(session, disk),
        Remote::Policy { name, policy, requests } => {
            let mut params = json!({"name": name, "policy": "active_active"});
            match policy {
                WayPolicy::Failover => params["policy"] = "active_passive".into(),
                WayPolicy::RoundRobin => params["selector"] = "round_robin".into(),
                WayPolicy::QueueDepth => params["selector"] = "queue_depth".into(),
            }
            if let Some(requests) = requests {
                params["rr_min_io"] = requests.into();
            }
            session.change("bdev_nvme_set_multipath_policy", params, |_| format!("requests to {name} choose their way anew"))
        }
        Remote::Discover(discover) => self::discover(session, &discover),
        Remote::Forget { name } => session.change("bdev_nvme_stop_discovery", json!({"name": name}), |_| format!("forgot {name}")),
        Remote::Discoveries => discoveries(session),
    }
}

fn place_in(params: &mut Value, address: &str, port: &str) {
    params["trtype"] = "TCP".into();
    params["adrfam"] = if address.contains(':') { "IPv6" } else { "IPv4" }.into();
    params["traddr"] = address.into();
    params["trsvcid"] = port.into();
}

fn patience_in(params: &mut Value, patience: &Patience) {
    if let Some(seconds) = patience.give_up {
        params["ctrlr_loss_timeout_sec"] = seconds.into();
    }
    if let Some(seconds) = patience.fail {
        params["fast_io_fail_timeout_sec"] = seconds.into();
    }
}

fn attach(session: &mut Session, attach: &Attach) -> Result<(), Failure> {
    let Attach { name, nqn, address, port, digests, host, key, controller_key, patience } = attach;
    let mut params = json!({"name": name, "subnqn": nqn});
    place_in(&mut params, address, port);
    patience_in(&mut params, patience);
    if *digests {
        (params["hdgst"], params["ddgst"]) = (true.into(), true.into());
    }
    for (parameter, value) in [("hostnqn", host), ("dhchap_key", key), ("dhchap_ctrlr_key", controller_key)] {
        if let Some(value) = value {
            params[parameter] = value.as_str().into();
        }
    }
    session.change("bdev_nvme_attach_controller", params, |disks| {
        let disks: Vec<&str> = entries(disks).iter().filter_map(Value::as_str).collect();
        if disks.is_empty() {
            format!("{name} is there, without a namespace for this host")
        } else {
            format!("{name} is there: {}", disks.join(", "))
        }
    })
}

fn discover(session: &mut Session, discover: &Discover) -> Result<(), Failure> {
    let Discover { name, address, port, host, wait, patience } = discover;
    let mut params = json!({"name": name, "wait_for_attach": wait});
    place_in(&mut params, address, port);
    patience_in(&mut params, patience);
    if let Some(host) = host {
        params["hostnqn"] = host.as_str().into();
    }
    session.change("bdev_nvme_start_discovery", params, |_| format!("{name} is asked"))
}

/// Entries of a list in a reply; none if it is no list.
fn entries(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

fn place(address: &Value) -> String {
    let (host, port) = (text(address, "traddr"), text(address, "trsvcid"));
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let found = session.daemon.call("bdev_nvme_get_controllers", None)?;
    if session.json {
        return table::print_json(&found);
    }
    let mut table = Table::new(&["NAME", "SUBSYSTEM", "ADDRESS", "STATE", ">QUEUES", ">NAMESPACES", "TROUBLE"]);
    for controllers in entries(&found) {
        for controller in entries(&controllers["ctrlrs"]) {
            let trid = &controller["trid"];
            table.row(&[
                text(controllers, "name").to_owned(),
                text(trid, "subnqn").to_owned(),
                place(trid),
                text(controller, "state").to_owned(),
                controller["io_queues"].to_string(),
                entries(&controller["namespaces"]).len().to_string(),
                text(controller, "trouble").to_owned(),
            ]);
        }
    }
    table.print()
}

fn paths(session: &mut Session, disk: Option<String>) -> Result<(), Failure> {
    let params = disk.map(|disk| json!({"name": disk}));
    let found = session.daemon.call("bdev_nvme_get_io_paths", params)?;
    if session.json {
        return table::print_json(&found);
    }
    let mut table = Table::new(&["DISK", "ADDRESS", "CONNECTED", "ACCESS", "PREFERRED"]);
    for group in entries(&found["poll_groups"]) {
        for path in entries(&group["io_paths"]) {
            let yes = |name: &str| if path[name] == true { "yes" } else { "no" }.to_owned();
            let (disk, access) = (text(path, "bdev_name").to_owned(), text(path, "ana_state").to_owned());
            table.row(&[disk, place(&path["transport"]), yes("connected"), access, yes("preferred")]);
        }
    }
    table.print()
}

fn discoveries(session: &mut Session) -> Result<(), Failure> {
    let found = session.daemon.call("bdev_nvme_get_discovery_info", None)?;
    if session.json {
        return table::print_json(&found);
    }
    let mut table = Table::new(&["NAME", "ADDRESS", "CONNECTED", "LEADS TO"]);
    for discovery in entries(&found) {
        let connected = if discovery["connected"] == true { "yes" } else { "no" };
        let controllers = entries(&discovery["controllers"]).iter();
        let controllers: Vec<String> =
            controllers.map(|controller| format!("{}={}", text(controller, "name"), place(&controller["trid"]))).collect();
        let controllers = if controllers.is_empty() { "-".to_owned() } else { controllers.join(",") };
        table.row(&[text(discovery, "name").to_owned(), place(&discovery["trid"]), connected.to_owned(), controllers]);
    }
    table.print()
}
