//! Hosts and a target that prove to each other who they are (DH-HMAC-CHAP), or fail to. It knows no arithmetic.

use crate::fabric::{NVME_HOST, SUBSYSTEM, add_key, at, boot_host, controllers, free_ports, listen, subsystem};
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Claim, Guest};
use std::fs;
use std::time::Duration;

const PROOFS: &str = include_str!("../guest/proofs.sh");

/// Secrets of every kind: as they are, and those that hosts transform before they use them.
const PLAIN: &str = "DHHC-1:00:48WWbUfVNtlEQJ5v77ypUJktmRs7sc28ocG7vAd7tHW7s1Qb:";
const SHA256: &str = "DHHC-1:01:3f0b17wWofXr9cSLzr0B6xOdNmhXIE+okKzbQgwX/4ShatZK:";
const SHA384: &str = "DHHC-1:02:CY0lWQYoHozAe58bthpFPRC6BG9VBvXEmdGmpO0TNTMgvMrkfKlSHKn815Kyj+0bDIimDQ==:";
const SHA512: &str = "DHHC-1:03:39yZ01t5nxGxVgkU2G59i13VDf1fdtPKPiqi+j6RMl0PWouc/ELQd6TCj09LWCFKbzj+KfUfVOut3OUq9a0hmBfRSHo=:";

/// The ways of proving that the target allows, one after the other. Larger groups take an emulated guest long.
const WAYS: [(&str, &str); 3] = [("sha256", "null"), ("sha384", "ffdhe2048"), ("sha512", "ffdhe3072")];

/// What the daemon's log must say of each host that is refused: its last two digits, and why.
const REFUSED: [(&str, &str, &str); 6] = [
    ("wrong key", "02", "refused here: the secrets do not fit"),
    ("missing key", "02", "has gone, and has not proved"),
    ("wrong controller key", "03", "refused by the other side: the secrets do not fit"),
    ("a proof the target does not have", "02", "refused "),
    ("an unknown host", "09", "may not connect"),
    ("a key that was good before", "02", "refused here: the secrets do not fit"),
];

/// What the daemon has to say may come a little after the guest's word.
const LOG_TIME: Duration = Duration::from_secs(10);

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut daemon = bench.daemon("proofs")?;
    // For nvme-cli it is the same controller, whichever host asks for it, unless it is elsewhere.
    let [beside, port] = free_ports()?;
    set_up(bench, &mut daemon, [beside, port])?;
    let ways: String = WAYS
        .iter()
        .enumerate()
        .map(|(number, (hash, group))| match number % 2 {
            0 => format!("as_host 02\nproves {hash} {group} {port} --dhchap-secret={SHA256}\nclaim \"$name: disconnect\" leaves\n"),
            _ => format!(
                "as_host 03\nproves {hash} {group} {port} --dhchap-secret={SHA512} --dhchap-ctrl-secret={SHA384}\nmutual\n\
                claim \"$name: disconnect\" leaves\n"
            ),
        })
        .collect();
    let script = format!(
        "{DISK}\n{NVME_HOST}\n{PROOFS}\nbegins {beside}\n{ways}\
        as_host 02\n\
        refused 'wrong key' {port} --dhchap-secret={PLAIN}\n\
        refused 'missing key' {port}\n\
        refused 'a proof the target does not have' {port} --dhchap-secret={SHA256} --dhchap-ctrl-secret={SHA384}\n\
        as_host 03\n\
        refused 'wrong controller key' {port} --dhchap-secret={SHA512} --dhchap-ctrl-secret={SHA256}\n\
        as_host 09\n\
        refused 'an unknown host' {port} --dhchap-secret={SHA256}\n\
        as_host 02\nreach 'other keys'\n\
        refused 'a key that was good before' {port} --dhchap-secret={SHA256}\n\
        claim 'with the key that it has now: connect' connects {port} --dhchap-secret={PLAIN}\n\
        claim 'with the key that it has now: disconnect' leaves\n\
        ends\nconclude\n"
    );
    let mut guest = boot_host(bench, "proofs", script)?;
    let mut claims = Vec::new();
    for (hash, group) in WAYS {
        at(&mut guest, &format!("{hash} {group}"))?;
        daemon.call("nvmf_set_config", json!({"dhchap_digests": [hash], "dhchap_dhgroups": [group]}))?;
        guest.tell("allowed")?;
    }
    let mut read = 0;
    for name in ["wrong key", "missing key", "a proof the target does not have", "wrong controller key", "an unknown host"] {
        claims.push(said_why(&daemon, &mut guest, &mut read, name)?);
    }
    at(&mut guest, "other keys")?;
    daemon.call("nvmf_subsystem_set_keys", json!({"nqn": SUBSYSTEM, "host": host("02"), "dhchap_key": "plain"}))?;
    guest.tell("set")?;
    claims.push(said_why(&daemon, &mut guest, &mut read, "a key that was good before")?);
    at(&mut guest, "end")?;
    let left: Vec<Value> = controllers(&mut daemon, SUBSYSTEM)?.iter().map(|of| of["hostnqn"].clone()).collect();
    claims.push(claim("the daemon has the controller of the host that needs no proof, and no other", left == [json!(host("01"))]));
    guest.tell("seen")?;
    claims.extend(guest.finish(Deadline::after_s(60))?);
    daemon.stop()?;
    Ok(Findings { claims, ..Findings::default() })
}

/// A disk for the host that need not prove anything, and one for those that must.
fn set_up(bench: &Bench, daemon: &mut Daemon, ports: [u16; 2]) -> Result<(), Failure> {
    subsystem(daemon, SUBSYSTEM, false)?;
    for (name, secret) in [("plain", PLAIN), ("sha256", SHA256), ("sha384", SHA384), ("sha512", SHA512)] {
        add_key(bench, daemon, name, secret)?;
    }
    let hosts = [
        json!({"nqn": SUBSYSTEM, "host": host("01")}),
        json!({"nqn": SUBSYSTEM, "host": host("02"), "dhchap_key": "sha256"}),
        json!({"nqn": SUBSYSTEM, "host": host("03"), "dhchap_key": "sha512", "dhchap_ctrlr_key": "sha384"}),
    ];
    for params in hosts {
        daemon.call("nvmf_subsystem_add_host", params)?;
    }
    for (nsid, seen_by) in [(1, &["01"][..]), (2, &["02", "03"][..])] {
        let name = format!("disk{nsid}");
        daemon.call("bdev_malloc_create", json!({"name": name, "num_blocks": 16 << 11, "block_size": 512}))?;
        let namespace = json!({"nsid": nsid, "bdev_name": name, "no_auto_visible": true});
        daemon.call("nvmf_subsystem_add_ns", json!({"nqn": SUBSYSTEM, "namespace": namespace}))?;
        for digits in seen_by {
            daemon.call("nvmf_ns_add_host", json!({"nqn": SUBSYSTEM, "nsid": nsid, "host": host(digits)}))?;
        }
    }
    ports.into_iter().try_for_each(|port| listen(daemon, SUBSYSTEM, port))
}

/// The name of a host of the guest's, by its last two digits.
fn host(digits: &str) -> String {
    format!("nqn.2014-08.org.nvmexpress:uuid:5e1f0c3a-9a52-4d0b-8c1e-0d2f7a5b6c{digits}")
}

/// Waits until the guest was refused, and looks for why in what the daemon has logged since `read` bytes.
fn said_why(daemon: &Daemon, guest: &mut Guest, read: &mut usize, name: &str) -> Result<Claim, Failure> {
    at(guest, &format!("refused: {name}"))?;
    let (_, digits, why) = REFUSED.iter().find(|(of, ..)| *of == name).ok_or("no such refusal")?;
    let of = host(digits);
    let deadline = Deadline::after(LOG_TIME);
    loop {
        let log = fs::read_to_string(daemon.log())?;
        let told = log[*read..].lines().any(|line| line.contains(&of) && line.contains(why));
        if told || deadline.left().is_none() {
            *read = log.len();
            guest.tell("seen")?;
            return Ok(claim(&format!("{name}: the daemon's log says so"), told));
        }
        // The guest says nothing meanwhile.
        guest.heard("\0", Deadline::after(Duration::from_millis(50)))?;
    }
}
