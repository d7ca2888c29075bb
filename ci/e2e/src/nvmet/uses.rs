//! Linux' target in use: verified load with and without digests, namespaces that come, grow and go, and hosts that prove who they are.

use super::{GENTLY, LOOK, PATIENCE, PORTS, SUBSYSTEM, Target, two_cores};
use crate::fabric::{add_key, attachment};
use crate::spinelbench::{Spinelbench, figures, path, vhost};
use crate::{Bench, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::clock::Deadline;
use std::fs;

const CASE: &str = "nvmet";

/// The subsystem whose hosts have to prove who they are, and the one that does.
const PROVED: &str = "nqn.2026-11.example.linux:proved";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:5e1f0c3a-9a52-4d0b-8c1e-0d2f7a5b6c20";
/// The host's secret, the target's, and one that is neither.
const SECRETS: [(&str, &str); 3] = [
    ("host", "DHHC-1:01:3f0b17wWofXr9cSLzr0B6xOdNmhXIE+okKzbQgwX/4ShatZK:"),
    ("controller", "DHHC-1:03:39yZ01t5nxGxVgkU2G59i13VDf1fdtPKPiqi+j6RMl0PWouc/ELQd6TCj09LWCFKbzj+KfUfVOut3OUq9a0hmBfRSHo=:"),
    ("other", "DHHC-1:01:EmUayvqhpAjW5+SFaUg0vncOMeWq+8MLEJtRimdBlUZEHM9S:"),
];
/// What the target wants to be used, one after the other. Larger groups take an emulated guest long.
const WAYS: [(&str, &str); 3] = [("sha256", "null"), ("sha384", "ffdhe2048"), ("sha512", "ffdhe3072")];

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let cores = two_cores()?;
    let mut target = Target::begin(bench, CASE, &["--cores", &cores])?;
    let mut findings = Findings::default();
    for (name, digests) in [("without digests", ""), ("with digests", "&hdgst=1&ddgst=1")] {
        let url = format!("nvme-tcp://127.0.0.1:{}/{SUBSYSTEM}?nsid=1{digests}", target.ports[0]);
        verified(&target, name, &url, &["--jobs", "2", "--cores", &cores], &mut findings)?;
    }
    target.attach(0)?;
    let shown = target.daemon.call("bdev_get_bdevs", json!({"name": "farn1"}))?;
    findings.claims.push(claim("the daemon has the disk", shown[0]["product_name"] == "NVMe disk"));
    let socket = target.daemon.serve("farn1", false)?;
    verified(&target, "through the daemon", &vhost(&socket), &["--jobs", "2"], &mut findings)?;
    namespaces(&mut target, &mut findings)?;
    proofs(bench, &mut target, &mut findings)?;
    findings.claims.extend(target.end()?);
    Ok(findings)
}

/// A load of which everything read is checked, and everything written read back.
fn verified(target: &Target<'_>, name: &str, url: &str, arguments: &[&str], findings: &mut Findings) -> Result<(), Failure> {
    let report = target.bench.logs.join(format!("{CASE}.json"));
    let load = ["-w", "randrw", "-b", "4K-128K", "-d", "8", "--flush-every", "50", "--requests", "200"];
    let checked = ["--area", "16M", "--allow-writes", "--verify", "--json", path(&report)?];
    let all = [&load, arguments, &checked, &GENTLY].concat();
    Spinelbench::start(target.bench, CASE, "run", url, &all)?.ends_with(0)?;
    let run = figures(&report)?;
    let (requests, stamps) = (run["all"]["requests"].as_u64().unwrap_or(0), run["verified"]["stamps"].as_u64().unwrap_or(0));
    findings.figures.push(format!("{name}: {requests} requests, {stamps} sectors checked"));
    findings.claims.push(claim(&format!("{name}: everything verifies"), run["verified"]["wrong"] == 0 && stamps > 1000));
    Ok(())
}

/// The target tells of namespaces that come, grow and go.
fn namespaces(target: &mut Target<'_>, findings: &mut Findings) -> Result<(), Failure> {
    let mut seen = |text: &str, held: bool| findings.claims.push(claim(&format!("namespaces: {text}"), held));
    target.order("truncate -s 32M /tmp/second")?;
    target.order(&format!("holds {SUBSYSTEM} 2 /tmp/second"))?;
    seen("one that was added is there", until_bytes(target, Some(32 << 20))?);
    target.order(&format!("grows {SUBSYSTEM} 2 /tmp/second 64M"))?;
    seen("it has grown", until_bytes(target, Some(64 << 20))?);
    target.order(&format!("drops {SUBSYSTEM} 2"))?;
    seen("it is gone", until_bytes(target, None)?);
    let others = target.daemon.call("bdev_get_bdevs", json!({"name": "farn1"}))?;
    seen("the other one stays", others[0]["num_blocks"] == (64 << 20) / 512);
    let times = fs::read_to_string(target.daemon.log())?.matches("controller 'far' at").count();
    seen("and the controller was connected once, and never reset", times == 1);
    Ok(())
}

/// Waits until the second namespace has so many bytes, or until there is none. The answer says whether that came.
fn until_bytes(target: &mut Target<'_>, wanted: Option<u64>) -> Result<bool, Failure> {
    let deadline = Deadline::after(PATIENCE);
    while deadline.left().is_some() {
        let bdevs = target.daemon.call("bdev_get_bdevs", Value::Null)?;
        let found = bdevs.as_array().into_iter().flatten().find(|bdev| bdev["name"] == "farn2");
        let bytes = found.and_then(|bdev| Some(bdev["num_blocks"].as_u64()? * bdev["block_size"].as_u64()?));
        if bytes == wanted {
            return Ok(true);
        }
        target.guest().heard("\0", Deadline::after(LOOK))?;
    }
    Ok(false)
}

/// The daemon proves who it is to the target, and the target to the daemon.
fn proofs(bench: &Bench, target: &mut Target<'_>, findings: &mut Findings) -> Result<(), Failure> {
    for (name, secret) in SECRETS {
        add_key(bench, &mut target.daemon, name, secret)?;
    }
    let [(_, host), (_, controller), _] = SECRETS;
    target.order(&format!("offers {PROVED} 0"))?;
    target.order("truncate -s 16M /tmp/proved")?;
    target.order(&format!("holds {PROVED} 1 /tmp/proved"))?;
    target.order(&format!("knows {PROVED} {HOST} {host} {controller}"))?;
    target.order(&format!("links {PROVED} {}", PORTS[0]))?;
    let with = |target: &Target<'_>, host: Option<&str>, controller: Option<&str>| {
        let mut params = attachment("proved", PROVED, target.ports[0]);
        params["hostnqn"] = HOST.into();
        for (name, key) in [("dhchap_key", host), ("dhchap_ctrlr_key", controller)] {
            if let Some(key) = key {
                params[name] = key.into();
            }
        }
        params
    };
    for (hash, group) in WAYS {
        target.order(&format!("wants {HOST} {hash} {group}"))?;
        for (text, controller) in [("one way", None), ("both ways", Some("controller"))] {
            let params = with(target, Some("host"), controller);
            let attached = target.daemon.call("bdev_nvme_attach_controller", params);
            let there = attached.as_ref().is_ok_and(|bdevs| *bdevs == json!(["provedn1"]));
            findings.claims.push(claim(&format!("proofs: {hash}, {group}, {text}: attached"), there));
            if there {
                target.daemon.call("bdev_nvme_detach_controller", json!({"name": "proved"}))?;
            }
        }
    }
    for (text, host, controller, why) in [
        ("another secret", Some("other"), None, "refused by the other side: the secrets do not fit"),
        ("no secret", None, None, "it wants this host to prove who it is"),
        ("a target that does not know its secret", Some("host"), Some("other"), "refused here: the secrets do not fit"),
    ] {
        let params = with(target, host, controller);
        let refused = target.daemon.call("bdev_nvme_attach_controller", params).err().map(|error| with_causes(&error));
        let said = refused.is_some_and(|refused| refused.contains(why));
        findings.claims.push(claim(&format!("proofs: {text}: refused, and said why"), said));
    }
    let others = target.connected("far")?;
    findings.claims.push(claim("proofs: the other controller is connected all the while", others == 1));
    Ok(())
}

/// An error in its own words and those of its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}
