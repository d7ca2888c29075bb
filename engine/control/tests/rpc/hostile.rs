//! Clients that mean harm, or have lost their way: each may lose its own connection, and nobody
//! else may notice.

use crate::served::{answers, serve};
use serde_json::json;
use spinel_control::server::{CONNECTIONS_MAX, DEPTH_MAX, REQUEST_BYTES_MAX};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_mebibyte_of_garbage_closes_its_own_connection_with_a_parse_error() {
    let served = serve();
    let mut bystander = served.connect();
    assert!(answers(&mut bystander));
    // A linear congruence's high bytes: any byte may come, and the same ones in every run.
    let noise = (0..1 << 20).scan(1_u32, |state, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state.to_be_bytes()[0])
    });
    let noise: Vec<u8> = noise.collect();
    let starts = [&b""[..], b"{\"id\":1,\"method\":\"", b"[", b"{\"id\":1,\"method\":\"echo\"}}"];
    for start in starts {
        let garbage = [start, &noise].concat();
        let replies = served.replies(&garbage);
        let last = replies.last().expect("a reply");
        assert_eq!((&last["error"]["code"], &last["id"]), (&json!(-32700), &json!(null)));
        assert!(answers(&mut bystander));
    }
}

#[test]
fn what_follows_unreadable_text_is_not_run() {
    let served = serve();
    for bad in [r#"{"id":1,"method":"echo",}"#, "{'id':1}", "{\"id\":1,\"method\":\"\u{0}\"}", r#"{"id":01,"method":"echo"}"#, "x"] {
        let (code, message, _) = served.error(format!(r#"{bad}{{"id":2,"method":"echo"}}"#));
        assert_eq!(code, -32700, "{bad}");
        assert!(message.starts_with("the request is not JSON: "), "{message}");
    }
    assert_eq!(served.calls(), 0);
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    let served = serve();
    assert_eq!(served.error(b"{\"id\":1,\"method\":\"\xff\xfe\"}").0, -32700);
}

#[test]
fn brackets_nested_ten_thousand_deep_are_a_parse_error() {
    let served = serve();
    let mut bystander = served.connect();
    for text in ["[".repeat(10_000), "{\"a\":".repeat(10_000), format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))] {
        let (code, message, _) = served.error(text);
        assert_eq!(code, -32700);
        assert!(message.contains(&DEPTH_MAX.to_string()), "{message}");
        assert!(answers(&mut bystander));
    }
}

#[test]
fn parameters_may_be_nested_to_the_limit() {
    let served = serve();
    // The request itself is one level.
    let request = |depth: usize| format!(r#"{{"id":1,"method":"echo","params":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(served.exchange(request(DEPTH_MAX - 1)).contains("result"));
    assert_eq!(served.error(request(DEPTH_MAX)).0, -32700);
}

#[test]
fn a_request_may_be_as_long_as_the_limit_and_no_longer() {
    let served = serve();
    let request = |len: usize| {
        let bare = r#"{"id":1,"method":"number","params":[""]}"#;
        bare.replace("\"\"]", &format!("\"{}\"]", "a".repeat(len - bare.len())))
    };
    let replies = served.replies(request(REQUEST_BYTES_MAX));
    assert_eq!(replies[0]["result"], 0);
    let (code, message, _) = served.error(request(REQUEST_BYTES_MAX + 1));
    assert_eq!(code, -32700);
    assert!(message.contains("1048576 bytes"), "{message}");
    assert_eq!(served.calls(), 1);
}

#[test]
fn a_request_cut_off_is_not_run_and_its_sender_not_missed() {
    let served = serve();
    let whole = r#"{"id":1,"method":"echo","params":{"name":"d0"}}"#;
    for cut in 0..whole.len() {
        let mut stream = served.connect();
        stream.write_all(&whole.as_bytes()[..cut]).expect("sent");
        drop(stream);
    }
    assert!(answers(&mut served.connect()));
    assert_eq!(served.calls(), 1);
}

#[test]
fn two_hundred_idle_clients_keep_nobody_waiting() {
    let served = serve();
    let mut idle: Vec<UnixStream> = (0..200).map(|_| served.connect()).collect();
    assert!(answers(&mut served.connect()));
    assert!(idle.iter_mut().rev().all(answers));
}

#[test]
fn one_client_too_many_is_told_so_and_served_once_another_has_left() {
    let served = serve();
    let mut clients: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| served.connect()).collect();
    assert!(clients.iter_mut().all(answers));
    let mut reply = String::new();
    served.connect().read_to_string(&mut reply).expect("a refusal");
    assert!(reply.contains("256 clients are connected already"), "{reply}");
    assert!(clients.iter_mut().all(answers));
    clients.pop();
    // The server learns of the place in its own time, so this asks until it has.
    assert!((0..100_000).any(|_| answers(&mut served.connect())));
}

#[test]
fn a_client_that_does_not_read_stops_being_served_and_costs_the_others_nothing() {
    let served = serve();
    let mut deaf = served.connect();
    let mut bystander = served.connect();
    let call = br#"{"id":1,"method":"long"}"#;
    let mut sent = 0;
    // Each reply is 1 MiB, more than a socket's buffer: the first is stuck, so the second call
    // waits in the socket, and at some point there is no room for any more.
    deaf.set_nonblocking(true).expect("set");
    while sent < 1_000_000 {
        match deaf.write(call) {
            Ok(_) => sent += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        if sent % 1000 == 0 {
            assert!(answers(&mut bystander));
        }
    }
    assert!(sent < 1_000_000, "the server read on");
    for _ in 0..100 {
        assert!(answers(&mut bystander));
    }
    let echoes = served.calls() - 1;
    assert!(echoes >= 100 && served.calls() < sent, "only the first long call ran");
    // Stopping waits for the reader that never reads, but not for ever.
    served.handle.stop();
}

#[test]
fn a_client_that_leaves_with_its_reply_unread_is_forgotten() {
    let served = serve();
    for _ in 0..50 {
        let mut stream = served.connect();
        stream.write_all(br#"{"id":1,"method":"long"}{"id":1,"method":"long"}"#).expect("sent");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the reply begins");
    }
    assert!(answers(&mut served.connect()));
}

/// Set for a copy of this program that runs as another user and calls at the socket it names.
const CALL_AT: &str = "SPINEL_TEST_CALL_AT";

#[test]
fn another_user_is_refused_even_where_the_socket_lets_them_in() {
    if let Some(path) = std::env::var_os(CALL_AT) {
        let mut reply = String::new();
        let mut stream = UnixStream::connect(path).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.read_to_string(&mut reply).expect("a refusal");
        assert!(reply.contains("may not call"), "{reply}");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return; // Only root can become another user.
    }
    let served = serve();
    for path in [served.folder.path(), &served.path] {
        let open = rustix::fs::Mode::from_raw_mode(0o777);
        rustix::fs::chmod(path, open).expect("opened to all");
    }
    // By its link in /proc, because the other user may not pass through the folders above it.
    let mut other = Command::new("/proc/self/exe");
    other.args(["--exact", "hostile::another_user_is_refused_even_where_the_socket_lets_them_in"]);
    let ended = other.env(CALL_AT, &served.path).uid(65534).gid(65534).output().expect("it runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert!(answers(&mut served.connect()));
}
