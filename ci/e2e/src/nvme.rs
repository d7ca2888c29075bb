//! One guest whose kernel connects to the daemon's NVMe/TCP subsystems: what a Linux host sees and asks for.

use crate::fabric::{NVME_HOST, SUBSYSTEM, address, at, boot_host, controllers, free_ports, listen, subsystem};
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::json;
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::Guest;

const NVME: &str = include_str!("../guest/nvme.sh");

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 128;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut daemon = bench.daemon("nvme")?;
    let file = bench.disk_file("nvme");
    sparse_file(&file, DISK_MIB * MIB)?;
    daemon.call("bdev_uring_create", json!({"filename": file, "name": "first", "block_size": 4096}))?;
    daemon.call("bdev_null_create", json!({"name": "second", "num_blocks": 32 * MIB / 512, "block_size": 512}))?;
    subsystem(&mut daemon, SUBSYSTEM, true)?;
    daemon.call("nvmf_subsystem_add_ns", json!({"nqn": SUBSYSTEM, "namespace": {"nsid": 1, "bdev_name": "first"}}))?;
    let ports = free_ports::<2>()?;
    for port in ports {
        listen(&mut daemon, SUBSYSTEM, port)?;
    }
    let [one, other] = ports;
    let script = format!(
        "{DISK}\n{NVME_HOST}\n{NVME}\n\
        claim 'discovery finds the subsystem' finds {one}\n\
        claim 'connect with one queue' nvme_connect {one} $SUBSYSTEM -i 1\n\
        claim 'the disk is there' within 10 namespace 1\nlooks\nused plain\ncompares\nreserves\nchanges\n\
        claim 'disconnect' disconnected\n\
        claim 'connect with digests and four queues' nvme_connect {one} $SUBSYSTEM -i 4 -g -G\n\
        claim 'the disk is there again' within 10 namespace 1\nused digests\n\
        claim 'disconnect again' disconnected\n\
        survives {one} {other}\nclaim 'disconnect both' disconnected\nconclude\n"
    );
    let mut guest = boot_host(bench, "nvme", script)?;
    change(&mut daemon, &mut guest)?;
    flip(&mut daemon, &mut guest, ports)?;
    let mut claims = guest.finish(Deadline::after_s(300))?;
    claims.push(claim("the daemon has no controller left", controllers(&mut daemon, SUBSYSTEM)?.is_empty()));
    daemon.stop()?;
    Ok(Findings { claims, ..Findings::default() })
}

/// Adds, grows and removes a namespace when the guest asks for it.
fn change(daemon: &mut Daemon, guest: &mut Guest) -> Result<(), Failure> {
    at(guest, "add")?;
    daemon.call("nvmf_subsystem_add_ns", json!({"nqn": SUBSYSTEM, "namespace": {"nsid": 2, "bdev_name": "second"}}))?;
    guest.tell("added")?;
    at(guest, "grow")?;
    daemon.call("bdev_null_resize", json!({"name": "second", "new_size": 64}))?;
    guest.tell("grown")?;
    at(guest, "remove")?;
    daemon.call("nvmf_subsystem_remove_ns", json!({"nqn": SUBSYSTEM, "nsid": 2}))?;
    guest.tell("removed")?;
    Ok(())
}

/// Makes one path inaccessible, then good again, then takes the other's listener away, and puts it back.
fn flip(daemon: &mut Daemon, guest: &mut Guest, [one, other]: [u16; 2]) -> Result<(), Failure> {
    at(guest, "flip")?;
    ana(daemon, one, "inaccessible")?;
    guest.tell("flipped")?;
    at(guest, "cut")?;
    ana(daemon, one, "optimized")?;
    daemon.call("nvmf_subsystem_remove_listener", json!({"nqn": SUBSYSTEM, "listen_address": address(other)}))?;
    guest.tell("cut")?;
    at(guest, "mend")?;
    listen(daemon, SUBSYSTEM, other)?;
    guest.tell("mended")?;
    Ok(())
}

fn ana(daemon: &mut Daemon, port: u16, state: &str) -> Result<(), Failure> {
    let params = json!({"nqn": SUBSYSTEM, "listen_address": address(port), "ana_state": state});
    daemon.call("nvmf_subsystem_listener_set_ana_state", params)?;
    Ok(())
}
