//! `top`: as text, as JSON, and on a terminal, which is a real pseudo-terminal here.

use crate::fake::{Fake, fake};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};

#[test]
fn once_is_one_frame_of_plain_text() {
    let ran = fake().run(&["top", "--once"]);
    let words: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    // Between two looks of the fake half a second passes on its own clock.
    let expected: &[&[&str]] = &[
        &["CORE", "BUSY", "SPIN", "SLEEP"],
        &["0", "10.0", "%", "30.0", "%", "60.0", "%"],
        &["5", "0", "%", "0", "%", "-"],
        &[],
        &["DISK", "IOPS", "BANDWIDTH", "P50", "P99", "IN", "FLIGHT", "READS/s", "WRITES/s", "READ", "WRITTEN"],
        &["d0", "2k", "8.19", "MB/s", "20.1", "us", "20.1", "us", "4", "2k", "0", "8.19", "MB/s", "0", "B/s"],
        &["n0", "0", "0", "B/s", "-", "-", "-", "0", "0", "0", "B/s", "0", "B/s"],
        &[],
    ];
    assert_eq!(words, expected);
}

#[test]
fn iterations_as_json_are_a_line_each() {
    let ran = fake().run(&["top", "-n", "2", "--json", "d0"]);
    let frames: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(frames.len(), 2);
    for frame in frames {
        assert_eq!((&frame["disks"][0]["iops"], &frame["disks"][0]["in_flight"]), (&json!(2000.0), &json!(4)));
        assert_eq!(frame["disks"].as_array().map(Vec::len), Some(1));
    }
}

/// The program on a terminal of this size, and the terminal's other end.
fn on_a_terminal(fake: &Fake, columns: u16, rows: u16) -> (Child, File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
    let terminal = File::options().read(true).write(true).open(name).expect("opened");
    tcsetwinsize(&terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("sized");
    // In a session of its own, so that the terminal this test runs on is not its terminal.
    let mut command = Command::new("setsid");
    command.arg(env!("CARGO_BIN_EXE_spinelctl")).arg("-s").arg(&fake.path).arg("top");
    let end = || terminal.try_clone().expect("a descriptor");
    let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it runs");
    (child, File::from(master), terminal)
}

/// Reads what the program draws until it has drawn `text`.
fn read_until(master: &mut File, text: &str) -> String {
    let (mut drawn, mut buffer) = (String::new(), [0; 4096]);
    while !drawn.contains(text) {
        let count = master.read(&mut buffer).expect("the program draws");
        drawn += &String::from_utf8_lossy(&buffer[..count]);
    }
    drawn
}

#[test]
fn on_a_terminal_top_is_a_screen_that_q_leaves_as_it_was() {
    let fake = fake();
    let (mut child, mut master, terminal) = on_a_terminal(&fake, 100, 30);
    let drawn = read_until(&mut master, "WRITTEN");
    assert!(drawn.contains("\u{1b}[?1049h") && drawn.contains("q quits"), "{drawn:?}");
    let is_raw = || !tcgetattr(&terminal).expect("a terminal").local_modes.contains(LocalModes::ICANON);
    assert!(is_raw());
    read_until(&mut master, "8.19 MB/s");
    master.write_all(b"q").expect("typed");
    read_until(&mut master, "\u{1b}[?1049l");
    assert!(child.wait().expect("it ends").success());
    assert!(!is_raw());
}

#[test]
fn a_tiny_terminal_shows_what_it_can() {
    let fake = fake();
    let (mut child, mut master, terminal) = on_a_terminal(&fake, 9, 5);
    let drawn = read_until(&mut master, "DISK");
    assert!(!drawn.contains("IOPS"), "{drawn:?}");
    let larger = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, larger).expect("sized");
    read_until(&mut master, "WRITTEN");
    master.write_all(&[3]).expect("Ctrl-C typed");
    read_until(&mut master, "\u{1b}[?1049l");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_daemon_that_goes_away_ends_top_with_a_sentence_on_a_terminal_given_back() {
    let fake = fake();
    let (mut child, mut master, terminal) = on_a_terminal(&fake, 100, 30);
    read_until(&mut master, "WRITTEN");
    drop(fake);
    let drawn = read_until(&mut master, "spinelctl: ");
    assert!(drawn.contains("\u{1b}[?1049l"), "{drawn:?}");
    assert_eq!(child.wait().expect("it ends").code(), Some(3));
    assert!(tcgetattr(&terminal).expect("a terminal").local_modes.contains(LocalModes::ICANON));
}
