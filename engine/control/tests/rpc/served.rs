//! A server on a real socket in a folder of its own, with methods that tests can watch.
use serde_json::{Value, json};
use spinel_control::client::Client;
use spinel_control::{RpcError, Service, server, socket};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// The methods of the tests.
pub(crate) struct Methods {
    /// How many calls have begun.
    pub(crate) calls: AtomicUsize,
    /// Whether "bring" has been called, for which "late" and "impatient" wait.
    pub(crate) is_brought: AtomicBool,
    /// Where "wait" stands until the test comes to it as well, twice: on entering and leaving.
    pub(crate) gate: Barrier,
}

impl Service for Methods {
    fn call(&self, method: &str, params: Option<&Value>) -> Result<Value, RpcError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match method {
            "echo" => Ok(params.cloned().unwrap_or(Value::Null)),
            "number" => Ok(number.into()),
            "long" => Ok("x".repeat(1 << 20).into()),
            "wait" => {
                self.gate.wait();
                self.gate.wait();
                Ok(json!("waited"))
            }
            "bring" => {
                self.is_brought.store(true, Ordering::SeqCst);
                Ok(json!(true))
            }
            "late" | "impatient" if self.is_brought.load(Ordering::SeqCst) => Ok(json!("here")),
            "late" | "impatient" => Err(RpcError::errno(-19, "not here yet")),
            "panic" => panic!("a test panics in a method"),
            "busy" => Err(RpcError::errno(-16, "the disk is in use")),
            _ => Err(RpcError::method_not_found(method)),
        }
    }

    fn patience(&self, method: &str, _: Option<&Value>) -> Duration {
        match method {
            "late" => Duration::MAX,
            "impatient" => Duration::from_millis(1),
            _ => Duration::ZERO,
        }
    }
}

/// A running server.
pub(crate) struct Served {
    pub(crate) path: PathBuf,
    pub(crate) methods: Arc<Methods>,
    pub(crate) handle: server::Handle,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn serve() -> Served {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let methods = Arc::new(Methods { calls: AtomicUsize::new(0), is_brought: AtomicBool::new(false), gate: Barrier::new(2) });
    let listener = socket::bind(&path).expect("a socket");
    let handle = server::start(listener, Arc::clone(&methods) as Arc<dyn Service>).expect("a server");
    Served { path, methods, handle, folder }
}

impl Served {
    /// A connection on which waiting in vain for a reply fails the test instead of hanging it.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path).expect("a connection")
    }

    pub(crate) fn calls(&self) -> usize {
        self.methods.calls.load(Ordering::SeqCst)
    }

    /// Sends `text`, says that nothing follows, and reads all the server answers.
    pub(crate) fn exchange(&self, text: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_ref()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let mut replies = String::new();
        stream.read_to_string(&mut replies).expect("read to the end");
        replies
    }

    /// The same, with each reply (the server ends each with a newline) read as JSON.
    pub(crate) fn replies(&self, text: impl AsRef<[u8]>) -> Vec<Value> {
        let replies = self.exchange(text);
        replies.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Sends `text` and reads the one reply, whose error code and message it returns.
    pub(crate) fn error(&self, text: impl AsRef<[u8]>) -> (i64, String, Value) {
        let replies = self.replies(text);
        let [reply] = replies.as_slice() else {
            panic!("{} replies instead of one: {replies:?}", replies.len());
        };
        assert_eq!(reply["jsonrpc"], "2.0");
        let code = reply["error"]["code"].as_i64().expect("a code");
        let message = reply["error"]["message"].as_str().expect("a message");
        (code, message.to_owned(), reply["id"].clone())
    }
}

/// Whether the server answers a call on this stream as it should.
pub(crate) fn answers(stream: &mut UnixStream) -> bool {
    let call = br#"{"jsonrpc":"2.0","id":"?","method":"echo","params":[5]}"#;
    let expected = b"{\"jsonrpc\":\"2.0\",\"id\":\"?\",\"result\":[5]}\n";
    let mut reply = vec![0; expected.len()];
    stream.write_all(call).is_ok() && stream.read_exact(&mut reply).is_ok() && reply == expected
}
