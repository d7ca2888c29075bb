//! NVMe over Fabrics as administrators see it: subsystems made, shown, saved, refused and taken down. Knows no host.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Daemon;
use crate::saving::saved;

const NQN: &str = "nqn.2026-11.io.spinel:test";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90";
const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";

/// A port that nobody listens at.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it has an address").port().to_string()
}

fn at(port: &str) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port})
}

/// A key of the keyring, with its file.
fn add_key(daemon: &Daemon, name: &str) {
    let path = daemon.folder().join(name);
    std::fs::write(&path, SECRET).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    daemon.done("keyring_file_add_key", json!({"name": name, "path": path}));
}

/// A subsystem with everything that one can have.
fn furnish(daemon: &Daemon, ports: [&str; 2]) {
    daemon.done("nvmf_set_config", json!({"dhchap_digests": ["sha512", "sha256"], "dhchap_dhgroups": ["ffdhe2048"]}));
    daemon.done("nvmf_create_transport", json!({"trtype": "TCP", "max_io_size": 262_144, "io_unit_size": 131_072, "zcopy": false}));
    daemon.done("bdev_null_create", json!({"name": "n0", "block_size": 512, "num_blocks": 2048}));
    daemon.done("bdev_malloc_create", json!({"name": "m0", "block_size": 4096, "num_blocks": 256}));
    add_key(daemon, "host-key");
    add_key(daemon, "subsystem-key");
    daemon.done("nvmf_create_subsystem", json!({"nqn": NQN, "serial_number": "S1", "model_number": "M1", "ana_reporting": true}));
    let host = json!({"nqn": NQN, "host": HOST, "dhchap_key": "host-key", "dhchap_ctrlr_key": "subsystem-key"});
    daemon.done("nvmf_subsystem_add_host", host);
    let reservations = daemon.folder().join("reservations");
    let namespace = json!({"bdev_name": "n0", "nsid": 3, "ptpl_file": reservations, "eui64": "0011223344556677", "anagrpid": 7});
    assert_eq!(daemon.done("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace})), 3);
    let hidden = json!({"bdev_name": "m0", "no_auto_visible": true, "uuid": "1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90"});
    assert_eq!(daemon.done("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": hidden})), 1);
    daemon.done("nvmf_ns_add_host", json!({"nqn": NQN, "nsid": 1, "host": HOST}));
    let [one, other] = ports;
    daemon.done("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": at(one)}));
    let elsewhere = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "192.0.2.7", "trsvcid": "4420"});
    let listener = json!({"nqn": NQN, "listen_address": at(other), "advertised_address": elsewhere, "ana_state": "non_optimized"});
    daemon.done("nvmf_subsystem_add_listener", listener);
    let state = json!({"nqn": NQN, "listen_address": at(one), "ana_state": "inaccessible", "anagrpid": 7});
    daemon.done("nvmf_subsystem_listener_set_ana_state", state);
    let referral = json!({"trtype": "tcp", "traddr": "192.0.2.9"});
    daemon.done("nvmf_discovery_add_referral", json!({"address": referral}));
}

#[test]
fn a_subsystem_is_made_shown_and_taken_down() {
    let daemon = Daemon::start();
    let (one, other) = (free_port(), free_port());
    furnish(&daemon, [&one, &other]);
    let shown = daemon.done("nvmf_get_subsystems", json!({"nqn": NQN}));
    let shown = &shown[0];
    assert_eq!((&shown["subtype"], &shown["serial_number"], &shown["allow_any_host"]), (&json!("NVMe"), &json!("S1"), &json!(false)));
    assert_eq!(shown["hosts"], json!([{"nqn": HOST, "dhchap_key": "host-key", "dhchap_ctrlr_key": "subsystem-key"}]));
    assert_eq!((&shown["namespaces"][0]["nsid"], &shown["namespaces"][1]["nsid"]), (&json!(1), &json!(3)));
    assert_eq!((&shown["namespaces"][1]["eui64"], &shown["namespaces"][1]["anagrpid"]), (&json!("0011223344556677"), &json!(7)));
    assert!(!shown.to_string().contains("DHHC"), "no secret is shown");
    let listeners = daemon.done("nvmf_subsystem_get_listeners", json!({"nqn": NQN}));
    assert_eq!(
        (&listeners[0]["ana_states"][6]["ana_state"], &listeners[0]["ana_states"][5]["ana_state"]),
        (&json!("inaccessible"), &json!("optimized"))
    );
    assert_eq!(listeners[1]["advertised_address"]["traddr"], "192.0.2.7");
    assert_eq!(daemon.done("nvmf_discovery_get_referrals", Value::Null)[0]["address"]["trsvcid"], "8009");
    assert_eq!(daemon.done("nvmf_get_transports", Value::Null)[0]["max_io_size"], 262_144);
    assert_eq!(daemon.done("nvmf_subsystem_get_controllers", json!({"nqn": NQN})), json!([]));
    assert_eq!(daemon.done("nvmf_get_stats", Value::Null)["poll_groups"][0]["current_io_qpairs"], 0);
    let used = daemon.refused(-16, "bdev_null_delete", json!({"name": "n0"}));
    assert!(used.contains("namespace 3") && used.contains(NQN), "{used}");

    daemon.done("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 3}));
    daemon.done("bdev_null_delete", json!({"name": "n0"}));
    daemon.done("nvmf_subsystem_remove_listener", json!({"nqn": NQN, "listen_address": at(&one)}));
    TcpListener::bind(("127.0.0.1", one.parse().unwrap())).expect("nobody listens there any more");
    daemon.done("nvmf_delete_subsystem", json!({"nqn": NQN}));
    TcpListener::bind(("127.0.0.1", other.parse().unwrap())).expect("nor there");
    daemon.done("bdev_malloc_delete", json!({"name": "m0"}));
    assert_eq!(daemon.done("nvmf_get_subsystems", Value::Null).as_array().unwrap().len(), 1, "discovery stays");
}

#[test]
fn what_was_saved_and_loaded_is_what_was_exported() {
    let daemon = Daemon::start();
    furnish(&daemon, [&free_port(), &free_port()]);
    let config = saved(&daemon);
    let before = daemon.done("nvmf_get_subsystems", Value::Null);
    assert!(!config.to_string().contains("DHHC"), "no secret is saved");
    let folder = daemon.stop().folder;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let daemon = Daemon::start_with(folder, ["-c", "config.json"]);
    assert_eq!(daemon.done("nvmf_get_subsystems", Value::Null), before);
    assert_eq!(saved(&daemon), config);
}

#[test]
fn a_refusal_names_what_is_wrong_and_changes_nothing() {
    let daemon = Daemon::start();
    let (one, other) = (free_port(), free_port());
    furnish(&daemon, [&one, &other]);
    let before = saved(&daemon);
    let open = daemon.folder().join("open");
    std::fs::write(&open, SECRET).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let namespace = |params: Value| json!({"nqn": NQN, "namespace": params});
    let cases: &[(i32, &str, Value, &[&str])] = &[
        (-17, "nvmf_create_transport", json!({"trtype": "TCP"}), &["already"]),
        (-32602, "nvmf_create_transport", json!({"trtype": "RDMA"}), &["trtype", "RDMA", "TCP"]),
        (-32602, "nvmf_create_transport", json!({"trtype": "TCP", "max_io_size": 100_000}), &["100000"]),
        (-32602, "nvmf_create_transport", json!({"trtype": "TCP", "zcopy": true}), &["zcopy"]),
        (-17, "nvmf_create_subsystem", json!({"nqn": NQN}), &[NQN]),
        (-32602, "nvmf_create_subsystem", json!({"nqn": "disk"}), &["nqn", "disk", "YYYY"]),
        (-32602, "nvmf_create_subsystem", json!({"nqn": "nqn.2026-11.io.spinel:x", "serial_number": "x".repeat(21)}), &["20"]),
        (-32602, "nvmf_create_subsystem", json!({"nqn": "nqn.2026-11.io.spinel:x", "max_namespaces": 5000}), &["5000", "1024"]),
        (-32602, "nvmf_create_subsystem", json!({"nqn": NQN, "tgt_name": "other"}), &["tgt_name", "other"]),
        (-19, "nvmf_delete_subsystem", json!({"nqn": "nqn.2026-11.io.spinel:x"}), &["nqn.2026-11.io.spinel:x"]),
        (-19, "nvmf_get_subsystems", json!({"nqn": "nqn.2026-11.io.spinel:x"}), &["nqn.2026-11.io.spinel:x"]),
        (-19, "nvmf_subsystem_add_ns", namespace(json!({"bdev_name": "none"})), &["none"]),
        (-32602, "nvmf_subsystem_add_ns", namespace(json!({"bdev_name": "m0", "nsid": 3})), &["3"]),
        (-32602, "nvmf_subsystem_add_ns", namespace(json!({"bdev_name": "m0", "nguid": "12"})), &["nguid", "32"]),
        (-32602, "nvmf_subsystem_add_ns", namespace(json!({"bdev_name": "m0", "ptpl": "x"})), &["ptpl"]),
        (-19, "nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 9}), &["9"]),
        (-17, "nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": at(&one)}), &[&one]),
        (-98, "nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": at(&taken)}), &[&taken]),
        (-32602, "nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": at("http")}), &["http"]),
        (-32602, "nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": {"trtype": "TCP", "traddr": "x"}}), &["'x'"]),
        (-19, "nvmf_subsystem_remove_listener", json!({"nqn": NQN, "listen_address": at("1")}), &["127.0.0.1:1"]),
        (-17, "nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST}), &[HOST]),
        (-19, "nvmf_subsystem_add_host", json!({"nqn": NQN, "host": "nqn.2026-11.io.spinel:h", "dhchap_key": "none"}), &["none"]),
        (-32602, "nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST, "dhchap_ctrlr_key": "host-key"}), &["dhchap_key"]),
        (-32602, "nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST, "psk": "x"}), &["psk", "TLS"]),
        (-19, "nvmf_subsystem_remove_host", json!({"nqn": NQN, "host": "nqn.2026-11.io.spinel:h"}), &["nqn.2026-11.io.spinel:h"]),
        (-19, "nvmf_discovery_remove_referral", json!({"address": at("1")}), &["127.0.0.1:1"]),
        (-17, "keyring_file_add_key", json!({"name": "host-key", "path": daemon.folder().join("host-key")}), &["host-key"]),
        (-32602, "keyring_file_add_key", json!({"name": "open", "path": open}), &["path", "0600"]),
        (-32602, "keyring_file_add_key", json!({"name": "near", "path": "host-key"}), &["path", "absolute"]),
        (-2, "keyring_file_add_key", json!({"name": "none", "path": "/nowhere/key"}), &["/nowhere/key"]),
        (-19, "keyring_file_remove_key", json!({"name": "none"}), &["none"]),
        (-32602, "nvmf_set_config", json!({"dhchap_digests": ["md5"]}), &["dhchap_digests", "md5", "sha512"]),
        (-32602, "nvmf_set_config", json!({"poll_groups_mask": "0x0"}), &["poll_groups_mask"]),
        (-16, "bdev_null_delete", json!({"name": "n0"}), &["namespace 3"]),
    ];
    for (code, method, params, parts) in cases {
        let message = daemon.refused(*code, method, params.clone());
        for part in *parts {
            assert!(message.contains(part), "{method} {params}: '{message}' does not name '{part}'");
        }
        assert_eq!(saved(&daemon), before, "{method} {params}");
    }
}

#[test]
fn a_key_that_others_may_read_later_is_not_used() {
    let daemon = Daemon::start();
    add_key(&daemon, "key");
    std::fs::set_permissions(daemon.folder().join("key"), std::fs::Permissions::from_mode(0o604)).unwrap();
    daemon.done("nvmf_create_subsystem", json!({"nqn": NQN}));
    daemon.refused(-32602, "nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST, "dhchap_key": "key"}));
    assert_eq!(daemon.done("nvmf_get_subsystems", json!({"nqn": NQN}))[0]["hosts"], json!([]));
}

#[test]
fn whoever_says_nothing_sensible_is_disconnected() {
    let daemon = Daemon::start();
    let (one, other) = (free_port(), free_port());
    furnish(&daemon, [&one, &other]);
    for said in [&[0xff; 8][..], b"GET / HTTP/1.1\r\n\r\n", &[0; 200]] {
        let mut socket = TcpStream::connect(("127.0.0.1", one.parse().unwrap())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.write_all(said).unwrap();
        // It may be told why; then the connection ends, in one way or another.
        let mut told = Vec::new();
        let _ = socket.read_to_end(&mut told);
        assert!(told.is_empty() || told[0] == 3, "a request to terminate: {told:?}");
    }
    daemon.lives();
    // Connections that were opened and left go with the daemon.
    let _open = TcpStream::connect(("127.0.0.1", other.parse().unwrap())).unwrap();
    assert!(daemon.stop().status.success());
}

#[test]
fn a_daemon_with_subsystems_is_not_taken_over() {
    let daemon = Daemon::start();
    daemon.done("nvmf_create_subsystem", json!({"nqn": NQN}));
    let mut successor = daemon.launch_successor([""; 0]);
    successor.wait_for_log(NQN);
    daemon.lives();
}
