//! `spinelctl nvmf` and `spinelctl key`: the subsystems that hosts connect to, and the secrets they prove.

use super::Session;
use crate::cli::{At, CreateSubsystem, Export, Host, Key, Listener, Namespace, Nvmf, Referral, State};
use crate::failure::Failure;
use crate::table::{self, Table};
use serde_json::{Value, json};

/// What hosts find discovery under.
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// What the subsystem of one disk is called, before the disk's name.
const OWN: &str = "nqn.2026-11.io.spinel:";
/// Nothing else of this code can be wrong in a call that only makes what may be there.
const EXISTS: i32 = -17;

pub(super) fn run(session: &mut Session, nvmf: Nvmf) -> Result<(), Failure> {
    match nvmf {
        Nvmf::List => list(session),
        Nvmf::Export(export) => self::export(session, &export),
        Nvmf::Create(create) => self::create(session, &create),
        Nvmf::Delete { nqn } => session.change("nvmf_delete_subsystem", json!({"nqn": nqn}), |_| format!("deleted {nqn}")),
        Nvmf::Namespace(namespace) => self::namespace(session, namespace),
        Nvmf::Listener(listener) => self::listener(session, listener),
        Nvmf::Host(host) => self::host(session, host),
        Nvmf::Ana { at, state, groups } => ana(session, &at, state, &groups),
        Nvmf::Controllers { nqn } => controllers(session, nqn.as_deref().unwrap_or(DISCOVERY)),
        Nvmf::Referral(referral) => self::referral(session, referral),
    }
}

fn address(address: &str, port: &str) -> Value {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({"trtype": "TCP", "adrfam": family, "traddr": address, "trsvcid": port})
}

fn place(address: &Value) -> String {
    let text = |name: &str| address[name].as_str().unwrap_or("?").to_owned();
    if text("adrfam").eq_ignore_ascii_case("ipv6") {
        format!("[{}]:{}", text("traddr"), text("trsvcid"))
    } else {
        format!("{}:{}", text("traddr"), text("trsvcid"))
    }
}

/// Entries of a list in a reply; none if it is no list.
fn entries(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let found = session.daemon.call("nvmf_get_subsystems", None)?;
    if session.json {
        return table::print_json(&found);
    }
    let mut table = Table::new(&["NQN", "NAMESPACES", "LISTENERS", "HOSTS"]);
    for subsystem in entries(&found).iter().filter(|subsystem| subsystem["subtype"] != "Discovery") {
        let namespaces = entries(&subsystem["namespaces"])
            .iter()
            .map(|namespace| format!("{}={}", namespace["nsid"], namespace["bdev_name"].as_str().unwrap_or("?")));
        let listeners = entries(&subsystem["listen_addresses"]).iter().map(place);
        let hosts = entries(&subsystem["hosts"]).len();
        let hosts = if subsystem["allow_any_host"] == true { "any".to_owned() } else { hosts.to_string() };
        let cells = [subsystem["nqn"].as_str().unwrap_or("?").to_owned(), joined(namespaces), joined(listeners), hosts];
        table.row(&cells);
    }
    table.print()
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    let joined = texts.collect::<Vec<_>>().join(",");
    if joined.is_empty() { "-".to_owned() } else { joined }
}

/// Calls a method that makes something which may be there already.
fn ensure(session: &mut Session, method: &str, params: Value) -> Result<(), Failure> {
    match session.daemon.ask(method, Some(params))? {
        Ok(_) => Ok(()),
        Err(error) if error.code == EXISTS => Ok(()),
        Err(error) => Err(Failure::refused(method, &error)),
    }
}

fn export(session: &mut Session, export: &Export) -> Result<(), Failure> {
    let Export { disk, address: host_address, port, nqn, hosts } = export;
    let nqn = nqn.clone().unwrap_or_else(|| format!("{OWN}{disk}"));
    ensure(session, "nvmf_create_transport", json!({"trtype": "TCP"}))?;
    ensure(session, "nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": hosts.is_empty(), "ana_reporting": true}))?;
    for host in hosts {
        ensure(session, "nvmf_subsystem_add_host", json!({"nqn": nqn, "host": host}))?;
    }
    let nsid = session.daemon.call("nvmf_subsystem_add_ns", Some(json!({"nqn": nqn, "namespace": {"bdev_name": disk}})))?;
    let at = address(host_address, port);
    ensure(session, "nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": at}))?;
    if session.json {
        return table::print_json(&json!({"nqn": nqn, "nsid": nsid, "listen_address": at}));
    }
    let said = format!(
        "{disk} is namespace {nsid} of {nqn}\na Linux host connects it with\n  nvme connect -t tcp -a {host_address} -s {port} -n {nqn}"
    );
    table::print(&said.lines().map(table::printable).collect::<Vec<_>>().join("\n"))
}

fn create(session: &mut Session, create: &CreateSubsystem) -> Result<(), Failure> {
    let CreateSubsystem { nqn, serial, model, any_host, ana, max_namespaces } = create;
    let mut params = json!({"nqn": nqn, "allow_any_host": any_host, "ana_reporting": ana});
    if let Some(serial) = serial {
        params["serial_number"] = serial.as_str().into();
    }
    if let Some(model) = model {
        params["model_number"] = model.as_str().into();
    }
    if let Some(most) = max_namespaces {
        params["max_namespaces"] = (*most).into();
    }
    session.change("nvmf_create_subsystem", params, |_| format!("created {nqn}"))
}

fn namespace(session: &mut Session, namespace: Namespace) -> Result<(), Failure> {
    match namespace {
        Namespace::Add { nqn, disk, nsid, group, reservations } => {
            let mut params = json!({"bdev_name": disk});
            if let Some(nsid) = nsid {
                params["nsid"] = nsid.into();
            }
            if let Some(group) = group {
                params["anagrpid"] = group.into();
            }
            if let Some(file) = reservations {
                let file = std::path::absolute(&file).unwrap_or(file);
                params["ptpl_file"] = file.to_string_lossy().into();
            }
            let params = json!({"nqn": nqn, "namespace": params});
            session.change("nvmf_subsystem_add_ns", params, |nsid| format!("{disk} is namespace {nsid} of {nqn}"))
        }
        Namespace::Remove { nqn, nsid } => {
            let params = json!({"nqn": nqn, "nsid": nsid});
            session.change("nvmf_subsystem_remove_ns", params, |_| format!("removed namespace {nsid} of {nqn}"))
        }
    }
}

fn listener(session: &mut Session, listener: Listener) -> Result<(), Failure> {
    match listener {
        Listener::Add { at: At { nqn, address: host, port }, advertise, state } => {
            let at = address(&host, &port);
            let mut params = json!({"nqn": nqn, "listen_address": at});
            if let Some(advertise) = advertise {
                params["advertised_address"] = address(&advertise, &port);
            }
            if let Some(state) = state {
                params["ana_state"] = state.name().into();
            }
            session.change("nvmf_subsystem_add_listener", params, |_| format!("hosts connect to {nqn} at {}", place(&at)))
        }
        Listener::Remove { at: At { nqn, address: host, port } } => {
            let at = address(&host, &port);
            let params = json!({"nqn": nqn, "listen_address": at});
            session.change("nvmf_subsystem_remove_listener", params, |_| format!("hosts connect to {nqn} no longer at {}", place(&at)))
        }
        Listener::List { nqn } => {
            let found = session.daemon.call("nvmf_subsystem_get_listeners", Some(json!({"nqn": nqn})))?;
            if session.json {
                return table::print_json(&found);
            }
            let mut table = Table::new(&["ADDRESS", "ADVERTISED", "STATES"]);
            for listener in entries(&found) {
                let other = |state: &&Value| state["ana_state"] != "optimized";
                let states = entries(&listener["ana_states"]).iter().filter(other);
                let states = states.map(|state| format!("{}={}", state["ana_group"], state["ana_state"].as_str().unwrap_or("?")));
                let advertised = listener.get("advertised_address").map_or_else(|| "-".to_owned(), place);
                table.row(&[place(&listener["address"]), advertised, joined(states)]);
            }
            table.print()
        }
    }
}

fn host(session: &mut Session, host: Host) -> Result<(), Failure> {
    match host {
        Host::Add { nqn, host, key, controller_key } => {
            let mut params = json!({"nqn": nqn, "host": host});
            if let Some(key) = key {
                params["dhchap_key"] = key.into();
            }
            if let Some(key) = controller_key {
                params["dhchap_ctrlr_key"] = key.into();
            }
            session.change("nvmf_subsystem_add_host", params, |_| format!("{host} may connect to {nqn}"))
        }
        Host::Remove { nqn, host } => {
            let params = json!({"nqn": nqn, "host": host});
            session.change("nvmf_subsystem_remove_host", params, |_| format!("{host} may connect to {nqn} no longer"))
        }
        Host::Any { nqn, allow } => {
            let params = json!({"nqn": nqn, "allow_any_host": allow});
            let who = if allow { "any host" } else { "only a host that is named" };
            session.change("nvmf_subsystem_allow_any_host", params, |_| format!("{who} may connect to {nqn}"))
        }
    }
}

fn ana(session: &mut Session, at: &At, state: State, groups: &[u32]) -> Result<(), Failure> {
    let At { nqn, address: host, port } = at;
    let at = address(host, port);
    let said = format!("{nqn} is {} at {}", state.name(), place(&at));
    if groups.is_empty() {
        let params = json!({"nqn": nqn, "listen_address": at, "ana_state": state.name()});
        return session.change("nvmf_subsystem_listener_set_ana_state", params, |_| said);
    }
    let groups: Value = groups.iter().map(|group| json!({"anagrpid": group, "ana_state": state.name()})).collect();
    session.change("spinel_nvmf_set_ana_states", json!({"nqn": nqn, "listen_address": at, "groups": groups}), |_| said)
}

fn controllers(session: &mut Session, nqn: &str) -> Result<(), Failure> {
    let found = session.daemon.call("nvmf_subsystem_get_controllers", Some(json!({"nqn": nqn})))?;
    if session.json {
        return table::print_json(&found);
    }
    let mut table = Table::new(&[">ID", "HOST", ">QUEUES"]);
    for controller in entries(&found) {
        let host = controller["hostnqn"].as_str().unwrap_or("?").to_owned();
        table.row(&[controller["cntlid"].to_string(), host, controller["num_io_qpairs"].to_string()]);
    }
    table.print()
}

fn referral(session: &mut Session, referral: Referral) -> Result<(), Failure> {
    match referral {
        Referral::Add { address: host, port } => {
            let at = address(&host, &port);
            let params = json!({"address": at});
            session.change("nvmf_discovery_add_referral", params, |_| format!("hosts are told of {}", place(&at)))
        }
        Referral::Remove { address: host, port } => {
            let at = address(&host, &port);
            let params = json!({"address": at});
            session.change("nvmf_discovery_remove_referral", params, |_| format!("hosts are not told of {} any more", place(&at)))
        }
        Referral::List => {
            let found = session.daemon.call("nvmf_discovery_get_referrals", None)?;
            if session.json {
                return table::print_json(&found);
            }
            let mut table = Table::new(&["ADDRESS", "NQN"]);
            for referral in entries(&found) {
                table.row(&[place(&referral["address"]), referral["subnqn"].as_str().unwrap_or("?").to_owned()]);
            }
            table.print()
        }
    }
}

/// `spinelctl key`.
pub(super) fn key(session: &mut Session, key: Key) -> Result<(), Failure> {
    match key {
        Key::Add { name, file } => {
            let file = std::path::absolute(&file).unwrap_or(file);
            let params = json!({"name": name, "path": file.to_string_lossy()});
            session.change("keyring_file_add_key", params, |_| format!("{name} is what {} holds", file.display()))
        }
        Key::Remove { name } => session.change("keyring_file_remove_key", json!({"name": name}), |_| format!("removed {name}")),
        Key::List => {
            let found = session.daemon.call("keyring_get_keys", None)?;
            if session.json {
                return table::print_json(&found);
            }
            let mut table = Table::new(&["NAME", "FILE"]);
            for key in entries(&found) {
                table.row(&[key["name"].as_str().unwrap_or("?"), key["path"].as_str().unwrap_or("-")]);
            }
            table.print()
        }
    }
}
