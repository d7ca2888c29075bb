//! Subsystems that a daemon offers by NVMe/TCP, and secrets for them. It knows no guest and no case.

use crate::{Bench, Failure};
use serde_json::{Value, json};
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Guest, Network, Plan};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;

/// What a guest's scripts need that connects to subsystems. They know [`SUBSYSTEM`] too.
pub(crate) const NVME_HOST: &str = include_str!("../guest/nvme-host.sh");

/// The subsystem that most cases need.
pub(crate) const SUBSYSTEM: &str = "nqn.2026-11.example.spinel:disks";

/// Linux' host opens as many queues as it has processors, if it may.
pub(crate) const PROCESSORS: u16 = 2;

/// A guest with a network, and without disks.
pub(crate) fn plan(name: &str, script: String, forwards: Vec<(u16, u16)>) -> Plan {
    Plan {
        name: name.to_owned(),
        memory_mib: 512,
        processors: PROCESSORS,
        disks: Vec::new(),
        script,
        arrives: false,
        network: Some(Network { forwards }),
    }
}

/// Boots a guest whose kernel connects to subsystems of this machine.
pub(crate) fn boot_host(bench: &Bench, name: &str, script: String) -> Result<Guest, Failure> {
    Ok(bench.maker.boot(&plan(name, script, Vec::new()), &bench.sockets, &bench.logs)?)
}

/// Makes the transport, and a subsystem for any host or for none yet.
pub(crate) fn subsystem(daemon: &mut Daemon, nqn: &str, any_host: bool) -> Result<(), Failure> {
    daemon.call("nvmf_create_transport", json!({"trtype": "TCP"}))?;
    let params = json!({
        "nqn": nqn, "allow_any_host": any_host, "ana_reporting": true, "serial_number": "SPINEL0001", "model_number": "Spinel",
    });
    daemon.call("nvmf_create_subsystem", params)?;
    Ok(())
}

/// Lets hosts reach a subsystem by a port of this machine's loopback.
pub(crate) fn listen(daemon: &mut Daemon, nqn: &str, port: u16) -> Result<(), Failure> {
    daemon.call("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": address(port)}))?;
    Ok(())
}

/// A port of this machine's loopback, as the methods have it.
pub(crate) fn address(port: u16) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port.to_string()})
}

/// What attaches a subsystem that is reached by a port of this machine's loopback, with every digest.
pub(crate) fn attachment(name: &str, nqn: &str, port: u16) -> Value {
    let mut params = address(port);
    params["name"] = name.into();
    params["subnqn"] = nqn.into();
    params["hdgst"] = true.into();
    params["ddgst"] = true.into();
    params
}

/// Ports of this machine's loopback that nobody listens on at the moment, each another one.
pub(crate) fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT], Failure> {
    // All are held until the last is found, or the same would be found twice.
    let held: Vec<TcpListener> = (0..COUNT).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// The controllers of a subsystem.
pub(crate) fn controllers(daemon: &mut Daemon, nqn: &str) -> Result<Vec<Value>, Failure> {
    let listed = daemon.call("nvmf_subsystem_get_controllers", json!({"nqn": nqn}))?;
    Ok(listed.as_array().cloned().unwrap_or_default())
}

/// Gives the daemon a secret in a file that nobody else may read.
pub(crate) fn add_key(bench: &Bench, daemon: &mut Daemon, name: &str, secret: &str) -> Result<(), Failure> {
    let file = bench.logs.join(format!("{name}.key"));
    fs::write(&file, secret)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    daemon.call("keyring_file_add_key", json!({"name": name, "path": file}))?;
    Ok(())
}

/// Waits until the guest is at `mark`, where it waits for the host.
pub(crate) fn at(guest: &mut Guest, mark: &str) -> Result<(), Failure> {
    guest.until(&format!("reached: {mark}"), Deadline::after_s(200))?;
    Ok(())
}
