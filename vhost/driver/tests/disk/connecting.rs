//! Every way in which a disk cannot be connected, and what it says then.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use spinel_vhost_driver::{ConnectError, Options, VhostDisk};

use crate::host::{Host, deserted, memory};
use crate::packed_server::{FEATURES, serve_offering};

/// Why it could not be connected, without the socket's path.
fn refusal(socket: &Path, options: Options) -> String {
    let options = Options { patience: options.patience.min(Duration::from_millis(300)), ..options };
    let error: ConnectError = VhostDisk::connect(socket, &options).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: {}", socket.display(), error.reason));
    error.reason.to_string()
}

#[test]
fn a_socket_that_leads_nowhere() {
    let host = Host::new();
    let plain = Options::default();
    let missing = "there is no such socket; is the path right, and has its server been started?";
    assert_eq!(refusal(&host.path("nothing"), plain), missing);
    deserted(&host.path("deserted"));
    let gone = "nobody listens there; the server that made the socket is gone, start it again";
    assert_eq!(refusal(&host.path("deserted"), plain), gone);
    std::fs::write(host.path("file"), "").unwrap();
    assert!(refusal(&host.path("file"), plain).starts_with("this is not a socket"));
    assert_eq!(refusal(&host.path("file/socket"), plain), missing);
    assert_eq!(refusal(&host.path(&"long".repeat(30)), plain), "it cannot be reached");
}

#[test]
fn a_server_that_is_busy_with_another_front_end() {
    let host = Host::new();
    let _controller = host.serve(memory(), 1);
    let first = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let busy = "the server does not answer (waited 300ms); it serves one front end at a time, and another one is probably connected";
    assert_eq!(refusal(&host.socket(), Options::default()), busy);
    drop(first);
    // Who gave up does not come back as a client that says nothing.
    VhostDisk::connect(&host.socket(), &Options { patience: Duration::from_secs(30), ..Options::default() }).unwrap();
}

#[test]
fn a_server_whose_backlog_is_full() {
    let host = Host::new();
    let path = host.path("full");
    let listener = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(refusal(&path, Options::default()).starts_with("the server does not answer"));
}

/// Something at a socket that is no vhost-user-blk server, in a thread of its own.
fn stranger(path: &Path, behave: impl FnOnce(UnixListener) + Send + 'static) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::Builder::new().spawn(move || behave(listener)).unwrap()
}

#[test]
fn something_else_that_listens() {
    use std::io::{Read, Write};
    let host = Host::new();
    let closes = stranger(&host.path("closes"), |listener| drop(listener.accept().unwrap()));
    let closed = "the server has closed the connection while agreeing on features; its log may say why";
    assert_eq!(refusal(&host.path("closes"), Options::default()), closed);
    closes.join().unwrap();
    let chatters = stranger(&host.path("chatters"), |listener| {
        let _ = listener.accept().unwrap().0.write_all(&[b'x'; 100]);
    });
    assert!(refusal(&host.path("chatters"), Options::default()).contains("while agreeing on features"));
    chatters.join().unwrap();
    let stalls = stranger(&host.path("stalls"), |listener| {
        let (mut front, _) = listener.accept().unwrap();
        // The features, and no more after that.
        let mut asked = [0; 24];
        front.read_exact(&mut asked).unwrap();
        let mut reply = [1_u32, 5, 8].map(u32::to_ne_bytes).concat();
        reply.extend((1_u64 << 30 | 1 << 32 | 1 << 29).to_ne_bytes());
        front.write_all(&reply).unwrap();
        let _ = front.read_to_end(&mut Vec::new());
    });
    let stalled = "the server has stopped answering (waited 300ms) while agreeing on features";
    assert_eq!(refusal(&host.path("stalls"), Options::default()), stalled);
    stalls.join().unwrap();
}

#[test]
fn a_server_that_lacks_what_is_asked_for() {
    let host = Host::new();
    let _controller = host.serve(memory(), 2);
    let plain = Options::default();
    let socket = host.socket();
    let split_only = serve_offering(&host.path("split"), 4096, FEATURES & !(1 << 34));
    let packed = Options { packed: true, ..plain };
    assert_eq!(refusal(&host.path("split"), packed), "the server serves split rings only, leave out packed");
    split_only.join().unwrap();
    assert_eq!(refusal(&socket, Options { queues: 3, ..plain }), "3 queues were asked for, the server has 2");
    assert!(
        refusal(&socket, Options { queue_size: 100, ..plain }).starts_with("queues of 100 descriptors, for requests of up to 1 segments")
    );
    assert!(refusal(&socket, Options { memory_bytes: 0, ..plain }).starts_with("0 bytes of memory could not be shared: "));
    // None of it has done the server any harm.
    VhostDisk::connect(&socket, &Options { queues: 2, ..plain }).unwrap();
}
