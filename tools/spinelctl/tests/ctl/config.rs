//! Configurations saved and loaded.

use crate::fake::{fake, fake_at_startup};
use serde_json::{Value, json};

const SAVED: &str = r#"{"subsystems": [
    {"subsystem": "bdev", "config": [
        {"method": "bdev_set_options", "params": {"bdev_auto_examine": true}},
        {"method": "bdev_null_create", "params": {"name": "n0"}}
    ]},
    {"subsystem": "nothing", "config": null},
    {"subsystem": "more", "config": [{"method": "bdev_null_create", "params": {"name": "n1"}}]}
]}"#;

#[test]
fn what_runs_is_saved_in_spdks_form() {
    let fake = fake();
    let expected = json!({"subsystems": [
        {"subsystem": "bdev", "config": [{"method": "bdev_null_create", "params": {"name": "n0"}}]},
        {"subsystem": "nothing", "config": null},
    ]});
    let ran = fake.run(&["save-config"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).expect("JSON"), expected);

    let path = fake.folder.path().join("saved.json");
    std::fs::write(&path, "an older one").expect("written");
    let ran = fake.run(&["save-config", path.to_str().expect("UTF-8")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let saved = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(serde_json::from_str::<Value>(&saved).expect("JSON"), expected);
    let others = std::fs::read_dir(fake.folder.path()).expect("a folder").count();
    assert_eq!(others, 2, "only the socket and the file are left");
}

#[test]
fn a_file_that_cannot_be_written_is_a_local_failure() {
    let ran = fake().run(&["save-config", "/no/such/folder/saved.json"]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("/no/such/folder/saved.json"), "{ran:?}");
}

#[test]
fn before_initialisation_options_come_first_and_then_the_rest() {
    let fake = fake_at_startup();
    let ran = fake.run_with_input(&["load-config", "-"], SAVED);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "3 calls made\n", ""));
    let methods: Vec<_> = fake.calls().into_iter().filter(|(method, _)| method != "rpc_get_methods").collect();
    let expected = [
        ("bdev_set_options", json!({"bdev_auto_examine": true})),
        ("framework_start_init", Value::Null),
        ("bdev_null_create", json!({"name": "n0"})),
        ("bdev_null_create", json!({"name": "n1"})),
    ];
    assert_eq!(methods, expected.map(|(method, params)| (method.to_owned(), params)));
}

#[test]
fn after_initialisation_options_are_left_out_and_named() {
    let fake = fake();
    let ran = fake.run_with_input(&["load-config", "-"], SAVED);
    assert_eq!((ran.code, ran.out.as_str()), (0, "2 calls made\n"));
    assert!(ran.err.contains("bdev_set_options"), "{ran:?}");
    assert!(fake.calls().iter().all(|(method, _)| method != "bdev_set_options"));
}

#[test]
fn a_method_the_daemon_has_not_is_found_before_anything_changes() {
    let fake = fake();
    let config = SAVED.replace("\"nothing\", \"config\": null", "\"x\", \"config\": [{\"method\": \"bdev_ftl_create\"}]");
    let ran = fake.run_with_input(&["load-config", "-"], &config);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("'bdev_ftl_create'") && ran.err.contains("nothing was changed"), "{ran:?}");
    assert!(fake.calls().iter().all(|(method, _)| method == "rpc_get_methods"));
}

#[test]
fn a_refused_call_says_which_and_how_many_were_made() {
    let fake = fake();
    let ran = fake.run_with_input(&["load-config", "-"], &SAVED.replace("n1", "taken"));
    assert_eq!(ran.code, 1);
    for part in ["bdev_null_create for 'taken'", "exists already", "of 3 calls 1 had been made"] {
        assert!(ran.err.contains(part), "no {part:?} in {ran:?}");
    }
}

#[test]
fn what_is_no_configuration_is_refused_without_a_call() {
    let fake = fake();
    for text in [
        "",
        "[]",
        "{\"subsystems\": 5}",
        "{\"subsystems\": [{\"config\": []}]}",
        "{\"subsystems\": [{\"subsystem\": \"a\", \"config\": [{}]}]}",
    ] {
        let ran = fake.run_with_input(&["load-config", "-"], text);
        assert_eq!(ran.code, 2, "{text}");
        assert!(ran.err.contains("is not a configuration"), "{ran:?}");
    }
    assert_eq!(fake.run(&["load-config", "/no/such/file"]).code, 4);
    assert_eq!(fake.calls(), []);
}
