//! A fake daemon that answers from a table and remembers what it was asked, and the program run
//! against it.

use serde_json::{Value, json};
use spinel_control::{RpcError, Service, server, socket};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

/// Two disks and a controller, as the daemon would tell of them.
struct Daemon {
    calls: Sender<(String, Value)>,
    /// How often counters were looked at; they grow with every look.
    looks: AtomicU64,
    /// Set once `framework_start_init` has been called.
    initialised: OnceLock<()>,
}

impl Service for Daemon {
    fn call(&self, method: &str, params: Option<&Value>) -> Result<Value, RpcError> {
        let params = params.cloned().unwrap_or(Value::Null);
        self.calls.send((method.to_owned(), params.clone())).expect("the test listens");
        match method {
            "bdev_get_bdevs" => bdevs(&params),
            "bdev_get_iostat" => Ok(iostat(self.looks.fetch_add(1, Ordering::SeqCst), &params)),
            "bdev_get_histogram" if params["name"] == "d0" => {
                Ok(spinel_control::histogram::to_spdk([(20_000, 20_000, 100 * self.looks.load(Ordering::SeqCst))], 1_000_000_000))
            }
            "framework_get_reactors" => Ok(reactors(self.looks.load(Ordering::SeqCst))),
            "vhost_get_controllers" => Ok(json!([{
                "ctrlr": "vm0", "cpumask": "0x3", "socket": "/run/spinel/vm0", "sessions": [{}],
                "backend_specific": {"block": {"bdev": "d0", "readonly": true, "transport": "vhost_user_blk"}},
            }])),
            // As a daemon that has been asked for the same before.
            "nvmf_create_transport" => Err(RpcError::errno(-17, "the transport is there already")),
            "nvmf_get_subsystems" => Ok(json!([
                {"nqn": "nqn.2014-08.org.nvmexpress.discovery", "subtype": "Discovery", "hosts": [], "listen_addresses": []},
                {
                    "nqn": "nqn.2026-11.io.spinel:disks", "subtype": "NVMe", "allow_any_host": false, "hosts": [{"nqn": "a"}, {"nqn": "b"}],
                    "listen_addresses": [
                        {"trtype": "TCP", "adrfam": "IPv4", "traddr": "192.0.2.7", "trsvcid": "4420"},
                        {"trtype": "TCP", "adrfam": "IPv6", "traddr": "fd00::7", "trsvcid": "4420"},
                    ],
                    "namespaces": [{"nsid": 1, "bdev_name": "d0"}, {"nsid": 3, "bdev_name": "d1"}],
                },
            ])),
            "spdk_get_version" => Ok(json!({"version": "Spinel v9.8.7"})),
            "log_get_level" => Ok(json!("NOTICE")),
            "rpc_get_methods" => Ok(self.methods(params["current"] == true)),
            "framework_start_init" => {
                self.initialised.set(()).map_err(|()| RpcError::wrong_state("already"))?;
                Ok(json!(true))
            }
            "framework_get_subsystems" => Ok(json!([
                {"subsystem": "bdev", "depends_on": []}, {"subsystem": "nothing", "depends_on": []},
            ])),
            "framework_get_config" if params["name"] == "bdev" => Ok(json!([{"method": "bdev_null_create", "params": {"name": "n0"}}])),
            "framework_get_config" => Ok(Value::Null),
            "bdev_null_create" if params["name"] == "taken" => Err(RpcError::errno(-17, "bdev 'taken' exists already")),
            "bdev_null_create" | "bdev_uring_create" | "bdev_malloc_create" => Ok(params["name"].clone()),
            "bdev_error_create" => Ok(json!("EE_d0")),
            "no_such_method" => Err(RpcError::method_not_found(method)),
            _ => Ok(json!(true)),
        }
    }
}

impl Daemon {
    fn methods(&self, current: bool) -> Value {
        match (current, self.initialised.get()) {
            (false, _) => json!(["bdev_null_create", "bdev_set_options", "framework_start_init", "rpc_get_methods"]),
            (true, None) => json!(["bdev_set_options", "framework_start_init", "rpc_get_methods"]),
            (true, Some(())) => json!(["bdev_null_create", "rpc_get_methods"]),
        }
    }
}

fn bdevs(params: &Value) -> Result<Value, RpcError> {
    let all = json!([
        {
            "name": "d0", "aliases": ["6d1f4c2a-0000-4000-8000-000000000001", "lvs/d0"], "product_name": "URING bdev",
            "block_size": 4096, "num_blocks": 2_621_440, "uuid": "6d1f4c2a-0000-4000-8000-000000000001", "claimed": true,
            "assigned_rate_limits": {"rw_ios_per_sec": 5000, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 100, "rw_ios_burst_ms": 10},
            "supported_io_types": {"read": true, "write": true, "zcopy": false},
            "driver_specific": {"uring": {"filename": "/srv/d0.img", "direct": true}},
        },
        {"name": "odd\u{1b}[2J", "product_name": "Raid Volume", "block_size": 512, "num_blocks": 3, "driver_specific": {}},
        {"name": "n0", "product_name": "Null disk", "block_size": 512, "num_blocks": 2048},
    ]);
    let Some(name) = params["name"].as_str() else {
        return Ok(all);
    };
    let found = all.as_array().into_iter().flatten().find(|bdev| bdev["name"] == name);
    let found = found.ok_or_else(|| RpcError::errno(-19, format!("there is no bdev '{name}'")))?;
    Ok(json!([found]))
}

fn iostat(look: u64, params: &Value) -> Value {
    let percentiles = json!({
        "p50": 20_000, "p90": 30_000, "p99": 45_600, "p999": 1_200_000, "p9999": 1_300_000, "max": 1_400_000,
        "mean": 21_000, "count": 1000,
    });
    let none = json!({"p50": 0, "p90": 0, "p99": 0, "p999": 0, "p9999": 0, "max": 0, "count": 0});
    let d0 = json!({
        "name": "d0", "in_flight": 4, "io_error": {"failed": 2},
        "bytes_read": (1 + look) * 4_096_000, "num_read_ops": 1000 * (1 + look), "read_latency_ticks": 21_000_000 * (1 + look),
        "bytes_written": 0, "num_write_ops": 0, "write_latency_ticks": 0,
        "num_flush_ops": 7, "percentiles": {"read": percentiles, "write": none, "flush": percentiles},
    });
    // As SPDK would tell it: no more than it must.
    let n0 =
        json!({"name": "n0", "bytes_read": 0, "num_read_ops": 0, "bytes_written": 512, "num_write_ops": 1, "write_latency_ticks": 3000});
    let all = [d0, n0].into_iter().filter(|disk| params["names"].as_array().is_none_or(|names| names.contains(&disk["name"])));
    json!({"tick_rate": 1_000_000_000, "ticks": look * 500_000_000, "bdevs": all.collect::<Vec<_>>()})
}

fn reactors(look: u64) -> Value {
    json!({"tick_rate": 1000, "pid": 1, "reactors": [
        {"lcore": 0, "tid": 77, "busy": 50 * look, "idle": 450 * look, "spin": 150 * look, "sleep": 300 * look, "loops": 12_345},
        {"lcore": 5, "busy": 1000, "idle": 0},
    ]})
}

/// The running fake.
pub(crate) struct Fake {
    pub(crate) path: PathBuf,
    calls: Receiver<(String, Value)>,
    _handle: server::Handle,
    pub(crate) folder: tempfile::TempDir,
}

/// A daemon that has been initialised.
pub(crate) fn fake() -> Fake {
    start(OnceLock::from(()))
}

/// One that waits for `framework_start_init`.
pub(crate) fn fake_at_startup() -> Fake {
    start(OnceLock::new())
}

fn start(initialised: OnceLock<()>) -> Fake {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let (sender, calls) = channel();
    let daemon = Daemon { calls: sender, looks: AtomicU64::new(0), initialised };
    let handle = server::start(socket::bind(&path).expect("a socket"), Arc::new(daemon)).expect("a server");
    Fake { path, calls, _handle: handle, folder }
}

impl Fake {
    /// The program with these arguments, calling at this daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = spinelctl();
        command.arg("-s").arg(&self.path).args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).stdin(Stdio::null()).output().expect("it runs"))
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child =
            self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        // One that does not read its input may have ended by now.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        Ran::from(child.wait_with_output().expect("it ends"))
    }

    /// What was called since this was last asked.
    pub(crate) fn calls(&self) -> Vec<(String, Value)> {
        self.calls.try_iter().collect()
    }

    /// Runs the program, which must succeed with one call, and returns that call.
    pub(crate) fn only_call(&self, arguments: &[&str]) -> (String, Value) {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        let calls = self.calls();
        let changes = calls.iter().filter(|(method, _)| !method.contains("_get_"));
        let [call] = changes.collect::<Vec<_>>()[..] else {
            panic!("{arguments:?} made {calls:?}");
        };
        call.clone()
    }
}

pub(crate) fn spinelctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_spinelctl"))
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}
