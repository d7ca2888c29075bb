//! Calls that wait for what other calls bring about: they cost no thread, and nobody waits for
//! them.

use crate::served::{Served, answers, serve};
use serde_json::json;
use spinel_control::server::CONNECTIONS_MAX;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// A connection whose call of "late" has been refused, and waits.
fn waiting(served: &Served) -> UnixStream {
    let before = served.calls();
    let mut stream = served.connect();
    stream.write_all(br#"{"id":1,"method":"late"}"#).expect("sent");
    while served.calls() == before {
        std::thread::yield_now();
    }
    stream
}

fn line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a reply");
    line
}

#[test]
fn a_call_waits_until_another_client_has_brought_what_it_wants() {
    let served = serve();
    let clients: Vec<UnixStream> = (0..3).map(|_| waiting(&served)).collect();
    let mut other = served.client();
    // These succeed and change nothing, so the waiting go on waiting.
    for _ in 0..10 {
        other.call("echo", None).expect("a result");
    }
    assert_eq!(other.call("bring", None).expect("a result"), json!(true));
    for client in &clients {
        assert_eq!(line(client), "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"here\"}\n");
    }
}

#[test]
fn a_waiting_call_is_made_again_only_after_another_has_succeeded() {
    let served = serve();
    let mut other = served.client();
    other.call("echo", None).expect("a success of before");
    let _waiting = waiting(&served);
    for _ in 0..20 {
        other.call("busy", None).expect_err("refused");
    }
    assert_eq!(served.calls(), 22);
}

#[test]
fn a_call_whose_patience_ends_is_refused() {
    let served = serve();
    let mut stream = served.connect();
    stream.write_all(br#"{"id":1,"method":"impatient"}"#).expect("sent");
    assert!(line(&stream).contains("not here yet"));
    assert!(answers(&mut stream));
}

#[test]
fn what_a_client_sends_while_its_call_waits_is_answered_afterwards() {
    let served = serve();
    let mut stream = waiting(&served);
    let long = format!(r#"{{"id":2,"method":"echo","params":["{}"]}}"#, "x".repeat(300_000));
    let sender = stream.try_clone().expect("a descriptor");
    let sends = std::thread::Builder::new().spawn(move || {
        (&sender).write_all(br#"{"id":3,"method":"number"}"#).expect("sent");
        (&sender).write_all(long.as_bytes()).expect("sent");
    });
    served.client().call("bring", None).expect("a result");
    let mut replies = BufReader::new(&mut stream).lines().map(|line| line.expect("a reply"));
    assert!(replies.next().expect("the first").contains("here"));
    assert!(replies.next().expect("the second").starts_with(r#"{"jsonrpc":"2.0","id":3,"#));
    assert!(replies.next().expect("the third").len() > 300_000);
    sends.expect("a thread").join().expect("no panic");
}

#[test]
fn a_client_that_says_it_sends_no_more_is_refused_at_once() {
    let served = serve();
    let mut stream = waiting(&served);
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("the refusal");
    assert!(reply.contains("not here yet"), "{reply}");
}

#[test]
fn clients_that_leave_while_their_calls_wait_free_their_places() {
    let served = serve();
    drop((0..CONNECTIONS_MAX).map(|_| waiting(&served)).collect::<Vec<_>>());
    // The server learns of it in its own time, so this asks until it has.
    assert!((0..100_000).any(|_| answers(&mut served.connect())));
}

#[test]
fn a_call_in_a_batch_does_not_wait() {
    let served = serve();
    let mut stream = served.connect();
    stream.write_all(br#"[{"id":1,"method":"late"}]"#).expect("sent");
    assert!(line(&stream).contains("not here yet"));
}

#[test]
fn stopping_does_not_wait_for_a_waiting_call() {
    let served = serve();
    let mut stream = waiting(&served);
    served.handle.stop();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("the refusal");
    assert!(reply.contains("not here yet"), "{reply}");
}
