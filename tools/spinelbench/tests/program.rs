//! The program as people type it, on files: what it measures, what it refuses, and what it leaves.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A folder on a file system with direct I/O.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spinelbench"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn spinelbench(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn target(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// A file of this size, as `--create` makes it, and as a target.
fn disk(folder: &Path, len: &str) -> (PathBuf, String) {
    let path = folder.join("disk");
    let url = target(&path);
    let made = spinelbench(&["run", &url, "--create", len, "--requests", "1", "-q"]);
    assert!(made.status.success(), "{made:?}");
    (path, url)
}

/// The sentence of a refusal, and its exit code.
fn refusal(arguments: &[&str]) -> (String, i32) {
    let output = spinelbench(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim().lines().count(), 1, "one sentence: {text}");
    (text, output.status.code().unwrap())
}

fn figures(arguments: &[&str]) -> Value {
    let output = spinelbench(&[arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["runs"][0].clone()
}

#[test]
fn every_workload_does_what_it_says_and_nothing_else() {
    let folder = folder();
    let (_, url) = disk(folder.path(), "8M");
    let kinds = |workload: &str| {
        let run = figures(&["run", &url, "-w", workload, "--requests", "200", "-d", "4", "--allow-writes"]);
        assert_eq!(run["all"]["requests"], 200, "{workload}");
        assert_eq!(run["all"]["errors"], 0, "{workload}: {}", run["all"]);
        run["ops"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    for (workload, kind) in [
        ("read", "read"),
        ("write", "write"),
        ("randread", "read"),
        ("randwrite", "write"),
        ("trim", "discard"),
        ("randtrim", "discard"),
        ("write-zeroes", "write_zeroes"),
        ("randwrite-zeroes", "write_zeroes"),
        ("flush", "flush"),
    ] {
        assert_eq!(kinds(workload), [kind], "{workload}");
    }
    assert_eq!(kinds("rw"), ["read", "write"]);
    assert_eq!(kinds("randrw"), ["read", "write"]);
}

#[test]
fn a_run_ends_where_it_was_told_to_and_counts_by_the_byte() {
    let folder = folder();
    let (_, url) = disk(folder.path(), "8M");
    let run = figures(&["run", &url, "-b", "4K-16K", "--bytes", "4M", "-j", "2", "-d", "4"]);
    let bytes = run["all"]["bytes"].as_u64().unwrap();
    assert!((8 << 20..(8 << 20) + 2 * (16 << 10)).contains(&bytes), "{bytes}");
    let run = figures(&["run", &url, "-w", "randwrite", "--flush-every", "4", "--requests", "100", "--allow-writes"]);
    assert_eq!((&run["ops"]["flush"]["requests"], &run["ops"]["write"]["requests"]), (&20.into(), &80.into()));
}

#[test]
fn tokio_uring_reads_the_same_file() {
    let folder = folder();
    let (path, _) = disk(folder.path(), "8M");
    let url = format!("file+tokio:{}", path.display());
    let run = figures(&["run", &url, "-w", "randrw", "--requests", "300", "-d", "8", "--allow-writes"]);
    assert_eq!((&run["all"]["requests"], &run["all"]["errors"]), (&300.into(), &0.into()));
    assert!(refusal(&["run", &url, "--rate", "100"]).0.contains("knows no rate"));
}

#[test]
fn what_a_disk_holds_is_not_written_over_by_accident() {
    let folder = folder();
    let path = folder.path().join("disk");
    let file = fs::File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    let url = target(&path);
    let write = ["run", &url, "-w", "randwrite", "--requests", "10", "-q"];
    assert!(spinelbench(&write).status.success(), "nothing but zeroes");
    file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    file.write_all_at(b"\x53\xef", 0x438).unwrap();
    let (sentence, code) = refusal(&write);
    assert!(sentence.contains("ext4 file system") && sentence.contains("--allow-writes"), "{sentence}");
    assert_eq!(code, 2);
    assert!(spinelbench(&["run", &url, "--requests", "10", "-q"]).status.success(), "reading is no harm");
    assert!(spinelbench(&[write.as_slice(), &["--allow-writes"]].concat()).status.success());
}

#[test]
fn data_is_found_wherever_in_the_area_it_is() {
    let folder = folder();
    let path = folder.path().join("disk");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[1; 512], (40 << 20) + 512).unwrap();
    let url = target(&path);
    let write = |area: &str| spinelbench(&["run", &url, "-w", "randwrite", "--requests", "10", "-q", "--area", area]);
    assert_eq!(write("64M").status.code(), Some(2));
    assert_eq!(write("8M@36M").status.code(), Some(2));
    assert!(write("8M@8M").status.success(), "nothing is there");
}

#[test]
fn outputs_go_neither_to_the_disk_nor_twice_to_one_place() {
    let folder = folder();
    let (path, url) = disk(folder.path(), "1M");
    let path = path.to_str().unwrap();
    let other = folder.path().join("other").to_str().unwrap().to_owned();
    let before = fs::read(path).unwrap();
    for outputs in [["--json", path, "--html", &other], ["--json", "-", "--fio-json", "-"], ["--json", &other, "--html", &other]] {
        let (_, code) = refusal(&[["run", &url, "--requests", "1"].as_slice(), &outputs].concat());
        assert_eq!(code, 2, "{outputs:?}");
    }
    assert_eq!(fs::read(path).unwrap(), before);
    let made = folder.path().join("made");
    let (_, code) = refusal(&["run", &target(&made), "--create", "1M", "-b", "3000", "-q"]);
    assert_eq!((code, made.exists()), (2, false), "a file that is of no use is not made");
}

#[test]
fn nothing_is_called_sound_that_was_not_checked() {
    let folder = folder();
    let (_, url) = disk(folder.path(), "1M");
    let run = spinelbench(&["run", &url, "-w", "randread", "--verify", "--requests", "50"]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.contains("nothing was checked") && !text.contains("as they should be"), "{text}");
}

#[test]
fn what_cannot_be_done_is_refused_in_one_sentence() {
    let folder = folder();
    let (path, url) = disk(folder.path(), "1M");
    let small = folder.path().join("small");
    fs::write(&small, [1; 100]).unwrap();
    for (arguments, part, code) in [
        (vec!["run", "file:/no/such/file"], "cannot be opened", 3),
        (vec!["run", "file:/dev/null"], "neither a regular file nor a block device", 3),
        (vec!["run", &target(&small)], "less than one block", 3),
        (vec!["run", "vhost:/no/such/socket"], "no such socket", 3),
        (vec!["run", &format!("vhost:{}", path.display())], "not a socket", 3),
        (vec!["run", "rpc:/no/such/socket/disk0"], "no socket at", 3),
        (vec!["run", &url, "-b", "1000"], "no multiple of the disk's blocks", 2),
        (vec!["run", &url, "-b", "2M"], "nothing fits", 2),
        (vec!["run", &url, "--area", "4K@1M"], "beyond the disk", 2),
        (vec!["run", &url, "--create", "1M"], "there already", 2),
        (vec!["run", &url, "--fua"], "concerns writes", 2),
        (vec!["run", &url, "-w", "flush", "--bytes", "1M"], "flushes have no bytes", 2),
        (vec!["run", &url, "--packed"], "for vhost: targets", 2),
        (vec!["run", &url, "--cores", "999"], "core 999", 2),
        (vec!["run", &url, "--requests", "1", "--html", "/no/such/folder/page"], "cannot write /no/such/folder/page", 4),
        (vec!["compare", "/no/such/report"], "cannot read", 4),
        (vec!["verify", &url, "--log", "/no/such/log"], "/no/such/log", 4),
    ] {
        let mut quiet = arguments.clone();
        if arguments[0] == "run" {
            quiet.push("-q");
        }
        let (sentence, ended) = refusal(&quiet);
        assert!(sentence.contains(part) && ended == code, "{arguments:?}: {ended}: {sentence}");
    }
}

#[test]
fn a_run_that_is_interrupted_prints_what_it_has() {
    let folder = folder();
    let (_, url) = disk(folder.path(), "8M");
    // The first figures come before any signal is sent: they say that it runs.
    let hlog = folder.path().join("ready");
    let mut child = command(&["run", &url, "--time", "600s", "--warm-up", "0ms", "--json", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let waited = command(&["run", &url, "--time", "1s", "--warm-up", "0ms", "-q", "--hlog", hlog.to_str().unwrap()]).status().unwrap();
    assert!(waited.success() && child.try_wait().unwrap().is_none());
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["runs"][0]["interrupted"], true);
    assert!(report["runs"][0]["all"]["requests"].as_u64().unwrap() > 0);
}

#[test]
fn reports_that_were_kept_are_compared_and_drawn() {
    let folder = folder();
    let (_, url) = disk(folder.path(), "8M");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (a, b, page, fio, hlog, hgrm) = (path("a"), path("b"), path("page"), path("fio"), path("hlog"), path("hgrm"));
    assert!(spinelbench(&["run", &url, "--requests", "500", "--name", "one", "--json", &a, "--fio-json", &fio]).status.success());
    let more = ["--hlog", &hlog, "--hgrm", &hgrm];
    assert!(
        spinelbench(&[["run", &url, "--requests", "500", "--name", "other", "--json", &b].as_slice(), &more].concat()).status.success()
    );
    let compared = spinelbench(&["compare", &a, &b, "--html", &page]);
    let text = String::from_utf8(compared.stdout).unwrap();
    assert!(compared.status.success() && text.contains("one") && text.contains("other"), "{text}");
    assert!(fs::read_to_string(&page).unwrap().contains("<html"));
    let fio: Value = serde_json::from_str(&fs::read_to_string(&fio).unwrap()).unwrap();
    assert_eq!(fio["jobs"][0]["read"]["total_ios"], 500);
    assert!(fs::read_to_string(&hlog).unwrap().starts_with("#[Histogram log format version"));
    assert!(fs::read_to_string(&hgrm).unwrap().contains("Percentile"));
    fs::write(&a, "{}").unwrap();
    assert!(refusal(&["compare", &a]).0.contains("no JSON that spinelbench wrote"));
}

#[test]
fn a_verified_disk_is_sound_until_it_is_damaged() {
    let folder = folder();
    let (path, url) = disk(folder.path(), "8M");
    let log = folder.path().join("log").to_str().unwrap().to_owned();
    let load = ["-w", "randrw", "-b", "4K-16K", "-d", "8", "-j", "2", "--requests", "1000", "--allow-writes", "--verify", "--log", &log];
    let run = figures(&[["run", &url].as_slice(), &load].concat());
    assert_eq!(run["verified"]["wrong"], 0, "{}", run["verified"]);
    assert!(run["verified"]["stamps"].as_u64().unwrap() > 1000);
    let check = ["verify", &url, "--log", &log, "-q"];
    assert!(spinelbench(&check).status.success());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; 1 << 20], 3 << 20).unwrap();
    let found = spinelbench(&check);
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8(found.stdout).unwrap().contains("lost write"));
}

#[test]
fn the_instrument_says_what_it_costs() {
    let output = spinelbench(&["selftest", "--json"]);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(findings["clock_read_ns"].as_f64().unwrap() > 0.0);
    assert_eq!(findings["closed"].as_array().unwrap().len(), 3);
    assert!(findings["late"][0]["p50_ns"].as_u64().unwrap() > 0);
}

#[test]
fn help_completion_and_manual_name_what_there_is() {
    for (arguments, part) in [
        (["--help", "--help"], "rpc:SOCKET/BDEV"),
        (["run", "--help"], "--allow-writes"),
        (["completion", "bash"], "_spinelbench"),
        (["man", "run"], r"\fBspinelbench run\fR"),
    ] {
        let output = spinelbench(&arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(part), "{arguments:?}: {text}");
    }
}
