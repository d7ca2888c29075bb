//! The wire as clients use it: JSON-RPC 2.0 on a real socket, in every form that SPDK's clients
//! and others send it.

use crate::served::{answers, serve};
use serde_json::{Value, json};
use spinel_control::client::{CallError, Client, ConnectError};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

#[test]
fn a_call_is_answered_with_its_id_exactly_as_it_was_written() {
    let served = serve();
    for id in ["1", "-7", "\"a\\u0062\"", "null", "12345678901234567890123", "1.50", "\"\""] {
        let reply = served.exchange(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"echo","params":{{"a":[1]}}}}"#));
        assert_eq!(reply, format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"a\":[1]}}}}\n"));
    }
}

#[test]
fn requests_back_to_back_are_answered_in_their_order() {
    let served = serve();
    let one = r#"{"id":1,"method":"number"}{"id":2,"method":"number"}"#;
    let pretty = "\n{\n  \"id\": 3,\r\n\t\"method\": \"number\",\n \"params\": {}\n}\n\n";
    let replies = served.replies(format!("{one}{pretty} {one}"));
    let read: Vec<_> = replies.iter().map(|reply| (reply["id"].as_u64(), reply["result"].as_u64())).collect();
    let expected = [(1, 0), (2, 1), (3, 2), (1, 3), (2, 4)];
    assert_eq!(read, expected.map(|(id, result)| (Some(id), Some(result))));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let served = serve();
    let mut stream = served.connect();
    for byte in br#"{"jsonrpc":"2.0","id":9,"method":"echo","params":{"name":"}\"{"}}"# {
        stream.write_all(&[*byte]).expect("sent");
    }
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("a reply");
    assert_eq!(line, "{\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{\"name\":\"}\\\"{\"}}\n");
}

#[test]
fn parameters_may_be_missing_or_null() {
    let served = serve();
    for params in ["", r#","params":null"#] {
        let replies = served.replies(format!(r#"{{"id":1,"method":"echo"{params}}}"#));
        assert_eq!(replies, [json!({"jsonrpc": "2.0", "id": 1, "result": null})]);
    }
}

#[test]
fn a_notification_runs_and_gets_no_reply_even_when_it_fails() {
    let served = serve();
    let text = r#"{"jsonrpc":"2.0","method":"echo"}{"method":"busy"}{"method":"no_such"}"#;
    assert_eq!(served.exchange(text), "");
    assert_eq!(served.calls(), 3);
}

#[test]
fn a_batch_is_answered_by_an_array_without_its_notifications() {
    let served = serve();
    let batch = r#"[{"id":1,"method":"echo","params":[2]},{"method":"echo"},7,{"id":"b","method":"busy"}]"#;
    let replies = served.replies(batch);
    let [Value::Array(replies)] = replies.as_slice() else {
        panic!("no array: {replies:?}");
    };
    assert_eq!(replies[0], json!({"jsonrpc": "2.0", "id": 1, "result": [2]}));
    assert_eq!((&replies[1]["id"], &replies[1]["error"]["code"]), (&json!(null), &json!(-32600)));
    assert_eq!((&replies[2]["id"], &replies[2]["error"]["code"]), (&json!("b"), &json!(-16)));
    assert_eq!(replies.len(), 3);
    assert_eq!(served.exchange(r#"[{"method":"echo"}]"#), "");
}

#[test]
fn a_batch_must_hold_1_to_256_requests() {
    let served = serve();
    let batch = |count: usize| format!("[{}]", vec![r#"{"id":1,"method":"echo"}"#; count].join(","));
    assert_eq!(served.replies(batch(256))[0].as_array().map(Vec::len), Some(256));
    for count in [0, 257] {
        let (code, message, _) = served.error(batch(count));
        assert_eq!(code, -32600);
        assert!(message.contains(&format!("holds {count} requests")), "{message}");
    }
    assert_eq!(served.calls(), 256);
}

#[test]
fn json_that_is_no_request_is_refused_and_the_connection_goes_on() {
    let served = serve();
    let cases = [
        (r"{}", json!(null)),
        (r#"{"id":1}"#, json!(1)),
        (r#"{"id":1,"method":5}"#, json!(1)),
        (r#"{"id":1,"method":"echo","jsonrpc":"1.0"}"#, json!(1)),
        (r#"{"id":1,"method":"echo","params":5}"#, json!(1)),
        (r#"{"id":[1],"method":"echo"}"#, json!(null)),
        (r#"{"id":true,"method":"echo"}"#, json!(null)),
        (r#"{"id":1,"method":"echo","param":{}}"#, json!(null)),
        (r#"{"id":1,"method":"echo","method":"busy"}"#, json!(null)),
    ];
    for (text, id) in cases {
        assert_eq!(served.error(text), (-32600, served.error(text).1, id), "{text}");
    }
    assert_eq!(served.calls(), 0);
    let replies = served.replies(r#"{}{"id":1,"method":"echo"}"#);
    assert_eq!(replies[1]["result"], json!(null));
}

#[test]
fn a_parameter_given_twice_is_refused_by_name() {
    let served = serve();
    let (code, message, id) = served.error(r#"{"id":1,"method":"echo","params":{"size":1,"size":2}}"#);
    assert_eq!((code, id), (-32602, json!(1)));
    assert!(message.contains("'size'"), "{message}");
    assert_eq!(served.calls(), 0);
}

#[test]
fn a_refused_call_says_why_and_the_next_one_runs() {
    let served = serve();
    let mut client = served.client();
    match client.call("busy", None) {
        Err(CallError::Refused(error)) => assert_eq!((error.code, error.message.as_str()), (-16, "the disk is in use")),
        other => panic!("{other:?}"),
    }
    match client.call("no_such", None) {
        Err(CallError::Refused(error)) => assert_eq!(error.code, -32601),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.call("echo", Some(json!({"a": 1}))).expect("a result"), json!({"a": 1}));
}

#[test]
fn a_client_knows_which_process_serves_it() {
    let served = serve();
    assert_eq!(served.client().server_pid(), Some(rustix::process::getpid()));
}

#[test]
fn a_panic_in_a_method_is_an_internal_error_and_the_next_call_runs() {
    let served = serve();
    let mut client = served.client();
    match client.call("panic", None) {
        Err(CallError::Refused(error)) => assert_eq!(error.code, -32603),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.call("echo", None).expect("a result"), json!(null));
}

#[test]
fn a_reply_of_a_mebibyte_arrives_whole() {
    let served = serve();
    let long = served.client().call("long", None).expect("a result");
    assert_eq!(long.as_str().map(str::len), Some(1 << 20));
}

#[test]
fn a_slow_method_does_not_keep_others_from_being_read() {
    let served = serve();
    let mut slow = served.connect();
    slow.write_all(br#"{"id":1,"method":"wait"}"#).expect("sent");
    served.methods.gate.wait();

    // More than any socket buffer holds, so sending ends only if the server reads.
    let mut other = served.connect();
    let blank = " ".repeat(4 << 20);
    other.write_all(blank.as_bytes()).expect("read while the method runs");

    served.methods.gate.wait();
    let mut line = String::new();
    BufReader::new(&slow).read_line(&mut line).expect("a reply");
    assert!(line.contains("waited"), "{line}");
    assert!(answers(&mut other));
}

#[test]
fn stopping_lets_the_method_under_way_answer_and_closes_the_others() {
    let served = serve();
    let mut busy = served.connect();
    let mut idle = served.connect();
    assert!(answers(&mut idle));
    busy.write_all(br#"{"id":1,"method":"wait"}"#).expect("sent");
    served.methods.gate.wait();
    let (handle, methods) = (served.handle, served.methods);
    let opener = std::thread::Builder::new().spawn(move || {
        // The idle connection ends while the method still runs.
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).expect("an orderly end");
        methods.gate.wait();
        rest
    });
    handle.stop();
    assert_eq!(opener.expect("a thread").join().expect("no panic"), b"");
    let mut rest = String::new();
    busy.read_to_string(&mut rest).expect("an orderly end");
    assert_eq!(rest, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"waited\"}\n");
}

#[test]
fn a_client_says_what_is_wrong_with_a_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let error = Client::connect(&path).expect_err("no socket");
    assert!(matches!(error, ConnectError::Absent { .. }), "{error:?}");
    drop(UnixListener::bind(&path).expect("a socket"));
    let error = Client::connect(&path).expect_err("nobody there");
    assert!(matches!(error, ConnectError::Abandoned { .. }), "{error:?}");
    assert!(error.to_string().contains("rpc.sock"), "{error}");
}

/// A server that accepts once, reads nothing, sends `reply` and leaves.
fn play(reply: &'static [u8], call: impl FnOnce(Client)) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let client = Client::connect(&path).expect("a connection");
    let (mut stream, _) = listener.accept().expect("accepted");
    stream.write_all(reply).expect("sent");
    let keep = reply.is_empty().then(|| stream.try_clone().expect("a descriptor"));
    if keep.is_none() {
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    }
    call(client);
}

#[test]
fn a_client_tells_a_reply_that_is_none_from_one_that_does_not_come() {
    play(b"{\"id\":", |mut client| {
        let error = client.call("echo", None).expect_err("cut off");
        assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
    });
    play(b"", |mut client| {
        client.set_timeout(Some(Duration::from_millis(20))).expect("set");
        let error = client.call("echo", None).expect_err("silence");
        assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    });
    for reply in [&b"HTTP"[..], b"[]", b"{\"id\":1}", b"{\"id\":2,\"result\":1}", b"{\"id\":1,\"error\":5}"] {
        play(reply, |mut client| {
            let error = client.call("echo", None).expect_err("no reply");
            assert!(matches!(error, CallError::NotAReply { .. }), "{error:?}");
        });
    }
}
